package etag

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
)

const (
	methods = "POST, PUT, PATCH, DELETE, ACL, BASELINE-CONTROL, BIND, CHECKIN, CHECKOUT, COPY, LABEL, LINK, LOCK, MERGE, MKACTIVITY, MKCALENDAR, MKCOL, MKREDIRECTREF, MKWORKSPACE, MOVE, ORDERPATCH, PROPPATCH, REBIND, UNBIND, UNCHECKOUT, UNLINK, UNLOCK, UPDATE, UPDATEREDIRECTREF, VERSION-CONTROL"

	caddyfileNames = "algorithm, length, version, existing, match, no_store, cache_control, from_header, canonicalize, ignore_json, ignore_pattern, max_size, max_memory, max_delay, oversize, if_match, require_if_match, weak_if_match, lock, write_tag, errors, remember, ranges"

	jsonNames = "strength, algorithm, length, version, existing, match, no_store, cache_control, from_header, canonicalize, ignore_json, ignore_pattern, max_size, max_memory, max_delay, oversize, if_match, require_if_match, weak_if_match, lock, lock_timeout, lock_hold, write_tag, errors, remember, remember_entries, remember_forgetter, ranges"
)

// TestMistakesInCaddyfiles: the adapter refuses each with a message that names
// the option, its value and what is allowed, and says where it stands.
func TestMistakesInCaddyfiles(t *testing.T) {
	for _, c := range []struct{ site, message string }{
		{"etag {\nunknown x\n}", `unrecognized option "unknown": must be one of ` + caddyfileNames + ", at Caddyfile:3"},
		{"etag {\nleng 32\n}", `unrecognized option "leng": must be one of ` + caddyfileNames + ", at Caddyfile:3"},
		{"etag {\nalgorithm md5\n}", `invalid algorithm "md5": must be blake3 or sha256 or xxh3, at Caddyfile:3`},
		{"etag {\nalgorithm\n}", "missing argument for algorithm: write one, as in: algorithm sha256, at Caddyfile:3"},
		{"etag {\nalgorithm sha256 blake3\n}", `too many arguments for algorithm, "sha256 blake3": write one, as in: algorithm sha256, at Caddyfile:3`},
		{"etag {\nlength 33\n}", "invalid length 33: must be an even number of hexadecimal digits from 16 to 64 with sha256, at Caddyfile:3"},
		{"etag {\nlength 66\n}", "invalid length 66: must be an even number of hexadecimal digits from 16 to 64 with sha256, at Caddyfile:3"},
		{"etag {\nalgorithm xxh3\nlength 34\n}", "invalid length 34: must be an even number of hexadecimal digits from 16 to 32 with xxh3, at Caddyfile:4"},
		{"etag {\nlength many\n}", `invalid length "many": must be an even number of hexadecimal digits, at least 16, at Caddyfile:3`},
		{"etag {\nversion \"a b\"\n}", `invalid version "a b": must have only characters that an entity tag can have: no white space, control character or quote, at Caddyfile:3`},
		{"etag {\nversion a b\n}", `too many arguments for version, "a b": write one, as in: version v1, at Caddyfile:3`},
		{"etag {\nexisting drop\n}", `invalid existing "drop": must be keep or replace, at Caddyfile:3`},
		{"etag {\nmatch\n}", "missing argument for match: write a status or a header, as in: match status 2xx, at Caddyfile:3"},
		{"etag {\nmatch status abc\n}", `invalid match, which must be a status or a header, as in match status 2xx: bad status value 'abc': strconv.Atoi: parsing "abc": invalid syntax, at Caddyfile:3`},
		{"etag {\nmatch unknown x\n}", "invalid match, which must be a status or a header, as in match status 2xx: unrecognized response matcher unknown, at Caddyfile:3"},
		{"etag {\nmatch {\n}\n}", "missing argument for match: write a status or a header, as in: match status 2xx, at Caddyfile:3"},
		{"etag {\nmatch status 200\nmatch status 201\n}", "option match is given twice, first in line 3, at Caddyfile:4"},
		{"etag {\nfrom_header\n}", "missing argument for from_header: write one, as in: from_header X-Version, at Caddyfile:3"},
		{"etag {\nfrom_header \"a b\"\n}", `invalid from_header "a b": must be the name of a response field, such as X-Version, at Caddyfile:3`},
		{"etag {\nremember\n}", "missing argument for remember: write a duration, and at the most a number of entries, as in: remember 30s 10000, at Caddyfile:3"},
		{"etag {\nremember 10\n}", `invalid remember "10": must be a duration of at least 1ms with its unit, such as 300ms or 10s, at Caddyfile:3`},
		{"etag {\nremember 30s many\n}", `invalid remember entries "many": must be a number from 1 to 100000000, at Caddyfile:3`},
		{"etag {\nremember 30s 0\n}", `invalid remember entries "0": must be a number from 1 to 100000000, at Caddyfile:3`},
		{"etag {\nremember 30s 10 20\n}", `too many arguments for remember, "30s 10 20": write a duration, and at the most a number of entries, as in: remember 30s 10000, at Caddyfile:3`},
		{"etag {\nranges yes\n}", `invalid ranges "yes": must be on or off, at Caddyfile:3`},
		{"etag {\nno_store yes\n}", `invalid no_store "yes": must be skip or tag, at Caddyfile:3`},
		{"etag {\ncache_control no-cache, private\n}", `too many arguments for cache_control, "no-cache, private": write one, in quotes, as in: cache_control "no-cache, private", at Caddyfile:3`},
		{"etag {\ncache_control \"no-cache private\"\n}", `invalid cache_control "no-cache private": must be directives with commas between them, such as "private, max-age=60", at Caddyfile:3`},
		{"etag {\ncache_control `a\tb`\n}", "invalid cache_control \"a\\tb\": must be directives with commas between them, such as \"private, max-age=60\", at Caddyfile:3"},
		{"etag {\ncache_control\n}", "missing argument for cache_control: write one, as in: cache_control no-cache, at Caddyfile:3"},
		{"etag {\ncache_control ünï\n}", `invalid cache_control "ünï": must be directives with commas between them, such as "private, max-age=60", at Caddyfile:3`},
		{"etag {\ncanonicalize xml\n}", `invalid canonicalize "xml": must be json, at Caddyfile:3`},
		{"etag {\ncanonicalize json\n}", `invalid canonicalize "json" on strong tags: must be on weak ones, as in: etag weak, at Caddyfile:3`},
		{"etag {\nignore_json\n}", "missing argument for ignore_json: write one or more, as in: ignore_json /generated_at, at Caddyfile:3"},
		{"etag {\nignore_json a\n}", `invalid ignore_json "a": must be a JSON Pointer to a member, such as /generated_at or /items/*/views, at Caddyfile:3`},
		{"etag {\nignore_json /ok /a~2\n}", `invalid ignore_json "/a~2": a ~ must be written as ~0 and a / in a name as ~1, at Caddyfile:3`},
		{"etag {\nignore_json /a\n}", `invalid ignore_json "/a" on strong tags: must be on weak ones, as in: etag weak, at Caddyfile:3`},
		{"etag {\nignore_pattern a b\n}", "too many arguments for ignore_pattern, \"a b\": write one a line, in backquotes if it has spaces, as in: ignore_pattern `a b`, at Caddyfile:3"},
		{"etag {\nignore_pattern (\n}", "invalid ignore_pattern \"(\": must be an RE2 expression: error parsing regexp: missing closing ): `(`, at Caddyfile:3"},
		{"etag {\nignore_pattern a*\n}", `invalid ignore_pattern "a*": must not match an empty text, at Caddyfile:3`},
		{"etag {\nignore_pattern a\n}", `invalid ignore_pattern "a" on strong tags: must be on weak ones, as in: etag weak, at Caddyfile:3`},
		{"etag {\nmax_size big\n}", `invalid max_size "big": must be a size from 1B to 8PiB, such as 512KiB or 8MiB, at Caddyfile:3`},
		{"etag {\nmax_size 0\n}", `invalid max_size "0": must be a size from 1B to 8PiB, such as 512KiB or 8MiB, at Caddyfile:3`},
		{"etag {\nmax_size -1\n}", `invalid max_size "-1": must be a size from 1B to 8PiB, such as 512KiB or 8MiB, at Caddyfile:3`},
		{"etag {\nmax_size 9223372036854775807\n}", `invalid max_size "9223372036854775807": must be a size from 1B to 8PiB, such as 512KiB or 8MiB, at Caddyfile:3`},
		{"etag {\nmax_size 18446744073709551616\n}", `invalid max_size "18446744073709551616": must be a size from 1B to 8PiB, such as 512KiB or 8MiB, at Caddyfile:3`},
		{"etag {\nmax_memory 16KiB\n}", `invalid max_memory "16KiB": must be a size from 32KiB to 8PiB, such as 512KiB or 8MiB, at Caddyfile:3`},
		{"etag {\nmax_memory 0\n}", `invalid max_memory "0": must be a size from 32KiB to 8PiB, such as 512KiB or 8MiB, at Caddyfile:3`},
		{"etag {\nmax_delay 5\n}", `invalid max_delay "5": must be a duration of at least 1ms with its unit, such as 300ms or 10s, or -1 for no limit, at Caddyfile:3`},
		{"etag {\nmax_delay 0.5ms\n}", `invalid max_delay "0.5ms": must be a duration of at least 1ms with its unit, such as 300ms or 10s, or -1 for no limit, at Caddyfile:3`},
		{"etag {\nmax_delay -5s\n}", `invalid max_delay "-5s": must be a duration of at least 1ms with its unit, such as 300ms or 10s, or -1 for no limit, at Caddyfile:3`},
		{"etag {\nmax_delay\n}", "missing argument for max_delay: write one, as in: max_delay 300ms, at Caddyfile:3"},
		{"etag {\noversize drop\n}", `invalid oversize "drop": must be pass or trailer, at Caddyfile:3`},
		{"etag {\nif_match\n}", "missing argument for if_match: write one or more, as in: if_match PUT PATCH DELETE, at Caddyfile:3"},
		{"etag {\nif_match GET\n}", `invalid if_match method "GET": must be one that writes, such as PUT, PATCH or DELETE, at Caddyfile:3`},
		{"etag {\nif_match UPSERT\n}", `invalid if_match method "UPSERT": must be one of ` + methods + ", at Caddyfile:3"},
		{"etag {\nif_match off PUT\n}", `invalid if_match "off PUT": off must stand alone, at Caddyfile:3`},
		{"etag {\nrequire_if_match POST\n}", `invalid require_if_match method "POST": must be one of those of if_match, which are PUT, PATCH, DELETE, at Caddyfile:3`},
		{"etag {\nif_match off\nrequire_if_match\n}", `invalid require_if_match "*": must be left out where if_match is off, at Caddyfile:4`},
		{"etag {\nif_match PUT\nrequire_if_match DELETE\n}", `invalid require_if_match method "DELETE": must be one of those of if_match, which are PUT, at Caddyfile:4`},
		{"etag {\nweak_if_match maybe\n}", `invalid weak_if_match "maybe": must be auto or reject or accept, at Caddyfile:3`},
		{"etag {\nlock\n}", "missing argument for lock: write a module, and at the most a timeout and a hold time, as in: lock local 10s 1m, at Caddyfile:3"},
		{"etag {\nlock redis\n}", `invalid lock "redis": must be directory or local or off or scripted or storage or test, or another module in http.etag.locks, at Caddyfile:3`},
		{"etag {\nlock local soon\n}", `invalid lock timeout "soon": must be a duration of at least 1ms with its unit, such as 300ms or 10s, at Caddyfile:3`},
		{"etag {\nlock local 1s 2s 3s\n}", `too many arguments for lock, "local 1s 2s 3s": write a module, and at the most a timeout and a hold time, as in: lock local 10s 1m, at Caddyfile:3`},
		{"etag {\nlock local 1s 10us\n}", `invalid lock hold "10us": must be a duration of at least 1ms with its unit, such as 300ms or 10s, at Caddyfile:3`},
		{"etag {\nlock local {\nx y\n}\n}", `invalid lock option "x": lock local takes no options, at Caddyfile:3`},
		{"etag {\nlock test {\nx y\n}\n}", `invalid lock test: unrecognized option "x", at Caddyfile:4`},
		{"etag {\nwrite_tag yes\n}", `invalid write_tag "yes": must be on or off, at Caddyfile:3`},
		{"etag {\nerrors html\n}", `invalid errors "html": must be problem or handle, at Caddyfile:3`},
		{"etag {\nlength 16\nversion a\nlength 16\n}", "option length is given twice, first in line 3, at Caddyfile:5"},
		{"etag {\nlength 32 {\nx\n}\n}", "option length takes no block, at Caddyfile:3"},
		{"etag off", `invalid strength "off": must be strong or weak; to have no tags, leave the directive out, and to guard no writes, give it the option "if_match off", at Caddyfile:2`},
		{"etag medium", `invalid strength "medium": must be strong or weak, at Caddyfile:2`},
		{"etag strong weak", `too many arguments for etag, "strong weak": write strong or weak, as in: etag weak, at Caddyfile:2`},
	} {
		_, err := adapt("http://localhost {\n" + c.site + "\n}")
		require.Error(t, err, c.site)
		require.Equal(t, c.message, strings.TrimPrefix(err.Error(), "parsing caddyfile tokens for 'etag': "), c.site)
	}
}

