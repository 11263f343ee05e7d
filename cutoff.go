package etag

import (
	"context"
	"errors"
	"time"
)

// A response that is settled before its body has come is drained for as much
// and as long as this, so that the backend's connection can be used again;
// then the handler downstream is cut off.
const (
	drainBytes = 1 << 20
	drainTime  = 100 * time.Millisecond
)

// errNotWanted is what downstream gets for writing a body that nobody wants.
var errNotWanted = errors.New("etag: the response is settled without this body")

// cutoff ends a handler that writes a body that nobody wants.
type cutoff struct {
	cancel  context.CancelFunc // of the handler's request
	timer   *time.Timer
	drained int64
}

// start begins to drain a body of which rest bytes are to come, a negative
// number if that is not known. If it is known to be too much, the handler is
// cut off at once.
func (c *cutoff) start(rest int64) {
	if rest > drainBytes {
		c.cancel()
		return
	}
	c.timer = time.AfterFunc(drainTime, c.cancel)
}

// now cuts the handler off without draining anything.
func (c *cutoff) now() {
	c.drained = drainBytes
	c.cancel()
}

// drain takes n bytes.
func (c *cutoff) drain(n int) (int, error) {
	c.drained += int64(n)
	if c.drained > drainBytes {
		c.cancel()
		return 0, errNotWanted
	}
	return n, nil
}

// stop gives back the timer.
func (c *cutoff) stop() {
	if c.timer != nil {
		c.timer.Stop()
	}
}
