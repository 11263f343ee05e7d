package etag

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// These tests look for two writes where one was to be, and for ways around the
// guard.

// TestClientsThatLeaveLoseNoUpdate: each client leaves when the backend has its
// write, and the backend stores that later all the same. The next client's
// write must not get in between.
func TestClientsThatLeaveLoseNoUpdate(t *testing.T) {
	for _, protocol := range []string{"h1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			g := startGuarded(t, "")
			g.client = clientFor(t, protocol, nil)
			g.shut()
			for i := range 5 {
				put := g.send("PUT", "/doc", fmt.Sprint("of client ", i), "If-Match", oneTag, "X-Base", oneTag)
				if i == 0 {
					eventually(t, func() bool { return g.inside() == 1 })
				} else {
					happens(func() bool { return g.inside() > i })
				}
				put.leave()
				<-put.done
			}
			stays := g.send("PUT", "/doc", "of one that stays", "If-Match", oneTag, "X-Base", oneTag)
			g.open()
			require.Equal(t, 412, stays.answer(t).status)
			require.Equal(t, []string{"of client 0"}, g.stored())
			require.Zero(t, g.get(&g.canceled), "the write goes on without its client")
			g.checkHistory(t)
		})
	}
}

// TestUnguardedWriteOfAClientThatLeftIsWaitedFor: it is no less a write.
func TestUnguardedWriteOfAClientThatLeftIsWaitedFor(t *testing.T) {
	g := startGuarded(t, "")
	g.shut()
	unguarded := g.send("PUT", "/doc", "late")
	eventually(t, func() bool { return g.inside() == 1 })
	unguarded.leave()
	<-unguarded.done

	put := g.send("PUT", "/doc", "two", "If-Match", oneTag)
	require.False(t, happens(func() bool { return g.requested("GET") > 0 }), "what is current can't be known yet")
	g.open()
	require.Equal(t, 412, put.answer(t).status)
	require.Equal(t, []string{"late"}, g.stored())
}

// oneOfManyPasses has clients write with the same fields at one time.
func (g *guardSite) oneOfManyPasses(t *testing.T, fields ...string) {
	t.Helper()
	g.shut()
	const writers = 8
	puts := make([]*sentWrite, writers)
	for i := range puts {
		puts[i] = g.send("PUT", "/doc", fmt.Sprint("of client ", i), fields...)
	}
	eventually(t, func() bool { return g.inside() > 0 })
	happens(func() bool { return g.inside() > 1 })
	g.open()
	statuses := make(map[int]int)
	for _, put := range puts {
		statuses[put.answer(t).status]++
	}
	require.Equal(t, map[int]int{204: 1, 412: writers - 1}, statuses)
	g.checkHistory(t)
}

// TestHandlerAboveWithoutALock: that it takes none is no reason for the one
// below to take none.
func TestHandlerAboveWithoutALock(t *testing.T) {
	g := startGuardedSite(t, `etag {
		lock off
	}
	route {
		etag
		reverse_proxy %s
	}`)
	g.oneOfManyPasses(t, "If-Match", oneTag, "X-Base", oneTag)
}

// storageLocks returns the files of the locks that are taken in a storage.
func storageLocks(t *testing.T, storage string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(storage, "locks", "etag-*.lock"))
	require.NoError(t, err)
	return files
}

// TestAnotherLockBelowIsTakenToo: the lock above keeps out this Caddy's
// writers, the one below those of other Caddys.
func TestAnotherLockBelowIsTakenToo(t *testing.T) {
	storage := t.TempDir()
	g := startGuardedSite(t, `etag {
		lock local
	}
	route {
		etag {
			lock storage
		}
		reverse_proxy %s
	}`, "storage file_system "+storage)
	for _, fields := range [][]string{nil, {"If-Match", "*"}} {
		g.shut()
		put := g.send("PUT", "/doc", "two", fields...)
		eventually(t, func() bool { return g.inside() == 1 })
		require.Len(t, storageLocks(t, storage), 1)
		g.open()
		require.Equal(t, 204, put.answer(t).status)
		eventually(t, func() bool { return len(storageLocks(t, storage)) == 0 })
	}
}

