package etag

import (
	"net/http"
	"net/textproto"
	"strings"
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
	if lines, ok := header[name]; ok {
		*f = append(*f, field{name, lines})
		delete(header, name)
	}
}

// restore puts the fields back.
func (f hiddenFields) restore(header http.Header) {
	for _, hidden := range f {
		header[hidden.name] = hidden.lines
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
	"Transfer-Encoding",
}

// dropBodyFields makes the header of a 200 one for a response without its body.
func dropBodyFields(header http.Header) {
	for _, name := range bodyFields {
		delete(header, name)
	}
}

// representationFields are about the representation, but for what is about
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
}

// dropRepresentationFields makes the header of a 200 one for an error that
// takes its place.
func dropRepresentationFields(header http.Header) {
	dropBodyFields(header)
	dropTrailers(header)
	for _, name := range representationFields {
		delete(header, name)
	}
}

// eachTrailer calls f with the name of each trailer field in the header map
// of a response: those that the Trailer field announces, and those that have
// http.TrailerPrefix.
func eachTrailer(header http.Header, f func(name string)) {
	for _, line := range header["Trailer"] {
		for name := range strings.SplitSeq(line, ",") {
			f(textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
		}
	}
	for name := range header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			f(name)
		}
	}
}

// hasTrailers reports whether the response has, or announces, trailers.
func hasTrailers(header http.Header) (has bool) {
	eachTrailer(header, func(string) { has = true })
	return has
}

// takeTrailers removes the trailers that have a value already, and returns
// them.
func takeTrailers(header http.Header) (trailers []field) {
	eachTrailer(header, func(name string) {
		if lines, ok := header[name]; ok {
			trailers = append(trailers, field{name, lines})
			delete(header, name)
		}
	})
	return trailers
}

// dropTrailers removes the trailers, and their announcement.
func dropTrailers(header http.Header) {
	takeTrailers(header)
	delete(header, "Trailer")
}
