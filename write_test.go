package etag

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestWritePreconditions has what each set of preconditions comes to, and what
// reaches the store for it.
func TestWritePreconditions(t *testing.T) {
	const guardedPut, refused = "GET PUT GET", "GET"
	tests := []struct {
		name    string
		options string
		own     string // the store's own tag
		method  string // default PUT
		path    string // default /doc
		fields  []string
		status  int
		seen    string
	}{
		{name: "no precondition", status: 204, seen: "PUT"},
		{name: "current tag", fields: []string{"If-Match", oneTag}, status: 204, seen: guardedPut},
		{name: "other tag", fields: []string{"If-Match", `"other"`}, status: 412, seen: refused},
		{name: "list with the current tag", fields: []string{"If-Match", `"a", , ` + oneTag + `, "b,c"`}, status: 204, seen: guardedPut},
		{name: "several lines", fields: []string{"If-Match", `"a"`, "If-Match", oneTag}, status: 204, seen: guardedPut},
		{name: "any", fields: []string{"If-Match", "*"}, status: 204, seen: guardedPut},
		{name: "any is not a member", fields: []string{"If-Match", `*, "a"`}, status: 412, seen: refused},
		{name: "empty If-Match", fields: []string{"If-Match", ""}, status: 412, seen: refused},
		{name: "malformed If-Match", fields: []string{"If-Match", "undefined"}, status: 412, seen: refused},
		{name: "malformed member beside the current tag", fields: []string{"If-Match", "undefined, " + oneTag}, status: 204, seen: guardedPut},

		{name: "suffix of encode", fields: []string{"If-Match", strings.TrimSuffix(oneTag, `"`) + `-gzip"`}, status: 204, seen: guardedPut},
		{name: "suffix of encode on the backend's tag", own: `"own"`, fields: []string{"If-Match", `"own-gzip"`}, status: 204, seen: guardedPut},

		{name: "weakened tag, auto", fields: []string{"If-Match", "W/" + oneTag}, status: 412, seen: refused},
		{name: "weakened tag, accept", options: "weak_if_match accept", fields: []string{"If-Match", "W/" + oneTag}, status: 204, seen: guardedPut},
		{name: "weak backend's tag, auto", own: `W/"own"`, fields: []string{"If-Match", `W/"own"`}, status: 204, seen: guardedPut},
		{name: "weak backend's tag, other, auto", own: `W/"own"`, fields: []string{"If-Match", `W/"other"`}, status: 412, seen: refused},
		{name: "weak backend's tag, reject", options: "weak_if_match reject", own: `W/"own"`, fields: []string{"If-Match", `W/"own"`}, status: 412, seen: refused},
		{name: "any, reject", options: "weak_if_match reject", own: `W/"own"`, fields: []string{"If-Match", "*"}, status: 204, seen: guardedPut},

		{name: "create, exists", fields: []string{"If-None-Match", "*"}, status: 412, seen: refused},
		{name: "create, missing", path: "/new", fields: []string{"If-None-Match", "*"}, status: 201, seen: guardedPut},
		{name: "If-None-Match, current tag", fields: []string{"If-None-Match", oneTag}, status: 412, seen: refused},
		{name: "If-None-Match, weakened current tag", fields: []string{"If-None-Match", "W/" + oneTag}, status: 412, seen: refused},
		{name: "If-None-Match, current tag with suffix", fields: []string{"If-None-Match", strings.TrimSuffix(oneTag, `"`) + `-zstd"`}, status: 412, seen: refused},
		{name: "If-None-Match, other tag", fields: []string{"If-None-Match", `"other"`}, status: 204, seen: guardedPut},
		{name: "If-None-Match, malformed member", fields: []string{"If-None-Match", `"other", x`}, status: 412, seen: refused},
		{name: "If-None-Match, empty", fields: []string{"If-None-Match", ""}, status: 412, seen: refused},
		{name: "If-None-Match, other tag, missing", path: "/new", fields: []string{"If-None-Match", `"other"`}, status: 201, seen: guardedPut},
		{name: "If-Match, missing", path: "/new", fields: []string{"If-Match", "*"}, status: 404, seen: refused},
		{name: "If-Match and create, missing", path: "/new", fields: []string{"If-Match", "*", "If-None-Match", "*"}, status: 404, seen: refused},
		{name: "If-Match true, If-None-Match false", fields: []string{"If-Match", oneTag, "If-None-Match", oneTag}, status: 412, seen: refused},

		{name: "delete, current tag", method: "DELETE", fields: []string{"If-Match", oneTag}, status: 204, seen: "GET DELETE"},
		{name: "delete, other tag", method: "DELETE", fields: []string{"If-Match", `"other"`}, status: 412, seen: refused},
		{name: "patch, current tag", method: "PATCH", fields: []string{"If-Match", oneTag}, status: 200, seen: "GET PATCH GET"},
		{name: "a method that is not guarded", method: "POST", fields: []string{"If-Match", `"other"`}, status: 200, seen: "POST"},
		{name: "if_match names the methods", options: "if_match POST", method: "PUT", fields: []string{"If-Match", `"other"`}, status: 204, seen: "PUT"},
		{name: "if_match POST", options: "if_match POST", method: "POST", fields: []string{"If-Match", `"other"`}, status: 412, seen: refused},
		{name: "write_tag off", options: "write_tag off", fields: []string{"If-Match", oneTag}, status: 204, seen: "GET PUT"},

		{name: "required, absent", options: "require_if_match", status: 428, seen: ""},
		{name: "required, present", options: "require_if_match", fields: []string{"If-Match", oneTag}, status: 204, seen: guardedPut},
		{name: "required, create", options: "require_if_match", path: "/new", fields: []string{"If-None-Match", "*"}, status: 201, seen: guardedPut},
		{name: "required, by date alone", options: "require_if_match", fields: []string{"If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"}, status: 428, seen: ""},
		{name: "required of another method", options: "require_if_match DELETE", status: 204, seen: "PUT"},
		{name: "strong tag of weak handler", options: "", fields: []string{"If-Match", oneTag}, status: 204, seen: guardedPut},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, url, client := startStore(t, test.options, maps.Clone(oneDoc))
			if test.own != "" {
				s.tag = func(string) string { return test.own }
			}
			method, path := test.method, test.path
			if method == "" {
				method = http.MethodPut
			}
			if path == "" {
				path = "/doc"
			}
			res := do(t, client, method, url+path, "two", test.fields...)
			require.Equal(t, test.status, res.status, res.body)
			require.Equal(t, test.seen, s.seen())
			if test.status >= 400 {
				require.Zero(t, s.changes())
			}
		})
	}
}

