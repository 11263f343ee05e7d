package etag

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// retryAfter is the Retry-After of a 503, in seconds.
const retryAfter = 1

// outerWrite is in the context of a write for the etag handlers further down
// the chain: one above has taken the lock, and has it until it is done.
type outerWrite struct {
	guarded bool
	done    bool
}

type outerWriteKey struct{}

// serveWrite lets a write go down the chain if its preconditions hold, one at
// a time for each resource.
func (h *Handler) serveWrite(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	seen := &observation{header: w.Header()}
	seen.show(r)
	defer h.observeWrite(r, seen)

	c := parseConditions(r.Header)
	isGuarded := guarded(r.Header)
	outer, _ := r.Context().Value(outerWriteKey{}).(*outerWrite)
	inOuter := outer != nil && !outer.done

	guardedAbove := inOuter && outer.guarded
	if !c.ifMatch.present() && !c.ifNoneMatch.present() && !guardedAbove && h.requiresIfMatch(r.Method) {
		return h.refuse(w, r, seen, outcomeRequired, preconditionRequired())
	}

	if !inOuter {
		if h.locker != nil {
			ahead := startReadAhead(r)
			defer ahead.finish(r)
			unlock, err := h.lock(r)
			ahead.stop(r)
			if errors.Is(err, errLockedOut) {
				w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
				return h.refuse(w, r, seen, outcomeLockedOut, lockedOut())
			}
			if err != nil {
				return caddyhttp.Error(statusClientClosedRequest, err)
			}
			defer unlock()
		}
		outer = &outerWrite{guarded: isGuarded}
		defer func() { outer.done = true }()
		setContext(r, context.WithValue(r.Context(), outerWriteKey{}, outer))
	}

	if !isGuarded {
		seen.decide(outcomePassed)
		return next.ServeHTTP(w, r)
	}
	return h.serveGuarded(w, r, next, c, seen)
}

// statusClientClosedRequest is what Caddy notes for a client that has left.
const statusClientClosedRequest = 499

// serveGuarded reads the current representation, and lets the write go down
// the chain if its preconditions hold.
func (h *Handler) serveGuarded(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, c conditions, seen *observation) error {
	relayed := func(status int) bool {
		switch status {
		case http.StatusNotFound, http.StatusGone:
			return !c.createOnly()
		case http.StatusUnauthorized, http.StatusForbidden:
			return true
		}
		return status >= 500
	}
	here := h.placeOf(r, next)
	cur := here.readCurrent(closing{w, r, seen}, relayed)

	switch {
	case r.Context().Err() != nil:
		return caddyhttp.Error(statusClientClosedRequest, r.Context().Err())
	case relayed(cur.status):
		if cur.err != nil {
			refuseBody(w, r)
		}
		seen.decide(outcomeBypassed)
		return cur.err
	case c.createOnly() && (cur.status == http.StatusNotFound || cur.status == http.StatusGone):
	case !successful(cur.status), c.evaluateWrite(cur.representation, h.WeakIfMatch) != proceed:
		return h.refuse(w, r, seen, outcomeFailed, preconditionFailed(cur.tag, &c))
	}

	var hidden hiddenFields
	if cur.ours || !cur.tag.exists() {
		// downstream can't know our tag
		if !c.ifMatch.any() {
			hidden.hide(r.Header, "If-Match")
		}
		if !c.ifNoneMatch.any() {
			hidden.hide(r.Header, "If-None-Match")
		}
		if len(hidden) > 0 {
			hidden.hide(r.Header, "If-Unmodified-Since")
		}
	}
	defer hidden.restore(r.Header)

	seen.decide(outcomePassed)
	if h.WriteTag == "off" || r.Method == http.MethodDelete {
		return next.ServeHTTP(w, r)
	}
	return h.serveTaggedWrite(w, r, here)
}

