package etag

import (
	"context"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// tenure is the time for which a write has its lock. It bounds what the lock is
// held for by the hold time, and keeps the write going downstream for as long
// as the backend may still work on it.
type tenure struct {
	write *write
	lock  Lock
	key   string
	timer held.Timer

	// reading is the context of internal GETs: it ends with the client's, or
	// when the hold time is over.
	reading     context.Context
	stopReading context.CancelFunc

	mu       sync.Mutex
	term     int // counts what was begun
	phase    phase
	over     bool // the hold time is
	released bool // the lock has been given back
	timedOut bool // the write was canceled for want of an answer
	hinting  bool // an informational response is being sent
	ctx      *writeContext
	unwatch  func() bool
	ended    chan struct{} // closed when downstream has ended
}

// phase is how far a write has come.
type phase int

const (
	phaseReading   phase = iota // it has not gone downstream
	phaseWriting                // it has, and there is no answer yet
	phaseAnswering              // its answer has begun
	phaseEnded                  // downstream has ended
)

// begin starts a tenure with a lock that has been taken. It may do so again
// after end.
func (t *tenure) begin(lock Lock, key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lock, t.key = lock, key
	t.over, t.released = false, false
	t.term++
	t.reading, t.stopReading = context.WithCancel(t.write.request.Context())
	t.write.handler.holds.Start(&t.timer, &term{t, t.term})
}

// end ends the tenure, if there is one.
func (t *tenure) end() {
	if t.lock == nil {
		return
	}
	t.endWriting()
	t.giveBack()
	t.stopReading()
}

// giveBack gives the lock back, if that has not been done.
func (t *tenure) giveBack() {
	t.mu.Lock()
	release := t.lock != nil && !t.released
	t.released = true
	t.mu.Unlock()
	if release {
		t.timer.Stop()
		t.write.handler.giveBack(t.lock, t.key)
	}
}

// holds reports whether the lock is still held.
func (t *tenure) holds() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.released
}

// uncovered returns why the lock, or one that the write has further up the chain,
// may have another holder; no reason if none may.
func (t *tenure) uncovered() reason {
	if isLost(t.lock) {
		return reasonLockFailed
	}
	return t.write.enclosing.above.uncovered(t.write.guarded)
}

func isLost(lock Lock) bool {
	select {
	case <-lock.Lost():
		return true
	default:
		return false
	}
}

// isOver reports whether the hold time is over.
func (t *tenure) isOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over
}

// term is what a hold timer knows a tenure by: it may come when that has ended,
// and another one begun.
type term struct {
	tenure *tenure
	number int
}

// Expire is called when the hold time is over.
func (e *term) Expire() { e.tenure.expire(e.number) }

func (t *tenure) expire(number int) {
	t.mu.Lock()
	if t.released || t.term != number {
		t.mu.Unlock()
		return
	}
	t.over = true
	phase, stopReading := t.phase, t.stopReading
	t.mu.Unlock()

	stopReading()
	switch {
	case phase == phaseReading: // the write is refused, see startWriting
	case phase == phaseWriting && t.write.guarded:
		t.awaitWanted()
	default:
		t.giveBackLate()
	}
}

// awaitWanted cancels a write whose hold time is over as soon as somebody waits
// for its lock, or its client has left. A slow write that keeps nobody waiting
// is nobody's business.
func (t *tenure) awaitWanted() {
	if contended, ok := t.lock.(ContendedLock); ok {
		select {
		case <-contended.Wanted():
		case <-t.ctx.Context.Done():
		case <-t.ended:
			return
		}
	}
	t.mu.Lock()
	t.timedOut = t.phase == phaseWriting
	timedOut := t.timedOut
	hinting := timedOut && t.hinting
	if hinting { // to a client that may not read it
		_ = http.NewResponseController(t.write.client).SetWriteDeadline(time.Now())
	}
	t.mu.Unlock()
	if timedOut {
		t.ctx.cancel()
		t.write.stopUpload()
	}
	if hinting {
		// Over HTTP/2, no deadline ends the wait for a connection that takes
		// nothing, and so the canceled write may never come to its end.
		grace := time.NewTimer(lockGrace)
		defer grace.Stop()
		select {
		case <-t.ended:
		case <-grace.C:
			t.giveBack()
		}
	}
}

