package etag

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// These tests are about what stands in the answer to a read, and what becomes
// of the handler behind one that is answered before its end.

// TestFieldsThatA412Drops are all about a body that is not sent, and about how
// long to cache it: the 412 would be cached in its place.
func TestFieldsThatA412Drops(t *testing.T) {
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	drops := fields{
		"Content-Encoding", "x-own", "Content-Language", "en", "Content-Digest", "sha-256=:x:", "Content-MD5", "x", "Digest", "x",
		"Repr-Digest", "sha-256=:x:", "Content-Disposition", "attachment", "Content-Location", "/there", "Accept-Ranges", "bytes",
		"Age", "5", "Expires", date, "Last-Modified", date,
		"CDN-Cache-Control", "max-age=60", "Cloudflare-CDN-Cache-Control", "max-age=60", "Surrogate-Control", "max-age=60", "X-Accel-Expires", "60",
	}
	keeps := fields{"Vary", "Accept", "X-Other", "kept", "Access-Control-Allow-Origin", "*"}
	for _, own := range []string{"", `"own"`, `W/"own"`} {
		url := startCaddy(t, "etag\nreverse_proxy "+startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
			addFields(w.Header(), append(append(fields{"Cache-Control", "max-age=60"}, drops...), keeps...))
			if own != "" {
				w.Header().Set("ETag", own)
			}
			_, _ = io.WriteString(w, "hello")
		}))
		tag := own
		if own == "" {
			tag = tagFor("hello")
		}
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for _, protocol := range []string{"h1", "h2c"} {
				for _, sends := range []fields{{"If-Match", `"x"`}, {"If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT"}} {
					res := do(t, clientFor(t, protocol, nil), method, url, "", sends...)
					require.Equal(t, 412, res.status)
					require.Equal(t, tag, res.tag())
					require.Equal(t, []string{"no-store"}, res.header.Values("Cache-Control"))
					for i := 0; i < len(drops); i += 2 {
						require.NotContains(t, res.header, http.CanonicalHeaderKey(drops[i]), "%s %s", method, own)
					}
					for i := 0; i < len(keeps); i += 2 {
						require.Equal(t, []string{keeps[i+1]}, res.header.Values(keeps[i]))
					}
				}
			}
		}
	}
}

// TestFieldsThatA304DropsByItsTag: a tag that is equal does not say that what
// these fields are about is.
func TestFieldsThatA304DropsByItsTag(t *testing.T) {
	policy := []string{"Content-Security-Policy", "Content-Security-Policy-Report-Only"}
	exact := []string{"Repr-Digest", "Signature", "Signature-Input"}
	both := append(append([]string{}, policy...), exact...)
	always := []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Content-Digest", "Content-Md5", "Digest", "Trailer", "Last-Modified"}
	for _, test := range []struct {
		etag, own    string
		drops, keeps []string
	}{
		{"etag", "", nil, both},
		{"etag", `"own"`, nil, both},
		{"etag", `W/"own"`, exact, policy},
		{"etag weak", "", exact, policy},
		{"etag weak {\ncanonicalize json\n}", "", exact, nil},
		{"etag weak {\nignore_json /n\n}", "", both, nil},
		{"etag weak {\nignore_pattern nonce-[a-z]*\n}", "", both, nil},
		{"etag weak {\nignore_pattern nonce-[a-z]*\n}", `"own"`, nil, both},
	} {
		url := startCaddy(t, test.etag+"\nreverse_proxy "+startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
			for _, name := range append(append(both, always[2:7]...), "Cache-Control", "Set-Cookie") {
				w.Header().Set(name, "a")
			}
			w.Header().Set("Trailer", "X-Sum")
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
			if test.own != "" {
				w.Header().Set("ETag", test.own)
			}
			_, _ = io.WriteString(w, `{"n": 1}`)
			w.Header().Set("X-Sum", "1")
		}))
		tag := get(t, url).tag()
		require.NotEmpty(t, tag)
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for _, protocol := range []string{"h1", "h2c"} {
				res := do(t, clientFor(t, protocol, nil), method, url, "", "If-None-Match", tag)
				require.Equal(t, 304, res.status)
				require.Equal(t, tag, res.tag())
				for _, name := range append(test.drops, always...) {
					require.NotContains(t, res.header, name, "%s %s %s %s", test.etag, test.own, method, protocol)
				}
				for _, name := range append(test.keeps, "Cache-Control", "Set-Cookie") {
					require.Contains(t, res.header, name, "%s %s %s %s", test.etag, test.own, method, protocol)
				}
				require.NotContains(t, res.trailer, "X-Sum")
			}
		}
	}
}

