package etag

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestWriteForgetsItsResource by each of its names, whatever its method and
// outcome, and no other one.
func TestWriteForgetsItsResource(t *testing.T) {
	b := &asked{body: "one"}
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			b.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		for _, name := range []string{"Location", "Content-Location"} {
			if value := r.Header.Get("Answer-" + name); value != "" {
				w.Header().Set(name, value)
			}
		}
		if r.Header.Get("Answer-Status") != "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprint(w, "done")
	})
	url := startCaddy(t, `handle /other {
			etag
			reverse_proxy `+upstream+`
		}
		handle {
			etag {
				remember 1h
			}
			reverse_proxy `+upstream+`
		}`)
	host := strings.TrimPrefix(url, "http://")
	for _, protocol := range []string{"h1", "h2c"} {
		client := clientFor(t, protocol, nil)
		for _, tt := range []struct {
			method, path string
			sends        fields
			forgets      bool
		}{
			{"PUT", "/doc", fields{"If-Match", oneTag}, true},
			{"PUT", "/doc", nil, true},
			{"PATCH", "/doc", nil, true},
			{"DELETE", "/doc", nil, true},
			{"POST", "/doc", nil, true},
			{"put", "/doc", nil, true},
			{"MKCOL", "/doc", nil, true},
			{"POST", "/doc", fields{"X-HTTP-Method-Override", "PUT"}, true},
			{"PUT", "/doc", fields{"Answer-Status", "500"}, true},
			{"POST", "/doc", fields{"Answer-Status", "500"}, true},
			{"PUT", "/DOC/", nil, true},
			{"POST", "//doc?x=1", nil, true},
			{"POST", "/other", fields{"Answer-Location", "/doc"}, true},
			{"PUT", "/other", fields{"Answer-Content-Location", "doc"}, true},
			{"PUT", "/other", fields{"If-None-Match", `"x"`, "Answer-Location", "http://" + host + "/doc"}, true},
			{"POST", "/other", fields{"Answer-Location", "http://other.example/doc"}, false},
			{"POST", "/other", fields{"Answer-Location", "://"}, false},
			{"POST", "/other", nil, false},
			{"PUT", "/doc/more", nil, true}, // which is in it
			{"PUT", "/doc/more/more", nil, false},
			{"PUT", "/doc", fields{"If-Match", `"x"`}, false}, // a 412
			{"OPTIONS", "/doc", nil, false},
			{"PROPFIND", "/doc", nil, false},
			{"REPORT", "/doc", nil, false},
			{"SEARCH", "/doc", nil, false},
			{"QUERY", "/doc", nil, false},
		} {
			get(t, url+"/doc", "Cache-Control", "no-cache")
			require.True(t, b.remembers(t, clientFor(t, "h1", nil), "GET", url+"/doc", "If-None-Match", oneTag))
			do(t, client, tt.method, url+tt.path, "", tt.sends...)
			require.Equal(t, !tt.forgets, b.remembers(t, clientFor(t, "h1", nil), "GET", url+"/doc", "If-None-Match", oneTag), "%s %s %v", tt.method, tt.path, tt.sends)
		}
	}
}

func TestCollectionIsOneLevelUp(t *testing.T) {
	for resource, collection := range map[string]string{
		"a.example/docs/1": "a.example/docs", "a.example/docs": "a.example/", "a.example/": "a.example/", "::1/docs/a/b": "::1/docs/a",
	} {
		require.Equal(t, collection, collectionOf(resource))
	}
}

// steps lets a test stop a request downstream, and let it go on.
type steps struct {
	reached, goOn chan struct{}
}

func newSteps() *steps { return &steps{make(chan struct{}), make(chan struct{})} }

func (s *steps) stop() {
	s.reached <- struct{}{}
	<-s.goOn
}

// beside is a resource that a read and a write are at, each step by step.
type beside struct {
	handler     *Handler
	read, write *steps
	streams     bool // the answer to the write

	mu    sync.Mutex
	state string
	asked int
}

func (b *beside) ask(method string, sends ...string) *httptest.ResponseRecorder {
	rec, _ := serve(b.handler, b.next, method, sends...)
	return rec
}

// fromMemory reports whether a read with a tag is answered without downstream.
func (b *beside) fromMemory(tag string) bool {
	before := b.asked
	b.ask("GET", "If-None-Match", tag)
	return b.asked == before
}

func (b *beside) next(w http.ResponseWriter, r *http.Request) error {
	b.mu.Lock()
	state := b.state
	b.asked++
	b.mu.Unlock()
	if r.Method == http.MethodGet {
		if r.Header.Get("Referer") == "slow" { // which is no part of the question
			b.read.stop()
		}
		_, err := io.WriteString(w, state)
		return err
	}
	if b.streams {
		w.Header().Set("Content-Type", "text/event-stream")
	}
	for _, step := range r.Header.Get("Steps") {
		b.write.stop()
		switch step {
		case 'c':
			b.mu.Lock()
			b.state = "two"
			b.mu.Unlock()
		case 'b':
			w.WriteHeader(http.StatusOK)
		}
	}
	return nil
}

