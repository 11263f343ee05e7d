package etag

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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

// responseWriter is what downstream writes a response to that is to be tagged,
// and compared with the preconditions of its request.
type responseWriter struct {
	client caddyhttp.ResponseWriterWrapper // the writer that this one stands in for

	handler    *Handler
	request    *http.Request
	head       bool         // the client asked with HEAD
	conditions *conditions  // nil if the request has none
	write      *taggedWrite // the write that this answers, nil for a read
	cutoff     cutoff       // of downstream, if the response can be answered early

	mu       sync.Mutex // of all below; a delay comes from a goroutine of its own
	state    state
	status   int
	kept     entityTag // the response's own tag, if it is kept
	declared int64     // Content-Length, or -1
	received int64     // bytes of body that came
	body     heldBody
	hash     bodyHash
	delayed  bool // while holding, it is in the queue of those that may be held for too long
	delay    delay
	late     http.Header // what downstream sets after the header, while a delay may send that
	trailer  *hasher     // of a body that is passed and tagged in a trailer
	sendErr  error       // from sending what was held
	err      error       // what to return once downstream has ended
	outcome  string      // of a read
	seen     observation // of a read

	values [2]string // room for the values of the ETag and Content-Length fields
}

func newResponseWriter(h *Handler, w http.ResponseWriter, r *http.Request) *responseWriter {
	rw := &responseWriter{
		handler: h,
		request: r,
		head:    r.Method == http.MethodHead,
		client:  caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		body:    heldBody{budget: h.budget},
		hash:    bodyHash{handler: h},
	}
	if hasConditions(r.Header) {
		c := parseConditions(r.Header)
		rw.conditions = &c
	}
	return rw
}

// hasConditions reports whether a request has preconditions.
func hasConditions(header http.Header) bool {
	return header["If-None-Match"] != nil || header["If-Match"] != nil ||
		header["If-Modified-Since"] != nil || header["If-Unmodified-Since"] != nil
}

// Header returns the header map of the client's writer; or, while a delay may
// read that at any time, and when the response is answered, a copy, of which
// only the trailers may still count.
func (rw *responseWriter) Header() http.Header {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if rw.delayed && rw.received == rw.declared {
		// All of the body is there, and downstream, which looks for where to
		// put trailers, is about to end: the copy can be spared.
		rw.stopDelay()
	}
	if rw.late == nil && (rw.delayed || rw.state == stateAnswered) {
		rw.late = rw.client.Header().Clone()
	}
	if rw.late != nil {
		return rw.late
	}
	return rw.client.Header()
}

// WriteHeader decides what becomes of the response.
func (rw *responseWriter) WriteHeader(status int) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	rw.writeHeader(status)
}

func (rw *responseWriter) writeHeader(status int) {
	if rw.state != stateAwaiting {
		return
	}
	if status == http.StatusSwitchingProtocols {
		rw.outcome = outcomeBypassed
		rw.state = statePassing
		rw.sendStatus(status)
		return
	}
	if status < 200 {
		rw.client.WriteHeader(status) // informational; the header is still to come
		return
	}

	rw.status = status
	header := rw.client.Header()
	rw.declared = contentLength(header)
	rw.kept = rw.handler.keptTag(status, header)

	if rw.kept.exists() || !rw.taggable(status, header) {
		rw.pass()
		return
	}
	rw.state = stateHolding
	if rw.declared > rw.handler.MaxSize {
		rw.passOversize()
		return
	}
	if rw.handler.MaxDelay > 0 {
		rw.delayed = true
		rw.handler.delays.start(&rw.delay, rw)
	}
}

// taggable reports whether the response is one to hold and tag.
func (rw *responseWriter) taggable(status int, header http.Header) bool {
	if rw.write != nil {
		return successful(status) && mayHold(status, header)
	}
	return rw.handler.taggable(status, header)
}

// keptTag returns the tag that a response goes out with because it has one of
// its own. With `existing replace`, that is a response that gets none of ours.
func (h *Handler) keptTag(status int, header http.Header) entityTag {
	own := responseTag(header)
	if own.exists() && h.Existing == "replace" && h.taggable(status, header) {
		return entityTag{}
	}
	return own
}

