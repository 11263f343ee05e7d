package etag

import (
	"context"
	"crypto/x509"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// stalledResponse is a response that a backend sends in two parts, the second
// only when the test allows it.
type stalledResponse struct {
	name        string
	status      int
	fields      []string
	first, rest string
}

// streamedOptions are those for streamedResponses.
const streamedOptions = "max_size 1KiB\nmatch status 2xx"

// streamedResponses are those that must go through as they come.
func streamedResponses() []stalledResponse {
	long := strings.Repeat("0123456789abcdef", 256)
	with := func(name, value string) []string { return []string{name, value} }
	return []stalledResponse{
		{"event stream", 200, with("Content-Type", "text/event-stream"), "data: 1\n\n", "data: 2\n\n"},
		{"event stream with a parameter", 200, with("Content-Type", "Text/Event-Stream ;charset=utf-8"), "data: 1\n\n", "data: 2\n\n"},
		{"gRPC", 200, with("Content-Type", "application/grpc"), "one", "two"},
		{"gRPC web", 200, with("Content-Type", "application/grpc-web+proto"), "one", "two"},
		{"multipart/x-mixed-replace", 200, with("Content-Type", "multipart/x-mixed-replace; boundary=x"), "--x\r\n\r\none", "\r\n--x\r\n\r\ntwo"},
		{"ndjson", 200, with("Content-Type", "application/ndjson"), "{}\n", "{}\n"},
		{"jsonl", 200, with("Content-Type", "application/jsonl"), "{}\n", "{}\n"},
		{"x-jsonlines", 200, with("Content-Type", "application/x-jsonlines"), "{}\n", "{}\n"},
		{"stream+json", 200, with("Content-Type", "application/stream+json"), "{}\n", "{}\n"},
		{"X-Accel-Buffering", 200, with("X-Accel-Buffering", "No"), "one", "two"},
		{"Incremental", 200, with("Incremental", "?1"), "one", "two"},
		{"206", 206, with("Content-Range", "bytes 0-5/10"), "one", "two"},
		{"206 of several ranges", 206, with("Content-Type", "multipart/byteranges; boundary=x"), "one", "two"},
		{"Content-Range", 200, with("Content-Range", "bytes 0-5/10"), "one", "two"},
		{"no-store", 200, with("Cache-Control", "no-store"), "one", "two"},
		{"other status", 300, nil, "one", "two"},
		{"error", 404, nil, "one", "two"},
		{"own tag", 200, with("ETag", `"own"`), "one", "two"},
		{"length past the limit", 200, with("Content-Length", strconv.Itoa(len(long)+1)), "0", long},
		{"body past the limit", 200, nil, long[:1025], long[1025:]},
	}
}

// stalling is a backend of stalled responses, each at the path of its number.
type stalling struct {
	url   string
	paths map[string]string // by name
	goOn  chan struct{}     // one value lets one response go on
	gone  chan struct{}     // gets one value for each response that was cut off
}

// startStalling runs such a backend behind a site that start runs.
func startStalling(t *testing.T, options string, responses []stalledResponse, start func(testing.TB, string) string) *stalling {
	t.Helper()
	s := &stalling{
		paths: make(map[string]string),
		goOn:  make(chan struct{}, 1),
		gone:  make(chan struct{}, 100),
	}
	for i, response := range responses {
		s.paths[response.name] = "/" + strconv.Itoa(i)
	}
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		i, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		response := responses[i]
		addFields(w.Header(), response.fields)
		w.WriteHeader(response.status)
		_, _ = io.WriteString(w, response.first)
		_ = http.NewResponseController(w).Flush()
		if r.Method == http.MethodHead {
			return
		}
		select {
		case <-s.goOn:
			_, _ = io.WriteString(w, response.rest)
		case <-r.Context().Done():
			s.gone <- struct{}{}
		}
	})
	s.url = start(t, "etag {\n"+options+"\n}\nreverse_proxy "+upstream+" {\nflush_interval -1\n}")
	return s
}

// TestStreamIsNotHeld: the client has the first part before the backend may
// send the second, and both complete and in order, without a tag of ours.
func TestStreamIsNotHeld(t *testing.T) {
	responses := streamedResponses()
	var roots *x509.CertPool
	s := startStalling(t, streamedOptions, responses, func(tb testing.TB, site string) (url string) {
		url, roots = startTLS(tb, site)
		return url
	})
	for _, protocol := range []string{"h1", "h2", "h3"} {
		client := clientFor(t, protocol, roots)
		for _, response := range responses {
			t.Run(protocol+" "+response.name, func(t *testing.T) { s.checkStreamed(t, client, response) })
		}
	}
}

// checkStreamed checks that a response goes through as it comes.
func (s *stalling) checkStreamed(t *testing.T, client *http.Client, response stalledResponse) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.url+s.paths[response.name], nil)
	require.NoError(t, err)
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, response.status, res.StatusCode)
	own := make(http.Header)
	addFields(own, response.fields)
	require.Equal(t, own.Get("ETag"), res.Header.Get("ETag"))

	first := make([]byte, len(response.first))
	_, err = io.ReadFull(res.Body, first)
	require.NoError(t, err)
	require.Equal(t, response.first, string(first))
	s.goOn <- struct{}{}
	rest, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, response.rest, string(rest), "the rest is not what was sent")
}

