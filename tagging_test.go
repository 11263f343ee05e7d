package etag

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// shownTag is the tag that a client has after a read: the one of the header,
// else of the trailer.
func shownTag(res reply) string {
	if tag := res.tag(); tag != "" {
		return tag
	}
	return res.trailer.Get("ETag")
}

// TestWriteWithTheTagThatAReadShowed passes, whatever limit the read ran into,
// and whoever made the tag. Where a read shows none, none is the current one.
func TestWriteWithTheTagThatAReadShowed(t *testing.T) {
	const size = 200_000
	text := strings.Repeat("x", size)
	limits := map[string]string{
		"none":       "",
		"max_size":   "max_size 100KiB",
		"max_delay":  "max_delay 20ms",
		"max_memory": "max_memory 64KiB",
	}
	for limit, line := range limits {
		for _, oversize := range []string{"pass", "trailer"} {
			for _, existing := range []string{"keep", "replace"} {
				for _, own := range []string{"", `"own"`, `W/"own"`, "unquoted"} {
					for _, fields := range [][]string{{}, {"TE", "trailers"}, {"TE", "trailers", "Accept-Encoding", "gzip"}} {
						name := fmt.Sprintf("%s, %s, %s, own %s, %v", limit, oversize, existing, own, fields)
						t.Run(name, func(t *testing.T) {
							var writes atomic.Int64
							upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
								if r.Method == http.MethodPut {
									writes.Add(1)
									return
								}
								if own != "" {
									w.Header().Set("ETag", own)
								}
								_, _ = io.WriteString(w, text[:size/2])
								_ = http.NewResponseController(w).Flush()
								if limit == "max_delay" {
									time.Sleep(60 * time.Millisecond)
								}
								_, _ = io.WriteString(w, text[size/2:])
							})
							url := startCaddy(t, fmt.Sprintf("etag {\n%s\noversize %s\nexisting %s\nwrite_tag off\n}\nreverse_proxy %s",
								line, oversize, existing, upstream))
							client := clientFor(t, "h1", nil)
							shown := do(t, client, "GET", url, "", fields...)
							require.Equal(t, text, shown.body)
							tag := shownTag(shown)
							if existing == "replace" {
								require.NotContains(t, tag, "own")
							}

							res := do(t, client, "PUT", url, "two", append(fields, "If-Match", tag)...)
							if _, valid := parseTag(tag); !valid {
								require.Equal(t, 412, res.status)
								return
							}
							require.Equal(t, 200, res.status, res.body)
							require.EqualValues(t, 1, writes.Load())
							res = do(t, client, "PUT", url, "two", append(fields, "If-Match", `"other"`)...)
							require.Equal(t, 412, res.status)
							require.EqualValues(t, 1, writes.Load())
						})
					}
				}
			}
		}
	}
}

func parseTag(field string) (tag entityTag, valid bool) {
	tag = parseEntityTag(field)
	return tag, tag.exists()
}

// TestTagsThatHandlersAboveSet count for reads and for writes alike: so a write
// with the tag that a read shows passes.
func TestTagsThatHandlersAboveSet(t *testing.T) {
	for header, shown := range map[string]string{
		`header ETag "\"v1\""`:          `"v1"`,
		`header Cache-Control no-store`: "",
	} {
		s := newStore(maps.Clone(oneDoc))
		url := startCaddy(t, "route {\n"+header+"\netag\nreverse_proxy "+s.start(t)+"\n}")
		client := clientFor(t, "h1", nil)
		require.Equal(t, shown, get(t, url+"/doc").tag(), header)
		if shown == "" {
			require.Equal(t, 412, do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag).status, "a read shows no such tag")
			continue
		}
		require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", shown).status)
		require.Equal(t, 412, do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag).status)
	}
}

