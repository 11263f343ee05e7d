package etcdlock

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// lease is a lease of etcd's with the locks that are bound to it. It is renewed
// until the last of them is given back, whatever becomes of the configuration
// or the requests that took them.
type lease struct {
	config
	session *concurrency.Session
	stop    context.CancelFunc
	stopped context.Context
	lost    chan struct{}

	mu       sync.Mutex
	users    int
	spoiled  bool      // no new lock may use it
	until    time.Time // when it ends, at the earliest
	announce sync.Once
}

// newLease has one share, that of who made it.
func newLease(etcd *clientv3.Client, c config) (*lease, error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.attemptTimeout())
	defer cancel()
	sent := time.Now()
	granted, err := etcd.Grant(ctx, int64(c.Expiry/time.Second))
	if err != nil {
		return nil, err
	}
	session, err := concurrency.NewSession(etcd, concurrency.WithLease(granted.ID))
	if err != nil {
		return nil, err
	}
	l := &lease{config: c, session: session, lost: make(chan struct{}), users: 1, until: sent.Add(c.Expiry)}
	l.stopped, l.stop = context.WithCancel(context.Background())
	go l.renew()
	return l, nil
}

// renew sees to it that a lease that is not renewed counts as lost before etcd
// ends it. The session renews it too, but tells late when it could not.
func (l *lease) renew() {
	ticker := time.NewTicker(l.Expiry / 3)
	defer ticker.Stop()
	for {
		select {
		case <-l.stopped.Done():
			return
		case <-l.session.Done():
			l.lose()
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(l.stopped, l.attemptTimeout())
		sent := time.Now()
		_, err := l.session.Client().KeepAliveOnce(ctx, l.session.Lease())
		cancel()
		switch {
		case l.stopped.Err() != nil:
			return
		case err != nil:
			l.lose()
			return // the session goes on, so that a write in progress has its lock if it can
		}
		l.mu.Lock()
		l.until = sent.Add(l.Expiry)
		l.mu.Unlock()
	}
}

func (l *lease) lose() { l.announce.Do(func() { close(l.lost) }) }

// lostNow goes by the clock too: a process that was stopped and goes on may ask
// before its timers have run.
func (l *lease) lostNow(now time.Time) <-chan struct{} {
	l.mu.Lock()
	until := l.until
	l.mu.Unlock()
	// The one clock stands still while the machine sleeps, the other one jumps
	// when it is set.
	if now.After(until) || now.Round(0).After(until.Round(0)) {
		l.lose()
	}
	return l.lost
}

// good reports whether new locks may use the lease.
func (l *lease) good() bool {
	select {
	case <-l.lostNow(time.Now()):
		return false
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.spoiled
}

func (l *lease) spoil() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spoiled = true
}

// forget deletes a key of a lease that no new lock uses, again and again until
// etcd has, or the lease has ended and the key with it.
func (l *lease) forget(key string) {
	for {
		ctx, cancel := context.WithTimeout(l.stopped, l.attemptTimeout())
		_, err := l.session.Client().Delete(ctx, key)
		cancel()
		if err == nil {
			return
		}
		select {
		case <-l.stopped.Done():
			return
		case <-l.session.Done():
			return
		case <-time.After(l.Expiry / 10):
		}
	}
}

func (l *lease) enter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
}

// leave gives a share up. The last one ends the lease.
func (l *lease) leave() {
	l.mu.Lock()
	l.users--
	ends := l.users == 0
	l.mu.Unlock()
	if !ends {
		return
	}
	l.stop()
	l.session.Orphan()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), l.Expiry)
		defer cancel()
		_, _ = l.session.Client().Revoke(ctx, l.session.Lease()) // or it ends by itself
	}()
}
