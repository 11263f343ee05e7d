package etag

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// What an error response of this handler is.
const (
	errorsProblem = "problem"
	errorsHandle  = "handle"
)

var errorsWords = []string{errorsProblem, errorsHandle}

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
	Reason  reason `json:"reason,omitempty"`

	*problemTags // with 412 only
}

// problemTags tell a client what it sent and what it should have sent; null
// where there is none.
type problemTags struct {
	CurrentETag *string `json:"currentETag"`
	YourETag    *string `json:"yourETag"`
}

// problemTypes are where the statuses are defined.
var problemTypes = map[int]string{
	http.StatusPreconditionFailed:   "https://www.rfc-editor.org/rfc/rfc9110#section-15.5.13",
	http.StatusPreconditionRequired: "https://www.rfc-editor.org/rfc/rfc6585#section-3",
	http.StatusServiceUnavailable:   "https://www.rfc-editor.org/rfc/rfc9110#section-15.6.4",
	http.StatusGatewayTimeout:       "https://www.rfc-editor.org/rfc/rfc9110#section-15.6.5",
}

func newProblem(status int, why reason, detail, hint string) problem {
	title := http.StatusText(status)
	return problem{
		Type: problemTypes[status], Title: title, Status: status, Detail: detail,
		Error: title, Message: detail, Hint: hint, Reason: why,
	}
}

