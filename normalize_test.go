package etag

import (
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// many returns texts for i from 0 on, with commas between them, of about so
// many bytes.
func many(size int, text func(i int) string) string {
	var b strings.Builder
	for i := 0; b.Len() < size-64; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(text(i))
	}
	return b.String()
}

// TestBombsCostLittle: what is made to cost much is hashed as it is, or costs
// no more than three times its size in memory, with the body itself among it,
// and a few moves of each byte.
func TestBombsCostLittle(t *testing.T) {
	const size, large = 2 << 20, 8 << 20
	repeat := func(size int, text string) string { return many(size, func(int) string { return text }) }
	chain := strings.Repeat(`{"b":1,"a":`, 100) + "%s" + strings.Repeat("}", 100)
	for _, bomb := range []struct {
		name     string
		document string
		refused  bool
	}{
		{"10,000 arrays in each other", strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), true},
		{"10,000 objects in each other", strings.Repeat(`{"":`, 10_000) + "0" + strings.Repeat("}", 10_000), true},
		{"1 Mi arrays in each other", strings.Repeat("[", size/2) + strings.Repeat("]", size/2), true},
		{"as many arrays as may be", strings.Repeat("[", maxJSONDepth) + strings.Repeat("]", maxJSONDepth), false},
		{"small numbers", "[" + repeat(large, "1") + "]", false},
		{"small members", "{" + many(large, func(i int) string { return fmt.Sprintf(`"%x":0`, i) }) + "}", true},
		{"members in order", "{" + many(size, func(i int) string { return fmt.Sprintf(`"%011d":"abcdef"`, i) }) + "}", false},
		{"members in no order", "{" + many(size, func(i int) string { return fmt.Sprintf(`"%011d":"abcdef"`, uint32(i)*2654435761) }) + "}", false},
		{"small objects", "[" + repeat(large, `{"b":1,"a":1}`) + "]", false},
		{"small objects in a large one", `{"b":0,"a":{"b":0,"a":[` + repeat(size, `{"b":1,"a":1}`) + "]}}", false},
		{"objects in each other", "[" + repeat(size, fmt.Sprintf(chain, "0")) + "]", true},
		{"a large array in objects in each other", fmt.Sprintf(chain, "["+repeat(size, `"text"`)+"]"), true},
		{"a string", `["` + strings.Repeat("a", size) + `"]`, true},
		{"a string of escapes", `["` + strings.Repeat(`\n`, size/2) + `"]`, true},
		{"a number", "[" + strings.Repeat("1", size) + "]", true},
		{"white space", "[" + strings.Repeat(" ", size) + "]", true},
		{"numbers that get longer", "[" + repeat(size, "1e20") + "]", true},
		{"escapes", "[" + repeat(size, `"\u0041\n"`) + "]", false},
		{"names with escapes", "[" + repeat(size, `{"\u00e9":1,"\u00e8":2}`) + "]", false},
		{"a document that ends too early", "[" + repeat(size, "1"), true},
	} {
		t.Run(bomb.name, func(t *testing.T) {
			body := hold(t, []byte(bomb.document))
			text, reader := body.contiguous()
			c := new(canonicalizer)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := c.run(text, reader, body.size, nil)
			runtime.ReadMemStats(&after)
			require.Equal(t, bomb.refused, err != nil, "%v", err)

			taken := int(after.TotalAlloc - before.TotalAlloc) // which is more than it ever was at a time
			if strings.HasPrefix(bomb.name, "numbers") {
				taken = cap(c.out) + cap(c.scratch) // each number leaves a few bytes of garbage
			}
			t.Logf("%.2f times its size, %.1f moves", float64(taken)/float64(len(bomb.document)), float64(c.moved)/float64(len(bomb.document)))
			slack := min(len(bomb.document)/8, 2*jsonSlack) + 4<<10
			switch {
			case bomb.name == "white space" || strings.HasPrefix(bomb.name, "a string") || bomb.name == "a number":
				slack += 4 * maxJSONString
			case strings.Contains(bomb.name, "members"):
				slack = jsonMemberSlack
			case bomb.name == "as many arrays as may be": // in 512 bytes
				slack = jsonSlack
			}
			require.LessOrEqual(t, taken, 2*len(bomb.document)+slack)
			require.LessOrEqual(t, c.moved, int64((maxJSONMoves+1)*len(bomb.document)))
		})
	}
}

