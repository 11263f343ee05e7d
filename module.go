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
)

func init() {
	caddy.RegisterModule(Handler{})
}

const (
	defaultMaxSize   = 8 << 20   // bytes
	defaultMaxMemory = 256 << 20 // bytes
	defaultMaxDelay  = time.Second
)

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
// Two placeholders are available from when the header of the response is sent:
//
// Placeholder | Description
// ------------|------------
// `{http.etag.tag}` | The tag that the response has, empty if it has none
// `{http.etag.outcome}` | What became of a read: `tagged` (with our tag), `kept` (with the backend's), `not_modified` (304), `failed` (412) or `bypassed` (neither); or of a write: `passed` (sent on), `failed` (412), `required` (428), `locked_out` (503) or `bypassed` (answered as the GET before it was)
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

	// The Cache-Control of responses that get a tag and have no
	// Cache-Control of their own. Default: none is added.
	CacheControl string `json:"cache_control,omitempty"`

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
	// one time. A body for which there is no more is passed on without a tag.
	// Default: 268435456 (256 MiB).
	MaxMemory int64 `json:"max_memory,omitempty"`

	// For how long a body is held after the header of its response came. One
	// that is not complete by then is passed on without a tag. -1 is for no
	// limit. Default: `1s`.
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
	// preconditions. Default: PUT, PATCH and DELETE.
	IfMatch []string `json:"if_match,omitempty"`

	// Which of the if_match methods are refused with 428 (Precondition
	// Required) if they carry neither If-Match nor If-None-Match; `*` stands
	// for all of them. Default: none.
	RequireIfMatch []string `json:"require_if_match,omitempty"`

	// How If-Match on a write compares weak tags: `auto` compares opaque tags
	// where the current tag is itself weak, since no client could hold a
	// strong one; `reject` never takes a weak tag (RFC 9110 §13.1.1); `accept`
	// always compares opaque tags, for proxies in front that weaken tags.
	// Default: `auto`.
	WeakIfMatch string `json:"weak_if_match,omitempty"`

	// Where writes to one resource are kept apart: `local`, within this
	// process; `storage`, across all Caddys that share this one's storage;
	// `off`, nowhere; or the name of a module in the namespace
	// `http.etag.locks`. Default: `local`.
	Lock string `json:"lock,omitempty"`

	// How long a write waits for the lock before it is answered with 503
	// (Service Unavailable). Default: `10s`.
	LockTimeout caddy.Duration `json:"lock_timeout,omitempty"`

	// The configuration of the lock module, if it takes any.
	LockOptions json.RawMessage `json:"lock_options,omitempty"`

	// Whether the answer to a guarded write carries the new tag, which takes
	// another GET after the write: `on` or `off`. It does so only where the
	// client can know the representation by it (RFC 9110 §9.3.4). Default:
	// `on`.
	WriteTag string `json:"write_tag,omitempty"`

	// What a 412, 428 or 503 of this handler is: a `problem` details body in
	// JSON (RFC 9457), or an error that is left to Caddy's error routes to
	// `handle`. Default: `problem`.
	Errors string `json:"errors,omitempty"`

	weak           bool
	normalizer     *normalizer // nil: bodies are hashed as they are
	budget         *budget
	delays         *delays
	memo           *memo
	memoMinimum    int64  // the size in bytes of the smallest body to ask the memo for, 0: none
	locker         Locker // nil: off
	algorithm      *algorithm
	dynamicVersion bool // Version has placeholders
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

	if h.Strength == "" {
		h.Strength = "strong"
	}
	h.weak = h.Strength == "weak"
	if h.Algorithm == "" {
		h.Algorithm = defaultAlgorithm
	}
	h.algorithm = algorithms[h.Algorithm]
	if h.Length == 0 {
		h.Length = defaultLength
	}
	h.dynamicVersion = strings.Contains(h.Version, "{")
	if h.Existing == "" {
		h.Existing = "keep"
	}
	if h.Matcher == nil {
		h.Matcher = &caddyhttp.ResponseMatcher{StatusCode: []int{http.StatusOK}}
	}
	var err error
	if h.normalizer, err = newNormalizer(h.Canonicalize != "", h.IgnoreJSON, h.IgnorePattern); err != nil {
		return err
	}
	if h.MaxSize == 0 {
		h.MaxSize = defaultMaxSize
	}
	if h.MaxMemory == 0 {
		h.MaxMemory = defaultMaxMemory
	}
	h.budget = &budget{limit: h.MaxMemory}
	h.memo = new(memo)
	if h.MaxDelay == 0 {
		h.MaxDelay = caddy.Duration(defaultMaxDelay)
	}
	h.delays = &delays{after: time.Duration(h.MaxDelay)}
	if h.Oversize == "" {
		h.Oversize = "pass"
	}
	h.memoMinimum = memoMinimum(h.Algorithm)
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return h.provisionWrites(ctx)
}