func TestWriteWithWeakTagsOfOurs(t *testing.T) {
	s := newStore(maps.Clone(oneDoc))
	url := startCaddy(t, "etag weak\nreverse_proxy "+s.start(t))
	client := clientFor(t, "h1", nil)
	tag := get(t, url+"/doc").tag()
	require.Equal(t, "W/"+oneTag, tag)

	// the strong spelling of it, as a proxy or a careless client makes it
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "one", "If-Match", strings.TrimPrefix(tag, "W/")).status)
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", tag).status)
	require.Equal(t, 412, do(t, client, "PUT", url+"/doc", "three", "If-Match", tag).status)
}

func TestWriteByDate(t *testing.T) {
	const older, current, newer = "Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:37 GMT", "Tue, 08 Nov 1994 08:49:37 GMT"
	s, url, client := startStore(t, "", maps.Clone(oneDoc))
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Last-Modified", current)
		return false
	}
	put := func(fields ...string) int {
		return do(t, client, "PUT", url+"/doc", "one", fields...).status
	}
	require.Equal(t, 412, put("If-Unmodified-Since", older))
	require.Equal(t, "GET", s.seen())
	require.Equal(t, 204, put("If-Unmodified-Since", current))
	require.Equal(t, current, s.last(t, "PUT").Header.Get("If-Unmodified-Since"), "it is not about our tag")
	require.Equal(t, 204, put("If-Unmodified-Since", newer))
	require.Equal(t, 204, put("If-Unmodified-Since", older, "If-Match", oneTag), "only without If-Match")
	require.Equal(t, 204, put("If-Unmodified-Since", older, "If-Unmodified-Since", older), "of several lines")
	require.Equal(t, 204, put("If-Unmodified-Since", "yesterday"), "no date")
}

