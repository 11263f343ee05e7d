package etag

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// This file has what the tests of the guard need: a backend that does what a
// test tells it to, a site in front of it, and clients that behave badly.

// scriptedBackend is a store of documents as most are: it goes on with a write though
// its client has left, and takes an override of the method for the method.
type scriptedBackend struct {
	mu       sync.Mutex
	docs     map[string]string
	requests []*http.Request // all that came, in order
	accepted []acceptedWrite
	within   int // writes that have come with all of their body, and are not stored
	most     int // of them at one time
	canceled int // writes that were given up in front of the backend while they were within
	broken   int // writes whose body did not come to its end
	gate     chan struct{}
	over     chan struct{} // closed at the end of the test
	script   func(w http.ResponseWriter, r *http.Request) bool
	reply    func(w http.ResponseWriter, r *http.Request)
	delay    func() time.Duration // that it takes to store a write
}

// acceptedWrite is one that was stored. What it is based on is in the field
// X-Base, since the backend doesn't see a tag of ours in If-Match.
type acceptedWrite struct{ name, base, before, after string }

// startBackend runs a backend that has /doc until the end of the test, and
// returns its address.
func startBackend(tb testing.TB) (b *scriptedBackend, address string) {
	b = &scriptedBackend{docs: maps.Clone(oneDoc), gate: make(chan struct{}), over: make(chan struct{})}
	close(b.gate)
	return b, startUpstream(tb, b.ServeHTTP)
}

// scripted has a function answer requests in place of the backend: those for
// which it returns true.
func (b *scriptedBackend) scripted(script func(w http.ResponseWriter, r *http.Request) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.script = script
}

// replies has a function answer the writes that were stored.
func (b *scriptedBackend) replies(reply func(w http.ResponseWriter, r *http.Request)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reply = reply
}

// shut has the writes that come from now on wait for open before they are
// stored, whatever becomes of who sent them.
func (b *scriptedBackend) shut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gate = make(chan struct{})
}

func (b *scriptedBackend) open() {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.gate:
	default:
		close(b.gate)
	}
}

// hang waits until who sent the request gives it up, and reports it.
func (b *scriptedBackend) hang(r *http.Request) (givenUp bool) {
	select {
	case <-r.Context().Done():
		return true
	case <-b.over:
		return false
	}
}

// nameOf returns the one name that the backend has for all names of a document.
func nameOf(r *http.Request) string { return strings.ToLower(path.Clean(r.URL.Path)) }

// overrides are the fields that frameworks take for the method.
var overrides = []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"}

func effectiveMethod(r *http.Request) string {
	for _, name := range overrides {
		if method := r.Header.Get(name); method != "" {
			return strings.ToUpper(method)
		}
	}
	return strings.ToUpper(r.Method)
}

func (b *scriptedBackend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.requests = append(b.requests, r.Clone(context.Background()))
	script, gate := b.script, b.gate
	b.mu.Unlock()
	if script != nil && script(w, r) {
		return
	}
	method := effectiveMethod(r)
	if method == http.MethodGet {
		b.mu.Lock()
		doc, found := b.docs[nameOf(r)]
		b.mu.Unlock()
		if !found {
			http.Error(w, "no such document", http.StatusNotFound)
			return
		}
		if w.Header().Get("Content-Type") == "" { // else the script has set it
			w.Header().Set("Content-Type", "text/plain")
		}
		_, _ = io.WriteString(w, doc)
		return
	}

	body, err := io.ReadAll(r.Body)
	if err != nil {
		b.count(&b.broken)
		panic(http.ErrAbortHandler)
	}
	b.enter()
	select {
	case <-gate:
	case <-r.Context().Done():
		b.count(&b.canceled)
		select {
		case <-gate:
		case <-b.over:
		}
	case <-b.over:
	}
	if b.delay != nil {
		time.Sleep(b.delay())
	}
	b.store(w, r, method, string(body))
}

func (b *scriptedBackend) count(counter *int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*counter++
}