// taggable reports whether a response is one that gets a tag of ours.
func (h *Handler) taggable(status int, header http.Header) bool {
	return mayHold(status, header) && mayStore(header) && h.Matcher.Match(status, header)
}

// contentLength returns the Content-Length of a response, or -1 if it has
// none or an invalid one.
func contentLength(header http.Header) int64 {
	lines := header["Content-Length"]
	if len(lines) != 1 {
		return -1
	}
	n, err := strconv.ParseInt(lines[0], 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// passOversize passes a response on that is past a limit. With `oversize
// trailer`, its body is hashed on its way, for a tag in a trailer.
func (rw *responseWriter) passOversize() {
	header := rw.client.Header()
	if rw.handler.Oversize == "trailer" && rw.write == nil && takesTrailers(rw.request) {
		rw.hash.form = rw.handler.normalizer.formOf(header, rw.body.head())
		rw.trailer = rw.hash.stream(&rw.body)
		delete(header, "Etag") // an invalid one, or one to be replaced
		header.Add("Trailer", "ETag")
		if rw.request.ProtoMajor == 1 {
			delete(header, "Content-Length") // in HTTP/1.1 only chunked responses have trailers
		}
	} else {
		rw.kept = responseTag(header) // which it keeps, now that it is not to be replaced
	}
	rw.pass()
	if rw.state != statePassing && rw.trailer != nil {
		rw.handler.algorithm.put(rw.trailer)
		rw.trailer = nil
	}
}

// takesTrailers reports whether the client has said that it wants trailers
// (RFC 9110 §6.5.1, §10.1.4).
func takesTrailers(r *http.Request) bool {
	return r.ProtoAtLeast(1, 1) && httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers")
}

// stopDelay calls heldTooLong off, also if it is about to be called.
func (rw *responseWriter) stopDelay() {
	if rw.delayed {
		rw.delayed = false
		rw.handler.delays.stop(&rw.delay)
	}
}

// heldTooLong passes the response on: the body has been held for max_delay.
func (rw *responseWriter) heldTooLong() {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if !rw.delayed || rw.state != stateHolding {
		return
	}
	rw.passOversize()
	if rw.state == statePassing {
		_ = http.NewResponseController(&rw.client).Flush()
	}
}

// pass sends the response's header, or what its preconditions make of it, and
// what has been held of its body. The rest of the body goes on as it comes.
func (rw *responseWriter) pass() {
	header := rw.client.Header()
	rw.outcome = outcomeBypassed
	if rw.kept.exists() && successful(rw.status) {
		rw.outcome = outcomeKept
	}

	// A 304 from downstream would be a 200 without If-None-Match, which
	// downstream has seen and If-Match, which it hasn't, precedes.
	if rw.status == http.StatusNotModified {
		rw.outcome = outcomeNotModified
	}
	if rw.conditions != nil && (successful(rw.status) || rw.status == http.StatusNotModified) {
		verdict := rw.conditions.evaluateRead(representation{
			tag:          rw.kept,
			lastModified: parseDate(header["Last-Modified"]),
		})
		switch {
		case verdict == failed:
			rw.answerEarly(rw.sendFailed)
			return
		case verdict == notModified && successful(rw.status):
			rw.answerEarly(rw.sendNotModified)
			return
		}
	}

	rw.sniffType()
	if rw.head {
		rw.answerEarly(rw.sendHeader)
		return
	}
	rw.state = statePassing
	rw.sendHeld()
}

func successful(status int) bool { return status >= 200 && status <= 299 }

// answerEarly sends a response that needs nothing more of downstream, which
// is still at it.
func (rw *responseWriter) answerEarly(send func()) {
	rw.answer(send)
	if rw.err == nil { // else nothing has been sent, and Caddy's error routes will
		_ = http.NewResponseController(&rw.client).Flush()
	}
	rw.cutoff.start(rw.declared - rw.received)
}

// answered reports whether the response needs nothing more of downstream.
func (rw *responseWriter) answered() bool {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	return rw.state == stateAnswered
}

// answer sends a response without the body that downstream has for it.
func (rw *responseWriter) answer(send func()) {
	rw.state = stateAnswered
	rw.discard()
	send()
}

// discard gives back what is held.
func (rw *responseWriter) discard() {
	rw.stopDelay()
	rw.body.release()
	rw.hash.release()
}

// release gives back all that the response took, whatever became of it.
func (rw *responseWriter) release() {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	rw.discard()
	rw.cutoff.stop()
	if rw.trailer != nil {
		rw.handler.algorithm.put(rw.trailer)
		rw.trailer = nil
	}
	if rw.state == stateHolding {
		rw.state = stateAnswered // nothing is sent any more
	}
}

// Write takes a piece of the body.
func (rw *responseWriter) Write(p []byte) (int, error) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	rw.writeHeader(http.StatusOK)

	total := 0
	for rw.state == stateHolding {
		room, err := rw.room()
		if err != nil {
			return total, err
		}
		if rw.state != stateHolding {
			break
		}
		n := copy(room, p[total:])
		total += n
		if err := rw.hold(n, len(p)-total); err != nil || total == len(p) {
			return total, err
		}
	}

	n, err := rw.passBytes(p[total:])
	return total + n, err
}

// room returns where the next bytes of the body are to be held, and passes the
// response on if there is no place.
func (rw *responseWriter) room() ([]byte, error) {
	room := rw.body.room()
	if room == nil {
		rw.passOversize()
	}
	return room, rw.sendErr
}

// hold makes n bytes a part of the body that are in its room already. It
// passes the response on if, with more bytes that are there to come, the body
// is too large.
func (rw *responseWriter) hold(n, more int) error {
	rw.received += int64(n)
	if full := rw.body.grow(n); full != nil && rw.write == nil {
		rw.hash.block(full, rw.declared, rw.client.Header())
	}
	size := rw.received + int64(more)
	switch {
	case rw.declared >= 0 && size > rw.declared:
		rw.received = size // the response is broken, and finish must see it
		return http.ErrContentLength
	case size > rw.handler.MaxSize:
		rw.passOversize()
	}
	return rw.sendErr
}

// passBytes takes bytes of a body that is not held.
func (rw *responseWriter) passBytes(p []byte) (int, error) {
	if rw.state == stateAnswered {
		return rw.cutoff.drain(len(p))
	}
	if rw.sendErr != nil {
		return 0, rw.sendErr
	}
	n, err := rw.client.Write(p)
	rw.received += int64(n)
	if rw.trailer != nil {
		_, _ = rw.trailer.Write(p[:n])
	}
	return n, err
}

// ReadFrom takes the body from a reader. It saves a copy where the body is
// held, and lets the client's writer do what it can, such as sendfile, where
// it is not.
func (rw *responseWriter) ReadFrom(r io.Reader) (int64, error) {
	rw.WriteHeader(http.StatusOK)
	total, err := rw.holdFrom(r)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return total, err
	}

	if !rw.passesPlainly() {
		n, err := io.Copy(writerOnly{rw}, r)
		return total + n, err
	}
	n, err := rw.client.ReadFrom(r)
	rw.mu.Lock()
	rw.received += n
	rw.mu.Unlock()
	return total + n, err
}

