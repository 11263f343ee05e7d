package etag

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// scriptedLock is a locker module that does what a test has it do, whatever its
// options are.
type scriptedLock struct {
	A, B string
}

// lockScript is what all scriptedLocks do.
var lockScript struct {
	sync.Mutex
	lock   func(ctx context.Context, key string) (Lock, error)
	unlock func(ctx context.Context) error
	lost   chan struct{}
}

func init() { caddy.RegisterModule(scriptedLock{}) }

func (scriptedLock) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.etag.locks.scripted", New: func() caddy.Module { return new(scriptedLock) }}
}

func (*scriptedLock) Lock(ctx context.Context, key string) (Lock, error) {
	lockScript.Lock()
	lock := lockScript.lock
	lockScript.Unlock()
	return lock(ctx, key)
}

func (*scriptedLock) Unlock(ctx context.Context) error {
	lockScript.Lock()
	unlock := lockScript.unlock
	lockScript.Unlock()
	return unlock(ctx)
}

func (*scriptedLock) Lost() <-chan struct{} { return lockScript.lost }

// scriptLocks sets what scriptedLocks do, until the end of the test.
func scriptLocks(tb testing.TB, lost chan struct{}, lock func(context.Context, string) (Lock, error), unlock func(context.Context) error) {
	set := func() {
		lockScript.Lock()
		defer lockScript.Unlock()
		lockScript.lock, lockScript.unlock, lockScript.lost = lock, unlock, lost
	}
	set()
	tb.Cleanup(func() { lock, unlock, lost = nil, nil, nil; set() })
}

func granted(context.Context, string) (Lock, error) { return new(scriptedLock), nil }

func released(context.Context) error { return nil }

// TestLockServiceThatHangs is waited for no longer than the timeout, and a lock
// that it grants after that is given back.
func TestLockServiceThatHangs(t *testing.T) {
	answer, unlocked := make(chan struct{}), make(chan struct{})
	scriptLocks(t, nil,
		func(context.Context, string) (Lock, error) { <-answer; return new(scriptedLock), nil },
		func(context.Context) error { close(unlocked); return nil })
	s, url, client := startStore(t, "lock scripted 50ms", maps.Clone(oneDoc))

	res := do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag)
	require.Equal(t, 503, res.status)
	require.Equal(t, "1", res.header.Get("Retry-After"))
	require.Contains(t, res.body, `"reason":"lock_failed"`)
	require.Empty(t, s.seen())
	close(answer)
	<-unlocked
	require.Empty(t, s.seen())
}

// TestLockServiceThatHangsWhenALockIsGivenBack does not keep the client
// waiting.
func TestLockServiceThatHangsWhenALockIsGivenBack(t *testing.T) {
	hangs := make(chan struct{})
	defer close(hangs)
	scriptLocks(t, nil, granted, func(context.Context) error { <-hangs; return nil })
	_, url, client := startStore(t, "lock scripted\nwrite_tag off", maps.Clone(oneDoc))
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag).status)
}

// TestLockerThatPanics has locked nothing, and does not end Caddy.
func TestLockerThatPanics(t *testing.T) {
	scriptLocks(t, nil, func(context.Context, string) (Lock, error) { panic("of a locker") }, released)
	s, url, client := startStore(t, "lock scripted\nwrite_tag off", maps.Clone(oneDoc))
	res := do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag)
	require.Equal(t, 503, res.status)
	require.Contains(t, res.body, `"reason":"lock_failed"`)
	require.Empty(t, s.seen())

	scriptLocks(t, nil, granted, func(context.Context) error { panic("of a lock") })
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag).status)
	require.Equal(t, "two", do(t, client, "GET", url+"/doc", "").body)
}

// TestLockThatIsNotFreeInTime is told from a service that does not work.
func TestLockThatIsNotFreeInTime(t *testing.T) {
	scriptLocks(t, nil, func(ctx context.Context, _ string) (Lock, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, released)
	s, url, client := startStore(t, "lock scripted 50ms", maps.Clone(oneDoc))
	res := do(t, client, "PUT", url+"/doc", "two")
	require.Equal(t, 503, res.status)
	require.Contains(t, res.body, `"reason":"busy"`)
	require.Empty(t, s.seen())
}

// TestWriteWhoseLockIsLostIsNotSent, if that is known before it goes
// downstream.
func TestWriteWhoseLockIsLostIsNotSent(t *testing.T) {
	for _, fields := range [][]string{{"If-Match", oneTag}, nil} {
		lost := make(chan struct{})
		scriptLocks(t, lost, granted, released)
		s, url, client := startStore(t, "lock scripted", maps.Clone(oneDoc))
		if fields == nil {
			close(lost)
		}
		s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet {
				close(lost) // while the current representation is read
			}
			return false
		}
		res := do(t, client, "PUT", url+"/doc", "two", fields...)
		require.Equal(t, 503, res.status)
		require.Contains(t, res.body, `"reason":"lock_failed"`)
		require.Zero(t, s.changes())
	}
}

