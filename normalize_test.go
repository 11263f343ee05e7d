package etag

import (
	"context"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyetag/caddy-etag/internal/held"
	"github.com/caddyetag/caddy-etag/internal/jcs"
)

// takeAllTurns takes all turns to normalize a large body, until the function
// that it returns is called.
func takeAllTurns(tb testing.TB) (end func()) {
	tb.Helper()
	for range cap(normalizing) {
		normalizing <- struct{}{}
	}
	end = sync.OnceFunc(func() {
		for range cap(normalizing) {
			<-normalizing
		}
	})
	tb.Cleanup(end)
	return end
}

// TestLargeBodiesWaitForAProcessor to be normalized, and small ones don't.
func TestLargeBodiesWaitForAProcessor(t *testing.T) {
	n := normalizerWith(t, true, nil)
	end := takeAllTurns(t)
	digits := func(ctx context.Context, until time.Time, size int) error {
		_, err := n.digits(ctx, until, hold(t, jsonDocument(size)), formJSON, algorithms[defaultAlgorithm], defaultLength)
		return err
	}
	require.NoError(t, digits(t.Context(), time.Now(), held.BlockSize-1000))
	done := make(chan error, 1)
	go func() { done <- digits(t.Context(), time.Time{}, 2*held.BlockSize) }()
	select {
	case <-done:
		require.Fail(t, "it did not wait")
	case <-time.After(50 * time.Millisecond):
	}

	// as long as it makes sense
	require.ErrorIs(t, digits(t.Context(), time.Now().Add(time.Millisecond), 2*held.BlockSize), errTooSlow)
	leaving, leave := context.WithCancel(t.Context())
	go leave()
	require.ErrorIs(t, digits(leaving, time.Now().Add(time.Hour), 2*held.BlockSize), errTooSlow)

	end()
	require.NoError(t, <-done)
	require.NoError(t, digits(t.Context(), time.Now(), 2*held.BlockSize), "nobody has to wait")
	require.Empty(t, normalizing)
}

// TestReadThatWaitsToBeNormalizedIsPassedOnInTime, complete, as any that is past
// max_delay, or ends when its client leaves.
func TestReadThatWaitsToBeNormalizedIsPassedOnInTime(t *testing.T) {
	document := string(jsonDocument(100_000))
	next := func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(w, document)
		return err
	}
	h := newHandler(t, Handler{Strength: "weak", Canonicalize: "json", MaxDelay: caddy.Duration(20 * time.Millisecond)})
	patient := newHandler(t, Handler{Strength: "weak", Canonicalize: "json", MaxDelay: noDelay})
	end := takeAllTurns(t)
	for _, fields := range [][]string{nil, {"If-None-Match", `W/"x"`}} {
		rec, err := serve(h, next, http.MethodGet, fields...)
		require.NoError(t, err)
		require.Equal(t, 200, rec.Code)
		require.Equal(t, document, rec.Body.String())
		require.Empty(t, rec.Header().Get("ETag"))
		require.Zero(t, h.readBudget.Held())

		ctx, leave := context.WithCancel(t.Context())
		go leave()
		rec = httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
		addFields(r.Header, fields)
		require.NoError(t, patient.ServeHTTP(rec, r, caddyhttp.HandlerFunc(next)))
		require.Empty(t, rec.Header().Get("ETag"))
		require.Zero(t, patient.readBudget.Held())
	}
	end()
	for _, h := range []*Handler{h, patient} {
		rec, err := serve(h, next, http.MethodGet)
		require.NoError(t, err)
		require.NotEmpty(t, rec.Header().Get("ETag"), "nothing was noted for the body that was not normalized")
	}
}