// provisionWrites fills in the defaults of what concerns writes.
func (h *Handler) provisionWrites(ctx caddy.Context) error {
	if len(h.IfMatch) == 0 {
		h.IfMatch = []string{http.MethodPut, http.MethodPatch, http.MethodDelete}
	}
	if h.WeakIfMatch == "" {
		h.WeakIfMatch = weakAuto
	}
	if h.Lock == "" {
		h.Lock = "local"
	}
	if h.LockTimeout == 0 {
		h.LockTimeout = caddy.Duration(defaultLockTimeout)
	}
	if h.WriteTag == "" {
		h.WriteTag = "on"
	}
	if h.Errors == "" {
		h.Errors = "problem"
	}
	var err error
	h.locker, err = loadLocker(ctx, h.Lock, h.LockOptions)
	return err
}

// Validate ensures that the configuration is valid.
func (h *Handler) Validate() error {
	if err := errors.Join(
		oneOf("strength", h.Strength, "strong", "weak"),
		oneOf("algorithm", h.Algorithm, algorithmNames()...),
		oneOf("existing", h.Existing, "keep", "replace"),
		oneOf("canonicalize", h.Canonicalize, "", "json"),
		h.validateWeakOnly(),
		oneOf("oversize", h.Oversize, "pass", "trailer"),
		oneOf("weak_if_match", h.WeakIfMatch, weakAuto, weakReject, weakAccept),
		oneOf("write_tag", h.WriteTag, "on", "off"),
		oneOf("errors", h.Errors, "problem", "handle"),
		validateMethods(h.IfMatch, h.RequireIfMatch),
	); err != nil {
		return err
	}
	if h.Length < minLength || h.Length > h.algorithm.digits || h.Length%2 != 0 {
		return fmt.Errorf("invalid length %d: must be an even number of hexadecimal digits from %d to %d with %s",
			h.Length, minLength, h.algorithm.digits, h.Algorithm)
	}
	if literal := withoutPlaceholders(h.Version); keepETagc(literal) != literal {
		return fmt.Errorf("invalid version %q: must have only characters that an entity tag can have: no white space, control character or quote", h.Version)
	}
	if h.MaxSize < 0 {
		return fmt.Errorf("invalid max_size %d: must be a positive number of bytes", h.MaxSize)
	}
	if h.MaxMemory < 0 {
		return fmt.Errorf("invalid max_memory %d: must be a positive number of bytes", h.MaxMemory)
	}
	if h.MaxDelay < 0 && h.MaxDelay != noDelay {
		return fmt.Errorf("invalid max_delay %s: must be a positive duration, or -1 for no limit", time.Duration(h.MaxDelay))
	}
	if h.LockTimeout < 0 {
		return fmt.Errorf("invalid lock_timeout %s: must be a positive duration", time.Duration(h.LockTimeout))
	}
	return nil
}

// Cleanup lets go of what the handler would keep alive. There may still be
// requests that go on with it.
func (h *Handler) Cleanup() error {
	if h.delays != nil {
		h.delays.cleanup()
	}
	return nil
}

// validateWeakOnly checks that nothing is left out of a strong tag, which
// promises equality byte for byte (RFC 9110 §8.8.1).
func (h *Handler) validateWeakOnly() error {
	if h.weak {
		return nil
	}
	for _, option := range []struct {
		name   string
		values []string
	}{
		{"canonicalize", strings.Fields(h.Canonicalize)},
		{"ignore_json", h.IgnoreJSON},
		{"ignore_pattern", h.IgnorePattern},
	} {
		if len(option.values) > 0 {
			return fmt.Errorf("invalid %s %q on strong tags: must be on weak ones, as in: etag weak", option.name, strings.Join(option.values, " "))
		}
	}
	return nil
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
	for _, method := range ifMatch {
		switch {
		case slices.Contains([]string{"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"}, method):
			return fmt.Errorf("invalid if_match method %q: must be one that writes, such as PUT, PATCH or DELETE", method)
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

// anyMethod in require_if_match stands for every if_match method.
const anyMethod = "*"

// oneOf returns an error if the value of an option is none of those allowed.
func oneOf(option, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
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
