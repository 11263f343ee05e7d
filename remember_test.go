package etag

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// asked is a backend that counts how often it is asked.
type asked struct {
	times  atomic.Int64
	header fields
	status int
	body   string
}

func (b *asked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.times.Add(1)
	addFields(w.Header(), b.header)
	if b.status != 0 {
		w.WriteHeader(b.status)
	}
	_, _ = io.WriteString(w, b.body)
}

// remembers reports whether a read with a tag is answered without the backend.
func (b *asked) remembers(t *testing.T, client *http.Client, method, url string, sends ...string) bool {
	t.Helper()
	before := b.times.Load()
	res := do(t, client, method, url, "", sends...)
	if b.times.Load() != before {
		require.NotContains(t, res.header, "Age", "it is no answer from memory")
		return false
	}
	require.Equal(t, 304, res.status)
	return true
}

// TestRememberedTagNeedsNoBackend: whether it is ours, the backend's or a
// field's, over each protocol and for both methods.
func TestRememberedTagNeedsNoBackend(t *testing.T) {
	for _, tt := range []struct {
		options string
		header  fields
		tag     string
	}{
		{"", nil, tagFor("one")},
		{"", fields{"ETag", `"own"`}, `"own"`},
		{"", fields{"ETag", `W/"own"`}, `W/"own"`},
		{"from_header X-Version", fields{"X-Version", "7"}, `"7"`},
		{"existing replace", fields{"ETag", `"own"`}, tagFor("one")},
		{"version {http.request.header.v}", nil, `"2-` + opaque(tagFor("one")) + `"`},
	} {
		b := &asked{header: tt.header, body: "one"}
		url := startCaddy(t, "etag {\nremember 1h\n"+tt.options+"\n}\nreverse_proxy "+startUpstream(t, b.ServeHTTP))
		for _, protocol := range []string{"h1", "h2c"} {
			client := clientFor(t, protocol, nil)
			for _, method := range []string{"GET", "HEAD"} {
				path := url + "/" + protocol + method
				require.False(t, b.remembers(t, client, method, path, "V", "2", "If-None-Match", tt.tag), "nobody has asked before")
				require.True(t, b.remembers(t, client, method, path, "V", "2", "If-None-Match", tt.tag), "a 304 issues a tag too")
				require.True(t, b.remembers(t, client, method, path, "V", "2", "If-None-Match", `"x", W/`+strings.TrimPrefix(tt.tag, "W/")))
				require.False(t, b.remembers(t, client, method, path, "V", "2", "If-None-Match", `"x"`))
				require.False(t, b.remembers(t, client, method, path, "V", "2", "If-None-Match", `*`), "any tag names none")
				require.False(t, b.remembers(t, client, method, path, "V", "2"))
				require.True(t, b.remembers(t, client, method, path, "V", "2", "If-None-Match", tt.tag), "a 200 issues a tag")
			}
		}
	}
}

// TestRememberedTagNeedsNoBackendOverTLS: a GET over HTTP/3 may not say that it
// has no body.
func TestRememberedTagNeedsNoBackendOverTLS(t *testing.T) {
	b := &asked{body: "one"}
	url, roots := startTLS(t, "etag {\nremember 1h\n}\nreverse_proxy "+startUpstream(t, b.ServeHTTP))
	for _, protocol := range []string{"h1", "h2", "h3"} {
		client := clientFor(t, protocol, roots)
		for _, method := range []string{"GET", "HEAD"} {
			path := url + "/" + protocol + method
			require.False(t, b.remembers(t, client, method, path, "If-None-Match", tagFor("one")), "nobody has asked before")
			require.True(t, b.remembers(t, client, method, path, "If-None-Match", tagFor("one")), "%s over %s", method, protocol)
		}
	}
}

