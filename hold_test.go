package etag

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestHeldBodyComesOutAsItCameIn, whatever its size is to the blocks that it
// is held in, and however it came.
// TestLookAtTheHeaderDoesNotEndMaxDelay: a handler may have work to do when its
// response is whole, and its client does not wait for that. What it sets by then
// comes too late.
func TestLookAtTheHeaderDoesNotEndMaxDelay(t *testing.T) {
	for _, protocol := range []string{"h1", "h2c"} {
		sent := make(chan struct{})
		url := startScripted(t, "etag {\nmax_delay 10ms\n}\nscripted", func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Length", "3")
			w.Header().Set("X-Before", "1")
			_, _ = io.WriteString(w, "one")
			if w.Header().Get("X-Before") != "1" {
				return errors.New("the handler does not see its own field")
			}
			w.Header().Set("X-Late", "1")
			w.Header().Set("Content-Length", "7")
			if r.URL.Path == "/works" {
				<-sent
			}
			return nil
		})
		for _, path := range []string{"/", "/works"} {
			res, err := clientFor(t, protocol, nil).Get(url + path)
			require.NoError(t, err)
			body := make([]byte, 3) // over HTTP/2, the end of the body is that of the handler
			_, err = io.ReadFull(res.Body, body)
			require.NoError(t, err)
			require.Equal(t, "one", string(body))
			require.Equal(t, "1", res.Header.Get("X-Before"))
			require.Empty(t, res.Header.Get("X-Late"))
			res.Body.Close()
		}
		close(sent)
	}
}

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
				require.Equal(t, body, rec.Body.String(), "%d bytes, %s", len(body), way)
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

// TestFilesArriveWhole covers the way around the copy that a file_server's
// body takes: held, passed on, and held until it is past the limit.
func TestFilesArriveWhole(t *testing.T) {
	content := pattern(300_000)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o600))
	for name, test := range map[string]struct {
		options string
		ours    bool
	}{
		"passed on":      {"", false},
		"held":           {"existing replace", true},
		"past the limit": {"existing replace\nmax_size 100KB", false},
	} {
		t.Run(name, func(t *testing.T) {
			url := startCaddy(t, "etag {\n"+test.options+"\n}\nroot "+dir+"\nfile_server")
			res := get(t, url+"/file")
			require.NoError(t, res.err)
			require.Equal(t, content, res.body)
			require.EqualValues(t, len(content), res.length)
			require.Equal(t, test.ours, res.tag() == tagFor(content))

			part := get(t, url+"/file", "Range", "bytes=1-3")
			require.Equal(t, 206, part.status)
			require.Equal(t, content[1:4], part.body)
			require.NotEqual(t, tagFor(part.body), part.tag())
		})
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

// TestResponseThatEndsInAnErrorIsNotSent as long as it is held: an error page
// can take its place, without the fields that were meant for it.
func TestResponseThatEndsInAnErrorIsNotSent(t *testing.T) {
	tests := map[string]struct {
		length  string
		writes  []string
		err     error
		aborted bool // by the error that the handler gets for its last Write
	}{
		"error after a part":       {"", []string{"part"}, errOfHandler, false},
		"error after the whole":    {"4", []string{"part"}, errOfHandler, false},
		"too few bytes":            {"5", []string{"part"}, nil, false},
		"no byte":                  {"5", nil, nil, false},
		"too many bytes":           {"5", []string{"part", "ial"}, nil, true},
		"too many in the only one": {"3", []string{"part"}, nil, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				for _, field := range []string{"X-None", "If-None-Match", "If-Match"} {
					rec, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, r *http.Request) error {
						addFields(w.Header(), []string{"Content-Type", "text/x-own", "Last-Modified", "x", "Vary", "Accept"})
						if test.length != "" {
							w.Header().Set("Content-Length", test.length)
						}
						w.WriteHeader(http.StatusOK)
						for i, piece := range test.writes {
							_, err := io.WriteString(w, piece)
							if r.Method == http.MethodGet { // the body of a HEAD is nobody's
								assert.Equal(t, test.aborted && i == len(test.writes)-1, err != nil)
							}
						}
						return test.err
					}, method, field, "*")
					require.Error(t, err)
					if test.err != nil {
						require.ErrorIs(t, err, errOfHandler)
					}
					require.False(t, rec.Flushed)
					require.Empty(t, rec.Body.String())
					require.Equal(t, http.Header{"Vary": {"Accept"}}, rec.Header())
				}
			}
		})
	}
}

