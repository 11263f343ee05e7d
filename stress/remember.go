package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyetag/caddy-etag/stress/history"
)

// runRemember has many reads that can be answered from memory, among writes that
// make what is remembered wrong. Documents are written by guarded methods, or by
// POST, which is not guarded but changes them all the same.
func runRemember(w *world) {
	w.backend.jitter = 3 * time.Millisecond
	var site strings.Builder
	for name, duration := range map[string]string{"long": "10m", "brief": "30ms", "posted": "10m"} {
		fmt.Fprintf(&site, `
	handle /%s/* {
		etag {
			remember %s
		}
		reverse_proxy %s
	}`, name, duration, w.backend.address)
	}
	c := w.startCaddy("caddy", site.String(), "")

	var background sync.WaitGroup
	background.Go(func() { w.reloadNowAndThen(c) })
	background.Go(func() { w.forgetNowAndThen(c) })
	load := &racing{
		world: w, entries: []string{c.address}, clients: []*http.Client{newClient(false), newClient(true)},
		faults: true, rounds: 6, writers: 3, readers: 12,
		path: func(random *rand.Rand, number int) string {
			return fmt.Sprintf("/%s/%d", []string{"long", "brief", "posted"}[random.IntN(3)], number)
		},
		adjust: func(random *rand.Rand, path string, req *request) {
			switch {
			case req.op.Kind == history.Read && random.IntN(8) > 0:
				req.plan = plan{} // a field that differs makes another question
			case req.op.Kind != history.Read && strings.HasPrefix(path, "/posted/"):
				req.op = history.Operation{Kind: history.Write, Client: req.op.Client}
				req.method, req.expects = http.MethodPost, false
			}
		},
	}
	w.each(8, load.document)
	background.Wait()
	if !w.found304s() {
		w.found("no read was answered from memory")
	}
}

func (w *world) found304s() bool { return w.result.figure("304 from memory") > 0 }

// forgetNowAndThen has all that is remembered be forgotten, which nobody may
// notice.
func (w *world) forgetNowAndThen(c *caddy) {
	random := w.random("forget", 0)
	for !w.over() {
		w.sleep(200*time.Millisecond + upTo(random, time.Second))
		res, err := adminClient.Post("http://"+c.admin+"/etag/forget", "application/json", nil)
		if err != nil {
			continue
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNoContent {
			w.found("POST /etag/forget is answered with %s", res.Status)
		}
	}
}
