package etag

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

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

// responseWriter is what downstream writes the response to a read to.
type responseWriter struct {
	*caddyhttp.ResponseWriterWrapper // of the client's writer

	handler    *Handler
	request    *http.Request
	head       bool         // the client asked with HEAD
	conditions *conditions  // nil if the request has none
	write      *taggedWrite // the write that this answers, nil for a read
	cutoff     cutoff       // of downstream, if the response can be answered early

	state    state
	status   int
	kept     entityTag // the response's own tag, if it is kept
	declared int64     // Content-Length, or -1
	received int64     // bytes of body that came
	hash     *hasher   // while holding
	body     heldBody
	err      error  // what to return once downstream has ended
	outcome  string // for the log

	wrapper caddyhttp.ResponseWriterWrapper
	values  [2]string // room for the values of the ETag and Content-Length fields
}

func newResponseWriter(h *Handler, w http.ResponseWriter, r *http.Request) *responseWriter {
	rw := &responseWriter{
		handler: h,
		request: r,
		head:    r.Method == http.MethodHead,
		wrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
	}
	rw.ResponseWriterWrapper = &rw.wrapper
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

// WriteHeader decides what becomes of the response.
func (rw *responseWriter) WriteHeader(status int) {
	if rw.state != stateAwaiting {
		return
	}
	if status == http.StatusSwitchingProtocols {
		rw.outcome = outcomeBypassed
		rw.state = statePassing
		rw.wrapper.WriteHeader(status)
		return
	}
	if status < 200 {
		rw.wrapper.WriteHeader(status) // informational; the header is still to come
		return
	}

	rw.status = status
	header := rw.Header()
	rw.declared = contentLength(header)
	rw.kept = rw.handler.keptTag(status, header)

	if !rw.kept.exists() && rw.taggable(status, header) && rw.declared <= rw.handler.MaxSize {
		rw.hash = rw.handler.algorithm.get()
		rw.state = stateHolding
		return
	}
	rw.pass()
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

// pass sends the response's header, or what its preconditions make of it, and
// what has been held of its body. The rest of the body goes on as it comes.
func (rw *responseWriter) pass() {
	header := rw.Header()
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
	_ = http.NewResponseController(&rw.wrapper).Flush()
	rw.cutoff.start(rw.declared - rw.received)
}

// answer sends a response without the body that downstream has for it.
func (rw *responseWriter) answer(send func()) {
	rw.state = stateAnswered
	rw.discard()
	send()
}

// discard gives back what is held.
func (rw *responseWriter) discard() {
	rw.body.release()
	if rw.hash != nil {
		rw.handler.algorithm.put(rw.hash)
		rw.hash = nil
	}
}

// release gives back all that the response took, whatever became of it.
func (rw *responseWriter) release() {
	rw.discard()
	rw.cutoff.stop()
}

// Write takes a piece of the body.
func (rw *responseWriter) Write(p []byte) (int, error) {
	if rw.state == stateAwaiting {
		rw.WriteHeader(http.StatusOK)
	}
	switch rw.state {
	case stateHolding:
		if err := rw.accept(len(p)); err != nil {
			return 0, err
		}
		if rw.state != stateHolding {
			return rw.Write(p)
		}
		rw.received += int64(len(p))
		_, _ = rw.hash.Write(p) // never fails
		return rw.body.Write(p)
	case stateAnswered:
		return rw.cutoff.drain(len(p))
	default:
		n, err := rw.wrapper.Write(p)
		rw.received += int64(n)
		return n, err
	}
}

// accept makes sure that n more bytes of body can be held, and passes the
// response on if they can't.
func (rw *responseWriter) accept(n int) error {
	if rw.declared >= 0 && rw.received+int64(n) > rw.declared {
		rw.received += int64(n) // the response is broken, and finish must see it
		return http.ErrContentLength
	}
	if rw.received+int64(n) > rw.handler.MaxSize {
		rw.pass()
	}
	return nil
}

// ReadFrom takes the body from a reader. It saves a copy where the body is
// held, and lets the client's writer do what it can, such as sendfile, where
// it is not.
func (rw *responseWriter) ReadFrom(r io.Reader) (int64, error) {
	if rw.state == stateAwaiting {
		rw.WriteHeader(http.StatusOK)
	}
	var total int64
	for rw.state == stateHolding {
		n, err := rw.holdFrom(r)
		total += n
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}

	var n int64
	var err error
	if rw.state == statePassing {
		n, err = rw.wrapper.ReadFrom(r)
		rw.received += n
	} else {
		n, err = io.Copy(writerOnly{rw}, r)
	}
	return total + n, err
}

// holdFrom reads a piece of the body right to where it is held. The piece
// that goes past max_size is one byte too long at the most.
func (rw *responseWriter) holdFrom(r io.Reader) (int64, error) {
	room := rw.body.room()
	if left := rw.handler.MaxSize - rw.received + 1; int64(len(room)) > left {
		room = room[:left]
	}
	n, err := r.Read(room)
	if n > 0 {
		_, _ = rw.hash.Write(room[:n])
		rw.body.grow(n)
		if err := rw.accept(n); err != nil {
			return int64(n), err
		}
		rw.received += int64(n)
	}
	return int64(n), err
}

// writerOnly hides all but Write from io.Copy.
type writerOnly struct{ io.Writer }

// FlushError flushes what is passed on. A response that is held isn't sent
// for a flush, see mayHold.
func (rw *responseWriter) FlushError() error {
	if rw.state == stateAwaiting {
		rw.WriteHeader(http.StatusOK)
	}
	if rw.state != statePassing {
		return nil
	}
	return http.NewResponseController(&rw.wrapper).Flush()
}

// Hijack hands the client's connection to downstream.
func (rw *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(&rw.wrapper).Hijack()
	if err == nil {
		rw.state = stateHijacked
		rw.outcome = outcomeBypassed
		rw.discard()
	}
	return conn, buf, err
}

// finish completes the response once downstream has come to its end, with err.
func (rw *responseWriter) finish(err error) error {
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
		dropTrailers(rw.Header())

	case statePassing:
		if err != nil && rw.received != rw.declared {
			// The client must not take for whole what it got of the body.
			rw.handler.logger.Error("aborting the response: its handler failed after a part of it was sent", zap.Error(err))
			panic(http.ErrAbortHandler)
		}
	}

	rw.log("finished the response", zap.String("outcome", rw.outcome), zap.Int("status", rw.status))
	return err
}

// reset forgets a held response that ended in an error, so that an error page
// can take its place.
func (rw *responseWriter) reset() {
	rw.discard()
	rw.state = stateAwaiting
	rw.outcome = outcomeBypassed
	dropRepresentationFields(rw.Header())
}

// tagHeld tags a response whose body is held in full, evaluates the
// preconditions, and sends what they make of it.
func (rw *responseWriter) tagHeld() {
	if rw.write != nil {
		content := rw.hash
		if rw.received == 0 {
			content = nil
		}
		if tag := rw.write.tag(content); tag.exists() {
			rw.Header().Set("ETag", tag.field)
		}
		rw.finishHeld()
		return
	}

	h, header := rw.handler, rw.Header()
	tag := rw.hash.tag(h.Length, h.version(rw.request), h.weak)
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
	header := rw.Header()
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
	header := rw.Header()
	if _, has := header["Content-Type"]; !has && header.Get("Content-Encoding") == "" && rw.body.size > 0 {
		header["Content-Type"] = []string{http.DetectContentType(rw.body.head())}
	}
}

// sendHeader sends the header alone.
func (rw *responseWriter) sendHeader() {
	dropTrailers(rw.Header())
	rw.wrapper.WriteHeader(rw.status)
}

// sendHeld sends the header and what is held of the body. Trailers whose
// values are known by now are kept from the header section.
func (rw *responseWriter) sendHeld() {
	header := rw.Header()
	trailers := takeTrailers(header)
	rw.wrapper.WriteHeader(rw.status)
	if _, err := rw.body.WriteTo(&rw.wrapper); err != nil {
		rw.log("sending the held body", zap.Error(err))
		panic(http.ErrAbortHandler) // the client must not think that this was all
	}
	if len(trailers) > 0 {
		// net/http must not take this for the whole response and give it a length
		_ = http.NewResponseController(&rw.wrapper).Flush()
		for _, trailer := range trailers {
			header[trailer.name] = trailer.lines
		}
	}
}

// sendNotModified sends a 304.
func (rw *responseWriter) sendNotModified() {
	rw.outcome = outcomeNotModified
	rw.status = http.StatusNotModified
	header := rw.Header()
	dropBodyFields(header)
	dropTrailers(header)
	if len(header["Etag"]) > 0 {
		delete(header, "Last-Modified") // as ServeContent has it
	}
	rw.wrapper.WriteHeader(rw.status)
}

// sendFailed sends a 412.
func (rw *responseWriter) sendFailed() {
	rw.outcome = outcomeFailed
	rw.status = http.StatusPreconditionFailed
	header := rw.Header()
	tag := responseTag(header)
	dropRepresentationFields(header)
	rw.err = rw.handler.sendProblem(&rw.wrapper, preconditionFailed(tag, rw.conditions), rw.head)
}

// log logs at debug, with the request's method and URI.
func (rw *responseWriter) log(message string, fields ...zap.Field) {
	if c := rw.handler.logger.Check(zapcore.DebugLevel, message); c != nil {
		c.Write(append(fields, zap.String("uri", rw.request.RequestURI))...)
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*responseWriter)(nil)
	_ http.Pusher         = (*responseWriter)(nil)
	_ http.Hijacker       = (*responseWriter)(nil)
	_ io.ReaderFrom       = (*responseWriter)(nil)
)
