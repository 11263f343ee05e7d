package etag

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// noLocks asserts that nobody holds a lock of this process.
func noLocks(tb testing.TB) {
	tb.Helper()
	processLocks.mu.Lock()
	defer processLocks.mu.Unlock()
	require.Empty(tb, processLocks.queues)
}

// waiting returns how many wait for the lock for key.
func (t *lockTable) waiting(key string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if queue := t.queues[key]; queue != nil {
		return len(queue.waiters)
	}
	return 0
}

func newLockTable() *lockTable { return &lockTable{queues: make(map[string]*lockQueue)} }

// await waits until n wait for the lock for key.
func (t *lockTable) await(tb testing.TB, key string, n int) {
	tb.Helper()
	eventually(tb, func() bool { return t.waiting(key) == n })
}

func TestLocalLockServesWaitersInOrder(t *testing.T) {
	table, ctx := newLockTable(), context.Background()
	require.NoError(t, table.lock(ctx, "a"))
	require.NoError(t, table.lock(ctx, "b"), "another lock is free")
	table.unlock("b")

	const waiters = 10
	order := make(chan int, waiters)
	for i := range waiters {
		go func() {
			if table.lock(ctx, "a") == nil {
				order <- i
				table.unlock("a")
			}
		}()
		table.await(t, "a", i+1)
	}
	table.unlock("a")
	for i := range waiters {
		require.Equal(t, i, <-order)
	}
	eventually(t, func() bool {
		table.mu.Lock()
		defer table.mu.Unlock()
		return len(table.queues) == 0 // no entry outlives its last holder
	})
}

func TestLocalLockIsGivenUpByWhoLeaves(t *testing.T) {
	table := newLockTable()
	require.NoError(t, table.lock(context.Background(), "a"))

	leaving, leave := context.WithCancel(context.Background())
	left, got := make(chan error), make(chan error)
	go func() { left <- table.lock(leaving, "a") }()
	table.await(t, "a", 1)
	go func() { got <- table.lock(context.Background(), "a") }()
	table.await(t, "a", 2)

	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	table.await(t, "a", 1)
	table.unlock("a")
	require.NoError(t, <-got)
	table.unlock("a")
	require.Empty(t, table.queues)
}

// TestLocalLockIsNotLostToAWaiterThatLeaves cancels the waiter and hands the
// lock over before it can say so, again and again: it must be free afterwards.
func TestLocalLockIsNotLostToAWaiterThatLeaves(t *testing.T) {
	table := newLockTable()
	for range 2000 {
		require.NoError(t, table.lock(context.Background(), "a"))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if table.lock(ctx, "a") == nil {
				table.unlock("a")
			}
		}()
		table.await(t, "a", 1)
		cancel()
		table.unlock("a")
		<-done
		require.Empty(t, table.queues)
	}
}

func TestResourceKey(t *testing.T) {
	key := func(host, path, original string) string {
		r := httptest.NewRequest(http.MethodPut, path, nil)
		r.Host = host
		if original != "" {
			u, err := url.Parse(original)
			require.NoError(t, err)
			r = r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, http.Request{URL: u}))
		}
		return resourceKey(r)
	}
	want := key("example.com", "/a", "")
	for _, same := range []string{
		key("EXAMPLE.com", "/a", ""),
		key("example.com:8443", "/a", ""),
		key("example.com", "/a?q=1", ""),
		key("example.com", "/%61", ""),
		key("example.com", "/rewritten", "/a?q"),
	} {
		require.Equal(t, want, same)
	}
	for _, other := range []string{
		key("example.org", "/a", ""),
		key("example.com", "/A", ""),
		key("example.com", "/a/", ""),
		key("example.com", "/a", "/b"),
	} {
		require.NotEqual(t, want, other)
	}
}

func TestStorageLockNamesAreSafeAndDistinct(t *testing.T) {
	a, b := storageLockName("example.com/a b"), storageLockName("example.com/a_b")
	require.NotEqual(t, a, b, "Caddy's file storage has one file for both keys")
	require.Regexp(t, `^etag-[0-9a-f]{64}$`, a)
	require.Len(t, storageLockName(strings.Repeat("x", 10_000)), len(a))
}

func TestLockedOutWriteGets503(t *testing.T) {
	s, url, client := startStore(t, "lock local 50ms", copyOf(oneDoc))
	release := make(chan struct{})
	entered := make(chan struct{})
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			close(entered)
			<-release
		}
		return false
	}
	done := make(chan int)
	go func() { done <- do(t, client, "DELETE", url+"/doc", "").status }()
	<-entered
	s.seen()

	// with preconditions or not, and whatever the query
	for _, fields := range [][]string{nil, {"If-Match", oneTag}} {
		res := do(t, client, "PUT", url+"/doc?x=1", "two", fields...)
		require.Equal(t, 503, res.status)
		require.Equal(t, "1", res.header.Get("Retry-After"))
		require.Equal(t, "application/problem+json", res.header.Get("Content-Type"))
		require.Contains(t, res.body, `"status":503`)
	}
	require.Empty(t, s.seen())
	require.Equal(t, 201, do(t, client, "PUT", url+"/other", "two").status, "another resource is free")

	close(release)
	require.Equal(t, 204, <-done)
	require.Equal(t, 201, do(t, client, "PUT", url+"/doc", "two").status)
}

