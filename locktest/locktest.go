// Package locktest tests lockers: modules in Caddy's namespace http.etag.locks,
// which keep writes to one resource apart. Whoever writes one runs it in a test
// of theirs:
//
//	func TestLocker(t *testing.T) {
//		locktest.Run(t, func(tb testing.TB) etag.Locker {
//			return startLocker(tb)
//		})
//	}
//
// It tests what the handler relies on, as the comments of etag.Locker and its
// kin say it, and no more. What only the locker's own service can show, such as
// how long the lock of a killed process stays taken, is left to its tests.
package locktest

import (
	"testing"
	"time"

	etag "github.com/caddyetag/caddy-etag"
)

// Run tests a locker that has no service of its own, or one that the tests
// can't stop. See Suite.New for newLocker.
func Run(t *testing.T, newLocker func(tb testing.TB) etag.Locker) {
	t.Helper()
	Suite{New: newLocker}.Run(t)
}

// Suite is the tests of a locker. Only New is required: what the other fields
// would be needed for is left out without them.
type Suite struct {
	// New returns a locker that is ready for use, and sees to its end with
	// tb.Cleanup. All that it returns within one test share one service, and
	// are to have as little else in common as they can, as if each was in a
	// process of its own.
	New func(tb testing.TB) etag.Locker

	// Stop makes the service fail, or hang, for all lockers, and Start has it
	// answer again. In between, the service may forget all locks.
	Stop, Start func(tb testing.TB)

	// Expire has the service take a lock from its holder, as when its lease has
	// ended. It returns when another one can have the lock.
	Expire func(tb testing.TB, lock etag.Lock, key string)

	// Expiry is for how long the service keeps the lock of a holder that it
	// hears nothing of, for a locker that renews its locks. Some are held for
	// three times as long.
	Expiry time.Duration

	// Unordered is set for a locker that does not serve those who wait for one
	// lock, through one and the same locker, in the order in which they came.
	Unordered bool
}

// Run runs the tests.
func (s Suite) Run(t *testing.T) {
	t.Helper()
	for _, check := range checks {
		t.Run(check.name, func(t *testing.T) {
			if missing := check.missing(s); missing != "" {
				t.Skip("not tested without " + missing)
			}
			check.run(t, s)
		})
	}
}

// check is a test of one property.
type check struct {
	name  string
	run   func(tb testing.TB, s Suite)
	needs func(s Suite) (missing string)
}

func (c check) missing(s Suite) string {
	if c.needs == nil {
		return ""
	}
	return c.needs(s)
}

var checks = []check{
	{name: "exclusion", run: checkExclusion},
	{name: "who waits is woken", run: checkHandover},
	{name: "order", run: checkOrder, needs: order},
	{name: "shared locks", run: checkShared},
	{name: "who waits alone lets nobody in", run: checkSharedWaits},
	{name: "context that has ended", run: checkEndedContext},
	{name: "context that ends while it waits", run: checkContextEnds},
	{name: "unlock with a context of its own", run: checkUnlockContext},
	{name: "many keys", run: checkManyKeys},
	{name: "long and odd keys", run: checkOddKeys},
	{name: "a lock that is held is not lost", run: checkNotLost},
	{name: "wanted", run: checkWanted},
	{name: "renewal", run: checkRenewal, needs: expiry},
	{name: "unlock by the owner only", run: checkOwner, needs: expire},
	{name: "lost lock", run: checkLost, needs: expire},
	{name: "service gone and back", run: checkService, needs: service},
	{name: "lock of before the service was gone", run: checkServiceKeeps, needs: service},
	{name: "no goroutine left", run: checkGoroutines},
}

func order(s Suite) string {
	if s.Unordered {
		return "an order"
	}
	return ""
}

func expire(s Suite) string {
	if s.Expire == nil {
		return "Expire"
	}
	return ""
}

func expiry(s Suite) string {
	if s.Expiry == 0 {
		return "Expiry"
	}
	return ""
}

func service(s Suite) string {
	if s.Stop == nil || s.Start == nil {
		return "Stop and Start"
	}
	return ""
}
