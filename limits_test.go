package etag

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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
	require.Zero(t, h.budget.held.Load())
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
	h := newHandler(t, Handler{MaxDelay: caddy.Duration(delay)})
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
		require.Zero(t, h.budget.held.Load())
	}
}

// TestMaxMemoryIsForAllBodiesOfAHandler: a body for which there is no more
// memory passes, and the memory is there again when the other is done.
func TestMaxMemoryIsForAllBodiesOfAHandler(t *testing.T) {
	h := newHandler(t, Handler{MaxMemory: 2 * blockSize})
	body := strings.Repeat("x", 2*blockSize)
	w, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, body) // takes all there is

		other, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, "other ")
			_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("body"))
			return err
		}, http.MethodGet)
		require.NoError(t, err)
		require.Equal(t, "other body", other.Body.String())
		require.Empty(t, other.Header().Get("ETag"))
		require.EqualValues(t, 2*blockSize, h.budget.held.Load())
		return nil
	}, http.MethodGet)
	require.NoError(t, err)
	require.Equal(t, tagFor(body), w.Header().Get("ETag"))
	require.Zero(t, h.budget.held.Load())

	// one byte more than fits
	w, err = serve(h, func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.WriteString(w, body+"x")
		return err
	}, http.MethodGet)
	require.NoError(t, err)
	require.Equal(t, body+"x", w.Body.String())
	require.Empty(t, w.Header().Get("ETag"))
	require.Zero(t, h.budget.held.Load())
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
			require.Zero(t, h.budget.held.Load(), name)
		}
	}
}

// TestHeldMemoryIsHardlyMoreThanTheBodies: 1.1 times the bodies at the most,
// and a block.
func TestHeldMemoryIsHardlyMoreThanTheBodies(t *testing.T) {
	h := newHandler(t, Handler{})
	for _, size := range []int{1, 1 << 10, blockSize, blockSize + 1, 1 << 20, 8 << 20} {
		for _, piece := range []int{100, 32 << 10, size} {
			_, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
				for written := 0; written < size; written += piece {
					_, _ = w.Write(make([]byte, min(piece, size-written)))
				}
				require.LessOrEqual(t, h.budget.held.Load(), int64(float64(size)*1.1+blockSize))
				return nil
			}, http.MethodGet)
			require.NoError(t, err)
		}
	}
}

func TestTagOfAnOversizeBodyInATrailer(t *testing.T) {
	body := strings.Repeat("large ", 100_000)
	for name, backend := range map[string]http.HandlerFunc{
		"chunked": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", "invalid")
			_, _ = io.WriteString(w, body)
		},
		"Content-Length": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = io.WriteString(w, body)
		},
		"own trailer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, body)
			w.Header().Set("X-Sum", "1")
		},
	} {
		url := startCaddy(t, "encode gzip\netag {\nmax_size 100KiB\noversize trailer\n}\nreverse_proxy "+startUpstream(t, backend))
		for _, protocol := range []string{"h1", "h2c"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				client := clientFor(t, protocol, nil)
				res := do(t, client, "GET", url, "", "TE", "trailers")
				require.NoError(t, res.err)
				require.Equal(t, body, res.body)
				require.Equal(t, tagFor(body), res.trailer.Get("ETag"))
				require.Empty(t, res.tag())
				if name == "own trailer" {
					require.Equal(t, "1", res.trailer.Get("X-Sum"))
				}

				// encode adds no suffix to a trailer
				res = do(t, client, "GET", url, "", "TE", "trailers", "Accept-Encoding", "gzip")
				require.NoError(t, res.err)
				require.Equal(t, "W/"+tagFor(body), res.trailer.Get("ETag"))

				res = do(t, client, "GET", url, "")
				require.Equal(t, body, res.body)
				require.NotContains(t, res.trailer, "Etag", "the client takes no trailers")
			})
		}
	}
}

func TestNoTrailerForABodyThatBreaksOff(t *testing.T) {
	for _, length := range []string{"", "200000"} {
		upstream := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			_, _ = w.Write(make([]byte, 150_000))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		url := startCaddy(t, "etag {\nmax_size 100KiB\noversize trailer\n}\nreverse_proxy "+upstream)
		res, err := try(clientFor(t, "h1", nil), "GET", url, "", "TE", "trailers")
		if err == nil {
			require.Error(t, res.err)
			require.Empty(t, res.trailer.Get("ETag"))
		}
	}
}