func TestProblemBodies(t *testing.T) {
	_, url, client := startStore(t, "require_if_match", maps.Clone(oneDoc))

	problemOf := func(res reply) map[string]any {
		t.Helper()
		require.Equal(t, "application/problem+json", res.header.Get("Content-Type"))
		require.Equal(t, "no-store", res.header.Get("Cache-Control"))
		var body map[string]any
		require.NoError(t, json.Unmarshal([]byte(res.body), &body))
		require.InDelta(t, res.status, body["status"], 0)
		require.Equal(t, http.StatusText(res.status), body["title"])
		require.Equal(t, body["title"], body["error"])
		for _, member := range []string{"type", "detail", "message", "hint"} {
			require.NotEmpty(t, body[member], member)
		}
		return body
	}

	res := do(t, client, "PUT", url+"/doc", "two", "If-Match", `"mine"`)
	require.Equal(t, 412, res.status)
	require.Equal(t, oneTag, res.tag())
	body := problemOf(res)
	require.Equal(t, oneTag, body["currentETag"])
	require.Equal(t, `"mine"`, body["yourETag"])

	res = do(t, client, "PUT", url+"/doc", "two")
	require.Equal(t, 428, res.status)
	require.NotContains(t, problemOf(res), "currentETag")
}

func TestErrorsHandleGoesToErrorRoutes(t *testing.T) {
	s := newStore(maps.Clone(oneDoc))
	url := startCaddy(t, `etag {
		errors handle
		require_if_match
	}
	reverse_proxy `+s.start(t)+`
	handle_errors {
		respond "{http.error.status_code} {http.error.status_text}"
	}`)
	client := clientFor(t, "h1", nil)

	res := do(t, client, "PUT", url+"/doc", "two", "If-Match", `"mine"`)
	require.Equal(t, 412, res.status)
	require.Equal(t, "412 Precondition Failed", res.body)
	require.Equal(t, oneTag, res.tag())

	res = do(t, client, "PUT", url+"/doc", "two")
	require.Equal(t, 428, res.status)
	require.Equal(t, "428 Precondition Required", res.body)

	res = get(t, url+"/doc", "If-Match", `"mine"`)
	require.Equal(t, 412, res.status)
	require.Equal(t, "412 Precondition Failed", res.body)
}

// TestWriteAnsweredWithTheGetsAnswer: what the client may not read or what is
// not there is said as the backend says it.
func TestWriteAnsweredWithTheGetsAnswer(t *testing.T) {
	for _, status := range []int{401, 403, 404, 410, 500, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s, url, client := startStore(t, "", maps.Clone(oneDoc))
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("WWW-Authenticate", "Basic")
				http.Error(w, "not for you", status)
				return true
			}
			res := do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag)
			require.Equal(t, status, res.status)
			require.Equal(t, "not for you\n", res.body)
			require.Equal(t, "Basic", res.header.Get("WWW-Authenticate"))
			require.Equal(t, "GET", s.seen())
		})
	}
	for _, status := range []int{202, 204, 206, 300, 302, 303, 304, 400, 405} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s, url, client := startStore(t, "", maps.Clone(oneDoc))
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(status)
				return true
			}
			res := do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag)
			require.Equal(t, 412, res.status)
			require.Empty(t, res.header.Get("Location"), "the GET's header is its own")
			require.Equal(t, "GET", s.seen())
		})
	}
}

func TestCreateOnlyHoldsWhereTheGetSays404Or410(t *testing.T) {
	for status, want := range map[int]int{404: 201, 410: 201, 401: 401, 500: 500, 400: 412} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s, url, client := startStore(t, "write_tag off", nil)
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet {
					return false
				}
				w.WriteHeader(status)
				return true
			}
			res := do(t, client, "PUT", url+"/doc", "two", "If-None-Match", "*")
			require.Equal(t, want, res.status)
			if want == 201 {
				require.Equal(t, "*", s.last(t, "PUT").Header.Get("If-None-Match"), "the backend can check it again")
			}
		})
	}
}

// TestFileServerMissingFile: file_server returns its 404 as an error.
func TestFileServerMissingFile(t *testing.T) {
	s := newStore(nil)
	url := startCaddy(t, `etag
	@get method GET
	handle @get {
		root `+t.TempDir()+`
		file_server
	}
	reverse_proxy `+s.start(t))
	client := clientFor(t, "h1", nil)
	require.Equal(t, 404, do(t, client, "PUT", url+"/doc", "two", "If-Match", "*").status)
	require.Empty(t, s.seen())
	require.Equal(t, 201, do(t, client, "PUT", url+"/doc", "two", "If-None-Match", "*").status)
	require.Equal(t, "PUT", s.seen())
}