// TestWriteThatWaitsToBeCheckedIsNotDone if its client leaves.
func TestWriteThatWaitsToBeCheckedIsNotDone(t *testing.T) {
	backend := newStore(map[string]string{"/doc": string(jsonDocument(100_000))})
	backend.mediaType = "application/json"
	h := newHandler(t, Handler{Strength: "weak", Canonicalize: "json", Version: "unknown"}) // to the memo
	takeAllTurns(t)
	ctx, leave := context.WithCancel(t.Context())
	r := httptest.NewRequest(http.MethodPut, "/doc", strings.NewReader("x")).WithContext(ctx)
	r.Header.Set("If-Match", `W/"x"`)
	err := h.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		backend.ServeHTTP(w, r)
		if r.Method == http.MethodGet {
			time.AfterFunc(10*time.Millisecond, leave)
		}
		return nil
	}))
	require.Error(t, err)
	require.Zero(t, backend.changes())
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
	for _, bytes := range []string{`{"b":1,"b":1}`, `{"b":9007199254740993,"b":1}`, `{"b":`, "", strings.Repeat(" ", 40_000) + "[1,]"} {
		require.Equal(t, opaque(tagFor(bytes)), digitsOf(t, n, "application/json", bytes), "as it is")
	}
	for _, number := range []string{"9007199254740993", "0.33333333333333333333", "1e+400", "1e+99999999999999999999"} {
		require.Equal(t, opaque(tagFor(`{"a":[],"b":`+number+`}`)), digitsOf(t, n, "application/json", `{"b": `+number+`, "a": []}`))
	}
	for _, size := range []int{1 << 10, 40 << 10, 1 << 20} {
		document := string(jsonDocument(size))
		c := jcs.NewCanonicalizer()
		require.NoError(t, c.Canonicalize([]byte(document), nil))
		require.Equal(t, opaque(tagFor(string(c.Bytes()))), digitsOf(t, n, "application/json", document))
		require.Equal(t, opaque(tagFor(document)), digitsOf(t, n, "application/octet-stream", document))
	}
}

func TestWhatPatternsMatchIsLeftOut(t *testing.T) {
	n := normalizerWith(t, false, nil, `nonce="\w+"`, `(?s)<!-- generated.*?-->`, `\d\d:\d\d`)
	digits := func(text string) string { return digitsOf(t, n, "text/html", text) }
	page := func(nonce, time string) string {
		return `<p nonce="` + nonce + `">hello<!-- generated at ` + time + " \n-->" + strings.Repeat("world ", 10_000) + time
	}
	require.Equal(t, digits(page("a", "10:00")), digits(page("longer", "23:59")))
	require.NotEqual(t, digits(page("a", "10:00")), digits(strings.Replace(page("a", "10:00"), "hello", "hallo", 1)))
	require.NotEqual(t, digits(page("a", "10:00")), digits(page("a", "never")), "what does not match counts")

	digitByDigit := normalizerWith(t, false, nil, `[0-9]`)
	require.Equal(t, digitsOf(t, digitByDigit, "text/html", "views: 9"), digitsOf(t, digitByDigit, "text/html", "views: 10"), "how many there are is left out")

	none := "nothing to leave out"
	require.Equal(t, opaque(tagFor(none)), digits(none))
	different := map[string]string{}
	for _, text := range []string{"ab", "a10:00b", "a10:00b10:00", "10:00ab", "ab10:00", "10:00a10:00b", "a", "b", "10:00", "", "10:0010:00 ", "a\x00\x00\x00\x00\x00\x00\x00\x00b10:00"} {
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
	backend.docs["/exact"] = `{"id": 9007199254740993, "third": 0.33333333333333333333, "large": 1e400, "name": "cup"}`
	backend.docs["/broken"] = `{"name": "cup", }`
	for _, protocol := range []string{"h1", "h2c"} {
		client := clientFor(t, protocol, nil)
		for _, path := range []string{"/small", "/large", "/page", "/exact"} {
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
	require.Equal(t, "W/"+tagFor(`{"id":9007199254740993,"large":1e+400,"name":"cup","third":0.33333333333333333333}`), get(t, url+"/exact").tag())
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
	h := newHandler(t, Handler{Strength: "weak", Canonicalize: "json"})
	h.budget = held.NewBudget(0) // as if it were used up
	backend.mediaType = "application/json"
	res, err := serve(h, func(w http.ResponseWriter, r *http.Request) error {
		r.URL.Path = "/doc"
		backend.ServeHTTP(w, r)
		return nil
	}, http.MethodPut, "If-Match", "W/"+tagFor(`{"a":1}`))
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, res.Code)
	require.NotEmpty(t, res.Header().Get("Retry-After"))
	require.Contains(t, res.Body.String(), `"reason":"no_memory"`)
	require.Zero(t, backend.changes())
	require.Zero(t, h.budget.Held())

	// A body past max_size is hashed as it is, and needs none.
	h = newHandler(t, Handler{Strength: "weak", Canonicalize: "json", MaxSize: 5, Oversize: "trailer"})
	h.budget = held.NewBudget(0)
	_, err = serve(h, func(w http.ResponseWriter, r *http.Request) error {
		r.URL.Path = "/doc"
		backend.ServeHTTP(w, r)
		return nil
	}, http.MethodPut, "If-Match", "W/"+tagFor(`{"a":1}`))
	require.NoError(t, err)
	require.Equal(t, 1, backend.changes())
}
