package redislock

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	etag "github.com/caddyetag/caddy-etag"
)

func init() {
	caddy.RegisterModule(Forgetter{})
}

// Forgetter lets all Caddys that share a Redis forget together what they
// remember: it stands in the block of `remember`. A write through one is published, and the
// others hear of it at once, over a channel of the prefix's name and "forget".
//
// A Caddy that does not know what was told 1.5 s ago answers nothing from memory,
// until it has subscribed again and forgotten all. One that can't publish goes
// on with its writes, and tells the others to forget all as soon as it can.
//
// The options are those of the locker, but for expiry.
type Forgetter struct {
	options
	shared *teller
}

// options are a locker's.
type options Locker

func (o *options) locker() *Locker { return (*Locker)(o) }

// CaddyModule returns the Caddy module information.
func (Forgetter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.etag.forgetters.redis",
		New: func() caddy.Module { return new(Forgetter) },
	}
}

// UnmarshalCaddyfile sets the forgetter up from the block of `remember`. Its
// syntax is that of the locker.
func (f *Forgetter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return f.locker().unmarshal(d, forgetterOptions)
}

// forgetterOptions are a locker's but for the expiry, as nothing is locked.
var forgetterOptions = slices.DeleteFunc(slices.Clone(optionNames), func(name string) bool { return name == "expiry" })

// Provision checks the options and subscribes. Redis need not answer for that.
func (f *Forgetter) Provision(caddy.Context) error {
	if f.Expiry != 0 {
		return errors.New("invalid redis expiry: must not be given, as nothing is locked")
	}
	resolved, err := f.locker().resolve()
	if err != nil {
		return err
	}
	id := resolved.id()
	shared, _, err := tellers.LoadOrNew(id, func() (caddy.Destructor, error) { return newTeller(resolved), nil })
	if err != nil {
		return err
	}
	f.id, f.shared = id, shared.(*teller)
	return nil
}

// Cleanup gives the subscription up.
func (f *Forgetter) Cleanup() error {
	if f.id == "" {
		return nil
	}
	_, err := tellers.Delete(f.id)
	return err
}

// tellers are the connections of this process, by their configuration.
var tellers = caddy.NewUsagePool()

// Forget implements etag.Forgetter.
func (f *Forgetter) Forget(ctx context.Context, resource string) error {
	return f.shared.forget(ctx, resource)
}

// Listen implements etag.Forgetter.
func (f *Forgetter) Listen(forget func(resource string)) (stop func()) {
	return f.shared.listen(forget)
}

// Hears implements etag.Forgetter.
func (f *Forgetter) Hears() bool { return f.shared.hears() }

const (
	// pingInterval is how often Redis is asked whether it is still there.
	pingInterval = 500 * time.Millisecond

	// deafAfter is for how long Redis may say nothing.
	deafAfter = 3 * pingInterval

	// firstRetry and lastRetry are how long to wait before trying again.
	firstRetry = 50 * time.Millisecond
	lastRetry  = time.Second
)

// teller is what the forgetters with one configuration share.
type teller struct {
	redis   redis.UniversalClient
	channel string
	self    string // tells its own messages
	stop    context.CancelFunc
	stopped context.Context
	ended   sync.WaitGroup

	heard atomic.Pointer[time.Time] // all that was told before this is known; nil: nothing is

	mu        sync.Mutex
	listeners map[int]func(resource string)
	next      int
	untold    int  // how often something could not be told
	behind    bool // somebody tries to tell it
}

func newTeller(c config) *teller {
	t := &teller{channel: c.Prefix + "forget", self: rand.Text(), listeners: make(map[int]func(string))}
	t.stopped, t.stop = context.WithCancel(context.Background())
	t.redis = redis.NewUniversalClient(c.options())
	t.ended.Go(t.subscribe)
	return t
}

// Destruct implements caddy.Destructor.
func (t *teller) Destruct() error {
	t.stop()
	err := t.redis.Close()
	t.ended.Wait()
	return err
}

func (t *teller) listen(forget func(resource string)) (stop func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	id := t.next
	t.listeners[id] = forget
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.listeners, id)
	}
}

