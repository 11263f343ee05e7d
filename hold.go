package etag

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// state is how far a response has come.
type state int

const (
	stateAwaiting state = iota // the header has not come
	stateHolding               // the body is held and hashed; nothing has been sent
	statePassing               // the header has been sent, and the body goes on as it comes
	stateAnswered              // the response has been sent, or will be an error; the body that still comes is dropped
	stateHijacked              // the connection is no longer ours
)

// holdPolicy says what becomes of a response that may be held: the response to
// a read, or the answer to a write. Its methods are called with the mutex of the
// response locked, and act by calling passOn, answerEarly, answer or
// sendComplete.
type holdPolicy interface {
	// headerCame decides by the response's status and header whether to hold
	// it. If not, it passes the response on, or answers it.
	headerCame() (hold bool)

	// bodyGrew is called after each piece of the body that is held.
	bodyGrew()

	// limitPassed passes a response on, or answers it, whose body is past the
	// limit that the reason tells.
	limitPassed(limit reason)

	// bodyComplete sends, or answers, a response whose body is held in full.
	bodyComplete()
}

// heldResponse is what downstream writes a response to that may have to be
// held. It knows how to hold: states, limits, what was held and what comes
// late. What to hold, and what for, its policy knows.
type heldResponse struct {
	client   caddyhttp.ResponseWriterWrapper // the writer that this one stands in for
	policy   holdPolicy
	handler  *Handler
	request  *http.Request
	head     bool   // the client asked with HEAD
	http1    bool   // the client speaks HTTP/1
	untimed  bool   // max_delay does not apply
	replaces bool   // the response's own tag must not reach the client
	cutoff   cutoff // of downstream, if the response can be answered early

	mu         sync.Mutex // of all below; a hold timer comes from a goroutine of its own
	state      state
	status     int
	declared   int64 // Content-Length, or -1
	received   int64 // bytes of body that came
	body       held.Body
	timed      bool // a hold timer waits for it
	holdTimer  held.Timer
	lateHeader http.Header // what downstream sets after the header, while a timer may send that
	stood      []string    // what stood in the header though it is announced as a trailer
	tee        io.Writer   // gets what is passed, if not nil
	sendErr    error       // from sending what was held
	err        error       // what to return once downstream has ended

	length [1]string // room for the value of the Content-Length field
}

func (hr *heldResponse) init(h *Handler, w http.ResponseWriter, r *http.Request, policy holdPolicy) {
	hr.handler, hr.request, hr.policy = h, r, policy
	hr.head, hr.http1 = r.Method == http.MethodHead, r.ProtoMajor == 1
	hr.client.ResponseWriter = w
	hr.body.Budget = h.readBudget
	hr.cutoff.cancel = func() {}
}

// Header returns the header map of the client's writer. While the response is
// held, and once it is answered, it returns a copy, of which only the trailers
// still count: what downstream has sent is not changed any more, and a hold
// timer may read it at any time.
func (hr *heldResponse) Header() http.Header {
	hr.mu.Lock()
	defer hr.mu.Unlock()
	switch {
	case hr.lateHeader != nil:
	case hr.state == stateHolding && hr.received == hr.declared:
		// All of the body is there, and downstream looks for where to put trailers,
		// as reverse_proxy does after each response: it changes no value in place.
		hr.lateHeader = maps.Clone(hr.client.Header())
	case hr.state == stateHolding, hr.state == stateAnswered:
		hr.lateHeader = hr.client.Header().Clone()
	}
	if hr.lateHeader != nil {
		return hr.lateHeader
	}
	return hr.client.Header()
}

// isBusy reports whether somebody is at work on the response, with the mutex
// locked: whoever that has called, such as a deferred header directive in a
// writer above, must not wait for it.
func (hr *heldResponse) isBusy() bool {
	if !hr.mu.TryLock() {
		return true
	}
	hr.mu.Unlock()
	return false
}

// writerAbove returns the writer that another one stands in for, nil if there is
// none.
func writerAbove(w http.ResponseWriter) http.ResponseWriter {
	if wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
		return wrapper.Unwrap()
	}
	return nil
}

// WriteHeader decides what becomes of the response.
func (hr *heldResponse) WriteHeader(status int) {
	hr.mu.Lock()
	defer hr.mu.Unlock()
	hr.writeHeader(status)
}

func (hr *heldResponse) writeHeader(status int) {
	if hr.state != stateAwaiting {
		return
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		hr.client.WriteHeader(status) // informational; the header is still to come
		return
	}

	hr.status = status
	hr.declared = contentLength(hr.client.Header())
	hr.stood = announcedFields(hr.client.Header())
	if !hr.policy.headerCame() {
		return
	}
	hr.state = stateHolding
	hr.body.Expected = hr.declared
	if hr.declared > hr.handler.MaxSize {
		hr.policy.limitPassed(reasonTooLarge)
		return
	}
	if hr.handler.MaxDelay > 0 && !hr.untimed {
		hr.timed = true
		hr.handler.timers.Start(&hr.holdTimer, hr)
	}
}

