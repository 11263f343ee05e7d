package etag

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestReadThroughReverseProxy(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("hello"))
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)

	first := get(t, url)
	require.Equal(t, 200, first.status)
	require.Equal(t, `"2cf24dba5fb0a30e26e83b2ac5b9e29e"`, first.tag())
	require.Equal(t, "hello", first.body)

	second := get(t, url, "If-None-Match", first.tag())
	require.Equal(t, 304, second.status)
	require.Empty(t, second.body)
	require.Equal(t, first.tag(), second.tag())
}

// startEveryBackend returns a site with a path for each kind of handler that
// makes responses. They all have longText, and all but /file.txt our tag.
func startEveryBackend(tb testing.TB, options string) (site string, paths []string) {
	tb.Helper()
	upstream := startUpstream(tb, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", strconv.Itoa(len(longText)))
		}
		for line := range strings.SplitAfterSeq(longText, ".") {
			_, _ = io.WriteString(w, line)
			if r.URL.Path == "/chunked" {
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
	dir := tb.TempDir()
	for _, name := range []string{"file.txt", "template.html"} {
		require.NoError(tb, os.WriteFile(filepath.Join(dir, name), []byte(longText), 0o600))
	}
	site = options + `
		etag
		root ` + dir + `
		@upstream path /length /chunked
		handle @upstream {
			reverse_proxy ` + upstream + `
		}
		handle /respond {
			respond "` + longText + `"
		}
		handle /template.html {
			templates
			file_server
		}
		handle {
			file_server
		}`
	return site, []string{"/length", "/chunked", "/respond", "/template.html", "/file.txt"}
}

// TestReadsOfEveryBackendOverEveryProtocol has the main job, with and without
// a compressing encode in front.
func TestReadsOfEveryBackendOverEveryProtocol(t *testing.T) {
	for _, options := range []string{"", "encode gzip"} {
		site, paths := startEveryBackend(t, options)
		check := func(protocol, url string, client *http.Client) {
			for _, path := range paths {
				t.Run(strings.Join([]string{protocol, options, path}, " "), func(t *testing.T) {
					tag := tagFor(longText)
					if path == "/file.txt" {
						tag = do(t, client, http.MethodGet, url+path, "").tag()
						require.NotEqual(t, tagFor(longText), tag)
					}
					checkReads(t, client, url+path, longText, tag)
					if options != "" {
						checkCompressedReads(t, client, url+path, tag)
					}
				})
			}
		}

		url, roots := startTLS(t, site)
		for _, protocol := range []string{"h1", "h2", "h3"} {
			check(protocol, url, clientFor(t, protocol, roots))
		}
		check("h2c", startCaddy(t, site), clientFor(t, "h2c", nil))
	}
}

// checkReads checks GET and HEAD without a coding, and their 304 and 412.
func checkReads(t *testing.T, client *http.Client, url, body, tag string) {
	t.Helper()
	full := do(t, client, http.MethodGet, url, "")
	require.NoError(t, full.err)
	require.Equal(t, 200, full.status)
	require.Equal(t, body, full.body)
	require.Equal(t, tag, full.tag())

	head := do(t, client, http.MethodHead, url, "")
	require.Equal(t, 200, head.status)
	require.Equal(t, withoutDate(full.header), withoutDate(head.header))

	for _, method := range []string{http.MethodGet, http.MethodHead} {
		res := do(t, client, method, url, "", "If-None-Match", `"other", W/`+tag)
		require.Equal(t, 304, res.status)
		require.Equal(t, tag, res.tag())
		require.Empty(t, res.body)

		res = do(t, client, method, url, "", "If-Match", tag, "If-None-Match", `"other"`)
		require.Equal(t, 200, res.status)

		res = do(t, client, method, url, "", "If-Match", "W/"+tag)
		require.Equal(t, 412, res.status)
		require.Equal(t, tag, res.tag())
		require.Equal(t, "application/problem+json", res.header.Get("Content-Type"))
		require.Equal(t, method == http.MethodHead, res.body == "")
	}
}

// checkCompressedReads checks that encode's suffix does not make a tag
// foreign, where the client can read what it is the tag of.
func checkCompressedReads(t *testing.T, client *http.Client, url, tag string) {
	t.Helper()
	compressed := do(t, client, http.MethodGet, url, "", "Accept-Encoding", "gzip")
	require.Equal(t, 200, compressed.status)
	require.Equal(t, "gzip", compressed.header.Get("Content-Encoding"))
	require.Equal(t, withSuffix(tag, "-gzip"), compressed.tag())

	same := do(t, client, http.MethodGet, url, "", "Accept-Encoding", "gzip", "If-None-Match", compressed.tag())
	require.Equal(t, 304, same.status)
	require.Equal(t, tag, same.tag(), "encode leaves the tag of a 304 alone, here as behind a file_server")
	if tag == tagFor(longText) {
		other := do(t, client, http.MethodGet, url, "", "Accept-Encoding", "zstd, gzip;q=0.5", "If-None-Match", compressed.tag())
		require.Equal(t, 304, other.status)
		require.Equal(t, tag, other.tag())
		other = do(t, client, http.MethodGet, url, "", "Accept-Encoding", "identity", "If-None-Match", compressed.tag())
		require.Equal(t, 200, other.status)
		require.Equal(t, tag, other.tag())
	}
}

// TestOtherMethodsPassUntouched: preconditions of a POST or OPTIONS are none
// of the handler's business.
func TestOtherMethodsPassUntouched(t *testing.T) {
	var got http.Header
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		_, _ = io.WriteString(w, "hello")
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	for _, method := range []string{"POST", "OPTIONS"} {
		res := do(t, clientFor(t, "h1", nil), method, url, "", "If-Match", `"x"`, "If-None-Match", "*")
		require.Equal(t, 200, res.status)
		require.Empty(t, res.tag())
		require.Equal(t, `"x"`, got.Get("If-Match"))
	}
}

// TestRequestIsAsItWasAfterwards, for the handlers in front and for the log,
// even where the handler panics.
func TestRequestIsAsItWasAfterwards(t *testing.T) {
	h := newHandler(t, Handler{})
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, broken := range []bool{false, true} {
			r := httptest.NewRequest(method, "/", nil)
			addFields(r.Header, []string{
				"If-Match", `"a"`, "If-Match", `"b"`, "If-None-Match", `"c"`, "Range", "bytes=0-1", "If-Range", `"d"`,
				"If-Modified-Since", "x", "If-Unmodified-Since", "y", "Accept", "z",
			})
			header, ctx := r.Header.Clone(), r.Context()
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				assert.Equal(t, method, r.Method)
				assert.NotContains(t, r.Header, "If-Match")
				if broken {
					panic("broken")
				}
				return nil
			})
			if broken {
				require.Panics(t, func() { _ = h.ServeHTTP(httptest.NewRecorder(), r, next) })
			} else {
				require.NoError(t, h.ServeHTTP(httptest.NewRecorder(), r, next))
			}
			require.Equal(t, method, r.Method)
			require.Equal(t, header, r.Header)
			require.Equal(t, ctx, r.Context())
		}
	}
}

