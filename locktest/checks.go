package locktest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	etag "github.com/caddyetag/caddy-etag"
)

// patience is for what has to happen. It is long, since the machine may be slow,
// and is used up by a locker that fails only.
var patience = time.Minute

// glance is for what must not happen. A locker with a fault is found with it on
// most runs, and one without is never held to be faulty.
const glance = 150 * time.Millisecond

// lockFunc is a locker's Lock or RLock.
type lockFunc func(ctx context.Context, key string) (etag.Lock, error)

// take takes a lock that is free or becomes so.
func take(tb testing.TB, lock lockFunc, key string) etag.Lock {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := lock(ctx, key)
	if err != nil {
		tb.Fatalf("no lock for %s, which is free: %v", short(key), err)
	}
	if l == nil {
		tb.Fatalf("neither a lock nor an error for %s", short(key))
	}
	return l
}

func give(tb testing.TB, lock etag.Lock) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := lock.Unlock(ctx); err != nil {
		tb.Fatalf("giving a lock back: %v", err)
	}
}

// refused asserts that nobody gets a lock that somebody has.
func refused(tb testing.TB, lock lockFunc, key, why string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), glance)
	defer cancel()
	if l, err := lock(ctx, key); err == nil {
		give(tb, l)
		tb.Fatalf("a lock for %s was granted: %s", short(key), why)
	}
}

// granted is a call of a lockFunc that goes on.
type granted struct {
	lock etag.Lock
	err  error
	done chan struct{}
}

func start(ctx context.Context, lock lockFunc, key string) *granted {
	g := &granted{done: make(chan struct{})}
	go func() {
		defer close(g.done)
		g.lock, g.err = lock(ctx, key)
	}()
	return g
}

// startWaiting starts a call that has to wait, and gives it the time to begin.
func startWaiting(tb testing.TB, ctx context.Context, lock lockFunc, key string) *granted {
	tb.Helper()
	g := start(ctx, lock, key)
	select {
	case <-g.done:
		if g.err == nil {
			give(tb, g.lock)
		}
		tb.Fatalf("a lock for %s, which somebody has, was not waited for: %v", short(key), g.err)
	case <-time.After(glance):
	}
	return g
}

// wait waits for the end of the call.
func (g *granted) wait(tb testing.TB) (etag.Lock, error) {
	tb.Helper()
	select {
	case <-g.done:
	case <-time.After(patience):
		tb.Fatal("who waits for a lock waits on")
	}
	return g.lock, g.err
}

func (g *granted) taken(tb testing.TB) etag.Lock {
	tb.Helper()
	lock, err := g.wait(tb)
	if err != nil {
		tb.Fatalf("no lock for who waits: %v", err)
	}
	return lock
}

func short(key string) string {
	if len(key) > 40 {
		return fmt.Sprintf("%q… (%d bytes)", key[:40], len(key))
	}
	return fmt.Sprintf("%q", key)
}