// testLock is a locker module that notes its calls, and fails if it is told to.
type testLock struct {
	Greeting string `json:"greeting,omitempty"`
}

// testLocks is what all testLocks share.
var testLocks struct {
	sync.Mutex
	calls []string
	err   error
}

func resetTestLocks(tb testing.TB, err error) {
	set := func(err error) {
		testLocks.Lock()
		defer testLocks.Unlock()
		testLocks.calls, testLocks.err = nil, err
	}
	set(err)
	tb.Cleanup(func() { set(nil) })
}

// lockCalls waits for n calls and returns them.
func lockCalls(tb testing.TB, n int) []string {
	tb.Helper()
	var calls []string
	eventually(tb, func() bool {
		testLocks.Lock()
		defer testLocks.Unlock()
		calls = slices.Clone(testLocks.calls)
		return len(calls) >= n
	})
	return calls
}

func init() { caddy.RegisterModule(testLock{}) }

func (testLock) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.etag.locks.test", New: func() caddy.Module { return new(testLock) }}
}

func (l *testLock) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		if d.Val() != "greeting" {
			return d.Errf("unrecognized option %q", d.Val())
		}
		if !d.AllArgs(&l.Greeting) {
			return d.ArgErr()
		}
	}
	return nil
}

func (l *testLock) note(call, key string) error {
	testLocks.Lock()
	defer testLocks.Unlock()
	testLocks.calls = append(testLocks.calls, l.Greeting+" "+call+" "+key)
	return testLocks.err
}

func (l *testLock) Lock(_ context.Context, key string) error   { return l.note("lock", key) }
func (l *testLock) Unlock(_ context.Context, key string) error { return l.note("unlock", key) }

func TestLockModuleOfAnotherName(t *testing.T) {
	resetTestLocks(t, nil)
	_, url, client := startStore(t, "lock test 5s {\ngreeting hello\n}", copyOf(oneDoc))
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag).status)
	require.Equal(t, []string{"hello lock 127.0.0.1/doc", "hello unlock 127.0.0.1/doc"}, lockCalls(t, 2))
}

func TestFailingLockStoreIsNeverAnUnguardedWrite(t *testing.T) {
	resetTestLocks(t, errors.New("store is down"))
	s := newStore(copyOf(oneDoc))
	file := t.TempDir() + "/error.log"
	port, config := siteAt(t, "etag {\nlock test\n}\nreverse_proxy "+s.start(t))
	load(t, strings.Replace(config, "level PANIC", "level ERROR\noutput file "+file, 1))
	t.Cleanup(stopCaddy)
	client := clientFor(t, "h1", nil)

	for _, fields := range [][]string{nil, {"If-Match", oneTag}} {
		res := do(t, client, "PUT", port+"/doc", "two", fields...)
		require.Equal(t, 503, res.status)
		require.NotEmpty(t, res.header.Get("Retry-After"))
	}
	require.Empty(t, s.seen())
	stopCaddy()
	lines := strings.Join(readLines(t, file), "\n")
	require.Contains(t, lines, `"error":"store is down"`)
	require.Contains(t, lines, `"level":"error"`)
}

// TestNestedHandlersTakeTheLockOnce: the lock is not free until the outer
// handler gives it back, so the inner one would wait for ever.
func TestNestedHandlersTakeTheLockOnce(t *testing.T) {
	resetTestLocks(t, nil)
	s := newStore(copyOf(oneDoc))
	url := startCaddy(t, `etag {
		lock test
	}
	route {
		etag {
			lock test
		}
		reverse_proxy `+s.start(t)+`
	}`)
	require.Equal(t, 204, do(t, clientFor(t, "h1", nil), "PUT", url+"/doc", "two").status)
	require.Len(t, lockCalls(t, 2), 2)
}

// TestLeavingClientGivesUpItsPlace: who waits for the lock and leaves is not
// served, and who waits behind is.
func TestLeavingClientGivesUpItsPlace(t *testing.T) {
	s, url, client := startStore(t, "", copyOf(oneDoc))
	release, entered := make(chan struct{}), make(chan struct{}, 3)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			entered <- struct{}{}
			<-release
		}
		return false
	}
	const key = "127.0.0.1/doc"
	results := make(chan int, 2)
	put := func() { results <- do(t, client, "PUT", url+"/doc", "two").status }
	go put()
	<-entered

	ctx, leave := context.WithCancel(context.Background())
	left := make(chan error)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodPut, url+"/doc", strings.NewReader("left"))
		res, err := client.Do(req)
		if err == nil {
			res.Body.Close()
		}
		left <- err
	}()
	processLocks.await(t, key, 1)
	go put()
	processLocks.await(t, key, 2)
	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	processLocks.await(t, key, 1)

	close(release)
	require.Equal(t, 204, <-results)
	require.Equal(t, 204, <-results)
	require.Equal(t, 2, s.changes())
	eventually(t, func() bool { return processLocks.waiting(key) == 0 })
}
