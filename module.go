// Package etag is a Caddy HTTP handler that gives responses an ETag and
// evaluates the preconditions of requests (RFC 9110 §13), for backends that
// know of neither.
package etag

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyetag/caddy-etag/internal/held"
	"github.com/caddyetag/caddy-etag/internal/memo"
)

func init() {
	caddy.RegisterModule(Handler{})
}

const (
	defaultMaxSize   = 8 << 20   // bytes
	defaultMaxMemory = 256 << 20 // bytes
	defaultMaxDelay  = 300 * time.Millisecond
)

// How strong tags are.
const (
	strengthStrong = "strong"
	strengthWeak   = "weak"
)

var strengthWords = []string{strengthStrong, strengthWeak}

// canonicalizeJSON is what bodies are canonicalized as.
const canonicalizeJSON = "json"

// Whether the answer to a guarded write carries the new tag.
const (
	writeTagOn  = "on"
	writeTagOff = "off"
)

var writeTagWords = []string{writeTagOn, writeTagOff}

// Handler gives responses to GET and HEAD requests an ETag made from a hash
// of their body, and answers conditional requests from it: 304 (Not Modified)
// where the client has the current representation already, 412 (Precondition
// Failed) where it expected another one.
//
// A PUT, PATCH or DELETE that carries If-Match goes on only if the current
// representation, which is read with a GET through the same handlers, still
// has that tag. One such request at a time is let through for a resource, so
// that no update is lost between the check and the write.
//
// To be hashed before its header is sent, a response body is held in memory
// up to a limit. Streams, and bodies past the limit, are passed on as they
// come and get no tag.
//
// Three placeholders are available from when the header of the response is sent:
//
// Placeholder | Description
// ------------|------------
// `{http.etag.tag}` | The tag that the response has, empty if it has none
// `{http.etag.outcome}` | What became of a read: `tagged` (with our tag), `kept` (with the backend's), `not_modified` (304), `failed` (412), `bypassed` (neither) or `error` (what stands below ended in an error); or of a write: `passed` (sent on), `failed` (412), `required` (428), `locked_out` (503), `timed_out` (504) or `bypassed` (answered as the GET before it was)
// `{http.etag.reason}` | Why, in one word: what a 304 or 412 rests on, why a read was bypassed or a write refused
type Handler struct {
	// Whether tags are `strong` (two responses with one tag are equal byte
	// for byte) or `weak` (they mean the same). Default: `strong`.
	Strength string `json:"strength,omitempty"`

	// The hash function that tags are made with: `sha256`, `blake3` or
	// `xxh3` (128 bits, the fastest, not cryptographic). Default: `sha256`.
	Algorithm string `json:"algorithm,omitempty"`

	// How many hexadecimal digits of the hash a tag has: an even number from
	// 16 to the full length, which is 64, or 32 with `xxh3`. Default: 32.
	Length int `json:"length,omitempty"`

	// Prefix of every tag, joined to it with a hyphen. Change it to make
	// clients fetch everything again. Placeholders are resolved at each
	// request, and characters in their values that a tag can't have are
	// dropped. Default: no prefix.
	Version string `json:"version,omitempty"`

	// What becomes of a valid tag that a response already has: `keep` it, or
	// `replace` it. Default: `keep`.
	Existing string `json:"existing,omitempty"`

	// Only responses that match get a tag. Default: those with status 200.
	Matcher *caddyhttp.ResponseMatcher `json:"match,omitempty"`

	// What becomes of responses with Cache-Control: no-store: `skip` leaves
	// them without a tag, `tag` gives them one, for APIs that forbid caching
	// and want their writes guarded all the same. Default: `skip`.
	NoStore string `json:"no_store,omitempty"`

	// The Cache-Control of responses that get a tag and say nothing of caching:
	// they have neither Cache-Control, Expires, Pragma, Set-Cookie nor a
	// targeted field (RFC 9213). Default: none is added.
	CacheControl string `json:"cache_control,omitempty"`

	// The response field whose value is the tag of a response with status 200,
	// such as a row's version or a build number that the backend knows. A
	// quoted tag is taken as it stands, other values are quoted; the tag is weak
	// where the others are, or the field's is. No body is held or hashed for it. A
	// response without the field, or with a value that can't be a tag, is
	// tagged as any other. Default: none.
	FromHeader string `json:"from_header,omitempty"`

	// What bodies are brought into a canonical form to be hashed: `json`, by
	// RFC 8785, so that JSON texts that differ in the order of members, in
	// white space or in how strings and numbers are written have one tag. For
	// weak tags only. Default: none.
	Canonicalize string `json:"canonicalize,omitempty"`

	// JSON Pointers (RFC 6901) to members that are left out of the hash, such
	// as `/generated_at`. The token `*` stands for any one, as in
	// `/items/*/views`. Implies canonicalize. For weak tags only. Default:
	// none.
	IgnoreJSON []string `json:"ignore_json,omitempty"`

	// Regular expressions (RE2). What they match in a body of text is left
	// out of the hash. For weak tags only. Default: none.
	IgnorePattern []string `json:"ignore_pattern,omitempty"`

	// The size in bytes of the largest body that is held for one response. A
	// larger one is passed on without a tag. Default: 8388608 (8 MiB).
	MaxSize int64 `json:"max_size,omitempty"`

	// How many bytes of memory the bodies may take that this handler holds at
	// one time, at least 32768 (32 KiB). A body for which there is no more is
	// passed on without a tag. Default: 268435456 (256 MiB).
	MaxMemory int64 `json:"max_memory,omitempty"`

	// For how long a body is held after the header of its response came. One
	// that is not complete by then is passed on without a tag. -1 is for no
	// limit. Default: `300ms`.
	MaxDelay caddy.Duration `json:"max_delay,omitempty"`

	// What becomes of a body that is past one of these limits: `pass` it on
	// without a tag, or, where the client takes trailers (`TE: trailers`),
	// pass it on and send its tag in a `trailer` (RFC 9110 §8.8.3). Default:
	// `pass`.
	Oversize string `json:"oversize,omitempty"`

	// The methods whose requests are guarded: where one of them carries
	// If-Match, If-None-Match or If-Unmodified-Since, the current
	// representation is read with a GET first, and the request goes on only if
	// the preconditions hold. They take the resource's lock, with or without
	// preconditions. `off` is for none. Default: PUT, PATCH and DELETE.
	IfMatch []string `json:"if_match,omitempty"`

	// Which of the if_match methods are refused with 428 (Precondition
	// Required) if they carry neither If-Match nor `If-None-Match: *`; `*`
	// stands for all of them. Default: none.
	RequireIfMatch []string `json:"require_if_match,omitempty"`

	// How If-Match on a write compares weak tags: `auto` compares opaque tags
	// where the current tag is itself weak, since no client could hold a
	// strong one; `reject` never takes a weak tag (RFC 9110 §13.1.1); `accept`
	// always compares opaque tags, for proxies in front that weaken tags.
	// Default: `auto`.
	WeakIfMatch string `json:"weak_if_match,omitempty"`

	// Where writes to one resource are kept apart: a module that locks
	// resources. `local` does within this process, `storage` across all Caddys
	// that share this one's storage, `off` nowhere. Default: `local`.
	LockRaw json.RawMessage `json:"lock,omitempty" caddy:"namespace=http.etag.locks inline_key=module"`

	// How long a write waits for the lock before it is answered with 503
	// (Service Unavailable). Default: `10s`.
	LockTimeout caddy.Duration `json:"lock_timeout,omitempty"`

	// How long a write may have the lock. One with a precondition that has no
	// answer by then is canceled as soon as another write waits for it or its
	// client has left, and answered with 504 (Gateway Timeout); any other gives
	// the lock back and goes on. Default: `1m`.
	LockHold caddy.Duration `json:"lock_hold,omitempty"`

	// Whether the answer to a guarded write carries the new tag, which takes
	// another GET after the write: `on` or `off`. It does so only where the
	// client can know the representation by it (RFC 9110 §9.3.4). Default:
	// `on`.
	WriteTag string `json:"write_tag,omitempty"`

	// What a 412, 428, 503 or 504 of this handler is: a `problem` details body in
	// JSON (RFC 9457), or an error that is left to Caddy's error routes to
	// `handle`. Default: `problem`.
	Errors string `json:"errors,omitempty"`

	// For how long a 304 may be answered from memory, without asking downstream:
	// where If-None-Match has a tag that was issued within this time to the same
	// question, and the resource has not been written through Caddy since. A
	// change that comes by another way is seen after this time at the latest,
	// or when POST /etag/forget on the admin API tells of it. Default: never.
	Remember caddy.Duration `json:"remember,omitempty"`

	// How many tags are remembered. Default: 10000.
	RememberEntries int `json:"remember_entries,omitempty"`

	// How several Caddys that remember forget together: a module that tells the
	// others what has been written through this one. Default: they don't, and
	// another Caddy may answer from memory for as long as it remembers.
	RememberForgetterRaw json.RawMessage `json:"remember_forgetter,omitempty" caddy:"namespace=http.etag.forgetters inline_key=module"`

	// Whether requests for ranges (Range, If-Range) of tagged responses are
	// served here, from the held body, for backends that can't: `on` or `off`.
	// Those fields are kept from downstream then. Default: `off`.
	Ranges string `json:"ranges,omitempty"`

	weak           bool
	digester       *digester
	budget         *held.Budget
	readBudget     *held.Budget // for responses to reads, a part of budget
	bodyBudget     *held.Budget // for bodies of writes that wait, a part of budget
	timers         *held.Timers // for max_delay
	holds          *held.Timers // for the hold time of locks
	locker         Locker
	lockName       string  // for logs
	lockID         string  // tells its lock from others
	memory         *memory // nil: nothing is remembered
	memoryTaken    takenMemory
	forgetter      Forgetter // nil: none
	forgetterID    string    // tells its configuration from others
	stopListening  func()
	dynamicVersion bool // Version has placeholders
	memoryWarned   *memoryWarning
	logger         *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.etag",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision fills in the defaults.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := h.provisionMemory(ctx); err != nil {
		return err
	}

	if h.Strength == "" {
		h.Strength = strengthStrong
	}
	h.weak = h.Strength == strengthWeak
	if h.Algorithm == "" {
		h.Algorithm = defaultAlgorithm
	}
	if h.Length == 0 {
		h.Length = defaultLength
	}
	h.dynamicVersion = strings.Contains(h.Version, "{")
	if h.Existing == "" {
		h.Existing = existingKeep
	}
	if h.NoStore == "" {
		h.NoStore = noStoreSkip
	}
	h.FromHeader = http.CanonicalHeaderKey(h.FromHeader)
	if h.Ranges == "" {
		h.Ranges = rangesOff
	}
	if h.Matcher == nil || h.Matcher.StatusCode == nil && h.Matcher.Headers == nil {
		h.Matcher = &caddyhttp.ResponseMatcher{StatusCode: []int{http.StatusOK}}
	}
	normalizer, err := newNormalizer(h.Canonicalize != "", h.IgnoreJSON, h.IgnorePattern)
	if err != nil {
		return err
	}
	h.digester = h.newDigester(normalizer)
	if h.MaxSize == 0 {
		h.MaxSize = defaultMaxSize
	}
	if h.MaxMemory == 0 {
		h.MaxMemory = defaultMaxMemory
	}
	h.budget = held.NewBudget(h.MaxMemory)
	h.memoryWarned = new(memoryWarning)
	share := guardShare(h.MaxMemory)
	clients := h.budget.Part(h.MaxMemory - share)
	h.readBudget = clients.Part(h.MaxMemory - 2*share)
	h.bodyBudget = clients.Part(max(h.MaxMemory/2, held.BlockSize))
	if h.MaxDelay == 0 {
		h.MaxDelay = caddy.Duration(defaultMaxDelay)
	}
	h.timers = held.NewTimers(time.Duration(h.MaxDelay))
	if h.Oversize == "" {
		h.Oversize = oversizePass
	}
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return h.provisionWrites(ctx)
}

