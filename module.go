// Package etag is a Caddy HTTP handler that gives responses an ETag and
// evaluates the preconditions of requests (RFC 9110 §13), for backends that
// know of neither.
package etag

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Handler{})
}

const defaultMaxSize = 8 << 20 // bytes

// Handler gives responses to GET and HEAD requests an ETag made from a hash
// of their body, and answers conditional requests from it: 304 (Not Modified)
// where the client has the current representation already, 412 (Precondition
// Failed) where it expected another one.
//
// To be hashed before its header is sent, a response body is held in memory
// up to a limit. Streams, and bodies past the limit, are passed on as they
// come and get no tag.
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

	// The size in bytes of the largest body that is held for one response. A
	// larger one is passed on without a tag. Default: 8388608 (8 MiB).
	MaxSize int64 `json:"max_size,omitempty"`

	weak           bool
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
	if h.MaxSize == 0 {
		h.MaxSize = defaultMaxSize
	}
	return nil
}

// Validate ensures that the configuration is valid.
func (h *Handler) Validate() error {
	if err := errors.Join(
		oneOf("strength", h.Strength, "strong", "weak"),
		oneOf("algorithm", h.Algorithm, algorithmNames()...),
		oneOf("existing", h.Existing, "keep", "replace"),
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
	return nil
}

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
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