// TestRememberedAnswerHasTheFieldsOfIts304 and says how old it is.
func TestRememberedAnswerHasTheFieldsOfIts304(t *testing.T) {
	about := fields{
		"Cache-Control", "max-age=1", "Cache-Control", "private", "Content-Location", "/one", "Expires", "0",
		"Vary", "Accept", "Vary", "Cookie", "Access-Control-Allow-Origin", "https://a.example", "Access-Control-Expose-Headers", "X-A",
	}
	b := &asked{header: append(fields{"X-Other", "1", "Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"}, about...), body: "one"}
	url := startCaddy(t, `header X-Reason {http.etag.reason}
		header X-Above above
		route {
			header >X-Reason "{http.etag.outcome} {http.etag.reason} {http.etag.tag}"
			etag {
				remember 1h
			}
			reverse_proxy `+startUpstream(t, b.ServeHTTP)+`
		}`)
	asked := time.Now().Truncate(time.Second)
	get(t, url, "If-None-Match", oneTag)
	again := get(t, url, "If-None-Match", oneTag)
	require.EqualValues(t, 1, b.times.Load())
	want := http.Header{}
	addFields(want, about)
	want["Access-Control-Expose-Headers"] = []string{"X-A", "ETag"}
	want.Set("ETag", oneTag)
	want.Set("X-Above", "above")
	want.Set("X-Reason", "not_modified remembered "+oneTag)
	want.Set("Age", again.header.Get("Age"))
	want.Set("Server", "Caddy")
	require.Equal(t, want, withoutDate(again.header))
	require.Contains(t, []string{"0", "1", "2", "3"}, again.header.Get("Age"))
	date, err := http.ParseTime(again.header.Get("Date"))
	require.NoError(t, err)
	require.False(t, date.Before(asked), "the date when the backend was asked")
}

// TestAgeOfARememberedAnswerGoesOn from that which the backend's had.
func TestAgeOfARememberedAnswerGoesOn(t *testing.T) {
	h := newHandler(t, Handler{Remember: caddy.Duration(time.Hour)})
	times := 0
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		times++
		w.Header().Set("Age", "100")
		_, err := io.WriteString(w, "one")
		return err
	})
	_, err := serve(h, next, "GET")
	require.NoError(t, err)
	for _, v := range h.memory.validators.All() {
		v.asked.steady -= int64(10 * time.Second)
	}
	for _, tt := range []struct {
		control    string
		remembered bool
	}{
		{"max-age=3600", true},
		{"max-age=120", true},
		{"max-age=60", false},
		{"max-age=\"60\"", false},
		{"max-age=x", false},
		{"", true},
		{"max-stale=5", true},
		{"private", true},
	} {
		before := times
		rec, err := serve(h, next, "GET", "If-None-Match", oneTag, "Cache-Control", tt.control)
		require.NoError(t, err)
		require.Equal(t, 304, rec.Code)
		require.Equal(t, tt.remembered, times == before, tt.control)
		if tt.remembered {
			require.Equal(t, "110", rec.Header().Get("Age"))
		} else {
			for _, v := range h.memory.validators.All() {
				v.asked.steady -= int64(10 * time.Second)
			}
		}
	}
}

// TestTagIsRememberedForTheDuration, and no longer: by the clock on the wall,
// though the machine has slept, and by the steady one, though the other has been
// set back.
func TestTagIsRememberedForTheDuration(t *testing.T) {
	for clock, passes := range map[string]func(*validator, time.Duration){
		"wall":   func(v *validator, d time.Duration) { v.asked.wall -= int64(d) },
		"steady": func(v *validator, d time.Duration) { v.asked.steady -= int64(d) },
		"steady, the other set back": func(v *validator, d time.Duration) {
			v.asked.wall += int64(time.Hour)
			v.asked.steady -= int64(d)
		},
	} {
		t.Run(clock, func(t *testing.T) {
			h := newHandler(t, Handler{Remember: caddy.Duration(time.Minute)})
			times := 0
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				times++
				_, err := io.WriteString(w, "one")
				return err
			})
			ask := func() int {
				rec, err := serve(h, next, "GET", "If-None-Match", oneTag)
				require.NoError(t, err)
				require.Equal(t, 304, rec.Code)
				return times
			}
			pass := func(d time.Duration) {
				for _, v := range h.memory.validators.All() {
					passes(v, d)
				}
			}
			require.Equal(t, 1, ask())
			pass(30 * time.Second)
			require.Equal(t, 1, ask())
			pass(29 * time.Second)
			require.Equal(t, 1, ask(), "to be answered from memory does not make it younger")
			pass(time.Second)
			require.Equal(t, 2, ask())
			require.Equal(t, 2, ask(), "it is remembered anew")
		})
	}
}

