package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
)

// runDeaths has a backend that dies in every part of a body, and counts the
// answers that pass what came for the whole: to reads, also to those with the tag
// of what came, and to writes by that tag.
func runDeaths(w *world) {
	var deaths atomic.Int64
	w.backend.handle("deaths", func(rw http.ResponseWriter, r *http.Request) {
		p := planOf(r)
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.found("a write was sent to the backend though what is current can't be known")
			return
		}
		deaths.Add(1)
		if p.Get == "early" {
			panic(http.ErrAbortHandler)
		}
		if r.URL.Query().Has("json") {
			rw.Header().Set("Content-Type", "application/json")
		}
		body := deathBody(r.URL.Query().Get("body"))
		if r.Method == http.MethodHead {
			rw.Header().Set("X-Dies", "later") // a HEAD has no body to die in
		}
		sendPart(rw, r, body, int(p.At*float64(len(body))), p.Chunked)
	})
	var site strings.Builder
	options := []string{
		"{\n}", "{\nmax_size 1KiB\n}", "{\nmax_size 1KiB\noversize trailer\n}", "{\nmax_delay 1ms\n}", "{\nranges on\n}",
		"{\nremember 1m\n}", "weak {\ncanonicalize json\n}", "{\nexisting replace\n}", "{\nalgorithm xxh3\n}",
	}
	handlers := []string{"flush_interval -1", "transport http {\nkeepalive off\n}"}
	for i, option := range options {
		fmt.Fprintf(&site, "@%[1]d header X-Site %[1]d\nhandle @%[1]d {\netag %[2]s\nreverse_proxy %[3]s {\n%[4]s\n}\n}\n",
			i, option, w.backend.address, handlers[i%2])
	}
	c := w.startCaddy("caddy", site.String(), "")
	clients := []*http.Client{newClient(false), newClient(true)}

	w.each(6, func(number int) {
		random := w.random("deaths", number)
		size := []int{1, 10, 500, 3000, 40_000, 300_000}[random.IntN(6)]
		name := fmt.Sprintf("%d:%d", number, size)
		body := deathBody(name)
		p := plan{Get: "die", At: []float64{0, random.Float64(), 1 - 1/float64(size)}[random.IntN(3)], Chunked: random.IntN(2) == 0}
		if random.IntN(10) == 0 {
			p.Get = "early"
		}
		came := body[:int(p.At*float64(size))]
		option := random.IntN(len(options))
		method, header := newDoomedRequest(random, tagOf(body), tagOf(came))
		if strings.Contains(options[option], "max_size") && header.Get("If-None-Match") != "" && method == http.MethodPut {
			header.Set("If-None-Match", "*") // what is past the limit has no tag, and so every other one may pass
		}
		p.set(header)
		header.Set("X-Site", fmt.Sprint(option))
		url := fmt.Sprintf("http://%s/deaths/%d?body=%s", c.address, number, name)
		if random.IntN(3) == 0 {
			url += "&json"
		}
		if wrong := answerToDeath(clients[random.IntN(2)], method, url, header); wrong != "" {
			w.result.add("wrong answers", 1)
			w.found("%s with %v through etag %q, of %d bytes: %s", method, header, options[option], size, wrong)
		}
		w.result.add("requests", 1)
	})
	w.result.add("deaths", int(deaths.Load()))
	w.result.add("wrong answers", 0)
}

func deathBody(name string) []byte {
	var size int
	_, _ = fmt.Sscanf(name[strings.IndexByte(name, ':')+1:], "%d", &size)
	return []byte(strings.Repeat(name+" ", size/len(name)+1)[:size])
}

// newDoomedRequest makes a request whose backend will die, with the tag of the
// whole, or of what will have come.
func newDoomedRequest(random *rand.Rand, whole, came string) (method string, header http.Header) {
	header = make(http.Header)
	tag := []string{whole, came, "W/" + came, `"x", ` + came}[random.IntN(4)]
	switch random.IntN(8) {
	case 0, 1:
		return http.MethodGet, header
	case 2, 3:
		header.Set("If-None-Match", tag)
		return http.MethodGet, header
	case 4:
		header.Set("Range", []string{"bytes=0-0", "bytes=-1", "bytes=0-"}[random.IntN(3)])
		header.Set("If-Range", tag)
		return http.MethodGet, header
	case 5:
		header.Set("If-Match", tag)
		return http.MethodGet, header
	case 6:
		header.Set("If-None-Match", []string{"*", tag}[random.IntN(2)])
		return http.MethodPut, header
	default:
		header.Set("If-Match", tag)
		return []string{http.MethodPut, http.MethodPatch, http.MethodDelete}[random.IntN(3)], header
	}
}

// answerToDeath sends a request, and tells what is wrong with the answer: one
// that is complete must say that something has failed, or refuse the request
// without a tag, as the resource has none past a limit, or exists.
func answerToDeath(client *http.Client, method, url string, header http.Header) (wrong string) {
	r, err := http.NewRequest(method, url, strings.NewReader(map[string]string{http.MethodPut: "new", http.MethodPatch: "new"}[method]))
	check(err)
	r.Header = header
	res, err := client.Do(r)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return ""
	}
	fails := res.StatusCode == http.StatusBadGateway || res.StatusCode == http.StatusPreconditionFailed
	if fails && res.Header.Get("ETag") == "" && !bytes.Contains(content, []byte(`"currentETag":"`)) {
		return ""
	}
	return fmt.Sprintf("%s, ETag %q, %d bytes", res.Status, res.Header.Get("ETag"), len(content))
}
