package etag

import (
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// What becomes of a valid tag that a response already has.
const (
	existingKeep    = "keep"
	existingReplace = "replace"
)

var existingWords = []string{existingKeep, existingReplace}

// What becomes of a body past a limit.
const (
	oversizePass    = "pass"
	oversizeTrailer = "trailer"
)

var oversizeWords = []string{oversizePass, oversizeTrailer}

// What becomes of responses with Cache-Control: no-store.
const (
	noStoreSkip = "skip"
	noStoreTag  = "tag"
)

var noStoreWords = []string{noStoreSkip, noStoreTag}

// tagSource is where the tag of a response comes from.
type tagSource int

const (
	tagNone    tagSource = iota // it has no tag
	tagKept                     // it has one of its own, and keeps that
	tagMinted                   // it gets one of ours, from the digest of its whole body
	tagTrailer                  // as tagMinted, but in a trailer
	tagOfField                  // it gets one of ours, which is the value of a field of its header
)

// tagging is the decision about the tag of a response. A read, the internal
// GET of a write and the answer to a write all ask for it, so that none of
// them knows a resource by another tag than the others.
type tagging struct {
	source tagSource
	kept   entityTag // with tagKept
	value  string    // with tagOfField, what the tag is made of
	reason reason    // with tagNone, why

	// replaces is whether the response's own tag must not reach the client,
	// whether or not it gets one of ours.
	replaces bool
}

// tagging decides by the status and the header of a response, for a body that
// is not past a limit.
func (h *Handler) tagging(status int, header http.Header) tagging {
	own := responseTag(header)
	replaces := h.Existing == existingReplace && (successful(status) || status == http.StatusNotModified)
	if own.exists() && !replaces {
		return tagging{source: tagKept, kept: own}
	}
	if reason := h.untaggable(status, header); reason != "" {
		return tagging{reason: reason, replaces: replaces}
	}
	if value, ok := h.fieldValue(status, header); ok {
		return tagging{source: tagOfField, value: value, replaces: replaces}
	}
	return tagging{source: tagMinted, replaces: replaces}
}

// pastLimit is the decision for a body that is past a limit. takesTrailers is
// whether its recipient does: the internal GET of a write does.
func (t tagging) pastLimit(oversize string, limit reason, takesTrailers bool) tagging {
	if t.source != tagMinted {
		return t
	}
	if oversize == oversizeTrailer && takesTrailers {
		return tagging{source: tagTrailer, replaces: t.replaces}
	}
	return tagging{reason: limit, replaces: t.replaces}
}

// ours reports whether the response has a tag that this module makes, and that
// downstream does not know.
func (t tagging) ours() bool {
	return t.source == tagMinted || t.source == tagTrailer || t.source == tagOfField
}

// ofHeader returns the tag that the header alone tells, if it does.
func (t tagging) ofHeader(h *Handler, r *http.Request) entityTag {
	switch t.source {
	case tagKept:
		return t.kept
	case tagOfField:
		return fieldTag(t.value, h.version(r), h.weak)
	case tagNone, tagMinted, tagTrailer:
	}
	return entityTag{}
}

// fieldValue returns the value of the from_header field of a response, if it
// has one that can be a tag.
func (h *Handler) fieldValue(status int, header http.Header) (value string, ok bool) {
	if h.FromHeader == "" || status != http.StatusOK {
		return "", false
	}
	lines := header[h.FromHeader]
	if len(lines) != 1 {
		return "", false
	}
	value = trimOWS(lines[0])
	if parseEntityTag(value).exists() {
		return value, true
	}
	return value, value != "" && keepETagc(value) == value
}

// fieldTag makes a tag of a field's value, which is a tag already or what
// stands in one. A weak one stays weak: only its author knows what it leaves
// out.
func fieldTag(value, version string, weak bool) entityTag {
	if tag := parseEntityTag(value); tag.exists() {
		value, weak = tag.opaque(), weak || tag.weak()
	}
	return makeTag(value, version, weak)
}

// dropReplaced takes the response's own tag off, if that must not reach the
// client, as a trailer neither.
func (t tagging) dropReplaced(header http.Header) {
	if t.replaces && t.source != tagTrailer {
		delete(header, "Etag")
		dropTrailerTag(header)
	}
}

// untaggable returns the reason why a response gets no tag of ours, none if it
// gets one.
func (h *Handler) untaggable(status int, header http.Header) reason {
	switch {
	case status == http.StatusSwitchingProtocols:
		return reasonUpgrade
	case status == http.StatusPartialContent, len(header["Content-Range"]) > 0:
		return reasonPartial
	case status == http.StatusNotModified, !matchesStatus(h.Matcher, status):
		return reasonStatus
	case streams(header):
		return reasonStream
	case !mayStore(header) && h.NoStore != noStoreTag:
		return reasonNoStore
	case len(h.Matcher.Headers) > 0 && !h.Matcher.Match(status, header):
		return reasonNoMatch
	}
	return ""
}

// matchesStatus reports whether a matcher takes a status, whatever it has
// against the header.
func matchesStatus(matcher *caddyhttp.ResponseMatcher, status int) bool {
	byStatus := caddyhttp.ResponseMatcher{StatusCode: matcher.StatusCode}
	return byStatus.Match(status, nil)
}

// mayHold reports whether a response with this status and header is one whose
// body may be held back until its end: it is neither a part of a
// representation nor a stream.
func mayHold(status int, header http.Header) bool {
	switch {
	case status < 200, status == http.StatusPartialContent, status == http.StatusNotModified:
		return false
	case len(header["Content-Range"]) > 0:
		return false
	}
	return !streams(header)
}

// streams reports whether a response says that its client wants it as it
// comes. A flush does not say so: reverse_proxy flushes after every write where
// the length is unknown.
func streams(header http.Header) bool {
	return isStreamType(header.Get("Content-Type")) ||
		strings.EqualFold(strings.TrimSpace(header.Get("X-Accel-Buffering")), "no") ||
		caddyhttp.IsIncremental(header)
}

// isStreamType reports whether a media type is made of events or messages
// that the client wants as they come.
func isStreamType(contentType string) bool {
	mediaType := mediaTypeOf(contentType)
	switch mediaType {
	case "text/event-stream", "multipart/x-mixed-replace",
		"multipart/mixed", // GraphQL's @defer and @stream
		"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines",
		"application/json-seq", "application/stream+json":
		return true
	}
	// application/grpc, application/grpc+proto, application/grpc-web
	return strings.HasPrefix(mediaType, "application/grpc")
}

// mayStore reports whether the response's Cache-Control lets a client keep
// it; without that a validator is of no use.
func mayStore(header http.Header) bool {
	return !httpguts.HeaderValuesContainsToken(header["Cache-Control"], "no-store")
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

// takesTrailers reports whether the client has said that it wants trailers
// (RFC 9110 §6.5.1, §10.1.4).
func takesTrailers(r *http.Request) bool {
	return r.ProtoAtLeast(1, 1) && httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers")
}

// mayHaveContent reports whether a response with this status may have a body
// (RFC 9110 §6.4.1).
func mayHaveContent(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

func successful(status int) bool { return status >= 200 && status <= 299 }
