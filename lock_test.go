package etag

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// waiting returns how many wait for the lock for key.
func (t *lockTable) waiting(key string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.locks[key]; l != nil {
		return l.waiters.Len()
	}
	return 0
}

// await waits until n wait for the lock for key.
func (t *lockTable) await(tb testing.TB, key string, n int) {
	tb.Helper()
	eventually(tb, func() bool { return t.waiting(key) == n })
}

// take takes a lock that is free.
func (t *lockTable) take(tb testing.TB, key string, shared bool) Lock {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	lock, err := t.lock(ctx, key, shared)
	require.NoError(tb, err)
	return lock
}

func unlock(tb testing.TB, lock Lock) {
	tb.Helper()
	require.NoError(tb, lock.Unlock(context.Background()))
}

func TestLocalLockServesWaitersInOrder(t *testing.T) {
	table := new(lockTable)
	a := table.take(t, "a", false)
	unlock(t, table.take(t, "b", false)) // another lock is free

	const waiters = 10
	order := make(chan int, waiters)
	for i := range waiters {
		go func() {
			if lock, err := table.lock(context.Background(), "a", false); err == nil {
				order <- i
				_ = lock.Unlock(context.Background())
			}
		}()
		table.await(t, "a", i+1)
	}
	unlock(t, a)
	for i := range waiters {
		require.Equal(t, i, <-order)
	}
	eventually(t, func() bool { return table.size() == 0 }) // no entry outlives its last holder
}

// TestSharedLocalLocks: any number have it, who waits for it alone lets no new
// one in, and those behind get it together.
func TestSharedLocalLocks(t *testing.T) {
	table := new(lockTable)
	first, second := table.take(t, "a", true), table.take(t, "a", true)

	got := make(chan Lock, 3)
	await := func(shared bool) {
		go func() {
			lock, _ := table.lock(context.Background(), "a", shared)
			got <- lock
		}()
	}
	await(false)
	table.await(t, "a", 1)
	await(true)
	await(true)
	table.await(t, "a", 3)

	unlock(t, first)
	table.await(t, "a", 3)
	unlock(t, second)
	alone := <-got
	require.IsType(t, (*exclusiveTableLock)(nil), alone)
	table.await(t, "a", 2)
	unlock(t, alone)
	third, fourth := <-got, <-got
	table.await(t, "a", 0)
	unlock(t, third)
	unlock(t, fourth)
	require.Zero(t, table.size())
}

// TestSharedLocksGoOnWhenWhoWaitsAloneLeaves: those behind share the lock with
// its holders then.
func TestSharedLocksGoOnWhenWhoWaitsAloneLeaves(t *testing.T) {
	table := new(lockTable)
	first := table.take(t, "a", true)
	leaving, leave := context.WithCancel(context.Background())
	left, got := make(chan error), make(chan Lock)
	go func() { _, err := table.lock(leaving, "a", false); left <- err }()
	table.await(t, "a", 1)
	go func() { lock, _ := table.lock(context.Background(), "a", true); got <- lock }()
	table.await(t, "a", 2)

	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	unlock(t, <-got)
	unlock(t, first)
	require.Zero(t, table.size())
}

func TestLocalLockIsGivenUpByWhoLeaves(t *testing.T) {
	table := new(lockTable)
	a := table.take(t, "a", false)

	leaving, leave := context.WithCancel(context.Background())
	left, got := make(chan error), make(chan Lock)
	go func() { _, err := table.lock(leaving, "a", false); left <- err }()
	table.await(t, "a", 1)
	go func() { lock, _ := table.lock(context.Background(), "a", false); got <- lock }()
	table.await(t, "a", 2)

	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	table.await(t, "a", 1)
	unlock(t, a)
	unlock(t, <-got)
	require.Zero(t, table.size())
}

// TestLocalLockIsNotTakenByWhoHasLeft, though it is free.
func TestLocalLockIsNotTakenByWhoHasLeft(t *testing.T) {
	table := new(lockTable)
	left, leave := context.WithCancel(context.Background())
	leave()
	for _, shared := range []bool{false, true} {
		_, err := table.lock(left, "a", shared)
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, table.size())
	}
}