// TestHeadOfAStream has the header that a GET has.
func TestHeadOfAStream(t *testing.T) {
	responses := streamedResponses()
	s := startStalling(t, streamedOptions, responses, startCaddy)
	client := clientFor(t, "h1", nil)
	for _, response := range responses {
		t.Run(response.name, func(t *testing.T) {
			head := do(t, client, http.MethodHead, s.url+s.paths[response.name], "")
			if response.name == "body past the limit" {
				<-s.gone // the GET that followed it
			}
			s.goOn <- struct{}{}
			full := do(t, client, http.MethodGet, s.url+s.paths[response.name], "")
			require.Equal(t, response.status, head.status)
			require.Equal(t, withoutDate(full.header), withoutDate(head.header))
			require.Equal(t, full.length, head.length)
		})
	}
}

// TestKeptTagIsComparedWhenTheHeaderComes: the client has its answer while
// the backend is still at the body, and the backend is cut off.
func TestKeptTagIsComparedWhenTheHeaderComes(t *testing.T) {
	s := startStalling(t, "", []stalledResponse{
		{"unknown length", 200, []string{"ETag", `"own"`}, "one", "two"},
		{"short", 200, []string{"ETag", `"own"`, "Content-Length", "6"}, "one", "two"},
		{"long", 200, []string{"ETag", `"own"`, "Content-Length", "1000000"}, "one", "two"},
	}, startCaddy)
	for name, path := range s.paths {
		for _, protocol := range []string{"h1", "h2c"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				client := clientFor(t, protocol, nil)
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					res := do(t, client, method, s.url+path, "", "If-None-Match", `W/"own"`)
					require.NoError(t, res.err)
					require.Equal(t, 304, res.status)
					if method == http.MethodGet {
						<-s.gone
					}
					res = do(t, client, method, s.url+path, "", "If-Match", `"x"`)
					require.NoError(t, res.err)
					require.Equal(t, 412, res.status)
					if method == http.MethodGet {
						<-s.gone
					}
				}
			})
		}
	}
}

// TestBodyThatNobodyGetsIsNotPulled through the backend's connection.
func TestBodyThatNobodyGetsIsNotPulled(t *testing.T) {
	const size = 64 << 20
	sent := make(chan int)
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"own"`)
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		n := 0
		for piece := make([]byte, 64<<10); n < size; n += len(piece) {
			if _, err := w.Write(piece); err != nil {
				break
			}
		}
		sent <- n
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	for _, path := range []string{"/length", "/chunked"} {
		res := get(t, url+path, "If-None-Match", `"own"`)
		require.Equal(t, 304, res.status)
		// what fits into the buffers between them is sent anyway
		require.Less(t, <-sent, size/2)
	}
}

// TestShortBodyThatNobodyGetsIsDrained so that the backend's connection can be
// used again, but not one that is known to be long.
func TestShortBodyThatNobodyGetsIsDrained(t *testing.T) {
	cutOff := func(length string) (cut bool) {
		rec, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, r *http.Request) error {
			addFields(w.Header(), []string{"ETag", `"own"`, "Content-Length", length})
			w.WriteHeader(http.StatusOK)
			cut = r.Context().Err() != nil
			return nil
		}, http.MethodGet, "If-None-Match", `"own"`)
		require.NoError(t, err)
		require.Equal(t, 304, rec.Code)
		return cut
	}
	require.True(t, cutOff("1048577"))
	// a machine that stands still may let the time for it run out
	eventually(t, func() bool { return !cutOff("1048576") })
}

// TestFlushIsNoSignOfAStream: reverse_proxy flushes after every write where
// the length is unknown.
func TestFlushIsNoSignOfAStream(t *testing.T) {
	s := startStalling(t, "", []stalledResponse{{"flushed", 200, nil, "one", "two"}}, startCaddy)
	s.goOn <- struct{}{}
	res := get(t, s.url+s.paths["flushed"])
	require.Equal(t, "onetwo", res.body)
	require.Equal(t, tagFor("onetwo"), res.tag())
	require.EqualValues(t, 6, res.length)
}

// TestNoSignOfAStream are fields that look like one.
func TestNoSignOfAStream(t *testing.T) {
	for _, fields := range [][]string{
		{"Content-Type", "text/event-streams"},
		{"Content-Type", "application/x-grpc"},
		{"X-Accel-Buffering", "yes"},
		{"Incremental", "?0"},
		{"Cache-Control", "max-age=1, private"},
		{"Content-Length", "3"},
	} {
		rec, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, r *http.Request) error {
			addFields(w.Header(), fields)
			_, err := io.WriteString(w, "one")
			return err
		}, http.MethodGet)
		require.NoError(t, err)
		require.Equal(t, tagFor("one"), rec.Header().Get("ETag"), fields)
	}
}