// newDigester returns the digester of a handler whose defaults have been filled
// in.
func (h *Handler) newDigester(normalizer *normalizer) *digester {
	d := &digester{
		algorithm:   algorithms[h.Algorithm],
		length:      h.Length,
		weak:        h.weak,
		constant:    !h.dynamicVersion,
		normalizer:  normalizer,
		memoMinimum: memoMinimum(h.Algorithm),
	}
	version := ""
	if d.constant {
		version = h.Version
	}
	d.memo = memo.New(fmt.Sprintf("%q", []any{h.Algorithm, h.Length, h.weak, d.constant, version, h.Canonicalize, h.IgnoreJSON, h.IgnorePattern}))
	return d
}

// provisionWrites fills in the defaults of what concerns writes.
func (h *Handler) provisionWrites(ctx caddy.Context) error {
	if len(h.IfMatch) == 0 {
		h.IfMatch = slices.Clone(defaultIfMatch)
	}
	if h.WeakIfMatch == "" {
		h.WeakIfMatch = weakAuto
	}
	if h.LockTimeout == 0 {
		h.LockTimeout = caddy.Duration(defaultLockTimeout)
	}
	if h.LockHold == 0 {
		h.LockHold = caddy.Duration(defaultLockHold)
	}
	h.holds = held.NewTimers(time.Duration(h.LockHold))
	if h.WriteTag == "" {
		h.WriteTag = writeTagOn
	}
	if h.Errors == "" {
		h.Errors = errorsProblem
	}
	h.waitOnExit(ctx)
	return h.loadLocker(ctx)
}