// TestSameLockBelowIsNotTakenAgain: it would wait for itself.
func TestSameLockBelowIsNotTakenAgain(t *testing.T) {
	for _, lock := range []string{"local 5s 1m", "storage 5s 1m"} {
		t.Run(lock, func(t *testing.T) {
			g := startGuardedSite(t, `etag {
				lock `+lock+`
			}
			route {
				etag {
					lock `+lock+`
				}
				reverse_proxy %s
			}`, "storage file_system "+t.TempDir())
			for _, fields := range [][]string{nil, {"If-Match", "*"}} {
				require.Equal(t, 204, g.do("PUT", "/doc", "two", fields...).status)
			}
		})
	}
}

// TestGuardedBelowAnUnguarded: the lock that an unguarded write has above keeps
// no other out, so that one which becomes guarded on its way takes its own.
func TestGuardedBelowAnUnguarded(t *testing.T) {
	g := startGuardedSite(t, `route {
		etag
		request_header If-Match {http.request.header.X-Base}
		etag
		reverse_proxy %s
	}`)
	g.oneOfManyPasses(t, "X-Base", oneTag)
}

// TestNamesOfOneResourceShareItsLock: while one write is in progress, no other
// one to the same resource may have come to the backend, by whatever name.
func TestNamesOfOneResourceShareItsLock(t *testing.T) {
	type name struct{ host, target string }
	tests := map[string][]name{
		"host":    {{"example.com", "/doc"}, {"example.com.", "/doc"}, {"EXAMPLE.com:80", "/doc"}},
		"address": {{"[::1]", "/doc"}, {"[::1]:80", "/doc"}},
		"path": {
			{"example.com", "/doc"},
			{"example.com", "/DOC"},
			{"example.com", "/doc/"},
			{"example.com", "//doc"},
			{"example.com", "/./doc"},
			{"example.com", "/a/../doc"},
			{"example.com", "/%64oc"},
			{"example.com", "/doc?part=1"},
		},
	}
	for kind, names := range tests {
		t.Run(kind, func(t *testing.T) {
			g := startGuarded(t, "write_tag off")
			put := func(to name, tag string) *rawConn {
				conn := g.dial()
				g.arrive(func() {
					conn.send("PUT %s HTTP/1.1\nHost: %s\nContent-Length: 3\nIf-Match: %s\n\ntwo", to.target, to.host, tag)
				})
				return conn
			}
			g.shut()
			conns := []*rawConn{put(names[0], "*")}
			eventually(t, func() bool { return g.inside() == 1 })
			for _, to := range names[1:] {
				conns = append(conns, put(to, "*"))
			}
			happens(func() bool { return g.inside() == len(names) })
			reached := []name{}
			for _, r := range g.all()[2:] {
				reached = append(reached, name{r.Host, r.RequestURI})
			}
			require.Empty(t, reached, "while a write to %v is in progress", names[0])

			for _, other := range []name{{names[0].host, "/other"}, {"other.example", names[0].target}} {
				require.Contains(t, []int{404, 412}, put(other, `"x"`).receive().status, "another resource does not wait: %v", other)
			}
			g.open()
			for _, conn := range conns {
				require.Equal(t, 204, conn.receive().status)
			}
			require.Equal(t, 1, g.get(&g.most))
		})
	}
}

// TestWhateverABackendTakesForAWriteIsGuarded: many frameworks don't care for
// the case of a method, and take a field for it.
func TestWhateverABackendTakesForAWriteIsGuarded(t *testing.T) {
	tests := []struct {
		method string
		fields []string
	}{
		{"put", nil},
		{"Put", nil},
		{"patch", nil},
		{"POST", []string{"X-HTTP-Method-Override", "PUT"}},
		{"POST", []string{"X-HTTP-Method", "PUT"}},
		{"POST", []string{"X-Method-Override", "PUT"}},
		{"POST", []string{"X-HTTP-Method-Override", "put"}},
		{"post", []string{"X-HTTP-Method-Override", "Patch"}},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.method, test.fields), func(t *testing.T) {
			g := startGuarded(t, "require_if_match")
			with := func(fields ...string) int {
				return g.do(test.method, "/doc", "two", append(fields, test.fields...)...).status
			}
			require.Equal(t, 428, with())
			require.Empty(t, g.seen())
			require.Equal(t, 412, with("If-Match", `"other"`))
			require.Equal(t, "GET", g.seen())
			require.Contains(t, []int{200, 204}, with("If-Match", oneTag, "X-Base", oneTag))
			require.Equal(t, []string{"two"}, g.stored())
		})
	}
	t.Run("a POST of a method that is not guarded", func(t *testing.T) {
		g := startGuarded(t, "require_if_match PUT\nif_match PUT")
		require.Equal(t, 200, g.do("POST", "/doc", "two").status)
		require.Equal(t, 200, g.do("POST", "/doc", "two", "X-HTTP-Method-Override", "PATCH").status)
	})
}

