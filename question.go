package etag

import (
	"crypto/rand"
	"encoding/binary"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/minio/highwayhash"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// question is a read as remember knows it: by all that its answer may depend
// on. Nobody gets an answer that was computed for another question.
type question struct {
	key     questionKey
	at      instant // when it was asked
	written string  // the key that a write to the resource forgets by
	changes uint64  // of the resource, when it was asked
}

// questionKey is a hash with the process's secret. Who chooses questions can't
// find two that have one.
type questionKey [highwayhash.Size]byte

// questionSecret is drawn once in the life of the process.
var questionSecret = sync.OnceValue(func() []byte {
	secret := make([]byte, highwayhash.Size)
	_, _ = rand.Read(secret) // never fails
	return secret
})

// newQuestion returns the question of a read, and whether it is one whose
// answer may be remembered: not one with a body, not one that a framework may
// take for another method, and not one that an error route answers.
func (h *Handler) newQuestion(r *http.Request) (q question, ok bool) {
	if hasContent(r) || r.Context().Value(caddyhttp.ErrorCtxKey) != nil {
		return question{}, false
	}
	for name := range r.Header {
		if isMethodOverride(name) {
			return question{}, false
		}
	}
	q.at = now()
	q.written = resourceKey(r)
	q.changes = changes.count(q.written)
	q.key = h.questionKey(r)
	return q, true
}

// questionText is the room in which the text of a question is put together.
type questionText struct {
	text  []byte
	names []string
}

var questionTexts = sync.Pool{New: func() any { return new(questionText) }}

// questionKey hashes the question. Each part goes in with its length, so that
// no two questions have one text.
func (h *Handler) questionKey(r *http.Request) questionKey {
	t := questionTexts.Get().(*questionText)
	defer questionTexts.Put(t)
	t.text, t.names = t.text[:0], t.names[:0]

	scheme, certificate, server := "http", []byte(nil), ""
	if r.TLS != nil {
		scheme = "https"
		if len(r.TLS.PeerCertificates) > 0 {
			certificate = r.TLS.PeerCertificates[0].Raw
		}
	}
	if s, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server = s.Name()
	}
	t.add(r.Method)
	t.add(scheme)
	t.add(string(certificate))
	t.add(server)
	t.add(r.Host)
	t.add(r.URL.EscapedPath())
	t.add(r.URL.RawQuery)
	original := originalURL(r) // downstream sees that too
	t.add(original.EscapedPath())
	t.add(original.RawQuery)
	t.add(h.version(r))

	for name := range r.Header {
		if !changesNoAnswer(name) {
			t.names = append(t.names, name)
		}
	}
	slices.Sort(t.names)
	for _, name := range t.names {
		t.add(name)
		lines := r.Header[name]
		t.text = binary.AppendUvarint(t.text, uint64(len(lines)))
		for _, line := range lines {
			t.add(line)
		}
	}
	return highwayhash.Sum(t.text, questionSecret())
}

func (t *questionText) add(part string) {
	t.text = binary.AppendUvarint(t.text, uint64(len(part)))
	t.text = append(t.text, part...)
}

// changesNoAnswer reports whether a request field, whose name is canonical, is
// one that answers don't depend on, unless they say so in Vary. Every other
// field is a part of the question, also one that no Vary names: a backend may
// have forgotten it, and an API key may be in any field.
func changesNoAnswer(name string) bool {
	switch name {
	case "User-Agent", "Referer", "Dnt", "Cache-Control", "Pragma",
		// ids of a request, or of the trace that it is in
		"X-Request-Id", "X-Correlation-Id", "Request-Id", "Correlation-Id", "X-Trace-Id",
		"Traceparent", "Tracestate", "B3", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags",
		"X-Amzn-Trace-Id", "X-Cloud-Trace-Context", "Uber-Trace-Id", "Sentry-Trace", "X-Datadog-Trace-Id", "X-Datadog-Parent-Id", "Cf-Ray":
		return true
	}
	return strings.HasPrefix(name, "Sec-") || strings.HasPrefix(name, "If-")
}

// wantsFresh reports whether a request asks for more than a remembered answer
// of this age, in seconds: its Cache-Control says no-cache, or allows no such
// age (RFC 9111 §5.2.1).
func wantsFresh(header http.Header, age int64) bool {
	for directive := range directives(header["Cache-Control"]) {
		name, value, _ := strings.Cut(directive, "=")
		switch {
		case strings.EqualFold(name, "no-cache"), strings.EqualFold(name, "no-store"):
			return true
		case strings.EqualFold(name, "max-age"):
			if allowed, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64); err != nil || allowed == 0 || age > allowed {
				return true
			}
		}
	}
	for directive := range directives(header["Pragma"]) {
		if strings.EqualFold(directive, "no-cache") {
			return true
		}
	}
	return false
}

// directives iterates over the members of a list such as Cache-Control's.
func directives(lines []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for directive := range strings.SplitSeq(line, ",") {
				if !yield(trimOWS(directive)) {
					return
				}
			}
		}
	}
}