// TestTagFromBeforeAWriteNeverAnswersAfterIt: a read that may have seen the
// state before the write issues nothing that is good after it, in whatever order
// their steps come: a read is (r) asked and (a) answered; a write is (s) sent
// down, (c) commits, (b) begins its answer and (e) ends.
func TestTagFromBeforeAWriteNeverAnswersAfterIt(t *testing.T) {
	for _, method := range []string{"PUT", "POST"} {
		for _, kind := range []string{"plain", "guarded", "streaming"} {
			for _, steps := range []string{"cbe", "bce"} {
				for order := range orders("ra", "s"+steps) {
					t.Run(method+" "+kind+" "+order, func(t *testing.T) { testOrder(t, method, kind, steps, order) })
				}
			}
		}
	}
}

func testOrder(t *testing.T, method, kind, steps, order string) {
	t.Helper()
	b := &beside{
		handler: newHandler(t, Handler{Remember: caddy.Duration(time.Hour)}),
		read:    newSteps(), write: newSteps(), state: "one", streams: kind == "streaming",
	}
	b.ask("GET")
	require.True(t, b.fromMemory(oneTag))
	sends := []string{"Steps", steps}
	if kind != "plain" {
		sends = append(sends, "If-Match", oneTag)
	}
	isHeld := kind == "guarded" && method == "PUT"
	old := false
	client := &hookedWriter{header: http.Header{}, hook: func() {
		if isHeld || strings.HasPrefix(steps, "c") {
			old = b.fromMemory(oneTag)
		}
	}}

	var reads, writes sync.WaitGroup
	for _, step := range order {
		switch step {
		case 'r':
			reads.Go(func() { b.ask("GET", "Referer", "slow") })
			<-b.read.reached
		case 'a':
			b.read.goOn <- struct{}{}
			reads.Wait()
		case 's':
			writes.Go(func() {
				r := httptest.NewRequest(method, "/", nil)
				addFields(r.Header, sends)
				_ = b.handler.ServeHTTP(client, r, caddyhttp.HandlerFunc(b.next))
			})
			<-b.write.reached
			require.False(t, b.fromMemory(oneTag), "the write forgets before it goes down")
		case 'e':
			b.write.goOn <- struct{}{}
			writes.Wait()
			require.False(t, b.fromMemory(oneTag), "the write has been answered")
		default:
			b.write.goOn <- struct{}{}
			<-b.write.reached
		}
	}
	require.False(t, old, "the client sees the answer, and may read again")
	require.True(t, b.fromMemory(tagFor("two")))
}

// hookedWriter is a client that does something as soon as its answer begins.
type hookedWriter struct {
	header http.Header
	hook   func()
}

func (w *hookedWriter) Header() http.Header { return w.header }

func (w *hookedWriter) Write(p []byte) (int, error) { return len(p), nil }

func (w *hookedWriter) WriteHeader(int) { w.hook() }

// TestLateReadDoesNotDisplaceANewerTag.
func TestLateReadDoesNotDisplaceANewerTag(t *testing.T) {
	b := &beside{handler: newHandler(t, Handler{Remember: caddy.Duration(time.Hour)}), read: newSteps(), state: "one"}
	var reads sync.WaitGroup
	reads.Go(func() { b.ask("GET", "Referer", "slow") })
	<-b.read.reached
	b.ask("POST")
	b.state = "two"
	b.ask("GET")
	b.read.goOn <- struct{}{}
	reads.Wait()
	require.True(t, b.fromMemory(tagFor("two")))
}

// orders yields every way to put two sequences of steps into one.
func orders(a, b string) func(yield func(string) bool) {
	var all func(done, a, b string, yield func(string) bool) bool
	all = func(done, a, b string, yield func(string) bool) bool {
		if a == "" || b == "" {
			return yield(done + a + b)
		}
		return all(done+a[:1], a[1:], b, yield) && all(done+b[:1], a, b[1:], yield)
	}
	return func(yield func(string) bool) { all("", a, b, yield) }
}

