package etag

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// retryAfter is the Retry-After of a 503, in seconds.
const retryAfter = 1

// statusClientClosedRequest is what Caddy notes for a client that has left.
const statusClientClosedRequest = 499

// write is a request by an if_match method on its way through the handler.
type write struct {
	handler    *Handler
	client     http.ResponseWriter
	request    *http.Request
	next       caddyhttp.Handler
	method     string // that guards it, in upper case: not always the request's
	conditions conditions
	guarded    bool
	enclosing  enclosingWrite // for etag handlers further down
	position   *chainPosition // of a guarded write
	current    currentRepresentation
	body       *requestBody
	change     change
	sent       bool // it has gone downstream
	replaces   bool // the answer's own tag must not reach the client
	tenure     tenure
	seen       observation
}

// enclosingWrite is in the context of a write for the etag handlers further
// down the chain.
type enclosingWrite struct {
	above     *enclosingWrite
	says      bool // its preconditions, or those above, say what is replaced
	tenure    *tenure
	lock      string // the lock that it holds, by its configuration; "" if none
	exclusive bool   // that lock is
	done      atomic.Bool
}

type enclosingWriteKey struct{}

// holding returns the innermost of the enclosing writes that holds the lock of
// this configuration, nil if none does.
func (e *enclosingWrite) holding(lock string) *enclosingWrite {
	for ; e != nil; e = e.above {
		if e.lock == lock {
			return e
		}
	}
	return nil
}

// uncovered returns why a lock of these writes may have another holder; no reason
// if none may: one that was lost, or, which matters to a guarded write
// below, that was given back at the end of the hold time.
func (e *enclosingWrite) uncovered(guarded bool) reason {
	for ; e != nil; e = e.above {
		if e.lock == "" {
			continue
		}
		switch holds := e.tenure.holds(); {
		case holds && isLost(e.tenure.lock):
			return reasonLockFailed
		case !holds && guarded:
			return reasonHold
		}
	}
	return ""
}

// excludes reports whether no other write passes while these do, not even one
// without preconditions: it would beside a lock of another key, see takeLock.
func (e *enclosingWrite) excludes() bool {
	for ; e != nil; e = e.above {
		if e.exclusive && e.tenure.key == e.tenure.write.change.resource {
			return true
		}
	}
	return false
}

// guardedMethod returns the if_match method that a request is taken for, in
// upper case. Many frameworks take "put" for PUT, and a POST for the method
// that one of its fields names. Where fields name several, it is one that needs
// a precondition, if any does.
func (h *Handler) guardedMethod(r *http.Request) (method string, guarded bool) {
	method = strings.ToUpper(r.Method)
	guarded = slices.Contains(h.IfMatch, method)
	if method != http.MethodPost {
		return method, guarded
	}
	for name, lines := range r.Header {
		if !isMethodOverride(name) {
			continue
		}
		for _, line := range lines {
			override := strings.ToUpper(strings.TrimSpace(line))
			if !slices.Contains(h.IfMatch, override) {
				continue
			}
			method, guarded = override, true
			if h.requiresIfMatch(override) {
				return override, true
			}
		}
	}
	return method, guarded
}

// isMethodOverride reports whether frameworks take the value of a field for
// the method of a POST.
func isMethodOverride(name string) bool {
	switch name {
	case "X-Http-Method-Override", "X-Http-Method", "X-Method-Override":
		return true
	}
	return false
}

// serveWrite lets a write go down the chain if its preconditions hold: guarded
// ones, one at a time for each resource. Each step says whether it has answered
// the write.
func (h *Handler) serveWrite(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, method string) (err error) {
	client := r.Context()
	wr := newWrite(h, w, r, next, method)
	defer wr.observe()
	defer func() {
		wr.release()
		if err != nil { // an error route may want the body
			context.AfterFunc(client, wr.body.release)
		} else {
			wr.body.release()
		}
	}()
	for _, step := range [...]func() (done bool, err error){
		wr.requirePrecondition,
		wr.judgeBeforeBody,
		wr.readBody,
		wr.takeLock,
		wr.judge,
	} {
		if done, err := step(); done {
			return err
		}
	}
	if !wr.guarded {
		return wr.serveUnguarded()
	}
	return wr.serveGuarded()
}

