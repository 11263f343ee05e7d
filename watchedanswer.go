package etag

import (
	"bufio"
	"io"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// watchedAnswer is an answer that goes to the client as it comes, and tells
// when it begins.
type watchedAnswer struct {
	*caddyhttp.ResponseWriterWrapper
	began    func(status int) // is called before the header is sent
	hijacked func()           // is called before downstream gets the connection
	hasBegun bool
}

func watchAnswer(w http.ResponseWriter, began func(status int), hijacked func()) *watchedAnswer {
	return &watchedAnswer{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		began:                 began,
		hijacked:              hijacked,
	}
}

// WriteHeader notes that the answer has begun.
func (a *watchedAnswer) WriteHeader(status int) {
	if !a.hasBegun && (status >= 200 || status == http.StatusSwitchingProtocols) {
		a.hasBegun = true
		a.began(status)
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *watchedAnswer) begin() {
	if !a.hasBegun {
		a.WriteHeader(http.StatusOK)
	}
}

func (a *watchedAnswer) Write(p []byte) (int, error) {
	a.begin()
	return a.ResponseWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (a *watchedAnswer) ReadFrom(r io.Reader) (int64, error) {
	a.begin()
	return a.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError is for http.ResponseController.
func (a *watchedAnswer) FlushError() error {
	a.begin()
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Hijack hands the client's connection to downstream.
func (a *watchedAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err == nil {
		a.hijacked()
	}
	return conn, buf, err
}

// Interface guards
var (
	_ io.ReaderFrom = (*watchedAnswer)(nil)
	_ http.Hijacker = (*watchedAnswer)(nil)
)
