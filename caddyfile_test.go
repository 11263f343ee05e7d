package etag

import (
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
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
		"etag {\nlock off\n}":                             `{"handler": "etag", "lock": {"module": "off"}}`,
		"etag {\nlock storage\n}":                         `{"handler": "etag", "lock": {"module": "storage"}}`,
		"etag {\nlock local 30s\n}":                       `{"handler": "etag", "lock": {"module": "local"}, "lock_timeout": 30000000000}`,
		"etag {\nlock local 30s 5m\n}": `{"handler": "etag", "lock": {"module": "local"}, "lock_timeout": 30000000000,
			"lock_hold": 300000000000}`,
		"etag {\nif_match off\n}": `{"handler": "etag", "if_match": ["off"]}`,
		"etag {\nlock test 1s {\ngreeting hi\n}\n}": `{"handler": "etag", "lock": {"module": "test", "greeting": "hi"},
			"lock_timeout": 1000000000}`,
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
