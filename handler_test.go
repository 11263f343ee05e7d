package etag

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// tagFor returns the tag that a body gets by default.
func tagFor(body string) string {
	sum := sha256.Sum256([]byte(body))
	return fmt.Sprintf(`"%x"`, sum[:16])
}

// withSuffix returns a tag as encode makes it.
func withSuffix(tag, suffix string) string {
	return strings.TrimSuffix(tag, `"`) + suffix + `"`
}

// longText is more than encode's minimum_length.
var longText = strings.Repeat("some text to compress. ", 100)

func TestReadThroughReverseProxy(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("hello"))
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)

	first := get(t, url)
	require.Equal(t, 200, first.status)
	require.Equal(t, `"2cf24dba5fb0a30e26e83b2ac5b9e29e"`, first.tag())
	require.Equal(t, "hello", first.body)

	second := get(t, url, "If-None-Match", first.tag())
	require.Equal(t, 304, second.status)
	require.Empty(t, second.body)
	require.Equal(t, first.tag(), second.tag())
}

// startEveryBackend returns a site with a path for each kind of handler that
// makes responses. They all have longText, and all but /file.txt our tag.
func startEveryBackend(tb testing.TB, options string) (site string, paths []string) {
	tb.Helper()
	upstream := startUpstream(tb, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", strconv.Itoa(len(longText)))
		}
		for line := range strings.SplitAfterSeq(longText, ".") {
			_, _ = io.WriteString(w, line)
			if r.URL.Path == "/chunked" {
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
	dir := tb.TempDir()
	for _, name := range []string{"file.txt", "template.html"} {
		require.NoError(tb, os.WriteFile(filepath.Join(dir, name), []byte(longText), 0o600))
	}
	site = options + `
		etag
		root ` + dir + `
		@upstream path /length /chunked
		handle @upstream {
			reverse_proxy ` + upstream + `
		}
		handle /respond {
			respond "` + longText + `"
		}
		handle /template.html {
			templates
			file_server
		}
		handle {
			file_server
		}`
	return site, []string{"/length", "/chunked", "/respond", "/template.html", "/file.txt"}
}

// TestReadsOfEveryBackendOverEveryProtocol has the main job, with and without
// a compressing encode in front.
func TestReadsOfEveryBackendOverEveryProtocol(t *testing.T) {
	for _, options := range []string{"", "encode gzip"} {
		site, paths := startEveryBackend(t, options)
		check := func(protocol, url string, client *http.Client) {
			for _, path := range paths {
				t.Run(strings.Join([]string{protocol, options, path}, " "), func(t *testing.T) {
					tag := tagFor(longText)
					if path == "/file.txt" {
						tag = do(t, client, http.MethodGet, url+path, "").tag()
						require.NotEqual(t, tagFor(longText), tag)
					}
					checkReads(t, client, url+path, longText, tag)
					if options != "" {
						checkCompressedReads(t, client, url+path, tag)
					}
				})
			}
		}

		url, roots := startTLS(t, site)
		for _, protocol := range []string{"h1", "h2", "h3"} {
			check(protocol, url, clientFor(t, protocol, roots))
		}
		check("h2c", startCaddy(t, site), clientFor(t, "h2c", nil))
	}
}

// checkReads checks GET and HEAD without a coding, and their 304 and 412.
func checkReads(t *testing.T, client *http.Client, url, body, tag string) {
	t.Helper()
	full := do(t, client, http.MethodGet, url, "")
	require.NoError(t, full.err)
	require.Equal(t, 200, full.status)
	require.Equal(t, body, full.body)
	require.Equal(t, tag, full.tag())

	head := do(t, client, http.MethodHead, url, "")
	require.Equal(t, 200, head.status)
	require.Equal(t, withoutDate(full.header), withoutDate(head.header))

	for _, method := range []string{http.MethodGet, http.MethodHead} {
		res := do(t, client, method, url, "", "If-None-Match", `"other", W/`+tag)
		require.Equal(t, 304, res.status)
		require.Equal(t, tag, res.tag())
		require.Empty(t, res.body)

		res = do(t, client, method, url, "", "If-Match", tag, "If-None-Match", `"other"`)
		require.Equal(t, 200, res.status)

		res = do(t, client, method, url, "", "If-Match", "W/"+tag)
		require.Equal(t, 412, res.status)
		require.Equal(t, tag, res.tag())
		require.Equal(t, "application/problem+json", res.header.Get("Content-Type"))
		require.Equal(t, method == http.MethodHead, res.body == "")
	}
}

// checkCompressedReads checks that encode's suffix does not make a tag
// foreign, whatever the client asks for now.
func checkCompressedReads(t *testing.T, client *http.Client, url, tag string) {
	t.Helper()
	compressed := do(t, client, http.MethodGet, url, "", "Accept-Encoding", "gzip")
	require.Equal(t, 200, compressed.status)
	require.Equal(t, "gzip", compressed.header.Get("Content-Encoding"))
	require.Equal(t, withSuffix(tag, "-gzip"), compressed.tag())

	same := do(t, client, http.MethodGet, url, "", "Accept-Encoding", "gzip", "If-None-Match", compressed.tag())
	require.Equal(t, 304, same.status)
	require.Equal(t, tag, same.tag(), "encode leaves the tag of a 304 alone, here as behind a file_server")
	if tag == tagFor(longText) {
		other := do(t, client, http.MethodGet, url, "", "Accept-Encoding", "identity", "If-None-Match", compressed.tag())
		require.Equal(t, 304, other.status)
		require.Equal(t, tag, other.tag())
	}
}

func withoutDate(header http.Header) http.Header {
	header = header.Clone()
	header.Del("Date")
	return header
}

func TestEncodeAddsNothingToWeakTags(t *testing.T) {
	url := startCaddy(t, "encode gzip\netag weak\nrespond \""+longText+"\"")
	res := get(t, url, "Accept-Encoding", "gzip")
	require.Equal(t, "gzip", res.header.Get("Content-Encoding"))
	require.Equal(t, "W/"+tagFor(longText), res.tag())
	require.Equal(t, 304, get(t, url, "If-None-Match", res.tag()).status)
	require.Equal(t, 412, get(t, url, "If-Match", res.tag()).status, "a weak tag never matches strongly")
}

func TestReadThatFailsGetsAProblemBody(t *testing.T) {
	url := startCaddy(t, "header Vary Accept\netag\nrespond hello")
	for name, test := range map[string]struct {
		fields []string
		yours  any
	}{
		"If-Match": {[]string{"If-Match", `"a"`, "If-Match", `"<&>"`}, `"a", "<&>"`},
	} {
		t.Run(name, func(t *testing.T) {
			res := get(t, url, test.fields...)
			require.Equal(t, 412, res.status)
			require.Equal(t, tagFor("hello"), res.tag())
			require.EqualValues(t, len(res.body), res.length)
			require.Equal(t, "Accept", res.header.Get("Vary"))
			require.Equal(t, "no-store", res.header.Get("Cache-Control"))

			var body map[string]any
			require.NoError(t, json.Unmarshal([]byte(res.body), &body))
			for _, name := range []string{"type", "detail", "message", "hint"} {
				require.NotEmpty(t, body[name], name)
				delete(body, name)
			}
			require.Equal(t, map[string]any{
				"title": "Precondition Failed", "error": "Precondition Failed", "status": 412.0,
				"currentETag": tagFor("hello"), "yourETag": test.yours,
			}, body)
		})
	}
}

func TestReadThatFailsByDateSaysSo(t *testing.T) {
	url := startCaddy(t, `header Last-Modified "Sun, 06 Nov 1994 08:49:37 GMT"
		etag
		respond hello`)
	require.Equal(t, 200, get(t, url, "If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT").status)
	res := get(t, url, "If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")
	require.Equal(t, 412, res.status)
	require.NotContains(t, res.header, "Last-Modified")
	var body map[string]any
	require.NoError(t, json.Unmarshal([]byte(res.body), &body))
	require.Equal(t, tagFor("hello"), body["currentETag"])
	require.Nil(t, body["yourETag"])
}

// TestReadThatFailsGoesToErrorRoutes with `errors handle`, whether the tag is
// ours or the backend's, which is compared before the body has come.
func TestReadThatFailsGoesToErrorRoutes(t *testing.T) {
	for name, own := range map[string]string{"ours": "", "kept": `header ETag "\"own\""`} {
		t.Run(name, func(t *testing.T) {
			url := startCaddy(t, "etag {\nerrors handle\n}\n"+own+"\nrespond hello\nhandle_errors {\nrespond \"page {err.status_code}\"\n}")
			res := get(t, url, "If-Match", `"x"`)
			require.Equal(t, 412, res.status)
			require.Equal(t, "page 412", res.body)
			require.Equal(t, get(t, url).tag(), res.tag())
		})
	}
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
				require.Equal(t, 304, get(t, url, "If-None-Match", withSuffix(ours, "-br")).status)
			} else {
				// what ends so may well be a tag of the backend's for other bytes
				require.Equal(t, 200, get(t, url, "If-None-Match", withSuffix(test.tag, "-br")).status)
			}
		})
	}
}