func newWrite(h *Handler, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, method string) *write {
	wr := &write{handler: h, client: w, request: r, next: next, method: method}
	wr.conditions = parseConditions(r.Header)
	wr.guarded = guarded(r.Header)
	wr.enclosing.above, _ = r.Context().Value(enclosingWriteKey{}).(*enclosingWrite)
	for wr.enclosing.above != nil && wr.enclosing.above.done.Load() { // in an error route
		wr.enclosing.above = wr.enclosing.above.above
	}
	wr.enclosing.says = wr.conditions.sayWhatIsReplaced() || wr.enclosing.above != nil && wr.enclosing.above.says
	wr.enclosing.tenure = &wr.tenure
	wr.tenure.write = wr
	wr.change = h.newChange(w, r)
	wr.seen.begin(r, w)
	wr.body = newRequestBody(r, h.bodyBudget, wr.tenure.bodyCutOff)
	if wr.guarded {
		wr.position = h.chainPosition(w, r, next)
		// A cache between here and the backend must not say what is current.
		wr.position.request.Header["Cache-Control"] = []string{"no-cache"}
	}
	return wr
}

// release gives back all that the write took but its body, whatever became of
// it.
func (wr *write) release() {
	wr.enclosing.done.Store(true)
	if wr.sent {
		wr.change.forget()
	}
	wr.tenure.end()
}

// requirePrecondition refuses a write that must say what it replaces, and does
// not, neither here nor at an etag handler above; and one whose preconditions
// can't be checked.
func (wr *write) requirePrecondition() (done bool, err error) {
	switch {
	case !wr.enclosing.says && wr.handler.requiresIfMatch(wr.method):
		return true, wr.refuse(outcomeRequired, preconditionRequired(&wr.conditions))
	case wr.guarded && signsMethod(wr.request):
		return true, wr.refuse(outcomeFailed, methodSigned(&wr.conditions, wr.handler.requiresIfMatch(wr.method)))
	}
	return false, nil
}

// requiresIfMatch reports whether a method needs a precondition.
func (h *Handler) requiresIfMatch(method string) bool {
	return slices.Contains(h.RequireIfMatch, method) || slices.Contains(h.RequireIfMatch, anyMethod)
}

// judgeBeforeBody refuses a write whose preconditions are false already before
// its client, which waits for 100 (Continue), is asked for the body.
func (wr *write) judgeBeforeBody() (done bool, err error) {
	if !wr.guarded || !expectsContinue(wr.request) || wr.body.wholly() {
		return false, nil
	}
	wr.tenure.begin(noLock{}, "")
	defer wr.tenure.end()
	return wr.judge()
}

// readBody reads the body before the lock is taken, so that nobody waits for a
// client that sends slowly.
func (wr *write) readBody() (done bool, err error) {
	h := wr.handler
	if !wr.body.readsAhead(wr.request, wr.guarded, h.MaxSize) || wr.body.readAhead(h.MaxSize) {
		return false, nil
	}
	h.warnNoMemory()
	return true, wr.refuse(outcomeLockedOut, unavailable(reasonNoMemory))
}

