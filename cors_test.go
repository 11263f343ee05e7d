package etag

import (
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTagOfOursIsExposedToOtherOrigins, on every response that has one, and the
// backend's own is the backend's business.
func TestTagOfOursIsExposedToOtherOrigins(t *testing.T) {
	const allow = "Access-Control-Allow-Origin"
	for name, test := range map[string]struct {
		origin  string
		header  http.Header
		exposed string
	}{
		"allowed by the backend":         {"", http.Header{allow: {"*"}}, "ETag"},
		"may be allowed by a handler":    {"https://app.example", nil, "ETag"},
		"of the same origin":             {"", nil, ""},
		"exposes others":                 {"https://app.example", http.Header{allow: {"*"}, exposeHeaders: {"X-A, X-B"}}, "X-A, X-B,ETag"},
		"exposes it in another spelling": {"https://app.example", http.Header{allow: {"*"}, exposeHeaders: {"X-A, etag"}}, "X-A, etag"},
		"exposes all":                    {"https://app.example", http.Header{allow: {"https://app.example"}, exposeHeaders: {"*"}}, "*,ETag"},
		"a tag of its own":               {"https://app.example", http.Header{allow: {"*"}, "Etag": {`"own"`}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				maps.Copy(w.Header(), test.header)
				_, _ = io.WriteString(w, "one")
			})
			url := startCaddy(t, "etag\nreverse_proxy "+upstream)
			client := clientFor(t, "h1", nil)
			var fields []string
			if test.origin != "" {
				fields = []string{"Origin", test.origin}
			}
			exposed := func(status int, method string, more ...string) {
				t.Helper()
				res := do(t, client, method, url, map[string]string{"PUT": "one"}[method], append(more, fields...)...)
				require.Equal(t, status, res.status)
				require.Equal(t, test.exposed, strings.Join(res.header[exposeHeaders], ","))
			}
			tag := get(t, url).tag()
			exposed(200, "GET")
			exposed(200, "HEAD")
			exposed(304, "GET", "If-None-Match", tag)
			exposed(412, "GET", "If-Match", `"x"`)
			exposed(200, "PUT", "If-Match", tag)
			exposed(412, "PUT", "If-Match", `"x"`)
			preflight := do(t, client, "OPTIONS", url, "", "Origin", "https://app.example", "Access-Control-Request-Method", "PUT")
			require.Equal(t, test.header[exposeHeaders], preflight.header[exposeHeaders])
		})
	}
}
