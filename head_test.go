package etag

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// These tests are about HEAD: what of it goes downstream, and what comes back.

// startScript runs a backend that notes its requests as a store does, and
// answers them all with a script.
func startScript(tb testing.TB, script http.HandlerFunc) (s *store, upstream string) {
	tb.Helper()
	s = newStore(nil)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		script(w, r)
		return true
	}
	return s, s.start(tb)
}

// fields is header fields in pairs of name and value.
type fields []string

// byMethod is a backend that answers a HEAD otherwise than a GET. A body of
// the GET is that of its status, but for hello of a 200.
func byMethod(headStatus int, head fields, getStatus int, get fields) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			addFields(w.Header(), head)
			w.WriteHeader(headStatus)
			return
		}
		addFields(w.Header(), get)
		w.WriteHeader(getStatus)
		if getStatus == http.StatusOK {
			_, _ = io.WriteString(w, "hello")
		}
	}
}

// TestHeadGoesDownstreamAsHead, and a GET follows it only where that makes or
// judges a tag.
func TestHeadGoesDownstreamAsHead(t *testing.T) {
	hello := tagFor("hello")
	get := fields{"X-Of", "get", "Content-Type", "text/plain"}
	large := strconv.Itoa(2 << 10)
	tests := []struct {
		name    string
		options string
		backend http.HandlerFunc
		sends   fields
		seen    string
		status  int
		has     fields // of the response; "" is a field that it has not
	}{
		// those whose answer is the backend's
		{"object store that signs the method", "", byMethod(200, fields{"ETag", `"own"`, "Content-Length", "5", "X-Of", "head"}, 403, nil), nil, "HEAD", 200, fields{"ETag", `"own"`, "Content-Length", "5", "X-Of", "head"}},
		{"object store, not modified", "", byMethod(200, fields{"ETag", `"own"`}, 403, nil), fields{"If-None-Match", `"own"`}, "HEAD", 304, fields{"ETag", `"own"`}},
		{"object store, another tag", "", byMethod(200, fields{"ETag", `"own"`}, 403, nil), fields{"If-None-Match", `"x"`}, "HEAD", 200, fields{"ETag", `"own"`}},
		{"object store, failed", "", byMethod(200, fields{"ETag", `"own"`}, 403, nil), fields{"If-Match", `"x"`}, "HEAD", 412, fields{"ETag", `"own"`}},
		{"object store, holds", "", byMethod(200, fields{"ETag", `"own"`}, 403, nil), fields{"If-Match", `"own"`}, "HEAD", 200, fields{"ETag", `"own"`}},
		{"tus", "", byMethod(200, fields{"Upload-Offset", "5", "Cache-Control", "no-store"}, 405, nil), nil, "HEAD", 200, fields{"Upload-Offset", "5", "ETag", ""}},
		{"registry", "", byMethod(307, fields{"Location", "/head"}, 307, fields{"Location", "/get"}), nil, "HEAD", 307, fields{"Location", "/head"}},
		{"registry, with a condition", "", byMethod(307, fields{"Location", "/head"}, 307, fields{"Location", "/get"}), fields{"If-None-Match", hello}, "HEAD", 307, fields{"Location", "/head"}},
		{"404", "", byMethod(404, fields{"X-Of", "head"}, 200, get), nil, "HEAD", 404, fields{"X-Of", "head", "ETag", ""}},
		{"404, with a condition", "", byMethod(404, fields{"X-Of", "head"}, 200, get), fields{"If-Match", `"x"`}, "HEAD", 404, fields{"X-Of", "head", "ETag", ""}},
		{"405", "", byMethod(405, fields{"Allow", "GET"}, 200, get), nil, "HEAD", 405, fields{"Allow", "GET", "ETag", ""}},
		{"204", "", byMethod(204, nil, 200, get), nil, "HEAD", 204, fields{"ETag", ""}},
		{"stream", "", byMethod(200, fields{"Content-Type", "text/event-stream"}, 200, get), nil, "HEAD", 200, fields{"Content-Type", "text/event-stream", "ETag", ""}},
		{"length past max_size", "max_size 1KiB", byMethod(200, fields{"Content-Length", large, "X-Of", "head"}, 200, get), nil, "HEAD", 200, fields{"Content-Length", large, "X-Of", "head", "ETag", ""}},
		{"header that match does not take", "match header X-Of get", byMethod(200, fields{"X-Of", "head"}, 200, get), nil, "HEAD", 200, fields{"X-Of", "head", "ETag", ""}},
		{"304 of the backend's", "", byMethod(304, fields{"ETag", `"own"`}, 200, get), fields{"If-None-Match", `"own"`}, "HEAD", 304, fields{"ETag", `"own"`}},

		// those whose answer is the GET's
		{"no tag", "", byMethod(200, fields{"X-Of", "head"}, 200, get), nil, "HEAD GET", 200, fields{"ETag", hello, "Content-Length", "5", "X-Of", "get", "Content-Type", "text/plain"}},
		{"no tag, and a length", "", byMethod(200, fields{"Content-Length", "7"}, 200, get), nil, "HEAD GET", 200, fields{"ETag", hello, "Content-Length", "5"}},
		{"invalid tag", "", byMethod(200, fields{"ETag", "own"}, 200, get), nil, "HEAD GET", 200, fields{"ETag", hello}},
		{"replaced tag", "existing replace", byMethod(200, fields{"ETag", `"own"`}, 200, fields{"ETag", `"own"`}), nil, "HEAD GET", 200, fields{"ETag", hello}},
		{"no tag, not modified", "", byMethod(200, nil, 200, get), fields{"If-None-Match", hello}, "HEAD GET", 304, fields{"ETag", hello, "X-Of", "get", "Content-Length", ""}},
		{"no tag, failed", "", byMethod(200, nil, 200, get), fields{"If-Match", `"x"`}, "HEAD GET", 412, fields{"ETag", hello}},
		{"no tag, holds", "", byMethod(200, nil, 200, get), fields{"If-Match", hello}, "HEAD GET", 200, fields{"ETag", hello, "Content-Length", "5"}},
		{"a tag of its own on GET alone", "", byMethod(200, nil, 200, fields{"ETag", `"own"`}), nil, "HEAD GET", 200, fields{"ETag", `"own"`}},
		{"a tag of its own on GET alone, not modified", "", byMethod(200, nil, 200, fields{"ETag", `"own"`}), fields{"If-None-Match", `"own"`}, "HEAD GET", 304, fields{"ETag", `"own"`}},
		{"GET refused", "", byMethod(200, nil, 403, get), nil, "HEAD GET", 403, fields{"X-Of", "get", "ETag", ""}},
		{"GET that is no store", "", byMethod(200, nil, 200, fields{"Cache-Control", "no-store"}), nil, "HEAD GET", 200, fields{"Cache-Control", "no-store", "ETag", ""}},
		{"GET past max_size", "max_size 4", byMethod(200, nil, 200, get), nil, "HEAD GET", 200, fields{"X-Of", "get", "Content-Length", "5", "ETag", ""}},
		{"tag of GET alone to be judged by", "match header X-Of get", byMethod(200, fields{"X-Of", "head"}, 200, get), fields{"If-None-Match", hello}, "HEAD GET", 304, fields{"ETag", hello}},
		{"204 with a condition", "", byMethod(204, nil, 200, get), fields{"If-Match", `"x"`}, "HEAD GET", 412, fields{"ETag", hello}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, upstream := startScript(t, test.backend)
			url := startCaddy(t, "etag {\n"+test.options+"\n}\nreverse_proxy "+upstream)
			for _, protocol := range []string{"h1", "h2c"} {
				res := do(t, clientFor(t, protocol, nil), http.MethodHead, url, "", test.sends...)
				require.NoError(t, res.err)
				require.Equal(t, test.seen, s.seen(), protocol)
				require.Equal(t, test.status, res.status, protocol)
				require.Empty(t, res.body)
				for i := 0; i < len(test.has); i += 2 {
					require.Equal(t, test.has[i+1], res.header.Get(test.has[i]), "%s: %s", protocol, test.has[i])
				}
			}
		})
	}
}