// stopHoldTimer calls Expire off, also if it is about to be called.
func (hr *heldResponse) stopHoldTimer() {
	if hr.timed {
		hr.timed = false
		hr.holdTimer.Stop()
	}
}

// undisturbed calls f, which changes the request, while no hold timer is at work,
// here or in a handler above: what a timer calls may look at the request, such as
// a deferred header directive with a placeholder. Here the timer has nothing
// more to wait for.
func (hr *heldResponse) undisturbed(f func()) {
	hr.mu.Lock()
	hr.stopHoldTimer()
	hr.mu.Unlock()
	for w := hr.client.ResponseWriter; w != nil; w = writerAbove(w) {
		if above, ok := w.(*read); ok {
			above.mu.Lock()
			defer above.mu.Unlock()
		}
	}
	f()
}

// Expire passes the response on: the body has been held for max_delay.
func (hr *heldResponse) Expire() {
	hr.mu.Lock()
	defer hr.mu.Unlock()
	if !hr.timed || hr.state != stateHolding {
		return
	}
	defer hr.abortOnPanic()
	hr.policy.limitPassed(reasonTooSlow)
	if hr.state == statePassing {
		_ = http.NewResponseController(&hr.client).Flush()
	}
}

// abortOnPanic keeps a panic of a writer above, in a goroutine that nobody else
// recovers, from ending the process. The response is aborted instead.
func (hr *heldResponse) abortOnPanic() {
	if p := recover(); p != nil {
		hr.state = statePassing
		hr.sendErr = fmt.Errorf("panic in a writer above: %v", p)
		hr.handler.logger.Error("sending a response that was held for max_delay panicked",
			zap.Any("panic", p), zap.StackSkip("stack", 2))
		hr.discard()
	}
}

// answerEarly sends a response that needs nothing more of downstream, which
// is still at it.
func (hr *heldResponse) answerEarly(send func()) {
	hr.answer(send)
	if hr.err == nil { // else nothing has been sent, and Caddy's error routes will
		_ = http.NewResponseController(&hr.client).Flush()
	}
	hr.cutoff.start(hr.declared - hr.received)
}

// answered reports whether the response needs nothing more of downstream.
func (hr *heldResponse) answered() bool {
	hr.mu.Lock()
	defer hr.mu.Unlock()
	return hr.state == stateAnswered
}

// answer sends a response without the body that downstream has for it.
func (hr *heldResponse) answer(send func()) {
	hr.state = stateAnswered
	hr.discard()
	send()
}

// discard gives back what is held.
func (hr *heldResponse) discard() {
	hr.stopHoldTimer()
	hr.body.Release()
}

// release gives back all that the response took, whatever became of it.
func (hr *heldResponse) release() {
	hr.mu.Lock()
	defer hr.mu.Unlock()
	hr.discard()
	hr.cutoff.stop()
	if hr.state == stateHolding {
		hr.state = stateAnswered // nothing is sent any more
	}
}

// Write takes a piece of the body.
func (hr *heldResponse) Write(p []byte) (int, error) {
	hr.mu.Lock()
	defer hr.mu.Unlock()
	hr.writeHeader(http.StatusOK)
	if hr.holdsNoContent() {
		return 0, http.ErrBodyNotAllowed
	}

	total := 0
	for hr.state == stateHolding {
		room, err := hr.room()
		if err != nil {
			return total, err
		}
		if hr.state != stateHolding {
			break
		}
		n := copy(room, p[total:])
		total += n
		if err := hr.hold(n, len(p)-total); err != nil || total == len(p) {
			return total, err
		}
	}

	n, err := hr.passBytes(p[total:])
	return total + n, err
}

// room returns where the next bytes of the body are to be held, and passes the
// response on if there is no place.
func (hr *heldResponse) room() ([]byte, error) {
	room := hr.body.Room()
	if room == nil {
		hr.handler.warnNoMemory()
		hr.policy.limitPassed(reasonNoMemory)
	}
	return room, hr.sendErr
}

// hold makes n bytes a part of the body that are in its room already. It
// passes the response on if, with more bytes that are there to come, the body
// is too large.
func (hr *heldResponse) hold(n, more int) error {
	hr.received += int64(n)
	hr.body.Grow(n)
	hr.policy.bodyGrew()
	size := hr.received + int64(more)
	switch {
	case hr.declared >= 0 && size > hr.declared:
		hr.received = size // the response is broken, and finish must see it
		return http.ErrContentLength
	case size > hr.handler.MaxSize:
		hr.policy.limitPassed(reasonTooLarge)
	}
	return hr.sendErr
}

