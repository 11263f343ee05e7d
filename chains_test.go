package etag

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// TestRandomChains puts up to three handlers with random options into one chain,
// with other directives above, between and below, and has clients ask for all
// that there is, some of whom leave. The race detector looks on. No response may
// be a part for the whole, or have the tag of another one; and nothing may be
// left behind.
//
// ETAG_TEST_CHAINS says how many chains there are, and ETAG_TEST_CHAIN which is
// the first one.
func TestRandomChains(t *testing.T) {
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
			return n
		}
		return otherwise
	}
	backend := &chainBackend{versions: make(map[string]int)}
	upstream := startUpstream(t, backend.ServeHTTP)
	first := number("ETAG_TEST_CHAIN", 0)
	for seed := first; seed < first+number("ETAG_TEST_CHAINS", 12); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testChain(t, backend, upstream, uint64(seed)) })
	}
}

func testChain(t *testing.T, backend *chainBackend, upstream string, seed uint64) {
	site := newChain(rand.New(rand.NewPCG(seed, 0)), upstream)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(site)
		}
	})
	url, caddyfile := siteAt(t, site)
	log := filepath.Join(t.TempDir(), "log")
	level := []string{"ERROR", "DEBUG"}[seed%2]
	load(t, strings.Replace(caddyfile, "level PANIC", "output file "+log+"\nlevel "+level, 1))
	t.Cleanup(stopCaddy)

	c := &chainClients{
		t: t, url: url, backend: backend,
		clients:  []*http.Client{clientFor(t, "h1", nil), clientFor(t, "h2c", nil)},
		tags:     [36]string{`"own-0"`, `W/"own-1"`, "*", `"x"`, "x"},
		bodies:   make(map[string]string),
		tagsTell: !strings.Contains(site, "header ETag"),
	}
	var wg sync.WaitGroup
	for worker := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, worker+1))
		wg.Go(func() {
			for range 60 {
				c.ask(random)
			}
		})
	}
	wg.Wait()

	eventually(t, func() bool { return held.Total() == 0 })
	eventually(t, func() bool { return localLocks.size() == 0 })
	eventually(t, func() bool { return ownGoroutines() == "" })
	stopCaddy()
	text, _ := os.ReadFile(log) // there is none if nothing was logged
	for _, fault := range []string{"runtime error", "panic"} {
		require.NotContains(t, string(text), fault)
	}
}

// ownGoroutines returns the stacks of the handlers' goroutines.
func ownGoroutines() (own string) {
	stacks := make([]byte, 4<<20)
	for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(stack, "caddyetag/caddy-etag.") && !strings.Contains(stack, "etag.Test") && !strings.Contains(stack, "etag.testChain") {
			own += stack + "\n\n"
		}
	}
	return own
}

func anyOf(random *rand.Rand, of ...string) string { return of[random.IntN(len(of))] }

// newChain makes a chain of handlers.
func newChain(random *rand.Rand, upstream string) string {
	var b strings.Builder
	others := func() {
		for random.IntN(2) == 0 {
			b.WriteString(anyOf(random, "encode gzip", "templates", "header +X-A b", "header Vary Accept", `header ETag "\"v1\""`,
				"header ?Cache-Control max-age=60", "header >Cache-Control no-store", "header >-Server", "request_header +X-B c",
				`header >X-Is "{http.etag.outcome} {http.etag.reason} {http.etag.tag}"`,
				`header >X-Asked "{http.request.header.If-None-Match} {http.request.method}"`,
				"log_append tag {http.etag.tag}", "vars internal {http.vars.etag_internal}", "request_body {\nmax_size 50KB\n}") + "\n")
		}
	}
	b.WriteString("route {\n")
	others()
	for range 1 + random.IntN(3) {
		b.WriteString(newChainOptions(random))
		others()
	}
	transport := anyOf(random, "", "flush_interval -1", "transport http {\nkeepalive off\n}", "transport http {\nresponse_header_timeout 3ms\n}")
	fmt.Fprintf(&b, "reverse_proxy %s {\n%s\n}\n}\n", upstream, transport)
	// An error route with a reverse_proxy of its own would write to variables that
	// the transport of the first one may still read.
	switch random.IntN(4) {
	case 0:
		b.WriteString("handle_errors {\nrespond \"\"\n}\n")
	case 1:
		b.WriteString("handle_errors {\n" + newChainOptions(random) + "respond \"\"\n}\n")
	}
	return b.String()
}