// TestReplacedTagOfABodyPastTheLimitIsItsOwn: what goes out with a tag is
// compared with that tag.
func TestReplacedTagOfABodyPastTheLimitIsItsOwn(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"own"`)
		_, _ = io.WriteString(w, longText)
	})
	url := startCaddy(t, "etag {\nexisting replace\nmax_size 100\n}\nreverse_proxy "+upstream)
	require.Equal(t, `"own"`, get(t, url).tag())
	require.Equal(t, 200, get(t, url, "If-Match", `"own"`).status)
	require.Equal(t, 412, get(t, url, "If-Match", `"x"`).status)
	require.Equal(t, 304, get(t, url, "If-None-Match", `"own"`).status)
}

// TestFilesArriveWhole covers the way around the copy that a file_server's
// body takes: held, passed on, and held until it is past the limit.
func TestFilesArriveWhole(t *testing.T) {
	content := make([]byte, 300_000)
	for i := range content {
		content[i] = byte(i % 251)
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), content, 0o600))
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
			require.True(t, string(content) == res.body)
			require.EqualValues(t, len(content), res.length)
			require.Equal(t, test.ours, res.tag() == tagFor(string(content)))

			part := get(t, url+"/file", "Range", "bytes=1-3")
			require.Equal(t, 206, part.status)
			require.Equal(t, string(content[1:4]), part.body)
			require.NotEqual(t, tagFor(part.body), part.tag())
		})
	}
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

func addFields(header http.Header, fields []string) {
	for i := 0; i < len(fields); i += 2 {
		header.Add(fields[i], fields[i+1])
	}
}

// TestOtherMethodsPassUntouched: preconditions of a POST or OPTIONS are none
// of the handler's business.
func TestOtherMethodsPassUntouched(t *testing.T) {
	var got http.Header
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		_, _ = io.WriteString(w, "hello")
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	for _, method := range []string{"POST", "OPTIONS"} {
		res := do(t, clientFor(t, "h1", nil), method, url, "", "If-Match", `"x"`, "If-None-Match", "*")
		require.Equal(t, 200, res.status)
		require.Empty(t, res.tag())
		require.Equal(t, `"x"`, got.Get("If-Match"))
	}
}

// TestPreconditionsThatTheBackendSees: those that it can judge without our tag.
func TestPreconditionsThatTheBackendSees(t *testing.T) {
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	var got http.Header
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		_, _ = io.WriteString(w, "hello")
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	tests := []struct {
		name   string
		fields []string
		sees   map[string][]string
	}{
		{
			"If-None-Match as it came",
			[]string{"If-None-Match", `"a" ,bad`, "If-None-Match", `W/"b"`},
			map[string][]string{"If-None-Match": {`"a" ,bad`, `W/"b"`}},
		},
		{
			"If-Modified-Since alone",
			[]string{"If-Modified-Since", date},
			map[string][]string{"If-Modified-Since": {date}},
		},
		{
			"If-Modified-Since beside an empty If-None-Match",
			[]string{"If-None-Match", "", "If-Modified-Since", date},
			map[string][]string{"If-None-Match": {""}, "If-Modified-Since": {date}},
		},
		{
			"If-Modified-Since beside If-None-Match",
			[]string{"If-None-Match", `"a"`, "If-Modified-Since", date},
			map[string][]string{"If-None-Match": {`"a"`}},
		},
		{"If-Match and If-Unmodified-Since", []string{"If-Match", "*", "If-Unmodified-Since", date}, map[string][]string{}},
		{
			"Range and If-Range",
			[]string{"Range", "bytes=0-1", "If-Range", `"a"`},
			map[string][]string{"Range": {"bytes=0-1"}, "If-Range": {`"a"`}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, 200, get(t, url, test.fields...).status)
			sees := make(map[string][]string)
			for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Range", "If-Range"} {
				if lines, ok := got[name]; ok {
					sees[name] = lines
				}
			}
			require.Equal(t, test.sees, sees)
		})
	}
}

// TestBackendsOwnNotModified: a backend with tags of its own saves its body
// by If-None-Match, but If-Match, which it hasn't seen, precedes.
func TestBackendsOwnNotModified(t *testing.T) {
	bodies := 0
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"own"`)
		if r.Header.Get("If-None-Match") == `"own"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		bodies++
		_, _ = io.WriteString(w, "hello")
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	res := get(t, url, "If-None-Match", `"own"`)
	require.Equal(t, 304, res.status)
	require.Equal(t, `"own"`, res.tag())
	require.Equal(t, 304, get(t, url, "If-None-Match", `"own"`, "If-Match", `"own"`).status)
	res = get(t, url, "If-None-Match", `"own"`, "If-Match", `"x"`)
	require.Equal(t, 412, res.status)
	require.Equal(t, `"own"`, res.tag())
	require.Zero(t, bodies)
}

// TestFieldsOfA304 are all but those about the body.
func TestFieldsOfA304(t *testing.T) {
	stay := []string{
		"Cache-Control", "max-age=60", "Content-Location", "/there", "Expires", "Sun, 06 Nov 2094 08:49:37 GMT",
		"Vary", "Accept", "Set-Cookie", "a=b", "Set-Cookie", "c=d", "X-Other", "kept", "Content-Security-Policy", "default-src 'self'",
	}
	gone := []string{
		"Content-Type", "text/plain", "Content-Length", "5", "Content-Encoding", "x-own", "Content-Language", "en",
		"Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT", "Trailer", "X-Sum",
	}
	for name, own := range map[string]string{"ours": "", "kept": `"own"`} {
		t.Run(name, func(t *testing.T) {
			h := newHandler(t, Handler{})
			rec, err := serve(h, func(w http.ResponseWriter, r *http.Request) error {
				addFields(w.Header(), stay)
				addFields(w.Header(), gone)
				if own != "" {
					w.Header().Set("ETag", own)
				}
				_, err := io.WriteString(w, "hello")
				w.Header().Set("X-Sum", "after the body")
				return err
			}, http.MethodGet, "If-None-Match", "*")
			require.NoError(t, err)
			require.Equal(t, 304, rec.Code)
			require.Empty(t, rec.Body.String())

			want := make(http.Header)
			addFields(want, stay)
			want.Set("ETag", own)
			if own == "" {
				want.Set("ETag", tagFor("hello"))
			}
			require.Equal(t, want, rec.Result().Header)
			require.Empty(t, rec.Result().Trailer)
		})
	}
}

// TestTrailersAfterAnEarlyAnswerAreDropped: the response that they belong to
// has not been sent.
func TestTrailersAfterAnEarlyAnswerAreDropped(t *testing.T) {
	w, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("ETag", `"own"`)
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(http.StatusOK)
		_, err := io.WriteString(w, "body")
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Other", "1")
		return err
	}, http.MethodGet, "If-None-Match", `"own"`)
	require.NoError(t, err)
	require.Equal(t, 304, w.Code)
	require.NotContains(t, w.Header(), "X-Sum")
	require.NotContains(t, w.Header(), http.TrailerPrefix+"X-Other")
}

func TestLastModifiedStaysOnA304WithoutATag(t *testing.T) {
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	rec, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, r *http.Request) error {
		addFields(w.Header(), []string{"Last-Modified", date, "Cache-Control", "no-store"})
		_, err := io.WriteString(w, "hello")
		return err
	}, http.MethodGet, "If-Modified-Since", date)
	require.NoError(t, err)
	require.Equal(t, 304, rec.Code)
	require.Equal(t, date, rec.Header().Get("Last-Modified"))
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
	digits := strings.Trim(tagFor("hello"), `"`)
	for sent, prefix := range map[string]string{
		"1": "v1", "": "v", `2"3 4`: "v234", "\u00e9": "v\u00e9",
	} {
		res := get(t, url, "X-Version", sent)
		require.Equal(t, `"`+prefix+"-"+digits+`"`, res.tag())
		require.Equal(t, 304, get(t, url, "X-Version", sent, "If-None-Match", res.tag()).status)
		require.Equal(t, 200, get(t, url, "X-Version", "other", "If-None-Match", res.tag()).status)
	}
}