// TestSpellingOfA304 is the client's where that has an encoder's suffix, since a
// cache knows its entry by it, and else is ours.
func TestSpellingOfA304(t *testing.T) {
	url := startCaddy(t, "etag\nrespond hello")
	ours := tagFor("hello")
	for _, test := range []struct{ accept, sends, status, has string }{
		{"gzip", withSuffix(ours, "-gzip"), "304", withSuffix(ours, "-gzip")},
		{"zstd", withSuffix(ours, "-zstd"), "304", withSuffix(ours, "-zstd")},
		{"br", withSuffix(ours, "-br"), "304", withSuffix(ours, "-br")},
		{"gzip, br", `"x", bad, ` + withSuffix(ours, "-br") + ", " + withSuffix(ours, "-gzip"), "304", withSuffix(ours, "-br")},
		{"gzip", withSuffix(ours, "-gzip") + ", " + ours, "304", ours},
		{"gzip", ours + ", " + withSuffix(ours, "-gzip"), "304", ours},
		{"gzip", withSuffix(ours, "-gzip") + ", W/" + ours, "304", ours},
		{"gzip", "W/" + ours, "304", ours},
		{"gzip", "*", "304", ours},
		{"br", withSuffix(ours, "-gzip"), "200", ours},
		{"", withSuffix(ours, "-gzip"), "200", ours},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for _, protocol := range []string{"h1", "h2c"} {
				res := do(t, clientFor(t, protocol, nil), method, url, "", "Accept-Encoding", test.accept, "If-None-Match", test.sends)
				require.Equal(t, test.status, fmt.Sprint(res.status), test.sends)
				require.Equal(t, test.has, res.tag(), test.sends)
			}
		}
	}
	// A write's 412 names the tag that there is.
	res := do(t, clientFor(t, "h1", nil), http.MethodPut, url, "x", "If-None-Match", withSuffix(ours, "-gzip"))
	require.Equal(t, 412, res.status)
	require.Equal(t, ours, res.tag())
}

