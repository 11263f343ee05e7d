package etag

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// These tests are about what a client is told, and about what of its
// preconditions the backend is told.

// TestRefusalIsReadableFromAnotherOrigin: a script that is refused must see
// that it is, and with which tag it may try again.
func TestRefusalIsReadableFromAnotherOrigin(t *testing.T) {
	const origin = "https://app.example"
	tests := map[string]struct {
		get, status int
		fields      []string
	}{
		"stale":       {200, 412, []string{"If-Match", `"other"`}},
		"exists":      {200, 412, []string{"If-None-Match", "*"}},
		"unreadable":  {302, 412, []string{"If-Match", "*"}},
		"relayed 403": {403, 403, []string{"If-Match", "*"}},
		"relayed 404": {404, 404, []string{"If-Match", "*"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := startGuarded(t, "")
			g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
				w.Header().Set("Access-Control-Allow-Credentials", "true")
				w.Header().Set("Access-Control-Expose-Headers", "X-Request-Id")
				w.Header().Set("Vary", "Origin")
				w.Header().Set("Set-Cookie", "session=of-a-get")
				w.WriteHeader(test.get)
				_, _ = io.WriteString(w, "one")
				return true
			})
			res := g.do("PUT", "/doc", "two", append(test.fields, "Origin", origin)...)
			require.Equal(t, test.status, res.status)
			require.Equal(t, []string{origin}, res.header.Values("Access-Control-Allow-Origin"))
			require.Equal(t, []string{"true"}, res.header.Values("Access-Control-Allow-Credentials"))
			require.Contains(t, strings.Join(res.header.Values("Vary"), ", "), "Origin")
			exposed := strings.Join(res.header.Values("Access-Control-Expose-Headers"), ", ")
			require.Contains(t, exposed, "X-Request-Id")
			if res.status == 412 {
				require.Empty(t, res.header.Get("Set-Cookie"), "that is the GET's")
			}
			if test.get == 200 {
				require.Equal(t, oneTag, res.tag())
				require.Contains(t, exposed, "ETag")
			}
		})
	}
}

// TestTagIsThatOfTheResourceThatWasWrittenTo, and of a write that is done.
func TestTagIsThatOfTheResourceThatWasWrittenTo(t *testing.T) {
	tests := []struct {
		method   string
		status   int
		location string
		tag      string // "may": the new one or none
	}{
		{"PATCH", 200, "", tagFor("onetwo")},
		{"PATCH", 202, "", ""},
		{"PUT", 202, "", ""},
		{"PATCH", 201, "/other", ""},
		{"PUT", 201, "/other", ""},
		{"PATCH", 201, "http://elsewhere.example/doc", ""},
		{"PATCH", 201, "/doc/2", ""},
		{"PUT", 201, "/doc", "may"},
		{"PUT", 204, "", tagFor("two")},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.method, test.status, test.location), func(t *testing.T) {
			g := startGuarded(t, "")
			g.replies(func(w http.ResponseWriter, _ *http.Request) {
				if test.location != "" {
					w.Header().Set("Location", test.location)
				}
				w.WriteHeader(test.status)
			})
			res := g.do(test.method, "/doc", "two", "If-Match", oneTag)
			require.Equal(t, test.status, res.status)
			if test.tag == "may" {
				require.Contains(t, []string{"", tagFor("two")}, res.tag())
			} else {
				require.Equal(t, test.tag, res.tag())
			}
		})
	}
}