// TestMistakesInJSON are told when the handler is provisioned.
func TestMistakesInJSON(t *testing.T) {
	for _, c := range []struct{ config, message string }{
		{`{"unknown": 1}`, `unrecognized option "unknown": must be one of ` + jsonNames},
		{`{"strength": "medium"}`, `invalid strength "medium": must be strong or weak`},
		{`{"algorithm": "md5"}`, `invalid algorithm "md5": must be blake3 or sha256 or xxh3`},
		{`{"algorithm": 5}`, "invalid algorithm 5: must be a text in quotes"},
		{`{"length": 15}`, "invalid length 15: must be an even number of hexadecimal digits from 16 to 64 with sha256"},
		{`{"length": "32"}`, `invalid length "32": must be a whole number`},
		{`{"length": 32.5}`, "invalid length 32.5: must be a whole number"},
		{"{\"version\": \"a\\tb\"}", "invalid version \"a\\tb\": must have only characters that an entity tag can have: no white space, control character or quote"},
		{"{\"cache_control\": \"a\\r\\nb: c\"}", "invalid cache_control \"a\\r\\nb: c\": must be directives with commas between them, such as \"private, max-age=60\""},
		{`{"canonicalize": "json"}`, `invalid canonicalize "json" on strong tags: must be on weak ones, as in: etag weak`},
		{`{"canonicalize": "xml", "strength": "weak"}`, `invalid canonicalize "xml": must be json`},
		{`{"ignore_json": ["a"], "strength": "weak"}`, `invalid ignore_json "a": must be a JSON Pointer to a member, such as /generated_at or /items/*/views`},
		{`{"ignore_json": "/a", "strength": "weak"}`, `invalid ignore_json "/a": must be a list of texts`},
		{`{"max_size": -1}`, "invalid max_size -1: must be a number of bytes from 1 to 9007199254740992"},
		{`{"max_size": "8MiB"}`, `invalid max_size "8MiB": must be a number of bytes, at most 9007199254740992`},
		{`{"max_size": 9223372036854776000}`, "invalid max_size of so many digits: must be a number of bytes, at most 9007199254740992"},
		{`{"max_size": 9223372036854775807}`, "invalid max_size 9223372036854775807: must be a number of bytes from 1 to 9007199254740992"},
		{`{"max_memory": 100}`, "invalid max_memory 100: must be a number of bytes from 32768 to 9007199254740992"},
		{`{"max_delay": 5}`, `invalid max_delay 5ns: must be at least 1ms, or -1 for no limit (a number without a unit is one of nanoseconds: write a text, such as "300ms")`},
		{`{"max_delay": "-2s"}`, `invalid max_delay -2s: must be at least 1ms, or -1 for no limit (a number without a unit is one of nanoseconds: write a text, such as "300ms")`},
		{`{"max_delay": "soon"}`, `invalid max_delay "soon": must be a duration of at least 1ms, such as "300ms", or the number -1 for no limit`},
		{`{"max_delay": "-1"}`, `invalid max_delay "-1": must be a duration of at least 1ms, such as "300ms", or the number -1 for no limit`},
		{`{"match": {"statuses": [200]}}`, `invalid match {"statuses": [200]}: json: unknown field "statuses"`},
		{`{"match": 200}`, "invalid match 200: json: cannot unmarshal number into Go value of type caddyhttp.ResponseMatcher"},
		{`{"if_match": ["put"]}`, `invalid if_match method "put": must be one of ` + methods},
		{`{"if_match": ["off", "PUT"]}`, `invalid if_match "off PUT": off must stand alone`},
		{`{"if_match": "PUT"}`, `invalid if_match "PUT": must be a list of texts`},
		{`{"require_if_match": ["POST"]}`, `invalid require_if_match method "POST": must be one of those of if_match, which are PUT, PATCH, DELETE`},
		{`{"require_if_match": true}`, "invalid require_if_match true: must be a list of texts"},
		{`{"lock": {"module": 1, "password": "secret"}}`, `invalid lock: must be an object such as {"module": "local"}`},
		{`{"remember": "1m", "remember_forgetter": {"module": 1, "password": "secret"}}`, `invalid remember_forgetter: must be an object such as {"module": "redis"}`},
		{`{"lock": "local"}`, `invalid lock: must be an object such as {"module": "local"}`},
		{`{"lock": {"module": "redis"}}`, `invalid lock "redis": must be directory or local or off or scripted or storage or test, or another module in http.etag.locks`},
		{`{"lock": {}}`, `invalid lock "": must be directory or local or off or scripted or storage or test, or another module in http.etag.locks`},
		{`{"lock": {"module": "local", "x": 1}}`, `invalid lock option "x": lock local takes no options`},
		{`{"lock": {"module": "storage", "x": 1}}`, `invalid lock option "x": lock storage takes no options`},
		{`{"lock": {"module": "test", "x": 1}}`, `invalid lock test: loading module 'test': decoding module config: http.etag.locks.test: json: unknown field "x"`},
		{`{"lock_hold": "-1s"}`, `invalid lock_hold -1s: must be at least 1ms (a number without a unit is one of nanoseconds: write a text, such as "300ms")`},
		{`{"lock_timeout": 10}`, `invalid lock_timeout 10ns: must be at least 1ms (a number without a unit is one of nanoseconds: write a text, such as "300ms")`},
		{`{"from_header": "a b"}`, `invalid from_header "a b": must be the name of a response field, such as X-Version`},
		{`{"remember": 30}`, `invalid remember 30ns: must be at least 1ms (a number without a unit is one of nanoseconds: write a text, such as "300ms")`},
		{`{"remember": "30s", "remember_entries": -1}`, "invalid remember_entries -1: must be from 1 to 100000000"},
		{`{"remember_entries": 10}`, "invalid remember_entries 10 without remember: must be beside a duration"},
		{`{"ranges": "yes"}`, `invalid ranges "yes": must be on or off`},
		{`{"write_tag": true}`, "invalid write_tag true: must be a text in quotes"},
	} {
		_, err := loadHandler(t, c.config)
		require.Error(t, err, c.config)
		message := regexp.MustCompile(`^(decoding module config: http.handlers.etag|http.handlers.etag: invalid configuration|provision http.handlers.etag): `).
			ReplaceAllString(err.Error(), "")
		require.Equal(t, c.message, message, c.config)
	}
}

