package locktest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	etag "github.com/caddyetag/caddy-etag"
)

// recorder is a testing.TB for a check that is to fail.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	skipped  bool
	cleanups []func()
}

func (r *recorder) fail(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, text)
}

func (r *recorder) Helper()                   {}
func (r *recorder) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Error(args ...any)         { r.fail(fmt.Sprint(args...)) }
func (r *recorder) Errorf(f string, a ...any) { r.fail(fmt.Sprintf(f, a...)) }
func (r *recorder) Fatal(args ...any)         { r.fail(fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.fail(fmt.Sprintf(f, a...)); runtime.Goexit() }
func (r *recorder) Skip(...any)               { r.skipped = true; runtime.Goexit() }

// record runs a check as a test of its own.
func record(t *testing.T, c check, s Suite) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.run(r, s)
	}()
	<-done
	for _, cleanup := range r.cleanups {
		cleanup()
	}
	return r
}

func checkNamed(t *testing.T, name string) check {
	for _, c := range checks {
		if c.name == name {
			return c
		}
	}
	t.Fatalf("there is no check %q", name)
	return check{}
}

// faults are what can be wrong with the model, by the check that finds it.
var faults = map[string][]fault{
	"exclusion":                        {{name: "excludes nobody", noExclusion: true}, {name: "a table of its own for each locker", tables: true}},
	"who waits is woken":               {{name: "never wakes", neverWakes: true}, {name: "does not wait", noWait: true}},
	"order":                            {{name: "last come, first served", lastFirst: true}},
	"shared locks":                     {{name: "shared excludes shared", sharedExcludes: true}, {name: "shared excludes nobody", sharedFree: true}},
	"who waits alone lets nobody in":   {{name: "shared overtake", sharedOvertake: true}},
	"context that has ended":           {{name: "takes what is free", ignoresEnded: true}, {name: "another error", otherError: true}},
	"context that ends while it waits": {{name: "waits on", ignoresContext: true}, {name: "keeps its place", keepsPlace: true}, {name: "another error", otherError: true}},
	"unlock with a context of its own": {{name: "held for as long as the context", heldByContext: true}},
	"many keys":                        {{name: "one lock for all", keyOf: func(string) string { return "" }}, {name: "64 at the most", most: 64}},
	"long and odd keys": {
		{name: "cut off", keyOf: func(key string) string { return key[:min(len(key), 200)] }},
		{name: "spaces", keyOf: func(key string) string { return strings.ReplaceAll(key, " ", "_") }},
		{name: "paths", keyOf: func(key string) string { return strings.TrimRight(key, "/") }},
		{name: "valid UTF-8", keyOf: func(key string) string { return strings.ToValidUTF8(key, "?") }},
		{name: "C strings", keyOf: func(key string) string { key, _, _ = strings.Cut(key, "\x00"); return key }},
		{name: "hash tags", keyOf: func(key string) string { return strings.Trim(key, "{}") }},
	},
	"a lock that is held is not lost":     {{name: "lost at once", lostAtOnce: true}},
	"wanted":                              {{name: "always", alwaysWanted: true}, {name: "never", neverWanted: true}},
	"renewal":                             {{name: "none", noRenewal: true}, {name: "none, and not told", noRenewal: true, neverLost: true}},
	"unlock by the owner only":            {{name: "by anybody", anyoneUnlocks: true}},
	"lost lock":                           {{name: "not told", neverLost: true}, {name: "can't be lost", lostNil: true}},
	"service gone and back":               {{name: "granted all the same", grantsWithoutService: true}, {name: "never again", neverBack: true}, {name: "waits on", hangsWithoutService: true}},
	"lock of before the service was gone": {{name: "forgotten and not told", neverLost: true, forgets: true}},
	"no goroutine left":                   {{name: "one for each that leaves", leaks: true}},
}

// TestEachCheckFindsItsFault: a locker with a fault fails the check that is for
// it, and one without passes.
func TestEachCheckFindsItsFault(t *testing.T) {
	defer func(before time.Duration) { patience = before }(patience)
	patience = 3 * time.Second
	t.Run("checks", testEachCheck)
}