// TestReadFromTakesNoMoreThanItsContentLength: a body that is read into place
// is checked as one that is written.
func TestReadFromTakesNoMoreThanItsContentLength(t *testing.T) {
	for body, fails := range map[string]bool{"four": true, "fives": false, "sixsix": true} {
		rec, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Length", "5")
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader(body))
			return nil
		}, http.MethodGet)
		require.Equal(t, fails, err != nil, body)
		require.Equal(t, !fails, rec.Body.String() == body)
	}
}

func TestReaderThatFailsEndsTheResponse(t *testing.T) {
	rec, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, r *http.Request) error {
		n, err := w.(io.ReaderFrom).ReadFrom(io.MultiReader(strings.NewReader("part"), failingReader{}))
		assert.EqualValues(t, 4, n)
		return err
	}, http.MethodGet)
	require.ErrorIs(t, err, errOfHandler)
	require.Empty(t, rec.Body.String())
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errOfHandler }

// TestErrorAfterAPartWasSentAbortsTheResponse so that the client does not take
// it for whole; but what it got in full it may keep.
func TestErrorAfterAPartWasSentAbortsTheResponse(t *testing.T) {
	next := func(length string) caddyhttp.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			_, _ = io.WriteString(w, "part")
			return errOfHandler
		}
	}
	for _, length := range []string{"", "5"} {
		require.PanicsWithError(t, http.ErrAbortHandler.Error(), func() {
			_, _ = serve(newHandler(t, Handler{}), next(length), http.MethodGet)
		})
	}
	_, err := serve(newHandler(t, Handler{}), next("4"), http.MethodGet)
	require.ErrorIs(t, err, errOfHandler)
}

func TestPanicOfAHandlerIsNoEndOfAResponse(t *testing.T) {
	for name, fields := range map[string][]string{"plain": nil, "conditional": {"If-None-Match", "*"}} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			t.Run(name+" "+method, func(t *testing.T) {
				rec := httptest.NewRecorder()
				require.PanicsWithValue(t, "broken", func() {
					r := httptest.NewRequest(method, "/", nil)
					addFields(r.Header, fields)
					_ = newHandler(t, Handler{}).ServeHTTP(rec, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
						_, _ = io.WriteString(w, "part")
						panic("broken")
					}))
				})
				require.Empty(t, rec.Body.String())
				require.Empty(t, rec.Header())
			})
		}
	}
}

// dying is a backend whose connection breaks in mid body.
func dying(w http.ResponseWriter, r *http.Request) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fields := "\r\n"
	if r.URL.Query().Has("own") {
		fields = "\r\nETag: \"own\"\r\n"
	}
	if r.URL.Path == "/length" {
		fmt.Fprintf(buf, "HTTP/1.1 200 OK\r\nContent-Length: 1000%s\r\n%s", fields, longText[:500])
	} else {
		fmt.Fprintf(buf, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked%s\r\n1f4\r\n%s\r\n", fields, longText[:500])
	}
	_ = buf.Flush()
}

// TestDyingBackendIsNeverTaggedNorTakenForWhole whether it dies while its
// response is held or after it has been passed on.
func TestDyingBackendIsNeverTaggedNorTakenForWhole(t *testing.T) {
	upstream := startUpstream(t, dying)
	for _, options := range []string{"", "max_size 100"} {
		url, roots := startTLS(t, "etag {\n"+options+"\n}\nreverse_proxy "+upstream)
		for _, protocol := range []string{"h1", "h2", "h3"} {
			client := clientFor(t, protocol, roots)
			for _, path := range []string{"/length", "/chunked"} {
				t.Run(strings.Join([]string{options, protocol, path}, " "), func(t *testing.T) {
					for _, field := range []string{"X-None", "If-None-Match", "If-Match"} {
						res, err := try(client, http.MethodGet, url+path, "", field, tagFor(longText[:500]))
						if err == nil {
							require.Empty(t, res.tag())
							require.NotEqual(t, 304, res.status)
							require.False(t, res.status < 300 && res.err == nil, "status %d with %d bytes looks whole", res.status, len(res.body))
						}
					}
					if options == "" {
						res, err := try(client, http.MethodHead, url+path, "")
						require.False(t, err == nil && res.status < 300, "there is no whole body")
					}
					res, err := try(client, http.MethodGet, url+path+"?own", "")
					require.False(t, err == nil && res.err == nil, "a kept tag does not make it whole")
				})
			}
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

// lookingWriter is a client's writer that looks at the request when the header is
// sent, as "header >Field {http.request.header.Te}" has one do.
type lookingWriter struct {
	*httptest.ResponseRecorder
	request *http.Request
}

func (w lookingWriter) WriteHeader(status int) {
	w.Header().Set("X-Te", w.request.Header.Get("Te"))
	w.ResponseRecorder.WriteHeader(status)
}

// untilHeldTooLong serves a request to a handler, again if its end came sooner
// than the hold timer.
func untilHeldTooLong(t *testing.T, h *Handler, next caddyhttp.HandlerFunc, looks bool, sends ...string) {
	t.Helper()
	for range 20 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		addFields(r.Header, sends)
		repl := caddy.NewReplacer()
		*r = *r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl))
		repl.Map(func(name string) (any, bool) {
			return r.Header.Get("X-Deploy"), strings.HasPrefix(name, "http.request.header")
		})
		rec := httptest.NewRecorder()
		w := http.ResponseWriter(rec)
		if looks {
			w = lookingWriter{rec, r}
		}
		require.NoError(t, h.ServeHTTP(w, r, next))
		require.Equal(t, "one", rec.Body.String())
		if rec.Flushed {
			return
		}
	}
	t.Fatal("the timer does not come")
}

