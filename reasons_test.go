package etag

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// provoked is a request that is decided in a certain way, and why.
type provoked struct {
	reason  reason
	outcome string
	status  int
	config  Handler
	method  string // GET if empty
	sends   fields
	warm    bool // the request comes a second time
	next    caddyhttp.HandlerFunc
	before  func(t *testing.T, h *Handler)
}

func answer(status int, body string, header ...string) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		addFields(w.Header(), header)
		w.WriteHeader(status)
		if body == "" {
			return nil
		}
		_, err := io.WriteString(w, body)
		return err
	}
}

const oldDate, newDate = "Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:37 GMT"

var provokedReads = []provoked{
	{"", outcomeTagged, 200, Handler{}, "", nil, false, answer(200, "one"), nil},
	{"", outcomeKept, 200, Handler{}, "", nil, false, answer(200, "one", "ETag", `"own"`), nil},
	{reasonStatus, outcomeBypassed, 404, Handler{}, "", nil, false, answer(404, "one"), nil},
	{reasonNoMatch, outcomeBypassed, 200, Handler{Matcher: headerMatcher("X-Tag", "yes")}, "", nil, false, answer(200, "one"), nil},
	{reasonNoStore, outcomeBypassed, 200, Handler{}, "", nil, false, answer(200, "one", "Cache-Control", "no-store"), nil},
	{reasonStream, outcomeBypassed, 200, Handler{}, "", nil, false, answer(200, "one", "Content-Type", "text/event-stream"), nil},
	{reasonPartial, outcomeBypassed, 206, Handler{}, "", nil, false, answer(206, "one", "Content-Range", "bytes 0-2/5"), nil},
	{reasonUpgrade, outcomeBypassed, 101, Handler{}, "", nil, false, answer(101, ""), nil},
	{reasonTooLarge, outcomeBypassed, 200, Handler{MaxSize: 2}, "", nil, false, answer(200, "one"), nil},
	{reasonNoMemory, outcomeBypassed, 200, Handler{MaxMemory: 32 << 10}, "", nil, false, answer(200, strings.Repeat("x", 100<<10)), nil},
	{reasonTooSlow, outcomeBypassed, 200, Handler{MaxDelay: caddy.Duration(time.Millisecond)}, "", nil, false, func(w http.ResponseWriter, r *http.Request) error {
		_, err := io.WriteString(w, "one")
		for w.(*read).isHeld() {
			time.Sleep(time.Millisecond)
		}
		return err
	}, nil},
	{reasonUnstable, outcomeTagged, 200, Handler{}, "", fields{"If-None-Match", `"x"`, "If-Modified-Since", oldDate}, false, answer(200, "one", "Last-Modified", oldDate), nil},
	{reasonIfNoneMatch, outcomeNotModified, 304, Handler{}, "", fields{"If-None-Match", oneTag}, false, answer(200, "one"), nil},
	{reasonIfNoneMatch, outcomeNotModified, 304, Handler{}, "", fields{"If-None-Match", `"own"`}, false, answer(304, "", "ETag", `"own"`), nil},
	{reasonIfModifiedSince, outcomeNotModified, 304, Handler{}, "", fields{"If-Modified-Since", oldDate}, false, answer(200, "one", "Last-Modified", oldDate), nil},
	{reasonIfModifiedSince, outcomeNotModified, 304, Handler{}, "", fields{"If-Modified-Since", oldDate}, false, answer(304, ""), nil},
	{reasonIfMatch, outcomeFailed, 412, Handler{}, "", fields{"If-Match", `"x"`}, false, answer(200, "one"), nil},
	{reasonIfUnmodifiedSince, outcomeFailed, 412, Handler{}, "", fields{"If-Unmodified-Since", oldDate}, false, answer(200, "one", "Last-Modified", newDate), nil},
	{reasonRemembered, outcomeNotModified, 304, Handler{Remember: caddy.Duration(time.Hour)}, "", fields{"If-None-Match", oneTag}, true, answer(200, "one"), nil},
	{"", outcomeError, 0, Handler{}, "", nil, false, func(http.ResponseWriter, *http.Request) error { return errOfHandler }, nil},
	{"", outcomeError, 0, Handler{}, "", nil, false, func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, "on")
		return errOfHandler
	}, nil},
	{"", outcomeKept, 206, Handler{Ranges: rangesOn}, "", fields{"Range", "bytes=0-1", "If-None-Match", `"x"`, "If-Modified-Since", oldDate}, false, answer(200, "one", "ETag", `"own"`, "Last-Modified", oldDate), nil},
	{"", outcomeError, 0, Handler{}, "", nil, false, func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, "on")
		panic(http.ErrAbortHandler)
	}, nil},
}

// isHeld reports whether the response is still held.
func (rd *read) isHeld() bool {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	return rd.state == stateHolding
}

