package etag

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// ServeHTTP tags the response to a GET or HEAD request and evaluates the
// request's preconditions against it, and lets a write go down the chain only
// if its preconditions hold. Other requests pass.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return h.serveRead(w, r, next)
	case slices.Contains(h.IfMatch, r.Method):
		return h.serveWrite(w, r, next)
	default:
		return next.ServeHTTP(w, r)
	}
}

// serveRead lets the request go down the chain, to a writer that holds and
// hashes the response, and then finishes the response.
//
// Finishing is not deferred: a handler that panics, as reverse_proxy does
// when its upstream dies, has not written a whole response.
func (h *Handler) serveRead(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rw := newResponseWriter(h, w, r)
	defer rw.release()
	rw.seen.header = w.Header()
	rw.seen.show(r)

	var err error
	if rw.head || rw.conditions != nil {
		err = h.serveConditionalRead(rw, r, next)
	} else {
		err = next.ServeHTTP(rw, r)
	}
	return rw.finish(err)
}

// serveConditionalRead calls next for a request that may be answered before
// next has come to its end: with a 304 or 412 as soon as the header of a
// response with a tag of its own is there, or a HEAD request with the header
// of a stream. What next does from then on is in vain, so its context is
// canceled.
func (h *Handler) serveConditionalRead(rw *responseWriter, r *http.Request, next caddyhttp.Handler) (err error) {
	showAgain := hideFromDownstream(r)
	rw.cutoff.cancel = func() {}
	if parent := r.Context(); r.ContentLength == 0 {
		ctx, cancel := context.WithCancel(parent)
		rw.cutoff.cancel = cancel
		setContext(r, ctx)
		defer func() {
			setContext(r, parent)
			cancel()
		}()
	}

	defer func() {
		showAgain()
		if rw.answered() {
			if p := recover(); p != nil && !isAbort(p) {
				panic(p)
			}
		}
	}()
	return next.ServeHTTP(rw, r)
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

// hideFromDownstream makes a HEAD request a GET, so that its response is the
// one that a GET would have, and takes off the preconditions that downstream
// would judge without knowing our tag. It returns a function that undoes that.
//
// If-None-Match stays: a backend that has tags of its own saves its body by
// it. If-Modified-Since stays where it is alone, since beside If-None-Match it
// is to be ignored (RFC 9110 §13.1.3).
func hideFromDownstream(r *http.Request) (restore func()) {
	method := r.Method
	var hidden hiddenFields
	hidden.hide(r.Header, "If-Match")
	hidden.hide(r.Header, "If-Unmodified-Since")
	if !tagField(r.Header["If-None-Match"]).empty() {
		hidden.hide(r.Header, "If-Modified-Since")
	}
	if r.Method == http.MethodHead {
		r.Method = http.MethodGet
		// a range is for GET alone (RFC 9110 §14.2)
		hidden.hide(r.Header, "Range")
		hidden.hide(r.Header, "If-Range")
	}
	return func() {
		r.Method = method
		hidden.restore(r.Header)
	}
}