// TestRequestsThatGoPastTheMemory refresh it.
func TestRequestsThatGoPastTheMemory(t *testing.T) {
	for _, sends := range []fields{
		{"Cache-Control", "no-cache"},
		{"Cache-Control", "private, No-Cache"},
		{"Cache-Control", "max-age=0"},
		{"Cache-Control", "no-store"},
		{"Pragma", "no-cache"},
		{"If-Match", oneTag},
		{"If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"},
	} {
		b := &asked{body: "one"}
		url := startCaddy(t, "etag {\nremember 1h\n}\nreverse_proxy "+startUpstream(t, b.ServeHTTP))
		client := clientFor(t, "h2c", nil) // over HTTP/1.1, net/http makes a Cache-Control of Pragma
		do(t, client, "GET", url, "")
		require.True(t, b.remembers(t, client, "GET", url, "If-None-Match", oneTag))
		require.False(t, b.remembers(t, client, "GET", url, append(sends, "If-None-Match", oneTag)...), sends)
		require.True(t, b.remembers(t, client, "GET", url, "If-None-Match", oneTag), sends)
	}
}

// TestRefreshedMemoryKnowsTheNewTag, and no longer the old one.
func TestRefreshedMemoryKnowsTheNewTag(t *testing.T) {
	b := &asked{body: "one"}
	url := startCaddy(t, "etag {\nremember 1h\n}\nreverse_proxy "+startUpstream(t, b.ServeHTTP))
	client := clientFor(t, "h1", nil)
	get(t, url)
	b.body = "two"
	require.True(t, b.remembers(t, client, "GET", url, "If-None-Match", oneTag), "as it was not told")
	require.Equal(t, 200, get(t, url, "If-None-Match", oneTag, "Cache-Control", "no-cache").status)
	require.True(t, b.remembers(t, client, "GET", url, "If-None-Match", tagFor("two")))
	require.False(t, b.remembers(t, client, "GET", url, "If-None-Match", oneTag))
	b.status, b.header = 404, nil
	require.Equal(t, 404, get(t, url, "If-None-Match", tagFor("two"), "Cache-Control", "no-cache").status)
	require.False(t, b.remembers(t, client, "GET", url, "If-None-Match", tagFor("two")), "what is gone is forgotten")
}

// TestAnswersThatAreNeverRemembered.
func TestAnswersThatAreNeverRemembered(t *testing.T) {
	for _, tt := range []struct {
		options string
		header  fields
		sends   fields
	}{
		{"", fields{"Set-Cookie", "a=b"}, nil},
		{"", fields{"Set-Cookie", "a=b", "ETag", oneTag}, nil},
		{"", fields{"Vary", "*"}, nil},
		{"", fields{"Vary", "Accept, *"}, nil},
		{"", fields{"Vary", "User-Agent"}, nil},
		{"", fields{"Vary", "accept, sec-fetch-dest"}, nil},
		{"no_store tag", fields{"Cache-Control", "no-store"}, nil},
		{"", fields{"Cache-Control", "private, no-store", "ETag", oneTag}, nil},
		{"", nil, fields{"X-HTTP-Method-Override", "DELETE"}},
		{"match status 2xx 404", nil, nil}, // see below
	} {
		b := &asked{header: tt.header, body: "one"}
		if strings.HasPrefix(tt.options, "match") {
			b.status = 404
		}
		url := startCaddy(t, "etag {\nremember 1h\n"+tt.options+"\n}\nreverse_proxy "+startUpstream(t, b.ServeHTTP))
		client := clientFor(t, "h1", nil)
		for range 3 {
			before := b.times.Load()
			require.Equal(t, oneTag, do(t, client, "GET", url, "", append(tt.sends, "If-None-Match", oneTag)...).tag(), tt)
			require.Equal(t, before+1, b.times.Load(), tt)
		}
	}
}