func (b *scriptedBackend) enter() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.within++
	b.most = max(b.most, b.within)
}

func (b *scriptedBackend) store(w http.ResponseWriter, r *http.Request, method, body string) {
	b.mu.Lock()
	b.within--
	name := nameOf(r)
	before, found := b.docs[name]
	status := http.StatusNoContent
	switch method {
	case http.MethodPut:
		b.docs[name] = body
		if !found {
			status = http.StatusCreated
		}
	case http.MethodPatch:
		b.docs[name] += body
		status = http.StatusOK
	case http.MethodDelete:
		delete(b.docs, name)
	default:
		status = http.StatusOK
	}
	b.accepted = append(b.accepted, acceptedWrite{name, r.Header.Get("X-Base"), before, body})
	reply := b.reply
	b.mu.Unlock()
	if reply != nil {
		reply(w, r)
		return
	}
	w.WriteHeader(status)
}

// inside returns how many writes have come with all of their body, and are not
// stored.
func (b *scriptedBackend) inside() int { return b.get(&b.within) }

func (b *scriptedBackend) get(counter *int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return *counter
}

// all returns all requests that have come, in order.
func (b *scriptedBackend) all() []*http.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}

// seen returns the methods of all requests that have come, in order.
func (b *scriptedBackend) seen() string {
	methods := []string{}
	for _, r := range b.all() {
		methods = append(methods, r.Method)
	}
	return strings.Join(methods, " ")
}

// requested returns how many requests with this method have come.
func (b *scriptedBackend) requested(method string) int {
	return strings.Count(" "+b.seen()+" ", " "+method+" ")
}

// first returns the first request with this method.
func (b *scriptedBackend) first(tb testing.TB, method string) *http.Request {
	tb.Helper()
	for _, r := range b.all() {
		if r.Method == method {
			return r
		}
	}
	require.FailNow(tb, "the backend has seen no "+method)
	return nil
}

// stored returns the bodies of the writes that were stored, in order.
func (b *scriptedBackend) stored() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	bodies := []string{}
	for _, write := range b.accepted {
		bodies = append(bodies, write.after)
	}
	return bodies
}

// checkHistory asserts that no write was stored over another one than it was
// based on. Bodies, and so tags, must be unique.
func (b *scriptedBackend) checkHistory(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	perTag := make(map[string]int)
	for i, write := range b.accepted {
		require.Equal(t, tagFor(write.before), write.base, "write %d is over another document than its client has seen", i)
		perTag[write.base]++
		require.Equal(t, 1, perTag[write.base], "writes with one tag")
	}
}

// guardSite is a site with the handler in front of a backend that has /doc. Its
// answers tell the handler's outcome and reason.
type guardSite struct {
	*scriptedBackend
	tb     testing.TB
	url    string
	config string
	client *http.Client
}

func startGuarded(tb testing.TB, options string) *guardSite {
	tb.Helper()
	return startGuardedSite(tb, "etag {\n"+options+"\n}\nreverse_proxy %s")
}

// startGuardedSite runs a site block that has %s for the backend's address,
// and is for any host, with the global options.
func startGuardedSite(tb testing.TB, site string, global ...string) *guardSite {
	tb.Helper()
	b, address := startBackend(tb)
	url, config := siteAt(tb, "doorway\nheader >X-Outcome {http.etag.outcome}\nheader >X-Reason {http.etag.reason}\n"+
		strings.ReplaceAll(site, "%s", address))
	config = strings.Replace(config, "{", "{\n"+strings.Join(global, "\n"), 1)
	config = strings.Replace(config, "\t"+url+" {", "\thttp://:"+url[strings.LastIndex(url, ":")+1:]+" {", 1)
	g := &guardSite{b, tb, url, config, clientFor(tb, "h1", nil)}
	g.client.Timeout = 10 * time.Second
	load(tb, config)
	tb.Cleanup(stopCaddy)
	tb.Cleanup(func() { close(b.over) }) // or there would be no end to what waits
	return g
}

