package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/caddyetag/caddy-etag/stress/history"
)

// racing is a load of rounds in which clients write to one document with one
// tag, while others read it.
type racing struct {
	*world
	entries []string       // addresses of Caddys, of which each request takes any
	clients []*http.Client // one for each protocol
	faults  bool
	name    string // under which rounds are counted too, if any
	rare    bool   // faults that take seconds are injected
	rounds  int    // for each document
	writers int    // in a round, at most
	pause   time.Duration
	readers int                                // in a round, at most
	path    func(*rand.Rand, int) string       // of a document
	adjust  func(*rand.Rand, string, *request) // makes a request one of the profile's
}

// runWrites has two handlers in one Caddy: in one a proxy's timeout ends what
// takes too long, in the other the hold time does.
func runWrites(w *world) {
	lock := w.lock
	if lock == "" {
		lock = "local"
	}
	options, held := "", ""
	if lock != "off" {
		options, held = "10s 1m", "10s 2s"
	}
	site := fmt.Sprintf(`
	handle /timeout/* {
		etag {
			lock %[2]s %[3]s
		}
		reverse_proxy %[1]s {
			transport http {
				response_header_timeout 2s
			}
		}
	}
	handle {
		etag {
			lock %[2]s %[4]s
		}
		reverse_proxy %[1]s {
			flush_interval -1
			transport http {
				keepalive off
			}
		}
	}`, w.backend.address, lock, options, held)
	c := w.startCaddy("caddy", site, "")

	var background sync.WaitGroup
	background.Go(func() { w.reloadNowAndThen(c) })
	load := &racing{
		world: w, entries: []string{c.address}, clients: []*http.Client{newClient(false), newClient(true)},
		faults: true, rare: true, rounds: 4, writers: 8, readers: 3,
		path: func(random *rand.Rand, number int) string {
			return fmt.Sprintf("/%s/%d", []string{"timeout", "hold"}[random.IntN(2)], number)
		},
	}
	w.each(12, load.document)
	background.Wait()
}

func (w *world) reloadNowAndThen(c *caddy) {
	random := w.random("reload", 0)
	for !w.over() {
		w.sleep(200*time.Millisecond + upTo(random, time.Second))
		if err := c.reload(); err == nil {
			w.result.add("reloads", 1)
		}
	}
}

// document has one document's history made, and checked.
func (l *racing) document(number int) {
	random := l.random("document", number)
	path := l.path(random, number)
	var mu sync.Mutex
	var operations []history.Operation
	known := []string{""}
	ids := make(map[int]string)
	sent := 0
	start := func(wg *sync.WaitGroup, req request) {
		sent++
		client, id := sent, fmt.Sprintf("%d of %s", sent, path)
		req.op.Client, req.path, req.id = client, path, id
		req.address = l.entries[random.IntN(len(l.entries))]
		if l.adjust != nil {
			l.adjust(random, path, &req)
		}
		by := l.clients[random.IntN(len(l.clients))]
		if req.op.Kind == history.Write {
			req.body = newBody(random, id)
			if random.IntN(16) == 0 && l.faults {
				req.cutAt = 1 + random.IntN(len(req.body))
			}
		}
		wait := upTo(random, 2*time.Millisecond)
		wg.Go(func() {
			time.Sleep(wait)
			op := l.send(by, req)
			mu.Lock()
			defer mu.Unlock()
			ids[len(operations)] = id
			operations = append(operations, op)
			l.tally(op)
		})
	}

	for range l.rounds {
		if l.over() {
			break
		}
		// What is current is read first, by a client that stays.
		var wg sync.WaitGroup
		start(&wg, request{op: history.Operation{Kind: history.Read, IfNoneMatch: known[len(known)-1]}})
		wg.Wait()
		mu.Lock()
		last := operations[len(operations)-1]
		mu.Unlock()
		current := last.Tag
		if last.Status == 0 {
			continue // a reload has reset the connection
		}
		if current != "" {
			known = append(known, current)
		}

		for range 2 + random.IntN(l.writers-1) {
			start(&wg, l.newWrite(random, current, known[random.IntN(len(known))]))
		}
		for range random.IntN(l.readers + 1) {
			start(&wg, l.newRead(random, known[random.IntN(len(known))]))
		}
		wg.Wait()
		l.result.add("rounds", 1)
		if l.name != "" {
			l.result.add("rounds with "+l.name, 1)
		}
		l.sleep(l.pause)
	}
	var wg sync.WaitGroup
	start(&wg, request{op: history.Operation{Kind: history.Read}})
	wg.Wait()

	for i := range operations {
		operations[i].Late = operations[i].Late || l.backend.wasSlow(path, ids[i])
	}
	l.checkHistory(path, operations)
	if len(l.result.found()) == 0 && number%64 == 0 {
		l.backend.forgetBefore(path, number-1000)
	}
}

