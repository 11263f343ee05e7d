package etag

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// refusalTest is a request that is refused, and what its client is told.
type refusalTest struct {
	name    string
	options string
	script  func(w http.ResponseWriter, r *http.Request) bool
	method  string // PUT if there is none
	fields  []string
	status  int // 412 if there is none
	reason  string
	detail  string
	hint    string
}

// setting has the backend set a field of its answers.
func setting(name, value string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set(name, value)
		return false
	}
}

// answering has the backend answer reads with a status.
func answering(status int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		}
		return r.Method == http.MethodGet
	}
}

// TestRefusalsTellWhatToDo: the words for each reason are true, and who does
// what the hint says is not refused for the same reason again.
func TestRefusalsTellWhatToDo(t *testing.T) {
	const (
		again     = "Fetch the resource again, apply the change to it, and repeat the request with its current ETag in If-Match."
		overwrite = "Repeat the request with If-Match: *, which overwrites any state, or have the server give the resource an ETag."
		refused   = "Repeat the request with If-Match: *, which overwrites any state, or have the server take weak ETags."
		read      = "Fetch the resource again, without these preconditions."
		required  = "Fetch the resource, and repeat the request with its ETag in If-Match, or with If-None-Match: * to create it."
		exists    = "The resource exists already, and If-None-Match: * allows to create it only."
		weakened  = "The ETag in If-Match is weak, and that of the resource is not: something between this server and the client has put a W/ before it."
		modified  = "The resource has been modified since the date in If-Unmodified-Since."
		old       = "Sun, 06 Nov 1994 08:49:37 GMT"
		later     = "Mon, 07 Nov 1994 08:49:37 GMT"
	)
	strong, weakTag := setting("ETag", `"b"`), setting("ETag", `W/"b"`)
	dated := setting("Last-Modified", later)
	streaming := setting("Content-Type", "text/event-stream")
	signed := "AWS4-HMAC-SHA256 Credential=x"
	for _, c := range []refusalTest{
		// a write that was meant for another state
		{name: "another tag", fields: []string{"If-Match", `"other"`}, reason: "stale", detail: "The resource has changed since it was read.", hint: again},
		{name: "of several", fields: []string{"If-Match", `"other", W/"x"`}, reason: "stale", detail: "The resource has changed since it was read.", hint: again},
		{name: "the backend's tag", script: strong, fields: []string{"If-Match", `"a"`}, reason: "stale", detail: "The resource has changed since it was read.", hint: again},
		{name: "weakened on the way", fields: []string{"If-Match", "W/" + oneTag}, reason: "stale", detail: weakened, hint: "Send the ETag without the W/, or have the server compare as if there were none, with weak_if_match accept."},
		{name: "weakened, and the backend's", script: strong, fields: []string{"If-Match", `W/"b-gzip"`}, reason: "stale", detail: weakened, hint: "Send the ETag without the W/, or have the server compare as if there were none, with weak_if_match accept."},
		{name: "a date", script: dated, fields: []string{"If-Unmodified-Since", old}, reason: "stale", detail: modified, hint: again},
		{name: "a date, of a stream", script: func(w http.ResponseWriter, r *http.Request) bool { dated(w, r); return streaming(w, r) }, fields: []string{"If-Unmodified-Since", old}, reason: "stale", detail: modified, hint: "Fetch the resource again, apply the change to it, and repeat the request with its Last-Modified in If-Unmodified-Since."},

		// a field that can't be read
		{name: "no quotes", fields: []string{"If-Match", opaque(oneTag)}, reason: "malformed", detail: "The ETag in If-Match is not in quotation marks.", hint: `Send the ETag as it came with the resource, with its quotes, as in If-Match: "47b51b57".`},
		{name: "undefined", fields: []string{"If-Match", "undefined"}, reason: "malformed", detail: "The ETag in If-Match is not in quotation marks.", hint: `Send the ETag as it came with the resource, with its quotes, as in If-Match: "47b51b57".`},
		{name: "empty", fields: []string{"If-Match", ""}, reason: "malformed", detail: "If-Match is empty.", hint: `Send the ETag as it came with the resource, with its quotes, as in If-Match: "47b51b57".`},
		{name: "a comma", fields: []string{"If-Match", ","}, reason: "malformed", detail: "If-Match has no ETag in it.", hint: `Send the ETag as it came with the resource, with its quotes, as in If-Match: "47b51b57".`},
		{name: "two stars", fields: []string{"If-Match", "*, *"}, reason: "malformed", detail: "If-Match has something in it that is not an ETag.", hint: `Send the ETag as it came with the resource, with its quotes, as in If-Match: "47b51b57".`},
		{name: "one quote", fields: []string{"If-Match", `"47b51b57`}, reason: "malformed", detail: "If-Match has something in it that is not an ETag.", hint: `Send the ETag as it came with the resource, with its quotes, as in If-Match: "47b51b57".`},
		{name: "the other field", fields: []string{"If-None-Match", "x"}, reason: "malformed", detail: "The ETag in If-None-Match is not in quotation marks.", hint: `Send the ETag as it came with the resource, with its quotes, as in If-None-Match: "47b51b57".`},
		{name: "of what is not there", script: answering(404), fields: []string{"If-None-Match", "x"}, reason: "malformed", detail: "The ETag in If-None-Match is not in quotation marks.", hint: `Send the ETag as it came with the resource, with its quotes, as in If-None-Match: "47b51b57".`},

		// a resource without a tag
		{name: "a stream", script: streaming, fields: []string{"If-Match", `"x"`}, reason: "no_tag", detail: "The resource has no ETag, since it is a stream.", hint: overwrite},
		{name: "no-store", script: setting("Cache-Control", "no-store"), fields: []string{"If-Match", `"x"`}, reason: "no_tag", detail: "The resource has no ETag, since its Cache-Control is no-store.", hint: overwrite},
		{name: "a part", script: setting("Content-Range", "bytes 0-2/9"), fields: []string{"If-Match", `"x"`}, reason: "no_tag", detail: "The resource has no ETag, since a GET for it is answered with a part of it.", hint: overwrite},
		{name: "another header", options: "match header X-Tag yes", fields: []string{"If-Match", `"x"`}, reason: "no_tag", detail: "The resource has no ETag, since the server gives none to such a response.", hint: overwrite},
		{name: "another status", script: answering(203), fields: []string{"If-Match", `"x"`}, reason: "no_tag", detail: "The resource has no ETag, since the server gives none to such a response.", hint: overwrite},
		{name: "too large", options: "max_size 2", fields: []string{"If-Match", `"x"`}, reason: "no_tag", detail: "The resource has no ETag, since it is too large.", hint: overwrite},
		{name: "a weak tag", options: "weak_if_match reject", script: weakTag, fields: []string{"If-Match", `W/"b"`}, reason: "no_tag", detail: "The resource has a weak ETag only, which this server does not take in If-Match.", hint: "Repeat the request with If-Match: *, which overwrites any state, or have the server take weak ETags."},

		// a resource that must not be there
		{name: "exists", fields: []string{"If-None-Match", "*"}, reason: "exists", detail: exists, hint: "To replace the resource, fetch it, and repeat the request with its ETag in If-Match instead."},
		{name: "exists without a tag", script: streaming, fields: []string{"If-None-Match", "*"}, reason: "exists", detail: exists, hint: "To replace the resource, whatever its state, repeat the request with If-Match: * instead."},
		{name: "exists with a tag that is not taken", options: "weak_if_match reject", script: weakTag, fields: []string{"If-None-Match", "*"}, reason: "exists", detail: exists, hint: "To replace the resource, whatever its state, repeat the request with If-Match: * instead."},
		{name: "a state that must not be, with a tag that is not taken", options: "weak_if_match reject", script: weakTag, fields: []string{"If-None-Match", `W/"b"`}, reason: "exists", detail: "The resource is in a state that If-None-Match forbids.", hint: refused},
		{name: "a date, of a tag that is not taken", options: "weak_if_match reject", script: func(w http.ResponseWriter, r *http.Request) bool { dated(w, r); return weakTag(w, r) }, fields: []string{"If-Unmodified-Since", old}, reason: "stale", detail: modified, hint: refused},
		{name: "a state that must not be", fields: []string{"If-None-Match", oneTag}, reason: "exists", detail: "The resource is in a state that If-None-Match forbids.", hint: "Leave If-None-Match out, or fetch the resource, and repeat the request with its current ETag in If-Match instead."},

		// a state that can't be read
		{name: "a login", script: answering(302), fields: []string{"If-Match", oneTag}, reason: "unreadable", detail: "The current state of the resource can't be read: a GET for it is answered with status 302.", hint: "Send a GET for the resource, and see what is in the way, such as a login or a redirect."},
		{name: "no reads", script: answering(405), fields: []string{"If-Match", oneTag}, reason: "unreadable", detail: "The current state of the resource can't be read: a GET for it is answered with status 405.", hint: "Send a GET for the resource, and see what is in the way, such as a login or a redirect."},
		{name: "signed", fields: []string{"If-Match", oneTag, "Authorization", signed}, reason: "unreadable", detail: "The current state of the resource can't be read: the request's credentials are good for its method alone, and not for a GET. A server whose backend checks preconditions itself should be set to if_match off.", hint: "Send the request without preconditions, or with credentials that are good for a GET too."},
		{name: "signed, and a precondition is required", options: "require_if_match", fields: []string{"If-Match", oneTag, "Authorization", signed}, reason: "unreadable", detail: "The current state of the resource can't be read: the request's credentials are good for its method alone, and not for a GET. A server whose backend checks preconditions itself should be set to if_match off.", hint: "Send the request with credentials that are good for a GET too."},

		// a write that says nothing
		{name: "nothing", options: "require_if_match", status: 428, detail: "A write to this resource must say which state of it is to be changed.", hint: required},
		{name: "a date only", options: "require_if_match", fields: []string{"If-Unmodified-Since", old}, status: 428, detail: "A write to this resource must say which state of it is to be changed. A date in If-Unmodified-Since is too coarse for that.", hint: required},
		{name: "what it is not", options: "require_if_match", fields: []string{"If-None-Match", `"x"`}, status: 428, detail: "A write to this resource must say which state of it is to be changed. If-None-Match with an ETag says only which one is not.", hint: required},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startGuarded(t, c.options)
			g.scripted(c.script)
			if c.method == "" {
				c.method = http.MethodPut
			}
			if c.status == 0 {
				c.status = 412
			}
			res := g.do(c.method, "/doc", "two", c.fields...)
			require.Equal(t, c.status, res.status, res.body)
			members := problemIn(t, res)
			require.Equal(t, c.detail, members["detail"])
			require.Equal(t, c.detail, members["message"])
			require.Equal(t, c.hint, members["hint"])
			reason, _ := members["reason"].(string)
			require.Equal(t, c.reason, reason)
			require.Empty(t, g.stored())
		})
	}
	for _, c := range []refusalTest{
		{name: "another tag", fields: []string{"If-Match", `"other"`}, detail: "The resource has another ETag than If-Match names."},
		{name: "weakened", fields: []string{"If-Match", "W/" + oneTag}, detail: weakened},
		{name: "malformed", fields: []string{"If-Match", "x"}, detail: "The ETag in If-Match is not in quotation marks."},
		{name: "a stream", script: streaming, fields: []string{"If-Match", `"x"`}, detail: "The resource has no ETag, since it is a stream."},
		{name: "too large", options: "max_size 2", fields: []string{"If-Match", `"x"`}, detail: "The resource has no ETag, since it is too large."},
		{name: "too slow", options: "max_delay 1ms", script: func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.WriteString(w, "o")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return true
		}, fields: []string{"If-Match", oneTag}, detail: "The resource came too slowly to get the ETag that If-Match could name."},
		{name: "no memory", options: "max_memory 32KiB", script: func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.WriteString(w, strings.Repeat("x", 100<<10))
			return true
		}, fields: []string{"If-Match", oneTag}, detail: "The server has no memory at the moment to make the ETag that If-Match could name."},
		{name: "a weak tag", script: weakTag, fields: []string{"If-Match", `W/"b"`}, detail: "The resource has a weak ETag only, which If-Match on a read does not take."},
		{name: "a date", script: dated, fields: []string{"If-Unmodified-Since", old}, detail: modified},
	} {
		t.Run("read, "+c.name, func(t *testing.T) {
			g := startGuarded(t, c.options)
			g.scripted(c.script)
			res := g.do(http.MethodGet, "/doc", "", c.fields...)
			require.Equal(t, 412, res.status, res.body)
			members := problemIn(t, res)
			require.Equal(t, c.detail, members["detail"])
			require.Equal(t, read, members["hint"])
		})
	}
}

