//go:build unix

package clustertest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Backend keeps documents, knows nothing of ETags, and watches for writes that
// should not have come: two to one document at a time, and one that rests on
// what is no longer current.
type Backend struct {
	Address string

	mu      sync.Mutex
	docs    map[string]string
	writing map[string]int
	inside  map[string]int // requests that are held up, by method
	stored  int
	faults  []string
	gates   map[string]chan struct{}
}

// StartBackend starts a backend that ends with the test.
func StartBackend(tb testing.TB) *Backend {
	b := &Backend{
		docs:    make(map[string]string),
		writing: make(map[string]int),
		inside:  make(map[string]int),
		gates:   make(map[string]chan struct{}),
	}
	server := httptest.NewServer(b)
	b.Address = strings.TrimPrefix(server.URL, "http://")
	tb.Cleanup(func() {
		b.Open(http.MethodGet)
		b.Open(http.MethodPut)
		server.CloseClientConnections()
		server.Close()
		b.Check(tb)
	})
	return b
}

// Tag is the tag that the handler makes of a body by default.
func Tag(body string) string {
	sum := sha256.Sum256([]byte(body))
	return fmt.Sprintf(`"%x"`, sum[:16])
}

func (b *Backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if r.Method == http.MethodPut {
		b.begin(r)
		defer b.end(r)
	}
	if !b.pass(r) {
		return // a write whose sender is gone is not done
	}
	if r.Method == http.MethodPut {
		b.store(r, string(body))
		w.WriteHeader(http.StatusNoContent)
		return
	}
	b.mu.Lock()
	doc, found := b.docs[r.URL.Path]
	b.mu.Unlock()
	if !found {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, doc)
}

// pass holds a request up while its method's gate is shut.
func (b *Backend) pass(r *http.Request) bool {
	b.mu.Lock()
	gate := b.gates[r.Method]
	if gate == nil {
		b.mu.Unlock()
		return true
	}
	b.inside[r.Method]++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.inside[r.Method]--
	}()
	select {
	case <-gate:
		return true
	case <-r.Context().Done():
		return false
	}
}

func (b *Backend) begin(r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writing[r.URL.Path]++
	if n := b.writing[r.URL.Path]; n > 1 {
		b.faults = append(b.faults, fmt.Sprintf("%d writes to %s at one time", n, r.URL.Path))
	}
}

func (b *Backend) end(r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writing[r.URL.Path]--
}

func (b *Backend) store(r *http.Request, body string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if base, current := r.Header.Get("X-Base"), Tag(b.docs[r.URL.Path]); base != "" && base != current {
		b.faults = append(b.faults, fmt.Sprintf("a write to %s rests on %s, but %s is current", r.URL.Path, base, current))
	}
	b.docs[r.URL.Path] = body
	b.stored++
}

// Set stores a document without further ado.
func (b *Backend) Set(path, body string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.docs[path] = body
}

// Stored returns how many writes were done.
func (b *Backend) Stored() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stored
}

// Shut holds up requests with a method from now on.
func (b *Backend) Shut(method string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gates[method] == nil {
		b.gates[method] = make(chan struct{})
	}
}

// Open lets those go on that were held up, and all others.
func (b *Backend) Open(method string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if gate := b.gates[method]; gate != nil {
		close(gate)
		delete(b.gates, method)
	}
}

// Inside returns how many requests with a method are held up.
func (b *Backend) Inside(method string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inside[method]
}

// Check asserts that no write came that should not have.
func (b *Backend) Check(tb testing.TB) {
	tb.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fault := range b.faults {
		tb.Error(fault)
	}
	b.faults = nil
}
