package etag

import (
	"iter"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// field is a header or trailer field with all its lines.
type field struct {
	name  string // canonical
	lines []string
}

// hiddenFields are fields that have been taken off a request for a while.
type hiddenFields []field

// hide takes a field off.
func (f *hiddenFields) hide(header http.Header, name string) {
	f.note(header, name)
	delete(header, name)
}

// note keeps in mind how a field stands.
func (f *hiddenFields) note(header http.Header, name string) {
	if lines, ok := header[name]; ok {
		*f = append(*f, field{name, lines})
	}
}

// restore puts the fields back.
func (f hiddenFields) restore(header http.Header) {
	for _, hidden := range f {
		header[hidden.name] = hidden.lines
	}
}

// copyFields copies the fields of these names that are there.
func copyFields(to, from http.Header, names ...string) {
	for _, name := range names {
		if lines, ok := from[name]; ok {
			to[name] = lines
		}
	}
}

// bodyFields are about the body of a message or its transfer, and so have no
// place in a response that has another body or none.
var bodyFields = []string{
	"Content-Type",
	"Content-Length",
	"Content-Encoding",
	"Content-Language",
	"Content-Range",
	"Content-Digest",
	"Content-Md5",
	"Digest",
	"Transfer-Encoding",
}

// dropBodyFields makes the header of a 200 one for a response without its body.
func dropBodyFields(header http.Header) {
	dropFields(header, bodyFields)
}

// contentFields are about the content of one message, such as a part (RFC 9530
// §2).
var contentFields = []string{
	"Content-Digest",
	"Content-Md5",
}

// exactFields are about the bytes of the representation. A weak tag does not
// tell that those are the same that the client has.
var exactFields = []string{
	"Repr-Digest",
	"Signature",
	"Signature-Input",
}

// policyFields may have a nonce that the body has too.
var policyFields = []string{
	"Content-Security-Policy",
	"Content-Security-Policy-Report-Only",
}

func dropFields(header http.Header, names []string) {
	for _, name := range names {
		delete(header, name)
	}
}

// representationFields are about the representation, except for what is about
// its body.
var representationFields = []string{
	"Accept-Ranges",
	"Age",
	"Cache-Control",
	"Content-Disposition",
	"Content-Location",
	"Etag",
	"Expires",
	"Last-Modified",
	"Pragma",
	"Surrogate-Control",
	"X-Accel-Expires",
}

// dropRepresentationFields makes the header of a 200 one for an error that
// takes its place. Fields that stood in it though they are announced as
// trailers stay.
func dropRepresentationFields(header http.Header, stood []string) {
	dropBodyFields(header)
	dropTrailers(header, stood)
	dropFields(header, exactFields)
	dropFields(header, representationFields)
	for name := range header {
		if isTargeted(name) {
			delete(header, name)
		}
	}
}

// isTargeted reports whether a field tells some caches how to cache, such as
// CDN-Cache-Control (RFC 9213).
func isTargeted(name string) bool { return strings.HasSuffix(name, "-Cache-Control") }

// saysHowToCache reports whether a response says itself how it is to be cached,
// or is for one client alone.
func saysHowToCache(header http.Header) bool {
	for _, name := range []string{"Cache-Control", "Expires", "Pragma", "Set-Cookie", "Surrogate-Control", "X-Accel-Expires"} {
		if len(header[name]) > 0 {
			return true
		}
	}
	for name := range header {
		if isTargeted(name) {
			return true
		}
	}
	return false
}

// eachTrailer calls f with the name of each trailer field in the header map
// of a response: those that the Trailer field announces, and those that have
// http.TrailerPrefix.
func eachTrailer(header http.Header, f func(name string)) {
	eachAnnounced(header["Trailer"], f)
	for name := range header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			f(name)
		}
	}
}

// eachAnnounced calls f with the name of each field that the lines of a Trailer
// field announce.
func eachAnnounced(lines []string, f func(name string)) {
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			f(textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
		}
	}
}

// mayBeTrailer reports whether a field may be sent as a trailer (RFC 9110
// §6.5.1).
func mayBeTrailer(name string) bool {
	return httpguts.ValidTrailerHeader(strings.TrimPrefix(name, http.TrailerPrefix))
}

// announcesTrailers reports whether the response announces what may be trailers.
func announcesTrailers(header http.Header) (has bool) {
	eachAnnounced(header["Trailer"], func(name string) { has = has || mayBeTrailer(name) })
	return has
}

// announcedFields returns which fields stand in the header though they are
// announced as trailers. They stay there.
func announcedFields(header http.Header) (names []string) {
	eachAnnounced(header["Trailer"], func(name string) {
		if _, stands := header[name]; stands && !strings.HasPrefix(name, http.TrailerPrefix) {
			names = append(names, name)
		}
	})
	return names
}

// takeTrailers removes the trailers that have a value already, and returns
// those that may be trailers. Fields that stood in the header stay there.
func takeTrailers(header http.Header, stood []string) (trailers []field) {
	eachTrailer(header, func(name string) {
		lines, ok := header[name]
		if !ok || slices.Contains(stood, name) {
			return
		}
		delete(header, name)
		if mayBeTrailer(name) {
			trailers = append(trailers, field{name, lines})
		}
	})
	return trailers
}

// dropTrailers removes the trailers, and their announcement, but no field that
// stood in the header.
func dropTrailers(header http.Header, stood []string) {
	takeTrailers(header, stood)
	delete(header, "Trailer")
}

// dropTrailerTag removes a tag that comes as a trailer, and its announcement.
func dropTrailerTag(header http.Header) {
	delete(header, http.TrailerPrefix+"Etag")
	if !httpguts.HeaderValuesContainsToken(header["Trailer"], "Etag") {
		return
	}
	var kept []string
	eachAnnounced(header["Trailer"], func(announced string) {
		if announced != "Etag" {
			kept = append(kept, announced)
		}
	})
	delete(header, "Trailer")
	if len(kept) > 0 {
		header["Trailer"] = []string{strings.Join(kept, ", ")}
	}
}

// splitUnquoted iterates over the parts of a field value between separators
// that don't stand in a quoted string.
func splitUnquoted(value string, separator byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i < len(value); i++ {
			switch c := value[i]; {
			case quoted && c == '\\':
				i++
			case c == '"':
				quoted = !quoted
			case c == separator && !quoted:
				if !yield(value[start:i]) {
					return
				}
				start = i + 1
			}
		}
		yield(value[start:])
	}
}

// isBodyField reports whether a request field is about the body, or announces
// one.
func isBodyField(name string) bool {
	switch name {
	case "Digest", "Expect", "Repr-Digest", "Trailer", "Transfer-Encoding", "Upgrade", "Want-Content-Digest":
		return true
	}
	return strings.HasPrefix(name, "Content-")
}

// isConditional reports whether a request field makes the answer another than
// the whole of the current representation. "If" is WebDAV's (RFC 4918 §10.4).
func isConditional(name string) bool {
	switch name {
	case "If", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range":
		return true
	}
	return false
}

// mediaTypeOf returns a Content-Type without its parameters.
func mediaTypeOf(contentType string) string {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(mediaType))
}