// TestPoolKeepsNoGiants, nor what belongs to a body.
func TestPoolKeepsNoGiants(t *testing.T) {
	c := new(canonicalizer)
	for _, document := range []string{
		`{"b":{"z":"` + strings.Repeat("x", 500_000) + `","y":"` + strings.Repeat("x", 800_000) + `"},"a":1}`,
		"{" + many(3<<20, func(i int) string { return fmt.Sprintf(`"%020d":0`, i) }) + "}",
	} {
		body := hold(t, []byte(document))
		text, reader := body.contiguous()
		require.NoError(t, c.run(text, reader, body.size, nil))
		c.putBack()
		for name, kept := range map[string]int{"out": cap(c.out), "scratch": cap(c.scratch), "members": 8 * cap(c.members)} {
			require.LessOrEqual(t, kept, 1<<20, name)
		}
		require.Nil(t, c.top)
		require.Nil(t, c.reader.Reader)
		require.Zero(t, c.buffer.Cap())
	}
	require.Nil(t, canonicalizerAfterLongString(t).large, "it has a buffer as long as the string")
}

func canonicalizerAfterLongString(t *testing.T) *canonicalizer {
	t.Helper()
	c := new(canonicalizer)
	document := `"` + strings.Repeat("x", 900_000) + `"`
	require.NoError(t, c.run(nil, strings.NewReader(document), int64(len(document)), nil))
	c.putBack()
	return c
}

