package etag

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// These tests are about who waits for whom: writes for each other as far as
// they must, and nobody for a client.

// TestNobodyWaitsForAClientThatDrips: its body is read before the lock is
// taken.
func TestNobodyWaitsForAClientThatDrips(t *testing.T) {
	tests := map[string]struct{ fields, begin, end string }{
		"guarded":                      {"Content-Length: 3\nIf-Match: *", "t", "wo"},
		"unguarded":                    {"Content-Length: 3", "t", "wo"},
		"guarded, of unknown length":   {"Transfer-Encoding: chunked\nIf-Match: *", "1\nt\n", "2\nwo\n0\n\n"},
		"guarded, with nothing of it":  {"Content-Length: 3\nIf-Match: *", "", "two"},
		"guarded as a POST that is it": {"Content-Length: 3\nIf-Match: *\nX-HTTP-Method-Override: PUT", "t", "wo"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := startGuarded(t, "lock local 1s\nwrite_tag off")
			conn, method := g.dial(), "PUT"
			if strings.Contains(test.fields, "Override") {
				method = "POST"
			}
			g.arrive(func() { conn.send("%s /doc HTTP/1.1\nHost: 127.0.0.1\n%s\n\n%s", method, test.fields, test.begin) })
			happens(func() bool { return g.seen() != "" })
			g.passesMeanwhile(t)
			conn.send("%s", test.end)
			require.Equal(t, 204, conn.receive().status)
			require.Equal(t, []string{"meanwhile", "two"}, g.stored())
		})
	}
}

// TestNobodyWaitsForAClientThatDoesNotRead its answer, whatever that is.
func TestNobodyWaitsForAClientThatDoesNotRead(t *testing.T) {
	const large = 1 << 20
	tests := map[string]struct {
		ifMatch string
		status  string
		length  int // at least
	}{
		"412":                {`"` + strings.Repeat("x", 5000) + `"`, "412", 5000},
		"relayed 401":        {`"x"`, "401", large},
		"answer to a write":  {"*", "200", large},
		"answer with a tag":  {oneTag, "200", large},
		"refused by a write": {oneTag, "409", large},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := startGuarded(t, "lock local 1s")
			g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case r.Header.Get("X-Unread") == "", r.Method == http.MethodGet && test.status != "401", test.status == "412":
					return false
				}
				var status int
				_, _ = fmt.Sscan(test.status, &status)
				w.WriteHeader(status)
				_, _ = io.WriteString(w, strings.Repeat("x", large))
				return true
			})
			client := g.dialUnread()
			client.request("PUT", "/doc", "two", "If-Match", test.ifMatch, "X-Unread", "yes")
			require.Equal(t, test.status, <-client.status)
			g.passesMeanwhile(t)
			client.take(1 << 30)
			require.GreaterOrEqual(t, <-client.content, test.length)
		})
	}

	// what the buffers of TCP don't take
	t.Run("relayed 401 over HTTP/1.1", func(t *testing.T) {
		const size = 64 << 20
		g := startGuarded(t, "lock local 1s")
		g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("X-Unread") == "" {
				return false
			}
			w.WriteHeader(http.StatusUnauthorized)
			for range size >> 20 {
				_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
			}
			return true
		})
		conn := g.dial()
		conn.send("PUT /doc HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 3\nIf-Match: *\nX-Unread: yes\n\ntwo")
		res, err := http.ReadResponse(conn.answers, nil)
		require.NoError(t, err)
		defer conn.Close() // there may be much left to read
		require.Equal(t, 401, res.StatusCode)
		g.passesMeanwhile(t)
		n, err := io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.EqualValues(t, size, n)
	})
}