func TestDyingBackendIsNoRepresentation(t *testing.T) {
	for name, length := range map[string]string{"with Content-Length": "100", "chunked": ""} {
		t.Run(name, func(t *testing.T) {
			s, url, client := startStore(t, "", maps.Clone(oneDoc))
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				_, _ = io.WriteString(w, "one")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			// "one" has this tag, but it is not all of the document
			res := do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag)
			require.Equal(t, 502, res.status)
			require.Equal(t, "GET", s.seen())
			require.Zero(t, s.changes())
		})
	}
}

// TestShortAnswerIsNoRepresentation: a handler may end without an error and
// with less than its Content-Length.
func TestShortAnswerIsNoRepresentation(t *testing.T) {
	h := newHandler(t, Handler{})
	_, err := serve(h, func(w http.ResponseWriter, r *http.Request) error {
		assert.Equal(t, http.MethodGet, r.Method, "the write is not sent")
		w.Header().Set("Content-Length", "100")
		_, err := io.WriteString(w, "one")
		return err
	}, http.MethodPut, "If-Match", oneTag)
	var handlerErr caddyhttp.HandlerError
	require.ErrorAs(t, err, &handlerErr)
	require.Equal(t, http.StatusBadGateway, handlerErr.StatusCode)
}

func TestStreamHasNoTagAndOnlyAnyMatches(t *testing.T) {
	s, url, client := startStore(t, "write_tag off", maps.Clone(oneDoc))
	gone := make(chan struct{}, 2)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // it streams until it is cut off
		gone <- struct{}{}
		return true
	}
	require.Equal(t, 412, do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag).status)
	<-gone
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", "*").status)
	<-gone
}

func TestUntaggedRepresentationIsMatchedByAnyAlone(t *testing.T) {
	_, url, client := startStore(t, "match header X-Tag yes", maps.Clone(oneDoc))
	require.Empty(t, get(t, url+"/doc").tag())
	require.Equal(t, 412, do(t, client, "PUT", url+"/doc", "one", "If-Match", oneTag).status)
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "one", "If-Match", "*").status)
}

// TestLargeRepresentationHasTheTagOfARead: none, or with trailers the one that
// is hashed, not held, so that max_size is no limit to it.
func TestLargeRepresentationHasTheTagOfARead(t *testing.T) {
	docs := map[string]string{"/doc": strings.Repeat("x", 4096)}
	_, url, client := startStore(t, "max_size 1KiB", maps.Clone(docs))
	require.Empty(t, get(t, url+"/doc").tag())
	res := do(t, client, "PUT", url+"/doc", "two", "If-Match", tagFor(docs["/doc"]))
	require.Equal(t, 412, res.status)
	require.Empty(t, res.tag())
	require.Contains(t, res.body, `"reason":"no_tag"`)
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", "*").status)

	_, url, client = startStore(t, "max_size 1KiB\noversize trailer", maps.Clone(docs))
	res = do(t, client, "PUT", url+"/doc", "two", "If-Match", `"other"`)
	require.Equal(t, 412, res.status)
	require.Equal(t, tagFor(docs["/doc"]), res.tag())
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", res.tag()).status)
}

func TestInternalGetCarriesTheClientsFieldsButThoseAboutTheBody(t *testing.T) {
	s, url, client := startStore(t, "", maps.Clone(oneDoc))
	res := do(t, client, "PUT", url+"/doc?q=1", "two",
		"If-Match", oneTag, "If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT", "Range", "bytes=0-1", "If-Range", `"x"`,
		"Content-Type", "text/plain", "Content-Encoding", "identity", "Content-Language", "en",
		"Digest", "x", "Repr-Digest", "x", "Want-Content-Digest", "x", "If", `(["x"])`,
		"Authorization", "Bearer t", "Cookie", "c=1", "X-Api-Key", "k", "Accept", "text/plain", "Accept-Language", "en")
	require.Equal(t, 204, res.status)

	r := s.last(t, "GET")
	require.Equal(t, "/doc?q=1", r.RequestURI)
	require.Zero(t, r.ContentLength)
	for name, value := range map[string]string{
		"Authorization": "Bearer t", "Cookie": "c=1", "X-Api-Key": "k", "Accept": "text/plain", "Accept-Language": "en",
		"Cache-Control": "no-cache",
	} {
		require.Equal(t, value, r.Header.Get(name), name)
	}
	for _, name := range []string{
		"If-Match", "If-Unmodified-Since", "Range", "If-Range",
		"Content-Type", "Content-Encoding", "Content-Language", "Content-Length",
		"Digest", "Repr-Digest", "Want-Content-Digest", "If",
	} {
		require.NotContains(t, r.Header, name)
	}
}