// passBytes takes bytes of a body that is not held.
func (hr *heldResponse) passBytes(p []byte) (int, error) {
	if hr.state == stateAnswered {
		return hr.cutoff.drain(len(p))
	}
	if hr.sendErr != nil {
		return 0, hr.sendErr
	}
	n, err := hr.client.Write(p)
	hr.received += int64(n)
	if hr.tee != nil {
		_, _ = hr.tee.Write(p[:n])
	}
	return n, err
}

// ReadFrom takes the body from a reader. It saves a copy where the body is
// held, and lets the client's writer do what it can, such as sendfile, where
// it is not.
func (hr *heldResponse) ReadFrom(r io.Reader) (int64, error) {
	hr.WriteHeader(http.StatusOK)
	total, err := hr.holdFrom(r)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return total, err
	}

	if !hr.canReadFrom() {
		n, err := io.Copy(writerOnly{hr}, r)
		return total + n, err
	}
	n, err := hr.client.ReadFrom(r)
	hr.mu.Lock()
	hr.received += n
	hr.mu.Unlock()
	return total + n, err
}

// holdsNoContent reports whether the response that is held is one without
// content, such as a 204. What a handler writes for it goes nowhere, as net/http
// has it: Caddy's respond is such a handler.
func (hr *heldResponse) holdsNoContent() bool {
	return hr.state == stateHolding && !mayHaveContent(hr.status)
}

// canReadFrom reports whether the body may go to the client without being seen
// here.
func (hr *heldResponse) canReadFrom() bool {
	hr.mu.Lock()
	defer hr.mu.Unlock()
	return hr.state == statePassing && hr.tee == nil && hr.sendErr == nil
}

// holdFrom reads the body for as long as it is held, right to where it is
// held. It does not keep a delay waiting while it waits for the reader.
func (hr *heldResponse) holdFrom(r io.Reader) (total int64, err error) {
	hr.mu.Lock()
	defer hr.mu.Unlock()
	if hr.holdsNoContent() {
		return 0, http.ErrBodyNotAllowed
	}
	for hr.state == stateHolding && err == nil {
		var room []byte
		if room, err = hr.room(); err != nil || hr.state != stateHolding {
			return total, err
		}
		// one byte more than may be held tells that there is more
		room = room[:min(int64(len(room)), hr.handler.MaxSize-hr.received+1)]

		hr.body.Pin()
		hr.mu.Unlock()
		n, readErr := r.Read(room)
		hr.mu.Lock()
		hr.body.Unpin()

		if n > 0 && hr.state == stateHolding {
			err = hr.hold(n, 0)
		} else if n > 0 {
			_, err = hr.passBytes(room[:n])
		}
		total += int64(n)
		if err == nil {
			err = readErr
		}
	}
	return total, err
}

// writerOnly hides all but Write from io.Copy.
type writerOnly struct{ io.Writer }

// FlushError flushes what is passed on. A response that is held isn't sent
// for a flush, see mayHold.
func (hr *heldResponse) FlushError() error {
	hr.mu.Lock()
	defer hr.mu.Unlock()
	hr.writeHeader(http.StatusOK)
	if hr.state != statePassing {
		return nil
	}
	return http.NewResponseController(&hr.client).Flush()
}

// Hijack hands the client's connection to downstream.
func (hr *heldResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(&hr.client).Hijack()
	if err == nil {
		hr.mu.Lock()
		defer hr.mu.Unlock()
		hr.state = stateHijacked
		hr.discard()
	}
	return conn, buf, err
}

// Push implements http.Pusher.
func (hr *heldResponse) Push(target string, opts *http.PushOptions) error {
	return hr.client.Push(target, opts)
}

// Unwrap is for http.ResponseController.
func (hr *heldResponse) Unwrap() http.ResponseWriter { return hr.client.ResponseWriter }