// takeLock takes the resource's lock, exclusively for a guarded write.
func (wr *write) takeLock() (done bool, err error) {
	h, key := wr.handler, wr.change.resource
	_, hasShared := h.locker.(SharedLocker)
	exclusive := wr.guarded || !hasShared

	if above := wr.enclosing.above.holding(h.lockID); above != nil {
		if above.exclusive || !exclusive {
			wr.tenure.begin(noLock{}, key)
			return false, nil
		}
		// The shared lock above does not keep other guarded writes away, and
		// can't become an exclusive one.
		key += "\x00guarded"
	}

	lock, err := h.takeLock(wr.request.Context(), key, !exclusive)
	switch {
	case errors.Is(err, errBusy):
		return true, wr.refuse(outcomeLockedOut, unavailable(reasonBusy))
	case errors.Is(err, errLockFailed):
		return true, wr.refuse(outcomeLockedOut, unavailable(reasonLockFailed))
	case err != nil:
		return true, caddyhttp.Error(statusClientClosedRequest, err)
	}
	if _, none := lock.(noLock); !none {
		wr.enclosing.lock, wr.enclosing.exclusive = h.lockID, exclusive
	}
	wr.tenure.begin(lock, key)
	return false, nil
}

// judge reads the current representation, and answers a guarded write whose
// preconditions are false, or can't be checked.
func (wr *write) judge() (done bool, err error) {
	if !wr.guarded {
		return false, nil
	}
	wr.current = wr.position.read(wr.tenure.reading, wanted{tag: wr.conditions.needTag()}, &relay{
		client: wr.client,
		takes:  wr.relays,
		begin:  wr.beginRelay,
	})

	current := &wr.current
	var why reason
	switch {
	case current.relayed:
		return true, current.err
	case wr.request.Context().Err() != nil:
		return true, caddyhttp.Error(statusClientClosedRequest, wr.request.Context().Err())
	case wr.tenure.isOver():
		return true, wr.refuseUncovered(reasonHold)
	case wr.relays(current.status):
		wr.beginRelay()
		return true, current.err
	case current.reason == reasonNoMemory:
		return true, wr.refuse(outcomeLockedOut, unavailable(reasonNoMemory))
	case !current.exists():
		why = wr.conditions.evaluateCreate()
	case !successful(current.status):
		why = reasonUnreadable
	default:
		why = wr.conditions.evaluateWrite(current.representation, wr.handler.WeakIfMatch)
	}
	if why == "" {
		return false, nil
	}
	keepSharingFields(wr.client.Header(), current.header)
	if current.ours {
		exposeTag(wr.client.Header(), isCrossOrigin(wr.request))
	}
	return true, wr.refuse(outcomeFailed, writeFailed(why, current, &wr.conditions, wr.handler.WeakIfMatch))
}

// relays reports whether the internal GET's answer with this status goes to the
// client in the place of the write's. A resource that does not exist may be
// created, but not replaced.
func (wr *write) relays(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect,
		http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusTooManyRequests:
		return true
	case http.StatusNotFound, http.StatusGone:
		return wr.conditions.ifMatch.present()
	}
	return status >= 500
}

// beginRelay is called before the internal GET's answer goes to the client.
// Nothing will be written, and so nobody has to wait for the client to read it.
func (wr *write) beginRelay() {
	wr.tenure.giveBack()
	wr.seen.decide(outcomeBypassed, "")
	refuseBody(wr.client, wr.request)
}

// serveUnguarded lets a write without preconditions go down the chain.
func (wr *write) serveUnguarded() error {
	if done, err := wr.goDownstream(); done {
		return err
	}
	answer := watchAnswer(wr.client, wr.unguardedAnswerBegan, wr.tenure.giveBack)
	err := wr.next.ServeHTTP(answer, wr.request)
	if wr.replaces {
		delete(wr.client.Header(), http.TrailerPrefix+"Etag")
	}
	return err
}

// unguardedAnswerBegan is called with the status of the answer to a write
// without preconditions, before that is sent.
func (wr *write) unguardedAnswerBegan(status int) {
	wr.change.forget()
	wr.seen.show() // as a handler further down may have
	wr.tenure.answerBegan()
	if status == http.StatusSwitchingProtocols {
		wr.tenure.giveBack()
	}
	header := wr.client.Header()
	tagging := wr.handler.tagging(status, header)
	tagging.dropReplaced(header)
	wr.replaces = tagging.replaces
}