// TestOnlyATagOrNothingSatisfiesRequireIfMatch, also at a handler below one
// that has judged the write and taken its fields off.
func TestOnlyATagOrNothingSatisfiesRequireIfMatch(t *testing.T) {
	const past, future = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 2094 08:49:37 GMT"
	tests := []struct {
		name   string
		path   string
		fields []string
		status int
	}{
		{"nothing", "/doc", nil, 428},
		{"a date that is true", "/doc", []string{"If-Unmodified-Since", future}, 428},
		{"a date that is false", "/doc", []string{"If-Unmodified-Since", past}, 428},
		{"If-None-Match with a tag", "/doc", []string{"If-None-Match", `"x"`}, 428},
		{"If-None-Match with a tag, missing", "/new", []string{"If-None-Match", `"x"`}, 428},
		{"If-None-Match: *", "/new", []string{"If-None-Match", "*"}, 201},
		{"If-Match", "/doc", []string{"If-Match", oneTag}, 204},
		{"If-Match: *", "/doc", []string{"If-Match", "*"}, 204},
	}
	for name, site := range map[string]string{
		"one handler": "etag {\nrequire_if_match\n}\nreverse_proxy %s",
		"below a bare one": `etag
			route {
				etag {
					require_if_match
				}
				reverse_proxy %s
			}`,
	} {
		for _, test := range tests {
			t.Run(name+", "+test.name, func(t *testing.T) {
				g := startGuardedSite(t, site)
				// so that a date can be judged
				g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
					w.Header().Set("Last-Modified", "Mon, 07 Nov 1994 08:49:37 GMT")
					return false
				})
				status := test.status
				if status == 428 && name != "one handler" && test.name == "a date that is false" {
					status = 412 // which the handler above says before
				}
				require.Equal(t, status, g.do("PUT", test.path, "two", test.fields...).status)
				if status >= 400 {
					require.Zero(t, g.requested("PUT"))
				}
			})
		}
	}
}

// TestClientThatLeavesWithoutAnEndOfItsBody: all bytes of the Content-Length have
// come, and the backend has the message, though HTTP/2 would have said END_STREAM
// yet.
func TestClientThatLeavesWithoutAnEndOfItsBody(t *testing.T) {
	for _, options := range []string{"", "max_size 1KiB"} {
		g := startGuarded(t, options)
		g.shut()
		conn, framer := g.dialHTTP2()
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		body := strings.Repeat("x", 5000)
		writeHeader(t, framer, "PUT", "/doc", "Content-Length", "5000", "If-Match", oneTag, "X-Base", oneTag)
		require.NoError(t, framer.WriteData(1, false, []byte(body)))
		if options == "" { // the body is read before anything is sent
			settle()
			require.Zero(t, g.inside())
			require.NoError(t, framer.WriteRSTStream(1, http2.ErrCodeCancel))
			g.open()
			require.Equal(t, 204, g.do("PUT", "/doc", "other", "If-Match", oneTag, "X-Base", oneTag).status)
			require.Equal(t, []string{"other"}, g.stored())
			continue
		}
		eventually(t, func() bool { return g.inside() == 1 })
		require.NoError(t, framer.WriteRSTStream(1, http2.ErrCodeCancel))
		other := g.send("PUT", "/doc", "other", "If-Match", oneTag, "X-Base", oneTag)
		settle()
		g.open()
		require.Equal(t, 412, other.answer(t).status)
		require.Equal(t, []string{body}, g.stored())
	}
}
