package etag

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// This file has what a mistake in the configuration is told. The values of
// options are checked while a Caddyfile is adapted, for its errors to have file
// and line, and when a handler is provisioned, for those that come as JSON.

// caddyfileOptions are the options in a Caddyfile, in the order of the grammar,
// each with a line of it that is right.
var caddyfileOptions = []struct{ name, example string }{
	{"algorithm", "algorithm sha256"},
	{"length", "length 32"},
	{"version", "version v1"},
	{"existing", "existing keep"},
	{"match", "match status 2xx"},
	{"no_store", "no_store tag"},
	{"cache_control", "cache_control no-cache"},
	{"from_header", "from_header X-Version"},
	{"canonicalize", "canonicalize json"},
	{"ignore_json", "ignore_json /generated_at"},
	{"ignore_pattern", "ignore_pattern `\\d+ views`"},
	{"max_size", "max_size 8MiB"},
	{"max_memory", "max_memory 256MiB"},
	{"max_delay", "max_delay 300ms"},
	{"oversize", "oversize trailer"},
	{"if_match", "if_match PUT PATCH DELETE"},
	{"require_if_match", "require_if_match PUT"},
	{"weak_if_match", "weak_if_match accept"},
	{"lock", "lock local 10s 1m"},
	{"write_tag", "write_tag off"},
	{"errors", "errors handle"},
	{"remember", "remember 30s 10000"},
	{"ranges", "ranges on"},
}

// unrecognizedOption is the error for an option that there is not.
func unrecognizedOption(name string, names []string) error {
	return fmt.Errorf("unrecognized option %q: must be one of %s", name, strings.Join(names, ", "))
}

func caddyfileOptionNames() []string {
	names := make([]string, len(caddyfileOptions))
	for i, option := range caddyfileOptions {
		names[i] = option.name
	}
	return names
}

// wrongArguments is the error for an option that does not take so many
// arguments.
func wrongArguments(option string, arguments []string) error {
	how, example := "write one", option
	for _, o := range caddyfileOptions {
		if o.name == option {
			example = o.example
		}
	}
	switch text := strings.Join(arguments, " "); {
	case option == "match":
		how = "write a status or a header"
	case option == "ignore_json" || option == "if_match":
		how = "write one or more"
	case option == "remember":
		how = "write a duration, and at the most a number of entries"
	case option == "lock":
		how = "write a module, and at the most a timeout and a hold time"
	case len(arguments) == 0:
	case option == "cache_control":
		how, example = "write one, in quotes", fmt.Sprintf("cache_control %q", text)
	case option == "ignore_pattern":
		how, example = "write one a line, in backquotes if it has spaces", fmt.Sprintf("ignore_pattern `%s`", text)
	}
	if len(arguments) == 0 {
		return fmt.Errorf("missing argument for %s: %s, as in: %s", option, how, example)
	}
	return fmt.Errorf("too many arguments for %s, %q: %s, as in: %s", option, strings.Join(arguments, " "), how, example)
}

// checkStrength checks the only argument of the directive.
func checkStrength(strength string) error {
	err := oneOf("strength", strength, strengthWords...)
	if strength == ifMatchOff {
		err = fmt.Errorf(`%w; to have no tags, leave the directive out, and to guard no writes, give it the option "if_match off"`, err)
	}
	return err
}

// optionLines are where the options of one directive stand.
type optionLines map[string]*caddyfile.Dispenser

// add notes an option that a dispenser has come to.
func (lines optionLines) add(d *caddyfile.Dispenser) error {
	option := d.Val()
	if first, ok := lines[option]; ok && option != "ignore_pattern" {
		return d.Errf("option %s is given twice, first in line %d", option, first.Line())
	} else if !ok {
		lines[option] = lineOf(d.Token())
	}
	return nil
}

// lineOf returns a dispenser that wraps errors with the position of a token.
func lineOf(token caddyfile.Token) *caddyfile.Dispenser {
	d := caddyfile.NewDispenser([]caddyfile.Token{token})
	d.Next()
	return d
}

// wrapOnce gives an error the position of d, unless it has one in that file.
func wrapOnce(d *caddyfile.Dispenser, err error) error {
	if strings.Contains(err.Error(), fmt.Sprintf(", at %s:", d.File())) {
		return err
	}
	return d.WrapErr(err)
}

// checkLines checks the values of the options that were given, each where it
// stands.
func (h *Handler) checkLines(lines optionLines) error {
	for _, c := range valueChecks {
		if line, given := lines[c.option]; given {
			if err := c.check(h); err != nil {
				return line.WrapErr(err)
			}
		}
	}
	return nil
}

// checkValues checks the values of all options but those that are one of some
// words.
func (h *Handler) checkValues() error {
	for _, c := range valueChecks {
		if err := c.check(h); err != nil {
			return err
		}
	}
	return nil
}

