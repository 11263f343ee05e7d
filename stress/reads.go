package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"
)

// readDocument is one that never changes.
type readDocument struct {
	content []byte
	tag     string
	dated   bool
	site    string // serves: ranges of the handler's or of the backend's; own: the backend's tags
}

var readDate = time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC)

// runReads compares answers to random conditional reads and ranges with those of
// net/http's ServeContent, where that knows the tag.
func runReads(w *world) {
	random := w.random("documents", 0)
	sites := []string{"ranges", "backend", "own"}
	documents := make([]readDocument, 60)
	for i := range documents {
		doc := &documents[i]
		doc.content = make([]byte, []int{0, 1, 2, 10, 100, 1000, 1000, 5000, 40_000, 200_000}[i%10])
		for j := range doc.content {
			doc.content[j] = "0123456789abcdef"[random.IntN(16)]
		}
		doc.tag, doc.dated, doc.site = tagOf(doc.content), i/10%2 == 0, sites[i/20]
		if doc.site == "own" {
			doc.tag = []string{fmt.Sprintf(`"own-%d"`, i), fmt.Sprintf(`W/"own-%d"`, i)}[i%2]
		}
	}
	w.backend.handle("reads", func(rw http.ResponseWriter, r *http.Request) {
		var i int
		_, _ = fmt.Sscanf(r.URL.Path, "/reads/%d", &i)
		doc := documents[i]
		if doc.site == "own" {
			rw.Header().Set("ETag", doc.tag)
		}
		doc.serve(rw, r)
	})
	site := fmt.Sprintf(`
	@ranges header X-Site ranges
	handle @ranges {
		etag {
			ranges on
		}
		reverse_proxy %[1]s
	}
	handle {
		etag
		reverse_proxy %[1]s
	}`, w.backend.address)
	c := w.startCaddy("caddy", site, "")
	clients := []*http.Client{newClient(false), newClient(true)}

	const batch = 1000
	w.each(6, func(number int) {
		random := w.random("reads", number)
		statuses := make(map[string]int)
		for range batch {
			if w.over() {
				break
			}
			i := random.IntN(len(documents))
			doc := documents[i]
			header := doc.newConditions(random)
			header.Set("X-Site", doc.site)
			method := http.MethodGet
			if random.IntN(5) == 0 {
				method = http.MethodHead
				header.Del("Range") // which RFC 9110 §14.2 defines for GET alone
				header.Del("If-Range")
			}
			status, difference := doc.compare(clients[random.IntN(2)], method, fmt.Sprintf("http://%s/reads/%d", c.address, i), header)
			statuses[status]++
			if difference != "" {
				w.found("%s of a document of %d bytes (%s) with %v: %s", method, len(doc.content), doc.site, header, difference)
			}
		}
		for status, n := range statuses {
			w.result.add("reads with a "+status, n)
			w.result.add("reads", n)
		}
	})
}

func (d readDocument) serve(w http.ResponseWriter, r *http.Request) {
	date := time.Time{}
	if d.dated {
		date = readDate
	}
	w.Header().Set("Content-Type", "text/plain")
	http.ServeContent(w, r, "", date, bytes.NewReader(d.content))
}

// newConditions makes the header of a read: conditions that net/http and the
// handler both understand.
func (d readDocument) newConditions(random *rand.Rand) http.Header {
	header := make(http.Header)
	opaque := strings.TrimPrefix(d.tag, "W/")
	tag := func() string {
		return []string{d.tag, d.tag, "W/" + opaque, opaque, `"other"`, `W/"other"`, "*", `"a", ` + d.tag, `"x,y",W/` + opaque, `"a", "b"`, ""}[random.IntN(11)]
	}
	date := func() string {
		at := readDate.Add([]time.Duration{0, 0, -time.Second, time.Hour, -24 * time.Hour}[random.IntN(5)])
		return []string{at.Format(http.TimeFormat), at.Format(http.TimeFormat), at.Format(time.ANSIC), "yesterday"}[random.IntN(4)]
	}
	maybe := func(in int, name, value string) {
		if random.IntN(in) == 0 && value != "" {
			header.Set(name, value)
		}
	}
	maybe(2, "If-None-Match", tag())
	maybe(5, "If-Match", tag())
	maybe(4, "If-Modified-Since", date())
	maybe(6, "If-Unmodified-Since", date())
	if random.IntN(3) == 0 {
		header.Set("Range", d.newRange(random))
		if random.IntN(3) == 0 {
			header.Set("If-Range", []string{d.tag, opaque, "W/" + opaque, `"other"`, date()}[random.IntN(5)])
		}
	}
	return header
}