func testEachCheck(t *testing.T) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "no goroutine left" { // which counts those of others too
				t.Parallel()
			}
			t.Run("none", func(t *testing.T) {
				if r := record(t, c, newModel(fault{}).suite()); len(r.failures) > 0 || r.skipped {
					t.Fatalf("a locker without a fault fails (skipped: %v): %v", r.skipped, r.failures)
				}
			})
			if len(faults[c.name]) == 0 {
				t.Error("nothing is known to fail this check")
			}
			for _, f := range faults[c.name] {
				t.Run(f.name, func(t *testing.T) {
					model := newModel(f)
					if r := record(t, c, model.suite()); len(r.failures) == 0 {
						t.Error("the fault is not found")
					} else {
						t.Log(r.failures[0])
					}
					close(model.end)
				})
			}
		})
	}
	for name := range faults {
		checkNamed(t, name)
	}
}

// TestWhatIsNotThereIsNotTested and is said to be left out.
func TestWhatIsNotThereIsNotTested(t *testing.T) {
	bare := Suite{New: newModel(fault{}).suite().New, Unordered: true}
	var left []string
	for _, c := range checks {
		if c.missing(bare) != "" {
			left = append(left, c.name)
		}
	}
	want := "[order renewal unlock by the owner only lost lock service gone and back lock of before the service was gone]"
	if got := fmt.Sprint(left); got != want {
		t.Errorf("left out are %s, not %s", got, want)
	}
	for _, name := range []string{"shared locks", "who waits alone lets nobody in"} {
		s := bare
		s.New = func(tb testing.TB) etag.Locker { return onlyLocker{bare.New(tb)} }
		if !record(t, checkNamed(t, name), s).skipped {
			t.Errorf("%s: a locker that has none is not passed over", name)
		}
	}
}

// onlyLocker hides that a locker has more than Lock.
type onlyLocker struct{ etag.Locker }

// fault is what is wrong with a model.
type fault struct {
	name string

	noExclusion, tables, neverWakes, noWait, lastFirst   bool
	sharedExcludes, sharedFree, sharedOvertake           bool
	ignoresEnded, ignoresContext, keepsPlace, otherError bool
	heldByContext, lostAtOnce, alwaysWanted, neverWanted bool
	anyoneUnlocks, neverLost, lostNil, leaks, forgets    bool
	noRenewal                                            bool
	grantsWithoutService, neverBack, hangsWithoutService bool
	keyOf                                                func(string) string
	most                                                 int
}

// model is a lock service in memory, with lockers on it.
type model struct {
	fault
	mu      sync.Mutex
	keys    map[string]*modelKey
	holders int
	down    bool
	lockers int
	end     chan struct{} // ends what would go on for ever
}

type modelKey struct {
	holders []*modelLock
	queue   []*modelWaiter
}

type modelWaiter struct {
	lock  *modelLock
	taken chan struct{}
}

type modelLock struct {
	model  *model
	key    string
	shared bool
	lost   chan struct{}
	wanted chan struct{}
	gone   bool
}

func newModel(f fault) *model {
	return &model{fault: f, keys: make(map[string]*modelKey), end: make(chan struct{})}
}

func (m *model) suite() Suite {
	return Suite{
		New: func(testing.TB) etag.Locker {
			m.lockers++
			return &modelLocker{m, m.lockers}
		},
		Stop: func(testing.TB) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.down = true
			if m.forgets {
				m.keys = make(map[string]*modelKey)
			}
		},
		Start: func(testing.TB) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.down = m.neverBack
		},
		Expire: func(_ testing.TB, lock etag.Lock, _ string) { lock.(*modelLock).expire() },
		Expiry: modelExpiry,
	}
}

const modelExpiry = 2 * glance

type modelLocker struct {
	*model
	number int
}

func (l *modelLocker) Lock(ctx context.Context, key string) (etag.Lock, error) {
	return l.take(ctx, l.number, key, false)
}

func (l *modelLocker) RLock(ctx context.Context, key string) (etag.Lock, error) {
	return l.take(ctx, l.number, key, true)
}