var provokedWrites = []provoked{
	{"", outcomePassed, 200, Handler{}, "PUT", nil, false, answer(200, "one"), nil},
	{"", outcomeRequired, 428, Handler{RequireIfMatch: []string{"*"}}, "PUT", nil, false, answer(200, "one"), nil},
	{"", outcomeBypassed, 401, Handler{}, "PUT", fields{"If-Match", oneTag}, false, answer(401, "who?"), nil},
	{reasonStale, outcomeFailed, 412, Handler{}, "PUT", fields{"If-Match", `"x"`}, false, answer(200, "one"), nil},
	{reasonStale, outcomeFailed, 412, Handler{}, "PUT", fields{"If-Unmodified-Since", oldDate}, false, answer(200, "one", "Last-Modified", newDate), nil},
	{reasonMalformed, outcomeFailed, 412, Handler{}, "PUT", fields{"If-Match", "x"}, false, answer(200, "one"), nil},
	{reasonNoTag, outcomeFailed, 412, Handler{}, "PUT", fields{"If-Match", `"x"`}, false, answer(200, "one", "Cache-Control", "no-store"), nil},
	{reasonExists, outcomeFailed, 412, Handler{}, "PUT", fields{"If-None-Match", "*"}, false, answer(200, "one"), nil},
	{reasonUnreadable, outcomeFailed, 412, Handler{}, "PUT", fields{"If-Match", `"x"`}, false, answer(302, ""), nil},
	{reasonBusy, outcomeLockedOut, 503, Handler{LockTimeout: caddy.Duration(time.Millisecond)}, "PUT", nil, false, answer(200, "one"), func(t *testing.T, h *Handler) {
		t.Helper()
		lock, err := h.locker.Lock(t.Context(), resourceKey(httptest.NewRequest(http.MethodPut, "http://a.example/path", nil)))
		require.NoError(t, err)
		t.Cleanup(func() { _ = lock.Unlock(context.Background()) })
	}},
	{reasonLockFailed, outcomeLockedOut, 503, Handler{}, "PUT", nil, false, answer(200, "one"), func(_ *testing.T, h *Handler) {
		h.locker = brokenLocker{}
	}},
	{reasonLockFailed, outcomeLockedOut, 503, Handler{}, "PUT", nil, false, answer(200, "one"), func(_ *testing.T, h *Handler) {
		expired := make(chan struct{})
		close(expired)
		h.locker = lockerFunc(func(context.Context, string) (Lock, error) { return testLease(expired), nil })
	}},
	{
		reasonNoMemory, outcomeLockedOut, 503,
		Handler{Strength: "weak", Canonicalize: "json", MaxMemory: 32 << 10},
		"PUT",
		fields{"If-Match", `"x"`},
		false,
		answer(200, "["+strings.Repeat("1,", 50<<10)+"1]", "Content-Type", "application/json"), nil,
	},
	{reasonHold, outcomeLockedOut, 503, Handler{LockHold: caddy.Duration(time.Millisecond)}, "PUT", fields{"If-Match", `"x"`}, false, func(_ http.ResponseWriter, r *http.Request) error {
		<-r.Context().Done()
		return r.Context().Err()
	}, nil},
	{reasonHold, outcomeTimedOut, 504, Handler{LockHold: caddy.Duration(200 * time.Millisecond)}, "PUT", fields{"If-Match", "*"}, false, func(w http.ResponseWriter, r *http.Request) error {
		if r.Method == http.MethodPut {
			<-r.Context().Done()
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}, func(_ *testing.T, h *Handler) {
		h.locker = lockerFunc(func(context.Context, string) (Lock, error) { return testLease(nil), nil }) // it can't tell who waits
	}},
}

func testLease(expired chan struct{}) Lock {
	service := make(chan struct{}, 1)
	service <- struct{}{}
	return &leaseLock{service, expired}
}

type brokenLocker struct{}

func (brokenLocker) Lock(context.Context, string) (Lock, error) {
	return nil, errors.New("the service is down")
}

// TestEachReason is told by the placeholder, by the metrics and in the log.
func TestEachReason(t *testing.T) {
	told := make(map[reason]bool)
	for _, kind := range []struct {
		name  string
		cases []provoked
	}{{kindRead, provokedReads}, {kindWrite, provokedWrites}} {
		for _, p := range kind.cases {
			t.Run(fmt.Sprintf("%s %s %s %v", kind.name, p.outcome, p.reason, p.sends), func(t *testing.T) {
				told[p.reason] = true
				testReason(t, kind.name, p)
			})
		}
	}
	source, err := os.ReadFile("reason.go")
	require.NoError(t, err)
	for line := range strings.Lines(string(source)) {
		if _, value, ok := strings.Cut(line, "reason = \""); ok {
			value, _, _ = strings.Cut(value, `"`)
			require.True(t, told[reason(value)], "nothing provokes %s", value)
		}
	}
}

func testReason(t *testing.T, kind string, p provoked) {
	t.Helper()
	h := newHandler(t, p.config)
	core, logs := observer.New(zapcore.DebugLevel)
	h.logger = zap.New(core)
	if p.before != nil {
		p.before(t, h)
	}
	ask := func() (*httptest.ResponseRecorder, *caddy.Replacer) {
		method := p.method
		if method == "" {
			method = http.MethodGet
		}
		r := httptest.NewRequest(method, "http://a.example/p%61th?query=secret", nil)
		addFields(r.Header, p.sends)
		repl := caddy.NewReplacer()
		ctx := context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl)
		ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, *r.Clone(ctx))
		r = r.WithContext(ctx)
		r.URL.Path, r.URL.RawPath = "/", "" // by a rewrite
		rec := httptest.NewRecorder()
		func() {
			defer func() { _ = recover() }()
			_ = h.ServeHTTP(rec, r, p.next)
		}()
		return rec, repl
	}
	if p.warm {
		ask()
		logs.TakeAll()
	}
	before := outcomeCount(t, kind, p.outcome, p.reason)
	rec, repl := ask()
	if p.status != 0 {
		require.Equal(t, p.status, rec.Code)
	}
	require.Equal(t, p.outcome+" "+string(p.reason), repl.ReplaceAll("{http.etag.outcome} {http.etag.reason}", ""))
	require.InDelta(t, before+1, outcomeCount(t, kind, p.outcome, p.reason), 0)

	decisions := logs.FilterMessage("decided on the " + kind).All()
	require.Len(t, decisions, 1, "each decision is logged once")
	entry := decisions[0].ContextMap()
	require.Equal(t, zapcore.DebugLevel, decisions[0].Level)
	require.Equal(t, p.outcome, entry["outcome"])
	require.Equal(t, string(p.reason), entry["reason"])
	require.Equal(t, "a.example", entry["host"])
	require.Equal(t, "/p%61th", entry["path"], "as the client sent it")
	for i := 0; i < len(p.sends); i += 2 {
		if p.sends[i] == "Range" {
			continue // which is no precondition
		}
		require.Equal(t, p.sends[i+1], entry[strings.ReplaceAll(strings.ToLower(p.sends[i]), "-", "_")])
	}
	if p.reason == reasonStale && p.sends[0] == "If-Match" {
		require.Equal(t, oneTag, entry["current_tag"])
	}
	if p.reason == reasonUnreadable {
		require.EqualValues(t, 302, entry["internal_get_status"])
	}
	for _, line := range logs.All() {
		require.NotContains(t, fmt.Sprint(line.ContextMap()), "secret")
	}
	if p.reason == reasonLockFailed || p.reason == reasonHold {
		require.Equal(t, 1, logs.FilterLevelExact(zapcore.ErrorLevel).Len())
	}
	if p.reason == reasonNoMemory {
		require.Equal(t, 1, logs.FilterLevelExact(zapcore.WarnLevel).Len())
	}
}

