package etag

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// These tests are about ranges that are served here, with ranges on.

// TestRangesOfABackendThatServesNone over every protocol: the backend sees no
// Range, and sends the whole.
// TestRangeMakesNoContentType: parts have the header of the whole, and a coded
// body tells nothing of what is in it.
func TestRangeMakesNoContentType(t *testing.T) {
	var coded bytes.Buffer
	z := gzip.NewWriter(&coded)
	_, _ = io.WriteString(z, longText)
	require.NoError(t, z.Close())
	for _, body := range []string{coded.String(), ""} {
		url := startScripted(t, "etag {\nranges on\n}\nscripted", func(w http.ResponseWriter, _ *http.Request) error {
			if body != "" {
				w.Header().Set("Content-Encoding", "gzip")
			}
			_, err := io.WriteString(w, body)
			return err
		})
		whole := get(t, url)
		require.Empty(t, whole.header["Content-Type"])
		res := get(t, url, "Range", "bytes=0-10", "If-Range", `"x"`)
		require.Equal(t, 200, res.status)
		require.Equal(t, withoutDate(whole.header), withoutDate(res.header))
		if body != "" {
			res = get(t, url, "Range", "bytes=0-10")
			require.Equal(t, 206, res.status)
			require.Empty(t, res.header["Content-Type"])
			require.Contains(t, get(t, url, "Range", "bytes=0-1,5-6").header.Get("Content-Type"), "multipart/byteranges")
		}
	}
}

// TestBackendSaysWhetherItHasRanges, if it does.
func TestBackendSaysWhetherItHasRanges(t *testing.T) {
	url := startCaddy(t, "etag {\nranges on\n}\nreverse_proxy "+startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Accept-Ranges", "none")
		_, _ = io.WriteString(w, alphabet)
	}))
	res := get(t, url)
	require.Equal(t, tagFor(alphabet), res.tag())
	require.Equal(t, []string{"none"}, res.header["Accept-Ranges"])
}

func TestRangesOfABackendThatServesNone(t *testing.T) {
	s, url, _ := startStore(t, "ranges on", map[string]string{"/doc": alphabet})
	ours := tagFor(alphabet)
	for _, protocol := range []string{"h1", "h2c"} {
		client := clientFor(t, protocol, nil)
		ask := func(fields ...string) reply { return do(t, client, http.MethodGet, url+"/doc", "", fields...) }

		whole := ask()
		require.Equal(t, "bytes", whole.header.Get("Accept-Ranges"), "the client is told that it may ask for ranges")
		require.Equal(t, ours, whole.tag())

		part := ask("Range", "bytes=2-4")
		require.Equal(t, 206, part.status)
		require.Equal(t, "cde", part.body)
		require.Equal(t, "bytes 2-4/26", part.header.Get("Content-Range"))
		require.Equal(t, ours, part.tag())
		require.NotContains(t, s.last(t, "GET").Header, "Range")

		require.Equal(t, []string{"bytes 0-1/26 ab", "bytes 24-25/26 yz"}, ask("Range", "bytes=0-1,-2").parts(t))

		beyond := ask("Range", "bytes=26-")
		require.Equal(t, 416, beyond.status)
		require.Equal(t, "bytes */26", beyond.header.Get("Content-Range"))

		require.Equal(t, 206, ask("Range", "bytes=2-4", "If-Range", ours).status)
		for _, other := range []string{`"x"`, "W/" + ours, withSuffix(ours, "-gzip"), "Sun, 06 Nov 1994 08:49:37 GMT"} {
			res := ask("Range", "bytes=2-4", "If-Range", other)
			require.Equal(t, 200, res.status, other)
			require.Equal(t, alphabet, res.body, other)
			require.NotContains(t, s.last(t, "GET").Header, "If-Range")
		}

		require.Equal(t, 304, ask("Range", "bytes=2-4", "If-None-Match", ours).status)
		require.Equal(t, 412, ask("Range", "bytes=2-4", "If-Match", `"x"`).status)
		require.Equal(t, 416, ask("Range", "lines=1").status, "another unit, as net/http has it")
		require.Equal(t, alphabet, ask("Range", "bytes=0-20,1-20,2-20").body, "more than the whole")
	}
}