// do sends a request and reads its answer.
func (g *guardSite) do(method, path, body string, fields ...string) reply {
	g.tb.Helper()
	return do(g.tb, g.client, method, g.url+path, body, fields...)
}

// sentWrite is a request that is on its way.
type sentWrite struct {
	leave context.CancelFunc
	done  chan struct{}
	reply reply
	err   error
}

// send sends a request, and returns when it has come to the handler.
func (g *guardSite) send(method, path, body string, fields ...string) *sentWrite {
	g.tb.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	ctx, leave := context.WithCancel(context.Background())
	g.tb.Cleanup(leave)
	req, err := http.NewRequestWithContext(ctx, method, g.url+path, content)
	require.NoError(g.tb, err)
	addFields(req.Header, fields)
	s := &sentWrite{leave: leave, done: make(chan struct{})}
	g.arrive(func() {
		go func() {
			defer close(s.done)
			res, err := g.client.Do(req)
			if err != nil {
				s.err = err
				return
			}
			defer res.Body.Close()
			var text bytes.Buffer
			_, err = text.ReadFrom(res.Body)
			s.reply = reply{res.StatusCode, res.Header, res.Trailer, text.String(), res.ContentLength, err}
		}()
	})
	return s
}

// answer waits for the answer.
func (s *sentWrite) answer(tb testing.TB) reply {
	tb.Helper()
	<-s.done
	require.NoError(tb, s.err)
	return s.reply
}

// arrive waits until what f sends has come to the handler.
func (g *guardSite) arrive(f func()) {
	g.tb.Helper()
	before := door.came.Load()
	f()
	eventually(g.tb, func() bool { return door.came.Load() > before })
}

// gone waits until the handler has come to its end with all requests.
func (g *guardSite) gone() {
	g.tb.Helper()
	eventually(g.tb, func() bool { return door.came.Load() == door.gone.Load() })
}

// passesMeanwhile asserts that another client's write gets through while
// something else goes on.
func (g *guardSite) passesMeanwhile(t *testing.T) {
	t.Helper()
	res := do(t, clientFor(t, "h1", nil), "PUT", g.url+"/doc", "meanwhile", "If-Match", "*")
	require.Equal(t, 204, res.status, "another client's write: %s", res.body)
}