func (m *model) take(ctx context.Context, number int, key string, shared bool) (etag.Lock, error) {
	if err := ctx.Err(); err != nil && !m.ignoresEnded {
		return nil, m.contextErr(err)
	}
	if m.keyOf != nil {
		key = m.keyOf(key)
	}
	if m.tables {
		key = fmt.Sprint(number, key)
	}
	lock := &modelLock{model: m, key: key, shared: shared && !m.sharedExcludes, lost: make(chan struct{}), wanted: make(chan struct{})}
	m.mu.Lock()
	if m.down && !m.grantsWithoutService {
		m.mu.Unlock()
		if m.hangsWithoutService {
			<-m.end
		}
		return nil, errors.New("the service is down")
	}
	if m.most > 0 && m.holders >= m.most {
		m.mu.Unlock()
		return nil, errors.New("too many locks")
	}
	k := m.keys[key]
	if k == nil {
		k = new(modelKey)
		m.keys[key] = k
	}
	if m.noExclusion || (shared && m.sharedFree) || k.admits(lock, m.sharedOvertake) {
		m.grant(ctx, k, lock)
		m.mu.Unlock()
		return lock, nil
	}
	if m.noWait {
		m.mu.Unlock()
		return nil, errors.New("somebody has it")
	}
	waiter := &modelWaiter{lock, make(chan struct{})}
	k.queue = append(k.queue, waiter)
	for _, holder := range k.holders {
		holder.tellWanted()
	}
	m.mu.Unlock()

	done := ctx.Done()
	if m.ignoresContext {
		done = nil
	}
	select {
	case <-waiter.taken:
		return lock, nil
	case <-m.end:
		return nil, errors.New("the test is over")
	case <-done:
	}
	if m.leaks {
		go func() { <-m.end }()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-waiter.taken:
		lock.leave()
	default:
		if m.keepsPlace {
			break
		}
		for i := range k.queue {
			if k.queue[i] == waiter {
				k.queue = append(k.queue[:i:i], k.queue[i+1:]...)
				break
			}
		}
		m.advance(k)
	}
	return nil, m.contextErr(ctx.Err())
}

func (m *model) contextErr(err error) error {
	if m.otherError {
		return errors.New("no lock")
	}
	return err
}

func (k *modelKey) admits(lock *modelLock, overtake bool) bool {
	if len(k.queue) > 0 && (!overtake || !lock.shared) {
		return false
	}
	return k.free(lock)
}

func (k *modelKey) free(lock *modelLock) bool {
	for _, holder := range k.holders {
		if !holder.shared || !lock.shared {
			return false
		}
	}
	return true
}

func (m *model) grant(ctx context.Context, k *modelKey, lock *modelLock) {
	k.holders = append(k.holders, lock)
	m.holders++
	if m.lostAtOnce {
		close(lock.lost)
	}
	if m.alwaysWanted {
		close(lock.wanted)
	}
	if m.noRenewal {
		time.AfterFunc(modelExpiry, lock.expire)
	}
	if m.heldByContext {
		context.AfterFunc(ctx, lock.expire)
	}
}

// advance grants the lock to those at the head of the queue.
func (m *model) advance(k *modelKey) {
	for len(k.queue) > 0 && !m.neverWakes {
		next := 0
		if m.lastFirst {
			next = len(k.queue) - 1
		}
		waiter := k.queue[next]
		if !k.free(waiter.lock) {
			return
		}
		k.queue = append(k.queue[:next:next], k.queue[next+1:]...)
		m.grant(context.Background(), k, waiter.lock)
		if len(k.queue) > 0 {
			waiter.lock.tellWanted()
		}
		close(waiter.taken)
	}
}

func (l *modelLock) tellWanted() {
	if l.model.neverWanted || l.model.alwaysWanted {
		return
	}
	select {
	case <-l.wanted:
	default:
		close(l.wanted)
	}
}

// leave takes a holder out.
func (l *modelLock) leave() {
	k := l.model.keys[l.key]
	if k == nil {
		return
	}
	if l.model.anyoneUnlocks {
		k.holders = nil
	}
	for i, holder := range k.holders {
		if holder == l {
			k.holders = append(k.holders[:i:i], k.holders[i+1:]...)
			l.model.holders--
			break
		}
	}
	l.model.advance(k)
}

func (l *modelLock) expire() {
	l.model.mu.Lock()
	defer l.model.mu.Unlock()
	if !l.gone && !l.model.neverLost && !l.model.lostNil {
		close(l.lost)
	}
	l.leave()
	l.gone = true
}

func (l *modelLock) Unlock(context.Context) error {
	l.model.mu.Lock()
	defer l.model.mu.Unlock()
	l.leave()
	l.gone = true
	return nil
}

func (l *modelLock) Lost() <-chan struct{} {
	if l.model.lostNil {
		return nil
	}
	return l.lost
}

func (l *modelLock) Wanted() <-chan struct{} { return l.wanted }