// TestMistakesInJSONShowNoPassword, though they are in what has one. Caddy itself
// knows a module by the name in lower case alone.
func TestMistakesInJSONShowNoPassword(t *testing.T) {
	for _, config := range []string{
		`{"lock": {"Module": "test", "password": "secret"}}`,
		`{"lock": {"module": 1, "password": "secret"}}`,
		`{"remember": "1h", "remember_forgetter": {"Module": "test", "password": "secret"}}`,
		`{"remember": "1h", "remember_forgetter": {"module": [], "password": "secret"}}`,
	} {
		_, err := loadHandler(t, config)
		require.Error(t, err, config)
		require.NotContains(t, err.Error(), "secret")
	}
}

// TestMistakesInSnippets have the line of the snippet, and that of its import.
func TestMistakesInSnippets(t *testing.T) {
	_, err := adapt("(tags) {\nlength 31\n}\nhttp://localhost {\netag {\nimport tags\n}\n}")
	require.ErrorContains(t, err, "invalid length 31: ")
	require.ErrorContains(t, err, ", at Caddyfile:2 import chain ['Caddyfile:6 (import tags)']")
}

// TestSeveralMistakesAreTold at once, where they are in options that take one of
// some words.
func TestSeveralMistakesAreTold(t *testing.T) {
	_, err := loadHandler(t, `{"algorithm": "md5", "existing": "no"}`)
	require.ErrorContains(t, err, `invalid algorithm "md5"`)
	require.ErrorContains(t, err, `invalid existing "no"`)
}

