package etag

import (
	"math"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("etag", parseCaddyfile)

	// behind encode, which adds to the tags of what it compresses, and
	// before everything that makes a response
	httpcaddyfile.RegisterDirectiveOrder("etag", httpcaddyfile.After, "encode")
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return handler, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	etag [<matcher>] [strong|weak] {
//	    algorithm        sha256|blake3|xxh3
//	    length           <hex digits>
//	    version          <text>
//	    existing         keep|replace
//	    match            <response matcher>
//	    cache_control    <value>
//	    canonicalize     json
//	    ignore_json      <JSON Pointers...>
//	    ignore_pattern   <RE2 expression>
//	    max_size         <size>
//	    max_memory       <size>
//	    max_delay        <duration>|-1
//	    oversize         pass|trailer
//	    if_match         <methods...>
//	    require_if_match [<methods...>]
//	    weak_if_match    auto|reject|accept
//	    lock             local|storage|off|<module> [<timeout>] [{
//	        <options of the module>
//	    }]
//	    write_tag        on|off
//	    errors           problem|handle
//	}
//
// The response matcher is written as in the encode directive. An option may
// be given once, but for ignore_pattern.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name

	if d.NextArg() {
		h.Strength = d.Val()
		if err := oneOf("strength", h.Strength, "strong", "weak"); err != nil {
			return d.WrapErr(err)
		}
	}
	if d.NextArg() {
		return d.ArgErr()
	}

	seen := make(map[string]bool)
	for d.NextBlock(0) {
		option := d.Val()
		if seen[option] && option != "ignore_pattern" {
			return d.Errf("option %s is given twice", option)
		}
		seen[option] = true

		if err := h.unmarshalOption(d, option); err != nil {
			return err
		}
	}
	return nil
}

// unmarshalOption parses the line or block of one option.
func (h *Handler) unmarshalOption(d *caddyfile.Dispenser, option string) error {
	switch option {
	case "algorithm":
		return enumArg(d, &h.Algorithm, algorithmNames()...)

	case "length":
		var digits string
		if err := oneArg(d, &digits); err != nil {
			return err
		}
		n, err := strconv.Atoi(digits)
		if err != nil || n == 0 {
			return d.Errf("invalid length %q: must be an even number of hexadecimal digits, at least %d", digits, minLength)
		}
		h.Length = n

	case "version":
		return oneArg(d, &h.Version)

	case "existing":
		return enumArg(d, &h.Existing, "keep", "replace")

	case "match":
		matchers := make(map[string]caddyhttp.ResponseMatcher)
		if err := caddyhttp.ParseNamedResponseMatcher(d.NewFromNextSegment(), matchers); err != nil {
			return err
		}
		matcher := matchers["match"]
		h.Matcher = &matcher

	case "cache_control":
		return oneArg(d, &h.CacheControl)

	case "canonicalize":
		return enumArg(d, &h.Canonicalize, "json")

	case "ignore_json":
		h.IgnoreJSON = d.RemainingArgs()
		if len(h.IgnoreJSON) == 0 {
			return d.ArgErr()
		}

	case "ignore_pattern":
		var pattern string
		if err := oneArg(d, &pattern); err != nil {
			return err
		}
		h.IgnorePattern = append(h.IgnorePattern, pattern)

	case "max_size":
		return sizeArg(d, &h.MaxSize)

	case "max_memory":
		return sizeArg(d, &h.MaxMemory)

	case "max_delay":
		return h.unmarshalMaxDelay(d)

	case "oversize":
		return enumArg(d, &h.Oversize, "pass", "trailer")

	case "if_match":
		h.IfMatch = methodArgs(d)
		if len(h.IfMatch) == 0 {
			return d.ArgErr()
		}

	case "require_if_match":
		h.RequireIfMatch = methodArgs(d)
		if len(h.RequireIfMatch) == 0 {
			h.RequireIfMatch = []string{anyMethod}
		}

	case "weak_if_match":
		return enumArg(d, &h.WeakIfMatch, weakAuto, weakReject, weakAccept)

	case "lock":
		return h.unmarshalLock(d)

	case "write_tag":
		return enumArg(d, &h.WriteTag, "on", "off")

	case "errors":
		return enumArg(d, &h.Errors, "problem", "handle")

	default:
		return d.Errf("unrecognized option %q", option)
	}
	return nil
}

// unmarshalMaxDelay parses the max_delay option.
func (h *Handler) unmarshalMaxDelay(d *caddyfile.Dispenser) error {
	var text string
	if err := oneArg(d, &text); err != nil {
		return err
	}
	if text == strconv.Itoa(noDelay) {
		h.MaxDelay = noDelay
		return nil
	}
	delay, err := caddy.ParseDuration(text)
	if err != nil || delay <= 0 {
		return d.Errf("invalid max_delay %q: must be a positive duration, such as 500ms, or -1 for no limit", text)
	}
	h.MaxDelay = caddy.Duration(delay)
	return nil
}

// unmarshalLock parses the lock option. A lock module sees the line without
// the name of the option and without the timeout.
func (h *Handler) unmarshalLock(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	h.Lock = d.Val()
	name := d.Token()
	if d.NextArg() {
		timeout, err := caddy.ParseDuration(d.Val())
		if err != nil || timeout <= 0 {
			return d.Errf("invalid lock timeout %q: must be a positive duration, such as 10s", d.Val())
		}
		h.LockTimeout = caddy.Duration(timeout)
	}
	if d.NextArg() {
		return d.ArgErr()
	}

	module, err := caddy.GetModule(lockNamespace + h.Lock)
	if err != nil {
		if h.Lock == "off" {
			return nil
		}
		return d.Errf("invalid lock %q: must be local, storage, off or a module in %s", h.Lock, strings.TrimSuffix(lockNamespace, "."))
	}
	tokens := append([]caddyfile.Token{name}, d.NextSegment()[1:]...)
	instance := module.New()
	unmarshaler, ok := instance.(caddyfile.Unmarshaler)
	if !ok {
		if len(tokens) > 1 {
			return d.Errf("lock %s takes no options", h.Lock)
		}
		return nil
	}
	if err := unmarshaler.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
		return err
	}
	h.LockOptions = caddyconfig.JSON(instance, nil)
	return nil
}

// methodArgs returns the methods that an option lists, in upper case.
func methodArgs(d *caddyfile.Dispenser) []string {
	methods := d.RemainingArgs()
	for i, method := range methods {
		methods[i] = strings.ToUpper(method)
	}
	return methods
}

// oneArg sets value to the only argument of an option.
func oneArg(d *caddyfile.Dispenser, value *string) error {
	if !d.AllArgs(value) {
		return d.ArgErr()
	}
	return nil
}

// enumArg is oneArg for an option that takes one of some words.
func enumArg(d *caddyfile.Dispenser, value *string, allowed ...string) error {
	option := d.Val()
	if err := oneArg(d, value); err != nil {
		return err
	}
	if err := oneOf(option, *value, allowed...); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// sizeArg is oneArg for a size, as in "8MiB".
func sizeArg(d *caddyfile.Dispenser, bytes *int64) error {
	option := d.Val()
	var text string
	if err := oneArg(d, &text); err != nil {
		return err
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size == 0 || size > math.MaxInt64 {
		return d.Errf("invalid %s %q: must be a size, such as 512KiB or 8MiB", option, text)
	}
	*bytes = int64(size)
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