// finish completes the response once downstream has come to its end, with err.
func (hr *heldResponse) finish(err error) error {
	hr.mu.Lock()
	defer hr.mu.Unlock()
	hr.stopHoldTimer()
	if hr.state != stateAnswered {
		hr.takeLateTrailers()
	}
	if hr.replaces {
		delete(hr.client.Header(), http.TrailerPrefix+"Etag")
	}

	if hr.state == stateHolding {
		switch {
		case err != nil:
			hr.reset()
		case hr.declared >= 0 && hr.received != hr.declared && mayHaveContent(hr.status):
			err = caddyhttp.Error(http.StatusBadGateway, hr.wrongLength())
			hr.reset()
		default:
			hr.policy.bodyComplete()
		}
	}

	switch hr.state {
	case stateAnswered:
		// how downstream took being cut off is of no interest
		if err != nil {
			hr.log("ignoring the error of a handler whose response is answered", zap.Error(err))
		}
		err = hr.err

	case statePassing:
		if err == nil && hr.endsShort() {
			err = hr.wrongLength()
		}
		switch whole := hr.received == hr.declared; {
		case hr.sendErr != nil:
			hr.log("aborting the response: what was held of it could not be sent", zap.Error(hr.sendErr))
			panic(http.ErrAbortHandler)
		case err != nil && !whole:
			// The client must not take for whole what it got of the body.
			hr.handler.logger.Error("aborting the response: its handler failed after a part of it was sent",
				append(requestFields(hr.request), zap.Error(err))...)
			panic(http.ErrAbortHandler)
		}

	default:
		// nothing has been sent, or the connection is another protocol's
	}

	return err
}

// endsShort reports whether less of the body has come than its Content-Length
// said. The client would not notice where that has been taken off since, for a
// trailer or by an encoder above.
func (hr *heldResponse) endsShort() bool {
	return hr.received < hr.declared && mayHaveContent(hr.status) &&
		contentLength(hr.client.Header()) != hr.declared && hr.request.Context().Err() == nil
}

func (hr *heldResponse) wrongLength() error {
	return fmt.Errorf("reading the response: got %d bytes of body where Content-Length is %d", hr.received, hr.declared)
}

// takeLateTrailers moves trailers to where the client's writer looks for them.
func (hr *heldResponse) takeLateTrailers() {
	header := hr.client.Header()
	for _, trailer := range takeTrailers(hr.lateHeader, hr.stood) {
		header[trailer.name] = trailer.lines
	}
	hr.lateHeader = nil
}

// reset forgets a held response that ended in an error, so that an error page
// can take its place.
func (hr *heldResponse) reset() {
	hr.discard()
	hr.state = stateAwaiting
	dropRepresentationFields(hr.client.Header(), hr.stood)
}

// sendComplete sends a response whose body is held in full.
func (hr *heldResponse) sendComplete() {
	header := hr.client.Header()
	hr.sniffType()
	trailers := takeTrailers(header, hr.stood)
	switch {
	case !mayHaveContent(hr.status), hr.http1 && (len(trailers) > 0 || announcesTrailers(header)):
		// A 204 must have none (RFC 9110 §8.6), whatever the backend says; and in
		// HTTP/1.1 only chunked responses have trailers.
		delete(header, "Content-Length")
	case hr.declared < 0:
		hr.length[0] = strconv.FormatInt(hr.received, 10)
		header["Content-Length"] = hr.length[:]
	}
	if hr.head {
		hr.answer(hr.sendHeader)
		return
	}
	hr.send(trailers)
}

// sniffType sets the Content-Type that net/http would, which sees no body of
// a HEAD request.
func (hr *heldResponse) sniffType() {
	header := hr.client.Header()
	if _, has := header["Content-Type"]; !has && header.Get("Content-Encoding") == "" && hr.body.Size() > 0 {
		header["Content-Type"] = []string{http.DetectContentType(hr.body.Head())}
	}
}

// passOn lets the body go on as it comes, behind what is held of it.
func (hr *heldResponse) passOn() {
	hr.sniffType()
	if hr.head {
		hr.answerEarly(hr.sendHeader)
		return
	}
	hr.send(takeTrailers(hr.client.Header(), hr.stood))
}

// sendHeader sends the header alone.
func (hr *heldResponse) sendHeader() {
	takeTrailers(hr.client.Header(), hr.stood)
	hr.client.WriteHeader(hr.status)
}

// send sends the header and what is held of the body. The trailers are those
// whose values are known by now; they have been kept from the header section.
func (hr *heldResponse) send(trailers []field) {
	hr.state = statePassing
	hr.stopHoldTimer()
	hr.client.WriteHeader(hr.status)
	_, hr.sendErr = hr.body.WriteTo(&hr.client)
	if len(trailers) > 0 {
		// net/http must not take this for the whole response and give it a length
		_ = http.NewResponseController(&hr.client).Flush()
		header := hr.client.Header() // another one, if a handler above holds that
		for _, trailer := range trailers {
			header[trailer.name] = trailer.lines
		}
	}
}

// log logs at debug, with what tells the request.
func (hr *heldResponse) log(message string, fields ...zap.Field) {
	if c := hr.handler.logger.Check(zapcore.DebugLevel, message); c != nil {
		c.Write(append(requestFields(hr.request), fields...)...)
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*heldResponse)(nil)
	_ http.Pusher         = (*heldResponse)(nil)
	_ http.Hijacker       = (*heldResponse)(nil)
	_ io.ReaderFrom       = (*heldResponse)(nil)
)