// preconditionFailed is the 412 for a request with these preconditions, where
// the representation has this tag.
func preconditionFailed(why reason, current entityTag, c *conditions, detail, hint string) problem {
	p := newProblem(http.StatusPreconditionFailed, why, detail, hint)
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

// readFailed is the 412 for a read of a representation with this tag, or one that
// has none for this reason.
func readFailed(current entityTag, untagged reason, c *conditions) problem {
	detail := "The resource has been modified since the date in If-Unmodified-Since."
	switch {
	case c.ifMatch.empty():
	case c.ifMatch.noTag():
		detail = malformedDetail("If-Match", c.ifMatch)
	case !current.exists():
		detail = noTagDetail(untagged)
	case current.weak():
		detail = "The resource has a weak ETag only, which If-Match on a read does not take."
	default:
		detail = "The resource has another ETag than If-Match names."
		if weakened(current, c) {
			detail = detailWeakened
		}
	}
	return preconditionFailed(c.grounds(failed), current, c, detail, "Fetch the resource again, without these preconditions.")
}

const detailWeakened = "The ETag in If-Match is weak, and that of the resource is not: something between this server and the client has put a W/ before it."

// weakened reports whether If-Match names the tag but for a W/ before it.
func weakened(current entityTag, c *conditions) bool {
	return representation{tag: current, ours: true}.listed(c.ifMatch, entityTag.weakMatch, allCodings)
}

// writeFailed is the 412 for a write to a resource in this state.
func writeFailed(why reason, current *currentRepresentation, c *conditions, weak string) problem {
	var detail, hint string
	switch why {
	case reasonMalformed:
		name, field := "If-Match", c.ifMatch
		if !field.present() || !field.noTag() {
			name, field = "If-None-Match", c.ifNoneMatch
		}
		detail = malformedDetail(name, field)
		hint = "Send the ETag as it came with the resource, with its quotes, as in " + name + `: "47b51b57".`
	case reasonExists:
		detail, hint = existsTexts(current, c, weak)
	case reasonNoTag:
		detail, hint = noTagTexts(current, weak)
	case reasonUnreadable:
		detail = fmt.Sprintf("The current state of the resource can't be read: a GET for it is answered with status %d.", current.status)
		hint = "Send a GET for the resource, and see what is in the way, such as a login or a redirect."
	default:
		detail, hint = staleTexts(current, c, weak)
	}
	return preconditionFailed(why, current.tag, c, detail, hint)
}

// staleTexts are for a resource in another state than If-Match or
// If-Unmodified-Since names.
func staleTexts(current *currentRepresentation, c *conditions, weak string) (detail, hint string) {
	switch {
	case !c.ifMatch.present() && current.isRefused(weak):
		return "The resource has been modified since the date in If-Unmodified-Since.", hintRefused
	case !c.ifMatch.present() && !current.tag.exists():
		return "The resource has been modified since the date in If-Unmodified-Since.",
			"Fetch the resource again, apply the change to it, and repeat the request with its Last-Modified in If-Unmodified-Since."
	case !c.ifMatch.present():
		return "The resource has been modified since the date in If-Unmodified-Since.", hintFetchAgain
	case weakened(current.tag, c):
		return detailWeakened,
			"Send the ETag without the W/, or have the server compare as if there were none, with weak_if_match accept."
	}
	return "The resource has changed since it was read.", hintFetchAgain
}

const hintFetchAgain = "Fetch the resource again, apply the change to it, and repeat the request with its current ETag in If-Match."

// existsTexts are for a resource that If-None-Match names.
func existsTexts(current *currentRepresentation, c *conditions, weak string) (detail, hint string) {
	switch {
	case !c.ifNoneMatch.any() && current.isRefused(weak):
		return "The resource is in a state that If-None-Match forbids.", hintRefused
	case !c.ifNoneMatch.any():
		return "The resource is in a state that If-None-Match forbids.",
			"Leave If-None-Match out, or fetch the resource, and repeat the request with its current ETag in If-Match instead."
	case !current.tag.exists(), current.isRefused(weak):
		return "The resource exists already, and If-None-Match: * allows to create it only.",
			"To replace the resource, whatever its state, repeat the request with If-Match: * instead."
	}
	return "The resource exists already, and If-None-Match: * allows to create it only.",
		"To replace the resource, fetch it, and repeat the request with its ETag in If-Match instead."
}

// malformedDetail says what is wrong with a field without a valid tag.
func malformedDetail(name string, field tagField) string {
	if field.empty() {
		return name + " is empty."
	}
	switch sent := strings.Join(field, ","); {
	case strings.Trim(sent, ", \t") == "":
		return name + " has no ETag in it."
	case !strings.ContainsAny(sent, `"*`):
		return "The ETag in " + name + " is not in quotation marks."
	}
	return name + " has something in it that is not an ETag."
}

// noTagTexts are for a resource that has no tag which If-Match could name.
func noTagTexts(current *currentRepresentation, weak string) (detail, hint string) {
	if current.isRefused(weak) {
		return "The resource has a weak ETag only, which this server does not take in If-Match.", hintRefused
	}
	return noTagDetail(current.reason), "Repeat the request with If-Match: *, which overwrites any state, or have the server give the resource an ETag."
}

// isRefused reports whether the resource has a tag with which no If-Match can
// hold.
func (c *currentRepresentation) isRefused(weak string) bool {
	return c.tag.weak() && weak == weakReject
}

const hintRefused = "Repeat the request with If-Match: *, which overwrites any state, or have the server take weak ETags."

// noTagDetail says that a resource has no tag, and why.
func noTagDetail(why reason) string {
	detail := "The resource has no ETag"
	switch why {
	case reasonStatus, reasonNoMatch:
		detail += ", since the server gives none to such a response"
	case reasonNoStore:
		detail += ", since its Cache-Control is no-store"
	case reasonStream:
		detail += ", since it is a stream"
	case reasonPartial:
		detail += ", since a GET for it is answered with a part of it"
	case reasonTooLarge:
		detail += ", since it is too large"
	case reasonTooSlow:
		return "The resource came too slowly to get the ETag that If-Match could name."
	case reasonNoMemory:
		return "The server has no memory at the moment to make the ETag that If-Match could name."
	default:
	}
	return detail + "."
}

// methodSigned is the 412 for a write whose credentials are good for its
// method alone. Where a precondition is required, it can't be left out.
func methodSigned(c *conditions, required bool) problem {
	hint := "Send the request without preconditions, or with credentials that are good for a GET too."
	if required {
		hint = "Send the request with credentials that are good for a GET too."
	}
	return preconditionFailed(reasonUnreadable, entityTag{}, c,
		"The current state of the resource can't be read: the request's credentials are good for its method alone, and not for a GET. "+
			"A server whose backend checks preconditions itself should be set to if_match off.",
		hint)
}

// preconditionRequired is the 428 for a write that does not say what it
// replaces.
func preconditionRequired(c *conditions) problem {
	detail := "A write to this resource must say which state of it is to be changed."
	switch {
	case c.ifNoneMatch.present():
		detail += " If-None-Match with an ETag says only which one is not."
	case !c.ifUnmodifiedSince.IsZero():
		detail += " A date in If-Unmodified-Since is too coarse for that."
	}
	return newProblem(http.StatusPreconditionRequired, "", detail,
		"Fetch the resource, and repeat the request with its ETag in If-Match, or with If-None-Match: * to create it.")
}

// unavailable is the 503 for a write of which nothing has been written.
func unavailable(why reason) problem {
	detail, hint := "Another write to this resource is not done yet.", "Repeat the request after a while."
	switch why {
	case reasonLockFailed:
		detail = "The service that keeps writes to one resource apart does not work at the moment."
	case reasonNoMemory:
		detail = "The server has no memory for this request at the moment."
	case reasonHold:
		detail = "The current state of the resource could not be read in time."
	default: // busy
	}
	return newProblem(http.StatusServiceUnavailable, why, detail+" Nothing has been written.", hint)
}

// outcomeUnknown is the 504 for a write that the backend did not answer in
// time.
func outcomeUnknown() problem {
	return newProblem(http.StatusGatewayTimeout, reasonHold,
		"The server behind this one did not answer in time. The write may or may not have been done.",
		"Fetch the resource, and see whether the change is there, before you repeat the request.")
}

// sendProblem sends p to the client, or returns it as an error for Caddy's
// error routes, with `errors handle`. The 412's current tag goes into the ETag
// field either way. The response to a HEAD request has no body.
func (h *Handler) sendProblem(w http.ResponseWriter, p problem, head bool) error {
	header := w.Header()
	if p.problemTags != nil && p.CurrentETag != nil {
		header.Set("ETag", *p.CurrentETag)
	}
	if h.Errors == errorsHandle {
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