// tell tells the listeners of this process.
func (t *teller) tell(resource string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, forget := range t.listeners {
		forget(resource)
	}
}

func (t *teller) hears() bool {
	heard := t.heard.Load()
	return heard != nil && !isLongAgo(*heard)
}

// isLongAgo goes by both clocks: the one stands still while the machine sleeps,
// the other one jumps where somebody sets it.
func isLongAgo(heard time.Time) bool {
	now := time.Now()
	return now.Sub(heard) >= deafAfter || now.Round(0).Sub(heard.Round(0)) >= deafAfter
}

// subscribe listens to Redis, again and again, until the teller is stopped.
func (t *teller) subscribe() {
	for retry := firstRetry; t.stopped.Err() == nil; retry = min(2*retry, lastRetry) {
		if t.receive() {
			retry = firstRetry
		}
		t.heard.Store(nil)
		t.wait(retry)
	}
}

func (t *teller) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.stopped.Done():
	}
}

// receive subscribes, and listens for as long as Redis is heard. It reports
// whether it was.
//
// A message alone does not say that Redis is heard: where a backlog is read, as
// after a pause of this process, others wait behind it. A ping is answered
// behind all that was told before it was sent.
func (t *teller) receive() (subscribed bool) {
	messages := t.redis.Subscribe(t.stopped, t.channel)
	defer func() { _ = messages.Close() }()
	heard, asked, asking := time.Now(), time.Time{}, false
	for {
		wait := pingInterval
		if subscribed && !asking {
			wait -= time.Since(asked)
		}
		if wait <= 0 {
			wait, asked, asking = pingInterval, time.Now(), true
			if err := messages.Ping(t.stopped); err != nil {
				return subscribed
			}
		}
		received, err := messages.ReceiveTimeout(t.stopped, wait)
		if isLongAgo(heard) {
			return subscribed // hears has said so
		}
		var timeout interface{ Timeout() bool }
		if isTimeout := errors.As(err, &timeout) && timeout.Timeout(); err != nil && !isTimeout {
			return subscribed
		}
		switch message := received.(type) {
		case *redis.Subscription:
			// What was told before this is lost.
			t.tell("")
			subscribed, heard, asked, asking = true, time.Now(), time.Time{}, false
		case *redis.Message:
			if sender, resource, ok := strings.Cut(message.Payload, " "); ok && sender != t.self {
				t.tell(resource)
			}
		case *redis.Pong:
			if asking {
				told := asked
				heard, asking = told, false
				t.heard.Store(&told)
			}
		}
	}
}

// forget tells the other Caddys. If they can't be told now, they are to forget
// all as soon as they can.
func (t *teller) forget(ctx context.Context, resource string) error {
	t.mu.Lock()
	behind := t.behind
	if behind {
		t.untold++
	}
	t.mu.Unlock()
	if behind {
		return nil // they will be told
	}
	err := t.publish(ctx, resource)
	if err == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.untold++
	if !t.behind && t.stopped.Err() == nil {
		t.behind = true
		t.ended.Go(t.catchUp)
	}
	return err
}

func (t *teller) publish(ctx context.Context, resource string) error {
	return t.redis.Publish(ctx, t.channel, t.self+" "+resource).Err()
}

// catchUp tells the others to forget all.
func (t *teller) catchUp() {
	for retry := firstRetry; t.stopped.Err() == nil; retry = min(2*retry, lastRetry) {
		t.mu.Lock()
		untold := t.untold
		t.mu.Unlock()
		if err := t.publish(t.stopped, ""); err == nil {
			t.mu.Lock()
			t.behind = t.untold != untold
			done := !t.behind
			t.mu.Unlock()
			if done {
				return
			}
			continue
		}
		t.wait(retry)
	}
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Forgetter)(nil)
	_ caddy.CleanerUpper    = (*Forgetter)(nil)
	_ caddyfile.Unmarshaler = (*Forgetter)(nil)
	_ etag.Forgetter        = (*Forgetter)(nil)
)
