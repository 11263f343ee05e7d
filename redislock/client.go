package redislock

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"

	etag "github.com/caddyetag/caddy-etag"
)

const (
	// firstLook and lastLook are how long who waits goes without looking whether
	// the lock is free, if no message tells so.
	firstLook = 10 * time.Millisecond
	lastLook  = 250 * time.Millisecond
)

// client is what the lockers with one configuration share.
type client struct {
	config
	id     string
	redis  redis.UniversalClient
	locks  *redislock.Client
	queue  etag.LocalLock // so that only one in this process waits for a lock in Redis
	server server

	channel   string // tells the name of each lock that is given back
	listening sync.Once
	messages  *redis.PubSub
	stop      context.CancelFunc
	stopped   context.Context

	mu    sync.Mutex
	waits map[string]chan struct{} // who waits, by the name of the lock
}

func newClient(c config, id string) *client {
	cl := &client{config: c, id: id, channel: c.Prefix + "free", waits: make(map[string]chan struct{})}
	cl.stopped, cl.stop = context.WithCancel(context.Background())
	cl.server.expiry = c.Expiry
	cl.server.many = c.Cluster
	options := c.options()
	options.OnConnect = cl.server.connected
	cl.redis = redis.NewUniversalClient(options)
	cl.locks = redislock.New(cl.redis)
	return cl
}

// Destruct implements caddy.Destructor.
func (c *client) Destruct() error {
	c.stop()
	return c.redis.Close()
}

// name is that of a lock in Redis. A key itself may be of any length.
func (c *client) name(key string) string {
	sum := sha256.Sum256([]byte(key))
	return c.Prefix + hex.EncodeToString(sum[:])
}

// lock waits for a lock and takes it.
func (c *client) lock(ctx context.Context, key string) (*heldLock, error) {
	name := c.name(key)
	queued, err := c.queue.Lock(ctx, "redis "+c.id+" "+name)
	if err != nil {
		return nil, err
	}
	lock, err := c.await(ctx, name)
	if err != nil {
		_ = queued.Unlock(ctx) // never fails
		return nil, err
	}
	lock.queued = queued
	return lock, nil
}

// await waits for a lock in Redis.
func (c *client) await(ctx context.Context, name string) (*heldLock, error) {
	token := rand.Text()
	woken := make(chan struct{}, 1)
	listening := false
	for look := firstLook; ; {
		pause := c.server.quiet()
		if pause == 0 {
			lock, err := c.attempt(ctx, name, token)
			switch {
			case err == nil:
				if pause = c.server.quiet(); pause == 0 {
					return lock, nil
				}
				// It was a new server, and others have not restored theirs yet.
				if err := lock.Unlock(ctx); err != nil {
					return nil, err
				}
			case errors.Is(err, redislock.ErrNotObtained):
				if !listening {
					c.listen()
					c.setWaiting(name, woken)
					defer c.setWaiting(name, nil)
					listening = true
				}
				pause = look
				look = min(2*look, lastLook)
			default:
				return nil, err
			}
		}

		timer := time.NewTimer(pause)
		select {
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		timer.Stop()
	}
}

// attempt takes a lock if it is free, else the error is ErrNotObtained. An
// attempt that goes on when ctx has ended gives the lock back by itself.
func (c *client) attempt(ctx context.Context, name, token string) (*heldLock, error) {
	type result struct {
		lock *heldLock
		err  error
	}
	results := make(chan result, 1)
	go func() {
		lock, err := c.obtain(name, token)
		results <- result{lock, err}
	}()
	select {
	case r := <-results:
		return r.lock, r.err
	case <-ctx.Done():
	}
	go func() { //nolint:gosec // the caller's context has ended
		if r := <-results; r.err == nil {
			giveUp, cancel := context.WithTimeout(context.Background(), c.attemptTimeout())
			defer cancel()
			_ = r.lock.Unlock(giveUp) // or it expires
		}
	}()
	return nil, ctx.Err()
}

// obtain takes a lock if it is free or has this token already, as when the
// answer to a command that is sent again was lost.
func (c *client) obtain(name, token string) (*heldLock, error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.attemptTimeout())
	defer cancel()
	sent := time.Now()
	lock, err := c.locks.Obtain(ctx, name, c.Expiry, &redislock.Options{Token: token})
	if err != nil {
		if errors.Is(err, redislock.ErrNotObtained) {
			return nil, err
		}
		// An error of a context's would be taken for that of the caller.
		return nil, fmt.Errorf("asking Redis for a lock: %s", err.Error())
	}
	return c.hold(name, lock, sent), nil
}

// listen has messages wake who waits.
func (c *client) listen() {
	c.listening.Do(func() {
		c.messages = c.redis.Subscribe(c.stopped, c.channel)
		go func() {
			defer func() { _ = c.messages.Close() }()
			messages := c.messages.Channel()
			for {
				select {
				case message, ok := <-messages:
					if !ok {
						return
					}
					c.wake(message.Payload)
				case <-c.stopped.Done():
					return
				}
			}
		}()
	})
}

func (c *client) setWaiting(name string, woken chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if woken == nil {
		delete(c.waits, name)
	} else {
		c.waits[name] = woken
	}
}

func (c *client) wake(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case c.waits[name] <- struct{}{}:
	default: // nobody waits, or has been woken already
	}
}
