package etag

import (
	"context"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(LocalLock{})
}

// LocalLock locks resources within this process. It is for a site that one
// Caddy alone serves. Waiters are served in the order in which they came.
type LocalLock struct{}

// CaddyModule returns the Caddy module information.
func (LocalLock) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  lockNamespace + "local",
		New: func() caddy.Module { return new(LocalLock) },
	}
}

// Lock implements Locker.
func (*LocalLock) Lock(ctx context.Context, key string) error { return processLocks.lock(ctx, key) }

// Unlock implements Locker.
func (*LocalLock) Unlock(_ context.Context, key string) error {
	processLocks.unlock(key)
	return nil
}

// processLocks are the locks held in this process. There is one table, so
// that the old and the new configuration share it while Caddy reloads.
var processLocks = lockTable{queues: make(map[string]*lockQueue)}

// lockTable has a queue for each key that is locked, and none for any other.
type lockTable struct {
	mu     sync.Mutex
	queues map[string]*lockQueue
}

// lockQueue is the waiters for one lock, first come first served. A waiter's
// channel is closed when the lock is handed to it.
type lockQueue struct {
	waiters []chan struct{}
}

// lock takes the lock for key. It returns the context's error if that ends
// first.
func (t *lockTable) lock(ctx context.Context, key string) error {
	t.mu.Lock()
	queue, locked := t.queues[key]
	if !locked {
		t.queues[key] = new(lockQueue)
		t.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	queue.waiters = append(queue.waiters, turn)
	t.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}

	t.mu.Lock()
	for i, waiter := range queue.waiters {
		if waiter == turn {
			queue.waiters = append(queue.waiters[:i], queue.waiters[i+1:]...)
			t.mu.Unlock()
			return ctx.Err()
		}
	}
	t.mu.Unlock()

	// It was handed over in the same moment: to the next one, then.
	t.unlock(key)
	return ctx.Err()
}

// unlock hands the lock to the first waiter, or forgets it if there is none.
func (t *lockTable) unlock(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	queue := t.queues[key]
	if len(queue.waiters) == 0 {
		delete(t.queues, key)
		return
	}
	turn := queue.waiters[0]
	queue.waiters = queue.waiters[1:]
	close(turn)
}

// Interface guard
var _ Locker = (*LocalLock)(nil)