// TestLargeBodiesWaitForAProcessor to be normalized, and small ones don't.
func TestLargeBodiesWaitForAProcessor(t *testing.T) {
	n := normalizerWith(t, true, nil)
	for range cap(normalizing) {
		normalizing <- struct{}{}
	}
	digitsOf(t, n, "application/json", "[1]")
	body := hold(t, jsonDocument(2*blockSize))
	done := make(chan string, 1)
	go func() { done <- n.digits(body, formJSON, algorithms[defaultAlgorithm], defaultLength) }()
	select {
	case <-done:
		require.Fail(t, "it did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	for range cap(normalizing) {
		<-normalizing
	}
	<-done
	require.Empty(t, normalizing)
}

// digitsOf returns the digits for a body that comes with a Content-Type.
func digitsOf(tb testing.TB, n *normalizer, contentType, content string) string {
	tb.Helper()
	body := hold(tb, []byte(content))
	header := http.Header{}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return n.digits(body, n.formOf(header, body.head()), algorithms[defaultAlgorithm], defaultLength)
}

func normalizerWith(tb testing.TB, json bool, pointers []string, patterns ...string) *normalizer {
	tb.Helper()
	n, err := newNormalizer(json, pointers, patterns)
	require.NoError(tb, err)
	return n
}

func TestFormIsThatOfTheMediaType(t *testing.T) {
	both := normalizerWith(t, true, nil, "x")
	onlyJSON, onlyPatterns := normalizerWith(t, true, nil), normalizerWith(t, false, nil, "x")
	for contentType, want := range map[string][3]form{ // with both options, with JSON and with patterns
		"application/json":                {formJSON, formJSON, formText},
		"application/json; charset=utf-8": {formJSON, formJSON, formText},
		"Application/JSON":                {formJSON, formJSON, formText},
		" application/problem+json ":      {formJSON, formJSON, formText},
		"application/vnd.api+json;v=1":    {formJSON, formJSON, formText},
		"text/html":                       {formText, formBytes, formText},
		"text/plain; charset=latin1":      {formText, formBytes, formText},
		"application/xhtml+xml":           {formText, formBytes, formText},
		"image/svg+xml":                   {formText, formBytes, formText},
		"application/xml":                 {formText, formBytes, formText},
		"text/javascript":                 {formText, formBytes, formText},
		"application/javascript":          {formText, formBytes, formText},
		"application/jsonp":               {formBytes, formBytes, formBytes},
		"application/octet-stream":        {formBytes, formBytes, formBytes},
		"image/png":                       {formBytes, formBytes, formBytes},
		"json":                            {formBytes, formBytes, formBytes},
		"":                                {formText, formBytes, formText}, // as it is sniffed
	} {
		header := http.Header{}
		if contentType != "" {
			header.Set("Content-Type", contentType)
		}
		for i, n := range []*normalizer{both, onlyJSON, onlyPatterns} {
			require.Equal(t, want[i], n.formOf(header, []byte("<!doctype html><p>")), "%q, %d", contentType, i)
			require.True(t, n.mayNormalize(header) || want[i] == formBytes, "%q, %d", contentType, i)
		}
		header.Set("Content-Encoding", "gzip")
		require.Equal(t, formBytes, both.formOf(header, nil), contentType)
		require.False(t, both.mayNormalize(header), contentType)
		require.Equal(t, formBytes, (*normalizer)(nil).formOf(header, nil))
	}
	require.Equal(t, formBytes, both.formOf(http.Header{}, []byte("\x89PNG\r\n\x1a\n")))
}

// TestCanonicalFormIsWhatIsHashed, as anybody else could do it.
func TestCanonicalFormIsWhatIsHashed(t *testing.T) {
	n := normalizerWith(t, true, []string{"/at"})
	for _, document := range []string{`{"b": 1.0, "at": 5, "a": []}`, `{"a":[],"b":1}`, "{\n\"at\":{},\"b\":1e0,\"a\":[ ]}"} {
		require.Equal(t, opaque(tagFor(`{"a":[],"b":1}`)), digitsOf(t, n, "application/json", document))
	}
	for _, bytes := range []string{`{"b":1,"b":1}`, `{"b":9007199254740993}`, `{"b":`, "", strings.Repeat(" ", 40_000) + "[1,]"} {
		require.Equal(t, opaque(tagFor(bytes)), digitsOf(t, n, "application/json", bytes), "as it is")
	}
	for _, size := range []int{1 << 10, 40 << 10, 1 << 20} {
		document := string(jsonDocument(size))
		form, err := canonical(t, document)
		require.NoError(t, err)
		require.Equal(t, opaque(tagFor(form)), digitsOf(t, n, "application/json", document))
		require.Equal(t, opaque(tagFor(document)), digitsOf(t, n, "application/octet-stream", document))
	}
}

// opaque returns the digits in a tag.
func opaque(tag string) string { return strings.Trim(tag, `"`) }

func TestWhatPatternsMatchIsLeftOut(t *testing.T) {
	n := normalizerWith(t, false, nil, `nonce="\w+"`, `(?s)<!-- generated.*?-->`, `\d\d:\d\d`)
	digits := func(text string) string { return digitsOf(t, n, "text/html", text) }
	page := func(nonce, time string) string {
		return `<p nonce="` + nonce + `">hello<!-- generated at ` + time + " \n-->" + strings.Repeat("world ", 10_000) + time
	}
	require.Equal(t, digits(page("a", "10:00")), digits(page("longer", "23:59")))
	require.NotEqual(t, digits(page("a", "10:00")), digits(strings.Replace(page("a", "10:00"), "hello", "hallo", 1)))
	require.NotEqual(t, digits(page("a", "10:00")), digits(page("a", "never")), "what does not match counts")

	none := "nothing to leave out"
	require.Equal(t, opaque(tagFor(none)), digits(none))
	different := map[string]string{}
	for _, text := range []string{"ab", "a10:00b", "a10:00b10:00", "10:00ab", "ab10:00", "10:00a10:00b", "a", "b", "10:00", "", "10:0010:00 ", "a10:0010:00b", "a\x00\x00\x00\x00\x00\x00\x00\x00b10:00"} {
		got := digits(text)
		require.NotContains(t, different, got, "%q and %q", text, different[got])
		different[got] = text
	}

	// A body that looks like the pieces of another one has another tag.
	h := algorithms[defaultAlgorithm].get()
	defer algorithms[defaultAlgorithm].put(h)
	var pieces recorder
	writePieces(&hasher{Hash: &pieces}, []byte("a10:00b"), [][]int{{1, 6}})
	require.NotEqual(t, digits("a10:00b"), digits(string(pieces.written)))
	_, _ = h.Write(pieces.written)
	require.NotEqual(t, digits("a10:00b"), h.digits(defaultLength))
}

// recorder is a hash that keeps what is written to it.
type recorder struct {
	hash.Hash
	written []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.written = append(r.written, p...)
	return len(p), nil
}

func TestMatchesThatOverlapAreOne(t *testing.T) {
	one := normalizerWith(t, false, nil, "a+b+c+")
	two := normalizerWith(t, false, nil, "b+c+", "a+b+", "b", `\b`)
	for _, text := range []string{"xaabbccx", "xabcx", "xabbbcx"} {
		require.Equal(t, digitsOf(t, one, "text/plain", text), digitsOf(t, two, "text/plain", text))
	}
	require.Equal(t, [][]int{{1, 4}, {5, 6}}, two.matches([]byte("xabcxb")))
}

func TestPatternsApplyToTheCanonicalForm(t *testing.T) {
	n := normalizerWith(t, true, []string{"/at"}, `token=\w+`)
	digits := func(document string) string { return digitsOf(t, n, "application/json", document) }
	want := digits(`{"a":"token=1&x=2","b":1,"at":3}`)
	require.Equal(t, want, digits(`{"b": 1.0, "a": "\u0074oken=abc\u0026x=2"}`))
	require.NotEqual(t, want, digits(`{"b":1,"a":"token=1&x=3"}`))
	require.Equal(t, digits(`{"a":"token=1","a":2}`), digits(`{"a":"token=2","a":2}`), "as text, if it is no JSON")
	require.NotEqual(t, digits(`{"a":"token=1","a":2}`), digits(`{"a":"token=2", "a":2}`))

	nested := func(inner string) string { return `{"b":[` + strings.Repeat(inner+",", 5000) + `1],"a":"token=z"}` }
	require.Equal(t, digits(nested(`{"y":1,"x":2}`)), digits(nested(`{"x": 2, "y": 1}`)), "in more than one block")
}

// TestTooManyMatchesAreNotListed: the body is hashed as it is.
func TestTooManyMatchesAreNotListed(t *testing.T) {
	n := normalizerWith(t, false, nil, "a")
	text := strings.Repeat("ab", maxMatches)
	require.NotEqual(t, opaque(tagFor(text)), digitsOf(t, n, "text/plain", text))
	text += "a"
	require.Equal(t, opaque(tagFor(text)), digitsOf(t, n, "text/plain", text))
}

func TestPointersAreParsed(t *testing.T) {
	for pointer, want := range map[string][]string{
		"/a": {"a"}, "/a/b": {"a", "b"}, "/": {""}, "//": {"", ""}, "/a~1b/m~0n": {"a/b", "m~n"}, "/~01": {"~1"}, "/~0~1": {"~/"},
		"/*/x": {"*", "x"}, "/é x": {"é x"},
	} {
		got, err := parsePointer(pointer)
		require.NoError(t, err, pointer)
		require.Equal(t, want, got, pointer)
	}
	for _, pointer := range []string{"", "a", "#/a", "/~", "/a~", "/~2", "/a~~0", "/a~0~", "/x/~a/b", "$.a"} {
		_, err := parsePointer(pointer)
		require.ErrorContains(t, err, fmt.Sprintf("%q", pointer))
	}
}

// TestMemoKeepsFormsApart: the same bytes as JSON, as text and as neither.
func TestMemoKeepsFormsApart(t *testing.T) {
	h := memoHandler(t, Handler{Strength: "weak", Canonicalize: "json", IgnorePattern: []string{"b"}})
	for _, size := range []int{100, 20 << 10, 100 << 10} {
		document := `{"b":1,"a":"` + strings.Repeat("x", size) + `"}`
		tags := map[string]string{}
		for range 3 {
			for _, contentType := range []string{"application/json", "text/plain", "image/png"} {
				w, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
					w.Header().Set("Content-Type", contentType)
					_, err := io.WriteString(w, document)
					return err
				}, http.MethodGet)
				require.NoError(t, err)
				tag := w.Header().Get("ETag")
				if tags[contentType] == "" {
					tags[contentType] = tag
				}
				require.Equal(t, tags[contentType], tag)
				require.Equal(t, `W/"`+digitsOf(t, h.normalizer, contentType, document)+`"`, tag)
			}
		}
		require.Len(t, map[string]bool{tags["application/json"]: true, tags["text/plain"]: true, tags["image/png"]: true}, 3)
	}
	require.EqualValues(t, 18, h.memo.hits.Load(), "all but the first of each: a tag is computed once per body")
}

