package etag

import (
	"sync"
	"time"
)

// delay calls a response when its body has been held for too long. Its timer
// is used again for other responses, so that to hold one allocates nothing.
type delay struct {
	mu    sync.Mutex
	timer *time.Timer
	rw    *responseWriter // nil: called off
}

var delayPool sync.Pool

// startDelay has rw called after this time.
func startDelay(rw *responseWriter, after time.Duration) *delay {
	if d, pooled := delayPool.Get().(*delay); pooled {
		d.rw = rw
		d.timer.Reset(after)
		return d
	}
	d := &delay{rw: rw}
	d.timer = time.AfterFunc(after, d.fire)
	return d
}

func (d *delay) fire() {
	d.mu.Lock()
	rw := d.rw
	d.mu.Unlock()
	if rw != nil {
		rw.heldTooLong()
	}
}

// stop calls the delay off. One whose timer has fired is not used again: it
// may just be about to call.
func (d *delay) stop() {
	if d == nil {
		return
	}
	stopped := d.timer.Stop()
	d.mu.Lock()
	d.rw = nil
	d.mu.Unlock()
	if stopped {
		delayPool.Put(d)
	}
}
