package etag

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// These tests are about the GET by which a guarded write is judged: what it
// is, when it ends, and what its answer comes to.

// TestInternalGetIsNothingButAGet: a field that makes another method of it,
// gives it the write's identity or asks for another way of answering stays
// with the write.
// TestResourceThatNothingAnswersIsOneWithoutATag: net/http sends an empty 200.
func TestResourceThatNothingAnswersIsOneWithoutATag(t *testing.T) {
	url := startCaddy(t, "etag\n@put method PUT\nrespond @put 204")
	require.Equal(t, 200, get(t, url).status)
	client := clientFor(t, "h1", nil)
	require.Equal(t, 204, do(t, client, "PUT", url, "two", "If-Match", "*").status)
	res := do(t, client, "PUT", url, "two", "If-Match", oneTag)
	require.Equal(t, 412, res.status)
	require.Equal(t, "no_tag", problemIn(t, res)["reason"])
}

func TestInternalGetIsNothingButAGet(t *testing.T) {
	g := startGuarded(t, "write_tag off")
	res := g.do("PUT", "/doc", "two", "If-Match", oneTag,
		"X-HTTP-Method-Override", "PUT", "X-HTTP-Method", "PUT", "X-Method-Override", "PUT",
		"Idempotency-Key", `"k"`, "X-Idempotency-Key", "k",
		"Cache-Control", "max-age=60",
		"Authorization", "Bearer t", "X-Api-Key", "k", "Accept", "text/plain", "Cookie", "c=1")
	require.Equal(t, 204, res.status, res.body)
	require.Equal(t, "GET PUT", g.seen())

	read, write := g.first(t, "GET").Header, g.first(t, "PUT").Header
	for _, name := range append([]string{"Idempotency-Key", "X-Idempotency-Key"}, overrides...) {
		require.NotContains(t, read, http.CanonicalHeaderKey(name))
		require.Contains(t, write, http.CanonicalHeaderKey(name))
	}
	for name, value := range map[string]string{"Authorization": "Bearer t", "X-Api-Key": "k", "Accept": "text/plain", "Cookie": "c=1"} {
		require.Equal(t, value, read.Get(name), name)
		require.Equal(t, value, write.Get(name), name)
	}
	require.Equal(t, []string{"no-cache"}, read.Values("Cache-Control"))
	require.Equal(t, []string{"max-age=60"}, write.Values("Cache-Control"))
}

func TestInternalGetKeepsWhatElseIsPreferred(t *testing.T) {
	for sent, kept := range map[string]string{
		"timezone=UTC, return=minimal":                            "timezone=UTC",
		"return=minimal":                                          "",
		"respond-async, wait=10, handling=lenient":                "",
		"Respond-Async, Return = representation":                  "",
		"return=minimal; x=y, timezone=UTC":                       "timezone=UTC",
		"depth-noroot, wait=1":                                    "depth-noroot",
		`label="a, return=minimal"`:                               `label="a, return=minimal"`,
		"odata.maxpagesize=5, returning=x, handling-of-it, waits": "odata.maxpagesize=5, returning=x, handling-of-it, waits",
	} {
		t.Run(sent, func(t *testing.T) {
			g := startGuarded(t, "write_tag off")
			require.Equal(t, 204, g.do("PUT", "/doc", "two", "If-Match", oneTag, "Prefer", sent, "Prefer", "wait=5").status)
			require.Equal(t, []string{sent, "wait=5"}, g.first(t, "PUT").Header.Values("Prefer"))
			got := strings.Join(g.first(t, "GET").Header.Values("Prefer"), ", ")
			require.Equal(t, kept, got)
		})
	}
}

// TestInternalGetIsToldByAVariable, so that a matcher or the backend can tell
// it from a client's GET.
func TestInternalGetIsToldByAVariable(t *testing.T) {
	g := startGuardedSite(t, `@internal vars {http.vars.etag_internal} true
	route {
		etag
		request_header @internal X-Matched yes
		reverse_proxy %s {
			header_up X-Internal {http.vars.etag_internal}
		}
	}`)
	require.Equal(t, 200, g.do("GET", "/doc", "").status)
	require.Equal(t, 204, g.do("PUT", "/doc", "two", "If-Match", oneTag).status)
	require.Equal(t, "GET GET PUT GET", g.seen())
	var internal, matched []string
	for _, r := range g.all() {
		internal = append(internal, r.Header.Get("X-Internal"))
		matched = append(matched, r.Header.Get("X-Matched"))
	}
	require.Equal(t, []string{"", "true", "", "true"}, internal)
	require.Equal(t, []string{"", "yes", "", "yes"}, matched)
}