// TestNobodyWaitsForATunnel: it may be open for days.
func TestNobodyWaitsForATunnel(t *testing.T) {
	for name, field := range map[string]string{"guarded": "If-Match: *", "unguarded": "X-Nothing: x"} {
		t.Run(name, func(t *testing.T) {
			g := startGuarded(t, "lock local 1s\nwrite_tag off")
			g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut || r.Header.Get("Upgrade") == "" {
					return false
				}
				conn, stream, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return true
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				lines := bufio.NewScanner(stream)
				for lines.Scan() {
					fmt.Fprintf(conn, "echo %s\n", lines.Text())
				}
				return true
			})
			conn := g.dial()
			conn.send("PUT /doc HTTP/1.1\nHost: 127.0.0.1\nConnection: Upgrade\nUpgrade: echo\n%s\n\n", field)
			res, err := http.ReadResponse(conn.answers, nil)
			require.NoError(t, err)
			defer res.Body.Close()
			require.Equal(t, 101, res.StatusCode)
			g.passesMeanwhile(t)
			for range 2 {
				conn.send("hello\n")
				line, err := conn.answers.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, "echo hello", strings.TrimSpace(line))
			}
		})
	}
}

// TestUnguardedWritesDoNotWaitForEachOther: a large upload is often one of
// parts that are sent at one time. A guarded write waits for them, and they
// can't keep it waiting by coming one after another.
func TestUnguardedWritesDoNotWaitForEachOther(t *testing.T) {
	g := startGuarded(t, "write_tag off")
	g.shut()
	const parts = 6
	unguarded := make([]*sentWrite, parts)
	for i := range unguarded {
		unguarded[i] = g.send("PUT", fmt.Sprint("/doc?partNumber=", i+1), "part")
	}
	eventually(t, func() bool { return g.inside() == parts })

	exclusive := g.send("PUT", "/doc", "guarded", "If-Match", "*")
	require.False(t, happens(func() bool { return g.requested("GET") > 0 }), "the guarded one waits for them")
	late := g.send("PUT", "/doc?partNumber=7", "late")
	require.False(t, happens(func() bool { return g.inside() > parts }), "who comes later waits for the guarded one")

	g.open()
	for _, put := range append(unguarded, exclusive, late) {
		require.Equal(t, 204, put.answer(t).status)
	}
	require.Equal(t, []string{"guarded", "late"}, g.stored()[parts:])
}

// TestWaiterThatLeavesIsForgotten, also with a body that net/http would have to
// read before it notices.
func TestWaiterThatLeavesIsForgotten(t *testing.T) {
	for _, protocol := range []string{"h1", "h2c"} {
		for name, fields := range map[string][]string{"guarded": {"If-Match", "*"}, "unguarded": nil} {
			t.Run(protocol+" "+name, func(t *testing.T) {
				g := startGuarded(t, "lock local 1m\nwrite_tag off")
				g.client = clientFor(t, protocol, nil)
				g.shut()
				first := g.send("PUT", "/doc", "first", "If-Match", "*")
				eventually(t, func() bool { return g.inside() == 1 })

				leaves := g.send("PUT", "/doc", strings.Repeat("x", 1<<20), fields...)
				settle()
				gone := door.gone.Load()
				leaves.leave()
				eventually(t, func() bool { return door.gone.Load() > gone })

				behind := g.send("PUT", "/doc", "behind", "If-Match", "*")
				g.open()
				require.Equal(t, 204, first.answer(t).status)
				require.Equal(t, 204, behind.answer(t).status)
				require.Equal(t, []string{"first", "behind"}, g.stored())
				require.Equal(t, "GET PUT GET PUT", g.seen())
			})
		}
	}
}