// TestReadWithABodyIsNotRemembered, since the body is a part of the question.
func TestReadWithABodyIsNotRemembered(t *testing.T) {
	b := &asked{body: "one"}
	url := startCaddy(t, "etag {\nremember 1h\n}\nreverse_proxy "+startUpstream(t, b.ServeHTTP))
	for range 3 {
		require.Equal(t, 304, do(t, clientFor(t, "h1", nil), "GET", url, "query", "If-None-Match", oneTag).status)
	}
	require.EqualValues(t, 3, b.times.Load())
}

// TestErrorPageIsNotRemembered, though it has a tag and a status 200.
func TestErrorPageIsNotRemembered(t *testing.T) {
	b := &asked{body: "one"}
	url := startCaddy(t, `error 500
		handle_errors {
			etag {
				remember 1h
			}
			reverse_proxy `+startUpstream(t, b.ServeHTTP)+`
		}`)
	for range 3 {
		require.Equal(t, oneTag, get(t, url, "If-None-Match", oneTag).tag())
	}
	require.EqualValues(t, 3, b.times.Load())
}

// TestBrokenAnswerIsNotRemembered: the next one to ask gets the whole.
func TestBrokenAnswerIsNotRemembered(t *testing.T) {
	for _, header := range []fields{nil, {"ETag", oneTag}} {
		var times atomic.Int64
		upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			times.Add(1)
			addFields(w.Header(), header)
			w.Header().Set("Content-Length", "3")
			_, _ = io.WriteString(w, "on")
			panic(http.ErrAbortHandler)
		})
		url := startCaddy(t, "etag {\nremember 1h\n}\nreverse_proxy "+upstream)
		for i := range 3 {
			_, _ = try(clientFor(t, "h1", nil), "GET", url, "")
			require.EqualValues(t, i+1, times.Load())
		}
	}
}

// TestShortAnswerIsNotRemembered: it is not whole, though its handler ended well.
func TestShortAnswerIsNotRemembered(t *testing.T) {
	h := newHandler(t, Handler{Remember: caddy.Duration(time.Hour)})
	_, _ = serve(h, func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Content-Length", "3")
		w.Header().Set("ETag", oneTag)
		_, err := io.WriteString(w, "on")
		return err
	}, "GET")
	require.Zero(t, h.memory.validators.EstimatedSize())
}

// TestVersionIsAPartOfTheQuestion, as it is one of the tag.
func TestVersionIsAPartOfTheQuestion(t *testing.T) {
	h := newHandler(t, Handler{Remember: caddy.Duration(time.Hour), Version: "{release}"})
	for _, release := range []string{"1", "2", "2", "1"} {
		repl := caddy.NewReplacer()
		repl.Set("release", release)
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl))
		r.Header.Set("If-None-Match", `"1-`+opaque(oneTag)+`"`)
		rec := httptest.NewRecorder()
		require.NoError(t, h.ServeHTTP(rec, r, writing("one", 3)))
		require.Equal(t, release == "1", rec.Code == 304)
	}
}

// theQuestion returns a request that is the same each time, but for what is
// changed of it.
func theQuestion(change func(r *http.Request)) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://a.example:8080/path?a=1&b=2", nil)
	addFields(r.Header, fields{"Accept", "text/html", "X-A", "b", "Cookie", "user=alice", "Origin", "https://o.example"})
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte("alice")}}}
	original := r.Clone(r.Context())
	change(r)
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, *original))
}

