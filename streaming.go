package etag

import (
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// mayHold reports whether a response with this status and header is one whose
// body may be held back until its end: not a part of a representation, and no
// sign of a stream. A flush is not a sign: reverse_proxy flushes after every
// write where the length is unknown.
func mayHold(status int, header http.Header) bool {
	switch {
	case status < 200, status == http.StatusPartialContent, status == http.StatusNotModified:
		return false
	case len(header["Content-Range"]) > 0:
		return false
	case isStreamType(header.Get("Content-Type")):
		return false
	case strings.EqualFold(strings.TrimSpace(header.Get("X-Accel-Buffering")), "no"):
		return false
	case caddyhttp.IsIncremental(header):
		return false
	}
	return true
}

// isStreamType reports whether a media type is made of events or messages
// that the client wants as they come.
func isStreamType(contentType string) bool {
	mediaType := mediaTypeOf(contentType)
	switch mediaType {
	case "text/event-stream", "multipart/x-mixed-replace":
		return true
	}
	// application/grpc, application/grpc+proto, application/grpc-web
	return strings.HasPrefix(mediaType, "application/grpc")
}

// mediaTypeOf returns a Content-Type without its parameters.
func mediaTypeOf(contentType string) string {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(mediaType))
}

// mayStore reports whether the response's Cache-Control lets a client keep
// it; without that a validator is of no use.
func mayStore(header http.Header) bool {
	return !httpguts.HeaderValuesContainsToken(header["Cache-Control"], "no-store")
}
