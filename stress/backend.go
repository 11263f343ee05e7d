package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// backend keeps documents, as simple backends do: it knows no tags, checks no
// precondition, and stores what it has got also when nobody waits for that any
// more. It does to a request what the plan of that says.
type backend struct {
	address string
	server  *http.Server
	jitter  time.Duration // reads take, where they have no plan

	mu       sync.Mutex
	docs     map[string]*document
	inFlight int
	idle     *sync.Cond
	handlers map[string]http.HandlerFunc // for what is no document, by the first segment
}

// document is what the backend has of one.
type document struct {
	content []byte
	tag     string // of the content; empty if there is none
	log     []string
	slow    map[string]bool // what took so long to be stored that nobody may have waited
}

// slowWrite is when a write counts as one that may have lost its lock: well
// before anything in Caddy runs out.
const slowWrite = time.Second

// tagOf is the tag that the handler gives a body.
func tagOf(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

func startBackend() *backend {
	b := &backend{docs: make(map[string]*document), handlers: make(map[string]http.HandlerFunc)}
	b.idle = sync.NewCond(&b.mu)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	b.address = ln.Addr().String()
	b.server = &http.Server{Handler: b, ReadHeaderTimeout: time.Minute, MaxHeaderBytes: 4 << 20}
	go func() { _ = b.server.Serve(ln) }()
	return b
}

func (b *backend) stop() { _ = b.server.Close() }

// handle has a handler of its own for paths that begin with a segment.
func (b *backend) handle(segment string, handler http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handlers[segment] = handler
}

// awaitIdle waits until the backend is at no request.
func (b *backend) awaitIdle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.inFlight > 0 {
		b.idle.Wait()
	}
}

// stored tells what has been stored of a document.
func (b *backend) stored(path string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.document(path).log, ", ")
}

// wasSlow reports whether a content took long to be stored, or has not been.
func (b *backend) wasSlow(path, tag string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.document(path).slow[tag]
}

// forgetBefore forgets the documents beside one that have lower numbers, which
// nobody asks for any more.
func (b *backend) forgetBefore(beside string, number int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.docs {
		if n, err := strconv.Atoi(path.Base(name)); err == nil && n < number && path.Dir(name) == path.Dir(beside) {
			delete(b.docs, name)
		}
	}
}

// document returns a document, with the mutex locked.
func (b *backend) document(path string) *document {
	doc := b.docs[path]
	if doc == nil {
		doc = &document{slow: make(map[string]bool)}
		b.docs[path] = doc
	}
	return doc
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.inFlight++
	segment, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	handler := b.handlers[segment]
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.inFlight--; b.inFlight == 0 {
			b.idle.Broadcast()
		}
	}()
	switch {
	case handler != nil:
		handler(w, r)
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		b.get(w, r, planOf(r))
	default:
		b.write(w, r, planOf(r), time.Now())
	}
}

func (b *backend) get(w http.ResponseWriter, r *http.Request, p plan) {
	if b.jitter > 0 && p == (plan{}) {
		p.Looking, p.Showing = rand.N(b.jitter), rand.N(b.jitter)
	}
	time.Sleep(p.Looking)
	b.mu.Lock()
	doc := b.document(r.URL.Path)
	content, exists := doc.content, doc.tag != ""
	b.mu.Unlock()
	time.Sleep(p.Showing)
	if !exists {
		http.Error(w, "no such document", http.StatusNotFound)
		return
	}
	switch p.Get {
	case "502":
		http.Error(w, "out of order", http.StatusBadGateway)
	case "hang":
		<-r.Context().Done()
	case "die":
		sendPart(w, r, content, int(p.At*float64(len(content))), p.Chunked)
	default:
		sendPart(w, r, content, len(content), p.Chunked)
	}
}

// sendPart sends a body, and dies if it is not to send all of it.
func sendPart(w http.ResponseWriter, r *http.Request, body []byte, part int, chunked bool) {
	if !chunked {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.Header().Set("Content-Type", "text/plain")
	if r.Method == http.MethodHead {
		return
	}
	if chunked {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
	}
	_, _ = w.Write(body[:part])
	if part < len(body) {
		die(w)
	}
}

// die ends the connection after what has been written.
func die(w http.ResponseWriter) {
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func (b *backend) write(w http.ResponseWriter, r *http.Request, p plan, begun time.Time) {
	if p.Write == "cut" { // it dies while the body comes
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		panic(http.ErrAbortHandler)
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // there is no one to tell
	}
	time.Sleep(p.Before)
	switch p.Write {
	case "502":
		http.Error(w, "out of order", http.StatusBadGateway)
		return
	case "die":
		panic(http.ErrAbortHandler)
	}

	status := b.store(r, content, begun)
	time.Sleep(p.After)
	switch p.Write {
	case "stored502":
		http.Error(w, "stored, and then out of order", http.StatusBadGateway)
		return
	case "storedDie":
		panic(http.ErrAbortHandler)
	case "storedCut":
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("stored, and then"))
		die(w)
	}
	w.WriteHeader(status)
}

func (b *backend) store(r *http.Request, content []byte, begun time.Time) (status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	doc := b.document(r.URL.Path)
	existed, tag := doc.tag != "", ""
	if r.Method != http.MethodDelete {
		tag = tagOf(content)
	}
	if time.Since(begun) > slowWrite {
		doc.slow[r.Header.Get(idField)] = true
	}
	doc.content, doc.tag = content, tag
	doc.log = append(doc.log, tag)
	switch {
	case tag == "" && !existed:
		return http.StatusNotFound
	case existed:
		return http.StatusNoContent
	}
	return http.StatusCreated
}
