package etcdlock

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	etag "github.com/caddyetag/caddy-etag"
)

// onlyErrors is for etcd's client, which warns of each call that fails.
var onlyErrors = zap.IncreaseLevel(zapcore.ErrorLevel)

// client is what the lockers with one configuration share.
type client struct {
	config
	id    string
	queue etag.LocalLock // a lease has one key for a lock, so that only one at a time may use it

	mu    sync.Mutex
	etcd  *clientv3.Client // nil before the first lock
	lease *lease           // for new locks, nil if there is none
}

// Destruct implements caddy.Destructor.
func (c *client) Destruct() error {
	c.mu.Lock()
	lease, etcd := c.lease, c.etcd
	c.lease = nil
	c.mu.Unlock()
	if etcd == nil {
		return nil
	}
	go func() { // it may take until etcd is found not to answer
		if lease != nil {
			lease.leave()
		}
		_ = etcd.Close()
	}()
	return nil
}

// connect returns the connection to etcd.
func (c *client) connect() (*clientv3.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.etcd == nil {
		etcd, err := c.dial()
		if err != nil {
			return nil, err
		}
		c.etcd = etcd
	}
	return c.etcd, nil
}

// lock waits for a lock and takes it. Done is called when the client is no
// longer needed, be it that the lock is not taken.
func (c *client) lock(ctx context.Context, key string, done func()) (etag.Lock, error) {
	sum := sha256.Sum256([]byte(key))
	name := c.Prefix + hex.EncodeToString(sum[:])
	queued, err := c.queue.Lock(ctx, "etcd "+c.id+" "+name)
	if err != nil {
		done()
		return nil, err
	}
	leave := func() {
		_ = queued.Unlock(ctx) // never fails
		done()
	}

	type result struct {
		lock *heldLock
		err  error
	}
	results := make(chan result, 1)
	go func() {
		lock, err := c.await(ctx, name)
		results <- result{lock, err}
	}()
	select {
	case r := <-results:
		if r.err != nil {
			leave()
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, r.err
		}
		r.lock.leave = leave
		return r.lock, nil
	case <-ctx.Done():
	}
	go func() { //nolint:gosec // the caller's context has ended
		// the next one in this process may have the key when this one has left it
		r := <-results
		if r.err != nil {
			leave()
			return
		}
		r.lock.leave = leave
		giveUp, cancel := context.WithTimeout(context.Background(), c.attemptTimeout())
		defer cancel()
		_ = r.lock.Unlock(giveUp)
	}()
	return nil, ctx.Err()
}

// await waits for a lock in etcd. It may go on when ctx has ended, until etcd
// has forgotten who waited.
func (c *client) await(ctx context.Context, name string) (*heldLock, error) {
	for {
		lease, err := c.enter()
		if err != nil {
			return nil, fmt.Errorf("asking etcd for a lease: %s", err.Error()) // an error of a context's would be taken for that of the caller
		}
		mutex, err := c.awaitWith(ctx, lease, name)
		if err == nil {
			return &heldLock{client: c, lease: lease, mutex: mutex}, nil
		}
		lease.leave()
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) || ctx.Err() != nil {
			return nil, fmt.Errorf("asking etcd for a lock: %s", err.Error()) // as above
		}
		lease.lose() // another one is needed
	}
}

func (c *client) awaitWith(ctx context.Context, lease *lease, name string) (*concurrency.Mutex, error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-lease.lost:
			cancel()
		case <-waiting.Done():
		}
	}()
	mutex := concurrency.NewMutex(lease.session, name)
	err := mutex.Lock(waiting)
	if err != nil && mutex.Key() != "\x00" { // it is not certain that etcd has forgotten who waited
		c.abandon(lease, mutex.Key())
	}
	return mutex, err
}

// enter returns the lease for new locks, of which the caller has a share until
// leave.
func (c *client) enter() (*lease, error) {
	c.mu.Lock()
	if l := c.lease; l != nil && l.good() {
		l.enter()
		c.mu.Unlock()
		return l, nil
	}
	c.mu.Unlock()

	etcd, err := c.connect()
	if err != nil {
		return nil, err
	}
	fresh, err := newLease(etcd, c.config)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	former := c.lease
	if former != nil && former.good() { // another one was faster
		former.enter()
		c.mu.Unlock()
		fresh.leave()
		return former, nil
	}
	c.lease = fresh
	fresh.enter()
	c.mu.Unlock()
	if former != nil {
		former.leave()
	}
	return fresh, nil
}

// abandon is for a key of which it is not certain that etcd has forgotten it. No
// new lock uses its lease from then on, which may go on for others, and so the
// key is deleted until it is gone.
func (c *client) abandon(l *lease, key string) {
	l.spoil()
	c.mu.Lock()
	current := c.lease == l
	if current {
		c.lease = nil
	}
	c.mu.Unlock()
	go l.forget(key)
	if current {
		l.leave()
	}
}

// heldLock is a lock that is held.
type heldLock struct {
	client *client
	lease  *lease
	mutex  *concurrency.Mutex
	leave  func()
	once   sync.Once
}

// Unlock implements etag.Lock.
func (l *heldLock) Unlock(ctx context.Context) (err error) {
	err = fmt.Errorf("the lock has been given back already")
	l.once.Do(func() {
		if err = l.mutex.Unlock(ctx); err != nil {
			// It may still be done, and must not take the lock from the next one.
			l.client.abandon(l.lease, l.mutex.Key())
		}
		l.lease.leave()
		l.leave()
	})
	return err
}

// Lost implements etag.Lock.
func (l *heldLock) Lost() <-chan struct{} { return l.lease.lostNow(time.Now()) }

var _ etag.Lock = (*heldLock)(nil)
