package etag

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// halfway is a backend that writes the first half of its body, and the second
// when it is told to.
type halfway struct {
	prepare func(header http.Header)
	resume  chan struct{}
}

const firstHalf, secondHalf = "first half, ", "second half"

func (b halfway) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if b.prepare != nil {
		b.prepare(w.Header())
	}
	_, _ = io.WriteString(w, firstHalf)
	_ = http.NewResponseController(w).Flush()
	<-b.resume
	_, _ = io.WriteString(w, secondHalf)
	w.Header().Set("X-Sum", "1")
}

// TestMaxDelayPassesOnWhatIsHeld: the client gets the first half while the
// backend is silent, and then the rest.
func TestMaxDelayPassesOnWhatIsHeld(t *testing.T) {
	for name, prepare := range map[string]func(http.Header){
		"chunked":        nil,
		"Content-Length": func(h http.Header) { h.Set("Content-Length", strconv.Itoa(len(firstHalf+secondHalf))) },
		"trailers":       func(h http.Header) { h.Set("Trailer", "X-Sum") },
	} {
		for _, protocol := range []string{"h1", "h2c"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				backend := halfway{prepare, make(chan struct{})}
				url := startCaddy(t, "etag {\nmax_delay 1ms\n}\nreverse_proxy "+startUpstream(t, backend.ServeHTTP))
				res, err := clientFor(t, protocol, nil).Get(url)
				require.NoError(t, err)
				defer res.Body.Close()
				half := make([]byte, len(firstHalf))
				_, err = io.ReadFull(res.Body, half)
				require.NoError(t, err)
				require.Equal(t, firstHalf, string(half))

				close(backend.resume)
				rest, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Equal(t, secondHalf, string(rest))
				require.Empty(t, res.Header.Get("ETag"))
				if name == "trailers" {
					require.Equal(t, "1", res.Trailer.Get("X-Sum"))
				}
			})
		}
	}
}

// TestMaxDelayCountsFromTheHeader: not even the first byte of the body is
// there.
func TestMaxDelayCountsFromTheHeader(t *testing.T) {
	resume := make(chan struct{})
	url := startCaddy(t, "etag {\nmax_delay 1ms\n}\nreverse_proxy "+startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-resume
	}))
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	close(resume)
	require.Empty(t, res.Header.Get("ETag"))
}

// TestMaxDelayWhileTheBodyIsReadFromAReader: the reader has a block of the
// body in its hands when the body leaves.
func TestMaxDelayWhileTheBodyIsReadFromAReader(t *testing.T) {
	h := newHandler(t, Handler{MaxDelay: caddy.Duration(time.Millisecond)})
	reader, writer := io.Pipe()
	flushed := &flushRecorder{ResponseRecorder: httptest.NewRecorder(), flushes: make(chan string, 1)}
	go func() {
		_, _ = io.WriteString(writer, firstHalf)
		// nothing, if the delay was over before the first half was there
		if got := <-flushed.flushes; got != firstHalf && got != "" {
			_ = writer.CloseWithError(fmt.Errorf("flushed %q", got))
			return
		}
		_, _ = io.WriteString(writer, secondHalf)
		_ = writer.Close()
	}()
	err := h.ServeHTTP(flushed, httptest.NewRequest(http.MethodGet, "/", nil), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		_, err := w.(io.ReaderFrom).ReadFrom(reader)
		return err
	}))
	require.NoError(t, err)
	require.Equal(t, firstHalf+secondHalf, flushed.Body.String())
	require.Empty(t, flushed.Header().Get("ETag"))
	require.Zero(t, h.budget.Held())
}

// flushRecorder tells what has been written when it is flushed first.
type flushRecorder struct {
	*httptest.ResponseRecorder
	once    sync.Once
	flushes chan string
}

func (r *flushRecorder) Flush() { r.once.Do(func() { r.flushes <- r.Body.String() }) }

// TestNoMaxDelay holds a body for longer than the default, which the test
// sees from its tag.
func TestNoMaxDelay(t *testing.T) {
	backend := halfway{nil, make(chan struct{})}
	url := startCaddy(t, "etag {\nmax_delay -1\n}\nreverse_proxy "+startUpstream(t, backend.ServeHTTP))
	time.AfterFunc(defaultMaxDelay+100*time.Millisecond, func() { close(backend.resume) })
	require.Equal(t, tagFor(firstHalf+secondHalf), get(t, url).tag())
}

// TestDelayAndEndOfABodyMeet has the delay fire at about the time at which the
// body ends and trailers are set. It is for the race detector, and for a body
// that is lost or doubled.
func TestDelayAndEndOfABodyMeet(t *testing.T) {
	const delay = 100 * time.Microsecond
	h := newHandler(t, Handler{})
	h.timers = held.NewTimers(delay) // less than the option can be
	t.Cleanup(h.timers.Cleanup)
	for range 2000 {
		w := httptest.NewRecorder()
		err := h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, firstHalf)
			time.Sleep(rand.N(2 * delay))
			_, err := io.WriteString(w, secondHalf)
			w.Header().Set("X-Sum", "1")
			return err
		}))
		require.NoError(t, err)
		require.Equal(t, firstHalf+secondHalf, w.Body.String())
		require.Equal(t, "1", w.Header().Get("X-Sum"))
		require.Zero(t, h.budget.Held())
	}
}

