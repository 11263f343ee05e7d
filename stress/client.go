package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/caddyetag/caddy-etag/stress/history"
)

// idField is by what the backend's notes on a request are found again.
const idField = "X-Id"

// newClient returns a client that speaks HTTP/1.1 or HTTP/2. Neither asks for
// compression nor follows redirects.
func newClient(http2 bool) *http.Client {
	protocols := new(http.Protocols)
	if http2 {
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP1(true)
	}
	return &http.Client{
		Transport: &http.Transport{
			Protocols: protocols, DisableCompression: true, MaxIdleConnsPerHost: 64,
			ExpectContinueTimeout: 30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       time.Minute,
	}
}

// request is one that a client sends for a document.
type request struct {
	op      history.Operation
	address string // of the Caddy
	path    string
	method  string // if not the usual one
	id      string
	body    []byte
	plan    plan
	leaveAt time.Duration // after which the client leaves, if it is not 0
	cutAt   int           // bytes of the body after which the client leaves, if it is not 0
	expects bool          // it waits for 100 (Continue)
	unsized bool          // its body has no Content-Length
}

// send sends a request, and returns the operation with its answer.
func (w *world) send(client *http.Client, req request) history.Operation {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	op := req.op
	method := req.method
	if method == "" {
		method = methodOf(op.Kind)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+req.address+req.path, nil)
	check(err)
	if op.Kind == history.Write {
		op.Content = tagOf(req.body)
		r.Body, r.ContentLength = io.NopCloser(req.bodyReader(leave)), int64(len(req.body))
		if req.unsized {
			r.ContentLength = -1
		}
		if req.expects {
			r.Header.Set("Expect", "100-continue")
		}
	}
	setField(r.Header, "If-Match", op.IfMatch)
	setField(r.Header, "If-None-Match", op.IfNoneMatch)
	if op.Kind != history.Read { // whose fields are what is remembered by
		setField(r.Header, idField, req.id)
	}
	req.plan.set(r.Header)
	op.Late = req.plan.Before >= slowWrite

	if req.leaveAt > 0 {
		defer time.AfterFunc(req.leaveAt, leave).Stop()
	}
	op.Call, op.Return = w.now(), history.Never
	res, err := client.Do(r)
	if err != nil {
		return op
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return op // what came is no answer, whatever its status is
	}
	if res.StatusCode == statusClientClosedRequest {
		w.endedByAnother()
		op.Late = true // the backend goes on
		return op
	}
	end := w.now()
	op.Status, op.Tag = res.StatusCode, res.Header.Get("ETag")
	switch {
	case op.Kind == history.Read && op.Status >= 500:
		op.Status, op.Tag = 0, ""
		return op
	case op.Kind == history.Read && op.Status == http.StatusOK:
		op.Got = tagOf(content)
	case op.Kind == history.Read && op.Status == http.StatusNotModified:
		op.Remembered = res.Header.Get("Age") != ""
	case op.Kind != history.Read && saysNotWritten(res, content):
		op.Status, op.Tag = history.Refused, ""
	}
	op.Return = end
	return op
}

// statusClientClosedRequest is Caddy's answer to a client that it takes for one
// that has left.
const statusClientClosedRequest = 499

const answersOf499 = "answers of 499"

// endedByAnother counts a request whose client has not left, but another one:
// Go's transport may end one that has got the connection of a canceled one whose
// answer had no body (https://go.dev/issue/41600, seen with Go 1.26 still). That
// is as if the backend had died, and is rare.
func (w *world) endedByAnother() {
	w.result.add(answersOf499, 1)
	if w.result.figure(answersOf499) > 5+w.result.figure("operations")/1000 {
		w.found("clients that have not left are answered with 499")
	}
}

// saysNotWritten reports whether an answer is the handler's own 503.
func saysNotWritten(res *http.Response, content []byte) bool {
	return res.StatusCode == http.StatusServiceUnavailable &&
		strings.HasPrefix(res.Header.Get("Content-Type"), "application/problem+json") && bytes.Contains(content, []byte(`"reason"`))
}

func methodOf(kind history.Kind) string {
	switch kind {
	case history.Write:
		return http.MethodPut
	case history.Delete:
		return http.MethodDelete
	case history.Read:
	}
	return http.MethodGet
}

func setField(header http.Header, name, value string) {
	if value != "" {
		header.Set(name, value)
	}
}

// bodyReader returns a reader of the body that a client sends, or of the part
// that it sends before it leaves.
func (req request) bodyReader(leave func()) io.Reader {
	if req.cutAt == 0 || req.cutAt >= len(req.body) {
		return bytes.NewReader(req.body)
	}
	return io.MultiReader(bytes.NewReader(req.body[:req.cutAt]), &leaving{leave})
}

// leaving is where a body ends whose client leaves.
type leaving struct{ leave func() }

func (l *leaving) Read([]byte) (int, error) {
	time.Sleep(time.Millisecond) // what has been sent may arrive
	l.leave()
	return 0, errors.New("the client leaves")
}

// newBody returns a body that no other request has.
func newBody(random *rand.Rand, id string) []byte {
	size := random.IntN(2000)
	if random.IntN(50) == 0 {
		size = random.IntN(200_000)
	}
	body := fmt.Appendf(nil, "%s\n", id)
	filler := make([]byte, 16)
	for len(body) < size {
		for i := range filler {
			filler[i] = byte(random.Uint32())
		}
		body = hex.AppendEncode(body, filler)
	}
	return body
}
