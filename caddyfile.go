package etag

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyetag/caddy-etag/internal/held"
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
//	    no_store         skip|tag
//	    cache_control    <value>
//	    from_header      <field>
//	    canonicalize     json
//	    ignore_json      <JSON Pointers...>
//	    ignore_pattern   <RE2 expression>
//	    max_size         <size>
//	    max_memory       <size>
//	    max_delay        <duration>|-1
//	    oversize         pass|trailer
//	    if_match         <methods...>|off
//	    require_if_match [<methods...>]
//	    weak_if_match    auto|reject|accept
//	    lock             local|storage|off|<module> [<timeout> [<hold>]] [{
//	        <options of the module>
//	    }]
//	    write_tag        on|off
//	    errors           problem|handle
//	    remember         <duration> [<entries>] [{
//	        <module> [{
//	            <options of the module>
//	        }]
//	    }]
//	    ranges           on|off
//	}
//
// The response matcher is written as in the encode directive. An option may
// be given once, but for ignore_pattern.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name

	if d.NextArg() {
		h.Strength = d.Val()
		if err := checkStrength(h.Strength); err != nil {
			return d.WrapErr(err)
		}
	}
	if d.NextArg() {
		return d.Errf("too many arguments for etag, %q: write strong or weak, as in: etag weak",
			strings.Join(append([]string{h.Strength, d.Val()}, d.RemainingArgs()...), " "))
	}

	lines := make(optionLines)
	for last := ""; d.NextBlock(0); {
		option := d.Val()
		if option == "{" && last != "" {
			return d.Errf("option %s takes no block", last)
		}
		last = option
		if err := lines.add(d); err != nil {
			return err
		}
		if err := h.unmarshalOption(d, option); err != nil {
			return err
		}
	}
	return h.checkLines(lines)
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
		return enumArg(d, &h.Existing, existingWords...)

	case "match":
		matchers := make(map[string]caddyhttp.ResponseMatcher)
		line := lineOf(d.Token())
		if err := caddyhttp.ParseNamedResponseMatcher(d.NewFromNextSegment(), matchers); err != nil {
			return wrapOnce(line, fmt.Errorf("invalid match, which must be a status or a header, as in match status 2xx: %w", err))
		}
		matcher := matchers["match"]
		if matcher.StatusCode == nil && len(matcher.Headers) == 0 {
			return line.WrapErr(wrongArguments(option, nil))
		}
		h.Matcher = &matcher

	case "no_store":
		return enumArg(d, &h.NoStore, noStoreWords...)

	case "cache_control":
		return oneArg(d, &h.CacheControl)

	case "from_header":
		return oneArg(d, &h.FromHeader)

	case "canonicalize":
		return enumArg(d, &h.Canonicalize, canonicalizeJSON)

	case "ignore_json":
		h.IgnoreJSON = d.RemainingArgs()
		if len(h.IgnoreJSON) == 0 {
			return d.WrapErr(wrongArguments(option, nil))
		}

	case "ignore_pattern":
		var pattern string
		if err := oneArg(d, &pattern); err != nil {
			return err
		}
		if _, err := newNormalizer(false, nil, []string{pattern}); err != nil {
			return d.WrapErr(err)
		}
		h.IgnorePattern = append(h.IgnorePattern, pattern)

	case "max_size":
		return sizeArg(d, &h.MaxSize, 1)

	case "max_memory":
		return sizeArg(d, &h.MaxMemory, held.BlockSize)

	case "max_delay":
		return h.unmarshalMaxDelay(d)

	case "oversize":
		return enumArg(d, &h.Oversize, oversizeWords...)

	case "if_match":
		h.IfMatch = methodArgs(d)
		if len(h.IfMatch) == 0 {
			return d.WrapErr(wrongArguments(option, nil))
		}

	case "require_if_match":
		h.RequireIfMatch = methodArgs(d)
		if len(h.RequireIfMatch) == 0 {
			h.RequireIfMatch = []string{anyMethod}
		}

	case "weak_if_match":
		return enumArg(d, &h.WeakIfMatch, weakIfMatchWords...)

	case "lock":
		return h.unmarshalLock(d)

	case "write_tag":
		return enumArg(d, &h.WriteTag, writeTagWords...)

	case "errors":
		return enumArg(d, &h.Errors, errorsWords...)

	case "remember":
		return h.unmarshalRemember(d)

	case "ranges":
		return enumArg(d, &h.Ranges, rangesWords...)

	default:
		return d.WrapErr(unrecognizedOption(option, caddyfileOptionNames()))
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
	var err error
	if h.MaxDelay, err = parseDuration("max_delay", text, ", or -1 for no limit"); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// unmarshalRemember parses the remember option.
