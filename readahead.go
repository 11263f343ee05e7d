package etag

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"
)

const (
	// readAheadSize is the largest body that is read while its request waits
	// for the lock.
	readAheadSize = 64 << 10
	// readAheadDelay is how long a request waits before its body is read.
	readAheadDelay = 10 * time.Millisecond
)

// readAhead reads the small body of a request that waits for the lock. Over
// HTTP/1, net/http notices that a client has left only once it has read all
// that the client has sent, and who has left must not be waited for.
//
// The body of a client that waits for 100 (Continue) is left alone.
type readAhead struct {
	io.ReadCloser // of the request's body
	timer         *time.Timer
	done          chan struct{} // closed when all has been read
	data          bytes.Reader
	err           error
}

// startReadAhead puts a readAhead in the place of the request's body. It
// returns nil if the body is not one to read ahead.
func startReadAhead(r *http.Request) *readAhead {
	if r.ProtoMajor != 1 || r.ContentLength <= 0 || r.ContentLength > readAheadSize || expectsContinue(r) {
		return nil
	}
	a := &readAhead{ReadCloser: r.Body, done: make(chan struct{})}
	a.timer = time.AfterFunc(readAheadDelay, a.read)
	return a
}

func (a *readAhead) read() {
	defer close(a.done)
	data, err := io.ReadAll(a.ReadCloser)
	a.data.Reset(data)
	a.err = err
}

// stop ends the wait. If the body has been, or is being, read, it becomes the
// body of the request.
func (a *readAhead) stop(r *http.Request) {
	if a != nil && !a.timer.Stop() {
		r.Body = a
	}
}

// Read hands out what has been read ahead.
func (a *readAhead) Read(p []byte) (int, error) {
	<-a.done
	n, err := a.data.Read(p)
	if errors.Is(err, io.EOF) && a.err != nil {
		err = a.err
	}
	return n, err
}

// finish puts the request's own body back. Nobody reads it any more then.
func (a *readAhead) finish(r *http.Request) {
	if a != nil && r.Body == a {
		<-a.done
		r.Body = a.ReadCloser
	}
}
