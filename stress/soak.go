package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// runSoak has a mixed load on one Caddy, samples what that uses, and looks
// whether any of it grows.
func runSoak(w *world) {
	w.backend.handle("page", func(rw http.ResponseWriter, r *http.Request) {
		body := deathBody(r.URL.RawQuery + ":20000")
		sendPart(rw, r, body, len(body), len(body)%2 == 0)
	})
	w.backend.handle("large", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/octet-stream")
		block := make([]byte, 32<<10)
		for range 40 {
			if _, err := rw.Write(block); err != nil {
				return
			}
		}
	})
	w.backend.handle("events", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		for range 20 {
			fmt.Fprint(rw, "data: event\n\n")
			if http.NewResponseController(rw).Flush() != nil || r.Context().Err() != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	w.backend.handle("dies", func(rw http.ResponseWriter, r *http.Request) {
		body := deathBody("1:50000")
		sendPart(rw, r, body, len(body)/2, true)
	})
	// Connections to the backend are soon closed, or their number is what grows.
	site := fmt.Sprintf(`
	etag {
		max_size 1MiB
		remember 10s
		ranges on
	}
	reverse_proxy %s {
		transport http {
			keepalive 1s
			keepalive_idle_conns_per_host 4
		}
	}`, w.backend.address)
	c := w.startCaddy("caddy", site, "")
	before := w.sample(c)

	var background sync.WaitGroup
	background.Go(func() {
		for !w.over() {
			w.sleep(5 * time.Second)
			if err := c.reload(); err == nil {
				w.result.add("reloads", 1)
			}
		}
	})
	var sampled []series
	background.Go(func() { sampled = w.sampleUntilOver(c) })
	clients := []*http.Client{newClient(false), newClient(true)}
	load := &racing{
		world: w, entries: []string{c.address}, clients: clients,
		faults: true, rounds: 4, writers: 4, readers: 4,
		path: func(_ *rand.Rand, number int) string { return fmt.Sprintf("/soak/%d", number) },
	}
	background.Go(func() { w.each(2, load.document) })
	w.each(6, func(number int) { w.visit(c, clients, number) })
	background.Wait()

	for _, client := range clients {
		client.CloseIdleConnections()
	}
	w.judgeTrend(sampled)
	w.judgeEnd(c, before)
}

// visit is a request of the mixed load, whose client may leave in the middle.
func (w *world) visit(c *caddy, clients []*http.Client, number int) {
	random := w.random("visit", number)
	path := []string{"/page?" + fmt.Sprint(random.IntN(2000)), "/page?1", "/large", "/events", "/dies", "/none"}[random.IntN(6)]
	r, err := http.NewRequest(http.MethodGet, "http://"+c.address+path, nil)
	check(err)
	switch random.IntN(4) {
	case 0:
		r.Header.Set("If-None-Match", tagOf(deathBody("1:20000")))
	case 1:
		r.Header.Set("Range", "bytes=10-20")
	}
	res, err := clients[random.IntN(len(clients))].Do(r)
	w.result.add("visits", 1)
	if err != nil {
		return // a reload
	}
	defer res.Body.Close()
	if random.IntN(3) == 0 {
		_, _ = io.CopyN(io.Discard, res.Body, random.Int64N(10_000))
		return
	}
	_, _ = io.Copy(io.Discard, res.Body)
}

// sample returns what the Caddy uses at this time.
func (w *world) sample(c *caddy) []series {
	metrics, err := c.metrics()
	if err != nil {
		return nil
	}
	of := func(name, metric string, floor bool, allowed float64) series {
		return series{name: name, floor: floor, allowed: allowed, samples: []float64{metrics[metric]}}
	}
	return []series{
		of("goroutines", "go_goroutines", false, 40),
		of("open files", "process_open_fds", false, 40),
		of("bytes of heap", "go_memstats_heap_alloc_bytes", true, 16<<20),
		of("bytes of memory", "process_resident_memory_bytes", true, 48<<20),
		of("bytes held", "caddy_http_etag_held_bytes", true, 1<<20),
	}
}

func (w *world) sampleUntilOver(c *caddy) (sampled []series) {
	interval := min(max(w.length/400, 200*time.Millisecond), 5*time.Second)
	for !w.over() {
		w.sleep(interval)
		for i, s := range w.sample(c) {
			if i == len(sampled) {
				sampled = append(sampled, s)
				continue
			}
			sampled[i].samples = append(sampled[i].samples, s.samples...)
		}
	}
	return sampled
}

func (w *world) judgeTrend(sampled []series) {
	for _, s := range sampled {
		if len(s.samples) < minSamples {
			w.result.note("too short for a trend")
			return
		}
		trend, grows := s.grows()
		w.result.note("%s", trend)
		if grows {
			w.found("grows: %s; all samples: %.0f", trend, s.samples)
		}
	}
}

// judgeEnd looks whether what the load took is given back.
func (w *world) judgeEnd(c *caddy, before []series) {
	w.backend.awaitIdle()
	var left []string
	for range 300 {
		left = left[:0]
		for i, s := range w.sample(c) {
			now := s.samples[0]
			switch s.name {
			case "goroutines", "open files":
				if now > before[i].samples[0]+s.allowed {
					left = append(left, fmt.Sprintf("%s: %.0f, before the load %.0f", s.name, now, before[i].samples[0]))
				}
			case "bytes held":
				if now > 0 {
					left = append(left, fmt.Sprintf("%s: %.0f", s.name, now))
				}
			}
		}
		if len(left) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.found("not given back 30 seconds after the load: %s; goroutines: %s", strings.Join(left, ", "), w.saveGoroutines(c))
}

// saveGoroutines writes what the Caddy's goroutines are at to a file.
func (w *world) saveGoroutines(c *caddy) (file string) {
	res, err := adminClient.Get("http://" + c.admin + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	check(os.MkdirAll(w.out, 0o700))
	file = filepath.Join(w.out, fmt.Sprintf("%s-%d-goroutines.txt", w.result.profile, w.seed))
	check(os.WriteFile(file, text, 0o600))
	return file
}
