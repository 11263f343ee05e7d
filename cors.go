package etag

import (
	"net/http"
	"slices"

	"golang.org/x/net/http/httpguts"
)

const exposeHeaders = "Access-Control-Expose-Headers"

// isCrossOrigin reports whether a request may be that of a script of another
// origin.
func isCrossOrigin(r *http.Request) bool { return len(r.Header["Origin"]) > 0 }

// exposeTag lets scripts of other origins read the tag of a response, which they
// need for If-Match: the backend does not know of a tag of ours, and so does
// not expose it. "*" is not enough, since with credentials it is no wildcard
// (Fetch §3.2.3). A deferred header directive above may yet allow the origin of
// the request.
func exposeTag(header http.Header, crossOrigin bool) {
	if !crossOrigin && len(header["Access-Control-Allow-Origin"]) == 0 {
		return
	}
	if lines := header[exposeHeaders]; !httpguts.HeaderValuesContainsToken(lines, "ETag") {
		header[exposeHeaders] = append(slices.Clip(lines), "ETag")
	}
}