// startRaw runs a backend that sends the same bytes for every request, without
// the body for a HEAD, and then closes the connection. net/http would not send
// some of what others do.
func startRaw(tb testing.TB, header, body string) string {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	tb.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, header)
				if r.Method != http.MethodHead {
					_, _ = io.WriteString(conn, body)
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// TestTrailersThatNoBackendMayAnnounce: what stands in the header when it is
// sent stays there, and what may be no trailer is none.
func TestTrailersThatNoBackendMayAnnounce(t *testing.T) {
	header := strings.ReplaceAll(`HTTP/1.1 200 OK
Content-Type: text/plain
Cache-Control: max-age=60
X-Early: early
Trailer: Cache-Control, ETag, X-Early, X-Sum
Transfer-Encoding: chunked
Connection: close
%s
`, "\n", "\r\n")
	body := "5\r\nhello\r\n0\r\nCache-Control: no-cache\r\nETag: \"late\"\r\nX-Early: late\r\nX-Sum: 5\r\n\r\n"
	for _, test := range []struct{ name, options, field, tag, trailer string }{
		{"tagged", "", "X-None: 1\r\n", tagFor("hello"), ""},
		{"too large", "max_size 4", "X-None: 1\r\n", "", `"late"`},
		{"no store", "", "Pragma: x\r\n", "", `"late"`},
		{"kept", "", "ETag: \"own\"\r\n", `"own"`, `"late"`},
	} {
		if test.name == "no store" {
			header = strings.Replace(header, "max-age=60", "no-store", 1)
		} else {
			header = strings.Replace(header, "no-store", "max-age=60", 1)
		}
		url := startCaddy(t, "etag {\n"+test.options+"\n}\nreverse_proxy "+startRaw(t, fmt.Sprintf(header, test.field), body))
		for _, protocol := range []string{"h1", "h2c"} {
			t.Run(test.name+" "+protocol, func(t *testing.T) {
				client := clientFor(t, protocol, nil)
				check := func(res reply, status int) {
					t.Helper()
					require.Equal(t, status, res.status)
					require.Equal(t, test.tag, res.tag())
					require.Contains(t, header, "Cache-Control: "+res.header.Get("Cache-Control")+"\r\n")
					require.NotEmpty(t, res.header.Get("Cache-Control"))
					require.Equal(t, "early", res.header.Get("X-Early"))
					require.NotContains(t, res.header, "X-Sum")
				}
				res := do(t, client, http.MethodGet, url, "")
				require.NoError(t, res.err)
				require.Equal(t, "hello", res.body)
				check(res, 200)
				require.Equal(t, "5", res.trailer.Get("X-Sum"))
				require.Empty(t, res.trailer.Get("Cache-Control"))
				if test.name != "kept" { // which is neither tagged here nor without a tag
					require.Equal(t, test.trailer, res.trailer.Get("ETag"))
				}
				check(do(t, client, http.MethodHead, url, ""), 200)
				if test.tag != "" {
					check(do(t, client, http.MethodGet, url, "", "If-None-Match", test.tag), 304)
					check(do(t, client, http.MethodHead, url, "", "If-None-Match", test.tag), 304)
				}
			})
		}
	}
}

// TestNoStoreTagOnEveryWay: a 304, a HEAD and the answer to a write have the tag
// too, and Cache-Control is as the backend has it.
func TestNoStoreTagOnEveryWay(t *testing.T) {
	s := newStore(map[string]string{"/doc": "one"})
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Cache-Control", "private, no-store")
		if r.Method == http.MethodHead {
			s.get(w, r)
			return true
		}
		return false
	}
	url := startCaddy(t, "etag {\nno_store tag\n}\nreverse_proxy "+s.start(t)) + "/doc"
	client := clientFor(t, "h1", nil)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, sends := range []fields{nil, {"If-None-Match", oneTag}} {
			res := do(t, client, method, url, "", sends...)
			require.Equal(t, map[bool]int{true: 200, false: 304}[sends == nil], res.status)
			require.Equal(t, oneTag, res.tag())
			require.Equal(t, "private, no-store", res.header.Get("Cache-Control"))
		}
	}
	res := do(t, client, http.MethodPut, url, "two", "If-Match", oneTag)
	require.Equal(t, 204, res.status)
	require.Equal(t, tagFor("two"), res.tag())
	require.Equal(t, 412, do(t, client, http.MethodDelete, url, "", "If-Match", oneTag).status)
	require.Equal(t, 204, do(t, client, http.MethodDelete, url, "", "If-Match", tagFor("two")).status)
}