// Validate ensures that the configuration is valid.
func (h *Handler) Validate() error {
	if err := errors.Join(
		checkStrength(h.Strength),
		oneOf("algorithm", h.Algorithm, algorithmNames()...),
		oneOf("existing", h.Existing, existingWords...),
		oneOf("no_store", h.NoStore, noStoreWords...),
		oneOf("canonicalize", h.Canonicalize, "", canonicalizeJSON),
		oneOf("oversize", h.Oversize, oversizeWords...),
		oneOf("weak_if_match", h.WeakIfMatch, weakIfMatchWords...),
		oneOf("write_tag", h.WriteTag, writeTagWords...),
		oneOf("errors", h.Errors, errorsWords...),
		oneOf("ranges", h.Ranges, rangesWords...),
	); err != nil {
		return err
	}
	return h.checkValues()
}

// Cleanup lets go of what the handler would keep alive. There may still be
// requests that go on with it.
func (h *Handler) Cleanup() error {
	for _, timers := range []*held.Timers{h.timers, h.holds} {
		if timers != nil {
			timers.Cleanup()
		}
	}
	return h.releaseMemory()
}

// guardShare is the part of max_memory that is left for internal GETs and the
// answers to guarded writes, and as much again for the bodies of writes, whatever
// clients that read slowly hold.
func guardShare(maxMemory int64) int64 {
	if maxMemory < 8*held.BlockSize {
		return 0 // too little to divide
	}
	return maxMemory / 8
}