// TestHoldTimerAndTheRequest: a hold timer comes from a goroutine of its own,
// and handlers further down, etag among them, put the request back as it was
// when they are done with it. The race detector sees who looks meanwhile.
func TestHoldTimerAndTheRequest(t *testing.T) {
	for name, config := range map[string]Handler{
		"passed":     {},
		"trailer":    {Oversize: oversizeTrailer},
		"own tag":    {FromHeader: "X-Version", Ranges: rangesOn, Version: "{http.request.header.X-Deploy}"},
		"remembered": {FromHeader: "X-Version", Ranges: rangesOn, Remember: caddy.Duration(time.Hour)},
	} {
		for _, restores := range []string{"etag", "a handler further down"} {
			t.Run(name+", "+restores, func(t *testing.T) {
				config.MaxDelay = caddy.Duration(5 * time.Millisecond)
				untilHeldTooLong(t, newHandler(t, config), func(w http.ResponseWriter, r *http.Request) error {
					w.Header().Set("X-Version", "1")
					_, _ = io.WriteString(w, "one")
					time.Sleep(50 * time.Millisecond) // whatever told that the timer has come would keep the two apart
					if restores != "etag" {
						r.Header["Te"], r.Header["Origin"] = nil, nil
						*r = *r.WithContext(context.WithoutCancel(r.Context()))
					}
					return nil
				}, restores == "etag",
					"If-Match", "*", "If-Unmodified-Since", "Sun, 06 Nov 2094 08:49:37 GMT", "Range", "bytes=0-1",
					"TE", "trailers", "Origin", "https://example.com", "X-Deploy", "2")
			})
		}
	}
}

// TestHoldTimerAndTheRequestOfAHandlerBelow: what an etag handler further down
// puts back, a timer of one above must not look at meanwhile.
func TestHoldTimerAndTheRequestOfAHandlerBelow(t *testing.T) {
	above := newHandler(t, Handler{MaxDelay: caddy.Duration(5 * time.Millisecond)})
	below := newHandler(t, Handler{Existing: existingReplace, MaxSize: 1})
	end := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		assert.Empty(t, r.Header["If-None-Match"])
		_, _ = io.WriteString(w, "one")
		time.Sleep(50 * time.Millisecond)
		return nil
	})
	for _, wrap := range []func(http.ResponseWriter) http.ResponseWriter{
		func(w http.ResponseWriter) http.ResponseWriter { return w },
		func(w http.ResponseWriter) http.ResponseWriter {
			return &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}
		},
	} {
		untilHeldTooLong(t, above, func(w http.ResponseWriter, r *http.Request) error {
			return below.ServeHTTP(wrap(w), r, end)
		}, true, "If-None-Match", `"x"`)
	}
}

// TestHoldTimerAndTheHeaderOfAHandlerBelow: where a timer sends the header, an
// etag handler further down must not put its trailers, nor look for its log or
// for a placeholder of its.
func TestHoldTimerAndTheHeaderOfAHandlerBelow(t *testing.T) {
	for _, looks := range []bool{false, true} {
		above := newHandler(t, Handler{MaxDelay: caddy.Duration(10 * time.Millisecond), Existing: existingReplace})
		below := newHandler(t, Handler{Version: "v1"})
		core, logs := observer.New(zapcore.DebugLevel)
		if looks {
			below.logger = zap.New(core)
		}
		var tag string
		untilHeldTooLong(t, above, func(w http.ResponseWriter, r *http.Request) error {
			err := below.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				w.Header().Set("Trailer", "X-Sum")
				_, err := io.WriteString(w, "one")
				w.Header().Set("X-Sum", "3")
				return err
			}))
			if looks {
				tag = r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll("{http.etag.tag}", "")
			}
			time.Sleep(50 * time.Millisecond) // whatever told that the timer has come would keep the two apart
			return err
		}, false)
		if looks {
			require.Contains(t, tag, `"v1-`)
			require.Equal(t, tag, logs.All()[0].ContextMap()["tag"])
		}
	}
}

