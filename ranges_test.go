package etag

import (
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// These tests are about ranges that the backend serves, which it does knowing
// nothing of our tag.

const alphabet = "abcdefghijklmnopqrstuvwxyz"

// ranged is a backend that serves ranges of a document, and notes its requests
// as a store does.
type ranged struct {
	*store
	tagged bool      // it has tags of its own
	dated  time.Time // Last-Modified, if not zero
	naive  bool      // it serves a range whatever If-Range says
}

func (b *ranged) start(tb testing.TB, doc func() string) string {
	tb.Helper()
	b.store = newStore(nil)
	b.answer = func(w http.ResponseWriter, r *http.Request) bool {
		content := doc()
		if b.naive {
			r.Header.Del("If-Range")
		}
		if b.tagged {
			w.Header().Set("ETag", `"own-`+opaque(tagFor(content))+`"`)
		}
		w.Header().Set("Content-Type", "text/plain")
		http.ServeContent(w, r, "", b.dated, strings.NewReader(content))
		return true
	}
	return b.store.start(tb)
}

// parts returns the parts of a multipart/byteranges response, each behind its
// Content-Range.
func (r reply) parts(t *testing.T) (parts []string) {
	t.Helper()
	mediaType, params, err := mime.ParseMediaType(r.header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/byteranges", mediaType)
	for reader := multipart.NewReader(strings.NewReader(r.body), params["boundary"]); ; {
		part, err := reader.NextPart()
		if err != nil {
			require.Equal(t, io.EOF, err)
			return parts
		}
		text, err := io.ReadAll(part)
		require.NoError(t, err)
		parts = append(parts, part.Header.Get("Content-Range")+" "+string(text))
	}
}

// TestRangeWithACondition: the part that the backend sends has no tag to judge
// by, and so the client gets it of the whole. The naive backend sends it
// whatever If-Range says.
func TestRangeWithACondition(t *testing.T) {
	const old = `"00000000000000000000000000000000"`
	now := tagFor(alphabet)
	tests := []struct {
		name   string
		sends  fields
		status int
		body   string // of a 200 or 206; parts are separated by |
		ranges string // Content-Range
		asked  string // of the backend
	}{
		{"If-Match, current", fields{"Range", "bytes=2-4", "If-Match", now}, 206, "cde", "bytes 2-4/26", "GET GET"},
		{"If-Match, any", fields{"Range", "bytes=2-4", "If-Match", "*"}, 206, "cde", "bytes 2-4/26", "GET GET"},
		{"If-Match, stale", fields{"Range", "bytes=2-4", "If-Match", old}, 412, "", "", "GET GET"},
		{"If-None-Match, current", fields{"Range", "bytes=2-4", "If-None-Match", now}, 304, "", "", "GET GET"},
		{"If-None-Match, stale", fields{"Range", "bytes=2-4", "If-None-Match", old}, 206, "cde", "bytes 2-4/26", "GET GET"},
		{"If-Range, current", fields{"Range", "bytes=2-4", "If-Range", now}, 206, "cde", "bytes 2-4/26", "GET GET"},
		{"If-Range, stale", fields{"Range", "bytes=2-4", "If-Range", old}, 200, alphabet, "", "GET GET"},
		{"If-Range, weak", fields{"Range", "bytes=2-4", "If-Range", "W/" + now}, 200, alphabet, "", "GET GET"},
		{"If-Range, of a compressed body", fields{"Range", "bytes=2-4", "If-Range", withSuffix(now, "-gzip")}, 200, alphabet, "", "GET GET"},
		{"If-Match and If-Range, both current", fields{"Range", "bytes=2-4", "If-Match", now, "If-Range", now}, 206, "cde", "bytes 2-4/26", "GET GET"},
		{"If-Match current, If-Range stale", fields{"Range", "bytes=2-4", "If-Match", now, "If-Range", old}, 200, alphabet, "", "GET GET"},
		{"If-Match stale, If-Range current", fields{"Range", "bytes=2-4", "If-Match", old, "If-Range", now}, 412, "", "", "GET GET"},
		{"If-None-Match and If-Range, both current", fields{"Range", "bytes=2-4", "If-None-Match", now, "If-Range", now}, 304, "", "", "GET GET"},
		{"to the end", fields{"Range", "bytes=23-", "If-Match", now}, 206, "xyz", "bytes 23-25/26", "GET GET"},
		{"the last", fields{"Range", "bytes=-2", "If-Match", now}, 206, "yz", "bytes 24-25/26", "GET GET"},
		{"past the end", fields{"Range", "bytes=24-99", "If-Range", now}, 206, "yz", "bytes 24-25/26", "GET GET"},
		{"several", fields{"Range", "bytes=0-1, 4-4,-2", "If-Range", now}, 206, "bytes 0-1/26 ab|bytes 4-4/26 e|bytes 24-25/26 yz", "", "GET GET"},
		{"several, stale", fields{"Range", "bytes=0-1, 4-4", "If-Range", old}, 200, alphabet, "", "GET GET"},
		{"several, If-Match", fields{"Range", "bytes=0-1, 4-4", "If-Match", now}, 206, "bytes 0-1/26 ab|bytes 4-4/26 e", "", "GET GET"},
		{"unsatisfiable, If-Range current", fields{"Range", "bytes=26-", "If-Range", now}, 416, "", "bytes */26", "GET GET"},
		{"unsatisfiable, If-Range stale", fields{"Range", "bytes=26-", "If-Range", old}, 200, alphabet, "", "GET GET"},
		{"unsatisfiable, If-Match current", fields{"Range", "bytes=26-", "If-Match", now}, 416, "", "bytes */26", "GET GET"},
		{"unsatisfiable, If-Match stale", fields{"Range", "bytes=26-", "If-Match", old}, 412, "", "", "GET GET"},
		{"unsatisfiable, If-None-Match current", fields{"Range", "bytes=26-", "If-None-Match", now}, 304, "", "", "GET GET"},
		{"unit that the backend does not know", fields{"Range", "lines=1-2", "If-Match", now}, 416, "", "", "GET GET"},

		// no tag is in question
		{"no condition", fields{"Range", "bytes=2-4"}, 206, "cde", "bytes 2-4/26", "GET"},
		{"no condition, unsatisfiable", fields{"Range", "bytes=26-"}, 416, "", "bytes */26", "GET"},
		{"empty If-Match", fields{"Range", "bytes=2-4", "If-Match", ""}, 206, "cde", "bytes 2-4/26", "GET"},
		{"condition without a range", fields{"If-Match", now}, 200, alphabet, "", "GET"},
		{"If-Range without a range", fields{"If-Range", now}, 200, alphabet, "", "GET"},
	}
	for _, dated := range []time.Time{{}, time.Unix(1e9, 0)} {
		backend := &ranged{naive: true, dated: dated}
		upstream := backend.start(t, func() string { return alphabet })
		url := startCaddy(t, "route {\netag\nheader +X-Count 1\nreverse_proxy "+upstream+" {\nheader_up X-Internal {http.vars.etag_internal}\n}\n}")
		for _, test := range tests {
			for _, protocol := range []string{"h1", "h2c"} {
				t.Run(fmt.Sprint(test.name, " ", dated.Unix(), " ", protocol), func(t *testing.T) {
					res := do(t, clientFor(t, protocol, nil), http.MethodGet, url, "", test.sends...)
					require.NoError(t, res.err)
					last := backend.last(t, http.MethodGet)
					require.Equal(t, test.status, res.status)
					require.Equal(t, test.asked, backend.seen())
					if test.asked == "GET GET" {
						require.Equal(t, "true", last.Header.Get("X-Internal"))
						for _, name := range []string{"Range", "If-Range", "If-Match"} {
							require.NotContains(t, last.Header, name)
						}
					}
					if test.asked == "GET GET" || test.status == 200 {
						require.Equal(t, []string{"1"}, res.header.Values("X-Count"))
						if test.status != 416 {
							require.Equal(t, now, res.tag())
						}
					}
					require.Equal(t, test.ranges, res.header.Get("Content-Range"))
					switch {
					case test.status == 304:
						require.Empty(t, res.body)
					case strings.Contains(test.body, "|"):
						require.Equal(t, strings.Split(test.body, "|"), res.parts(t))
					case test.status < 300:
						require.Equal(t, test.body, res.body)
						require.EqualValues(t, len(test.body), res.length)
						require.Equal(t, "text/plain", res.header.Get("Content-Type"))
					}
				})
			}
		}
	}
}

// TestRangeWithADate: a date precedes the range (RFC 9110 §13.2.2), also one that
// can't be satisfied. A backend's 416 has no date to judge by.
func TestRangeWithADate(t *testing.T) {
	changed := time.Unix(1e9, 0)
	same, earlier := changed.UTC().Format(http.TimeFormat), changed.Add(-time.Hour).UTC().Format(http.TimeFormat)
	for _, tagged := range []bool{false, true} {
		backend := &ranged{tagged: tagged, dated: changed}
		url := startCaddy(t, "etag\nreverse_proxy "+backend.start(t, func() string { return alphabet }))
		for _, test := range []struct {
			sends  fields
			status int
			asked  string
		}{
			{fields{"Range", "bytes=2-4", "If-Unmodified-Since", same}, 206, "GET"},
			{fields{"Range", "bytes=2-4", "If-Unmodified-Since", earlier}, 412, "GET"},
			{fields{"Range", "bytes=26-", "If-Unmodified-Since", same}, 416, "GET GET"},
			{fields{"Range", "bytes=26-", "If-Unmodified-Since", earlier}, 412, "GET GET"},
			{fields{"Range", "bytes=26-", "If-Unmodified-Since", same, "If-Modified-Since", same}, 304, "GET GET"},
			{fields{"Range", "bytes=26-", "If-Modified-Since", same}, 304, "GET"},
			{fields{"Range", "bytes=26-", "If-Modified-Since", earlier}, 416, "GET"},
		} {
			res := get(t, url, test.sends...)
			require.NoError(t, res.err)
			require.Equal(t, test.status, res.status, "%v", test.sends)
			require.Equal(t, test.asked, backend.seen(), "%v", test.sends)
		}
	}
}

// TestRangeOfACarefulBackend, which sends the whole where If-Range has a tag:
// it knows none.
func TestRangeOfACarefulBackend(t *testing.T) {
	backend := new(ranged)
	url := startCaddy(t, "etag\nreverse_proxy "+backend.start(t, func() string { return alphabet }))
	now := tagFor(alphabet)
	for _, tag := range []string{now, `"x"`} {
		res := get(t, url, "Range", "bytes=2-4", "If-Range", tag)
		require.Equal(t, now, res.tag())
		require.Equal(t, "GET", backend.seen(), "a whole can be judged")
		if tag == now && res.status == 206 {
			require.Equal(t, "cde", res.body)
			continue
		}
		require.Equal(t, 200, res.status)
		require.Equal(t, alphabet, res.body)
	}
	res := get(t, url, "Range", "bytes=2-4", "If-Match", now)
	require.Equal(t, 206, res.status)
	require.Equal(t, "cde", res.body)
	require.Equal(t, now, res.tag())
}

// TestRangeOfABodyThatIsNotHeld: its tag is not known, and so there is all of
// it, with none.
func TestRangeOfABodyThatIsNotHeld(t *testing.T) {
	for _, options := range []string{"max_size 10", "max_size 10\noversize trailer"} {
		backend := &ranged{naive: true}
		url := startCaddy(t, "etag {\n"+options+"\n}\nreverse_proxy "+backend.start(t, func() string { return alphabet }))
		for _, sends := range []fields{
			{"If-Range", tagFor(alphabet)},
			{"If-Range", `"x"`},
			{"If-None-Match", `"x"`},
			{"If-None-Match", tagFor(alphabet)},
			{"If-Match", "*"},
		} {
			res := get(t, url, append(fields{"Range", "bytes=2-4", "TE", "trailers"}, sends...)...)
			require.NoError(t, res.err)
			require.Equal(t, 200, res.status, sends)
			require.Equal(t, alphabet, res.body)
			require.Empty(t, res.tag())
			require.NotContains(t, res.header, "Content-Range")
		}
		require.Equal(t, 412, get(t, url, "Range", "bytes=2-4", "If-Match", tagFor(alphabet)).status, "no tag matches nothing")
	}
}

// TestRangeOfABackendWithTags is all the backend's: what it answers without
// the handler, it answers with it.
func TestRangeOfABackendWithTags(t *testing.T) {
	own := `"own-` + opaque(tagFor(alphabet)) + `"`
	backend := &ranged{tagged: true, dated: time.Unix(1e9, 0)}
	upstream := backend.start(t, func() string { return alphabet })
	url := startCaddy(t, "handle /with {\netag\nreverse_proxy "+upstream+"\n}\nhandle {\nreverse_proxy "+upstream+"\n}")
	date := backend.dated.UTC().Format(http.TimeFormat)
	for _, condition := range []fields{
		nil,
		{"If-Match", own},
		{"If-Match", `"x"`},
		{"If-None-Match", own},
		{"If-None-Match", `"x"`},
		{"If-Range", own},
		{"If-Range", `"x"`},
		{"If-Range", date},
		{"If-Match", own, "If-Range", `"x"`},
		{"If-Unmodified-Since", date},
	} {
		for _, ranges := range []string{"bytes=2-4", "bytes=2-", "bytes=26-", "lines=1"} {
			for _, protocol := range []string{"h1", "h2c"} {
				client := clientFor(t, protocol, nil)
				sends := append(fields{"Range", ranges}, condition...)
				without := do(t, client, http.MethodGet, url, "", sends...)
				backend.seen()
				with := do(t, client, http.MethodGet, url+"/with", "", sends...)
				require.NoError(t, with.err)
				require.Equal(t, without.status, with.status, sends)
				require.Equal(t, without.tag(), with.tag(), sends)
				if strings.HasPrefix(ranges, "bytes=2-") {
					require.Equal(t, "GET", backend.seen(), sends)
				}
				if with.status != 412 { // which has a problem body
					require.Equal(t, without.body, with.body, sends)
					require.Equal(t, withoutDate(without.header), withoutDate(with.header), sends)
				}
			}
		}
	}
}

// TestPartOfAnotherVersionThanIfRangeNames must not get through, not even on
// the word of a backend that says of which it is.
func TestPartOfAnotherVersionThanIfRangeNames(t *testing.T) {
	for _, options := range []string{"", "existing replace"} {
		backend := &ranged{tagged: true, naive: true}
		url := startCaddy(t, "etag {\n"+options+"\n}\nreverse_proxy "+backend.start(t, func() string { return alphabet }))
		now := get(t, url).tag()
		res := get(t, url, "Range", "bytes=2-4", "If-Range", `"x"`)
		require.Equal(t, 200, res.status)
		require.Equal(t, alphabet, res.body)
		require.Equal(t, now, res.tag())
		res = get(t, url, "Range", "bytes=2-4", "If-Range", now)
		require.Equal(t, 206, res.status)
		require.Equal(t, "cde", res.body)
		require.Equal(t, now, res.tag())
	}
}

// restless is a document that changes at random when it is asked for.
type restless struct {
	mu      sync.Mutex
	random  *rand.Rand
	version int
}

// doc returns the document: every byte of it is of one version.
func (d *restless) doc() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.random.IntN(3) == 0 {
		d.version++
	}
	return strings.Repeat(string(alphabet[d.version%len(alphabet)]), 40+d.version%7)
}

// download gets a document in parts, as a client does whose connection breaks
// off again and again: it keeps a part, and asks for the rest of the version
// that it knows by a strong tag. It returns how often it has got a part.
func download(t *testing.T, client *http.Client, url string, random *rand.Rand) (parts int) {
	t.Helper()
	var kept, tag string
	total := -1
	for attempt := range 20 {
		var sends fields
		if kept != "" {
			sends = fields{"Range", fmt.Sprintf("bytes=%d-", len(kept)), "If-Range", tag}
			if attempt%3 == 1 {
				sends = append(sends, "If-Match", tag)
			}
		}
		res := do(t, client, http.MethodGet, url, "", sends...)
		require.NoError(t, res.err)
		switch res.status {
		case 200:
			kept, total = res.body, len(res.body)
			tag = res.tag()
		case 206:
			var first, last int
			_, err := fmt.Sscanf(res.header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &total)
			require.NoError(t, err)
			require.Equal(t, len(kept), first)
			kept += res.body
			parts++
		case 412:
			kept, tag = "", ""
			continue
		default:
			require.Fail(t, "unexpected status", "%d of %v", res.status, sends)
		}
		require.Equal(t, strings.Repeat(kept[:1], len(kept)), kept, "a mixture, by %v", sends)
		if strings.HasPrefix(tag, `"`) && random.IntN(4) > 0 {
			kept = kept[:1+random.IntN(len(kept)-1)]
		}
		if len(kept) == total {
			return parts
		}
		if !strings.HasPrefix(tag, `"`) {
			kept = "" // nothing to resume by
		}
	}
	return parts
}

// TestDownloadInPartsIsNeverAMixture of versions, whatever the backend has for
// validators, and though it changes between any two of its answers.
func TestDownloadInPartsIsNeverAMixture(t *testing.T) {
	type site struct {
		name    string
		options string
		backend ranged
	}
	var sites []site
	for _, options := range []string{"", "existing replace", "max_size 43", "oversize trailer\nmax_size 43", "weak", "ranges on", "ranges on\nmax_size 43", "ranges on\nexisting replace"} {
		for _, dated := range []time.Time{{}, time.Unix(1e9, 0)} { // a date that says nothing of a change
			for _, naive := range []bool{false, true} {
				for _, tagged := range []bool{false, true} {
					sites = append(sites, site{
						fmt.Sprintf("%s, dated %t, naive %t, tagged %t", options, !dated.IsZero(), naive, tagged),
						options,
						ranged{tagged: tagged, dated: dated, naive: naive},
					})
				}
			}
		}
	}
	for i, site := range sites {
		t.Run(site.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			document := &restless{random: rand.New(rand.NewPCG(uint64(i), 2))}
			upstream := site.backend.start(t, document.doc)
			config := "etag {\n" + site.options + "\n}\nreverse_proxy " + upstream
			if site.options == "weak" {
				config = "etag weak\nreverse_proxy " + upstream
			}
			url := startCaddy(t, config)
			parts := 0
			for round := range 1 + 1000/len(sites) {
				parts += download(t, clientFor(t, []string{"h1", "h2c"}[round%2], nil), url, random)
			}
			if site.options == "" && site.backend.naive {
				require.NotZero(t, parts, "then nothing has been tested")
			}
		})
	}
}