func newChainOptions(random *rand.Rand) string {
	strength, options := "strong", ""
	maybe := func(in int, lines ...string) {
		if random.IntN(in) == 0 {
			options += anyOf(random, lines...) + "\n"
		}
	}
	if random.IntN(3) == 0 {
		strength = "weak"
		maybe(2, "canonicalize json", "ignore_json /version /*/version", `ignore_pattern "version[^}]*"`)
	}
	maybe(3, "algorithm xxh3", "algorithm blake3", "length 64")
	maybe(4, "version v1", "version {http.request.host}")
	maybe(2, "existing replace")
	maybe(4, "no_store tag")
	maybe(4, "cache_control no-cache")
	maybe(4, "from_header X-Version")
	maybe(2, "max_size 1KiB", "max_size 40KiB")
	maybe(4, "max_memory 64KiB", "max_memory 1MiB")
	maybe(2, "max_delay 1ms", "max_delay 2ms", "max_delay -1", "max_delay 20ms")
	maybe(3, "oversize trailer")
	maybe(6, "require_if_match", "require_if_match PATCH")
	maybe(4, "weak_if_match reject", "weak_if_match accept")
	maybe(2, "lock off", "lock local 50ms 20ms", "lock local 1s 5ms", "lock local 20ms")
	maybe(4, "write_tag off")
	maybe(4, "errors handle")
	maybe(3, "remember 1m", "remember 20ms 10")
	maybe(3, "ranges on")
	return "etag " + strength + " {\n" + options + "}\n"
}

// chainBackend has a document at each path, of which each write makes a new
// version. It answers in the ways that the request asks for.
type chainBackend struct {
	mu       sync.Mutex
	versions map[string]int
}

func (b *chainBackend) version(path string, added int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.versions[path] += added
	return b.versions[path]
}

// documentOf returns a version of a document, whose size is in its path.
func documentOf(path string, version int) []byte {
	size, _ := strconv.Atoi(path[strings.LastIndexByte(path, '-')+1:])
	line := fmt.Sprintf(`{"version":%d,"path":%q}`, version, path)
	return []byte("[" + strings.Repeat(line+",", size/len(line)) + line + "]")
}

// versionOf returns the version that a document says it is.
func versionOf(document []byte) (version int) {
	_, _ = fmt.Fscanf(bytes.NewReader(document), `[{"version":%d,`, &version)
	return version
}

func (b *chainBackend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	plan := r.Header.Get("X-Plan")
	pause := func() {
		if strings.Contains(plan, "slow") {
			time.Sleep(rand.N(4 * time.Millisecond))
		}
	}
	dies := strings.Contains(plan, "die") && rand.IntN(3) == 0
	if strings.Contains(plan, "early") {
		w.WriteHeader(http.StatusEarlyHints)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		_, err := io.Copy(io.Discard, r.Body)
		pause()
		if err != nil || dies {
			panic(http.ErrAbortHandler)
		}
		version := b.version(r.URL.Path, 1)
		switch rand.IntN(4) {
		case 0:
			w.WriteHeader(http.StatusNoContent)
		case 1:
			w.Header().Set("Location", r.URL.Path)
			w.WriteHeader(http.StatusCreated)
		case 2:
			_, _ = w.Write(documentOf(r.URL.Path, version))
		default:
			w.Header().Set("ETag", fmt.Sprintf(`"own-%d"`, version))
			_, _ = io.WriteString(w, "done")
		}
		return
	}

	version := b.version(r.URL.Path, 0)
	document, header := documentOf(r.URL.Path, version), w.Header()
	header.Set("Content-Type", "application/json")
	for word := range strings.FieldsSeq(plan) {
		switch word {
		case "own":
			header.Set("ETag", fmt.Sprintf(`"own-%d"`, version))
		case "weak":
			header.Set("ETag", fmt.Sprintf(`W/"own-%d"`, version))
		case "version":
			header.Set("X-Version", fmt.Sprintf("own-%d", version))
		case "cors":
			header.Set("Access-Control-Allow-Origin", "*")
		case "stream":
			header.Set("X-Accel-Buffering", "no")
		case "length":
			header.Set("Content-Length", strconv.Itoa(len(document)))
		case "trailer":
			header.Set("Trailer", "X-Sum")
			defer header.Set("X-Sum", "1")
		case "conditions":
			http.ServeContent(w, r, "", time.Unix(1_600_000_000+int64(version), 0), bytes.NewReader(document))
			return
		}
	}
	if r.Method == http.MethodHead {
		return
	}
	pause()
	end := len(document)
	if dies {
		end = rand.IntN(end)
	}
	for at := 0; at < end; {
		n := min(end-at, 1+rand.IntN(20_000))
		if _, err := w.Write(document[at : at+n]); err != nil {
			return
		}
		at += n
		if strings.Contains(plan, "flush") {
			_ = http.NewResponseController(w).Flush()
			pause()
		}
	}
	if dies {
		panic(http.ErrAbortHandler)
	}
}

// chainClients are the clients of a chain, and what they know of it.
type chainClients struct {
	t        *testing.T
	url      string
	backend  *chainBackend
	clients  []*http.Client
	tagsTell bool // a strong tag is that of one body

	mu      sync.Mutex
	answers int               // with a tag
	tags    [36]string        // some that may be, or are none, and those that were seen lately
	bodies  map[string]string // by path and strong tag
}