// panickingWriter is a client's writer that panics.
type panickingWriter struct{ *httptest.ResponseRecorder }

func (panickingWriter) WriteHeader(int) { panic("of a writer above") }

// TestPanicUnderAHoldTimerAbortsTheResponse, and not the process.
func TestPanicUnderAHoldTimerAbortsTheResponse(t *testing.T) {
	for _, fields := range []fields{nil, {"If-None-Match", "*"}} {
		h := newHandler(t, Handler{MaxDelay: caddy.Duration(time.Millisecond), Existing: existingReplace})
		before := h.budget.Held()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		addFields(r.Header, fields)
		require.PanicsWithValue(t, http.ErrAbortHandler, func() {
			_ = h.ServeHTTP(panickingWriter{httptest.NewRecorder()}, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				_, _ = io.WriteString(w, "one")
				eventually(t, func() bool {
					_, err := io.WriteString(w, "two")
					time.Sleep(time.Millisecond)
					return err != nil
				})
				return nil
			}))
		})
		require.Equal(t, before, h.budget.Held())
	}
}

// TestHeadWithABodyIsDrained as any other: such a request is not asked for again.
func TestHeadWithABodyIsDrained(t *testing.T) {
	tests := map[string]caddyhttp.HandlerFunc{
		"a length past what is drained": func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Length", "2000000")
			w.WriteHeader(http.StatusOK)
			return nil
		},
		"a body past what is drained": func(w http.ResponseWriter, r *http.Request) error {
			for {
				if _, err := w.Write(make([]byte, 100_000)); err != nil {
					return err
				}
			}
		},
		"time past what is drained": func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(http.StatusOK)
			time.Sleep(2 * drainTime)
			return nil
		},
	}
	for name, next := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHandler(t, Handler{})
			rec := httptest.NewRecorder()
			require.NoError(t, h.ServeHTTP(rec, httptest.NewRequest(http.MethodHead, "/", strings.NewReader("x")), next))
			require.Equal(t, 200, rec.Code)
		})
	}
}

// TestShortBodyIsNotTakenForWhole, though its handler ended well, and though
// nobody tells the client its length any more.
func TestShortBodyIsNotTakenForWhole(t *testing.T) {
	tests := map[string]struct {
		site   string
		fields []string
	}{
		"as it came":            {"etag {\nmax_size 1KiB\n}\nscripted", nil},
		"for a trailer":         {"etag {\nmax_size 1KiB\noversize trailer\n}\nscripted", []string{"TE", "trailers"}},
		"compressed on its way": {"encode\netag {\nmax_size 1KiB\n}\nscripted", []string{"Accept-Encoding", "gzip"}},
		"after max_delay":       {"encode\netag {\nmax_delay 10ms\n}\nscripted", []string{"Accept-Encoding", "gzip"}},
		"with a tag of its own": {"encode\netag\nheader ETag `\"own\"`\nscripted", []string{"Accept-Encoding", "gzip"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, written := range []int{50_000, 200_000} {
				url := startScripted(t, test.site, func(w http.ResponseWriter, r *http.Request) error {
					w.Header().Set("Content-Type", "text/plain")
					w.Header().Set("Content-Length", "200000")
					_, err := io.WriteString(w, strings.Repeat("a", written))
					time.Sleep(50 * time.Millisecond)
					return err
				})
				for _, protocol := range []string{"h1", "h2c"} {
					res, err := try(clientFor(t, protocol, nil), "GET", url, "", test.fields...)
					if written == 200_000 {
						require.NoError(t, errors.Join(err, res.err))
					} else {
						require.Error(t, errors.Join(err, res.err), "%s: %v", protocol, res.header)
					}
				}
			}
		})
	}
}