// TestInternalGetAnnouncesNothing: neither a body nor another protocol, which a
// handler further down would take for more to come.
func TestInternalGetAnnouncesNothing(t *testing.T) {
	h := newHandler(t, Handler{})
	r := httptest.NewRequest(http.MethodPut, "/doc", strings.NewReader("two"))
	addFields(r.Header, fields{"If-Match", oneTag, "Expect", "100-continue", "Upgrade", "h2c", "Transfer-Encoding", "chunked", "Trailer", "X-Sum"})
	var sent http.Header
	require.NoError(t, h.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if r.Method == http.MethodGet {
			sent = r.Header
		}
		_, err := io.WriteString(w, "one")
		return err
	})))
	require.NotNil(t, sent)
	for _, name := range []string{"Expect", "Upgrade", "Transfer-Encoding", "Trailer"} {
		require.NotContains(t, sent, name)
	}
}

func TestFieldsThatReachTheBackendWithTheWrite(t *testing.T) {
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	tests := []struct {
		name        string
		own         string
		fields, has []string
	}{
		{"our tag", "", []string{"If-Match", oneTag, "If-Unmodified-Since", date}, nil},
		{"not our tag", "", []string{"If-None-Match", `"other"`, "If-Unmodified-Since", "Sun, 06 Nov 2094 08:49:37 GMT"}, nil},
		{"any", "", []string{"If-Match", "*"}, []string{"If-Match"}},
		{"the backend's tag", `"own"`, []string{"If-Match", `"own"`, "If-None-Match", `"x"`}, []string{"If-Match", "If-None-Match"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, url, client := startStore(t, "", maps.Clone(oneDoc))
			if test.own != "" {
				s.tag = func(string) string { return test.own }
			}
			require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", test.fields...).status)
			header := s.last(t, "PUT").Header
			for _, name := range []string{"If-Match", "If-None-Match", "If-Unmodified-Since"} {
				if slices.Contains(test.has, name) {
					require.Contains(t, header, name)
				} else {
					require.NotContains(t, header, name)
				}
			}
		})
	}
}

func TestAnswerCarriesTheNewTag(t *testing.T) {
	tagOf := func(body string) string {
		h := algorithms["sha256"].get()
		_, _ = io.WriteString(h, body)
		return makeTag(h.digits(32), "", false).field
	}
	tests := []struct {
		name    string
		method  string
		options string
		prepare func(s *store)
		tag     string
	}{
		{"PUT stored as sent", "PUT", "", nil, tagOf("two")},
		{"PUT that was transformed", "PUT", "", func(s *store) { s.transform = strings.ToUpper }, ""},
		{"PUT that was transformed and shows it", "PUT", "", func(s *store) {
			s.transform = strings.ToUpper
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut {
					return false
				}
				s.write(discardWriter{make(http.Header)}, r, "two")
				_, _ = io.WriteString(w, "TWO")
				return true
			}
		}, tagOf("TWO")},
		{"PATCH", "PATCH", "", nil, tagOf("onetwo")},
		{"DELETE", "DELETE", "", nil, ""},
		{"write_tag off", "PUT", "write_tag off", nil, ""},
		{"the backend's own tag is fetched", "PUT", "", func(s *store) {
			s.tag = func(doc string) string { return `"own-` + doc + `"` }
		}, `"own-two"`},
		{"the answer has a tag already", "PUT", "", func(s *store) {
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPut {
					w.Header().Set("ETag", `"from-put"`)
				}
				return false
			}
		}, `"from-put"`},
		{"the write failed", "PUT", "", func(s *store) {
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPut {
					w.WriteHeader(http.StatusBadRequest)
					return true
				}
				return false
			}
		}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, url, client := startStore(t, test.options, maps.Clone(oneDoc))
			if test.prepare != nil {
				test.prepare(s)
			}
			res := do(t, client, test.method, url+"/doc", "two", "If-Match", "*")
			require.Equal(t, test.tag, res.tag())
		})
	}
	t.Run("an unguarded write", func(t *testing.T) {
		_, url, client := startStore(t, "", maps.Clone(oneDoc))
		require.Empty(t, do(t, client, "PUT", url+"/doc", "two").tag())
	})
}