// happens gives something that must not happen time to happen, and reports
// whether it did. On a slow machine it may miss it, but raises no false alarm.
func happens(condition func() bool) bool {
	for range 150 {
		if condition() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// settle gives a request that has come to the handler time to wait there for
// what it must wait for.
func settle() { happens(func() bool { return false }) }

// doorway is a handler in front of the others that counts the requests which
// have come through it, and those which have gone back. Internal GETs don't
// come by.
type doorway struct{}

var door struct{ came, gone atomic.Int32 }

func init() {
	caddy.RegisterModule(doorway{})
	httpcaddyfile.RegisterHandlerDirective("doorway", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return doorway{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("doorway", httpcaddyfile.Before, "encode")
}

func (doorway) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doorway", New: func() caddy.Module { return new(doorway) }}
}

func (doorway) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	door.came.Add(1)
	defer door.gone.Add(1)
	return next.ServeHTTP(w, r)
}

// problemIn returns the members of a problem body.
func problemIn(tb testing.TB, res reply) (members map[string]any) {
	tb.Helper()
	require.NoError(tb, json.Unmarshal([]byte(res.body), &members), "%d %s", res.status, res.body)
	return members
}

// requireReason asserts that a write was refused with this status and reason,
// in the problem body and in the placeholder alike, and returns the detail.
func requireReason(tb testing.TB, res reply, status int, reason string) (detail string) {
	tb.Helper()
	require.Equal(tb, status, res.status, res.body)
	members := problemIn(tb, res)
	require.Equal(tb, reason, members["reason"])
	require.Equal(tb, reason, res.header.Get("X-Reason"))
	detail, _ = members["detail"].(string)
	require.NotEmpty(tb, detail)
	return detail
}

// rawConn is an HTTP/1.1 client that sends what it is told to.
type rawConn struct {
	net.Conn
	tb      testing.TB
	answers *bufio.Reader
}

func (g *guardSite) dial() *rawConn {
	g.tb.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	require.NoError(g.tb, err)
	g.tb.Cleanup(func() { conn.Close() })
	// a test that waits for ever tells nothing
	require.NoError(g.tb, conn.SetDeadline(time.Now().Add(20*time.Second)))
	return &rawConn{conn, g.tb, bufio.NewReader(conn)}
}

// send sends text with \n for the ends of its lines.
func (c *rawConn) send(format string, args ...any) {
	c.tb.Helper()
	_, err := io.WriteString(c, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\r\n"))
	require.NoError(c.tb, err)
}

// receive reads the next answer, which may be an interim one.
func (c *rawConn) receive() reply {
	c.tb.Helper()
	res, err := http.ReadResponse(c.answers, nil)
	require.NoError(c.tb, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, res.Trailer, string(body), res.ContentLength, err}
}

// reset closes the connection as a client does that breaks down.
func (c *rawConn) reset() {
	_ = c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// unread is an HTTP/2 client that has no window, and so takes the header of an
// answer, but nothing of its content.
type unread struct {
	tb      testing.TB
	framer  *http2.Framer
	mu      sync.Mutex // for writes
	status  chan string
	content chan int // its length, when it is complete
}

func (g *guardSite) dialUnread() *unread {
	g.tb.Helper()
	conn := g.dial()
	_, err := io.WriteString(conn, http2.ClientPreface)
	require.NoError(g.tb, err)
	u := &unread{tb: g.tb, framer: http2.NewFramer(conn, conn), status: make(chan string, 1), content: make(chan int, 1)}
	require.NoError(g.tb, u.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	go u.read()
	return u
}

// request sends a request as the connection's only one.
func (u *unread) request(method, path, body string, fields ...string) {
	u.tb.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	writeHeader(u.tb, u.framer, method, path, append(fields, "Content-Length", fmt.Sprint(len(body)))...)
	require.NoError(u.tb, u.framer.WriteData(1, true, []byte(body)))
}

// writeHeader begins the first request of an HTTP/2 connection, one with a body.
func writeHeader(tb testing.TB, framer *http2.Framer, method, path string, fields ...string) {
	tb.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	all := append([]string{":method", method, ":scheme", "http", ":authority", "127.0.0.1", ":path", path}, fields...)
	for i := 0; i < len(all); i += 2 {
		require.NoError(tb, encoder.WriteField(hpack.HeaderField{Name: strings.ToLower(all[i]), Value: all[i+1]}))
	}
	require.NoError(tb, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
}

// dialHTTP2 opens a connection of HTTP/2 from which nobody reads.
func (g *guardSite) dialHTTP2() (*rawConn, *http2.Framer) {
	g.tb.Helper()
	conn := g.dial()
	_, err := io.WriteString(conn, http2.ClientPreface)
	require.NoError(g.tb, err)
	framer := http2.NewFramer(conn, conn)
	require.NoError(g.tb, framer.WriteSettings())
	return conn, framer
}

// take gives the server the window for n bytes.
func (u *unread) take(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	_ = u.framer.WriteWindowUpdate(0, uint32(n))
	_ = u.framer.WriteWindowUpdate(1, uint32(n))
}

func (u *unread) read() {
	decoder := hpack.NewDecoder(4096, nil)
	length := 0
	for {
		frame, err := u.framer.ReadFrame()
		if err != nil {
			return
		}
		ended := false
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				u.mu.Lock()
				_ = u.framer.WriteSettingsAck()
				u.mu.Unlock()
			}
		case *http2.HeadersFrame:
			fields, _ := decoder.DecodeFull(frame.HeaderBlockFragment())
			for _, field := range fields {
				if field.Name == ":status" {
					u.status <- field.Value
				}
			}
			ended = frame.StreamEnded()
		case *http2.DataFrame:
			length += len(frame.Data())
			ended = frame.StreamEnded()
		}
		if ended {
			u.content <- length
		}
	}
}
