package etag

import (
	"io"
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// Whether ranges of tagged responses are served from the held body.
const (
	rangesOn  = "on"
	rangesOff = "off"
)

var rangesWords = []string{rangesOn, rangesOff}

// ifRangeTag returns the tag of If-Range, which may also be a date.
func ifRangeTag(header http.Header) entityTag {
	lines := header["If-Range"]
	if len(lines) != 1 {
		return entityTag{}
	}
	return parseEntityTag(lines[0])
}

// canServeRange reports whether the client asks for a part of a response that
// downstream sends as a whole, and that has a tag and can be held.
func (rd *read) canServeRange() bool {
	return rd.ranged && (rd.asked == askedWhole || rd.rangeIsOurs && rd.asked == askedAsIs) &&
		rd.status == http.StatusOK && rd.tagging.source != tagNone &&
		mayHold(rd.status, rd.client.Header()) && rd.declared <= rd.handler.MaxSize
}

// servesRanges reports whether a backend says that it serves ranges.
func servesRanges(header http.Header) bool {
	return httpguts.HeaderValuesContainsToken(header["Accept-Ranges"], "bytes")
}

// judgeByWhole has a part that has no tag of its own judged by that of the whole:
// what the part tells of it, or else what the answer told because of which the
// part was asked for.
func (rd *read) judgeByWhole() {
	h := rd.handler
	if value, ok := h.fieldValue(http.StatusOK, rd.client.Header()); ok {
		rd.whole = representation{tag: fieldTag(value, h.version(rd.request), h.weak), ours: true}
	}
	rd.headerTag = rd.whole.tag
}

// sendRange sends what the request's Range asks for of the body that is held.
// Its other preconditions have been evaluated.
func (rd *read) sendRange() {
	header := rd.client.Header()
	rd.sniffType()
	if _, has := header["Content-Type"]; !has {
		header["Content-Type"] = nil // or ServeContent would see one in a coded body
	}
	r := &http.Request{Method: http.MethodGet, Header: http.Header{}}
	rd.part.restore(r.Header)
	w := partWriter{read: rd}
	http.ServeContent(&w, r, "", parseDate(header["Last-Modified"]), rd.body.NewReader())
	if !w.whole {
		rd.body.Release()
		return
	}
	if header["Content-Type"] == nil {
		delete(header, "Content-Type")
	}
	rd.sendComplete()
}

// partWriter is what a part of the held body is written to. The whole, where the
// client is to have that (If-Range), is sent in another way.
type partWriter struct {
	read  *read
	whole bool
}

// Header implements http.ResponseWriter.
func (w *partWriter) Header() http.Header { return w.read.client.Header() }

// WriteHeader takes off what is said of the whole.
func (w *partWriter) WriteHeader(status int) {
	if w.whole = status == http.StatusOK; w.whole {
		return
	}
	header := w.read.client.Header()
	if status == http.StatusRequestedRangeNotSatisfiable {
		kept := make(http.Header, 2)
		copyFields(kept, header, "Content-Range", "Content-Type")
		dropRepresentationFields(header, w.read.stood)
		copyFields(header, kept, "Content-Range", "Content-Type")
	} else {
		dropTrailers(header, w.read.stood)
		dropFields(header, contentFields)
	}
	w.read.state = statePassing
	w.read.stopHoldTimer()
	w.read.client.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *partWriter) Write(p []byte) (int, error) {
	if w.whole {
		return 0, errNotWanted
	}
	return w.read.client.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (w *partWriter) ReadFrom(r io.Reader) (int64, error) {
	if w.whole {
		return 0, errNotWanted
	}
	return w.read.client.ReadFrom(r)
}