// TestHintsLeadOn: what the hint says to do is done, and gets through.
func TestHintsLeadOn(t *testing.T) {
	for _, c := range []struct {
		name    string
		options string
		script  func(w http.ResponseWriter, r *http.Request) bool
		refused []string
		hinted  []string
	}{
		{"without quotes", "", nil, []string{"If-Match", opaque(oneTag)}, []string{"If-Match", oneTag}},
		{"weakened", "", nil, []string{"If-Match", "W/" + oneTag}, []string{"If-Match", oneTag}},
		{"weakened, with the option", "weak_if_match accept", nil, []string{"If-Match", `W/"x"`}, []string{"If-Match", "W/" + oneTag}},
		{"a stream", "", setting("Content-Type", "text/event-stream"), []string{"If-Match", oneTag}, []string{"If-Match", "*"}},
		{"exists", "", nil, []string{"If-None-Match", "*"}, []string{"If-Match", oneTag}},
		{"exists without a tag", "", setting("Content-Type", "text/event-stream"), []string{"If-None-Match", "*"}, []string{"If-Match", "*"}},
		{"that state", "", nil, []string{"If-None-Match", oneTag}, nil},
		{"signed", "", nil, []string{"If-Match", oneTag, "Authorization", "AWS4-HMAC-SHA256 x"}, []string{"Authorization", "AWS4-HMAC-SHA256 x"}},
		{"a date of a stream", "", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Last-Modified", "Mon, 07 Nov 1994 08:49:37 GMT")
			return false
		}, []string{"If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"}, []string{"If-Unmodified-Since", "Mon, 07 Nov 1994 08:49:37 GMT"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startGuarded(t, c.options)
			g.scripted(c.script)
			require.Equal(t, 412, g.do("PUT", "/doc", "two", c.refused...).status)
			require.Empty(t, g.stored())
			require.Equal(t, 204, g.do("PUT", "/doc", "two", c.hinted...).status)
			require.Equal(t, []string{"two"}, g.stored())
		})
	}
}

// TestUnavailableTellsWhy: a resource that is busy is told from a lock service
// that is down, and that nothing was written, from a write that may have been.
func TestUnavailableTellsWhy(t *testing.T) {
	for why, detail := range map[reason]string{
		reasonBusy:       "Another write to this resource is not done yet. Nothing has been written.",
		reasonLockFailed: "The service that keeps writes to one resource apart does not work at the moment. Nothing has been written.",
		reasonNoMemory:   "The server has no memory for this request at the moment. Nothing has been written.",
		reasonHold:       "The current state of the resource could not be read in time. Nothing has been written.",
	} {
		p := unavailable(why)
		require.Equal(t, http.StatusServiceUnavailable, p.Status)
		require.Equal(t, why, p.Reason)
		require.Equal(t, detail, p.Detail)
		require.Equal(t, "Repeat the request after a while.", p.Hint)
	}
	p := outcomeUnknown()
	require.Equal(t, http.StatusGatewayTimeout, p.Status)
	require.Equal(t, "The server behind this one did not answer in time. The write may or may not have been done.", p.Detail)
	require.Equal(t, "Fetch the resource, and see whether the change is there, before you repeat the request.", p.Hint)
}