// shuffling is a backend that writes its documents in another way each time,
// with the time in them.
func shuffling(t *testing.T) (*store, string) {
	backend := newStore(nil)
	count := 0
	backend.answer = func(w http.ResponseWriter, r *http.Request) bool {
		doc, found := backend.doc(r.URL.Path)
		if !found || r.Method != http.MethodGet {
			return false
		}
		backend.mu.Lock()
		count++
		n := count
		backend.mu.Unlock()
		if strings.HasPrefix(doc, "<") {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprintf(w, "%s<footer>generated %d ms after the epoch</footer>", doc, n)
			return true
		}
		w.Header().Set("Content-Type", "application/json")
		var members map[string]json.RawMessage
		if json.Unmarshal([]byte(doc), &members) != nil {
			_, _ = io.WriteString(w, doc)
			return true
		}
		texts := []string{fmt.Sprintf(`"generated_at": %d`, n)}
		for name, value := range members { // in random order
			texts = append(texts, fmt.Sprintf("%q:%*s%s", name, n%5, "", value))
		}
		rand.Shuffle(len(texts), func(i, j int) { texts[i], texts[j] = texts[j], texts[i] })
		_, _ = io.WriteString(w, "{"+strings.Join(texts, ",")+"}\n")
		return true
	}
	return backend, backend.start(t)
}