// TestReplacedTagNeverReachesTheClient, whatever the response is.
func TestReplacedTagNeverReachesTheClient(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"own"`)
		switch r.URL.Path {
		case "/partial":
			w.Header().Set("Content-Range", "bytes 0-1/5")
			w.WriteHeader(http.StatusPartialContent)
		case "/stream":
			w.Header().Set("Content-Type", "text/event-stream")
		case "/no-store":
			w.Header().Set("Cache-Control", "no-store")
		case "/created":
			w.WriteHeader(http.StatusCreated)
		case "/unchanged":
			w.WriteHeader(http.StatusNotModified)
			return
		case "/missing":
			w.WriteHeader(http.StatusNotFound)
		}
		if r.Method == http.MethodGet && r.Header.Get("If-None-Match") != "" {
			t.Error("downstream can't judge the tag that it made")
		}
		_, _ = io.WriteString(w, "he")
	})
	url := startCaddy(t, "etag {\nexisting replace\n}\nreverse_proxy "+upstream)
	client := clientFor(t, "h1", nil)
	for _, path := range []string{"/partial", "/stream", "/no-store", "/created", "/unchanged"} {
		for _, method := range []string{"GET", "HEAD"} {
			require.Empty(t, do(t, client, method, url+path, "", "If-None-Match", `"own"`).tag(), "%s %s", method, path)
		}
	}
	require.Equal(t, tagFor("he"), get(t, url+"/").tag())
	for _, fields := range [][]string{nil, {"If-Match", "*"}} {
		require.NotEqual(t, `"own"`, do(t, client, "PUT", url+"/", "two", fields...).tag())
		require.NotEqual(t, `"own"`, do(t, client, "DELETE", url+"/", "", fields...).tag())
	}
	require.Equal(t, `"own"`, get(t, url+"/missing").tag(), "an error's tag is nobody's business")
}

// TestReasonsForNoTag are told apart.
func TestReasonsForNoTag(t *testing.T) {
	h := newHandler(t, Handler{})
	for name, test := range map[string]struct {
		status int
		header http.Header
		reason reason
	}{
		"tagged":         {200, http.Header{}, ""},
		"status":         {404, http.Header{}, reasonStatus},
		"not modified":   {304, http.Header{}, reasonStatus},
		"no-store":       {200, http.Header{"Cache-Control": {"private, no-store"}}, reasonNoStore},
		"stream":         {200, http.Header{"Content-Type": {"text/event-stream"}}, reasonStream},
		"not buffered":   {200, http.Header{"X-Accel-Buffering": {"no"}}, reasonStream},
		"part":           {206, http.Header{}, reasonPartial},
		"range of a 200": {200, http.Header{"Content-Range": {"bytes 0-1/2"}}, reasonPartial},
		"upgrade":        {101, http.Header{}, reasonUpgrade},
	} {
		got := h.tagging(test.status, test.header)
		require.Equal(t, test.reason, got.reason, name)
		require.Equal(t, test.reason == "", got.ours(), name)
	}
	byHeader := newHandler(t, Handler{Matcher: headerMatcher("X-Tag", "yes")})
	require.Equal(t, reasonNoMatch, byHeader.tagging(200, http.Header{}).reason)
	require.Empty(t, byHeader.tagging(200, http.Header{"X-Tag": {"yes"}}).reason)

	minted := h.tagging(200, http.Header{})
	require.Equal(t, reasonTooSlow, minted.pastLimit(oversizePass, reasonTooSlow, true).reason)
	require.Equal(t, reasonTooLarge, minted.pastLimit(oversizeTrailer, reasonTooLarge, false).reason)
	require.Equal(t, tagTrailer, minted.pastLimit(oversizeTrailer, reasonTooLarge, true).source)
	kept := h.tagging(200, http.Header{"Etag": {`"own"`}})
	require.Equal(t, kept, kept.pastLimit(oversizePass, reasonTooLarge, true))
}

func headerMatcher(name, value string) *caddyhttp.ResponseMatcher {
	return &caddyhttp.ResponseMatcher{Headers: http.Header{name: {value}}}
}

func TestOwnTags(t *testing.T) {
	ours := tagFor("hello")
	tests := []struct {
		name    string
		options string
		own     []string
		tag     string
	}{
		{"strong", "", []string{`"own"`}, `"own"`},
		{"weak", "", []string{`W/"own"`}, `W/"own"`},
		{"empty", "", []string{`""`}, `""`},
		{"keep", "existing keep", []string{`"own"`}, `"own"`},
		{"replace", "existing replace", []string{`"own"`}, ours},
		{"unquoted", "", []string{"own"}, ours},
		{"lower-case weak prefix", "", []string{`w/"own"`}, ours},
		{"white space inside", "", []string{`"o wn"`}, ours},
		{"two in one line", "", []string{`"own", "other"`}, ours},
		{"two lines", "", []string{`"own"`, `"own"`}, ours},
		{"no value", "", []string{""}, ours},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Etag"] = test.own
				_, _ = io.WriteString(w, "hello")
			})
			url := startCaddy(t, "etag {\n"+test.options+"\n}\nreverse_proxy "+upstream)
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				client := clientFor(t, "h1", nil)
				require.Equal(t, []string{test.tag}, do(t, client, method, url, "").header["Etag"])
				res := do(t, client, method, url, "", "If-None-Match", test.tag)
				require.Equal(t, 304, res.status)
				require.Equal(t, []string{test.tag}, res.header["Etag"])
				require.Equal(t, 412, do(t, client, method, url, "", "If-Match", `"x"`).status)
			}
			if test.tag == ours {
				require.Equal(t, 304, get(t, url, "If-None-Match", withSuffix(ours, "-br"), "Accept-Encoding", "br").status)
			} else {
				// what ends so may well be a tag of the backend's for other bytes
				require.Equal(t, 200, get(t, url, "If-None-Match", withSuffix(test.tag, "-br"), "Accept-Encoding", "br").status)
			}
		})
	}
}

// TestReplacedTagOfABodyPastTheLimitIsNotShown, nor compared with anything.
func TestReplacedTagOfABodyPastTheLimitIsNotShown(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"own"`)
		_, _ = io.WriteString(w, longText)
	})
	url := startCaddy(t, "etag {\nexisting replace\nmax_size 100\n}\nreverse_proxy "+upstream)
	require.Empty(t, get(t, url).tag())
	require.Equal(t, 412, get(t, url, "If-Match", `"own"`).status)
	require.Equal(t, 412, get(t, url, "If-Match", `"x"`).status)
	require.Equal(t, 200, get(t, url, "If-None-Match", `"own"`).status)
}