// TestRangesOfATagThatIsNotOurs: a tag of the backend's, and one from a field.
func TestRangesOfATagThatIsNotOurs(t *testing.T) {
	for _, tt := range []struct{ options, field, value, tag string }{
		{"", "ETag", `"own"`, `"own"`},
		{"from_header X-Version", "X-Version", "7", `"7"`},
	} {
		upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(tt.field, tt.value)
			fmt.Fprint(w, alphabet)
		})
		url := startCaddy(t, "etag {\nranges on\n"+tt.options+"\n}\nreverse_proxy "+upstream)
		require.Equal(t, tt.tag, get(t, url).tag())
		part := get(t, url, "Range", "bytes=2-4", "If-Range", tt.tag)
		require.Equal(t, 206, part.status)
		require.Equal(t, "cde", part.body)
		require.Equal(t, tt.tag, part.tag())
		require.Equal(t, alphabet, get(t, url, "Range", "bytes=2-4", "If-Range", `"x"`).body)
		require.Equal(t, 304, get(t, url, "Range", "bytes=2-4", "If-None-Match", tt.tag).status)
		require.Equal(t, 412, get(t, url, "Range", "bytes=2-4", "If-Match", `"x"`).status)
	}
}

// TestRangesOfWhatIsNotHeldAreTheBackends, if it can serve them: a film must
// not be sent from its start each time that somebody moves in it.
func TestRangesOfWhatIsNotHeldAreTheBackends(t *testing.T) {
	for _, tagged := range []bool{false, true} {
		backend := &ranged{tagged: tagged}
		upstream := backend.start(t, func() string { return alphabet })
		url := startCaddy(t, "etag {\nranges on\nmax_size 20\n}\nreverse_proxy "+upstream)
		part := get(t, url, "Range", "bytes=2-4")
		require.Equal(t, 206, part.status)
		require.Equal(t, "cde", part.body)
		require.Equal(t, "GET GET", backend.seen(), "without Range, and with it")
		require.Equal(t, alphabet, get(t, url, "Range", "bytes=2-4", "If-Range", `"x"`).body,
			"a part of another version than If-Range names is worse than the whole")
	}

	s, url, _ := startStore(t, "ranges on\nmax_size 20", map[string]string{"/doc": alphabet})
	res := get(t, url+"/doc", "Range", "bytes=2-4")
	require.Equal(t, 200, res.status, "nobody serves ranges of it")
	require.Equal(t, alphabet, res.body)
	require.Equal(t, "GET", s.seen())
}

// TestSecondQuestionIsCounted, which a part is asked for with.
func TestSecondQuestionIsCounted(t *testing.T) {
	backend := &ranged{}
	upstream := backend.start(t, func() string { return alphabet })
	url := startCaddy(t, "handle /metrics {\nmetrics\n}\nhandle {\netag {\nranges on\nmax_size 20\n}\nreverse_proxy "+upstream+"\n}")
	client := clientFor(t, "h1", nil)
	const series = "caddy_http_etag_internal_gets_total"
	before := scrape(t, client, url)[series]
	require.Equal(t, 206, get(t, url, "Range", "bytes=2-4").status)
	require.Equal(t, "GET GET", backend.seen())
	require.InDelta(t, 1, scrape(t, client, url)[series]-before, 0)
}

// TestRangesOffGoDownstream as they came.
func TestRangesOffGoDownstream(t *testing.T) {
	s, url, _ := startStore(t, "", map[string]string{"/doc": alphabet})
	res := get(t, url+"/doc", "Range", "bytes=2-4")
	require.Equal(t, 200, res.status)
	require.NotContains(t, res.header, "Accept-Ranges")
	require.Equal(t, "bytes=2-4", s.last(t, "GET").Header.Get("Range"))
}