// TestNobodyGetsTheAnswerToAnotherQuestion: a 304 would tell somebody who
// has a tag that it is the right one, or keep him on the wrong page.
func TestNobodyGetsTheAnswerToAnotherQuestion(t *testing.T) {
	same := map[string]func(r *http.Request){
		"nothing":      func(*http.Request) {},
		"User-Agent":   func(r *http.Request) { r.Header.Set("User-Agent", "x") },
		"Referer":      func(r *http.Request) { r.Header.Set("Referer", "x") },
		"Sec-Fetch":    func(r *http.Request) { r.Header.Set("Sec-Fetch-Dest", "x") },
		"DNT":          func(r *http.Request) { r.Header.Set("DNT", "1") },
		"Pragma":       func(r *http.Request) { r.Header.Set("Pragma", "x") },
		"trace":        func(r *http.Request) { r.Header.Set("Traceparent", "x") },
		"request id":   func(r *http.Request) { r.Header.Set("X-Request-ID", "x") },
		"max-age":      func(r *http.Request) { r.Header.Set("Cache-Control", "max-age=100") },
		"a date":       func(r *http.Request) { r.Header.Set("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT") },
		"another port": func(r *http.Request) { r.RemoteAddr = "192.0.2.1:9999" },
	}
	for _, name := range []string{
		"X-Correlation-ID", "Request-ID", "Correlation-ID", "X-Trace-ID", "Tracestate",
		"B3", "X-B3-TraceId", "X-B3-SpanId", "X-B3-ParentSpanId", "X-B3-Sampled", "X-B3-Flags",
		"X-Amzn-Trace-Id", "X-Cloud-Trace-Context", "Uber-Trace-Id", "Sentry-Trace",
		"X-Datadog-Trace-Id", "X-Datadog-Parent-Id", "CF-Ray",
	} {
		same[name] = func(r *http.Request) { r.Header.Set(name, "x") }
	}
	others := map[string]func(r *http.Request){
		"another user":              func(r *http.Request) { r.Header.Set("Cookie", "user=bob") },
		"logged out":                func(r *http.Request) { r.Header.Del("Cookie") },
		"Authorization":             func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") },
		"API key in its own field":  func(r *http.Request) { r.Header.Set("X-Corp-Key", "x") },
		"an empty field":            func(r *http.Request) { r.Header.Set("X-Corp-Key", "") },
		"another value":             func(r *http.Request) { r.Header.Set("X-A", "c") },
		"two lines":                 func(r *http.Request) { r.Header.Add("X-A", "c") },
		"two lines as one":          func(r *http.Request) { r.Header["X-A"] = []string{"b\x00c"} },
		"parts that fall otherwise": func(r *http.Request) { r.Header.Del("X-A"); r.Header["X"] = []string{"-Ab"} },
		"Accept":                    func(r *http.Request) { r.Header.Set("Accept", "application/json") },
		"Accept-Encoding":           func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") },
		"Accept-Language":           func(r *http.Request) { r.Header.Set("Accept-Language", "de") },
		"Origin":                    func(r *http.Request) { r.Header.Set("Origin", "https://p.example") },
		"Range":                     func(r *http.Request) { r.Header.Set("Range", "bytes=0-1") },
		"scheme":                    func(r *http.Request) { r.TLS = nil },
		"client certificate":        func(r *http.Request) { r.TLS.PeerCertificates[0].Raw = []byte("bob") },
		"no client certificate":     func(r *http.Request) { r.TLS.PeerCertificates = nil },
		"HEAD":                      func(r *http.Request) { r.Method = http.MethodHead },
		"host":                      func(r *http.Request) { r.Host = "b.example:8080" },
		"port":                      func(r *http.Request) { r.Host = "a.example:8081" },
		"path":                      func(r *http.Request) { r.URL.Path = "/other" },
		"case of the path":          func(r *http.Request) { r.URL.Path = "/Path" },
		"spelling of the path":      func(r *http.Request) { r.URL.RawPath = "/p%61th" },
		"query":                     func(r *http.Request) { r.URL.RawQuery = "a=1" },
		"query in the path":         func(r *http.Request) { r.URL.Path, r.URL.RawQuery = r.URL.Path+r.URL.RawQuery, "" },
		"query order":               func(r *http.Request) { r.URL.RawQuery = "b=2&a=1" },
	}
	ask := func(t *testing.T, change func(r *http.Request)) (asked bool) {
		t.Helper()
		h := newHandler(t, Handler{Remember: caddy.Duration(time.Hour)})
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			asked = true
			_, err := io.WriteString(w, "one")
			return err
		})
		require.NoError(t, h.ServeHTTP(httptest.NewRecorder(), theQuestion(func(*http.Request) {}), next))
		require.True(t, asked)
		asked = false
		r := theQuestion(change)
		r.Header.Set("If-None-Match", oneTag)
		rec := httptest.NewRecorder()
		require.NoError(t, h.ServeHTTP(rec, r, next))
		return asked
	}
	for name, change := range same {
		t.Run(name, func(t *testing.T) { require.False(t, ask(t, change)) })
	}
	for name, change := range others {
		t.Run("not "+name, func(t *testing.T) { require.True(t, ask(t, change)) })
	}
}