// TestIfMatchGoesOnAsTheBackendsTagIs, so that the backend can check it again
// together with its write; and never as a tag that it can't know.
func TestIfMatchGoesOnAsTheBackendsTagIs(t *testing.T) {
	const accept = "weak_if_match accept"
	withEncode := strings.TrimSuffix(oneTag, `"`) + `-gzip"`
	tests := []struct {
		name    string
		options string
		own     string // the backend's tag
		sent    string
		goesOn  string // "refused": nothing does
	}{
		{"as it is", "", `"x"`, `"x"`, `"x"`},
		{"suffix of encode", "", `"x"`, `"x-gzip"`, `"x"`},
		{"another suffix of encode", "", `"x"`, `"x-zstd"`, `"x"`},
		{"a suffix that it has itself", "", `"x-gzip"`, `"x-gzip"`, `"x-gzip"`},
		{"a suffix of others", "", `"x"`, `"x-br"`, "refused"},
		{"weakened, auto", "", `"x"`, `W/"x"`, "refused"},
		{"weakened, accept", accept, `"x"`, `W/"x"`, `"x"`},
		{"weakened with a suffix, accept", accept, `"x"`, `W/"x-gzip"`, `"x"`},
		{"weak itself", "", `W/"x"`, `W/"x"`, `W/"x"`},
		{"weak itself, sent as a strong one", "", `W/"x"`, `"x"`, `W/"x"`},
		{"any", "", `"x"`, "*", "*"},
		{"any, ours", "", "", "*", "*"},
		{"ours", "", "", oneTag, ""},
		{"ours with a suffix", "", "", withEncode, ""},
		{"ours weakened, accept", accept, "", "W/" + oneTag, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := startGuarded(t, test.options+"\nwrite_tag off")
			g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet && test.own != "" {
					w.Header().Set("ETag", test.own)
				}
				return false
			})
			res := g.do("PUT", "/doc", "two", "If-Match", test.sent)
			if test.goesOn == "refused" {
				require.Equal(t, 412, res.status)
				require.Equal(t, "GET", g.seen())
				return
			}
			require.Equal(t, 204, res.status, res.body)
			require.Equal(t, test.goesOn, strings.Join(g.first(t, "PUT").Header.Values("If-Match"), " and "))
		})
	}
}

// TestPreconditionsOnWhatDoesNotExist: what isn't there has no tag that
// If-None-Match could name, and no date; and If-Match asks for it to be there.
func TestPreconditionsOnWhatDoesNotExist(t *testing.T) {
	const past = "Sun, 06 Nov 1994 08:49:37 GMT"
	tests := map[string]struct {
		fields []string
		status int // 0: the GET's
		reason string
	}{
		"If-None-Match: *":                      {[]string{"If-None-Match", "*"}, 201, ""},
		"If-None-Match":                         {[]string{"If-None-Match", `"x"`}, 201, ""},
		"If-None-Match, a list":                 {[]string{"If-None-Match", `W/"x", "y"`}, 201, ""},
		"If-Unmodified-Since":                   {[]string{"If-Unmodified-Since", past}, 201, ""},
		"both of them":                          {[]string{"If-None-Match", `"x"`, "If-Unmodified-Since", past}, 201, ""},
		"If-Match":                              {[]string{"If-Match", `"x"`}, 0, ""},
		"If-Match: *":                           {[]string{"If-Match", "*"}, 0, ""},
		"If-Match beside If-None-Match":         {[]string{"If-Match", `"x"`, "If-None-Match", `"y"`}, 0, ""},
		"If-Match beside If-None-Match: *":      {[]string{"If-Match", "*", "If-None-Match", "*"}, 0, ""},
		"If-Match beside If-Unmodified-Since":   {[]string{"If-Match", `"x"`, "If-Unmodified-Since", past}, 0, ""},
		"malformed If-None-Match":               {[]string{"If-None-Match", "x"}, 412, "malformed"},
		"malformed member of If-None-Match":     {[]string{"If-None-Match", `"x", y`}, 412, "malformed"},
		"empty If-None-Match":                   {[]string{"If-None-Match", ""}, 412, "malformed"},
		"malformed If-None-Match beside a date": {[]string{"If-None-Match", "x", "If-Unmodified-Since", past}, 412, "malformed"},
	}
	for name, test := range tests {
		for _, missing := range []int{404, 410} {
			t.Run(fmt.Sprint(name, " ", missing), func(t *testing.T) {
				g := startGuarded(t, "write_tag off")
				g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodGet {
						http.Error(w, "not there", missing)
					}
					return r.Method == http.MethodGet
				})
				res := g.do("PUT", "/new", "two", test.fields...)
				switch test.status {
				case 201:
					require.Equal(t, 201, res.status, res.body)
					require.Equal(t, "GET PUT", g.seen())
				case 0:
					require.Equal(t, missing, res.status)
					require.Equal(t, "not there\n", res.body)
					require.Equal(t, "GET", g.seen())
				default:
					requireReason(t, res, test.status, test.reason)
					require.Equal(t, "GET", g.seen())
				}
			})
		}
	}
}