// TestRangesBehindEncodeAreOfTheBytesThatAreTagged.
func TestRangesBehindEncodeAreOfTheBytesThatAreTagged(t *testing.T) {
	text := strings.Repeat(alphabet, 100)
	s := newStore(map[string]string{"/doc": text})
	url := startCaddy(t, "encode gzip\netag {\nranges on\n}\nreverse_proxy "+s.start(t))
	whole := get(t, url+"/doc", "Accept-Encoding", "gzip")
	require.Equal(t, withSuffix(tagFor(text), "-gzip"), whole.tag())
	require.NotContains(t, whole.header, "Accept-Ranges")
	part := get(t, url+"/doc", "Accept-Encoding", "gzip", "Range", "bytes=2-4")
	require.Equal(t, 206, part.status)
	require.Equal(t, "cde", part.body)
	require.Equal(t, tagFor(text), part.tag(), "not that of the compressed bytes")
	require.Equal(t, 200, get(t, url+"/doc", "Accept-Encoding", "gzip", "Range", "bytes=2-4", "If-Range", whole.tag()).status)
}

// TestRangesAgainstServeContent: random requests for ranges have the answer
// that net/http gives for a file with our tag.
func TestRangesAgainstServeContent(t *testing.T) {
	h := newHandler(t, Handler{Ranges: rangesOn})
	requests := 100_000
	if testing.Short() {
		requests = 5_000
	}
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	number := func() string { return fmt.Sprint(random.IntN(40)) }
	bounds := func() string {
		return pick(number()+"-"+number(), number()+"-", "-"+number(), "-", number(), "x-y", " "+number()+"-"+number()+" ", "")
	}
	modified := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	statuses := map[int]int{}
	for range requests {
		body := strings.Repeat("abcdefghij", 4)[:random.IntN(40)]
		tag := tagFor(body)
		var fields []string
		add := func(name, value string) {
			if value != "" {
				fields = append(fields, name, value)
			}
		}
		ranges := bounds()
		for random.IntN(3) == 0 {
			ranges += "," + bounds()
		}
		add("Range", pick("bytes=", "bytes=", "bytes=", "bytes =", "lines=", "bytes:")+ranges)
		date := func() string {
			return modified.Add(time.Duration(random.IntN(3)-1) * time.Second).Format(http.TimeFormat)
		}
		if random.IntN(2) == 0 {
			add("If-Range", pick(tag, `"x"`, "W/"+tag, withSuffix(tag, "-gzip"), date(), "x"))
		}
		if random.IntN(8) == 0 {
			add("If-Match", pick(tag, `"x"`, "*"))
		}
		if random.IntN(8) == 0 {
			add("If-None-Match", pick(tag, `"x"`, "*", "W/"+tag))
		}
		dated, rangeSeen := random.IntN(2) == 0, false
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			rangeSeen = rangeSeen || len(r.Header["Range"])+len(r.Header["If-Range"]) > 0
			w.Header().Set("Content-Type", "text/plain")
			if dated {
				w.Header().Set("Last-Modified", modified.Format(http.TimeFormat))
			}
			_, err := fmt.Fprint(w, body)
			return err
		})
		got, err := serve(h, next, http.MethodGet, fields...)
		require.NoError(t, err)
		require.False(t, rangeSeen, "by downstream")

		want := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		addFields(r.Header, fields)
		want.Header().Set("Content-Type", "text/plain")
		want.Header().Set("ETag", tag)
		var lastModified time.Time
		if dated {
			lastModified = modified
		}
		http.ServeContent(want, r, "", lastModified, strings.NewReader(body))

		statuses[want.Code]++
		require.Equal(t, want.Code, got.Code, "%q of %d bytes", fields, len(body))
		if want.Code == 412 {
			continue // with a problem body
		}
		for _, header := range []http.Header{want.Header(), got.Header()} {
			if mediaType := header.Get("Content-Type"); strings.HasPrefix(mediaType, "multipart/") {
				boundary := mediaType[strings.LastIndexByte(mediaType, '=')+1:]
				header.Set("Content-Type", "multipart/byteranges")
				for _, rec := range []*httptest.ResponseRecorder{want, got} {
					text := strings.ReplaceAll(rec.Body.String(), boundary, "boundary")
					rec.Body.Reset()
					rec.Body.WriteString(text)
				}
			}
		}
		require.Equal(t, want.Body.String(), got.Body.String(), "%q of %d bytes", fields, len(body))
		if want.Code != 304 {
			require.Equal(t, want.Header(), got.Header(), "%q of %d bytes", fields, len(body))
		}
	}
	for _, status := range []int{200, 206, 304, 412, 416} {
		require.NotZero(t, statuses[status], status)
	}
}