func TestRangeOnHeadIsIgnored(t *testing.T) {
	var got http.Header
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("hello"))
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	res := do(t, clientFor(t, "h1", nil), http.MethodHead, url, "", "Range", "bytes=0-1", "If-Range", `"x"`)
	require.Equal(t, 200, res.status)
	require.EqualValues(t, 5, res.length)
	require.Equal(t, tagFor("hello"), res.tag())
	require.NotContains(t, got, "Range")
	require.NotContains(t, got, "If-Range")
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

// newHandler provisions a handler that logs nothing.
func newHandler(tb testing.TB, config Handler) *Handler {
	tb.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	tb.Cleanup(cancel)
	h := &config
	require.NoError(tb, h.Provision(ctx))
	h.logger = zap.NewNop()
	require.NoError(tb, h.Validate())
	return h
}

// serve sends a request to a handler with next behind it.
func serve(h *Handler, next caddyhttp.HandlerFunc, method string, fields ...string) (*httptest.ResponseRecorder, error) {
	r := httptest.NewRequest(method, "/", nil)
	addFields(r.Header, fields)
	rec := httptest.NewRecorder()
	err := h.ServeHTTP(rec, r, next)
	return rec, err
}

var errOfHandler = errors.New("what the handler ran into")

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
							require.Equal(t, test.aborted && i == len(test.writes)-1, err != nil)
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
		require.EqualValues(t, 4, n)
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

