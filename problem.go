package etag

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// problem is the body of an error response: the members of RFC 9457, and the
// names that API clients commonly look for.
type problem struct {
	Type    string `json:"type"`
	Title   string `json:"title"`
	Status  int    `json:"status"`
	Detail  string `json:"detail"`
	Error   string `json:"error"`
	Message string `json:"message"`
	Hint    string `json:"hint"`

	*problemTags // with 412 only
}

// problemTags tell a client what it sent and what it should have sent; null
// where there is none.
type problemTags struct {
	CurrentETag *string `json:"currentETag"`
	YourETag    *string `json:"yourETag"`
}

func newProblem(status int, source, detail, hint string) problem {
	title := http.StatusText(status)
	return problem{
		Type: source, Title: title, Status: status, Detail: detail,
		Error: title, Message: detail, Hint: hint,
	}
}

// preconditionFailed is the 412 for a request with these preconditions, where
// the representation has this tag.
func preconditionFailed(current entityTag, c *conditions) problem {
	p := newProblem(http.StatusPreconditionFailed,
		"https://www.rfc-editor.org/rfc/rfc9110#section-15.5.13",
		"The resource is not in the state that the request's preconditions ask for.",
		"Fetch the resource again, apply the change to it, and repeat the request with its current ETag.")
	p.problemTags = new(problemTags)
	if current.exists() {
		p.CurrentETag = &current.field
	}
	sent := c.ifMatch
	if !sent.present() {
		sent = c.ifNoneMatch
	}
	if sent.present() {
		text := strings.Join(sent, ", ")
		p.YourETag = &text
	}
	return p
}

// preconditionRequired is the 428 for a write without an If-Match.
func preconditionRequired() problem {
	return newProblem(http.StatusPreconditionRequired,
		"https://www.rfc-editor.org/rfc/rfc6585#section-3",
		"A write to this resource must say which state of it is to be changed.",
		"Fetch the resource, and repeat the request with its ETag in If-Match, or with If-None-Match: * to create it.")
}

// lockedOut is the 503 for a write that did not get the resource's lock.
func lockedOut() problem {
	return newProblem(http.StatusServiceUnavailable,
		"https://www.rfc-editor.org/rfc/rfc9110#section-15.6.4",
		"Another write to this resource is not done yet. Nothing has been written.",
		"Repeat the request after a while.")
}

// sendProblem sends p to the client, or returns it as an error for Caddy's
// error routes, with `errors handle`. The 412's current tag goes into the ETag
// field either way. The response to a HEAD request has no body.
func (h *Handler) sendProblem(w http.ResponseWriter, p problem, head bool) error {
	header := w.Header()
	if p.problemTags != nil && p.CurrentETag != nil {
		header.Set("ETag", *p.CurrentETag)
	}
	if h.Errors == "handle" {
		return caddyhttp.Error(p.Status, errors.New(p.Detail))
	}

	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(p); err != nil {
		return err
	}
	header.Set("Content-Type", "application/problem+json")
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	if head {
		return nil
	}
	_, err := w.Write(body.Bytes())
	return err
}
