package etag

import (
	"context"
	"sync/atomic"
	"time"
)

// writeContext is the context of a write on its way downstream. Backends go on
// with a write whose client has left, and so its lock has to cover that: this
// context does not end with the client's, but only when it is told to. When the
// write is done, it is the client's again, for handlers above and for error
// routes.
//
// It ends without a deadline and without a cause of its own, since
// reverse_proxy takes both for a failure of its upstream.
type writeContext struct {
	context.Context // the client's

	write  context.Context
	cancel context.CancelFunc
	done   atomic.Bool // the write is
}

func newWriteContext(client context.Context) *writeContext {
	c := &writeContext{Context: client}
	c.write, c.cancel = context.WithCancel(context.Background())
	return c
}

// finish makes the context the client's again.
func (c *writeContext) finish() {
	c.done.Store(true)
	// Who still waits for the write's context, such as a transport with an idle
	// connection, is let go with the request.
	context.AfterFunc(c.Context, c.cancel)
}

func (c *writeContext) current() context.Context {
	if c.done.Load() {
		return c.Context
	}
	return c.write
}

// Deadline implements context.Context.
func (c *writeContext) Deadline() (time.Time, bool) { return c.current().Deadline() }

// Done implements context.Context.
func (c *writeContext) Done() <-chan struct{} { return c.current().Done() }

// Err implements context.Context. Once the write has been canceled it says so
// for ever: whoever has waited for that may ask for the reason only when the
// write is done, and the context package panics if there is none.
func (c *writeContext) Err() error {
	if err := c.write.Err(); err != nil {
		return err
	}
	return c.current().Err()
}

// AfterFunc spares the context package a goroutine for each context that is
// derived from this one.
func (c *writeContext) AfterFunc(f func()) (stop func() bool) {
	return context.AfterFunc(c.current(), f)
}