// TestHeadOfABackendThatIsGoneBeforeItsGet: nothing is said that the GET did
// not say.
func TestHeadOfABackendThatIsGoneBeforeItsGet(t *testing.T) {
	for _, length := range []string{"", "100"} {
		_, upstream := startScript(t, func(w http.ResponseWriter, r *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			if r.Method != http.MethodHead {
				_, _ = io.WriteString(w, "a part")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		})
		url := startCaddy(t, "etag\nreverse_proxy "+upstream)
		for _, protocol := range []string{"h1", "h2c"} {
			res, err := try(clientFor(t, protocol, nil), http.MethodHead, url, "")
			if err == nil {
				require.NotEqual(t, 200, res.status)
				require.Empty(t, res.tag())
			}
		}
	}
}

// TestHeadSendsWhatItsGetSends: the chain is run through twice, and neither
// what it adds to the response nor what it does to the request is there twice.
func TestHeadSendsWhatItsGetSends(t *testing.T) {
	tests := []struct {
		name string
		site string // %s is the backend
		path string // that the backend sees
		has  fields
	}{
		{"header above", "header +X-Count 1\netag\nreverse_proxy %s", "/a/doc", fields{"X-Count", "1"}},
		{"header below", "route {\netag\nheader +X-Count 1\nreverse_proxy %s\n}", "/a/doc", fields{"X-Count", "1"}},
		{"header above and below", "header +X-Count 1\nroute {\netag\nheader +X-Count 2\nreverse_proxy %s\n}", "/a/doc", fields{"X-Count", "1", "X-Count", "2"}},
		{"deferred header below", "route {\netag\nheader {\n+X-Count 1\ndefer\n}\nreverse_proxy %s\n}", "/a/doc", fields{"X-Count", "1"}},
		{"deferred header above", "route {\nheader {\n+X-Count 1\ndefer\n}\netag\nreverse_proxy %s\n}", "/a/doc", fields{"X-Count", "1"}},
		{"header_down", "etag\nreverse_proxy %s {\nheader_down +X-Count 1\n}", "/a/doc", fields{"X-Count", "1"}},
		{"encode above", "encode gzip\netag\nreverse_proxy %s", "/a/doc", nil},
		{"handle", "route {\netag\nhandle /a/* {\nheader +X-Count a\nreverse_proxy %[1]s\n}\nhandle {\nheader +X-Count other\nreverse_proxy %[1]s\n}\n}", "/a/doc", fields{"X-Count", "a"}},
		{"handle_path", "route {\netag\nhandle_path /a/* {\nheader +X-Count a\nreverse_proxy %[1]s\n}\nhandle {\nheader +X-Count other\nreverse_proxy %[1]s\n}\n}", "/doc", fields{"X-Count", "a"}},
		{"etag in handle", "handle /a/* {\netag\nreverse_proxy %[1]s\n}\nhandle {\nrespond other\n}", "/a/doc", nil},
		{"rewrite above", "rewrite /b{uri}\netag\nreverse_proxy %s", "/b/a/doc", nil},
		{"rewrite below", "route {\netag\nrewrite /b{uri}\nreverse_proxy %s\n}", "/b/a/doc", nil},
		{"strip_prefix above", "uri strip_prefix /a\netag\nreverse_proxy %s", "/doc", nil},
		{"strip_prefix below", "route {\netag\nuri strip_prefix /a\nreverse_proxy %s\n}", "/doc", nil},
		{"prefix stripped twice", "route {\netag\nuri path_regexp ^/. \"\"\nuri strip_prefix /doc\nrewrite /x{uri}\nreverse_proxy %s\n}", "/x/", nil},
		{"variables above", "vars n x\nroute {\netag\nvars n {http.vars.n}y\nheader X-Count {http.vars.n}\nreverse_proxy %s\n}", "/a/doc", fields{"X-Count", "xy"}},
		{"variables below", "route {\netag\nvars n {http.vars.n}y\nheader X-Count {http.vars.n}\nreverse_proxy %s\n}", "/a/doc", fields{"X-Count", "y"}},
		{"request_header below", "route {\netag\nrequest_header +X-Echo 1\nreverse_proxy %s\n}", "/a/doc", fields{"X-Echoed", "1"}},
		{"two etag handlers", "etag\nroute {\netag\nheader +X-Count 1\nreverse_proxy %s\n}", "/a/doc", fields{"X-Count", "1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, upstream := startScript(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Add("Set-Cookie", "a=b")
				w.Header().Add("Vary", "Accept")
				w.Header().Set("X-Path", r.URL.Path)
				w.Header().Set("X-Echoed", strings.Join(r.Header.Values("X-Echo"), " "))
				_, _ = io.WriteString(w, "hello")
			})
			url := startCaddy(t, fmt.Sprintf(test.site+"\n# %[1]s", upstream)) + "/a/doc"
			want := make(http.Header)
			addFields(want, append(fields{"Set-Cookie", "a=b", "X-Path", test.path}, test.has...))
			for _, protocol := range []string{"h1", "h2c"} {
				client := clientFor(t, protocol, nil)
				full := do(t, client, http.MethodGet, url, "")
				require.Equal(t, 200, full.status)
				s.seen()
				head := do(t, client, http.MethodHead, url, "")
				require.Equal(t, "HEAD GET", s.seen())
				require.Equal(t, tagFor("hello"), head.tag())
				require.Equal(t, withoutDate(full.header), withoutDate(head.header), protocol)
				for name, lines := range want {
					require.Equal(t, lines, head.header.Values(name), name)
				}

				same := do(t, client, http.MethodHead, url, "", "If-None-Match", head.tag())
				require.Equal(t, 304, same.status)
				for name, lines := range want {
					require.Equal(t, lines, same.header.Values(name), name)
				}
				s.seen()
			}
		})
	}
}