// TestTaggedAreThoseThatTheMatcherTakes by default those with status 200.
func TestTaggedAreThoseThatTheMatcherTakes(t *testing.T) {
	const custom = "match {\nstatus 2xx 404\nheader X-Tag *\n}"
	tests := []struct {
		name    string
		options string
		status  int
		fields  []string
		tagged  bool
	}{
		{"200", "", 200, nil, true},
		{"201", "", 201, nil, false},
		{"404", "", 404, nil, false},
		{"500", "", 500, nil, false},
		{"no-store", "", 200, []string{"Cache-Control", "private, No-Store"}, false},
		{"no-cache", "", 200, []string{"Cache-Control", "no-cache"}, true},
		{"custom, 201", custom, 201, []string{"X-Tag", "1"}, true},
		{"custom, 204", custom, 204, []string{"X-Tag", "1"}, true},
		{"custom, 404", custom, 404, []string{"X-Tag", "1"}, true},
		{"custom, other field", custom, 200, nil, false},
		{"custom, no-store", custom, 200, []string{"X-Tag", "1", "Cache-Control", "no-store"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				addFields(w.Header(), test.fields)
				w.WriteHeader(test.status)
				if test.status != http.StatusNoContent {
					_, _ = io.WriteString(w, "hello")
				}
			})
			url := startCaddy(t, "etag {\n"+test.options+"\n}\nreverse_proxy "+upstream)
			res := get(t, url)
			require.Equal(t, test.status, res.status)
			tag := ""
			if test.tagged {
				tag = tagFor(res.body)
			}
			require.Equal(t, tag, res.tag())
			if test.status == http.StatusNoContent {
				require.NotContains(t, res.header, "Content-Length", "RFC 9110 §8.6 forbids it")
			}

			// Preconditions are for responses that would be 2xx.
			failed, notModified := 412, 304
			if test.status > 299 {
				failed, notModified = test.status, test.status
			}
			require.Equal(t, failed, get(t, url, "If-Match", `"x"`).status)
			require.Equal(t, notModified, get(t, url, "If-None-Match", "*").status)
		})
	}
}