// TestBodiesOfWaitersHaveALimit of half of max_memory, which is given back.
func TestBodiesOfWaitersHaveALimit(t *testing.T) {
	body := strings.Repeat("x", 90<<10) // takes three blocks of 32 KiB, where there are four
	g := startGuarded(t, "max_memory 256KiB\nlock local 2s\nwrite_tag off")
	g.shut()
	first := g.send("DELETE", "/doc", "")
	eventually(t, func() bool { return g.inside() == 1 })
	waits := g.send("PUT", "/doc", body, "If-None-Match", "*")
	settle()
	for _, fields := range [][]string{{"If-None-Match", "*"}, {"If-Match", "*"}, nil} {
		res := g.do("PUT", "/doc", body, fields...)
		requireReason(t, res, 503, "no_memory")
		require.Equal(t, "locked_out", res.header.Get("X-Outcome"))
		require.NotEmpty(t, res.header.Get("Retry-After"))
	}
	require.Equal(t, "DELETE", g.seen())

	g.open()
	require.Equal(t, 204, first.answer(t).status)
	require.Equal(t, 201, waits.answer(t).status)
	for range 3 {
		require.Equal(t, 204, g.do("PUT", "/doc", body, "If-Match", "*").status)
	}
}

// hangingWrites has the writes with a field X-Hang hang in the backend when
// their body has come, until they are given up or the test releases them.
func (g *guardSite) hangingWrites() (began chan struct{}, givenUp chan bool, release func()) {
	began, givenUp = make(chan struct{}, 1), make(chan bool, 1)
	free := make(chan struct{})
	g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet || r.Header.Get("X-Hang") == "" {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		began <- struct{}{}
		select {
		case <-r.Context().Done():
			givenUp <- true
		case <-free:
			givenUp <- false
			w.WriteHeader(http.StatusNoContent)
		case <-g.over:
		}
		return true
	})
	return began, givenUp, func() { close(free) }
}

const shortHold = "lock local 5s 200ms"

// TestSlowWriteIsNobodysBusiness where nobody waits for it, however long it
// takes.
func TestSlowWriteIsNobodysBusiness(t *testing.T) {
	g := startGuarded(t, shortHold)
	began, givenUp, release := g.hangingWrites()
	put := g.send("PUT", "/doc", "two", "If-Match", oneTag, "X-Hang", "yes")
	<-began
	time.Sleep(500 * time.Millisecond) // longer than it may hold the lock while another one waits
	release()
	require.False(t, <-givenUp)
	require.Equal(t, 204, put.answer(t).status)
}

// TestHoldTimeEndsAWriteThatAnotherWaitsFor, and the client learns that it is
// not known what became of it.
func TestHoldTimeEndsAWriteThatAnotherWaitsFor(t *testing.T) {
	for name, fields := range map[string][]string{"guarded": {"If-Match", "*"}, "unguarded": nil} {
		t.Run("by a write that is "+name, func(t *testing.T) {
			g := startGuarded(t, shortHold)
			began, givenUp, _ := g.hangingWrites()
			hangs := g.send("PUT", "/doc", "hangs", "If-Match", oneTag, "X-Hang", "yes")
			<-began
			require.Equal(t, 204, g.do("PUT", "/doc", "two", fields...).status)
			require.True(t, <-givenUp)
			res := hangs.answer(t)
			requireReason(t, res, 504, "hold")
			require.Equal(t, "timed_out", res.header.Get("X-Outcome"))
			require.Equal(t, []string{"two"}, g.stored())
		})
	}
}

// TestHoldTimeIncludesTheUpload of a body that is too large to be read before.
func TestHoldTimeIncludesTheUpload(t *testing.T) {
	g := startGuarded(t, shortHold+"\nmax_size 1KiB")
	conn := g.dial()
	conn.send("PUT /doc HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 100000\nIf-Match: *\n\n%s", strings.Repeat("x", 2000))
	eventually(t, func() bool { return g.requested("PUT") == 1 })
	require.Equal(t, 204, g.do("PUT", "/doc", "two", "If-Match", "*").status)
	requireReason(t, conn.receive(), 504, "hold")
	eventually(t, func() bool { return g.get(&g.broken) == 1 })
	require.Equal(t, []string{"two"}, g.stored())
}

