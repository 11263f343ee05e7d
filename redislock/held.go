package redislock

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/bsm/redislock"

	etag "github.com/caddyetag/caddy-etag"
)

// heldLock is a lock that is held. It renews itself until it is given back,
// whatever becomes of the configuration or the request that took it.
type heldLock struct {
	client  *client
	name    string
	queued  etag.Lock
	release func() error // of the client

	renewing sync.Mutex // held while Redis is asked; guards lock
	lock     *redislock.Lock

	mu    sync.Mutex
	timer *time.Timer
	until time.Time // when it expires, at the earliest
	given bool
	lost  chan struct{}
}

// hold returns a lock that was taken by a command sent at a time.
func (c *client) hold(name string, lock *redislock.Lock, sent time.Time) *heldLock {
	l := &heldLock{client: c, name: name, lock: lock, until: sent.Add(c.Expiry), lost: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(c.Expiry/3, l.renew)
	return l
}

// renew asks Redis to keep the lock. If it can't be told that Redis did, the
// lock counts as lost. It goes on all the same, since nobody is served by
// another one's getting the lock while the write is in progress.
func (l *heldLock) renew() {
	l.renewing.Lock()
	defer l.renewing.Unlock()
	l.mu.Lock()
	given := l.given
	l.mu.Unlock()
	if given {
		return
	}

	ctx, cancel := context.WithTimeout(context.Background(), l.client.attemptTimeout())
	defer cancel()
	sent := time.Now()
	err := l.lock.Refresh(ctx, l.client.Expiry, nil)
	next := l.client.Expiry / 3
	if err != nil {
		l.lose()
		next = l.client.Expiry / 20
	}
	if errors.Is(err, redislock.ErrNotObtained) { // forgotten, or another one's by now
		restored, err := l.client.locks.Obtain(ctx, l.name, l.client.Expiry, &redislock.Options{Token: l.lock.Token()})
		if errors.Is(err, redislock.ErrNotObtained) && l.client.server.quiet() == 0 {
			return // in quiet times it is one that looks only
		}
		if err == nil {
			l.lock = restored
		}
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.until = sent.Add(l.client.Expiry)
	}
	if !l.given {
		l.timer.Reset(next)
	}
}

// lose notes that the lock may have another holder.
func (l *heldLock) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loseLocked()
}

func (l *heldLock) loseLocked() {
	select {
	case <-l.lost:
	default:
		close(l.lost)
	}
}

// Lost implements etag.Lock. It goes by the clock too: a process that was
// stopped and goes on may ask before its timers have run.
func (l *heldLock) Lost() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	// The one clock stands still while the machine sleeps, the other one jumps
	// when it is set.
	if now.After(l.until) || now.Round(0).After(l.until.Round(0)) {
		l.loseLocked()
	}
	return l.lost
}

// Unlock implements etag.Lock.
func (l *heldLock) Unlock(ctx context.Context) error {
	l.mu.Lock()
	if l.given {
		l.mu.Unlock()
		return errors.New("the lock has been given back already")
	}
	l.given = true
	l.timer.Stop()
	l.mu.Unlock()
	defer func() {
		if l.queued != nil {
			_ = l.queued.Unlock(ctx) // never fails
		}
		if l.release != nil {
			_ = l.release()
		}
	}()

	l.renewing.Lock()
	defer l.renewing.Unlock()
	if err := l.lock.Release(ctx); err != nil {
		return err
	}
	// Who misses the message looks for themselves.
	_ = l.client.redis.Publish(ctx, l.client.channel, l.name).Err()
	return nil
}

var _ etag.Lock = (*heldLock)(nil)