// TestRefusalTellsItsReason, in one word and in words that are true.
func TestRefusalTellsItsReason(t *testing.T) {
	stream := func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		return false
	}
	tests := []struct {
		name    string
		options string
		script  func(w http.ResponseWriter, r *http.Request) bool
		fields  []string
		reason  string
		detail  string // a regular expression
	}{
		{"another tag", "", nil, []string{"If-Match", `"other"`}, "stale", ""},
		{"tag without quotes", "", nil, []string{"If-Match", strings.Trim(oneTag, `"`)}, "malformed", "(?i)quot"},
		{"undefined", "", nil, []string{"If-Match", "undefined"}, "malformed", "(?i)quot"},
		{"empty", "", nil, []string{"If-Match", ""}, "malformed", ""},
		{"If-None-Match without quotes", "", nil, []string{"If-None-Match", "x"}, "malformed", "(?i)quot"},
		{"a stream", "", stream, []string{"If-Match", `"x"`}, "no_tag", "(?i)tag"},
		{"no match", "match header X-Tag yes", nil, []string{"If-Match", `"x"`}, "no_tag", "(?i)tag"},
		{"too large", "max_size 2", nil, []string{"If-Match", `"x"`}, "no_tag", "(?i)tag"},
		{"create", "", nil, []string{"If-None-Match", "*"}, "exists", "(?i)exists"},
	}
	details := make(map[string]string)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := startGuarded(t, test.options)
			g.scripted(test.script)
			res := g.do("PUT", "/doc", "two", test.fields...)
			detail := requireReason(t, res, 412, test.reason)
			require.Regexp(t, test.detail, detail)
			require.Equal(t, "failed", res.header.Get("X-Outcome"))
			require.Equal(t, "GET", g.seen())
			members := problemIn(t, res)
			require.Equal(t, detail, members["message"])
			require.NotEmpty(t, members["hint"])
			require.Contains(t, members, "currentETag")
			require.Equal(t, strings.Join(test.fields[1:], ""), members["yourETag"])
			details[test.reason] = detail
		})
	}
	require.Len(t, details, 4)
	for reason, detail := range details {
		for other, its := range details {
			require.Equal(t, reason == other, detail == its, "%s and %s", reason, other)
		}
	}
}

// TestBusyResourceIsToldFromABrokenLock: the one is worth another try soon.
func TestBusyResourceIsToldFromABrokenLock(t *testing.T) {
	var busy string
	t.Run("busy", func(t *testing.T) {
		g := startGuarded(t, "lock local 100ms")
		g.shut()
		first := g.send("PUT", "/doc", "first", "If-Match", "*")
		eventually(t, func() bool { return g.inside() == 1 })
		for _, fields := range [][]string{nil, {"If-Match", "*"}} {
			res := g.do("PUT", "/doc", "two", fields...)
			busy = requireReason(t, res, 503, "busy")
			require.Equal(t, "locked_out", res.header.Get("X-Outcome"))
			require.NotEmpty(t, res.header.Get("Retry-After"))
		}
		g.open()
		require.Equal(t, 204, first.answer(t).status)
		require.Equal(t, []string{"first"}, g.stored())
	})
	t.Run("broken", func(t *testing.T) {
		// there is a file where the storage would have its directory of locks
		storage := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(storage, "locks"), nil, 0o600))
		g := startGuardedSite(t, "etag {\nlock storage 2s\n}\nreverse_proxy %s", "storage file_system "+storage)
		for _, fields := range [][]string{nil, {"If-Match", "*"}} {
			res := g.do("PUT", "/doc", "two", fields...)
			require.NotEqual(t, busy, requireReason(t, res, 503, "lock_failed"))
			require.NotContains(t, res.body, storage)
			require.NotContains(t, res.body, "127.0.0.1")
			require.Equal(t, "locked_out", res.header.Get("X-Outcome"))
			require.NotEmpty(t, res.header.Get("Retry-After"))
		}
		require.Empty(t, g.seen())
	})
}

// TestReasonIsForErrorRoutesToo, and empty where nothing was refused.
func TestReasonIsForErrorRoutesToo(t *testing.T) {
	g := startGuardedSite(t, `etag {
		errors handle
		require_if_match DELETE
	}
	reverse_proxy %s
	handle_errors {
		respond "{http.etag.outcome} for {http.etag.reason}"
	}`)
	for _, test := range []struct {
		method string
		fields []string
		status int
		body   string
	}{
		{"PUT", []string{"If-Match", `"other"`}, 412, "failed for stale"},
		{"PUT", []string{"If-Match", "x"}, 412, "failed for malformed"},
		{"PUT", []string{"If-None-Match", "*"}, 412, "failed for exists"},
		{"DELETE", nil, 428, "required for "},
	} {
		res := g.do(test.method, "/doc", "two", test.fields...)
		require.Equal(t, test.status, res.status)
		require.Equal(t, test.body, res.body)
	}
	res := g.do("PUT", "/doc", "two", "If-Match", oneTag)
	require.Equal(t, 204, res.status)
	require.Equal(t, "passed", res.header.Get("X-Outcome"))
	require.Empty(t, res.header.Get("X-Reason"))
}