// startNested runs two etag handlers with these locks, one above the other, with
// a directive between them, before a store.
func startNested(t *testing.T, s *store, upper, between, lower string) (url string) {
	t.Helper()
	return startCaddy(t, "route {\netag {\nlock "+upper+"\n}\n"+between+"\netag {\nlock "+lower+"\n}\nreverse_proxy "+s.start(t)+"\n}")
}

// TestWriteWhoseLockIsLostAboveIsNotSent by an etag handler further down,
// whatever lock that has itself.
func TestWriteWhoseLockIsLostAboveIsNotSent(t *testing.T) {
	for _, lower := range []string{"scripted", "local", "off"} {
		lost := make(chan struct{})
		scriptLocks(t, lost, granted, released)
		s := newStore(maps.Clone(oneDoc))
		url := startNested(t, s, "scripted", "", lower)
		var reads atomic.Int32
		s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && reads.Add(1) == 2 {
				close(lost) // while the lower one reads the current representation
			}
			return false
		}
		res := do(t, clientFor(t, "h1", nil), "PUT", url+"/doc", "two", "If-Match", "*")
		require.Equal(t, 503, res.status, lower)
		require.Contains(t, res.body, `"reason":"lock_failed"`)
		require.Equal(t, "GET GET", s.seen())
	}
}

// TestUnguardedWriteWhoseLockIsLostAboveIsNotSent: If-Match was for the handler
// above alone, and the lock is lost while the lower one waits for its own.
func TestUnguardedWriteWhoseLockIsLostAboveIsNotSent(t *testing.T) {
	lost := make(chan struct{})
	scriptLocks(t, lost, granted, released)
	s := newStore(maps.Clone(oneDoc))
	url := startNested(t, s, "scripted", "", "local")
	busy, err := new(LocalLock).Lock(context.Background(), "127.0.0.1/doc")
	require.NoError(t, err)
	done := make(chan reply, 1)
	go func() {
		res, _ := try(clientFor(t, "h1", nil), "PUT", url+"/doc", "two", "If-Match", oneTag)
		done <- res
	}()
	eventually(t, func() bool { return s.seen() == "GET" })
	settle()
	close(lost)
	require.NoError(t, busy.Unlock(context.Background()))
	require.Equal(t, 503, (<-done).status)
	require.Equal(t, "GET", s.seen())
}

// TestGuardedWriteBelowALockThatWasGivenBackIsNotSent: that of an unguarded
// write above, whose hold time is over.
func TestGuardedWriteBelowALockThatWasGivenBackIsNotSent(t *testing.T) {
	unlocked := make(chan struct{})
	scriptLocks(t, nil, granted, func(context.Context) error { close(unlocked); return nil })
	s := newStore(maps.Clone(oneDoc))
	url := startNested(t, s, "scripted 10s 50ms", "request_header If-Match *", "scripted 10s 1m")
	s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			<-unlocked // another write can have it
		}
		return false
	}
	res := do(t, clientFor(t, "h1", nil), "PUT", url+"/doc", "two")
	require.Equal(t, 503, res.status)
	require.Contains(t, res.body, `"reason":"hold"`)
	require.Equal(t, "GET", s.seen())
}

// TestUnguardedWriteBelowALockThatWasGivenBackIsSent, also where the locker says
// of such a lock that it is lost: nobody has to wait for it.
func TestUnguardedWriteBelowALockThatWasGivenBackIsSent(t *testing.T) {
	unlocked := make(chan struct{})
	scriptLocks(t, unlocked, granted, func(context.Context) error { close(unlocked); return nil })
	s := newStore(maps.Clone(oneDoc))
	url := startNested(t, s, "scripted 10s 50ms", "", "local")
	busy, err := new(LocalLock).Lock(context.Background(), "127.0.0.1/doc")
	require.NoError(t, err)
	go func() {
		<-unlocked
		_ = busy.Unlock(context.Background())
	}()
	require.Equal(t, 204, do(t, clientFor(t, "h1", nil), "PUT", url+"/doc", "two").status)
}