// noDelay as max_delay is for no limit.
const noDelay = -1

// unsafeMethods are those of the IANA HTTP Method Registry that may change
// the resource.
var unsafeMethods = strings.Fields(`POST PUT PATCH DELETE
	ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT COPY LABEL LINK LOCK MERGE
	MKACTIVITY MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE ORDERPATCH
	PROPPATCH REBIND UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF
	VERSION-CONTROL`)

// validateMethods checks the methods of if_match and require_if_match.
func validateMethods(ifMatch, require []string) error {
	if slices.Equal(ifMatch, []string{ifMatchOff}) {
		if len(require) > 0 {
			return fmt.Errorf("invalid require_if_match %q: must be left out where if_match is off", strings.Join(require, " "))
		}
		return nil
	}
	for _, method := range ifMatch {
		switch {
		case slices.Contains([]string{"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"}, method):
			return fmt.Errorf("invalid if_match method %q: must be one that writes, such as PUT, PATCH or DELETE", method)
		case method == ifMatchOff:
			return fmt.Errorf("invalid if_match %q: off must stand alone", strings.Join(ifMatch, " "))
		case !slices.Contains(unsafeMethods, method):
			return fmt.Errorf("invalid if_match method %q: must be one of %s", method, strings.Join(unsafeMethods, ", "))
		}
	}
	for _, method := range require {
		if method != anyMethod && !slices.Contains(ifMatch, method) {
			return fmt.Errorf("invalid require_if_match method %q: must be one of those of if_match, which are %s", method, strings.Join(ifMatch, ", "))
		}
	}
	return nil
}

// ifMatchOff in the place of methods guards none.
const ifMatchOff = "off"

// defaultIfMatch are the methods that are guarded by default.
var defaultIfMatch = []string{http.MethodPut, http.MethodPatch, http.MethodDelete}

// anyMethod in require_if_match stands for every if_match method.
const anyMethod = "*"

// oneOf returns an error if the value of an option is none of those allowed.
func oneOf(option, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	allowed = slices.DeleteFunc(slices.Clone(allowed), func(word string) bool { return word == "" })
	return fmt.Errorf("invalid %s %q: must be %s", option, value, strings.Join(allowed, " or "))
}

// withoutPlaceholders returns s without the placeholders in it.
func withoutPlaceholders(s string) string {
	repl := caddy.NewEmptyReplacer()
	repl.Map(func(string) (any, bool) { return "", true })
	return repl.ReplaceAll(s, "")
}

// version returns the prefix that the tags of this request's response have.
func (h *Handler) version(r *http.Request) string {
	if !h.dynamicVersion {
		return h.Version
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return keepETagc(repl.ReplaceAll(h.Version, ""))
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