// TestListOfOptionsIsComplete: what an unknown option is told is what the parser
// takes and the grammar shows, and each example is one that can be pasted.
func TestListOfOptionsIsComplete(t *testing.T) {
	source, err := os.ReadFile("caddyfile.go")
	require.NoError(t, err)
	_, parser, found := strings.Cut(string(source), ") unmarshalOption(")
	require.True(t, found)
	parser, _, _ = strings.Cut(parser, "\n}\n")
	var parsed []string
	for _, match := range regexp.MustCompile(`\n\tcase "([a-z_]+)":`).FindAllStringSubmatch(parser, -1) {
		parsed = append(parsed, match[1])
	}
	require.ElementsMatch(t, parsed, caddyfileOptionNames())

	var grammar []string
	for _, match := range regexp.MustCompile(`\n//\t    ([a-z_]+) `).FindAllStringSubmatch(string(source), -1) {
		grammar = append(grammar, match[1])
	}
	require.Equal(t, grammar, caddyfileOptionNames())

	for _, option := range caddyfileOptions {
		require.True(t, strings.HasPrefix(option.example, option.name+" "))
		_, err := adapt("http://localhost {\netag weak {\n" + option.example + "\n}\n}")
		require.NoError(t, err)
	}
}

// TestEachOptionTellsOfItsArguments, whether they are too few or too many.
func TestEachOptionTellsOfItsArguments(t *testing.T) {
	takeMore := []string{"ignore_json", "if_match", "require_if_match", "match"}
	for _, option := range caddyfileOptionNames() {
		if option != "require_if_match" {
			_, err := adapt("http://localhost {\netag weak {\n" + option + "\n}\n}")
			require.ErrorContains(t, err, "missing argument for "+option+": write ")
			require.ErrorContains(t, err, ", at Caddyfile:3")
		}
		if !slices.Contains(takeMore, option) {
			_, err := adapt("http://localhost {\netag weak {\n" + option + " off 1m 1m 1m\n}\n}")
			require.ErrorContains(t, err, "too many arguments for "+option+`, "off 1m 1m 1m": write `)
			require.ErrorContains(t, err, ", at Caddyfile:3")
		}
	}
}