// outcomeCount returns how many requests were counted with these labels.
func outcomeCount(t *testing.T, kind, outcome string, why reason) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(metrics.outcomes.WithLabelValues(kind, outcome, string(why)).(prometheus.Collector)))
	families, err := registry.Gather()
	require.NoError(t, err)
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// TestUsedUpMemoryIsToldOnceAMinute, however many responses pass for it.
func TestUsedUpMemoryIsToldOnceAMinute(t *testing.T) {
	h := newHandler(t, Handler{MaxMemory: 32 << 10})
	core, logs := observer.New(zapcore.WarnLevel)
	h.logger = zap.New(core)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { _, _ = serve(h, answer(200, strings.Repeat("x", 100<<10)), http.MethodGet) })
	}
	all.Wait()
	require.Equal(t, 1, logs.Len())
	context := logs.All()[0].ContextMap()
	require.EqualValues(t, h.MaxMemory, context["max_memory"])
	require.Contains(t, context, "held")
	require.Contains(t, context, "held_by_all")
	h.memoryWarned.last.Add(-int64(2 * warnInterval))
	_, _ = serve(h, answer(200, strings.Repeat("x", 100<<10)), http.MethodGet)
	require.Equal(t, 2, logs.Len())
}

// TestReasonOfAHijackedConnection, which reverse_proxy takes for a WebSocket.
func TestReasonOfAHijackedConnection(t *testing.T) {
	before := outcomeCount(t, kindRead, outcomeBypassed, reasonUpgrade)
	upstream := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n")
		_ = buf.Flush()
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	_, _ = try(clientFor(t, "h1", nil), "GET", url, "", "Connection", "Upgrade", "Upgrade", "test")
	eventually(t, func() bool { return outcomeCount(t, kindRead, outcomeBypassed, reasonUpgrade) == before+1 })
}

// TestReasonOfAnErrorIsSeenByErrorRoutes.
func TestReasonOfAnErrorIsSeenByErrorRoutes(t *testing.T) {
	url := startCaddy(t, `etag
		error 500
		handle_errors {
			respond "{http.etag.outcome}"
		}`)
	require.Equal(t, outcomeError, get(t, url).body)
}