func (h *Handler) unmarshalRemember(d *caddyfile.Dispenser) error {
	arguments := d.RemainingArgs()
	if len(arguments) == 0 || len(arguments) > 2 {
		return d.WrapErr(wrongArguments("remember", arguments))
	}
	duration, err := parseDuration("remember", arguments[0], "")
	if err != nil {
		return d.WrapErr(err)
	}
	h.Remember = duration
	if len(arguments) == 2 {
		entries, err := strconv.Atoi(arguments[1])
		if err != nil || entries < 1 || entries > maxRememberEntries {
			return d.Errf("invalid remember entries %q: must be a number from 1 to %d", arguments[1], maxRememberEntries)
		}
		h.RememberEntries = entries
	}
	return h.unmarshalForgetter(d)
}

// unmarshalLock parses the lock option. A lock module sees the line without
// the name of the option and without the durations.
func (h *Handler) unmarshalLock(d *caddyfile.Dispenser) error {
	line := lineOf(d.Token())
	if !d.NextArg() {
		return d.WrapErr(wrongArguments("lock", nil))
	}
	name, nameToken := d.Val(), d.Token()
	arguments := d.RemainingArgs()
	if len(arguments) > 2 {
		return d.WrapErr(wrongArguments("lock", append([]string{name}, arguments...)))
	}
	for i, duration := range arguments {
		var err error
		if i == 0 {
			h.LockTimeout, err = parseDuration("lock timeout", duration, "")
		} else {
			h.LockHold, err = parseDuration("lock hold", duration, "")
		}
		if err != nil {
			return d.WrapErr(err)
		}
	}

	instance, err := newLocker(name)
	if err != nil {
		return d.WrapErr(err)
	}
	tokens := append([]caddyfile.Token{nameToken}, d.NextSegment()[1:]...)
	if unmarshaler, ok := instance.(caddyfile.Unmarshaler); ok {
		if err := unmarshaler.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			return wrapOnce(line, fmt.Errorf("invalid lock %s: %w", name, err))
		}
	} else if len(tokens) > 1 {
		return line.Errf("invalid lock option %q: lock %s takes no options", tokens[min(2, len(tokens)-1)].Text, name)
	}
	h.LockRaw = caddyconfig.JSONModuleObject(instance, "module", name, nil)
	return nil
}

// methodArgs returns the methods that an option lists, in upper case.
func methodArgs(d *caddyfile.Dispenser) []string {
	methods := d.RemainingArgs()
	for i, method := range methods {
		methods[i] = strings.ToUpper(method)
		if methods[i] == "OFF" {
			methods[i] = ifMatchOff
		}
	}
	return methods
}

// oneArg sets value to the only argument of an option.
func oneArg(d *caddyfile.Dispenser, value *string) error {
	option := d.Val()
	arguments := d.RemainingArgs()
	if len(arguments) != 1 {
		return d.WrapErr(wrongArguments(option, arguments))
	}
	*value = arguments[0]
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

// sizeArg is oneArg for a size, as in "8MiB", of so many bytes or more.
func sizeArg(d *caddyfile.Dispenser, bytes *int64, least uint64) error {
	option := d.Val()
	var text string
	if err := oneArg(d, &text); err != nil {
		return err
	}
	var err error
	if *bytes, err = parseSize(option, text, least); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