// TestHeadOfACaddyHandlerIsThatOfItsGet: each makes a HEAD's header in its own
// way. templates has nothing to work on, and says that its length is zero.
func TestHeadOfACaddyHandlerIsThatOfItsGet(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"file.txt", "template.html"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("hello"), 0o600))
	}
	url := startCaddy(t, `etag
		root `+dir+`
		templates /template.html
		respond /respond hello
		file_server browse`)
	for _, path := range []string{"/file.txt", "/template.html", "/respond", "/"} {
		for _, protocol := range []string{"h1", "h2c"} {
			client := clientFor(t, protocol, nil)
			// the listing in HTML has a nonce
			full := do(t, client, http.MethodGet, url+path, "", "Accept", "application/json")
			head := do(t, client, http.MethodHead, url+path, "", "Accept", "application/json")
			require.Equal(t, full.status, head.status, path)
			require.Equal(t, withoutDate(full.header), withoutDate(head.header), path)
			require.NotEmpty(t, head.tag(), path)
		}
	}
}

// TestGetThatFollowsAHeadIsTold from the client's own requests, and is all
// else that the HEAD was.
func TestGetThatFollowsAHeadIsTold(t *testing.T) {
	s, upstream := startScript(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	url := startCaddy(t, `@internal vars {http.vars.etag_internal} true
	route {
		etag
		request_header @internal X-Matched yes
		reverse_proxy `+upstream+` {
			header_up X-Internal {http.vars.etag_internal}
		}
	}`)
	for _, protocol := range []string{"h1", "h2c"} {
		res := do(t, clientFor(t, protocol, nil), http.MethodHead, url+"/doc?q=1", "",
			"Authorization", "Bearer t", "Cookie", "c=1", "Accept", "text/plain", "Range", "bytes=0-1")
		require.Equal(t, 200, res.status)
		require.Equal(t, tagFor("hello"), res.tag())
		head, get := s.last(t, http.MethodHead), s.last(t, http.MethodGet)
		require.Equal(t, "HEAD GET", s.seen())
		require.Equal(t, []string{"", ""}, []string{head.Header.Get("X-Internal"), head.Header.Get("X-Matched")})
		require.Equal(t, []string{"true", "yes"}, []string{get.Header.Get("X-Internal"), get.Header.Get("X-Matched")})
		require.NotContains(t, get.Header, "Range", "the whole is what the tag is of")
		for _, r := range []*http.Request{head, get} {
			require.Equal(t, "/doc?q=1", r.RequestURI)
			for name, value := range map[string]string{"Authorization": "Bearer t", "Cookie": "c=1", "Accept": "text/plain"} {
				require.Equal(t, []string{value}, r.Header.Values(name))
			}
		}
	}
}

// TestHeadIsAHeadForTheAccessLog, and a write by the tag that it had passes.
func TestHeadIsAHeadForTheAccessLog(t *testing.T) {
	s := newStore(map[string]string{"/doc": "one"})
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead {
			s.get(w, r)
			return true
		}
		return false
	}
	file := filepath.Join(t.TempDir(), "access.log")
	url := startCaddy(t, "log {\noutput file "+file+"\n}\netag\nreverse_proxy "+s.start(t))
	client := clientFor(t, "h1", nil)
	head := do(t, client, http.MethodHead, url+"/doc", "")
	require.Equal(t, oneTag, head.tag())
	require.Equal(t, 204, do(t, client, http.MethodPut, url+"/doc", "two", "If-Match", head.tag()).status)
	require.Equal(t, "HEAD GET GET PUT GET", s.seen())
	stopCaddy()
	require.Contains(t, readLines(t, file)[0], `"method":"HEAD"`)
}