// TestErrorRouteGetsTheBodyOfAWrite, as it would without the handler: of one that
// was refused, and of one whose chain ended in an error.
func TestErrorRouteGetsTheBodyOfAWrite(t *testing.T) {
	page := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "page for %q %v", body, err)
	})
	const errors = "\n@put method PUT\nerror @put 503\n"
	tests := map[string]struct {
		site   string
		fields []string
		status int
	}{
		"a 412":                            {"etag {\nerrors handle\n}\nreverse_proxy %s", []string{"If-Match", `"other"`}, 412},
		"a 428":                            {"etag {\nerrors handle\nrequire_if_match\n}\nreverse_proxy %s", nil, 428},
		"an error of the chain, guarded":   {"route {\netag" + errors + "reverse_proxy %s\n}", []string{"If-Match", "*"}, 503},
		"an error of the chain, unguarded": {"route {\netag" + errors + "reverse_proxy %s\n}", nil, 503},
		"an error without the handler":     {"route {" + errors + "reverse_proxy %s\n}", nil, 503},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := startGuardedSite(t, "handle /metrics {\nmetrics\n}\nhandle {\n"+test.site+"\n}\nhandle_errors {\nreverse_proxy "+page+"\n}")
			for _, body := range []string{"two", strings.Repeat("large ", 50_000)} {
				res := g.do("PUT", "/doc", body, test.fields...)
				require.Equal(t, fmt.Sprintf("page for %q <nil>", body), res.body)
			}
			client := clientFor(t, "h1", nil)
			eventually(t, func() bool { return scrape(t, client, g.url)["caddy_http_etag_held_bytes"] == 0 })
		})
	}
}

// TestErrorRouteGetsABodyForWhichThereWasNoMemory: what has been read of it by
// then, too.
func TestErrorRouteGetsABodyForWhichThereWasNoMemory(t *testing.T) {
	page := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "page for %q %v", body, err)
	})
	g := startGuardedSite(t, "etag {\nmax_memory 64KiB\nerrors handle\n}\nreverse_proxy %s\nhandle_errors {\nreverse_proxy "+page+"\n}")
	for _, protocol := range []string{"h1", "h2c"} {
		text := strings.Repeat("0123456789", 10_000)
		req, err := http.NewRequest(http.MethodPut, g.url+"/doc", struct{ io.Reader }{strings.NewReader(text)})
		require.NoError(t, err)
		req.Header.Set("If-Match", `"x"`)
		res, err := clientFor(t, protocol, nil).Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, 200, res.StatusCode)
		require.Equal(t, fmt.Sprintf("page for %q <nil>", text), string(got))
	}
}

// TestContentOfA204GoesNowhere, as net/http has it: Caddy's respond writes some.
func TestContentOfA204GoesNowhere(t *testing.T) {
	const site = "etag {\nmatch status 2xx\n}\n@doc {\nmethod GET\npath /doc\n}\nrespond @doc one\n"
	for name, start := range map[string]func() string{
		"Write": func() string { return startCaddy(t, site+"respond text 204") },
		"ReadFrom": func() string {
			return startScripted(t, site+"scripted", func(w http.ResponseWriter, _ *http.Request) error {
				w.WriteHeader(http.StatusNoContent)
				_, _ = io.Copy(w, struct{ io.Reader }{strings.NewReader("text")})
				return nil
			})
		},
	} {
		url := start()
		for _, protocol := range []string{"h1", "h2c"} {
			client := clientFor(t, protocol, nil)
			for _, method := range []string{"GET", "PUT", "DELETE"} {
				res, err := try(client, method, url+"/other", "", "If-None-Match", `"x"`)
				require.NoError(t, err, "%s, %s, %s", name, protocol, method)
				require.Equal(t, 204, res.status)
			}
			require.Equal(t, 204, do(t, client, "DELETE", url+"/doc", "", "If-Match", oneTag).status)
		}
	}
}