// TestCacheControlGoesWithOurTag, and with nothing else.
func TestCacheControlGoesWithOurTag(t *testing.T) {
	for _, test := range []struct {
		name  string
		has   fields
		code  int
		added bool
	}{
		{"nothing", nil, 200, true},
		{"Last-Modified", fields{"Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"}, 200, true},
		{"Vary", fields{"Vary", "Accept"}, 200, true},
		{"Cache-Control", fields{"Cache-Control", "max-age=1"}, 200, false},
		{"Expires", fields{"Expires", "0"}, 200, false},
		{"Pragma", fields{"Pragma", "no-cache"}, 200, false},
		{"Set-Cookie", fields{"Set-Cookie", "a=b"}, 200, false},
		{"CDN-Cache-Control", fields{"CDN-Cache-Control", "max-age=1"}, 200, false},
		{"another targeted one", fields{"Example-Cache-Control", "max-age=1"}, 200, false},
		{"own tag", fields{"ETag", `"own"`}, 200, false},
		{"404", nil, 404, false},
		{"stream", fields{"Content-Type", "text/event-stream"}, 200, false},
		{"no-store", fields{"Cache-Control", "no-store"}, 200, false},
	} {
		url := startCaddy(t, "etag {\ncache_control \"private, no-cache\"\n}\nreverse_proxy "+startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
			addFields(w.Header(), test.has)
			w.WriteHeader(test.code)
			_, _ = io.WriteString(w, "hello")
		}))
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for _, sends := range []fields{nil, {"If-None-Match", tagFor("hello")}} {
				res := do(t, clientFor(t, "h1", nil), method, url, "", sends...)
				require.Equal(t, test.added, res.header.Get("Cache-Control") == "private, no-cache", "%s %s %v", test.name, method, sends)
			}
		}
	}
}

// TestScriptRunsToItsEnd though its body is not wanted: what it does behind its
// output must be done. It is cut off only where that has no end in sight.
func TestScriptRunsToItsEnd(t *testing.T) {
	const limit = 1 << 20
	for _, size := range []int{512 << 10, limit, 2 * limit} {
		for _, length := range []string{"", fmt.Sprint(size)} {
			for _, test := range []struct {
				name, method string
				sends        fields
				status       int
			}{
				{"304", http.MethodGet, fields{"If-None-Match", `"own"`}, 304},
				{"HEAD", http.MethodHead, nil, 200},
				{"304 to a HEAD", http.MethodHead, fields{"If-None-Match", `"own"`}, 304},
			} {
				t.Run(strings.Join([]string{test.name, fmt.Sprint(size), length}, " "), func(t *testing.T) {
					runs := func() (toItsEnd bool) {
						rec, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, r *http.Request) error {
							if r.Method == http.MethodHead {
								w.WriteHeader(http.StatusOK) // and so the answer is that of a GET
								return nil
							}
							w.Header().Set("ETag", `"own"`)
							if length != "" {
								w.Header().Set("Content-Length", length)
							}
							w.WriteHeader(http.StatusOK)
							for n := 0; n < size; n += 32 << 10 {
								if _, err := w.Write(make([]byte, 32<<10)); err != nil {
									return err
								}
							}
							toItsEnd = r.Context().Err() == nil
							return nil
						}, test.method, test.sends...)
						require.NoError(t, err)
						require.Equal(t, test.status, rec.Code)
						require.Equal(t, `"own"`, rec.Header().Get("ETag"))
						require.Empty(t, rec.Body.String())
						return toItsEnd
					}
					if size > limit {
						require.False(t, runs())
						return
					}
					for range 50 { // a machine that stands still may let the time for it run out
						if runs() {
							return
						}
					}
					require.Fail(t, "it is cut off")
				})
			}
		}
	}
}

