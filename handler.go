package etag

import (
	"context"
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// ServeHTTP tags the response to a GET or HEAD request and evaluates the
// request's preconditions against it, and lets a write go down the chain only
// if its preconditions hold. Other requests pass.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return h.serveRead(w, r, next)
	}
	if method, guarded := h.guardedMethod(r); guarded {
		return h.serveWrite(w, r, next, method)
	}
	showNothing(r)
	if !isSafe(r.Method) && remembering.Load() > 0 {
		return h.serveChange(w, r, next)
	}
	return next.ServeHTTP(w, r)
}

// serveRead answers a request from memory, or lets it go down the chain, to a
// writer that holds and hashes the response, and then finishes the response.
//
// Finishing is not deferred: a handler that panics, as reverse_proxy does
// when its upstream dies, has not written a whole response.
func (h *Handler) serveRead(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	var asked *question
	if h.memory != nil {
		if q, ok := h.newQuestion(r); ok {
			c := parseConditions(r.Header)
			if v := h.remembered(&q, r, &c); v != nil {
				h.sendRemembered(w, r, &q, v, &c)
				return nil
			}
			miss := q // so that a hit allocates none
			asked = &miss
		}
	}

	rd := newRead(h, w, r)
	rd.question = asked
	ended := false
	defer func() {
		rd.release() // first: until then, a hold timer may change what is observed
		rd.observe(ended)
	}()

	if rd.mayAskAgain() {
		rd.position = h.chainPosition(w, r, next)
	}
	var err error
	if rd.position != nil || rd.conditions != nil {
		err = rd.serveConditional(r, next)
	} else {
		err = next.ServeHTTP(rd, r)
	}
	err = rd.finish(err)
	ended = true
	return err
}

// setContext gives the request another context in place: a copy would not do,
// since its placeholders are bound to this pointer. It must not be called once
// a request with a body has been downstream, where a transport may read from
// the request even after the handler has come to its end.
func setContext(r *http.Request, ctx context.Context) { *r = *r.WithContext(ctx) }

// isAbort reports whether a recovered value is what net/http has handlers
// panic with to give up on a response, as reverse_proxy does.
func isAbort(recovered any) bool {
	err, ok := recovered.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}