// TestHandlerIsAMiddleware: what is behind it sees the request of the one who
// asked, and its error comes back.
func TestHandlerIsAMiddleware(t *testing.T) {
	var _ caddyhttp.MiddlewareHandler = new(Handler)
	_, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, r *http.Request) error {
		return caddyhttp.Error(http.StatusTeapot, errOfHandler)
	}, http.MethodGet)
	var handlerErr caddyhttp.HandlerError
	require.ErrorAs(t, err, &handlerErr)
	require.Equal(t, http.StatusTeapot, handlerErr.StatusCode)
}

// TestExampleSite is Caddyfile.example as it stands, but for the port.
func TestExampleSite(t *testing.T) {
	caddyfile, err := os.ReadFile("Caddyfile.example")
	require.NoError(t, err)
	port := freePort(t)
	load(t, "{\nadmin off\npersist_config off\nlog {\nlevel PANIC\n}\n}\n"+
		strings.Replace(string(caddyfile), "http://localhost:8080 {", "http://127.0.0.1:"+port+" {\nbind 127.0.0.1", 1))
	t.Cleanup(stopCaddy)
	for path, want := range map[string]int{
		"/": 200, "/template": 200, "/api/products/1": 200,
		"/nothing": 404, "/template/": 404, "/api/products/2": 404,
	} {
		res := get(t, "http://127.0.0.1:"+port+path)
		require.Equal(t, want, res.status, path)
		require.Equal(t, want == 200, res.tag() != "", path)
		require.NotEmpty(t, res.body, path)
	}
}