// TestPutThatWasReadInPartGetsNoTag: what is stored is what was read of it, but
// not what the client sent.
func TestPutThatWasReadInPartGetsNoTag(t *testing.T) {
	for sent, tag := range map[string]string{"one": oneTag, "one and more": ""} {
		var stored []byte
		h := newHandler(t, Handler{})
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPut, "/", strings.NewReader(sent))
		r.Header.Set("If-Match", "*")
		err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodGet {
				_, err := w.Write(stored)
				return err
			}
			stored = make([]byte, 4)
			n, _ := io.ReadFull(r.Body, stored[:3])
			stored = stored[:n]
			if sent == "one" {
				_, _ = r.Body.Read(make([]byte, 1)) // sees the end
			}
			w.WriteHeader(http.StatusNoContent)
			return nil
		}))
		require.NoError(t, err)
		require.Equal(t, tag, w.Header().Get("ETag"), sent)
	}
}

// TestInternalGetIsRoutedAsAClientsWouldBe sends a guarded write through each
// way that Caddy has to route: it passes only if the GET found the document
// that a client's GET finds, and reaches the store only if the GET used up
// nothing that the write needs.
func TestInternalGetIsRoutedAsAClientsWouldBe(t *testing.T) {
	const hash = `$2a$04$X.yfdLmVpYEwTe44ZRq0Futv8B2ZoMct69ybJfLu8XfDXLeOM8QcC` // of "hiccup", at the least cost
	sites := map[string]string{
		"handle":      "etag\nhandle /doc {\nreverse_proxy %[1]s\n}\nhandle {\nrespond 404\n}",
		"handle_path": "etag\nhandle_path /api/* {\nreverse_proxy %[1]s\n}\nhandle {\nrewrite /doc\nreverse_proxy %[1]s\n}",
		"etag within handle": `handle /doc {
			etag
			handle {
				reverse_proxy %[1]s
			}
		}`,
		"route":        "route {\netag\nreverse_proxy %[1]s\n}",
		"rewrite":      "rewrite /doc /x\netag\nroute {\nrewrite /x /doc\nreverse_proxy %[1]s {\nheader_up X-User {http.request.orig_uri}\n}\n}",
		"strip_prefix": "uri path_regexp ^ /pre\netag\nroute {\nuri strip_prefix /pre\nreverse_proxy %[1]s\n}",
		"methods": `etag
			@get method GET
			handle @get {
				reverse_proxy %[1]s
			}
			@put method PUT
			handle @put {
				reverse_proxy %[1]s
			}`,
		"named matcher": "@doc path /doc\nhandle @doc {\netag\nreverse_proxy %[1]s\n}\nrespond 404",
		"vars": `vars upstream %[1]s
			etag
			reverse_proxy {vars.upstream}`,
		"map": `map {path} {upstream} {
				/doc %[1]s
				default 127.0.0.1:1
			}
			etag
			reverse_proxy {upstream}`,
		"placeholders": `etag
			reverse_proxy %[1]s {
				header_up X-Method {method}
				header_up X-Path {path}
			}`,
		"auth": "basic_auth {\nBob " + hash + "\n}\netag\nreverse_proxy %[1]s {\nheader_up X-User {http.auth.user.id}\n}",
		"nested etag": `etag {
				require_if_match
			}
			handle {
				route {
					etag
					reverse_proxy %[1]s
				}
			}`,
	}
	for name, site := range sites {
		t.Run(name, func(t *testing.T) {
			s := newStore(maps.Clone(oneDoc))
			url := startCaddy(t, fmt.Sprintf(site, s.start(t)))
			client := clientFor(t, "h1", nil)
			fields := []string{"Authorization", "Basic Qm9iOmhpY2N1cA=="}

			require.Equal(t, oneTag, get(t, url+"/doc", fields...).tag())
			s.seen()
			res := do(t, client, "PUT", url+"/doc", "two", append(fields, "If-Match", oneTag)...)
			require.Equal(t, 204, res.status, res.body)
			require.NotEmpty(t, res.tag())
			doc, _ := s.doc("/doc")
			require.Equal(t, "two", doc)
			put, internal := s.last(t, "PUT"), s.last(t, "GET")
			require.Equal(t, put.URL.Path, internal.URL.Path)
			require.Equal(t, put.Header.Get("X-User"), internal.Header.Get("X-User"), "the user, or the URI that the client sent")
			if name == "placeholders" {
				require.Equal(t, "PUT /doc", put.Header.Get("X-Method")+" "+put.Header.Get("X-Path"))
				require.Equal(t, "GET /doc", internal.Header.Get("X-Method")+" "+internal.Header.Get("X-Path"))
			}
			require.Equal(t, 412, do(t, client, "PUT", url+"/doc", "three", append(fields, "If-Match", oneTag)...).status)
		})
	}
}