const normalizingSite = `etag weak {
	canonicalize json
	ignore_json /generated_at
	ignore_pattern "generated [0-9]+ ms"
}
`

func TestBackendThatShufflesAndStamps(t *testing.T) {
	backend, upstream := shuffling(t)
	url := startCaddy(t, normalizingSite+"reverse_proxy "+upstream)
	large := `"` + strings.Repeat("x", 100_000) + `"`
	backend.docs["/small"] = `{"name": "cup", "price": 12.5, "id": 17}`
	backend.docs["/large"] = `{"name": "cup", "text": ` + large + `, "price": 12.5}`
	backend.docs["/page"] = "<!doctype html><p>hello"
	backend.docs["/broken"] = `{"name": "cup", }`
	for _, protocol := range []string{"h1", "h2c"} {
		client := clientFor(t, protocol, nil)
		for _, path := range []string{"/small", "/large", "/page"} {
			first := do(t, client, http.MethodGet, url+path, "")
			require.True(t, strings.HasPrefix(first.tag(), `W/"`), first.tag())
			other := false
			for range 10 {
				again := do(t, client, http.MethodGet, url+path, "")
				require.Equal(t, first.tag(), again.tag())
				other = other || again.body != first.body
				require.Contains(t, again.body, "generated", "it is left out of the hash only")
				require.Equal(t, 304, do(t, client, http.MethodGet, url+path, "", "If-None-Match", first.tag()).status)
				require.Equal(t, first.tag(), do(t, client, http.MethodHead, url+path, "").tag())
			}
			require.True(t, other)
		}
		require.Equal(t, "W/"+tagFor(`{"id":17,"name":"cup","price":12.5}`), do(t, client, http.MethodGet, url+"/small", "").tag())
		require.Equal(t, "W/"+tagFor(backend.docs["/broken"]), do(t, client, http.MethodGet, url+"/broken", "").tag())
	}
	before := get(t, url+"/small").tag()
	backend.mu.Lock()
	backend.docs["/small"] = `{"name": "cup", "price": 12.6, "id": 17}`
	backend.mu.Unlock()
	require.Equal(t, 200, get(t, url+"/small", "If-None-Match", before).status)
}

// TestWritesUseTheSameTags: an If-Match with a tag of the same meaning passes,
// and one of another meaning doesn't.
func TestWritesUseTheSameTags(t *testing.T) {
	backend, upstream := shuffling(t)
	url := startCaddy(t, normalizingSite+"reverse_proxy "+upstream)
	for path, versions := range map[string][3]string{
		"/small": {`{"name":"cup","price":1}`, `{"price": 2, "name": "cup"}`, `{"price": 3, "name": "cup"}`},
		"/large": {`{"text":"` + strings.Repeat("x", 100_000) + `","price":1}`, `{"price":2}`, `{"price":3}`},
		"/page":  {"<!doctype html><p>1", "<!doctype html><p>2", "<!doctype html><p>3"},
	} {
		backend.mu.Lock()
		backend.docs[path] = versions[0]
		backend.mu.Unlock()
		tag := get(t, url+path).tag()
		require.Equal(t, 204, do(t, http.DefaultClient, http.MethodPut, url+path, versions[1], "If-Match", tag).status)
		lost := do(t, http.DefaultClient, http.MethodPut, url+path, versions[2], "If-Match", tag)
		require.Equal(t, 412, lost.status)
		stored, _ := backend.doc(path)
		require.Equal(t, versions[1], stored)
		require.Equal(t, get(t, url+path).tag(), lost.tag())
		require.Equal(t, 204, do(t, http.DefaultClient, http.MethodPut, url+path, versions[2], "If-Match", lost.tag()).status)
		require.Equal(t, 204, do(t, http.DefaultClient, http.MethodDelete, url+path, "", "If-Match", get(t, url+path).tag()).status)
	}
}