// TestRewrittenQuestionIsNotItsOriginal: two URIs that the client sees apart
// may be one for the handler, and still have two answers.
func TestRewrittenQuestionIsNotItsOriginal(t *testing.T) {
	var times atomic.Int64
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		times.Add(1)
		fmt.Fprint(w, r.Header.Get("X-Original"))
	})
	url := startCaddy(t, `route {
		uri strip_prefix /a
		uri strip_prefix /b
		etag {
			remember 1h
		}
		reverse_proxy `+upstream+` {
			header_up X-Original {http.request.orig_uri.path}
		}
	}`)
	tag := get(t, url+"/a/x").tag()
	require.Equal(t, "/b/x", get(t, url+"/b/x", "If-None-Match", tag).body)
}

// TestHandlersThatAreConfiguredAlikeDoNotShare what they remember, in one
// configuration, on one server or two.
func TestHandlersThatAreConfiguredAlikeDoNotShare(t *testing.T) {
	one, two := &asked{body: "one"}, &asked{body: "one"}
	first, second := freePort(t), freePort(t)
	etag := "etag {\nremember 1h\n}\nreverse_proxy "
	sites := fmt.Sprintf("http://127.0.0.1:%s {\n%s\n}\nhttp://127.0.0.1:%s {\nhandle {\n%s\n}\n}\n",
		first, etag+startUpstream(t, one.ServeHTTP), second, etag+startUpstream(t, two.ServeHTTP))
	global := "{\nadmin off\npersist_config off\ngrace_period 1s\nlog {\nlevel PANIC\n}\n}\n"
	load(t, global+strings.ReplaceAll(sites, "http://127.0.0.1:", "http://:"))
	t.Cleanup(stopCaddy)

	ask := func(port string) int64 {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1:"+port, nil)
		require.NoError(t, err)
		req.Host = "a.example"
		req.Header.Set("If-None-Match", oneTag)
		res, err := clientFor(t, "h1", nil).Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, 304, res.StatusCode)
		return one.times.Load() + two.times.Load()
	}
	require.EqualValues(t, 1, ask(first))
	require.EqualValues(t, 1, ask(first))
	require.EqualValues(t, 2, ask(second))
}

// TestMemorySurvivesAReload that keeps the handler's configuration, and no
// other.
func TestMemorySurvivesAReload(t *testing.T) {
	b := &asked{body: "one"}
	upstream := startUpstream(t, b.ServeHTTP)
	site := func(options, more string) string {
		return "etag {\nremember 1h\n" + options + "\n}\n" + more + "\nreverse_proxy " + upstream
	}
	url, caddyfile := siteAt(t, site("", ""))
	load(t, caddyfile)
	t.Cleanup(stopCaddy)
	reload := func(options, more string) {
		load(t, strings.Replace(caddyfile, site("", ""), site(options, more), 1))
	}
	client := clientFor(t, "h1", nil)
	remembers := func() bool {
		// Caddy resets connections in the backlog of the old configuration's socket.
		eventually(t, func() bool {
			client.CloseIdleConnections()
			_, err := try(client, "GET", url+"/reached", "")
			return err == nil
		})
		return b.remembers(t, client, "GET", url, "If-None-Match", oneTag)
	}
	require.False(t, remembers())
	reload("", "")
	require.True(t, remembers())
	reload("", "respond /other 404")
	require.True(t, remembers())
	reload("length 64", "")
	require.False(t, remembers(), "tags are others now")
	reload("", "")
	require.False(t, remembers(), "it was given up")
	require.Len(t, memories.taken, 1)
	stopCaddy()
	require.Empty(t, memories.taken)
	require.Zero(t, remembering.Load())
}

