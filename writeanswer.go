package etag

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
)

// writeAnswer is the answer to a guarded write, and its policy. It is held
// until downstream has ended, so that it is sent without the lock; and for the
// new tag, which can be read only when the write is done.
type writeAnswer struct {
	heldResponse
	write *write
	own   bool // it has a tag of its own, which it keeps
}

func newWriteAnswer(wr *write) *writeAnswer {
	a := &writeAnswer{write: wr}
	a.init(wr.handler, wr.client, wr.request, a)
	a.untimed = true
	a.body.Budget = a.handler.budget
	if a.wantsDigest() {
		wr.body.hash = wr.handler.digester.algorithm.get()
	}
	return a
}

// wantsDigest reports whether the client can know the new representation by
// its having sent, or being sent, the same bytes.
func (a *writeAnswer) wantsDigest() bool {
	return a.handler.WriteTag != writeTagOff && a.write.method == http.MethodPut
}

// serve lets the write go down the chain, and sends its answer.
func (a *writeAnswer) serve() error {
	err := a.serveDownstream()
	a.write.change.forget()
	if a.write.tenure.endWriting() {
		a.release()
		a.write.tenure.logTimedOut()
		return a.write.refuse(outcomeTimedOut, outcomeUnknown())
	}
	return a.finish(err)
}

// serveDownstream calls the chain. How that takes being canceled is of no
// interest.
func (a *writeAnswer) serveDownstream() error {
	defer func() {
		if p := recover(); p != nil && (!isAbort(p) || !a.write.tenure.endWriting()) {
			panic(p)
		}
	}()
	return a.write.next.ServeHTTP(a, a.request)
}

// headerCame holds an answer that is not a stream.
func (a *writeAnswer) headerCame() (hold bool) {
	if !a.write.tenure.answerBegan() {
		a.state = stateAnswered // with 504, when downstream has ended
		return false
	}
	a.write.change.forget()
	a.write.seen.show() // as a handler further down may have
	header := a.client.Header()
	tagging := a.handler.tagging(a.status, header)
	tagging.dropReplaced(header)
	a.replaces = tagging.replaces
	a.own = tagging.source == tagKept
	if a.status == http.StatusSwitchingProtocols {
		a.write.tenure.giveBack() // the tunnel may be open for days
	}
	if mayHold(a.status, header) {
		return true
	}
	a.passOn()
	return false
}

func (a *writeAnswer) bodyGrew() {}

func (a *writeAnswer) limitPassed(reason) { a.passOn() }

// bodyComplete gives the answer its tag, and sends it without the lock.
func (a *writeAnswer) bodyComplete() {
	if tag := a.newTag(); tag.exists() {
		dropTrailerTag(a.client.Header())
		a.client.Header().Set("ETag", tag.field)
		exposeTag(a.client.Header(), isCrossOrigin(a.request))
	}
	a.write.tenure.giveBack()
	a.write.seen.show()
	a.sendComplete()
}

// newTag returns the tag for the answer, which is read with another internal
// GET; no tag if there is none to give. A PUT that stored something else than
// it was sent must not have one (RFC 9110 §9.3.4), unless its answer shows what
// it stored.
func (a *writeAnswer) newTag() entityTag {
	wr := a.write
	if a.handler.WriteTag == writeTagOff || a.own || wr.method == http.MethodDelete ||
		!a.isDone() || !wr.tenure.holds() {
		return entityTag{}
	}
	// What a PATCH has stored is known without its bytes, if nobody else can have
	// stored something since.
	known := wr.method == http.MethodPatch && wr.enclosing.excludes()
	stored := wr.position.read(wr.tenure.reading, wanted{tag: true, digest: !known}, nil)
	switch {
	case !wr.tenure.holds(), wr.tenure.uncovered() != "": // it may be what another write has stored
		return entityTag{}
	case stored.err != nil, !successful(stored.status):
		return entityTag{}
	case known, a.contentIs(stored.digest), wr.body.sent(stored.digest):
		return stored.tag
	}
	return entityTag{}
}

// isDone reports whether the answer says that the write is done, and to the
// resource that the request names.
func (a *writeAnswer) isDone() bool {
	switch a.status {
	case http.StatusAccepted:
		return false // it may be done later
	case http.StatusCreated:
		return a.locatesItself()
	}
	return successful(a.status)
}

// locatesItself reports whether a Location, if there is one, is the resource
// that the client asked for.
func (a *writeAnswer) locatesItself() bool {
	location := a.client.Header().Get("Location")
	if location == "" {
		return true
	}
	target, err := url.Parse(location)
	if err != nil {
		return false
	}
	asked := originalURL(a.request)
	target = (&url.URL{Scheme: "http", Host: a.request.Host, Path: asked.Path}).ResolveReference(target)
	return target.Host == a.request.Host && path.Clean("/"+target.Path) == path.Clean("/"+asked.Path) &&
		target.RawQuery == asked.RawQuery
}

// contentIs reports whether the answer has content, and that has this digest.
func (a *writeAnswer) contentIs(digest []byte) bool {
	if a.body.Size() == 0 || digest == nil {
		return false
	}
	hash := a.handler.digester.algorithm.get()
	defer a.handler.digester.algorithm.put(hash)
	hash.writeBody(&a.body)
	return bytes.Equal(digest, hash.digest())
}

// WriteHeader takes the header of the answer. A hint that comes before it must
// not keep the lock, if its client does not read it.
func (a *writeAnswer) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		a.write.tenure.hint(func() { a.heldResponse.WriteHeader(status) })
		return
	}
	a.heldResponse.WriteHeader(status)
}

// Write takes a piece of the answer. While the lock covers the write, that goes
// on though its client has left.
func (a *writeAnswer) Write(p []byte) (int, error) {
	n, err := a.heldResponse.Write(p)
	if err != nil && a.outlivesClient() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.received += int64(len(p) - n)
		return len(p), nil
	}
	return n, err
}

// ReadFrom is for Write to see that the client has left.
func (a *writeAnswer) ReadFrom(r io.Reader) (int64, error) { return io.Copy(writerOnly{a}, r) }

// FlushError flushes what is passed on.
func (a *writeAnswer) FlushError() error {
	if err := a.heldResponse.FlushError(); err != nil && !a.outlivesClient() {
		return err
	}
	return nil
}

func (a *writeAnswer) outlivesClient() bool {
	return a.write.tenure.ctx.Context.Err() != nil && a.write.tenure.holds()
}

// Hijack hands the client's connection to downstream, without the lock.
func (a *writeAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := a.heldResponse.Hijack()
	if err == nil {
		a.write.tenure.giveBack()
	}
	return conn, buf, err
}

// Interface guards
var (
	_ holdPolicy    = (*writeAnswer)(nil)
	_ io.ReaderFrom = (*writeAnswer)(nil)
	_ http.Hijacker = (*writeAnswer)(nil)
)
