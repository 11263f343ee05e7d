package etag

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestHeldBodyComesOutAsItCameIn, whatever its size is to the blocks that it
// is held in, and however it came.
func TestHeldBodyComesOutAsItCameIn(t *testing.T) {
	h := newHandler(t, Handler{})
	for _, blocks := range []int{0, 1, 2, 5} {
		for _, more := range []int{-17, -16, -1, 0, 1, 100} {
			body := pattern(max(blocks*32<<10+more, 0))
			for way, next := range map[string]caddyhttp.HandlerFunc{
				"at once":        writing(body, len(body)+1),
				"small pieces":   writing(body, 1021),
				"blocks":         writing(body, 32<<10),
				"read":           reading(body),
				"read in halves": readingFrom(func() io.Reader { return iotest.HalfReader(strings.NewReader(body)) }),
				"read with EOF":  readingFrom(func() io.Reader { return iotest.DataErrReader(strings.NewReader(body)) }),
			} {
				rec, err := serve(h, next, http.MethodGet)
				require.NoError(t, err)
				require.True(t, body == rec.Body.String(), "%d bytes, %s", len(body), way)
				require.Equal(t, tagFor(body), rec.Header().Get("ETag"))
			}
		}
	}
}

func readingFrom(open func() io.Reader) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		_, err := w.(io.ReaderFrom).ReadFrom(open())
		return err
	}
}

// TestMaxSizeIsTheLargestBodyThatIsHeld: one more byte, and it is passed on
// complete, untagged, whether the length is known or not.
func TestMaxSizeIsTheLargestBodyThatIsHeld(t *testing.T) {
	for _, limit := range []int{1, 100, 32<<10 - 16, 32 << 10, 100_000} {
		h := newHandler(t, Handler{MaxSize: int64(limit)})
		for _, size := range []int{limit - 1, limit, limit + 1, 2*limit + 1} {
			body := pattern(size)
			for way, next := range map[string]caddyhttp.HandlerFunc{
				"at once": writing(body, size+1), "in pieces": writing(body, 77), "read": reading(body),
			} {
				for _, length := range []string{"", fmt.Sprint(size)} {
					rec, err := serve(h, func(w http.ResponseWriter, r *http.Request) error {
						if length != "" {
							w.Header().Set("Content-Length", length)
						}
						return next(w, r)
					}, http.MethodGet)
					require.NoError(t, err)
					require.True(t, body == rec.Body.String(), "%d bytes of %d, %s", size, limit, way)
					tag := ""
					if size <= limit {
						tag = tagFor(body)
					}
					require.Equal(t, tag, rec.Header().Get("ETag"), "%d bytes of %d, %s", size, limit, way)
				}
			}
		}
	}
}

// TestHeadOfABodyPastTheLimitIsThatOfTheGet which has no tag either.
func TestHeadOfABodyPastTheLimitIsThatOfTheGet(t *testing.T) {
	h := newHandler(t, Handler{MaxSize: 100})
	for _, next := range []caddyhttp.HandlerFunc{writing(pattern(101), 10), reading(pattern(101))} {
		full, err := serve(h, next, http.MethodGet)
		require.NoError(t, err)
		head, err := serve(h, next, http.MethodHead)
		require.NoError(t, err)
		require.Empty(t, head.Body.String())
		require.Equal(t, full.Result().Header, head.Result().Header)
		require.Equal(t, "application/octet-stream", head.Header().Get("Content-Type"), "net/http sees no body to tell by")
	}
}

// brokenWriter is a client that has gone after some bytes.
type brokenWriter struct {
	*httptest.ResponseRecorder
	left int
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		n := w.left
		w.left = 0
		return n, errors.New("the client has gone")
	}
	w.left -= len(p)
	return w.ResponseRecorder.Write(p)
}

// TestClientThatGoesEndsTheResponse: it is not whole, and nobody may think so.
func TestClientThatGoesEndsTheResponse(t *testing.T) {
	h := newHandler(t, Handler{})
	require.PanicsWithError(t, http.ErrAbortHandler.Error(), func() {
		w := &brokenWriter{httptest.NewRecorder(), 40_000}
		_ = h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil), writing(pattern(100_000), 1000))
	})
}