// TestErrorRouteDoesNotWaitForTheLockOfItsWrite: that of a handler above both the
// one that failed and the route.
func TestErrorRouteDoesNotWaitForTheLockOfItsWrite(t *testing.T) {
	upper, middle, lower := newHandler(t, Handler{}), newHandler(t, Handler{}), newHandler(t, Handler{LockTimeout: caddy.Duration(50 * time.Millisecond)})
	backend := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	failing := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if r.Method == http.MethodGet {
			return backend(w, r)
		}
		return caddyhttp.Error(http.StatusBadGateway, errors.New("failed"))
	})
	rec, err := serve(upper, func(w http.ResponseWriter, r *http.Request) error {
		if err := middle.ServeHTTP(w, r, failing); err != nil {
			return lower.ServeHTTP(w, r, backend)
		}
		return nil
	}, "PUT", "If-Match", "*")
	require.NoError(t, err)
	require.Equal(t, 204, rec.Code, rec.Body.String())
}

// TestPatchBelowASharedLockHasNoTagThatMayBeAnothers: writes without
// preconditions pass meanwhile.
func TestPatchBelowASharedLockHasNoTagThatMayBeAnothers(t *testing.T) {
	s := newStore(maps.Clone(oneDoc))
	url := startCaddy(t, "route {\netag\n@guard header X-Guard 1\nrequest_header @guard If-Match *\netag\nreverse_proxy "+s.start(t)+"\n}")
	other := clientFor(t, "h1", nil)
	var patched atomic.Bool
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && r.Header.Get("X-Guard") != "" {
			patched.Store(true)
		}
		if r.Method == http.MethodGet && patched.CompareAndSwap(true, false) {
			_, _ = try(other, "PATCH", url+"/doc", "-B")
		}
		return false
	}
	res := do(t, clientFor(t, "h1", nil), "PATCH", url+"/doc", "-A", "X-Guard", "1")
	require.Equal(t, 200, res.status)
	require.Empty(t, res.tag())
	require.Equal(t, "one-A-B", get(t, url+"/doc").body)
}

// TestNoNewTagWithALockThatIsLost, as what is current then may be what another
// write has stored.
func TestNoNewTagWithALockThatIsLost(t *testing.T) {
	for _, method := range []string{"PATCH", "PUT"} {
		for _, at := range []string{method, "GET"} {
			lost := make(chan struct{})
			scriptLocks(t, lost, granted, released)
			s, url, client := startStore(t, "lock scripted", maps.Clone(oneDoc))
			var written atomic.Bool
			s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == at && (at == method || written.Load()) {
					close(lost)
				}
				if r.Method == method {
					written.Store(true)
				}
				return false
			}
			res := do(t, client, method, url+"/doc", "two", "If-Match", oneTag)
			require.Less(t, res.status, 300)
			require.Empty(t, res.tag(), "%s, lost at %s", method, at)
		}
	}
}

// TestNoNewTagWithALockThatIsLostAbove, from a handler further down neither.
func TestNoNewTagWithALockThatIsLostAbove(t *testing.T) {
	for _, lower := range []string{"scripted", "local", "off"} {
		lost := make(chan struct{})
		scriptLocks(t, lost, granted, released)
		s := newStore(maps.Clone(oneDoc))
		url := startNested(t, s, "scripted", "", lower)
		s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPatch {
				close(lost)
			}
			return false
		}
		res := do(t, clientFor(t, "h1", nil), "PATCH", url+"/doc", "two", "If-Match", "*")
		require.Equal(t, 200, res.status)
		require.Empty(t, res.tag(), lower)
	}
}

// TestPatchWithoutALockHasNoTagThatMayBeAnothers: what is current after it may
// be what another write has stored.
func TestPatchWithoutALockHasNoTagThatMayBeAnothers(t *testing.T) {
	s, url, client := startStore(t, "lock off", maps.Clone(oneDoc))
	other := clientFor(t, "h1", nil)
	var patched atomic.Bool
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && r.Header.Get("X-Other") == "" {
			patched.Store(true)
		}
		if r.Method == http.MethodGet && patched.CompareAndSwap(true, false) {
			_, _ = try(other, "PATCH", url+"/doc", "-B", "X-Other", "1")
		}
		return false
	}
	res := do(t, client, "PATCH", url+"/doc", "-A", "If-Match", oneTag)
	require.Equal(t, 200, res.status)
	require.Empty(t, res.tag())
	require.Equal(t, "one-A-B", get(t, url+"/doc").body)
}

