package etag

import (
	"container/list"
	"context"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(LocalLock{})
	caddy.RegisterModule(NoLock{})
}

// LocalLock locks resources within this process. It is for a site that one
// Caddy alone serves. Waiters are served in the order in which they came.
type LocalLock struct{}

// CaddyModule returns the Caddy module information.
func (LocalLock) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  lockNamespace + ".local",
		New: func() caddy.Module { return new(LocalLock) },
	}
}

// Lock implements Locker.
func (*LocalLock) Lock(ctx context.Context, key string) (Lock, error) {
	return localLocks.lock(ctx, key, false)
}

// RLock implements SharedLocker.
func (*LocalLock) RLock(ctx context.Context, key string) (Lock, error) {
	return localLocks.lock(ctx, key, true)
}

func (*LocalLock) prompt() {}

// localLocks are the local locks of this process. There is one table, so that
// the old and the new configuration share it while Caddy reloads.
var localLocks lockTable

// NoLock locks nothing. With it, two writes that carry one tag may both get
// through.
type NoLock struct{}

// CaddyModule returns the Caddy module information.
func (NoLock) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  lockNamespace + ".off",
		New: func() caddy.Module { return new(NoLock) },
	}
}

// Lock implements Locker.
func (*NoLock) Lock(context.Context, string) (Lock, error) { return noLock{}, nil }

func (*NoLock) prompt() {}

// noLock is a lock that excludes nobody, and so nobody waits for it.
type noLock struct{}

func (noLock) Unlock(context.Context) error { return nil }

func (noLock) Lost() <-chan struct{} { return nil }

func (noLock) Wanted() <-chan struct{} { return nil }

// lockTable has a lock for each key that is locked, and none for any other.
type lockTable struct {
	mu    sync.Mutex
	locks map[string]*tableLock
}

// tableLock is the lock for one key: its holders, and a queue of those who wait
// for it, exclusive and shared ones, first come first served.
type tableLock struct {
	table     *lockTable
	key       string
	shared    int  // holders of shared locks
	exclusive bool // somebody holds it alone
	waiters   list.List
	wanted    chan struct{} // closed when the next waiter comes, nil if nobody asks
}

// lockWaiter is in the queue of a tableLock until its turn is closed.
type lockWaiter struct {
	shared bool
	turn   chan struct{}
}

// lock takes the lock for key. It returns the context's error if that ends
// first.
func (t *lockTable) lock(ctx context.Context, key string, shared bool) (Lock, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	l := t.locks[key]
	if l == nil {
		if t.locks == nil {
			t.locks = make(map[string]*tableLock)
		}
		l = &tableLock{table: t, key: key}
		t.locks[key] = l
	}
	if l.waiters.Len() == 0 && l.admits(shared) {
		l.admit(shared)
		t.mu.Unlock()
		return l.heldLock(shared), nil
	}
	waiter := &lockWaiter{shared: shared, turn: make(chan struct{})}
	place := l.waiters.PushBack(waiter)
	if l.wanted != nil {
		close(l.wanted)
		l.wanted = nil
	}
	t.mu.Unlock()

	select {
	case <-waiter.turn:
		return l.heldLock(shared), nil
	case <-ctx.Done():
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-waiter.turn: // in the same moment: to the next one, then
		l.leave(shared)
	default:
		l.waiters.Remove(place)
		l.advance() // those behind may share it with its holders
	}
	return nil, ctx.Err()
}

// admits reports whether the lock can have one more holder.
func (l *tableLock) admits(shared bool) bool {
	return !l.exclusive && (shared || l.shared == 0)
}

func (l *tableLock) admit(shared bool) {
	if shared {
		l.shared++
	} else {
		l.exclusive = true
	}
}

// leave takes a holder out.
func (l *tableLock) leave(shared bool) {
	if shared {
		l.shared--
	} else {
		l.exclusive = false
	}
	l.advance()
}

// advance hands the lock to those at the head of the queue who can have it, and
// forgets a lock that nobody has.
func (l *tableLock) advance() {
	for first := l.waiters.Front(); first != nil; first = l.waiters.Front() {
		waiter := first.Value.(*lockWaiter)
		if !l.admits(waiter.shared) {
			return
		}
		l.waiters.Remove(first)
		l.admit(waiter.shared)
		close(waiter.turn)
	}
	if l.shared == 0 && !l.exclusive {
		delete(l.table.locks, l.key)
	}
}

func (l *tableLock) heldLock(shared bool) Lock {
	if shared {
		return (*sharedTableLock)(l)
	}
	return (*exclusiveTableLock)(l)
}

func (l *tableLock) unlock(shared bool) {
	l.table.mu.Lock()
	defer l.table.mu.Unlock()
	l.leave(shared)
}

// wantedChan returns a channel that is closed as soon as somebody waits.
func (l *tableLock) wantedChan() <-chan struct{} {
	l.table.mu.Lock()
	defer l.table.mu.Unlock()
	if l.waiters.Len() > 0 {
		return closedChan
	}
	if l.wanted == nil {
		l.wanted = make(chan struct{})
	}
	return l.wanted
}

var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// exclusiveTableLock and sharedTableLock are a tableLock for one of its
// holders.
type (
	exclusiveTableLock tableLock
	sharedTableLock    tableLock
)

func (l *exclusiveTableLock) Unlock(context.Context) error {
	(*tableLock)(l).unlock(false)
	return nil
}

func (l *exclusiveTableLock) Lost() <-chan struct{} { return nil }

func (l *exclusiveTableLock) Wanted() <-chan struct{} { return (*tableLock)(l).wantedChan() }

func (l *sharedTableLock) Unlock(context.Context) error {
	(*tableLock)(l).unlock(true)
	return nil
}

func (l *sharedTableLock) Lost() <-chan struct{} { return nil }

func (l *sharedTableLock) Wanted() <-chan struct{} { return (*tableLock)(l).wantedChan() }

// Interface guards
var (
	_ SharedLocker  = (*LocalLock)(nil)
	_ promptLocker  = (*LocalLock)(nil)
	_ Locker        = (*NoLock)(nil)
	_ promptLocker  = (*NoLock)(nil)
	_ ContendedLock = noLock{}
	_ ContendedLock = (*exclusiveTableLock)(nil)
	_ ContendedLock = (*sharedTableLock)(nil)
)