// TestHoldTimeEndsAWriteWhoseClientHasLeft: there is nobody for whom it would
// have to go on.
func TestHoldTimeEndsAWriteWhoseClientHasLeft(t *testing.T) {
	g := startGuarded(t, shortHold)
	began, givenUp, _ := g.hangingWrites()
	put := g.send("PUT", "/doc", "hangs", "If-Match", oneTag, "X-Hang", "yes")
	<-began
	put.leave()
	require.True(t, <-givenUp)
	g.gone()
	g.passesMeanwhile(t)
}

// TestHoldTimeOfAnUnguardedWriteGivesTheLockBack, and does not end the write.
func TestHoldTimeOfAnUnguardedWriteGivesTheLockBack(t *testing.T) {
	g := startGuarded(t, shortHold)
	began, givenUp, release := g.hangingWrites()
	put := g.send("PUT", "/doc", "hangs", "X-Hang", "yes")
	<-began
	g.passesMeanwhile(t)
	release()
	require.False(t, <-givenUp)
	require.Equal(t, 204, put.answer(t).status)
}

// TestHoldTimeOfAnAnswerThatHasBegunGivesTheLockBack, and does not cut it off.
func TestHoldTimeOfAnAnswerThatHasBegunGivesTheLockBack(t *testing.T) {
	for mediaType, begin := range map[string]string{"text/event-stream": "first ", "text/plain": strings.Repeat("x", 4096)} {
		t.Run(mediaType, func(t *testing.T) {
			g := startGuarded(t, shortHold+"\nmax_size 1KiB") // which the second one is past
			began, release := make(chan struct{}), make(chan struct{})
			g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("X-Stream") == "" || r.Method == http.MethodGet {
					return false
				}
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", mediaType)
				_, _ = io.WriteString(w, begin)
				_ = http.NewResponseController(w).Flush()
				close(began)
				select {
				case <-release:
					_, _ = io.WriteString(w, "end")
				case <-r.Context().Done():
				case <-g.over:
				}
				return true
			})
			put := g.send("PUT", "/doc", "two", "If-Match", "*", "X-Stream", "yes")
			<-began
			g.passesMeanwhile(t)
			close(release)
			res := put.answer(t)
			require.NoError(t, res.err)
			require.Equal(t, begin+"end", res.body)
		})
	}
}

// TestClientThatWaitsForContinueIsJudgedFirst, and once more under the lock
// when its body has come.
func TestClientThatWaitsForContinueIsJudgedFirst(t *testing.T) {
	g := startGuarded(t, "")
	conn := g.dial()
	const head = "PUT /doc HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 3\nExpect: 100-continue\nIf-Match: %s\n\n"
	conn.send(head, `"other"`)
	require.Equal(t, 412, conn.receive().status)
	require.Equal(t, "GET", g.seen())

	conn = g.dial()
	conn.send(head, oneTag)
	require.Equal(t, 100, conn.receive().status)
	g.passesMeanwhile(t) // nobody waits for its body
	conn.send("two")
	res := conn.receive()
	for res.status == 100 { // the backend's own
		res = conn.receive()
	}
	require.Equal(t, 412, res.status, "it is judged under the lock")
	before := len(g.all())

	conn = g.dial()
	conn.send(head, tagFor("meanwhile"))
	require.Equal(t, 100, conn.receive().status)
	require.Len(t, g.all(), before+1)
	conn.send("two")
	for res = conn.receive(); res.status == 100; {
		res = conn.receive()
	}
	require.Equal(t, 204, res.status)
	require.Equal(t, tagFor("two"), res.tag())
	require.True(t, strings.HasSuffix(g.seen(), " GET GET PUT GET"), g.seen())
	require.Equal(t, []string{"meanwhile", "two"}, g.stored())
}

