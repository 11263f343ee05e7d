package etag

import (
	"sync"
	"time"
)

// delays calls the responses of a handler whose bodies have been held for too
// long. All wait for the same time, and so are a queue, with one timer for the
// first in it. A timer for each would make the runtime wake a thread for most
// requests, to wait for the network for a shorter time: for small responses,
// that was 8 % of all that Caddy did.
type delays struct {
	after time.Duration

	mu          sync.Mutex
	first, last *delay
	timer       *time.Timer
	armed       bool // the timer is going to fire
}

// delay is the place of a response in the queue.
type delay struct {
	prev, next *delay
	rw         *responseWriter // nil: not in the queue
	due        time.Time
}

// start puts a response into the queue.
func (q *delays) start(d *delay, rw *responseWriter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d.rw, d.due = rw, time.Now().Add(q.after)
	d.prev = q.last
	if q.last == nil {
		q.first = d
	} else {
		q.last.next = d
	}
	q.last = d
	if !q.armed {
		q.arm(q.after)
	}
}

// stop takes a response out of the queue, if it is there.
func (q *delays) stop(d *delay) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d.rw != nil {
		q.remove(d)
	}
}

func (q *delays) remove(d *delay) {
	if d.prev == nil {
		q.first = d.next
	} else {
		d.prev.next = d.next
	}
	if d.next == nil {
		q.last = d.prev
	} else {
		d.next.prev = d.prev
	}
	*d = delay{}
}

func (q *delays) arm(after time.Duration) {
	q.armed = true
	if q.timer == nil {
		q.timer = time.AfterFunc(after, q.fire)
	} else {
		q.timer.Reset(after)
	}
}

// fire calls all that are due, each on its own: one with a slow client must
// not keep the others waiting.
func (q *delays) fire() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for q.first != nil && !q.first.due.After(now) {
		rw := q.first.rw
		q.remove(q.first)
		go rw.heldTooLong()
	}
	q.armed = false
	if q.first != nil {
		q.arm(q.first.due.Sub(now))
	}
}

// cleanup stops the timer if it has nothing to wait for.
func (q *delays) cleanup() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.first == nil && q.armed && q.timer.Stop() {
		q.armed = false
	}
}