// TestUnstableTagIsTold: by its date the client has what there is, and by its
// tag it has not, so that something in the body changes that tells nothing.
func TestUnstableTagIsTold(t *testing.T) {
	const date, earlier = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:36 GMT"
	var views atomic.Int32
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/undated" {
			w.Header().Set("Last-Modified", date)
		}
		if r.URL.Path == "/own" {
			w.Header().Set("ETag", `"own"`)
		}
		if r.Method == http.MethodHead {
			return
		}
		fmt.Fprint(w, "views: ", views.Add(1))
	})
	url := startCaddy(t, "header >X-Reason {http.etag.reason}\nheader >X-Outcome {http.etag.outcome}\netag\nreverse_proxy "+upstream)
	for _, test := range []struct {
		path            string
		sends           fields
		outcome, reason string
	}{
		{"/", nil, "tagged", ""},
		{"/", fields{"If-None-Match", `"x"`}, "tagged", ""},
		{"/", fields{"If-None-Match", `"x"`, "If-Modified-Since", date}, "tagged", "unstable"},
		{"/", fields{"If-None-Match", `"x"`, "If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT"}, "tagged", "unstable"},
		{"/", fields{"If-None-Match", `"x"`, "If-Modified-Since", earlier}, "tagged", ""},
		{"/", fields{"If-None-Match", `"x"`, "If-Modified-Since", "x"}, "tagged", ""},
		{"/own", fields{"If-None-Match", `"x"`, "If-Modified-Since", date}, "kept", ""},
		{"/undated", fields{"If-None-Match", `"x"`, "If-Modified-Since", date}, "tagged", ""},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for _, protocol := range []string{"h1", "h2c"} {
				res := do(t, clientFor(t, protocol, nil), method, url+test.path, "", test.sends...)
				told := fmt.Sprint(method, " ", test.path, " ", test.sends)
				require.Equal(t, 200, res.status, told)
				require.Equal(t, test.outcome, res.header.Get("X-Outcome"), told)
				require.Equal(t, test.reason, res.header.Get("X-Reason"), told)
			}
		}
	}
}

// TestDefaultOfMaxDelay is what a user waits for the first byte at the most.
func TestDefaultOfMaxDelay(t *testing.T) {
	bare, err := loadHandler(t, `{}`)
	require.NoError(t, err)
	spelledOut, err := loadHandler(t, `{"max_delay": "300ms"}`)
	require.NoError(t, err)
	got, err := json.Marshal(bare)
	require.NoError(t, err)
	want, err := json.Marshal(spelledOut)
	require.NoError(t, err)
	require.JSONEq(t, string(want), string(got))
}

// askAndReadNothing sends GET requests over one connection of HTTP/2 whose
// client has no room for a byte of body.
func askAndReadNothing(t *testing.T, host, path string, n int) {
	t.Helper()
	conn, err := net.Dial("tcp", host)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	framer := http2.NewFramer(conn, conn)
	require.NoError(t, framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := range n {
		block.Reset()
		for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", host}, {":path", path}} {
			require.NoError(t, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
		}
		require.NoError(t, framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
		}))
	}
	go func() {
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if settings, ok := frame.(*http2.SettingsFrame); ok && !settings.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		}
	}()
}

// TestReadersThatDoNotReadStopNoWrite: they hold what readers may hold, and
// what a guarded write needs for its tag is there all the same.
func TestReadersThatDoNotReadStopNoWrite(t *testing.T) {
	for _, test := range []struct {
		memory string
		size   int
	}{
		{"256KiB", 20 << 10}, // a block
		{"1MiB", 60 << 10},
	} {
		t.Run(test.memory, func(t *testing.T) {
			const readers = 32
			var asked, written atomic.Int32
			doc := jsonDocument(test.size)
			upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet {
					written.Add(1)
					w.WriteHeader(http.StatusNoContent)
					return
				}
				asked.Add(1)
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write(doc)
			})
			url := startCaddy(t, "etag weak {\ncanonicalize json\nmax_memory "+test.memory+"\nmax_delay -1\n}\nreverse_proxy "+upstream)
			client := clientFor(t, "h1", nil)
			tag := do(t, client, http.MethodGet, url, "").tag()
			require.NotEmpty(t, tag)

			askAndReadNothing(t, strings.TrimPrefix(url, "http://"), "/", readers)
			eventually(t, func() bool { return asked.Load() == 1+readers && held.Total() > 0 })
			for last := held.Total(); happens(func() bool { return held.Total() != last }); last = held.Total() {
			}
			for range 3 {
				res := do(t, client, http.MethodPut, url, "{}", "If-Match", `W/"00000000000000000000000000000000"`)
				require.Equal(t, 412, res.status, res.body)
				require.Equal(t, tag, res.tag())
			}
			require.Zero(t, written.Load())
			require.Equal(t, 204, do(t, client, http.MethodPut, url, "{}", "If-Match", tag).status)
			require.EqualValues(t, 1, written.Load())
		})
	}
}