// TestPreconditionsPrecedeARangeOfWhatIsNotHeld (RFC 9110 §13.2.2), where the
// header of the whole tells the tag, and that of the part does not.
func TestPreconditionsPrecedeARangeOfWhatIsNotHeld(t *testing.T) {
	type backend struct {
		name, options, whole, part string // the fields of the whole, and of a part
	}
	backends := []backend{
		{"the backend's tag", "", "ETag", ""},
		{"a field", "from_header X-Version", "X-Version", ""},
		{"a field of both", "from_header X-Version", "X-Version", "X-Version"},
	}
	tests := []struct {
		fields []string
		status int
		seen   string
	}{
		{[]string{"Range", "bytes=2-4"}, 206, "GET GET"},
		{[]string{"Range", "bytes=2-4", "If-None-Match", `"v1"`}, 304, "GET"},
		{[]string{"Range", "bytes=900-", "If-None-Match", `"v1"`}, 304, "GET"},
		{[]string{"Range", "bytes=2-4", "If-None-Match", `"v0"`}, 206, "GET GET"},
		{[]string{"Range", "bytes=2-4", "If-Match", `"v1"`}, 206, "GET GET"},
		{[]string{"Range", "bytes=2-4", "If-Match", `"v1-gzip"`}, 206, "GET GET"},
		{[]string{"Range", "bytes=2-4", "If-Match", `"v0"`}, 412, "GET"},
	}
	for _, b := range backends {
		for _, test := range tests {
			t.Run(b.name+" "+strings.Join(test.fields, " "), func(t *testing.T) {
				s, upstream := startScript(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/plain")
					if r.Header.Get("Range") == "" {
						w.Header().Set(b.whole, `"v1"`)
					} else if b.part != "" {
						w.Header().Set(b.part, `"v1"`)
					}
					r.Header.Del("If-None-Match")
					http.ServeContent(w, r, "", time.Time{}, strings.NewReader(alphabet))
				})
				url := startCaddy(t, "etag {\nranges on\nmax_size 20\n"+b.options+"\n}\nreverse_proxy "+upstream)
				res := get(t, url, test.fields...)
				require.Equal(t, test.status, res.status, res.body)
				require.Equal(t, test.seen, s.seen())
				if b.options != "" { // a suffix of any encoder may stand on a tag of ours
					require.Equal(t, 206, get(t, url, "Range", "bytes=2-4", "If-Match", `"v1-br"`).status)
				}
				if res.status == http.StatusPartialContent {
					require.Equal(t, "cde", res.body)
				}
			})
		}
	}
}