// TestMaxMemoryIsForAllBodiesOfAHandler: a body for which there is no more
// memory passes, and the memory is there again when the other is done.
func TestMaxMemoryIsForAllBodiesOfAHandler(t *testing.T) {
	h := newHandler(t, Handler{MaxMemory: 2 * held.BlockSize})
	body := strings.Repeat("x", 2*held.BlockSize)
	w, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, body) // takes all there is

		other, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, "other ")
			_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("body"))
			return err
		}, http.MethodGet)
		assert.NoError(t, err)
		assert.Equal(t, "other body", other.Body.String())
		assert.Empty(t, other.Header().Get("ETag"))
		assert.EqualValues(t, 2*held.BlockSize, h.budget.Held())
		return nil
	}, http.MethodGet)
	require.NoError(t, err)
	require.Equal(t, tagFor(body), w.Header().Get("ETag"))
	require.Zero(t, h.budget.Held())

	// one byte more than fits
	w, err = serve(h, func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.WriteString(w, body+"x")
		return err
	}, http.MethodGet)
	require.NoError(t, err)
	require.Equal(t, body+"x", w.Body.String())
	require.Empty(t, w.Header().Get("ETag"))
	require.Zero(t, h.budget.Held())
}

// TestMemoryIsGivenBackOnEveryWayOut counts what is held after each way in
// which a response can end.
func TestMemoryIsGivenBackOnEveryWayOut(t *testing.T) {
	h := newHandler(t, Handler{MaxSize: 100 << 10})
	write := func(w http.ResponseWriter, size int) {
		_, _ = io.WriteString(w, strings.Repeat("x", size))
	}
	for name, next := range map[string]caddyhttp.HandlerFunc{
		"tagged":    func(w http.ResponseWriter, _ *http.Request) error { write(w, 70<<10); return nil },
		"too large": func(w http.ResponseWriter, _ *http.Request) error { write(w, 70<<10); write(w, 70<<10); return nil },
		"an error":  func(w http.ResponseWriter, _ *http.Request) error { write(w, 70<<10); return errOfHandler },
		"a panic":   func(w http.ResponseWriter, _ *http.Request) error { write(w, 70<<10); panic(http.ErrAbortHandler) },
		"short": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Length", "9")
			write(w, 8)
			return nil
		},
		"long": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Length", "9")
			write(w, 10)
			return nil
		},
	} {
		for _, fields := range [][]string{nil, {"If-None-Match", tagFor(strings.Repeat("x", 70<<10))}, {"If-Match", `"x"`}} {
			func() {
				defer func() { _ = recover() }()
				_, _ = serve(h, next, http.MethodGet, fields...)
			}()
			require.Zero(t, h.budget.Held(), name)
		}
	}
}

// TestHeldMemoryIsHardlyMoreThanTheBodies: 1.1 times the bodies at the most,
// and a block.
func TestHeldMemoryIsHardlyMoreThanTheBodies(t *testing.T) {
	h := newHandler(t, Handler{})
	for _, size := range []int{1, 1 << 10, held.BlockSize, held.BlockSize + 1, 1 << 20, 8 << 20} {
		for _, piece := range []int{100, 32 << 10, size} {
			_, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
				for written := 0; written < size; written += piece {
					_, _ = w.Write(make([]byte, min(piece, size-written)))
				}
				assert.LessOrEqual(t, h.budget.Held(), int64(float64(size)*1.1+held.BlockSize))
				return nil
			}, http.MethodGet)
			require.NoError(t, err)
		}
	}
}

// TestDelayThatIsCalledOffDoesNothing, even if it is about to.
func TestDelayThatIsCalledOffDoesNothing(t *testing.T) {
	rec := httptest.NewRecorder()
	rw := newRead(newHandler(t, Handler{}), rec, httptest.NewRequest(http.MethodGet, "/", nil))
	defer rw.release()
	_, err := io.WriteString(rw, "x")
	require.NoError(t, err)
	require.True(t, rw.timed)
	rw.undisturbed(func() {})
	require.False(t, rw.timed)
	rw.Expire()
	require.Equal(t, stateHolding, rw.state)
	require.NoError(t, rw.finish(nil))
	require.Equal(t, tagFor("x"), rec.Header().Get("ETag"))
}

// TestHandlerIsCleanedUpWhileAResponseWaits, which is passed on in time.
func TestHandlerIsCleanedUpWhileAResponseWaits(t *testing.T) {
	h := newHandler(t, Handler{MaxDelay: caddy.Duration(20 * time.Millisecond)})
	rd := newRead(h, httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	defer rd.release()
	_, err := io.WriteString(rd, "x")
	require.NoError(t, err)
	require.NoError(t, h.Cleanup())
	eventually(t, func() bool {
		rd.mu.Lock()
		defer rd.mu.Unlock()
		return rd.state == statePassing
	})
	require.NoError(t, h.Cleanup())
	require.NoError(t, new(Handler).Cleanup(), "of one that was never provisioned")
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
					require.Equal(t, body, rec.Body.String(), "%d bytes of %d, %s", size, limit, way)
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