// TestMemoryIsBounded, and needs no goroutine.
func TestMemoryIsBounded(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	h := newHandler(t, Handler{Remember: caddy.Duration(time.Hour), RememberEntries: 100})
	for i := range 10_000 {
		r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("/%d", i), nil)
		require.NoError(t, h.ServeHTTP(httptest.NewRecorder(), r, writing("one", 3)))
	}
	h.memory.validators.CleanUp()
	entries := 0
	for range h.memory.validators.All() {
		entries++
	}
	require.LessOrEqual(t, entries, 100)
	require.NotZero(t, entries)
	eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines })
}

func savedBytes(t *testing.T) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(metrics.saved))
	families, err := registry.Gather()
	require.NoError(t, err)
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// TestSavedBytesOfARememberedAnswer are those of the body that was not asked for.
func TestSavedBytesOfARememberedAnswer(t *testing.T) {
	h := newHandler(t, Handler{Remember: caddy.Duration(time.Hour)})
	_, err := serve(h, writing("one", 3), "GET")
	require.NoError(t, err)
	before := savedBytes(t)
	for range 2 {
		_, err = serve(h, nil, "GET", "If-None-Match", oneTag)
		require.NoError(t, err)
	}
	require.InDelta(t, 6, savedBytes(t)-before, 0)
}

// TestRememberedTagInTheClientsSpelling, as encode's suffix makes it another for
// a cache.
func TestRememberedTagInTheClientsSpelling(t *testing.T) {
	b := &asked{body: longText}
	url := startCaddy(t, "encode gzip\netag {\nremember 1h\n}\nreverse_proxy "+startUpstream(t, b.ServeHTTP))
	tag := get(t, url, "Accept-Encoding", "gzip").tag()
	require.Equal(t, withSuffix(tagFor(longText), "-gzip"), tag)
	for range 3 {
		require.Equal(t, 304, get(t, url, "Accept-Encoding", "gzip", "If-None-Match", tag).status)
	}
	require.EqualValues(t, 1, b.times.Load())
	require.Equal(t, 200, get(t, url, "If-None-Match", tag).status, "who can't read gzip has not that")
}

// TestRememberedAnswerDropsWhatAnotherDoes, of what handlers above have set: a
// policy with the nonce of a body that is not sent would block the scripts of
// the one that the client has.
func TestRememberedAnswerDropsWhatAnotherDoes(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<script nonce="%s">1</script>`, r.Header.Get("X-Nonce"))
	})
	above := fields{"Content-Security-Policy", "script-src 'nonce-{http.request.uuid}'", "Content-Language", "en", "Repr-Digest", "x", "Last-Modified", "x"}
	var site strings.Builder
	for i := 0; i < len(above); i += 2 {
		fmt.Fprintf(&site, "header %s \"%s\"\n", above[i], above[i+1])
	}
	for _, remember := range []string{"", "remember 1h"} {
		url := startCaddy(t, "route {\n"+site.String()+"header X-Other 1\netag weak {\nignore_pattern nonce=\"[a-z0-9-]*\"\n"+remember+"\n}\n"+
			"reverse_proxy "+upstream+" {\nheader_up X-Nonce {http.request.uuid}\n}\n}")
		first := get(t, url)
		require.Equal(t, "en", first.header.Get("Content-Language"))
		again := get(t, url, "If-None-Match", first.tag())
		require.Equal(t, 304, again.status)
		require.Equal(t, remember != "", again.header.Get("Age") != "")
		require.Equal(t, "1", again.header.Get("X-Other"))
		for i := 0; i < len(above); i += 2 {
			require.Empty(t, again.header.Values(above[i]), "%s %s", remember, above[i])
		}
	}
}