// TestInternalGetLeavesTheRequestAsItWas: neither the variables nor the
// response fields nor the placeholders that the GETs leave behind are those of
// the client's request, which are logged after all is done.
func TestInternalGetLeavesTheRequestAsItWas(t *testing.T) {
	s := newStore(maps.Clone(oneDoc))
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("X-"+r.Method, "seen")
		return false
	}
	file := t.TempDir() + "/access.log"
	url := startCaddy(t, `log {
			output file `+file+`
		}
		log_append var {vars.method}
		log_append my_method {method}
		log_append my_uri {uri}
		log_append my_tag {header.If-Match}
		etag
		route {
			@get method GET
			vars @get method from-get
			rewrite /x/doc
			uri strip_prefix /x
			log_append who {method}
			reverse_proxy `+s.start(t)+`
		}`)
	res := do(t, clientFor(t, "h1", nil), "PUT", url+"/doc", "two", "If-Match", oneTag)
	require.Equal(t, 204, res.status)
	require.NotEmpty(t, res.tag())
	require.Equal(t, "GET PUT GET", s.seen())
	require.Equal(t, "seen", res.header.Get("X-Put"))
	require.NotContains(t, res.header, "X-Get")
	stopCaddy()

	lines := readLines(t, file)
	require.Len(t, lines, 1)
	var entry map[string]any
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &entry))
	require.Empty(t, entry["var"], "there is no such variable")
	require.Equal(t, "PUT", entry["my_method"])
	require.Equal(t, "/doc", entry["my_uri"])
	require.Equal(t, oneTag, entry["my_tag"])
	require.Equal(t, "PUT", entry["who"])
}

// TestRefusalDoesNotWaitForTheBody: a client that sends Expect: 100-continue
// gets the final response without a 100, and never sends its body.
func TestRefusalDoesNotWaitForTheBody(t *testing.T) {
	tests := map[string]struct {
		options string
		path    string
		field   string
		status  string
	}{
		"412": {"", "/doc", `If-Match: "other"`, "412"},
		"428": {"require_if_match", "/doc", "X-Nothing: x", "428"},
		"404": {"", "/missing", `If-Match: "other"`, "404"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, url, _ := startStore(t, test.options, maps.Clone(oneDoc))
			host := strings.TrimPrefix(url, "http://")
			conn, err := net.Dial("tcp", host)
			require.NoError(t, err)
			defer conn.Close()
			// Without an answer this would wait for the body for ever.
			require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n%s\r\n\r\n", test.path, host, test.field)

			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			defer res.Body.Close()
			require.Equal(t, test.status, res.Status[:3])
			_, err = io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Zero(t, s.changes())
		})
	}
}

// TestWriteThatPassesGetsItsContinue: the client is asked for the body once the
// preconditions hold.
func TestWriteThatPassesGetsItsContinue(t *testing.T) {
	s, url, _ := startStore(t, "", maps.Clone(oneDoc))
	host := strings.TrimPrefix(url, "http://")
	conn, err := net.Dial("tcp", host)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	fmt.Fprintf(conn, "PUT /doc HTTP/1.1\r\nHost: %s\r\nContent-Length: 3\r\nExpect: 100-continue\r\nIf-Match: %s\r\n\r\n", host, oneTag)

	answers := bufio.NewReader(conn)
	next := func() int {
		res, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		defer res.Body.Close()
		return res.StatusCode
	}
	require.Equal(t, 100, next())
	_, err = io.WriteString(conn, "two")
	require.NoError(t, err)
	status := next()
	for status == 100 { // the backend's own, which reverse_proxy passes on
		status = next()
	}
	require.Equal(t, 204, status)
	doc, _ := s.doc("/doc")
	require.Equal(t, "two", doc)
}