// TestNewTagAfterAWriteIsThatOfTheNextRead, also if it is a normalized one.
func TestNewTagAfterAWriteIsThatOfTheNextRead(t *testing.T) {
	backend := newStore(map[string]string{"/doc": `{"a":1}`})
	backend.mediaType = "application/json"
	url := startCaddy(t, normalizingSite+"reverse_proxy "+backend.start(t))
	tag := get(t, url+"/doc").tag()
	require.Equal(t, "W/"+tagFor(`{"a":1}`), tag)
	written := do(t, http.DefaultClient, http.MethodPut, url+"/doc", `{"b": 1.0, "a": 2}`, "If-Match", tag)
	require.Equal(t, 204, written.status)
	require.Equal(t, "W/"+tagFor(`{"a":2,"b":1}`), written.tag())
	require.Equal(t, written.tag(), get(t, url+"/doc").tag())
}

// TestBodiesPastALimitAreNotNormalized: a write takes the tag that a read
// shows, which past max_size is one of the bytes, in a trailer; and past
// another limit there is none, since the next read may have another one.
func TestBodiesPastALimitAreNotNormalized(t *testing.T) {
	document := `{"b":1,"a":"` + strings.Repeat("x", 3000) + `"}`
	release := make(chan struct{})
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method != http.MethodGet {
			return
		}
		_, _ = io.WriteString(w, document[:10])
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/slow" && r.Header.Get("Te") != "" {
			<-release
		}
		_, _ = io.WriteString(w, document[10:])
	})
	site := func(limit string) string {
		return startCaddy(t, "etag weak {\ncanonicalize json\noversize trailer\n"+limit+"\n}\nreverse_proxy "+upstream)
	}
	trailer := func(url string) string {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		require.NoError(t, err)
		req.Header.Set("TE", "trailers")
		req.Header.Set("Accept-Encoding", "identity")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		if strings.HasSuffix(url, "/slow") {
			close(release) // the header is here, and so max_delay is over
		}
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, document, string(body))
		require.Empty(t, res.Header.Get("ETag"))
		return res.Trailer.Get("ETag")
	}

	url := site("max_size 2KiB")
	tag := trailer(url + "/doc")
	require.Equal(t, "W/"+tagFor(document), tag)
	require.Equal(t, 200, do(t, http.DefaultClient, http.MethodPut, url+"/doc", "x", "If-Match", tag).status)

	url = site("max_delay 20ms")
	require.Empty(t, trailer(url+"/slow"))
	tag = get(t, url+"/doc").tag()
	require.Equal(t, "W/"+tagFor(`{"a":"`+strings.Repeat("x", 3000)+`","b":1}`), tag)
	require.Equal(t, 200, do(t, http.DefaultClient, http.MethodPut, url+"/doc", "x", "If-Match", tag).status)
}

// TestWriteWithoutMemoryToCheckItIsNotDone: nor is it told that somebody else
// has changed the document, which nobody may have done.
func TestWriteWithoutMemoryToCheckItIsNotDone(t *testing.T) {
	backend := newStore(map[string]string{"/doc": `{"a":1}`})
	h := newHandler(t, Handler{Strength: "weak", Canonicalize: "json", MaxMemory: 1})
	backend.mediaType = "application/json"
	_, err := serve(h, func(w http.ResponseWriter, r *http.Request) error {
		r.URL.Path = "/doc"
		backend.ServeHTTP(w, r)
		return nil
	}, http.MethodPut, "If-Match", "W/"+tagFor(`{"a":1}`))
	var handlerErr caddyhttp.HandlerError
	require.ErrorAs(t, err, &handlerErr)
	require.Equal(t, http.StatusServiceUnavailable, handlerErr.StatusCode)
	require.ErrorContains(t, err, "max_memory")
	require.Zero(t, backend.changes())
	require.Zero(t, h.budget.held.Load())

	// A body past max_size is hashed as it is, and needs none.
	h = newHandler(t, Handler{Strength: "weak", Canonicalize: "json", MaxMemory: 1, MaxSize: 5})
	_, err = serve(h, func(w http.ResponseWriter, r *http.Request) error {
		r.URL.Path = "/doc"
		backend.ServeHTTP(w, r)
		return nil
	}, http.MethodPut, "If-Match", "W/"+tagFor(`{"a":1}`))
	require.NoError(t, err)
	require.Equal(t, 1, backend.changes())
}