// TestDyingBackends has a backend die at every tenth of a body, a thousand
// times in all, and counts the answers that a client could take for whole.
func TestDyingBackends(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 1000)
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		at, _ := strconv.Atoi(r.Header.Get("X-Die-At"))
		if r.Header.Get("X-Length") != "" {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		_, _ = w.Write(body[:len(body)*at/10])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	before := runtime.NumGoroutine()
	url := startCaddy(t, "etag {\nmax_size 8KB\n}\nreverse_proxy "+upstream)
	var wrong int
	for i := range 1000 {
		fields := []string{"X-Die-At", strconv.Itoa(i % 10), "If-None-Match", tagFor(string(body[:len(body)*(i%10)/10]))}
		if i%20 < 10 {
			fields = append(fields, "X-Length", "yes")
		}
		client := clientFor(t, []string{"h1", "h2c"}[i/20%2], nil)
		res, err := try(client, "GET", url, "", fields...)
		client.CloseIdleConnections()
		if err == nil && (res.err == nil && res.status < 500 || res.tag() != "") {
			t.Logf("request %d: status %d, tag %q, %d bytes", i, res.status, res.tag(), len(res.body))
			wrong++
		}
	}
	require.Zero(t, wrong)
	stopCaddy()
	noMoreGoroutines(t, before+2, http.DefaultClient)
}

// TestDelayThatIsCalledOffDoesNothing, even if it is about to: downstream is
// putting trailers into the header.
func TestDelayThatIsCalledOffDoesNothing(t *testing.T) {
	rec := httptest.NewRecorder()
	rw := newResponseWriter(newHandler(t, Handler{}), rec, httptest.NewRequest(http.MethodGet, "/", nil))
	defer rw.release()
	rw.Header().Set("Content-Length", "1")
	_, err := io.WriteString(rw, "x")
	require.NoError(t, err)
	require.True(t, rw.delayed)
	rw.Header().Set("X-Late", "1")
	require.False(t, rw.delayed)
	rw.heldTooLong()
	require.Equal(t, stateHolding, rw.state)
	require.NoError(t, rw.finish(nil))
	require.Equal(t, tagFor("x"), rec.Header().Get("ETag"))
}

// TestDelaysAreAQueue: each is called when it is due, in order, and one that
// was stopped is not, wherever in the queue it stood.
func TestDelaysAreAQueue(t *testing.T) {
	h := newHandler(t, Handler{MaxDelay: caddy.Duration(20 * time.Millisecond)})
	responses := make([]*responseWriter, 6)
	for i := range responses {
		responses[i] = newResponseWriter(h, httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		_, err := io.WriteString(responses[i], "x")
		require.NoError(t, err)
		time.Sleep(5 * time.Millisecond / time.Duration(len(responses))) // so that not all are due at one time
	}
	for _, i := range []int{2, 0, 5} {
		responses[i].release()
	}
	for _, i := range []int{1, 3, 4} {
		eventually(t, func() bool {
			responses[i].mu.Lock()
			defer responses[i].mu.Unlock()
			return responses[i].state == statePassing
		})
	}
	for _, i := range []int{2, 0, 5} {
		require.Equal(t, stateAnswered, responses[i].state)
	}
	require.Nil(t, h.delays.first)
	require.Nil(t, h.delays.last)

	// it goes on after a time with nothing in it
	eventually(t, func() bool {
		h.delays.mu.Lock()
		defer h.delays.mu.Unlock()
		return !h.delays.armed
	})
	rw := newResponseWriter(h, httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	defer rw.release()
	_, err := io.WriteString(rw, "x")
	require.NoError(t, err)
	require.NoError(t, h.Cleanup(), "which leaves the one that waits")
	eventually(t, func() bool {
		rw.mu.Lock()
		defer rw.mu.Unlock()
		return rw.state == statePassing
	})
	require.NoError(t, h.Cleanup())
	require.NoError(t, new(Handler).Cleanup(), "of one that was never provisioned")
}