// TestFieldsThatComeAfterTheHeaderAreNotSentInIt: what stood in it, stays as it
// was.
func TestFieldsThatComeAfterTheHeaderAreNotSentInIt(t *testing.T) {
	backend := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodGet && r.URL.Path == "/doc" {
			_, _ = io.WriteString(w, "one")
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: \"a\"\r\nX-Sum: a\r\n"+
			"Cache-Control: max-age=60\r\nTrailer: X-Sum, Cache-Control, ETag, X-Late\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"+
			"5\r\nhello\r\n0\r\nX-Sum: b\r\nCache-Control: max-age=99999\r\nETag: \"b\"\r\nX-Late: c\r\n\r\n")
	})
	for _, options := range []string{"", "max_delay -1"} {
		url := startCaddy(t, "etag {\n"+options+"\n}\nreverse_proxy "+backend)
		for _, request := range [][]string{{"GET", "/"}, {"PUT", "/doc", "If-Match", oneTag}, {"PUT", "/doc"}} {
			body := ""
			if request[0] == "PUT" {
				body = "two"
			}
			res := do(t, clientFor(t, "h1", nil), request[0], url+request[1], body, request[2:]...)
			require.Equal(t, []string{`"a"`}, res.header.Values("ETag"), "%s %v", options, request)
			require.Equal(t, []string{"max-age=60"}, res.header.Values("Cache-Control"), "%s %v", options, request)
			require.Equal(t, []string{"a"}, res.header.Values("X-Sum"), "%s %v", options, request)
			require.Equal(t, "c", res.trailer.Get("X-Late"), "%s %v", options, request)
		}
	}
}

// TestNoLengthWithoutContent: a 204 must not have one (RFC 9110 §8.6).
func TestNoLengthWithoutContent(t *testing.T) {
	url := startCaddy(t, "etag {\nmatch status 2xx\n}\nrespond 204")
	for _, protocol := range []string{"h1", "h2c"} {
		for _, method := range []string{"GET", "HEAD"} {
			res := do(t, clientFor(t, protocol, nil), method, url, "")
			require.Equal(t, 204, res.status)
			require.NotEmpty(t, res.tag())
			require.Empty(t, res.header.Values("Content-Length"), "%s %s", protocol, method)
		}
	}
}

// TestFieldsThatComeAfterAHeldAnswerAreNotSent, though all of its body is there.
func TestFieldsThatComeAfterAHeldAnswerAreNotSent(t *testing.T) {
	serve := func(w http.ResponseWriter, r *http.Request) error {
		_, _ = io.Copy(io.Discard, r.Body)
		addFields(w.Header(), fields{"Content-Type", "text/plain", "ETag", `"a"`, "X-Early", "1", "Content-Length", "5"})
		_, err := io.WriteString(w, "hello")
		addFields(w.Header(), fields{"X-Late", "1", "Cache-Control", "no-store"})
		w.Header().Set("X-Early", "2")
		return err
	}
	tests := map[string][]string{
		"etag\nscripted": {"PUT", "If-Match", "*"},
		"etag {\nmax_delay -1\nexisting replace\n}\nscripted": {"GET"},
	}
	for site, request := range tests {
		url := startScripted(t, site, serve)
		body := ""
		if request[0] == "PUT" {
			body = "x"
		}
		res := do(t, clientFor(t, "h1", nil), request[0], url, body, request[1:]...)
		require.Equal(t, "hello", res.body)
		require.Equal(t, "1", res.header.Get("X-Early"), site)
		require.Empty(t, res.header.Get("X-Late")+res.header.Get("Cache-Control"), site)
	}
}

// TestClientThatLeavesADownloadIsNoError of the handler's, who sends by sendfile
// and tells nothing: net/http sees to it that a body is not taken for whole
// whose length the client knows.
func TestClientThatLeavesADownloadIsNoError(t *testing.T) {
	left := errors.New("the client has left")
	h := newHandler(t, Handler{})
	for _, taken := range []bool{false, true} {
		before := outcomeCount(t, kindRead, outcomeError, "")
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			addFields(w.Header(), fields{"ETag", `"a"`, "Content-Length", "100"})
			w.WriteHeader(http.StatusOK)
			_, _ = w.(io.ReaderFrom).ReadFrom(io.MultiReader(strings.NewReader("a"), iotest.ErrReader(left)))
			return nil
		})
		w := &lengthTaker{httptest.NewRecorder(), taken}
		serve := func() { _ = h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil), next) }
		if taken {
			require.Panics(t, serve)
		} else {
			require.NotPanics(t, serve)
		}
		counted := outcomeCount(t, kindRead, outcomeError, "") - before
		require.Equal(t, taken, counted == 1)
	}
}

// lengthTaker is a writer that may take the Content-Length off, as an encoder
// does.
type lengthTaker struct {
	*httptest.ResponseRecorder
	takes bool
}

func (l *lengthTaker) WriteHeader(status int) {
	if l.takes {
		l.Header().Del("Content-Length")
	}
	l.ResponseRecorder.WriteHeader(status)
}