// tally counts the answers.
func (l *racing) tally(op history.Operation) {
	switch {
	case op.Kind == history.Read && op.Remembered:
		l.result.add("304 from memory", 1)
	case op.Kind == history.Read:
		l.result.add("reads", 1)
	case op.Status == 0:
		l.result.add("writes without an answer", 1)
	case op.Status == history.Refused:
		l.result.add("writes refused with 503", 1)
	case op.Status < 300:
		l.result.add("writes that passed", 1)
	case op.Status >= 500:
		l.result.add("writes with a 5xx", 1)
	default:
		l.result.add("writes refused", 1)
	}
}

// newWrite makes a write: most of them say that they replace what is current.
func (l *racing) newWrite(random *rand.Rand, current, known string) request {
	op := history.Operation{Kind: history.Write, IfMatch: current}
	if current == "" {
		op.IfNoneMatch = "*"
	}
	switch random.IntN(24) {
	case 0: // a tag that may be stale
		op.IfMatch, op.IfNoneMatch = known, ""
	case 1:
		op.IfMatch, op.IfNoneMatch = "", ""
	case 2:
		op.IfMatch, op.IfNoneMatch = "*", ""
	case 3:
		op.Kind = history.Delete
		op.IfNoneMatch = ""
	case 4:
		op.IfMatch, op.IfNoneMatch = "", "*"
	}
	req := request{op: op, expects: random.IntN(16) == 0, unsized: random.IntN(8) == 0}
	req.plan = plan{Before: upTo(random, 3*time.Millisecond), After: upTo(random, time.Millisecond), Looking: upTo(random, time.Millisecond)}
	if random.IntN(3) == 0 {
		req.plan.Chunked = true
	}
	if !l.faults {
		return req
	}
	if random.IntN(3) == 0 {
		req.leaveAt = 1 + upTo(random, 12*time.Millisecond)
	}
	if random.IntN(6) == 0 {
		req.plan.Write = []string{"502", "die", "cut", "stored502", "storedDie", "storedCut"}[random.IntN(6)]
	}
	if random.IntN(16) == 0 {
		req.plan.Get, req.plan.At = []string{"502", "die"}[random.IntN(2)], random.Float64()
	}
	if l.rare && random.IntN(600) == 0 {
		switch random.IntN(3) {
		case 0:
			req.plan.Get = "hang"
		default:
			req.plan.Write, req.plan.Before = "", 2200*time.Millisecond+upTo(random, 400*time.Millisecond)
		}
	}
	return req
}

// newRead makes a read, with a tag that may be current or not.
func (l *racing) newRead(random *rand.Rand, known string) request {
	req := request{op: history.Operation{Kind: history.Read}}
	if random.IntN(4) > 0 {
		req.op.IfNoneMatch = known
	}
	req.plan = plan{Looking: upTo(random, time.Millisecond), Showing: upTo(random, time.Millisecond), Chunked: random.IntN(3) == 0}
	if l.faults && random.IntN(8) == 0 {
		req.plan.Get, req.plan.At = []string{"502", "die"}[random.IntN(2)], random.Float64()
	}
	if l.faults && random.IntN(6) == 0 {
		req.leaveAt = 1 + upTo(random, 4*time.Millisecond)
	}
	return req
}
