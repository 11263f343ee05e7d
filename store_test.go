package etag

import (
	"cmp"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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

func newStore(docs map[string]string) *store {
	if docs == nil {
		docs = make(map[string]string)
	}
	return &store{docs: docs}
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
