package etag

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// This file has backends, and what they answer with.

// startUpstream runs a backend until the end of the test, and returns its
// address.
func startUpstream(tb testing.TB, handler http.HandlerFunc) string {
	tb.Helper()
	srv := httptest.NewServer(handler)
	tb.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// store is a backend that keeps documents by path and knows nothing of ETags.
// It notes every request that reaches it.
type store struct {
	mu       sync.Mutex
	docs     map[string]string
	requests []*http.Request
	writes   int // requests that changed something

	// tag, if set, makes the store's own ETag of a document.
	tag func(doc string) string
	// mediaType, if set, is the Content-Type of the documents.
	mediaType string
	// answer, if set, answers a request in place of the store, if it returns true.
	answer func(w http.ResponseWriter, r *http.Request) bool
	// delay is how long a write takes.
	delay func() time.Duration
	// transform is what becomes of a document on its way in.
	transform func(doc string) string
}

// start runs the store until the end of the test, and returns its address.
func (s *store) start(tb testing.TB) string { return startUpstream(tb, s.ServeHTTP) }

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Clone(r.Context()))
	answer := s.answer
	s.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}

	if r.Method == http.MethodGet {
		s.get(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if s.delay != nil {
		time.Sleep(s.delay())
	}
	s.write(w, r, string(body))
}

func (s *store) get(w http.ResponseWriter, r *http.Request) {
	doc, found := s.doc(r.URL.Path)
	if !found {
		http.Error(w, "no such document", http.StatusNotFound)
		return
	}
	if s.tag != nil {
		w.Header().Set("ETag", s.tag(doc))
	}
	w.Header().Set("Content-Type", cmp.Or(s.mediaType, "text/plain"))
	_, _ = io.WriteString(w, doc)
}

func (s *store) write(w http.ResponseWriter, r *http.Request, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	_, found := s.docs[r.URL.Path]
	switch r.Method {
	case http.MethodPut:
		if s.transform != nil {
			body = s.transform(body)
		}
		s.docs[r.URL.Path] = body
		if !found {
			w.WriteHeader(http.StatusCreated)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPatch:
		s.docs[r.URL.Path] += body
		_, _ = io.WriteString(w, "patched")
	case http.MethodDelete:
		delete(s.docs, r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *store) doc(path string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, found := s.docs[path]
	return doc, found
}

// seen returns the methods of the requests that reached the store since the
// last call, in order.
func (s *store) seen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	methods := make([]string, 0, len(s.requests))
	for _, r := range s.requests {
		methods = append(methods, r.Method)
	}
	s.requests = nil
	return strings.Join(methods, " ")
}

// last returns the last request with this method.
func (s *store) last(tb testing.TB, method string) *http.Request {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.Backward(s.requests) {
		if r.Method == method {
			return r
		}
	}
	require.Fail(tb, "the store has seen no "+method)
	return nil
}

// changes returns how many writes the store has done.
func (s *store) changes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func newStore(docs map[string]string) *store {
	if docs == nil {
		docs = make(map[string]string)
	}
	return &store{docs: docs}
}

// startStore runs a store with a guarded site in front.
func startStore(tb testing.TB, options string, docs map[string]string) (s *store, url string, client *http.Client) {
	tb.Helper()
	s = newStore(docs)
	url = startCaddy(tb, "etag {\n"+options+"\n}\nreverse_proxy "+s.start(tb))
	return s, url, clientFor(tb, "h1", nil)
}

// oneDoc is what most tests store; oneTag is its tag.
var oneDoc = map[string]string{"/doc": "one"}

const oneTag = `"7692c3ad3540bb803c020b3aee66cd88"`

// longText is more than encode's minimum_length.
var longText = strings.Repeat("some text to compress. ", 100)

// pattern returns n bytes that are easy to make elsewhere: byte i is i mod 251.
func pattern(n int) string {
	bytes := make([]byte, n)
	for i := range bytes {
		bytes[i] = byte(i % 251)
	}
	return string(bytes)
}

// jsonDocument is a list of about this size, as an API would send it, with
// members in an order that is not the canonical one.
func jsonDocument(size int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"items": [`)
	for i := 0; b.Len() < size-200; i++ {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, `{"name": "Espresso cup %d", "id": %d, "price": %d.5, "tags": ["kitchen", "caf\u00e9", "a \"b\""], `+
			`"active": true, "stock": {"oslo": %d, "bergen": null}}`, i, i, i%100, i%7)
	}
	b.WriteString(`], "total": 17}`)
	return b.Bytes()
}
