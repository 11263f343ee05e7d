package held

import (
	"sync"
	"time"
)

// Timers tell who has been held for too long. All wait for the same time, and
// so are a queue, with one time.Timer for the first in it. One for each would
// make the runtime wake a thread for most requests, to wait for the network
// for a shorter time: for small responses, that was 8 % of all that Caddy did.
type Timers struct {
	after time.Duration

	mu          sync.Mutex
	first, last *Timer
	runtime     *time.Timer
	armed       bool // it is going to fire
}

// NewTimers returns timers that expire after this time.
func NewTimers(after time.Duration) *Timers { return &Timers{after: after} }

// Expirer is what may be held for too long.
type Expirer interface {
	// Expire is called in a goroutine of its own when the time is over. It may
	// still be called after Stop, if that came at about the same time.
	Expire()
}

// Timer is a place in the queue.
type Timer struct {
	queue      *Timers // nil: was never started
	prev, next *Timer
	expirer    Expirer // nil: not in the queue
	due        time.Time
}

// Start begins to wait. The timer must not be waiting yet.
func (q *Timers) Start(t *Timer, expirer Expirer) {
	t.queue = q
	q.mu.Lock()
	defer q.mu.Unlock()
	t.expirer, t.due = expirer, time.Now().Add(q.after)
	t.prev = q.last
	if q.last == nil {
		q.first = t
	} else {
		q.last.next = t
	}
	q.last = t
	if !q.armed {
		q.arm(q.after)
	}
}

// Due returns the time at which t expires, or would have if it had not been
// stopped; the zero time if it was never started.
func (t *Timer) Due() time.Time { return t.due }

// Stop ends the wait, if it is not at its end.
func (t *Timer) Stop() {
	q := t.queue
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.expirer != nil {
		q.remove(t)
	}
}

func (q *Timers) remove(t *Timer) {
	if t.prev == nil {
		q.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		q.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.prev, t.next, t.expirer = nil, nil, nil
}

func (q *Timers) arm(after time.Duration) {
	q.armed = true
	if q.runtime == nil {
		q.runtime = time.AfterFunc(after, q.fire)
	} else {
		q.runtime.Reset(after)
	}
}

// fire calls all that are due, each on its own: one with a slow client must
// not keep the others waiting.
func (q *Timers) fire() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for q.first != nil && !q.first.due.After(now) {
		expirer := q.first.expirer
		q.remove(q.first)
		go expirer.Expire()
	}
	q.armed = false
	if q.first != nil {
		q.arm(q.first.due.Sub(now))
	}
}

// Cleanup lets go of the time.Timer if there is nothing to wait for. The timers
// can be used again.
func (q *Timers) Cleanup() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.first == nil && q.armed && q.runtime.Stop() {
		q.armed = false
	}
}