// valueChecks tell what is wrong with the value of an option, beside the others.
// The zero value is that of an option that was not given.
var valueChecks = []struct {
	option string
	check  func(*Handler) error
}{
	{"length", (*Handler).checkLength},
	{"version", (*Handler).checkVersion},
	{"cache_control", (*Handler).checkCacheControl},
	{"from_header", (*Handler).checkFromHeader},
	{"canonicalize", func(h *Handler) error { return h.checkWeakOnly("canonicalize", strings.Fields(h.Canonicalize)) }},
	{"ignore_json", func(h *Handler) error {
		_, err := newNormalizer(false, h.IgnoreJSON, nil)
		return cmp.Or(err, h.checkWeakOnly("ignore_json", h.IgnoreJSON))
	}},
	{"ignore_pattern", func(h *Handler) error {
		_, err := newNormalizer(false, nil, h.IgnorePattern)
		return cmp.Or(err, h.checkWeakOnly("ignore_pattern", h.IgnorePattern))
	}},
	{"max_size", func(h *Handler) error { return checkSize("max_size", h.MaxSize, 1) }},
	{"max_memory", func(h *Handler) error { return checkSize("max_memory", h.MaxMemory, held.BlockSize) }},
	{"max_delay", func(h *Handler) error {
		if h.MaxDelay == noDelay {
			return nil
		}
		return checkDuration("max_delay", h.MaxDelay, ", or -1 for no limit")
	}},
	{"if_match", func(h *Handler) error { return validateMethods(h.IfMatch, nil) }},
	{"require_if_match", func(h *Handler) error {
		if len(h.IfMatch) == 0 {
			return validateMethods(defaultIfMatch, h.RequireIfMatch)
		}
		return validateMethods(h.IfMatch, h.RequireIfMatch)
	}},
	{"lock_timeout", func(h *Handler) error { return checkDuration("lock_timeout", h.LockTimeout, "") }},
	{"lock_hold", func(h *Handler) error { return checkDuration("lock_hold", h.LockHold, "") }},
	{"remember", func(h *Handler) error { return checkDuration("remember", h.Remember, "") }},
	{"remember_entries", (*Handler).checkRememberEntries},
}

func (h *Handler) checkLength() error {
	name := cmp.Or(h.Algorithm, defaultAlgorithm)
	algorithm := algorithms[name]
	if algorithm == nil || h.Length == 0 {
		return nil
	}
	if h.Length < minLength || h.Length > algorithm.digits || h.Length%2 != 0 {
		return fmt.Errorf("invalid length %d: must be an even number of hexadecimal digits from %d to %d with %s",
			h.Length, minLength, algorithm.digits, name)
	}
	return nil
}

func (h *Handler) checkVersion() error {
	if literal := withoutPlaceholders(h.Version); keepETagc(literal) != literal {
		return fmt.Errorf("invalid version %q: must have only characters that an entity tag can have: no white space, control character or quote", h.Version)
	}
	return nil
}

func (h *Handler) checkFromHeader() error {
	if h.FromHeader == "" || httpguts.ValidHeaderFieldName(h.FromHeader) {
		return nil
	}
	return fmt.Errorf("invalid from_header %q: must be the name of a response field, such as X-Version", h.FromHeader)
}

func (h *Handler) checkRememberEntries() error {
	switch {
	case h.RememberEntries < 0 || h.RememberEntries > maxRememberEntries:
		return fmt.Errorf("invalid remember_entries %d: must be from 1 to %d", h.RememberEntries, maxRememberEntries)
	case h.RememberEntries > 0 && h.Remember == 0:
		return fmt.Errorf("invalid remember_entries %d without remember: must be beside a duration", h.RememberEntries)
	}
	return nil
}

// cacheDirectives is the grammar of Cache-Control (RFC 9111 §5.2), without
// empty members.
var cacheDirectives = func() *regexp.Regexp {
	const (
		word      = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
		quoted    = `"(?:[\t !#-\[\]-~]|\\[\t -~])*"`
		directive = word + "(?:=(?:" + word + "|" + quoted + "))?"
	)
	return regexp.MustCompile("^" + directive + `(?:[ \t]*,[ \t]*` + directive + ")*$")
}()

func (h *Handler) checkCacheControl() error {
	if h.CacheControl != "" && !cacheDirectives.MatchString(h.CacheControl) {
		return fmt.Errorf("invalid cache_control %q: must be directives with commas between them, such as \"private, max-age=60\"", h.CacheControl)
	}
	return nil
}