func TestEncodeAddsNothingToWeakTags(t *testing.T) {
	url := startCaddy(t, "encode gzip\netag weak\nrespond \""+longText+"\"")
	res := get(t, url, "Accept-Encoding", "gzip")
	require.Equal(t, "gzip", res.header.Get("Content-Encoding"))
	require.Equal(t, "W/"+tagFor(longText), res.tag())
	require.Equal(t, 304, get(t, url, "If-None-Match", res.tag()).status)
	require.Equal(t, 412, get(t, url, "If-Match", res.tag()).status, "a weak tag never matches strongly")
}

func TestCacheControlIsSetWhereThereIsNone(t *testing.T) {
	for name, test := range map[string]struct {
		fields []string
		want   []string
	}{
		"none":       {nil, []string{"max-age=5"}},
		"one":        {[]string{"Cache-Control", "private"}, []string{"private"}},
		"not tagged": {[]string{"Content-Type", "text/event-stream"}, nil},
		"kept":       {[]string{"ETag", `"own"`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHandler(t, Handler{CacheControl: "max-age=5"})
			next := func(w http.ResponseWriter, r *http.Request) error {
				addFields(w.Header(), test.fields)
				_, err := io.WriteString(w, "hello")
				return err
			}
			for _, fields := range [][]string{nil, {"If-None-Match", "*"}} {
				rec, err := serve(h, next, http.MethodGet, fields...)
				require.NoError(t, err)
				require.Equal(t, test.want, rec.Header()["Cache-Control"])
			}
		})
	}
}

func TestVersionIsResolvedForEachRequest(t *testing.T) {
	url := startCaddy(t, "etag {\nversion v{header.X-Version}{nothing.of_the_kind}\n}\nrespond hello")
	digits := opaque(tagFor("hello"))
	for sent, prefix := range map[string]string{
		"1": "v1", "": "v", `2"3 4`: "v234", "\u00e9": "v\u00e9",
	} {
		res := get(t, url, "X-Version", sent)
		require.Equal(t, `"`+prefix+"-"+digits+`"`, res.tag())
		require.Equal(t, 304, get(t, url, "X-Version", sent, "If-None-Match", res.tag()).status)
		require.Equal(t, 200, get(t, url, "X-Version", "other", "If-None-Match", res.tag()).status)
	}
}

// TestEveryWayToMakeTheResponseGetsOneTag: what is written in pieces, flushed,
// read from a file or written at once is the same bytes.
func TestEveryWayToMakeTheResponseGetsOneTag(t *testing.T) {
	body := strings.Repeat("0123456789", 10_000)
	ways := map[string]caddyhttp.HandlerFunc{
		"at once": func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.WriteString(w, body)
			return err
		},
		"in pieces": func(w http.ResponseWriter, r *http.Request) error {
			for piece := range slices.Chunk([]byte(body), 777) {
				if _, err := w.Write(piece); err != nil {
					return err
				}
				if err := http.NewResponseController(w).Flush(); err != nil {
					return err
				}
			}
			return nil
		},
		"flushed first": func(w http.ResponseWriter, r *http.Request) error {
			_ = http.NewResponseController(w).Flush()
			_, err := io.WriteString(w, body)
			return err
		},
		"read": func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.Copy(w, io.LimitReader(strings.NewReader(body), 1<<30))
			return err
		},
		"both": func(w http.ResponseWriter, r *http.Request) error {
			_, _ = io.WriteString(w, body[:10])
			_, err := io.Copy(w, io.LimitReader(strings.NewReader(body[10:]), 1<<30))
			return err
		},
		"two headers": func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(http.StatusOK)
			w.WriteHeader(http.StatusTeapot)
			_, err := io.WriteString(w, body)
			return err
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			rec, err := serve(newHandler(t, Handler{}), way, http.MethodGet)
			require.NoError(t, err)
			require.Equal(t, 200, rec.Code)
			require.Equal(t, tagFor(body), rec.Header().Get("ETag"))
			require.Equal(t, strconv.Itoa(len(body)), rec.Header().Get("Content-Length"))
			require.Equal(t, body, rec.Body.String())
		})
	}
}