// checkExclusion has many take one lock, through two lockers, and be inside
// alone.
func checkExclusion(tb testing.TB, s Suite) {
	lockers := []etag.Locker{s.New(tb), s.New(tb)}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	const holders, rounds = 8, 3
	var inside, together atomic.Int32
	errs := make(chan error, holders*rounds)
	var group sync.WaitGroup
	for i := range holders {
		group.Go(func() {
			for range rounds {
				lock, err := lockers[i%2].Lock(ctx, "exclusion")
				if err != nil {
					errs <- err
					return
				}
				if inside.Add(1) > 1 {
					together.Add(1)
				}
				time.Sleep(time.Millisecond) // so that others have a chance
				inside.Add(-1)
				if err := lock.Unlock(ctx); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		tb.Errorf("taking a lock and giving it back: %v", err)
	}
	if n := together.Load(); n > 0 {
		tb.Errorf("%d times, somebody had the lock beside another one", n)
	}
}

// checkHandover: who waits gets the lock when it is given back, not before, and
// whichever locker they wait at.
func checkHandover(tb testing.TB, s Suite) {
	first, second := s.New(tb), s.New(tb)
	for _, locker := range []etag.Locker{first, second} {
		held := take(tb, first.Lock, "handover")
		waits := startWaiting(tb, context.Background(), locker.Lock, "handover")
		give(tb, held)
		give(tb, waits.taken(tb))
	}
}

// checkOrder: who came first is served first. That somebody waits can't be seen
// from outside, so a machine under load may mix them up: what counts is that
// they are ever served in order.
func checkOrder(tb testing.TB, s Suite) {
	locker := s.New(tb)
	const waiters, tries = 6, 3
	var orders [][]int
	for range tries {
		held := take(tb, locker.Lock, "order")
		var mu sync.Mutex
		var order []int
		var group sync.WaitGroup
		errs := make(chan error, waiters)
		for i := range waiters {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				lock, err := locker.Lock(ctx, "order")
				if err != nil {
					errs <- err
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				errs <- lock.Unlock(ctx)
			})
			time.Sleep(glance)
		}
		give(tb, held)
		group.Wait()
		for range waiters {
			if err := <-errs; err != nil {
				tb.Fatalf("no lock for who waits: %v", err)
			}
		}
		if slices.IsSorted(order) {
			return
		}
		orders = append(orders, order)
	}
	tb.Errorf("those who wait at one locker are not served in order: %v", orders)
}

// checkShared: any number share a lock, but with nobody who has it alone.
func checkShared(tb testing.TB, s Suite) {
	first, second := s.New(tb), s.New(tb)
	shared, ok := first.(etag.SharedLocker)
	if !ok {
		tb.Skip("the locker has no shared locks")
	}
	other := second.(etag.SharedLocker)

	a, b, c := take(tb, shared.RLock, "shared"), take(tb, shared.RLock, "shared"), take(tb, other.RLock, "shared")
	give(tb, a)
	refused(tb, first.Lock, "shared", "others share it")
	refused(tb, second.Lock, "shared", "others share it")
	give(tb, b)
	give(tb, c)

	alone := take(tb, first.Lock, "shared")
	refused(tb, shared.RLock, "shared", "somebody has it alone")
	refused(tb, other.RLock, "shared", "somebody has it alone")
	give(tb, alone)
	give(tb, take(tb, other.RLock, "shared"))
}

// checkSharedWaits: otherwise a stream of those who share a lock would keep out
// who wants it alone for ever.
func checkSharedWaits(tb testing.TB, s Suite) {
	locker, ok := s.New(tb).(etag.SharedLocker)
	if !ok {
		tb.Skip("the locker has no shared locks")
	}
	shares := take(tb, locker.RLock, "starved")
	alone := startWaiting(tb, context.Background(), locker.Lock, "starved")
	refused(tb, locker.RLock, "starved", "somebody waits for it alone")
	give(tb, shares)
	give(tb, alone.taken(tb))
	give(tb, take(tb, locker.RLock, "starved"))
}

// contextError asserts that what a call returned is its context's error.
func contextError(tb testing.TB, ctx context.Context, lock etag.Lock, err error) {
	tb.Helper()
	switch {
	case err == nil:
		give(tb, lock)
		tb.Fatal("a lock was taken though the context had ended")
	case !errors.Is(err, ctx.Err()):
		tb.Fatalf("the context ended (%v), but the error is: %v", ctx.Err(), err)
	}
}

// checkEndedContext: nothing is taken with a context that has ended before.
func checkEndedContext(tb testing.TB, s Suite) {
	locker := s.New(tb)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, lock := range lockFuncs(locker) {
		l, err := lock(ctx, "ended")
		contextError(tb, ctx, l, err)
		give(tb, take(tb, locker.Lock, "ended"))
	}
}

// lockFuncs are the kinds of lock that a locker has.
func lockFuncs(locker etag.Locker) []lockFunc {
	funcs := []lockFunc{locker.Lock}
	if shared, ok := locker.(etag.SharedLocker); ok {
		funcs = append(funcs, shared.RLock)
	}
	return funcs
}

// checkContextEnds: who gives up is told so at once, does not get the lock
// later, and keeps out nobody behind.
func checkContextEnds(tb testing.TB, s Suite) {
	first, second := s.New(tb), s.New(tb)
	for _, lock := range append(lockFuncs(first), lockFuncs(second)...) {
		held := take(tb, first.Lock, "leaves")
		ctx, leave := context.WithCancel(context.Background())
		leaves := startWaiting(tb, ctx, lock, "leaves")
		stays := startWaiting(tb, context.Background(), first.Lock, "leaves")
		leave()
		l, err := leaves.wait(tb)
		contextError(tb, ctx, l, err)
		give(tb, held)
		give(tb, stays.taken(tb))
	}

	// in the moment in which the lock is given back
	for range 20 {
		held := take(tb, first.Lock, "leaves")
		ctx, leave := context.WithCancel(context.Background())
		leaves := start(ctx, first.Lock, "leaves")
		time.Sleep(time.Millisecond)
		var group sync.WaitGroup
		group.Go(leave)
		give(tb, held)
		if l, err := leaves.wait(tb); err == nil {
			give(tb, l)
		}
		group.Wait()
		give(tb, take(tb, second.Lock, "leaves"))
	}
}

// checkUnlockContext: the context with which a lock was taken has nothing to do
// with how long it is held.
func checkUnlockContext(tb testing.TB, s Suite) {
	first, second := s.New(tb), s.New(tb)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	lock, err := first.Lock(ctx, "context")
	cancel()
	if err != nil {
		tb.Fatalf("no lock, though nobody has it: %v", err)
	}
	refused(tb, second.Lock, "context", "its holder's context has ended, but it was not given back")
	select {
	case <-lock.Lost():
		tb.Error("a lock is lost with the context that it was taken with")
	default:
	}
	give(tb, lock)
	give(tb, take(tb, second.Lock, "context"))
}

// checkManyKeys: all can be held at one time, each by itself.
func checkManyKeys(tb testing.TB, s Suite) {
	first, second := s.New(tb), s.New(tb)
	const keys = 200
	locks := make(map[string]etag.Lock, keys)
	for i := range keys {
		key := fmt.Sprintf("example.com/documents/%d", i)
		locks[key] = take(tb, []etag.Locker{first, second}[i%2].Lock, key)
	}
	refused(tb, first.Lock, "example.com/documents/17", "somebody has it")
	refused(tb, second.Lock, "example.com/documents/18", "somebody has it")
	for _, lock := range locks {
		give(tb, lock)
	}
	for _, key := range []string{"example.com/documents/17", "example.com/documents/18"} {
		give(tb, take(tb, first.Lock, key))
	}
}

// oddKeys are ones that a service may not take as names, or take for others'.
func oddKeys() []string {
	long := "example.com/" + strings.Repeat("long/", 4000)
	return []string{
		"", " ", "/", "a", "a/", "a ", "a b", "a_b", "a-b", "a:b", "a%20b", "a+b", "a.b", "a,b", "a;b",
		".", "..", "../a", "a/../b", "a/b", "a//b", `a\b`, "a\x00", "a\x00b", "a\nb", "a\r\nb", "a\tb",
		"*", "a*", "a?", "[a]", "{a}", "{a}b", "{}", "$a", "'a'", `"a"`, "`a`", "<a>", "|", "~", "#a", "é", "e\u0301",
		"\u202ea", "日本", "\xff\xfe", "\xff", "con", "nul", "lost+found", ".lock", "a.lock",
		long, long + "a", long + "b", strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("x", 257),
	}
}

// checkOddKeys: each key has a lock of its own, whatever is in it.
func checkOddKeys(tb testing.TB, s Suite) {
	first, second := s.New(tb), s.New(tb)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	locks := make([]etag.Lock, 0, len(oddKeys()))
	for _, key := range oddKeys() {
		lock, err := first.Lock(ctx, key)
		if err != nil {
			tb.Fatalf("no lock for the key %s: %v", short(key), err)
		}
		locks = append(locks, lock)
	}
	for _, key := range []string{"", "a b", "a\x00", "\xff", oddKeys()[len(oddKeys())-5]} {
		refused(tb, second.Lock, key, "somebody has it")
	}
	for _, lock := range locks {
		give(tb, lock)
	}
}

// checkNotLost: nobody is told that they have lost what they have.
func checkNotLost(tb testing.TB, s Suite) {
	locker := s.New(tb)
	for _, lock := range lockFuncs(locker) {
		held := take(tb, lock, "kept")
		select {
		case <-held.Lost():
			tb.Error("a lock that is held is said to be lost")
		case <-time.After(glance):
		}
		give(tb, held)
		_ = held.Lost() // may be asked at any time
	}
}

// checkRenewal: a lock is kept until it is given back, however long that takes.
func checkRenewal(tb testing.TB, s Suite) {
	first, second := s.New(tb), s.New(tb)
	for _, lock := range lockFuncs(first) {
		held := take(tb, lock, "renewed")
		waits := startWaiting(tb, context.Background(), second.Lock, "renewed")
		select {
		case <-waits.done:
			tb.Errorf("a lock that is held for longer than its expiry is another one's (or an error): %v", waits.err)
		case <-held.Lost():
			tb.Error("a lock that is held for longer than its expiry is lost")
		case <-time.After(3 * s.Expiry):
		}
		give(tb, held)
		give(tb, waits.taken(tb))
	}
}

// checkWanted is for locks that know who waits for them.
func checkWanted(tb testing.TB, s Suite) {
	locker := s.New(tb)
	for _, lock := range lockFuncs(locker) {
		held := take(tb, lock, "wanted")
		contended, ok := held.(etag.ContendedLock)
		if !ok {
			give(tb, held)
			continue
		}
		select {
		case <-contended.Wanted():
			tb.Error("a lock is said to be wanted, and nobody waits for it")
		case <-time.After(glance):
		}
		wanted := contended.Wanted()
		waits := start(context.Background(), locker.Lock, "wanted")
		for _, asked := range []string{"before", "after"} {
			select {
			case <-wanted:
			case <-time.After(patience):
				tb.Errorf("asked %s somebody waited for it, a lock is not said to be wanted", asked)
			}
			wanted = contended.Wanted()
		}
		give(tb, held)
		give(tb, waits.taken(tb))
	}
}

// checkOwner: who has lost a lock does not take it from the next one by giving
// it back.
func checkOwner(tb testing.TB, s Suite) {
	first, second := s.New(tb), s.New(tb)
	former := take(tb, first.Lock, "owner")
	s.Expire(tb, former, "owner")
	owner := take(tb, second.Lock, "owner")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = former.Unlock(ctx) // may tell that it was lost
	refused(tb, s.New(tb).Lock, "owner", "its owner has it, and another one gave it back")
	select {
	case <-owner.Lost():
		tb.Error("a lock is lost because its former owner gave it back")
	default:
	}
	give(tb, owner)
	give(tb, take(tb, first.Lock, "owner"))
}

// lost waits until a lock is said to be lost.
func lost(tb testing.TB, lock etag.Lock, why string) {
	tb.Helper()
	if lock.Lost() == nil {
		tb.Fatalf("a lock can't be lost by its own word, but %s", why)
	}
	deadline := time.After(patience)
	for {
		select {
		case <-lock.Lost():
			return
		case <-deadline:
			tb.Fatalf("a lock is not said to be lost, though %s", why)
		case <-time.After(10 * time.Millisecond): // it may have another channel by now
		}
	}
}

// checkLost: who loses a lock gets to know, and can give it back all the same.
func checkLost(tb testing.TB, s Suite) {
	locker := s.New(tb)
	held := take(tb, locker.Lock, "lost")
	s.Expire(tb, held, "lost")
	lost(tb, held, "its lease has ended")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = held.Unlock(ctx) // may tell that it was lost
	give(tb, take(tb, locker.Lock, "lost"))
}

// checkService: while the service is gone no lock is granted and nobody waits
// for longer than they said, and when it is back all is as before.
func checkService(tb testing.TB, s Suite) {
	locker := s.New(tb)
	give(tb, take(tb, locker.Lock, "service"))

	s.Stop(tb)
	for _, lock := range lockFuncs(locker) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		call := start(ctx, lock, "service")
		l, err := call.wait(tb)
		cancel()
		if err == nil {
			_ = l
			tb.Error("a lock was granted while the service was gone")
		}
	}
	s.Start(tb)

	recovered(tb, locker, "service")
	first, second := take(tb, locker.Lock, "service"), s.New(tb)
	refused(tb, second.Lock, "service", "somebody has it since the service is back")
	give(tb, first)
	give(tb, take(tb, second.Lock, "service"))
}

// recovered waits until a locker grants locks again.
func recovered(tb testing.TB, locker etag.Locker, key string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		lock, err := locker.Lock(ctx, key)
		if err == nil {
			give(tb, lock)
			return
		}
		if ctx.Err() != nil {
			tb.Fatalf("the service is back, but there are no locks: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// checkServiceKeeps: a lock that was taken before the service was gone has no
// other holder as long as its own is not told that it may have.
func checkServiceKeeps(tb testing.TB, s Suite) {
	first, second := s.New(tb), s.New(tb)
	held := take(tb, first.Lock, "keeps")
	s.Stop(tb)
	s.Start(tb)

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	recovered(tb, second, "another")
	taken := start(ctx, second.Lock, "keeps")
	select {
	case <-taken.done:
		other := taken.taken(tb)
		select {
		case <-held.Lost():
		default:
			tb.Error("a lock has another holder, but is not said to be lost")
		}
		_ = held.Unlock(ctx) // may tell that it was lost
		give(tb, other)
	case <-time.After(10 * glance):
		// it has outlived the service; what is asked here is of those that have not
		_ = held.Unlock(ctx)
		give(tb, taken.taken(tb))
	}
}

// checkGoroutines: whatever became of a lock, nothing of it is left.
func checkGoroutines(tb testing.TB, s Suite) {
	locker := s.New(tb)
	use := func(key string) {
		held := take(tb, locker.Lock, key)
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), glance/3)
				defer cancel()
				if lock, err := locker.Lock(ctx, key); err == nil {
					_ = lock.Unlock(context.Background())
				}
			})
		}
		group.Wait()
		give(tb, held)
	}
	use("first") // connections and what serves them may stay
	before := settled()
	for i := range 25 {
		use(fmt.Sprint("goroutines ", i))
	}
	const some = 10 // of connections that the waiters have opened, and of other tests
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before+some {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			tb.Fatalf("there are %d goroutines, and were %d before 125 locks were waited for or taken:\n%s",
				runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// settled returns how many goroutines there are when their number no longer
// falls.
func settled() int {
	n := runtime.NumGoroutine()
	for range 20 {
		time.Sleep(10 * time.Millisecond)
		n = min(n, runtime.NumGoroutine())
	}
	return n
}