// TestLengthOfA204IsNotMissed: the backend's fault is not the client's, whose
// write is done.
func TestLengthOfA204IsNotMissed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				requests := bufio.NewReader(conn)
				for {
					r, err := http.ReadRequest(requests)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					answer := "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n"
					if r.Method == http.MethodGet {
						answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
					}
					_, _ = io.WriteString(conn, answer)
				}
			}()
		}
	}()
	url := startCaddy(t, "etag\nreverse_proxy "+listener.Addr().String())
	for _, protocol := range []string{"h1", "h2c"} {
		require.Equal(t, 204, do(t, clientFor(t, protocol, nil), "PUT", url+"/doc", "two", "If-Match", oneTag).status, protocol)
	}
}

// TestRefusalHasNoFieldOfAnotherAnswer: not of one that came too late, nor of
// the representation that handlers around the backend speak of.
func TestRefusalHasNoFieldOfAnotherAnswer(t *testing.T) {
	const about = `header {
		CDN-Cache-Control max-age=3600
		Content-Language de
		Content-Encoding gzip
		Last-Modified "Sun, 06 Nov 1994 08:49:37 GMT"
		X-Other 1
	}
	`
	requireClean := func(t *testing.T, res reply, status int) {
		t.Helper()
		require.Equal(t, status, res.status)
		require.Equal(t, "1", res.header.Get("X-Other"))
		for _, name := range []string{"CDN-Cache-Control", "Content-Language", "Content-Encoding", "Last-Modified"} {
			require.Empty(t, res.header.Values(name), name)
		}
		problemIn(t, res)
	}
	t.Run("412", func(t *testing.T) {
		g := startGuardedSite(t, "route {\n"+about+"etag\nreverse_proxy %s\n}")
		res := g.do("PUT", "/doc", "two", "If-Match", `"other"`)
		requireClean(t, res, 412)
		require.Equal(t, oneTag, res.tag())
	})
	t.Run("504", func(t *testing.T) {
		g := startGuardedSite(t, "route {\netag {\nlock local 10s 100ms\n}\n"+about+"header ETag `\"static\"`\nreverse_proxy %s\n}")
		g.shut()
		first := g.send("PUT", "/doc", "two", "If-Match", "*")
		eventually(t, func() bool { return g.inside() == 1 })
		second := g.send("PUT", "/doc", "three", "If-Match", "*")
		res := first.answer(t)
		requireClean(t, res, 504)
		require.Empty(t, res.tag())
		g.open()
		second.answer(t)
	})
}

// TestTagOfAnAnswerIsNoTrailer on the backend's word.
func TestTagOfAnAnswerIsNoTrailer(t *testing.T) {
	for _, method := range []string{"PATCH", "PUT"} {
		s, url, _ := startStore(t, "", maps.Clone(oneDoc))
		s.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != method {
				return false
			}
			body, _ := io.ReadAll(r.Body)
			s.mu.Lock()
			s.docs["/doc"] = string(body)
			s.mu.Unlock()
			w.Header().Set("Trailer", "ETag, X-Sum")
			_, _ = io.WriteString(w, "done")
			w.Header().Set("X-Sum", "1")
			w.Header().Set("ETag", `"own"`)
			return true
		}
		for i, protocol := range []string{"h1", "h2c"} {
			res := do(t, clientFor(t, protocol, nil), method, url+"/doc", fmt.Sprint(i), "If-Match", "*")
			require.Equal(t, tagFor(fmt.Sprint(i)), res.tag(), protocol)
			require.Empty(t, res.trailer.Values("ETag"), protocol)
			require.Equal(t, "1", res.trailer.Get("X-Sum"), protocol)
		}
	}
}

// TestPartOfAnAnswerIsNotHeld, which a backend sends as the answer to a write.
func TestPartOfAnAnswerIsNotHeld(t *testing.T) {
	for _, status := range []int{200, 206} {
		h := newHandler(t, Handler{})
		rec := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPut, "/doc", strings.NewReader("two"))
		r.Header.Set("If-Match", "*")
		var sent string
		require.NoError(t, h.ServeHTTP(rec, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodGet {
				_, err := io.WriteString(w, "one")
				return err
			}
			w.Header().Set("Content-Range", "bytes 0-2/3")
			w.WriteHeader(status)
			_, err := io.WriteString(w, "two")
			sent = rec.Body.String()
			return err
		})))
		require.Equal(t, "two", sent, "%d", status)
	}
}
