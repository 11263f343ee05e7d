package etag

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// requestBody is the body of a write. What is read of it before the write takes
// its lock is held here, so that nobody waits for a client that sends slowly.
//
// A transport may read from it even after the handler has come to its end: so
// its memory is given back under a mutex, and its hasher not at all.
type requestBody struct {
	client io.ReadCloser
	length int64  // Content-Length, or -1
	cutOff func() // called before downstream gets to know that the body was cut off

	mu       sync.Mutex
	held     held.Body
	next     io.Reader // of held, nil if nothing is
	released bool
	received int64   // bytes from the client
	read     bool    // the client's body has been read to its end, or failed
	err      error   // which it failed with
	hash     *hasher // of what downstream has read, nil if not wanted
	ended    bool    // downstream has read all of it
}

// errBodyReleased is for who reads a body when its request is over.
var errBodyReleased = errors.New("etag: the request is over")

// newRequestBody puts a requestBody in the place of the request's own.
func newRequestBody(r *http.Request, budget *held.Budget, cutOff func()) *requestBody {
	b := &requestBody{client: r.Body, length: r.ContentLength, cutOff: cutOff}
	b.held.Budget = budget
	b.read = r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0
	b.ended = b.read
	if !b.read {
		r.Body = b
	}
	return b
}

// readsAhead reports whether the body is one to be read before the lock is
// taken: neither one that is larger than limit, nor one that the client wants to
// be passed on as it comes.
func (b *requestBody) readsAhead(r *http.Request, guarded bool, limit int64) bool {
	switch {
	case b.read, caddyhttp.IsIncremental(r.Header), len(r.Header["Upgrade"]) > 0:
		return false
	case r.ContentLength < 0:
		return guarded
	}
	return r.ContentLength <= limit
}

// readAhead reads the body up to limit bytes. It reports whether there was
// memory for them.
func (b *requestBody) readAhead(limit int64) bool {
	for b.held.Size() <= limit {
		room := b.held.Room()
		if room == nil {
			b.next = b.held.NewReader() // an error route may want the body
			return false
		}
		n, err := b.client.Read(room[:min(int64(len(room)), limit-b.held.Size()+1)])
		b.held.Grow(n)
		b.took(n, err)
		if err != nil {
			break
		}
	}
	b.next = b.held.NewReader()
	return true
}

// took notes what came from the client. A body that ends short is an error,
// whatever the protocol makes of it.
func (b *requestBody) took(n int, err error) {
	b.received += int64(n)
	if err == nil {
		return
	}
	b.read = true
	switch {
	case !errors.Is(err, io.EOF):
		b.err = err
	case b.length >= 0 && b.received < b.length:
		b.err = io.ErrUnexpectedEOF
	}
}

// wholly reports whether the client has sent all of the body. From then on its
// leaving says nothing about the write.
func (b *requestBody) wholly() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err == nil && (b.read || b.isWhole())
}

// isRead reports whether nobody waits for the client any more: over HTTP/2, the
// end of a body may come after all of its bytes, or never.
func (b *requestBody) isRead() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

// isWhole reports whether all bytes that the client has announced have come. The
// backend may have them then, whatever becomes of the client.
func (b *requestBody) isWhole() bool { return b.length >= 0 && b.received >= b.length }

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, more, err := b.readHeld(p)
	if more {
		n, err = b.client.Read(p)
		err = b.takeFromClient(p[:n], err)
	}
	if isCutOff(err) {
		// Over HTTP/2, the client's context may not have ended yet, and
		// reverse_proxy would take this for a failure of its upstream.
		b.cutOff()
		err = fmt.Errorf("%w: reading the request body: %w", context.Canceled, err)
	}
	return n, err
}

// isCutOff reports whether a body ended in this error because of its client. It
// may also be one of a handler above, such as request_body.
func isCutOff(err error) bool {
	var tooLarge *http.MaxBytesError
	var handlerErr caddyhttp.HandlerError
	return err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errBodyReleased) &&
		!errors.As(err, &tooLarge) && !errors.As(err, &handlerErr)
}

// takeFromClient notes what has been read from the client, and returns what
// that read ended in.
func (b *requestBody) takeFromClient(p []byte, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil && b.received+int64(len(p)) == b.length {
		err = io.EOF
	}
	b.took(len(p), err)
	if b.err != nil {
		err = b.err
	}
	b.note(p, err)
	return err
}

// readHeld reads what is held. It reports whether there is more to read from
// the client.
func (b *requestBody) readHeld(p []byte) (n int, more bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.released {
		return 0, false, errBodyReleased
	}
	if b.next != nil {
		if n, _ = b.next.Read(p); n > 0 || len(p) == 0 {
			b.note(p[:n], nil)
			return n, false, nil
		}
	}
	if !b.read {
		return 0, true, nil
	}
	if err = b.err; err == nil {
		err = io.EOF
	}
	b.note(nil, err)
	return 0, false, err
}

func (b *requestBody) note(p []byte, err error) {
	if b.hash != nil {
		_, _ = b.hash.Write(p) // never fails
	}
	b.ended = b.ended || errors.Is(err, io.EOF)
}

// Close implements io.Closer.
func (b *requestBody) Close() error { return b.client.Close() }

// sent reports whether downstream has read all of the body, and it has this
// digest.
func (b *requestBody) sent(digest []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hash != nil && b.ended && digest != nil && bytes.Equal(digest, b.hash.digest())
}

// release gives back what is held.
func (b *requestBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released = true
	b.held.Release()
}

// expectsContinue reports whether the client waits for a 100 (Continue)
// before it sends the request's body.
func expectsContinue(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Expect"), "100-continue")
}