// serveTaggedWrite lets the write go down the chain, and gives its answer the
// tag of what is stored then.
func (h *Handler) serveTaggedWrite(w http.ResponseWriter, r *http.Request, here place) error {
	write := &taggedWrite{place: here, method: r.Method}
	if r.Method == http.MethodPut {
		write.body = &hashedReader{ReadCloser: r.Body, hash: h.algorithm.get(), eof: r.ContentLength == 0}
		r.Body = write.body
		defer func() { r.Body = write.body.ReadCloser }()
	}
	rw := newResponseWriter(h, w, r)
	rw.conditions, rw.write = nil, write
	defer rw.release()
	return rw.finish(here.next.ServeHTTP(rw, r))
}

// taggedWrite is a write whose answer is to have the new tag, if the client
// can know the new representation by it.
type taggedWrite struct {
	place  place
	method string
	body   *hashedReader // of a PUT
}

// tag returns the tag for the answer to the write, which has this content; no
// tag if there is none to give. A PUT that stored something else than it was
// sent must not have one (RFC 9110 §9.3.4), unless its answer shows what it
// stored.
func (t *taggedWrite) tag(content *heldBody) entityTag {
	stored := t.place.readStored()
	if stored.err != nil || !successful(stored.status) {
		return entityTag{}
	}
	if t.method == http.MethodPatch ||
		stored.digest != nil && (t.place.handler.contentIs(content, stored.digest) || t.body.sent(stored.digest)) {
		return stored.tag
	}
	return entityTag{}
}

// contentIs reports whether there is content, and it has this digest.
func (h *Handler) contentIs(content *heldBody, digest []byte) bool {
	if content.size == 0 {
		return false
	}
	hash := h.algorithm.get()
	defer h.algorithm.put(hash)
	content.hash(hash)
	return bytes.Equal(digest, hash.digest())
}

// hashedReader hashes a request body as it is read. Its hasher does not go
// back to the pool: a transport may read from the body even after the handler
// has come to its end.
type hashedReader struct {
	io.ReadCloser

	mu   sync.Mutex
	hash *hasher
	eof  bool
}

func (r *hashedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.hash.Write(p[:n])
	r.eof = r.eof || errors.Is(err, io.EOF)
	return n, err
}

// sent reports whether the body, which may be nil, was read to its end and
// has this digest.
func (r *hashedReader) sent(digest []byte) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.eof && bytes.Equal(digest, r.hash.digest())
}

// requiresIfMatch reports whether a method needs a precondition.
func (h *Handler) requiresIfMatch(method string) bool {
	return slices.Contains(h.RequireIfMatch, method) || slices.Contains(h.RequireIfMatch, anyMethod)
}

// refuse answers a write that does not go downstream.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, seen *observation, outcome string, p problem) error {
	refuseBody(w, r)
	seen.decide(outcome)
	return h.sendProblem(w, p, false)
}

// refuseBody makes the response final for a client that waits for 100
// (Continue) before it sends its body. In HTTP/1 the server would otherwise
// try to read that body before it sends the response, and both would wait for
// each other; a connection that is to be closed need not be read.
func refuseBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && expectsContinue(r) {
		w.Header().Set("Connection", "close")
	}
}

// expectsContinue reports whether the client waits for a 100 (Continue)
// before it sends the request's body.
func expectsContinue(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Expect"), "100-continue")
}

// closing is a client's writer for an answer that leaves the body of its
// request unread.
type closing struct {
	http.ResponseWriter
	request *http.Request
	seen    *observation
}

func (c closing) WriteHeader(status int) {
	c.seen.decide(outcomeBypassed)
	refuseBody(c.ResponseWriter, c.request)
	c.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (c closing) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// observeWrite tells what became of a write.
func (h *Handler) observeWrite(r *http.Request, seen *observation) {
	seen.show(r) // again, as another handler further down may have
	seen.count()
	if c := h.logger.Check(zapcore.DebugLevel, "decided on the write"); c != nil {
		c.Write(zap.String("method", r.Method), zap.String("uri", r.RequestURI), zap.String("outcome", seen.decided()))
	}
}