func (d readDocument) newRange(random *rand.Rand) string {
	size := len(d.content) + 1
	one := func() string {
		from := random.IntN(size + size/4 + 1)
		return []string{
			fmt.Sprintf("%d-%d", from, from+random.IntN(size)),
			fmt.Sprintf("%d-", from),
			fmt.Sprintf("-%d", 1+random.IntN(size+10)),
			fmt.Sprintf("0-%d", random.IntN(size)),
		}[random.IntN(4)]
	}
	ranges := []string{one()}
	for random.IntN(3) == 0 {
		ranges = append(ranges, one())
	}
	return "bytes=" + strings.Join(ranges, ",")
}

// compare sends a read, and tells in what its answer differs from ServeContent's.
func (d readDocument) compare(client *http.Client, method, url string, header http.Header) (status, difference string) {
	r, err := http.NewRequest(method, url, nil)
	check(err)
	r.Header = header
	res, err := client.Do(r)
	if err != nil {
		return "error", err.Error()
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return "error", err.Error()
	}

	if d.site == "backend" && res.StatusCode == http.StatusOK && strings.Contains(header.Get("If-Range"), `"`) {
		// It knows no tags, and so it takes none for its own: all is sent.
		header.Del("If-Range")
		header.Del("Range")
	}
	return d.compareWith(res, content, r)
}

// compareWith tells in what an answer differs from ServeContent's to a request.
func (d readDocument) compareWith(res *http.Response, content []byte, r *http.Request) (status, difference string) {
	method, header := r.Method, r.Header
	recorder := httptest.NewRecorder()
	recorder.Header().Set("ETag", d.tag)
	d.serve(recorder, r)
	want := recorder.Result()
	defer want.Body.Close()
	wanted, _ := io.ReadAll(want.Body)
	if method == http.MethodHead {
		wanted = nil
	}
	status = fmt.Sprint(res.StatusCode)
	untagged := res.Header.Get("ETag") == "" && d.mayBeUntagged(res.StatusCode, header)
	switch {
	case res.StatusCode != want.StatusCode:
		return status, fmt.Sprintf("status %d, want %d", res.StatusCode, want.StatusCode)
	case res.Header.Get("ETag") != want.Header.Get("ETag") && !untagged:
		return status, fmt.Sprintf("ETag %s, want %s", res.Header.Get("ETag"), want.Header.Get("ETag"))
	case res.StatusCode == http.StatusPreconditionFailed, res.StatusCode == http.StatusNotModified && untagged:
		return status, ""
	}
	names := []string{"Content-Range", "Last-Modified"}
	got, why := partsOf(res, content)
	wants, _ := partsOf(want, wanted)
	if why != nil {
		return status, why.Error()
	}
	switch res.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		if !slices.Equal(got, wants) {
			return status, fmt.Sprintf("%d parts or other bytes than the %d that are wanted", len(got), len(wants))
		}
		if len(got) == 1 {
			names = append(names, "Content-Length", "Content-Type")
		}
	case http.StatusRequestedRangeNotSatisfiable:
		names = names[:1]
	}
	for _, name := range names {
		if res.Header.Get(name) != want.Header.Get(name) {
			return status, fmt.Sprintf("%s %q, want %q", name, res.Header.Get(name), want.Header.Get(name))
		}
	}
	return status, ""
}

// mayBeUntagged reports whether an answer may be that of a backend which knows
// no tags: a part, or what rests on no tag.
func (d readDocument) mayBeUntagged(status int, header http.Header) bool {
	switch status {
	case http.StatusPartialContent:
		return d.site == "backend"
	case http.StatusRequestedRangeNotSatisfiable:
		return true
	case http.StatusPreconditionFailed:
		return d.site == "backend" && header.Get("Range") != "" && header.Get("If-Match") == "" && header.Get("If-None-Match") == ""
	case http.StatusNotModified:
		condition := header.Get("If-None-Match")
		return d.site != "own" && (condition == "" || condition == "*")
	}
	return false
}

// partsOf returns the parts of a response: as many as it has ranges, each with
// where it is from.
func partsOf(res *http.Response, content []byte) ([]string, error) {
	kind, parameters, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if kind != "multipart/byteranges" || res.StatusCode != http.StatusPartialContent {
		return []string{res.Header.Get("Content-Range") + string(content)}, nil
	}
	var parts []string
	reader := multipart.NewReader(bytes.NewReader(content), parameters["boundary"])
	for {
		part, err := reader.NextRawPart()
		if errors.Is(err, io.EOF) {
			return parts, nil
		}
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(part)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part.Header.Get("Content-Range")+string(body))
	}
}