// TestHijackThatFailsKeepsTheLock: nothing has been handed over.
func TestHijackThatFailsKeepsTheLock(t *testing.T) {
	for _, fields := range [][]string{{"If-Match", "*"}, nil} {
		var unlocked atomic.Bool
		scriptLocks(t, nil, granted, func(context.Context) error { unlocked.Store(true); return nil })
		h := newHandler(t, Handler{LockRaw: []byte(`{"module":"scripted"}`)})
		_, err := serve(h, func(w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodGet {
				_, err := io.WriteString(w, "one")
				return err
			}
			if _, _, err := http.NewResponseController(w).Hijack(); err == nil || unlocked.Load() {
				return errors.New("it is hijacked, or the lock is given back")
			}
			w.WriteHeader(http.StatusNoContent)
			return nil
		}, "PUT", fields...)
		require.NoError(t, err)
		require.True(t, unlocked.Load())
	}
}

// TestLockOptionsInAnotherOrderAreTheSame: a write must not wait for a lock that
// it has.
func TestLockOptionsInAnotherOrderAreTheSame(t *testing.T) {
	upper := newHandler(t, Handler{LockRaw: []byte(`{"module":"local"}`)})
	lower := newHandler(t, Handler{LockRaw: []byte(` { "module" : "local" } `)})
	require.Equal(t, upper.lockID, lower.lockID)
	scriptLocks(t, nil, granted, released)
	upper = newHandler(t, Handler{LockRaw: []byte(`{"module":"scripted","a":"1","b":"2"}`)})
	lower = newHandler(t, Handler{LockRaw: []byte(`{"b": "2", "module": "scripted", "a": "1"}`)})
	other := newHandler(t, Handler{LockRaw: []byte(`{"module":"scripted","a":"2","b":"1"}`)})
	require.Equal(t, upper.lockID, lower.lockID)
	require.NotEqual(t, upper.lockID, other.lockID)
}

// TestWriteWithALockThatDoesNotKnowWhoWaits is canceled when the hold time is
// over.
func TestWriteWithALockThatDoesNotKnowWhoWaits(t *testing.T) {
	unlocked := make(chan struct{})
	scriptLocks(t, nil, granted, func(context.Context) error { close(unlocked); return nil })
	s, url, client := startStore(t, "lock scripted 5s 100ms", maps.Clone(oneDoc))
	s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			_, _ = io.Copy(io.Discard, r.Body) // or it does not see that the proxy leaves
			<-r.Context().Done()
			return true
		}
		return false
	}
	res := do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag)
	require.Equal(t, 504, res.status)
	require.Contains(t, res.body, `"reason":"hold"`)
	<-unlocked
}

// ExampleLocker is a locker on a service that knows leases.
func ExampleLocker() {
	service := make(chan struct{}, 1) // stands for a client of the service
	locker := lockerFunc(func(ctx context.Context, key string) (Lock, error) {
		select {
		case service <- struct{}{}:
			return &leaseLock{service: service, expired: make(chan struct{})}, nil
		case <-ctx.Done():
			return nil, ctx.Err() // not taken
		}
	})

	lock, err := locker.Lock(context.Background(), "example.com/doc")
	if err != nil {
		panic(err)
	}
	defer func() { _ = lock.Unlock(context.Background()) }()

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err = locker.Lock(ctx, "example.com/doc")
	if errors.Is(err, context.DeadlineExceeded) {
		fmt.Println("another one has it")
	}
	// Output: another one has it
}

type lockerFunc func(ctx context.Context, key string) (Lock, error)

func (f lockerFunc) Lock(ctx context.Context, key string) (Lock, error) { return f(ctx, key) }

type leaseLock struct {
	service chan struct{}
	expired chan struct{} // closed when the lease could not be renewed
}

func (l *leaseLock) Unlock(context.Context) error { <-l.service; return nil }

func (l *leaseLock) Lost() <-chan struct{} { return l.expired }