// TestPanicAfterAnEarlyAnswer is of interest only if it isn't the way in
// which reverse_proxy takes being cut off.
func TestPanicAfterAnEarlyAnswer(t *testing.T) {
	next := func(value any) caddyhttp.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("ETag", `"own"`)
			w.WriteHeader(http.StatusOK)
			panic(value)
		}
	}
	rec, err := serve(newHandler(t, Handler{}), next(http.ErrAbortHandler), http.MethodGet, "If-None-Match", `"own"`)
	require.NoError(t, err)
	require.Equal(t, 304, rec.Code)
	require.PanicsWithValue(t, "broken", func() {
		_, _ = serve(newHandler(t, Handler{}), next("broken"), http.MethodGet, "If-None-Match", `"own"`)
	})
}

// TestRequestIsAsItWasAfterwards, for the handlers in front and for the log,
// even where the handler panics.
func TestRequestIsAsItWasAfterwards(t *testing.T) {
	h := newHandler(t, Handler{})
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, broken := range []bool{false, true} {
			r := httptest.NewRequest(method, "/", nil)
			addFields(r.Header, []string{
				"If-Match", `"a"`, "If-Match", `"b"`, "If-None-Match", `"c"`, "Range", "bytes=0-1", "If-Range", `"d"`,
				"If-Modified-Since", "x", "If-Unmodified-Since", "y", "Accept", "z",
			})
			header, ctx := r.Header.Clone(), r.Context()
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				require.Equal(t, http.MethodGet, r.Method)
				require.NotContains(t, r.Header, "If-Match")
				if broken {
					panic("broken")
				}
				return nil
			})
			if broken {
				require.Panics(t, func() { _ = h.ServeHTTP(httptest.NewRecorder(), r, next) })
			} else {
				require.NoError(t, h.ServeHTTP(httptest.NewRecorder(), r, next))
			}
			require.Equal(t, method, r.Method)
			require.Equal(t, header, r.Header)
			require.Equal(t, ctx, r.Context())
		}
	}
}

