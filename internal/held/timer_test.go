package held

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// expiring counts how often it has expired.
type expiring struct {
	timer Timer
	times atomic.Int32
}

func (e *expiring) Expire() { e.times.Add(1) }

func (e *expiring) expired() bool { return e.times.Load() > 0 }

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond)
}

// TestTimersAreAQueue: each expires when it is due, in order, and one that was
// stopped does not, wherever in the queue it stood.
func TestTimersAreAQueue(t *testing.T) {
	timers := NewTimers(20 * time.Millisecond)
	all := make([]expiring, 6)
	for i := range all {
		timers.Start(&all[i].timer, &all[i])
		time.Sleep(5 * time.Millisecond / time.Duration(len(all))) // so that not all are due at one time
	}
	for _, i := range []int{2, 0, 5} {
		all[i].timer.Stop()
	}
	for _, i := range []int{1, 3, 4} {
		eventually(t, all[i].expired)
	}
	for _, i := range []int{2, 0, 5} {
		require.False(t, all[i].expired())
		all[i].timer.Stop() // again
	}
	require.Nil(t, timers.first)
	require.Nil(t, timers.last)

	// it goes on after a time with nothing in it
	eventually(t, func() bool {
		timers.mu.Lock()
		defer timers.mu.Unlock()
		return !timers.armed
	})
	timers.Start(&all[0].timer, &all[0])
	timers.Cleanup() // which leaves the one that waits
	eventually(t, all[0].expired)
	timers.Cleanup()
	for i := range all {
		require.LessOrEqual(t, all[i].times.Load(), int32(1))
	}
}

// TestCleanupStopsWhatNobodyWaitsFor, and the timers can be used again.
func TestCleanupStopsWhatNobodyWaitsFor(t *testing.T) {
	timers := NewTimers(time.Hour)
	timers.Cleanup() // of what was never used
	var one expiring
	one.timer.Stop() // nor this
	timers.Start(&one.timer, &one)
	timers.Cleanup()
	require.True(t, timers.armed)
	one.timer.Stop()
	timers.Cleanup()
	require.False(t, timers.armed)
	timers.Start(&one.timer, &one)
	require.True(t, timers.armed)
	one.timer.Stop()
	require.False(t, one.expired())
}

func TestTimerKnowsWhenItIsDue(t *testing.T) {
	timers := NewTimers(time.Hour)
	var one expiring
	require.Zero(t, one.timer.Due(), "never, before it is started")
	before := time.Now()
	timers.Start(&one.timer, &one)
	due := one.timer.Due()
	require.WithinRange(t, due, before.Add(time.Hour), time.Now().Add(time.Hour))
	one.timer.Stop()
	require.Equal(t, due, one.timer.Due(), "though it will not expire")
}

func TestWaitingAllocatesNothing(t *testing.T) {
	timers := NewTimers(time.Hour)
	var one expiring
	require.Zero(t, testing.AllocsPerRun(100, func() {
		timers.Start(&one.timer, &one)
		one.timer.Stop()
	}))
}