// TestInternalGetOfAnEndlessAnswerEnds: what has no end has no tag, and that is
// known before the end.
func TestInternalGetOfAnEndlessAnswerEnds(t *testing.T) {
	for mediaType, fill := range map[string]int{"text/event-stream": 0, "application/x-ndjson": 0, "text/plain": 32 << 10} {
		t.Run(mediaType, func(t *testing.T) {
			g := startGuarded(t, "max_size 64KiB\nwrite_tag off")
			ended := make(chan bool, 1)
			g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet {
					return false
				}
				w.Header().Set("Content-Type", mediaType)
				_, err := io.WriteString(w, "x\n")
				_ = http.NewResponseController(w).Flush()
				for total := 0; fill > 0 && err == nil; total += fill {
					if total > 64<<20 { // nobody stops it
						ended <- false
						return true
					}
					_, err = io.WriteString(w, strings.Repeat("x", fill))
				}
				ended <- err != nil || g.hang(r)
				return true
			})
			require.Contains(t, requireReason(t, g.do("PUT", "/doc", "two", "If-Match", `"x"`), 412, "no_tag"), "ETag")
			require.True(t, <-ended)
			require.Equal(t, 204, g.do("PUT", "/doc", "two", "If-Match", "*").status, "only * matches it")
		})
	}
}

// TestInternalGetEndsWithItsClient: nobody waits for a read whose client has
// left.
func TestInternalGetEndsWithItsClient(t *testing.T) {
	for _, protocol := range []string{"h1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			g := startGuarded(t, "lock local 2s")
			g.client = clientFor(t, protocol, nil)
			began, ended := make(chan struct{}), make(chan bool, 1)
			var reads atomic.Int32
			g.scripted(func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || reads.Add(1) > 1 {
					return false
				}
				close(began)
				ended <- g.hang(r)
				return true
			})
			put := g.send("PUT", "/doc", strings.Repeat("x", 100<<10), "If-Match", oneTag)
			<-began
			put.leave()
			require.Equal(t, 204, g.do("PUT", "/doc", "two", "If-Match", oneTag).status)
			require.True(t, <-ended)
			require.Equal(t, []string{"two"}, g.stored())
		})
	}
}

// TestInternalGetIsGivenUpAfterTheHoldTime: nobody waits for ever for a backend
// that hangs, be it before or within its answer.
func TestInternalGetIsGivenUpAfterTheHoldTime(t *testing.T) {
	for _, within := range []bool{false, true} {
		t.Run(fmt.Sprint("within its answer: ", within), func(t *testing.T) {
			g := startGuarded(t, "lock local 5s 200ms")
			ended := make(chan bool, 1)
			g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
				if within {
					_, _ = io.WriteString(w, "one")
					_ = http.NewResponseController(w).Flush()
				}
				ended <- g.hang(r)
				return true
			})
			requireReason(t, g.do("PUT", "/doc", "two", "If-Match", oneTag), 503, "hold")
			require.True(t, <-ended)
			g.scripted(nil)
			require.Equal(t, "GET", g.seen())
			require.Equal(t, 204, g.do("PUT", "/doc", "two", "If-Match", oneTag).status, "the lock is free")
		})
	}
}

// TestAnswerOfTheInternalGetThatIsTheWrites: what a client can make something
// of is said as the backend says it.
func TestAnswerOfTheInternalGetThatIsTheWrites(t *testing.T) {
	for _, status := range []int{301, 307, 308, 401, 403, 404, 407, 410, 429, 500, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			g := startGuarded(t, "")
			g.scripted(func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Location", "/elsewhere")
				w.Header().Set("Retry-After", "7")
				w.Header().Set("X-Request-Id", "r")
				http.Error(w, "the backend's words", status)
				return true
			})
			res := g.do("PUT", "/doc", "two", "If-Match", oneTag)
			require.Equal(t, status, res.status, res.body)
			require.Equal(t, "the backend's words\n", res.body)
			require.Equal(t, "/elsewhere", res.header.Get("Location"))
			require.Equal(t, "7", res.header.Get("Retry-After"))
			require.Equal(t, "r", res.header.Get("X-Request-Id"))
			require.Equal(t, "bypassed", res.header.Get("X-Outcome"))
			require.Equal(t, "GET", g.seen())
		})
	}
}

// TestAnswerOfTheInternalGetThatTellsNothing: what can't be checked isn't
// written, and the client is told why. A redirect to a login it would follow,
// and take what it finds there for success.
func TestAnswerOfTheInternalGetThatTellsNothing(t *testing.T) {
	for _, status := range []int{302, 303, 400, 405, 406, 418} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			g := startGuarded(t, "")
			g.scripted(func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Location", "/login")
				w.WriteHeader(status)
				return true
			})
			for _, fields := range [][]string{{"If-Match", oneTag}, {"If-Match", "*"}, {"If-None-Match", "*"}, {"If-None-Match", `"x"`}} {
				res := g.do("PUT", "/doc", "two", fields...)
				require.Contains(t, requireReason(t, res, 412, "unreadable"), fmt.Sprint(status))
				require.Empty(t, res.header.Get("Location"))
			}
			require.Equal(t, "GET GET GET GET", g.seen())
		})
	}
}