// passesPlainly reports whether the body can go to the client unseen.
func (rw *responseWriter) passesPlainly() bool {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	return rw.state == statePassing && rw.trailer == nil && rw.sendErr == nil
}

// holdFrom reads the body for as long as it is held, right to where it is
// held. It does not keep a delay waiting while it waits for the reader.
func (rw *responseWriter) holdFrom(r io.Reader) (total int64, err error) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	for rw.state == stateHolding && err == nil {
		var room []byte
		if room, err = rw.room(); err != nil || rw.state != stateHolding {
			return total, err
		}
		// one byte more than may be held tells that there is more
		room = room[:min(int64(len(room)), rw.handler.MaxSize-rw.received+1)]

		rw.body.pinned = rw.body.last
		rw.mu.Unlock()
		n, readErr := r.Read(room)
		rw.mu.Lock()
		rw.body.pinned = nil

		if n > 0 && rw.state == stateHolding {
			err = rw.hold(n, 0)
		} else if n > 0 {
			_, err = rw.passBytes(room[:n])
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
func (rw *responseWriter) FlushError() error {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	rw.writeHeader(http.StatusOK)
	if rw.state != statePassing {
		return nil
	}
	return http.NewResponseController(&rw.client).Flush()
}

// Hijack hands the client's connection to downstream.
func (rw *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(&rw.client).Hijack()
	if err == nil {
		rw.mu.Lock()
		defer rw.mu.Unlock()
		rw.state = stateHijacked
		rw.outcome = outcomeBypassed
		rw.discard()
	}
	return conn, buf, err
}

// Push implements http.Pusher.
func (rw *responseWriter) Push(target string, opts *http.PushOptions) error {
	return rw.client.Push(target, opts)
}

// Unwrap is for http.ResponseController.
func (rw *responseWriter) Unwrap() http.ResponseWriter { return rw.client.ResponseWriter }

// finish completes the response once downstream has come to its end, with err.
func (rw *responseWriter) finish(err error) error {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	rw.stopDelay()
	if rw.state != stateAnswered {
		rw.takeLateTrailers()
	}

	if rw.write == nil {
		defer func() {
			rw.seen.decide(rw.outcome)
			rw.seen.show(rw.request) // again, as another handler further down may have
			rw.seen.count()
		}()
	}
	if rw.state == stateHolding {
		switch {
		case err != nil:
			rw.reset()
		case rw.declared >= 0 && rw.received != rw.declared:
			err = caddyhttp.Error(http.StatusBadGateway,
				fmt.Errorf("reading the response: got %d bytes of body where Content-Length is %d", rw.received, rw.declared))
			rw.reset()
		default:
			rw.tagHeld()
		}
	}

	switch rw.state {
	case stateAnswered:
		// how downstream took being cut off is of no interest
		if err != nil {
			rw.log("ignoring the error of a handler whose response is answered", zap.Error(err))
		}
		err = rw.err

	case statePassing:
		switch whole := rw.received == rw.declared; {
		case rw.sendErr != nil:
			rw.log("aborting the response: what was held of it could not be sent", zap.Error(rw.sendErr))
			panic(http.ErrAbortHandler)
		case err != nil && !whole:
			// The client must not take for whole what it got of the body.
			rw.handler.logger.Error("aborting the response: its handler failed after a part of it was sent", zap.Error(err))
			panic(http.ErrAbortHandler)
		case err == nil && rw.trailer != nil && (whole || rw.declared < 0):
			rw.sendTrailer()
		}
	}

	if rw.handler.logger.Core().Enabled(zapcore.DebugLevel) { // else the fields cost an allocation
		rw.log("finished the response", zap.String("outcome", rw.outcome), zap.Int("status", rw.status))
	}
	return err
}

// takeLateTrailers moves trailers to where the client's writer looks for them.
func (rw *responseWriter) takeLateTrailers() {
	header := rw.client.Header()
	for _, trailer := range takeTrailers(rw.late) {
		header[trailer.name] = trailer.lines
	}
	rw.late = nil
}

// sendTrailer makes the tag of a body that has passed, and its trailer. It is
// weak if the body may have been compressed on its way, since an encoder in
// front adds no suffix to a trailer. A body that would have been normalized,
// had it been held, gets none: it would be another one than the next read's.
func (rw *responseWriter) sendTrailer() {
	h := rw.handler
	if rw.hash.form != formBytes && rw.received <= h.MaxSize {
		return
	}
	accepted := rw.request.Header.Get("Accept-Encoding")
	weak := h.weak || accepted != "" && accepted != "identity"
	tag := makeTag(rw.trailer.digits(h.Length), h.version(rw.request), weak)
	rw.client.Header()["Etag"] = []string{tag.field}
	rw.outcome = outcomeTagged
}

// reset forgets a held response that ended in an error, so that an error page
// can take its place.
func (rw *responseWriter) reset() {
	rw.discard()
	rw.state = stateAwaiting
	rw.outcome = outcomeBypassed
	dropRepresentationFields(rw.client.Header())
}

// tagHeld tags a response whose body is held in full, evaluates the
// preconditions, and sends what they make of it.
func (rw *responseWriter) tagHeld() {
	if rw.write != nil {
		if tag := rw.write.tag(&rw.body); tag.exists() {
			rw.client.Header().Set("ETag", tag.field)
		}
		rw.finishHeld()
		return
	}

	h, header := rw.handler, rw.client.Header()
	tag := makeTag(rw.hash.digits(&rw.body, header), h.version(rw.request), h.weak)
	rw.values[0] = tag.field
	header["Etag"] = rw.values[0:1:1]
	if h.CacheControl != "" && len(header["Cache-Control"]) == 0 {
		header["Cache-Control"] = []string{h.CacheControl}
	}

	rw.outcome = outcomeTagged
	if rw.conditions != nil && successful(rw.status) {
		switch rw.conditions.evaluateRead(representation{
			tag:          tag,
			ours:         true,
			lastModified: parseDate(header["Last-Modified"]),
		}) {
		case failed:
			rw.answer(rw.sendFailed)
			return
		case notModified:
			rw.answer(rw.sendNotModified)
			return
		}
	}
	rw.finishHeld()
}

// finishHeld sends a response whose body is held in full.
func (rw *responseWriter) finishHeld() {
	header := rw.client.Header()
	rw.sniffType()
	if hasTrailers(header) && rw.request.ProtoMajor == 1 {
		// in HTTP/1.1 only chunked responses have trailers
		delete(header, "Content-Length")
	} else if rw.declared < 0 {
		rw.values[1] = strconv.FormatInt(rw.received, 10)
		header["Content-Length"] = rw.values[1:2:2]
	}
	if rw.head {
		rw.answer(rw.sendHeader)
		return
	}
	rw.state = statePassing
	rw.sendHeld()
}

// sniffType sets the Content-Type that net/http would, which sees no body of
// a HEAD request.
func (rw *responseWriter) sniffType() {
	header := rw.client.Header()
	if _, has := header["Content-Type"]; !has && header.Get("Content-Encoding") == "" && rw.body.size > 0 {
		header["Content-Type"] = []string{http.DetectContentType(rw.body.head())}
	}
}

// sendStatus sends the header, now that the outcome is known, which fields may
// tell that are set when it is sent.
func (rw *responseWriter) sendStatus(status int) {
	if rw.write == nil {
		rw.seen.decide(rw.outcome)
	}
	rw.client.WriteHeader(status)
}

// sendHeader sends the header alone.
func (rw *responseWriter) sendHeader() {
	takeTrailers(rw.client.Header())
	rw.sendStatus(rw.status)
}

// sendHeld sends the header and what is held of the body. Trailers whose
// values are known by now are kept from the header section.
func (rw *responseWriter) sendHeld() {
	rw.stopDelay()
	header := rw.client.Header()
	trailers := takeTrailers(header)
	rw.sendStatus(rw.status)
	rw.sendErr = rw.body.writeTo(&rw.client)
	if len(trailers) > 0 {
		// net/http must not take this for the whole response and give it a length
		_ = http.NewResponseController(&rw.client).Flush()
		for _, trailer := range trailers {
			header[trailer.name] = trailer.lines
		}
	}
}

// sendNotModified sends a 304.
func (rw *responseWriter) sendNotModified() {
	rw.outcome = outcomeNotModified
	rw.status = http.StatusNotModified
	if !rw.head {
		countSaved(max(rw.declared, rw.received))
	}
	header := rw.client.Header()
	dropBodyFields(header)
	dropTrailers(header)
	if len(header["Etag"]) > 0 {
		delete(header, "Last-Modified") // as ServeContent has it
	}
	rw.sendStatus(rw.status)
}

// sendFailed sends a 412.
func (rw *responseWriter) sendFailed() {
	rw.outcome = outcomeFailed
	rw.status = http.StatusPreconditionFailed
	header := rw.client.Header()
	tag := responseTag(header)
	dropRepresentationFields(header)
	rw.seen.decide(rw.outcome)
	rw.err = rw.handler.sendProblem(&rw.client, preconditionFailed(tag, rw.conditions), rw.head)
}

// log logs at debug, with the request's method and URI.
func (rw *responseWriter) log(message string, fields ...zap.Field) {
	if c := rw.handler.logger.Check(zapcore.DebugLevel, message); c != nil {
		c.Write(append(fields, zap.String("method", rw.request.Method), zap.String("uri", rw.request.RequestURI))...)
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*responseWriter)(nil)
	_ http.Pusher         = (*responseWriter)(nil)
	_ http.Hijacker       = (*responseWriter)(nil)
	_ io.ReaderFrom       = (*responseWriter)(nil)
)