// TestForgetOnTheAdminAPI: what it names, or all.
func TestForgetOnTheAdminAPI(t *testing.T) {
	b := &asked{body: "one"}
	port := freePort(t)
	url, caddyfile := siteAt(t, "etag {\nremember 1h\n}\nreverse_proxy "+startUpstream(t, b.ServeHTTP))
	load(t, strings.Replace(caddyfile, "admin off", "admin 127.0.0.1:"+port, 1))
	t.Cleanup(stopCaddy)
	endpoint := "http://127.0.0.1:" + port + "/etag/forget"
	client := clientFor(t, "h1", nil)
	remembers := func(path string) bool {
		return b.remembers(t, client, "GET", url+path, "If-None-Match", oneTag)
	}
	for _, tt := range []struct {
		body              string
		status            int
		doc, other, space bool // which are still known
	}{
		{`{"host": "127.0.0.1", "path": "/doc"}`, 204, false, true, true},
		{`{"host": "127.0.0.1:1234", "path": "//DOC/"}`, 204, false, true, true},
		{`{"host": "127.0.0.1", "path": "/a b"}`, 204, true, true, false},
		{`{"host": "127.0.0.1", "path": "/a%20b"}`, 204, true, true, false},
		{`{"host": "other.example", "path": "/doc"}`, 204, true, true, true},
		{``, 204, false, false, false},
		{`{}`, 204, false, false, false},
		{" \n", 204, false, false, false},
		{`{"host": "127.0.0.1"}`, 400, true, true, true},
		{`{"path": "/doc"}`, 400, true, true, true},
		{`{"host": "", "path": "/doc"}`, 400, true, true, true},
		{`{"host": "127.0.0.1", "path": "doc"}`, 400, true, true, true},
		{`{"host": "127.0.0.1", "path": ""}`, 400, true, true, true},
		{`{"host": "127.0.0.1", "path": "/doc?x"}`, 400, true, true, true},
		{`{"hots": "127.0.0.1", "path": "/doc"}`, 400, true, true, true},
		{`{"host": 1, "path": "/doc"}`, 400, true, true, true},
		{`{"host": "127.0.0.1", "path": "/doc"} {}`, 400, true, true, true},
		{`{"host": "127.0.0.1", "path": "/doc"}}`, 400, true, true, true},
		{`{}]`, 400, true, true, true},
		{`{"host": "http://127.0.0.1", "path": "/doc"}`, 400, true, true, true},
		{`{"host": null, "path": null}`, 400, true, true, true},
		{`{"host": "127.0.0.1", "path": null}`, 400, true, true, true},
		{`{"host": "127.0.0.1", "path": "/doc", "path": "/other"}`, 400, true, true, true},
		{`{"HOST": "127.0.0.1", "path": "/doc"}`, 400, true, true, true},
		{`{"host": ":8080", "path": "/doc"}`, 400, true, true, true},
		{`{"host": ".", "path": "/doc"}`, 400, true, true, true},
		{`{"host": {"host": "127.0.0.1"}, "path": "/doc"}`, 400, true, true, true},
		{`{"host": "127.0.0.1", "path": "/doc",}`, 400, true, true, true},
		{`{"host": "127.0.0.1", "path"`, 400, true, true, true},
		{`{1: "127.0.0.1"}`, 400, true, true, true},
		{"{\"host\": \"127.0.0.1\", \"path\": \"/doc\xff\"}", 400, true, true, true},
		{`{"host": " 127.0.0.1", "path": "/doc"}`, 400, true, true, true},
		{`{"host": "127.0.0.1,other.example", "path": "/doc"}`, 400, true, true, true},
		{`{"host": "*.example", "path": "/doc"}`, 400, true, true, true},
		{`{"host": "[::1", "path": "/doc"}`, 400, true, true, true},
		{`{"host": "127.0.0.1:80:80", "path": "/doc"}`, 400, true, true, true},
		{`{"host": "127.0.0.1:http", "path": "/doc"}`, 400, true, true, true},
		{`{"host": "[::1]:80", "path": "/doc"}`, 204, true, true, true},
		{`{"host": "::1", "path": "/doc"}`, 204, true, true, true},
		{`{"host": "xn--bcher-kva.example.", "path": "/doc"}`, 204, true, true, true},
		{`[]`, 400, true, true, true},
		{`null`, 400, true, true, true},
		{`{`, 400, true, true, true},
		{strings.Repeat(" ", maxForgetBody+1), 400, true, true, true},
	} {
		for _, path := range []string{"/doc", "/other", "/a%20b"} {
			remembers(path)
			require.True(t, remembers(path))
		}
		res := do(t, client, "POST", endpoint, tt.body, "Content-Type", "application/json")
		require.Equal(t, tt.status, res.status, "%s: %s", tt.body, res.body)
		if tt.status == 400 {
			require.Contains(t, res.body, `"error":`, "as Caddy's own routes have it")
		}
		require.Equal(t, tt.doc, remembers("/doc"), tt.body)
		require.Equal(t, tt.other, remembers("/other"), tt.body)
		require.Equal(t, tt.space, remembers("/a%20b"), tt.body)
	}
	for _, method := range []string{"GET", "DELETE"} {
		res := do(t, client, method, endpoint, "")
		require.Equal(t, 405, res.status)
		require.Equal(t, "POST", res.header.Get("Allow"))
	}
	require.Equal(t, 403, do(t, client, "POST", endpoint, "", "Origin", "https://evil.example", "Sec-Fetch-Mode", "cors").status,
		"Caddy's own check of the origin")
}