// TestHeadIsJudgedByWhatItsClientSent, whatever a handler further down makes of
// the request.
func TestHeadIsJudgedByWhatItsClientSent(t *testing.T) {
	_, upstream := startScript(t, byMethod(200, nil, 200, fields{"Content-Type", "text/plain"}))
	for _, change := range []string{"request_header -If-None-Match", "request_header If-None-Match *", "method GET", "method POST"} {
		url := startCaddy(t, "route {\netag\n"+change+"\nreverse_proxy "+upstream+"\n}")
		client := clientFor(t, "h1", nil)
		require.Equal(t, 304, do(t, client, "HEAD", url, "", "If-None-Match", tagFor("hello")).status, change)
		res := do(t, client, "HEAD", url, "", "If-None-Match", `"other"`)
		require.Equal(t, 200, res.status, change)
		require.Empty(t, res.body)
	}
}

// TestHeadOfAStatusThatTheMatcherTakesHasTheTagOfItsGet.
func TestHeadOfAStatusThatTheMatcherTakesHasTheTagOfItsGet(t *testing.T) {
	_, upstream := startScript(t, byMethod(404, nil, 404, nil))
	url := startCaddy(t, "header >X-Outcome \"{http.etag.outcome} {http.etag.reason}\"\netag {\nmatch status 200 404\n}\nreverse_proxy "+upstream)
	client := clientFor(t, "h1", nil)
	for _, method := range []string{"GET", "HEAD"} {
		res := do(t, client, method, url, "")
		require.Equal(t, 404, res.status)
		require.Equal(t, tagFor(""), res.tag(), method)
		require.Equal(t, "tagged", res.header.Get("X-Outcome"), method)
	}
}