// checkWeakOnly checks that nothing is left out of a strong tag, which
// promises equality byte for byte (RFC 9110 §8.8.1).
func (h *Handler) checkWeakOnly(option string, values []string) error {
	if len(values) == 0 || h.Strength == strengthWeak {
		return nil
	}
	return fmt.Errorf("invalid %s %q on strong tags: must be on weak ones, as in: etag weak", option, strings.Join(values, " "))
}

// maxBytes is the largest size. Caddy reads the numbers of its configuration as
// 64-bit floats, which have larger ones only nearly.
const maxBytes = 1 << 53

// parseSize returns the size that a text means, which is at least so many
// bytes.
func parseSize(option, text string, least uint64) (int64, error) {
	size, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		size, err = humanize.ParseBytes(text)
	}
	if err != nil || size < least || size > maxBytes {
		return 0, fmt.Errorf("invalid %s %q: must be a size from %s to 8PiB, such as 512KiB or 8MiB",
			option, text, strings.ReplaceAll(humanize.IBytes(least), " ", ""))
	}
	return int64(size), nil
}

// checkSize checks a number of bytes.
func checkSize(option string, size, least int64) error {
	if size == 0 || size >= least && size <= maxBytes {
		return nil
	}
	return fmt.Errorf("invalid %s %d: must be a number of bytes from %d to %d", option, size, least, int64(maxBytes))
}

// leastDuration is the shortest time that an option can be. What is shorter was
// not meant: a bare number in JSON is one of nanoseconds.
const leastDuration = time.Millisecond

// parseDuration returns the duration that a text means.
func parseDuration(option, text, or string) (caddy.Duration, error) {
	duration, err := caddy.ParseDuration(text)
	if err != nil || duration < leastDuration {
		return 0, fmt.Errorf("invalid %s %q: must be a duration of at least %s with its unit, such as 300ms or 10s%s", option, text, leastDuration, or)
	}
	return caddy.Duration(duration), nil
}

// checkDuration checks a duration.
func checkDuration(option string, duration caddy.Duration, or string) error {
	if duration == 0 || time.Duration(duration) >= leastDuration {
		return nil
	}
	return fmt.Errorf("invalid %s %s: must be at least %s%s (a number without a unit is one of nanoseconds: write a text, such as \"300ms\")",
		option, time.Duration(duration), leastDuration, or)
}

// UnmarshalJSON sets up the handler from JSON. It is as strict as Caddy, and
// names the option that is wrong.
func (h *Handler) UnmarshalJSON(data []byte) error {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(data, &values); err != nil {
		return err
	}
	options := jsonOptions(reflect.TypeFor[Handler]())
	for _, name := range slices.Sorted(maps.Keys(values)) {
		i := slices.IndexFunc(options, func(o jsonOption) bool { return o.name == name })
		if i < 0 {
			names := make([]string, len(options))
			for i, option := range options {
				names[i] = option.name
			}
			return unrecognizedOption(name, names)
		}
		dec := json.NewDecoder(bytes.NewReader(values[name]))
		dec.DisallowUnknownFields()
		field := reflect.ValueOf(h).Elem().FieldByIndex(options[i].index)
		if err := dec.Decode(field.Addr().Interface()); err != nil {
			return invalidJSON(name, values[name], field.Type(), err)
		}
	}
	return nil
}

// jsonOption is the field of a struct for an option.
type jsonOption struct {
	name  string
	index []int
}

// jsonOptions returns the fields of a struct that JSON can set.
func jsonOptions(structure reflect.Type) []jsonOption {
	var options []jsonOption
	for _, field := range reflect.VisibleFields(structure) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.IsExported() && name != "-" {
			options = append(options, jsonOption{cmp.Or(name, field.Name), field.Index})
		}
	}
	return options
}

// invalidJSON is the error for a value that an option can't have, which is of
// this type.
func invalidJSON(option string, value json.RawMessage, valid reflect.Type, err error) error {
	if valid == reflect.TypeFor[caddy.Duration]() {
		also := ""
		if option == "max_delay" {
			also = ", or the number -1 for no limit"
		}
		return fmt.Errorf("invalid %s %s: must be a duration of at least %s, such as \"300ms\"%s", option, value, leastDuration, also)
	}
	switch valid.Kind() {
	case reflect.String:
		return fmt.Errorf("invalid %s %s: must be a text in quotes", option, value)
	case reflect.Slice:
		return fmt.Errorf("invalid %s %s: must be a list of texts", option, value)
	case reflect.Int:
		return fmt.Errorf("invalid %s %s: must be a whole number", option, value)
	case reflect.Int64:
		if len(value) > len("9007199254740992") {
			// Caddy has read it as a float: it need not be what was written.
			value = json.RawMessage("of so many digits")
		}
		return fmt.Errorf("invalid %s %s: must be a number of bytes, at most %d", option, value, int64(maxBytes))
	default:
		return fmt.Errorf("invalid %s %s: %w", option, value, err)
	}
}