// TestPartOfAnotherVersionThanIfMatchNames, as the resource has changed since
// the whole was asked for, is a 412.
func TestPartOfAnotherVersionThanIfMatchNames(t *testing.T) {
	_, upstream := startScript(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", "v1")
		if r.Header.Get("Range") != "" {
			w.Header().Set("X-Version", "v2")
		}
		w.Header().Set("Content-Type", "text/plain")
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(alphabet))
	})
	url := startCaddy(t, "etag {\nranges on\nmax_size 20\nfrom_header X-Version\n}\nreverse_proxy "+upstream)
	require.Equal(t, 412, get(t, url, "Range", "bytes=2-4", "If-Match", `"v1"`).status)
	res := get(t, url, "Range", "bytes=2-4", "If-None-Match", `"v2"`)
	require.Equal(t, 304, res.status)
	require.Equal(t, `"v2"`, res.tag())
}

// TestWholeForAPartHasNoTagOfAnother: the backend has answered with a whole, of
// which nothing is known.
func TestWholeForAPartHasNoTagOfAnother(t *testing.T) {
	_, upstream := startScript(t, func(w http.ResponseWriter, r *http.Request) {
		addFields(w.Header(), fields{"Content-Type", "text/plain", "Accept-Ranges", "bytes", "Content-Length", "26"})
		if r.Header.Get("Range") == "" {
			w.Header().Set("ETag", `"v1"`)
			_, _ = io.WriteString(w, alphabet)
			return
		}
		_, _ = io.WriteString(w, strings.ToUpper(alphabet))
	})
	url := startCaddy(t, "etag {\nranges on\nmax_size 20\nremember 1m\n}\nreverse_proxy "+upstream)
	require.Equal(t, 412, get(t, url, "Range", "bytes=2-4", "If-Match", `"v1"`).status)
	for range 2 {
		res := get(t, url, "Range", "bytes=2-4")
		require.Equal(t, 200, res.status)
		require.Empty(t, res.tag())
	}
	require.Empty(t, get(t, url, "Range", "bytes=2-4", "If-None-Match", `"v1"`).header.Get("Age"))
}

// TestPartHasNoFieldOfTheWhole: neither a trailer, nor a digest of its content;
// and a 416 none of the representation.
func TestPartHasNoFieldOfTheWhole(t *testing.T) {
	_, upstream := startScript(t, func(w http.ResponseWriter, r *http.Request) {
		addFields(w.Header(), fields{
			"Content-Type", "text/plain", "Content-Digest", "sha-256=:d2hvbGU=:", "Content-MD5", "d2hvbGU=", "Repr-Digest", "sha-256=:d2hvbGU=:",
			"Content-Disposition", "attachment", "Content-Language", "en", "CDN-Cache-Control", "max-age=3600", "X-Other", "1", "Trailer", "X-Sum",
		})
		_, _ = io.WriteString(w, alphabet)
		w.Header().Set("X-Sum", "5")
	})
	url := startCaddy(t, "etag {\nranges on\n}\nreverse_proxy "+upstream)
	for _, protocol := range []string{"h1", "h2c"} {
		client := clientFor(t, protocol, nil)
		part := do(t, client, "GET", url, "", "Range", "bytes=2-4")
		require.Equal(t, 206, part.status)
		require.Equal(t, "cde", part.body)
		for _, name := range []string{"Content-Digest", "Content-MD5", "X-Sum", "Trailer"} {
			require.Empty(t, part.header.Values(name), "%s %s", protocol, name)
		}
		require.Empty(t, part.trailer)
		for name, value := range map[string]string{
			"Content-Type": "text/plain", "Repr-Digest": "sha-256=:d2hvbGU=:", "Content-Disposition": "attachment",
			"Content-Language": "en", "X-Other": "1", "ETag": tagFor(alphabet), "Content-Length": "3",
		} {
			require.Equal(t, value, part.header.Get(name), "%s %s", protocol, name)
		}

		none := do(t, client, "GET", url, "", "Range", "bytes=900-")
		require.Equal(t, 416, none.status)
		require.Equal(t, "bytes */26", none.header.Get("Content-Range"))
		require.Equal(t, "1", none.header.Get("X-Other"))
		for _, name := range []string{
			"Content-Digest", "Content-MD5", "Repr-Digest", "X-Sum", "Trailer", "Content-Disposition", "Content-Language", "CDN-Cache-Control", "ETag",
		} {
			require.Empty(t, none.header.Values(name), "%s %s", protocol, name)
		}

		whole := do(t, client, "GET", url, "", "Range", "bytes=2-4", "If-Range", `"x"`)
		require.Equal(t, 200, whole.status)
		require.Equal(t, alphabet, whole.body)
		require.Equal(t, "sha-256=:d2hvbGU=:", whole.header.Get("Content-Digest"))
		require.Empty(t, whole.header.Values("X-Sum"), protocol)
		require.Equal(t, "5", whole.trailer.Get("X-Sum"), protocol)
		require.Equal(t, "bytes", whole.header.Get("Accept-Ranges"))
	}
}