// TestInternalGetIsRepeatedWhereItsClientHasNotLeft: net/http's transport may
// end a request with the cancellation of another one, and then Caddy says that
// this client has left (https://go.dev/issue/41600).
func TestInternalGetIsRepeatedWhereItsClientHasNotLeft(t *testing.T) {
	tests := []struct {
		name   string
		times  int32
		status int
		seen   string
	}{
		{"once", 1, 204, "GET GET PUT"},
		{"again and again", 9, 412, "GET GET"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := startGuarded(t, "write_tag off")
			var asked atomic.Int32
			g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || asked.Add(1) > test.times {
					return false
				}
				w.WriteHeader(statusClientClosedRequest)
				return true
			})
			res := g.do("PUT", "/doc", "two", "If-Match", oneTag)
			require.Equal(t, test.status, res.status, res.body)
			require.Equal(t, test.seen, g.seen())
		})
	}
}

// TestCredentialsOfOneMethodAreNotUsedForAnother: they sign the method, and a
// GET with them would be refused, or be a replay of them.
func TestCredentialsOfOneMethodAreNotUsedForAnother(t *testing.T) {
	tests := map[string]struct {
		query  string
		fields []string
	}{
		"AWS4-HMAC":       {"", []string{"Authorization", "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"}},
		"AWS4-ECDSA":      {"", []string{"Authorization", "AWS4-ECDSA-P256-SHA256 Credential=a, SignedHeaders=host, Signature=0"}},
		"Digest":          {"", []string{"Authorization", `Digest username="u", uri="/doc", response="0"`}},
		"digest":          {"", []string{"Authorization", `digest username="u", uri="/doc", response="0"`}},
		"DPoP":            {"", []string{"Authorization", "DPoP t", "DPoP", "p"}},
		"signature":       {"", []string{"Signature-Input", `s=("@method");created=1`, "Signature", "s=:AA==:"}},
		"presigned query": {"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := startGuarded(t, "")
			for _, precondition := range [][]string{{"If-Match", oneTag}, {"If-None-Match", "*"}} {
				res := g.do("PUT", "/doc"+test.query, "two", append(precondition, test.fields...)...)
				require.Contains(t, requireReason(t, res, 412, "unreadable"), "if_match off")
			}
			require.Empty(t, g.seen(), "nothing reaches the backend")
			require.Equal(t, 204, g.do("PUT", "/doc"+test.query, "two", test.fields...).status, "what is not guarded is not read for")
		})
	}
	for _, credentials := range []string{"Bearer AWS4-HMAC-SHA256", "Basic RGlnZXN0OkRQb1A="} {
		g := startGuarded(t, "")
		require.Equal(t, 204, g.do("PUT", "/doc", "two", "If-Match", oneTag, "Authorization", credentials).status)
	}
}

// TestInternalGetEndsWhenItKnowsEnough: a large body is not fetched for what
// its header tells.
func TestInternalGetEndsWhenItKnowsEnough(t *testing.T) {
	const size = 64 << 20
	tests := map[string]struct {
		fields []string
		length bool // is declared
		status int
		reason string
	}{
		"any":                        {[]string{"If-Match", "*"}, true, 204, ""},
		"any, of unknown length":     {[]string{"If-Match", "*"}, false, 204, ""},
		"create":                     {[]string{"If-None-Match", "*"}, true, 412, "exists"},
		"create, of unknown length":  {[]string{"If-None-Match", "*"}, false, 412, "exists"},
		"past max_size":              {[]string{"If-Match", `"x"`}, true, 412, "no_tag"},
		"past max_size, as it shows": {[]string{"If-Match", `"x"`}, false, 412, "no_tag"},
		"malformed":                  {[]string{"If-Match", "x"}, false, 412, "malformed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := startGuarded(t, "write_tag off")
			written := make(chan int, 1)
			g.scripted(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet {
					return false
				}
				if test.length {
					w.Header().Set("Content-Length", fmt.Sprint(size))
				}
				total, piece := 0, strings.Repeat("x", 64<<10)
				for total < size {
					n, err := io.WriteString(w, piece)
					total += n
					if err != nil {
						break
					}
				}
				written <- total
				return true
			})
			res := g.do("PUT", "/doc", "two", test.fields...)
			require.Equal(t, test.status, res.status, res.body)
			require.Less(t, <-written, size/2, "buffers on the way take a few MiB")
			require.Equal(t, test.reason, res.header.Get("X-Reason"))
		})
	}
}
