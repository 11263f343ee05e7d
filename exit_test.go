package etag

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestProcessWaitsForWritesWhoseClientHasLeft when it ends: over HTTP/2 no
// server does.
func TestProcessWaitsForWritesWhoseClientHasLeft(t *testing.T) {
	for _, protocol := range []string{"h1", "h2c"} {
		for _, ifMatch := range []string{"*", ""} {
			t.Run(protocol+" "+ifMatch, func(t *testing.T) {
				began, commit := make(chan struct{}), make(chan struct{})
				ended := make(chan error, 1)
				upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method != http.MethodPut {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					close(began)
					select {
					case <-commit:
						ended <- nil
					case <-r.Context().Done():
						ended <- r.Context().Err()
					}
				}))
				defer upstream.Close()
				url, process := startProcessWithGrace(t, "1m", t.TempDir(), "", strings.TrimPrefix(upstream.URL, "http://"))

				ctx, leave := context.WithCancel(context.Background())
				req, err := http.NewRequestWithContext(ctx, http.MethodPut, url+"/doc", strings.NewReader("two"))
				require.NoError(t, err)
				if ifMatch != "" {
					req.Header.Set("If-Match", ifMatch)
				}
				client, left := clientFor(t, protocol, nil), make(chan struct{})
				go func() {
					defer close(left)
					if res, err := client.Do(req); err == nil {
						res.Body.Close()
					}
				}()
				<-began
				leave()
				<-left
				for range 10 { // with a connection that is open, a server waits for some time
					client.CloseIdleConnections()
					time.Sleep(10 * time.Millisecond)
				}
				require.NoError(t, process.Process.Signal(syscall.SIGTERM))
				time.Sleep(300 * time.Millisecond) // it would have ended by then, and has a minute
				close(commit)
				require.NoError(t, <-ended, "the write came to its end")
				require.NoError(t, process.Wait())
			})
		}
	}
}

// TestProcessEndsWithinItsGracePeriod, though a write goes on.
func TestProcessEndsWithinItsGracePeriod(t *testing.T) {
	began := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			_, _ = io.Copy(io.Discard, r.Body)
			close(began)
			<-r.Context().Done() // the proxy is gone
		}
	}))
	defer upstream.Close()
	url, process := startProcess(t, t.TempDir(), "", strings.TrimPrefix(upstream.URL, "http://"))
	go func() { _, _ = try(clientFor(t, "h2c", nil), "PUT", url+"/doc", "two", "If-Match", "*") }()
	<-began
	require.NoError(t, process.Process.Signal(syscall.SIGTERM))
	require.NoError(t, process.Wait())
}
