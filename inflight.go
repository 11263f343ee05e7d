package etag

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// writesInFlight are the writes of this process that are downstream. A server
// does not wait for all of them when it stops: over HTTP/2, not for one whose
// client has left.
var writesInFlight inFlight

// inFlight counts what is going on, for who waits for its end.
type inFlight struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n gets to 0, nil if nobody waits
}

func (f *inFlight) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
}

func (f *inFlight) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.n == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// wait waits until nothing is going on, or ctx ends.
func (f *inFlight) wait(ctx context.Context) error {
	f.mu.Lock()
	if f.n == 0 {
		f.mu.Unlock()
		return nil
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	idle := f.idle
	f.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitOnExit has the server that the handler belongs to wait for writes in
// flight when the process ends, within Caddy's grace period.
func (h *Handler) waitOnExit(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return
	}
	server.RegisterOnStop(func(ctx context.Context) error {
		if !caddy.Exiting() {
			return nil // they go on
		}
		if err := writesInFlight.wait(ctx); err != nil {
			h.logger.Error("stopping while writes go on, whose outcome will not be known", zap.Error(err))
		}
		return nil
	})
}