// TestBodyThatEndsShortIsNoWrite, and no failure of the backend's.
func TestBodyThatEndsShortIsNoWrite(t *testing.T) {
	half := strings.Repeat("x", 50_000)
	tests := map[string]struct{ options, fields, begin string }{
		"guarded":                    {"", "If-Match: *\nContent-Length: 100000", half},
		"guarded, past max_size":     {"max_size 1KiB", "If-Match: *\nContent-Length: 100000", half},
		"guarded, unknown length":    {"", "If-Match: *\nTransfer-Encoding: chunked", "5\nhello\n"},
		"guarded, in a chunk":        {"", "If-Match: *\nTransfer-Encoding: chunked", "5\nhe"},
		"unguarded":                  {"", "Content-Length: 100000", half},
		"unguarded, past max_size":   {"max_size 1KiB", "Content-Length: 100000", half},
		"unguarded, unknown length":  {"", "Transfer-Encoding: chunked", "5\nhello\n"},
		"guarded, streams as it may": {"", "If-Match: *\nIncremental: ?1\nContent-Length: 100000", half},
	}
	ways := map[string]func(conn *rawConn){
		"reset":  (*rawConn).reset,
		"closed": func(conn *rawConn) { conn.Close() },
	}
	for name, test := range tests {
		for way, end := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				g := startGuardedSite(t, "etag {\nlock local 2s\n"+test.options+`
				}
				reverse_proxy %s {
					max_fails 1
					fail_duration 10s
				}`)
				conn := g.dial()
				g.arrive(func() { conn.send("PUT /doc HTTP/1.1\nHost: 127.0.0.1\n%s\n\n%s", test.fields, test.begin) })
				happens(func() bool { return g.requested("PUT") > 0 })
				end(conn)
				g.gone()
				res := g.do("GET", "/doc", "")
				require.Equal(t, 200, res.status, "the backend has not failed")
				require.Equal(t, "one", res.body)
				require.Empty(t, g.stored())
				require.Equal(t, 204, g.do("PUT", "/doc", "two", "If-Match", oneTag).status)
			})
		}
	}
}

// readerFunc is a body that is made while it is sent.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestBodyThatEndsShortIsNoWriteOverHTTP3, where a body ends with its stream,
// whatever length it was said to have.
func TestBodyThatEndsShortIsNoWriteOverHTTP3(t *testing.T) {
	ends := map[string]error{"ended": io.EOF, "reset": errors.New("the client gives up")}
	for _, options := range []string{"", "max_size 1KiB"} {
		for _, condition := range []string{"", "*"} {
			for way, end := range ends {
				t.Run(strings.Join([]string{options, condition, way}, ","), func(t *testing.T) {
					var stored, begun, ended atomic.Int64
					upstream := startUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
						if r.Method != http.MethodPut {
							return
						}
						begun.Add(1)
						defer ended.Add(1)
						if _, err := io.Copy(io.Discard, r.Body); err == nil {
							stored.Add(1)
						}
					})
					url, roots := startTLS(t, "etag {\n"+options+"\n}\nreverse_proxy "+upstream)
					body := io.MultiReader(strings.NewReader(strings.Repeat("x", 50_000)), readerFunc(func([]byte) (int, error) {
						happens(func() bool { return begun.Load() > 0 })
						return 0, end
					}))
					r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, body)
					require.NoError(t, err)
					r.ContentLength = 100_000
					if condition != "" {
						r.Header.Set("If-Match", condition)
					}
					if res, err := clientFor(t, "h3", roots).Do(r); err == nil {
						_ = res.Body.Close()
						require.GreaterOrEqual(t, res.StatusCode, 400)
					}
					eventually(t, func() bool { return begun.Load() == ended.Load() })
					require.Zero(t, stored.Load())
				})
			}
		}
	}
}