// ask sends a random request, and looks whether the answer can be right.
func (c *chainClients) ask(random *rand.Rand) {
	method := anyOf(random, "GET", "GET", "GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "put")
	path := fmt.Sprintf("/%s/document-%s", anyOf(random, "a", "b"), anyOf(random, "10", "900", "5000", "50000", "300000"))
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	leaves := random.IntN(6) == 0
	if leaves {
		defer time.AfterFunc(time.Duration(random.IntN(6_000))*time.Microsecond, leave).Stop()
	}
	var body io.Reader
	if method != "GET" && method != "HEAD" {
		body = strings.NewReader(strings.Repeat("b", 1+random.IntN(90_000)))
		if random.IntN(3) == 0 {
			body = io.MultiReader(body) // whose length is not known
		}
	}
	hints := ""
	if body == nil && !leaves {
		// To a client that leaves (HTTP/2), or beside a 100 (Continue), a hint is a
		// data race of net/http and reverse_proxy.
		hints = anyOf(random, "", "early")
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		c.t.Error(err)
		return
	}
	c.addConditions(random, r.Header)
	r.Header.Set("X-Plan", strings.Join([]string{
		hints, anyOf(random, "", "slow"), anyOf(random, "", "flush"), anyOf(random, "", "", "die"), anyOf(random, "", "own", "weak", "version"),
		anyOf(random, "", "", "cors", "stream"), anyOf(random, "", "length", "trailer", "conditions", "conditions"),
	}, " "))

	res, err := c.clients[random.IntN(2)].Do(r)
	if err != nil {
		return // it has left, or the backend has died
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil || method != "GET" {
		return
	}
	if wrong := c.wrong(res, content); wrong != "" {
		c.t.Errorf("%s: %s %s with %v is answered with %d, %v and %d bytes, %.100q",
			wrong, method, path, r.Header, res.StatusCode, res.Header, len(content), content)
	}
}

func (c *chainClients) addConditions(random *rand.Rand, header http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tag := func() string { return anyOf(random, c.tags[:min(len(c.tags), 6+c.answers)]...) }
	maybe := func(in int, name string, values ...string) {
		if random.IntN(in) == 0 {
			header.Set(name, anyOf(random, values...))
		}
	}
	date := func() string {
		return time.Unix(1_600_000_000+int64(random.IntN(60)), 0).UTC().Format(http.TimeFormat)
	}
	maybe(3, "If-None-Match", tag(), tag()+", "+tag())
	maybe(3, "If-Match", tag(), tag()+", "+tag())
	maybe(5, "If-Modified-Since", date())
	maybe(5, "If-Unmodified-Since", date())
	maybe(5, "Range", "bytes=0-9", "bytes=5-", "bytes=-7", "bytes=900000-")
	maybe(5, "If-Range", tag())
	maybe(3, "Accept-Encoding", "gzip")
	maybe(5, "TE", "trailers")
	maybe(5, "Origin", "https://example.com")
	maybe(8, "Cache-Control", "no-cache")
	maybe(8, "Expect", "100-continue")
	maybe(8, "X-HTTP-Method-Override", "PUT", "DELETE")
}

// wrong tells what is wrong with the answer to a GET.
func (c *chainClients) wrong(res *http.Response, content []byte) string {
	asked := res.Request.Header
	tag := res.Header.Get("ETag")
	if tag != "" {
		c.mu.Lock()
		c.tags[6+c.answers%30] = tag
		c.answers++
		c.mu.Unlock()
	}
	switch res.StatusCode {
	case http.StatusPartialContent:
		if asked.Get("Range") == "" {
			return "nobody asked for a part"
		}
	case http.StatusNotModified:
		if len(content) > 0 || asked.Get("If-None-Match")+asked.Get("If-Modified-Since") == "" {
			return "not modified since when"
		}
	case http.StatusOK:
		return c.wrongDocument(res, tag, content)
	}
	return ""
}

// wrongDocument tells what is wrong with a document that was sent as a whole.
func (c *chainClients) wrongDocument(res *http.Response, tag string, content []byte) string {
	if res.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(bytes.NewReader(content))
		if err == nil {
			content, err = io.ReadAll(unzipped)
		}
		if err != nil {
			return "not all of what was compressed"
		}
	}
	path := res.Request.URL.Path
	if len(content) > 0 && !bytes.Equal(content, documentOf(path, versionOf(content))) { // an error page has none
		return "not the whole document"
	}
	if tag == "" || strings.HasPrefix(tag, "W/") || !c.tagsTell {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if before, known := c.bodies[path+tag]; known && before != string(content) {
		return "two documents have one tag"
	}
	c.bodies[path+tag] = string(content)
	return ""
}