// TestWholeForARangeHasItsLength, where the backend told it.
func TestWholeForARangeHasItsLength(t *testing.T) {
	_, url, _ := startStore(t, "ranges on", map[string]string{"/doc": alphabet})
	res := get(t, url+"/doc", "Range", "bytes=2-4", "If-Range", `"x"`)
	require.Equal(t, 200, res.status)
	require.EqualValues(t, len(alphabet), res.length)
}

// TestRangeOfACodedBodyHasItsOwnLength, and the whole has that of the whole,
// whether or not the backend tells it.
func TestRangeOfACodedBodyHasItsOwnLength(t *testing.T) {
	for _, length := range []string{"", strconv.Itoa(len(longText))} {
		url := startScripted(t, "etag {\nranges on\n}\nscripted", func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Encoding", "x-own")
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			_, err := io.WriteString(w, longText)
			return err
		})
		for _, protocol := range []string{"h1", "h2c"} {
			client := clientFor(t, protocol, nil)
			part := do(t, client, "GET", url, "", "Range", "bytes=2-4")
			require.Equal(t, 206, part.status)
			require.Equal(t, longText[2:5], part.body)
			require.EqualValues(t, 3, part.length)
			parts := do(t, client, "GET", url, "", "Range", "bytes=2-4,8-9")
			require.EqualValues(t, len(parts.body), parts.length)
			whole := do(t, client, "GET", url, "", "Range", "bytes=2-4", "If-Range", `"x"`)
			require.Equal(t, 200, whole.status)
			require.Equal(t, longText, whole.body)
			require.EqualValues(t, len(longText), whole.length)
			beyond := do(t, client, "GET", url, "", "Range", "bytes=999999-")
			require.Equal(t, 416, beyond.status)
			require.NotContains(t, beyond.header, "Accept-Ranges")
		}
	}
}

// TestClientThatLeavesASecondAnswerIsNoError of the handler's.
func TestClientThatLeavesASecondAnswerIsNoError(t *testing.T) {
	h := newHandler(t, Handler{MaxSize: 1000})
	for _, fields := range [][]string{nil, {"Range", "bytes=0-3", "If-None-Match", `"x"`}} {
		before := outcomeCount(t, kindRead, outcomeError, "")
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		addFields(r.Header, fields)
		require.PanicsWithError(t, http.ErrAbortHandler.Error(), func() {
			_ = h.ServeHTTP(leftWriter{httptest.NewRecorder()}, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				w.Header().Set("Content-Type", "text/plain")
				if r.Header.Get("Range") != "" {
					w.Header().Set("Content-Range", "bytes 0-3/1200")
					w.WriteHeader(http.StatusPartialContent)
					return nil
				}
				_, _ = io.WriteString(w, strings.Repeat("a", 600))
				_, err := io.WriteString(w, strings.Repeat("a", 600))
				return err
			}))
		})
		require.InDelta(t, 0, outcomeCount(t, kindRead, outcomeError, "")-before, 0, "%v", fields)
	}
}

// leftWriter is one whose client has left.
type leftWriter struct{ *httptest.ResponseRecorder }

func (leftWriter) Write([]byte) (int, error) { return 0, errors.New("the client has left") }