// TestLocalLockIsNotLostToAWaiterThatLeaves cancels the waiter and hands the
// lock over before it can say so, again and again: it must be free afterwards.
func TestLocalLockIsNotLostToAWaiterThatLeaves(t *testing.T) {
	table := new(lockTable)
	for i := range 2000 {
		a := table.take(t, "a", i%2 == 0)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if lock, err := table.lock(ctx, "a", false); err == nil {
				_ = lock.Unlock(ctx)
			}
		}()
		table.await(t, "a", 1)
		cancel()
		unlock(t, a)
		<-done
		require.Zero(t, table.size())
	}
}

func TestLocalLockTellsThatItIsWanted(t *testing.T) {
	table := new(lockTable)
	lock := table.take(t, "a", false).(ContendedLock)
	wanted := lock.Wanted()
	select {
	case <-wanted:
		t.Fatal("nobody waits")
	default:
	}
	got := make(chan Lock)
	go func() { lock, _ := table.lock(context.Background(), "a", true); got <- lock }()
	<-wanted
	<-lock.Wanted() // somebody does already
	unlock(t, lock)
	unlock(t, <-got)
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
		key("example.com.", "/a", ""),
		key("Example.Com.:80", "/a", ""),
		key("example.com", "/A", ""),
		key("example.com", "/a/", ""),
		key("example.com", "//a", ""),
		key("example.com", "/./a", ""),
		key("example.com", "/b/../a", ""),
		key("example.com", "/b/%2e%2e/a", ""),
	} {
		require.Equal(t, want, same)
	}
	for _, other := range []string{
		key("example.org", "/a", ""),
		key("example.com", "/a", "/b"),
		key("example.com", "/a/b", ""),
	} {
		require.NotEqual(t, want, other)
	}
	require.Equal(t, key("[::1]", "/a", ""), key("[::1]:80", "/a", ""))
	require.NotEqual(t, key("[::1]", "/a", ""), key("[::2]", "/a", ""))
}

func TestStorageLockNamesAreSafeAndDistinct(t *testing.T) {
	a, b := storageLockName("example.com/a b"), storageLockName("example.com/a_b")
	require.NotEqual(t, a, b, "Caddy's file storage has one file for both keys")
	require.Regexp(t, `^etag-[0-9a-f]{64}$`, a)
	require.Len(t, storageLockName(strings.Repeat("x", 10_000)), len(a))
}

func TestLockedOutWriteGets503(t *testing.T) {
	s, url, client := startStore(t, "lock local 50ms", maps.Clone(oneDoc))
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
	go func() {
		res, _ := try(client, "DELETE", url+"/doc", "", "If-Match", oneTag)
		done <- res.status
	}()
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

func (l *testLock) Lock(_ context.Context, key string) (Lock, error) {
	return &heldTestLock{l, key}, l.note("lock", key)
}

type heldTestLock struct {
	locker *testLock
	key    string
}

func (l *heldTestLock) Unlock(context.Context) error { return l.locker.note("unlock", l.key) }

func (l *heldTestLock) Lost() <-chan struct{} { return nil }

func TestLockModuleOfAnotherName(t *testing.T) {
	resetTestLocks(t, nil)
	_, url, client := startStore(t, "lock test 5s {\ngreeting hello\n}", maps.Clone(oneDoc))
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag).status)
	require.Equal(t, []string{"hello lock 127.0.0.1/doc", "hello unlock 127.0.0.1/doc"}, lockCalls(t, 2))
}

func TestFailingLockStoreIsNeverAnUnguardedWrite(t *testing.T) {
	resetTestLocks(t, errors.New("store is down"))
	s := newStore(maps.Clone(oneDoc))
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
	s := newStore(maps.Clone(oneDoc))
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
	s, url, client := startStore(t, "", maps.Clone(oneDoc))
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
	put := func() { results <- do(t, client, "PUT", url+"/doc", "two", "If-Match", "*").status }
	go put()
	<-entered

	ctx, leave := context.WithCancel(context.Background())
	left := make(chan error)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodPut, url+"/doc", strings.NewReader("left"))
		req.Header.Set("If-Match", "*")
		res, err := client.Do(req)
		if err == nil {
			res.Body.Close()
		}
		left <- err
	}()
	localLocks.await(t, key, 1)
	go put()
	localLocks.await(t, key, 2)
	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	localLocks.await(t, key, 1)

	close(release)
	require.Equal(t, 204, <-results)
	require.Equal(t, 204, <-results)
	require.Equal(t, 2, s.changes())
	eventually(t, func() bool { return localLocks.waiting(key) == 0 })
}