// echoLines is a backend that upgrades the connection, and then echoes lines.
func echoLines(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
	_ = buf.Flush()
	for {
		line, err := buf.ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprint(buf, "echo "+line)
		_ = buf.Flush()
	}
}

// TestUpgradeWorks: a connection that is upgraded is the backend's.
func TestUpgradeWorks(t *testing.T) {
	upstream := startUpstream(t, echoLines)
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	for _, field := range []string{"X-None: 1", "If-None-Match: *"} {
		host := strings.TrimPrefix(url, "http://")
		conn, err := net.Dial("tcp", host)
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n%s\r\n\r\n", host, field)
		buf := bufio.NewReader(conn)
		res, err := http.ReadResponse(buf, nil)
		require.NoError(t, err)
		require.Equal(t, 101, res.StatusCode)
		require.Empty(t, res.Header.Get("ETag"))
		for i := range 3 {
			fmt.Fprintf(conn, "message %d\n", i)
			line, err := buf.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("echo message %d\n", i), line)
		}
	}
}

func TestEarlyHintsComeBeforeTheTaggedResponse(t *testing.T) {
	hinted := make(chan struct{})
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		<-hinted // they must not be held with the rest
		_, _ = io.WriteString(w, "hello")
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	var links []string
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			require.Empty(t, header.Get("ETag"))
			links = append(links, fmt.Sprint(code, " ", header.Get("Link")))
			close(hinted)
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	res, err := clientFor(t, "h1", nil).Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, []string{"103 </style.css>; rel=preload"}, links)
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, tagFor("hello"), res.Header.Get("ETag"))
}

