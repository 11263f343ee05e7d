package etag

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
)

var update = flag.Bool("update", false, "write the golden files")

// adaptedHandler adapts a site to JSON and returns its etag handler.
func adaptedHandler(t *testing.T, site string) string {
	t.Helper()
	config, err := adapt("http://localhost {\n" + site + "\n}")
	require.NoError(t, err)
	var parsed struct {
		Apps struct {
			HTTP struct {
				Servers struct {
					Srv0 struct {
						Routes []struct {
							Handle []struct {
								Routes []struct{ Handle []json.RawMessage }
							}
						}
					}
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(config, &parsed))
	handlers := parsed.Apps.HTTP.Servers.Srv0.Routes[0].Handle[0].Routes[0].Handle
	require.Len(t, handlers, 1)
	return string(handlers[0])
}

func TestCaddyfileOptions(t *testing.T) {
	for site, want := range map[string]string{
		"etag":                                   `{"handler": "etag"}`,
		"etag {\n}":                              `{"handler": "etag"}`,
		"etag strong":                            `{"handler": "etag", "strength": "strong"}`,
		"etag weak":                              `{"handler": "etag", "strength": "weak"}`,
		"etag {\nalgorithm sha256\n}":            `{"handler": "etag", "algorithm": "sha256"}`,
		"etag {\nalgorithm blake3\nlength 64\n}": `{"handler": "etag", "algorithm": "blake3", "length": 64}`,
		"etag {\nalgorithm xxh3\nlength 32\n}":   `{"handler": "etag", "algorithm": "xxh3", "length": 32}`,
		"etag {\nversion v{header.X-Version}\n}": `{"handler": "etag", "version": "v{http.request.header.X-Version}"}`,
		"etag {\nexisting keep\n}":               `{"handler": "etag", "existing": "keep"}`,
		"etag {\nexisting replace\n}":            `{"handler": "etag", "existing": "replace"}`,
		"etag weak {\ncanonicalize json\n}":      `{"handler": "etag", "strength": "weak", "canonicalize": "json"}`,
		"etag weak {\nignore_json /a /b/*/c\n}":  `{"handler": "etag", "strength": "weak", "ignore_json": ["/a", "/b/*/c"]}`,
		"etag weak {\nignore_pattern `a{2} \\d`\nignore_pattern b\n}": `{"handler": "etag", "strength": "weak",
			"ignore_pattern": ["a{2} \\d", "b"]}`,
		"etag {\nmatch status 2xx\n}":   `{"handler": "etag", "match": {"status_code": [2]}}`,
		"etag {\nmatch header X-A b\n}": `{"handler": "etag", "match": {"headers": {"X-A": ["b"]}}}`,
		"etag {\nmatch {\nstatus 200 404\nheader X-A b\n}\n}": `{"handler": "etag",
			"match": {"status_code": [200, 404], "headers": {"X-A": ["b"]}}}`,
		"etag {\ncache_control \"private, max-age=5\"\n}": `{"handler": "etag", "cache_control": "private, max-age=5"}`,
		"etag {\nmax_size 1MiB\n}":                        `{"handler": "etag", "max_size": 1048576}`,
		"etag {\nmax_size 500\n}":                         `{"handler": "etag", "max_size": 500}`,
		"etag {\nmax_memory 1GiB\n}":                      `{"handler": "etag", "max_memory": 1073741824}`,
		"etag {\nmax_delay 200ms\n}":                      `{"handler": "etag", "max_delay": 200000000}`,
		"etag {\nmax_delay -1\n}":                         `{"handler": "etag", "max_delay": -1}`,
		"etag {\noversize trailer\n}":                     `{"handler": "etag", "oversize": "trailer"}`,
		"etag {\nif_match post PUT\n}":                    `{"handler": "etag", "if_match": ["POST", "PUT"]}`,
		"etag {\nrequire_if_match\n}":                     `{"handler": "etag", "require_if_match": ["*"]}`,
		"etag {\nrequire_if_match put\n}":                 `{"handler": "etag", "require_if_match": ["PUT"]}`,
		"etag {\nweak_if_match reject\n}":                 `{"handler": "etag", "weak_if_match": "reject"}`,
		"etag {\nlock off\n}":                             `{"handler": "etag", "lock": "off"}`,
		"etag {\nlock storage\n}":                         `{"handler": "etag", "lock": "storage"}`,
		"etag {\nlock local 30s\n}":                       `{"handler": "etag", "lock": "local", "lock_timeout": 30000000000}`,
		"etag {\nlock test 1s {\ngreeting hi\n}\n}": `{"handler": "etag", "lock": "test",
			"lock_timeout": 1000000000, "lock_options": {"greeting": "hi"}}`,
		"etag {\nwrite_tag off\n}": `{"handler": "etag", "write_tag": "off"}`,
		"etag {\nerrors handle\n}": `{"handler": "etag", "errors": "handle"}`,
	} {
		require.JSONEq(t, want, adaptedHandler(t, site), site)
	}
}

// TestDirectiveIsOrderedAfterEncode without an order option.
func TestDirectiveIsOrderedAfterEncode(t *testing.T) {
	const golden = "testdata/caddyfile/order.json"
	caddyfile, err := os.ReadFile("testdata/caddyfile/order.caddyfile")
	require.NoError(t, err)
	adapted, err := adapt(string(caddyfile))
	require.NoError(t, err)
	if *update {
		var indented any
		require.NoError(t, json.Unmarshal(adapted, &indented))
		text, err := json.MarshalIndent(indented, "", "\t")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(golden, append(text, '\n'), 0o600))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.JSONEq(t, string(want), string(adapted))
}

// refusal returns the message with which a configuration is refused, by the
// adapter or by the handler.
func refusal(t *testing.T, site string) string {
	t.Helper()
	adapted, err := adapt("{\nadmin off\npersist_config off\nlog {\nlevel PANIC\n}\n}\nhttp://localhost {\n" + site + "\n}")
	if err == nil {
		var config caddy.Config
		require.NoError(t, json.Unmarshal(adapted, &config))
		err = caddy.Validate(&config)
	}
	require.Error(t, err, site)
	return err.Error()
}

// TestBadCaddyfilesAreRefused with a message that names the option, its value
// and what is allowed, before any request.
func TestBadCaddyfilesAreRefused(t *testing.T) {
	for options, parts := range map[string][]string{
		"unknown x":                            {"unrecognized option", "unknown"},
		"algorithm md5":                        {"algorithm", `"md5"`, "sha256", "blake3", "xxh3"},
		"algorithm SHA256":                     {"algorithm", `"SHA256"`, "sha256"},
		"length 17":                            {"length", "17", "even", "16", "64", "sha256"},
		"length 14":                            {"length", "14", "16", "64"},
		"length 66":                            {"length", "66", "16", "64"},
		"length 0":                             {"length", `"0"`, "16"},
		"length -16":                           {"length", "-16", "16", "64"},
		"length many":                          {"length", `"many"`, "16"},
		`version "a b"`:                        {"version", `"a b"`, "white space"},
		"version `a\"b`":                       {"version", `a\"b`, "quote"},
		`version "{a} {b}"`:                    {"version", `"{a} {b}"`, "white space"},
		"existing drop":                        {"existing", `"drop"`, "keep", "replace"},
		"canonicalize xml":                     {"canonicalize", `"xml"`, "json"},
		"canonicalize json":                    {"canonicalize", `"json"`, "strong", "weak"},
		"ignore_json /a":                       {"ignore_json", `"/a"`, "strong", "weak"},
		"ignore_pattern a":                     {"ignore_pattern", `"a"`, "strong", "weak"},
		"ignore_json":                          {"rgument"},
		"ignore_json a":                        {"ignore_json", `"a"`, "JSON Pointer"},
		"ignore_json /ok /a~2":                 {"ignore_json", `"/a~2"`, "~0", "~1"},
		"ignore_pattern (":                     {"ignore_pattern", `"("`, "RE2"},
		"ignore_pattern a*":                    {"ignore_pattern", `"a*"`, "empty"},
		"canonicalize json\ncanonicalize json": {"canonicalize", "twice"},
		"ignore_json /a\nignore_json /b":       {"ignore_json", "twice"},
		"max_size big":                         {"max_size", `"big"`, "8MiB"},
		"max_size 0":                           {"max_size", `"0"`, "8MiB"},
		"max_size -1":                          {"max_size", `"-1"`, "8MiB"},
		"max_memory none":                      {"max_memory", `"none"`, "8MiB"},
		"max_delay 0":                          {"max_delay", `"0"`, "500ms", "-1"},
		"max_delay -5s":                        {"max_delay", `"-5s"`, "500ms", "-1"},
		"oversize drop":                        {"oversize", `"drop"`, "pass", "trailer"},
		"if_match":                             {"rgument"},
		"if_match GET":                         {"if_match", `"GET"`, "PUT"},
		"if_match PUT HEAD":                    {"if_match", `"HEAD"`, "PUT"},
		"if_match OPTIONS":                     {"if_match", `"OPTIONS"`, "PUT"},
		"if_match TRACE":                       {"if_match", `"TRACE"`, "PUT"},
		"if_match CONNECT":                     {"if_match", `"CONNECT"`, "PUT"},
		"if_match UPSERT":                      {"if_match", `"UPSERT"`, "PUT", "PATCH"},
		"require_if_match POST":                {"require_if_match", `"POST"`, "PUT, PATCH, DELETE"},
		"weak_if_match maybe":                  {"weak_if_match", `"maybe"`, "auto", "reject", "accept"},
		"lock":                                 {"rgument"},
		"lock redis":                           {"lock", `"redis"`, "local", "storage", "off", "http.etag.locks"},
		"lock local soon":                      {"lock", `"soon"`, "10s"},
		"lock local -1s":                       {"lock", `"-1s"`, "10s"},
		"lock local 1s 2s":                     {"rgument"},
		"lock local {\nx y\n}":                 {"lock local", "no options"},
		"lock test {\nx y\n}":                  {"unrecognized option", `"x"`},
		"write_tag yes":                        {"write_tag", `"yes"`, "on", "off"},
		"errors html":                          {"errors", `"html"`, "problem", "handle"},
		"match status abc":                     {"status", "abc"},
		"match unknown x":                      {"unknown"},
		"length 16\nlength 16":                 {"length", "twice"},
		"algorithm xxh3\nlength 34":            {"length", "34", "16", "32", "xxh3"},
		"match status 200\nmatch status 201":   {"match", "twice"},
	} {
		message := refusal(t, "etag {\n"+options+"\n}")
		for _, part := range parts {
			require.Contains(t, message, part, options)
		}
	}
	for site, parts := range map[string][]string{
		"etag medium":      {"strength", `"medium"`, "strong", "weak"},
		"etag strong weak": {"etag", "rgument"},
	} {
		message := refusal(t, site)
		for _, part := range parts {
			require.Contains(t, message, part, site)
		}
	}
}

// TestOptionsTakeOneArgument each.
func TestOptionsTakeOneArgument(t *testing.T) {
	for _, option := range []string{
		"algorithm", "length", "version", "existing", "cache_control", "canonicalize", "ignore_pattern", "max_size",
		"max_memory", "max_delay", "oversize", "weak_if_match", "write_tag", "errors",
	} {
		for _, arguments := range []string{"", " sha256 16"} {
			message := refusal(t, "etag {\n"+option+arguments+"\n}")
			require.Contains(t, strings.ToLower(message), "argument", option)
		}
	}
}