// hint calls send, which sends an informational response, unless the write was
// canceled.
func (t *tenure) hint(send func()) {
	if t.setHinting(true) {
		return
	}
	defer t.setHinting(false)
	send()
}

func (t *tenure) setHinting(hinting bool) (timedOut bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timedOut && t.hinting {
		_ = http.NewResponseController(t.write.client).SetWriteDeadline(time.Time{}) // see awaitWanted
	}
	t.hinting = hinting && !t.timedOut
	return t.timedOut
}

// giveBackLate gives the lock back though downstream goes on. From then on the
// write ends with its client.
func (t *tenure) giveBackLate() {
	t.giveBack()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == phaseAnswering && t.ctx.Context.Err() != nil {
		t.ctx.cancel()
	}
}

// startWriting returns the context for downstream, with which the write goes on
// when its client leaves. If the lock does not cover the write any more, it
// returns the reason.
func (t *tenure) startWriting(client context.Context) (*writeContext, reason) {
	if why := t.uncovered(); why != "" {
		return nil, why
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return nil, reasonHold
	}
	t.phase = phaseWriting
	t.ended = make(chan struct{})
	t.ctx = newWriteContext(client)
	t.unwatch = context.AfterFunc(client, t.clientLeft)
	writesInFlight.begin()
	return t.ctx, ""
}

// endWriting notes that downstream has ended. It reports whether the write was
// canceled for want of an answer.
func (t *tenure) endWriting() (timedOut bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == phaseWriting || t.phase == phaseAnswering {
		t.phase = phaseEnded
		close(t.ended)
		t.unwatch()
		t.ctx.finish()
		writesInFlight.end()
	}
	return t.timedOut
}

// answerBegan notes that downstream's answer has begun. It reports whether that
// came in time.
func (t *tenure) answerBegan() (inTime bool) {
	t.mu.Lock()
	if t.timedOut {
		t.mu.Unlock()
		return false
	}
	t.phase = phaseAnswering
	over := t.over
	if !t.write.guarded && t.ctx.Context.Err() != nil {
		t.ctx.cancel()
	}
	t.mu.Unlock()
	if over {
		t.giveBackLate()
	}
	return true
}

// clientLeft is called when the client's context has ended. A write ends with
// its client if the body was cut off; if an etag handler above says so; and if
// its answer has begun, which concerns nobody else, unless that is guarded by
// the lock.
func (t *tenure) clientLeft() {
	cutOff := !t.write.body.wholly()
	t.mu.Lock()
	defer t.mu.Unlock()
	answering := t.phase == phaseAnswering && (!t.write.guarded || t.released)
	if t.write.enclosing.above != nil || answering || cutOff {
		t.ctx.cancel()
	}
}

// bodyCutOff is called when the client has not sent all of its body, before
// downstream gets to know.
func (t *tenure) bodyCutOff() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx != nil {
		t.ctx.cancel()
	}
}

// logTimedOut says that the outcome of a write is not known.
func (t *tenure) logTimedOut() {
	t.logError("canceled a write that had no answer within the hold time; its outcome is not known")
}

// logUncovered says why a write was not sent downstream though it had its lock.
func (t *tenure) logUncovered(why reason) {
	if why == reasonHold {
		t.logError("refused a write whose resource could not be read within the hold time")
	} else {
		t.logError("refused a write whose lock was lost")
	}
}

func (t *tenure) logError(message string) {
	h := t.write.handler
	h.logger.Error(message, append(requestFields(t.write.request),
		zap.String("lock", h.lockName), zap.Duration("hold", time.Duration(h.LockHold)))...)
}