// serveGuarded lets a write whose preconditions hold go down the chain.
func (wr *write) serveGuarded() error {
	if done, err := wr.goDownstream(); done {
		return err
	}
	hidden := wr.forwardConditions()
	defer hidden.restore(wr.request.Header)
	answer := newWriteAnswer(wr)
	defer answer.release()
	return answer.serve()
}

// goDownstream gives the request the context of a write downstream. It refuses
// the write if its lock does not cover it any more.
func (wr *write) goDownstream() (done bool, err error) {
	client := context.WithValue(wr.request.Context(), enclosingWriteKey{}, &wr.enclosing)
	ctx, why := wr.tenure.startWriting(client)
	if why != "" {
		return true, wr.refuseUncovered(why)
	}
	setContext(wr.request, ctx)
	wr.seen.decide(outcomePassed, "")
	wr.sent = true
	wr.change.forget()
	return false, nil
}

// forwardConditions makes the preconditions that go downstream ones that
// downstream can check again: it knows its own tags, as it made them, and none
// of ours. It returns what it took away.
func (wr *write) forwardConditions() (hidden hiddenFields) {
	header, c := wr.request.Header, &wr.conditions
	if wr.current.tag.exists() && !wr.current.ours {
		if c.ifMatch.present() && !c.ifMatch.any() {
			hidden.hide(header, "If-Match")
			header["If-Match"] = []string{wr.current.tag.field}
		}
		return hidden
	}
	if !c.ifMatch.any() {
		hidden.hide(header, "If-Match")
	}
	if !c.ifNoneMatch.any() {
		hidden.hide(header, "If-None-Match")
	}
	if len(hidden) > 0 {
		hidden.hide(header, "If-Unmodified-Since")
	}
	return hidden
}

// refuse answers a write that does not go downstream, or whose outcome is not
// known. Nobody waits for its client to read that.
func (wr *write) refuse(outcome string, p problem) error {
	wr.tenure.giveBack()
	refuseBody(wr.client, wr.request)
	if outcome == outcomeTimedOut && wr.request.ProtoMajor == 1 && !wr.body.isRead() {
		wr.client.Header().Set("Connection", "close") // see stopUpload
	}
	wr.seen.decide(outcome, p.Reason)
	wr.seen.show()
	// What handlers above, or an answer that came too late, have set is not about
	// this one.
	dropRepresentationFields(wr.client.Header(), nil)
	if p.Status == http.StatusServiceUnavailable {
		wr.client.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	return wr.handler.sendProblem(wr.client, p, false)
}

// refuseUncovered answers a write that its lock does not cover any more, before
// it has gone downstream.
func (wr *write) refuseUncovered(why reason) error {
	wr.tenure.logUncovered(why)
	return wr.refuse(outcomeLockedOut, unavailable(why))
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

// stopUpload ends the wait for a client that has not sent all of its body.
// Whoever closes that body, as a transport does that is canceled, waits for the
// read that is going on, and so does net/http before it sends an answer on a
// connection that it wants to use again.
func (wr *write) stopUpload() {
	if wr.body.isRead() {
		return
	}
	_ = http.NewResponseController(wr.client).SetReadDeadline(time.Now())
}

// keepSharingFields copies the fields of the internal GET's answer without
// which a script of another origin could not see the answer to its write.
func keepSharingFields(to, from http.Header) {
	for name, lines := range from {
		if name == "Vary" || strings.HasPrefix(name, "Access-Control-") {
			to[name] = lines
		}
	}
}

// observe tells what became of a write.
func (wr *write) observe() {
	wr.seen.show() // again, as another handler further down may have
	wr.seen.count(kindWrite)
	if wr.handler.isDebugging() {
		wr.handler.logDecision(wr.request, "decided on the write", &wr.seen,
			zap.String("current_tag", wr.current.tag.field), zap.Int("internal_get_status", wr.current.status))
	}
}