// TestReadersThatDoNotReadLeaveMemoryToWrites: what they hold is bounded, so
// that a write whose current representation has to be held passes.
func TestReadersThatDoNotReadLeaveMemoryToWrites(t *testing.T) {
	g := startGuardedSite(t, `handle /metrics {
		metrics
	}
	handle {
		etag weak {
			canonicalize json
			max_memory 512KiB
			write_tag off
		}
		reverse_proxy %s
	}`)
	large := `["` + strings.Repeat("x", 40_000) + `"]`
	g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, large)
		}
		return r.Method == http.MethodGet
	})
	client := clientFor(t, "h1", nil)
	for range 12 {
		reader := g.dialUnread()
		reader.request("GET", "/doc", "")
		require.Equal(t, "200", <-reader.status)
	}
	// Each held body takes two of sixteen blocks, and readers get twelve.
	eventually(t, func() bool { return scrape(t, client, g.url)["caddy_http_etag_held_bytes"] == 12*32<<10 })
	require.Equal(t, 204, g.do("PUT", "/doc", "two", "If-Match", "W/"+tagFor(large)).status)
}

// TestNobodyWaitsForAClientThatDoesNotReadHints: the hold time ends them, too.
func TestNobodyWaitsForAClientThatDoesNotReadHints(t *testing.T) {
	g := startGuarded(t, "lock local 10s 100ms")
	hint := strings.Repeat("x", 50_000)
	g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || r.Header.Get("X-Hints") == "" {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; r.Context().Err() == nil; i++ {
			w.Header().Set("Link", fmt.Sprint(i)+hint)
			w.WriteHeader(http.StatusEarlyHints)
		}
		return true
	})
	conn := g.dial()
	conn.send("PUT /doc HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 3\nX-Hints: 1\nIf-Match: *\n\ntwo")
	eventually(t, func() bool { return g.seen() == "GET PUT" })
	require.Equal(t, 204, g.do("PUT", "/doc", "other", "If-Match", "*").status)
	conn.reset()
}

// TestNobodyWaitsForAConnectionThatTakesNoHints: over HTTP/2, no deadline ends
// what waits for it.
func TestNobodyWaitsForAConnectionThatTakesNoHints(t *testing.T) {
	g := startGuarded(t, "lock local 10s 100ms")
	hint, sent := strings.Repeat("x", 50_000), new(atomic.Int64)
	g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || r.Header.Get("X-Hints") == "" {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; r.Context().Err() == nil; i++ {
			w.Header().Set("Link", fmt.Sprint(i)+hint)
			w.WriteHeader(http.StatusEarlyHints)
			sent.Add(1)
		}
		return true
	})
	conn, framer := g.dialHTTP2()
	writeHeader(t, framer, "PUT", "/doc", "Content-Length", "3", "X-Hints", "1", "If-Match", "*")
	require.NoError(t, framer.WriteData(1, true, []byte("two")))
	eventually(t, func() bool { return g.seen() == "GET PUT" })
	for before := int64(-1); before < sent.Load(); { // until the connection is full
		before = sent.Load()
		time.Sleep(200 * time.Millisecond)
	}
	require.Equal(t, 204, g.do("PUT", "/doc", "other", "If-Match", "*").status)
	conn.reset()
}

// TestNobodyWaitsForTheEndOfABody all of whose bytes have come: over HTTP/2, it
// is said by itself, or never.
func TestNobodyWaitsForTheEndOfABody(t *testing.T) {
	g := startGuarded(t, "lock local 10s 100ms")
	g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || r.Header.Get("X-Hangs") == "" {
			return false
		}
		_, _ = io.ReadFull(r.Body, make([]byte, 3))
		<-r.Context().Done()
		return true
	})
	conn, framer := g.dialHTTP2()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	writeHeader(t, framer, "PUT", "/doc", "Content-Length", "3", "X-Hangs", "1", "If-Match", "*", "Incremental", "?1")
	require.NoError(t, framer.WriteData(1, false, []byte("two")))
	eventually(t, func() bool { return g.seen() == "GET PUT" })
	require.Equal(t, 204, g.do("PUT", "/doc", "other", "If-Match", "*").status)
	conn.reset()
}