// TestTrailersOfATaggedResponseAreKept, announced ones and those that are not,
// beside the length where the protocol can have both.
func TestTrailersOfATaggedResponseAreKept(t *testing.T) {
	for kind, name := range map[string]string{"announced": "X-Sum", "late": http.TrailerPrefix + "X-Sum"} {
		upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			if kind == "announced" {
				w.Header().Set("Trailer", "X-Sum")
			}
			_, _ = io.WriteString(w, "hello")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set(name, "42")
		})
		url, roots := startTLS(t, "etag\nreverse_proxy "+upstream)
		for _, protocol := range []string{"h1", "h2", "h3"} {
			t.Run(kind+" "+protocol, func(t *testing.T) {
				client := clientFor(t, protocol, roots)
				res := do(t, client, http.MethodGet, url, "")
				require.NoError(t, res.err)
				require.Equal(t, "hello", res.body)
				require.Equal(t, tagFor("hello"), res.tag())
				require.Equal(t, http.Header{"X-Sum": {"42"}}, res.trailer)
				require.NotContains(t, res.header, "X-Sum")
				if protocol == "h1" {
					require.EqualValues(t, -1, res.length)
				} else {
					require.EqualValues(t, 5, res.length)
				}
				require.Equal(t, 304, do(t, client, http.MethodGet, url, "", "If-None-Match", res.tag()).status)
			})
		}
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
			require.True(t, body == rec.Body.String())
		})
	}
}