// TestLargestSize is one that Caddy hands on as it was written.
func TestLargestSize(t *testing.T) {
	config, err := adapt("{\nadmin off\npersist_config off\ndefault_bind 127.0.0.1\nlog {\nlevel PANIC\n}\n}\nhttp://localhost:" + freePort(t) +
		" {\netag {\nmax_size 8PiB\nmax_memory 9007199254740992\n}\n}")
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(config), ":9007199254740992"))
	require.NoError(t, caddy.Load(config, true))
	t.Cleanup(stopCaddy)
}

// TestCacheDirectives are those of RFC 9111 and of any extension.
func TestCacheDirectives(t *testing.T) {
	for value, valid := range map[string]bool{
		"no-cache": true,
		"public, max-age=60, stale-if-error=86400": true,
		"private,max-age=0\t,  must-revalidate":    true,
		`private="Set-Cookie, X-A", x="a\"b é"`:    false,
		`private="Set-Cookie, X-A", x="a\"b"`:      true,
		"max-age = 60":                             false,
		"max-age=":                                 false,
		"no-cache; private":                        false,
		"no-cache,":                                false,
		" no-cache":                                false,
		"no-cache\r\nSet-Cookie: a=b":              false,
		`private="Set-Cookie`:                      false,
	} {
		require.Equal(t, valid, (&Handler{CacheControl: value}).checkCacheControl() == nil, value)
	}
}

// TestJSONIsAsStrictAsCaddy: what is not known is refused, and what is not said
// stays as it is.
func TestJSONIsAsStrictAsCaddy(t *testing.T) {
	h := &Handler{Version: "v1", MaxSize: 5}
	require.NoError(t, json.Unmarshal([]byte(`{"max_size": 7, "if_match": ["PUT"], "lock": {"module": "off"}}`), h))
	require.Equal(t, &Handler{Version: "v1", MaxSize: 7, IfMatch: []string{"PUT"}, LockRaw: json.RawMessage(`{"module": "off"}`)}, h)
	for _, config := range []string{`{"Version": "v1"}`, `{"weak": true}`, `{"logger": null}`, `[]`, `{"version": "v1"`} {
		require.Error(t, json.Unmarshal([]byte(config), new(Handler)), config)
	}
}