// TestBodyOfAWriteIsStreamed, if its client says so or wants another protocol: the
// backend gets the first half of the body before the client has sent the second.
func TestBodyOfAWriteIsStreamed(t *testing.T) {
	s, url, client := startStore(t, "write_tag off", maps.Clone(oneDoc))
	got := make(chan string, 1)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		half := make([]byte, 5)
		_, _ = io.ReadFull(r.Body, half)
		got <- string(half)
		_, _ = io.Copy(io.Discard, r.Body)
		return true
	}
	for _, streams := range []fields{{"Incremental", "?1"}, {"Connection", "Upgrade", "Upgrade", "x"}} {
		body, send := io.Pipe()
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPut, url+"/doc", body)
		require.NoError(t, err)
		addFields(req.Header, append(fields{"If-Match", oneTag}, streams...))
		done := make(chan error, 1)
		go func() {
			res, err := client.Do(req)
			if err == nil {
				res.Body.Close()
			}
			done <- err
		}()
		_, err = io.WriteString(send, "first")
		require.NoError(t, err)
		select {
		case half := <-got:
			require.Equal(t, "first", half)
		case <-time.After(20 * time.Second):
			send.Close()
			require.FailNow(t, "the body is waited for", "%v", streams)
		}
		_, err = io.WriteString(send, "second")
		require.NoError(t, err)
		require.NoError(t, send.Close())
		require.NoError(t, <-done)
	}
}

func TestGuardedWritesOverEveryProtocol(t *testing.T) {
	s := newStore(nil)
	url, roots := startTLS(t, "etag\nreverse_proxy "+s.start(t))
	for _, protocol := range []string{"h1", "h2", "h3"} {
		t.Run(protocol, func(t *testing.T) {
			client := clientFor(t, protocol, roots)
			created := do(t, client, "PUT", url+"/"+protocol, "one", "If-None-Match", "*")
			require.Equal(t, 201, created.status)
			require.Equal(t, oneTag, created.tag())
			require.Equal(t, 412, do(t, client, "PUT", url+"/"+protocol, "two", "If-Match", `"x"`).status)
			require.Equal(t, 204, do(t, client, "DELETE", url+"/"+protocol, "", "If-Match", oneTag).status)
			require.Equal(t, 404, do(t, client, "PUT", url+"/"+protocol, "two", "If-Match", oneTag).status)
		})
	}
}

// TestWriteWithTheTagOfACompressedRead: encode adds its suffix to the tag of
// the read, and takes it off If-None-Match only.
func TestWriteWithTheTagOfACompressedRead(t *testing.T) {
	s := newStore(map[string]string{"/doc": strings.Repeat("text ", 1000)})
	url := startCaddy(t, "encode gzip\netag\nreverse_proxy "+s.start(t))
	client := clientFor(t, "h1", nil)
	tag := get(t, url+"/doc", "Accept-Encoding", "gzip").tag()
	require.Contains(t, tag, `-gzip"`)
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", tag, "Accept-Encoding", "gzip").status)
	require.Equal(t, 412, do(t, client, "PUT", url+"/doc", "two", "If-Match", tag, "Accept-Encoding", "gzip").status)
}

// TestGuardedMethodOfAPost is the one that needs a precondition, if its fields
// name several.
func TestGuardedMethodOfAPost(t *testing.T) {
	for _, test := range []struct {
		h       Handler
		method  string
		fields  []string
		want    string
		guarded bool
	}{
		{Handler{}, "put", nil, "PUT", true},
		{Handler{}, "POST", nil, "POST", false},
		{Handler{}, "post", []string{"X-HTTP-Method", " delete "}, "DELETE", true},
		{Handler{}, "POST", []string{"X-HTTP-Method", "GET"}, "POST", false},
		{Handler{}, "GET", []string{"X-HTTP-Method", "PUT"}, "GET", false},
		{Handler{IfMatch: []string{"POST"}}, "POST", []string{"X-Method-Override", "PUT"}, "POST", true},
		{Handler{IfMatch: []string{ifMatchOff}}, "PUT", nil, "PUT", false},
		{Handler{IfMatch: []string{"PUT", "PATCH", "DELETE"}, RequireIfMatch: []string{"DELETE"}}, "POST", []string{
			"X-HTTP-Method-Override", "PUT", "X-HTTP-Method", "DELETE", "X-Method-Override", "PATCH",
		}, "DELETE", true},
	} {
		r := httptest.NewRequest(test.method, "/", nil)
		addFields(r.Header, test.fields)
		method, guarded := newHandler(t, test.h).guardedMethod(r)
		require.Equal(t, test.want, method, test.fields)
		require.Equal(t, test.guarded, guarded, test.fields)
	}
}
