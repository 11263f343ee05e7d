package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/caddyetag/caddy-etag/stress/history"
)

// world is what a profile runs in. It ends when its time is over, or enough has
// been found.
type world struct {
	options
	ctx     context.Context
	cancel  context.CancelFunc
	dir     string // for files of the run
	binary  string // for Caddys
	start   time.Time
	result  *result
	backend *backend

	cleanups []func()
	checks   chan struct{} // as many histories are checked at a time
	checking sync.WaitGroup
}

// run runs a profile.
func run(p profile, o options, length time.Duration) *result {
	w := &world{options: o, checks: make(chan struct{}, 2)}
	w.length = length
	w.result = &result{profile: p.name}
	fmt.Fprintf(os.Stderr, "%s: %s\n", p.name, p.about)

	var err error
	w.dir, err = os.MkdirTemp("", "etag-stress-")
	check(err)
	w.cleanup(func() { os.RemoveAll(w.dir) })
	w.binary, err = os.Executable()
	check(err)
	if o.mutation != "" {
		w.binary, err = buildMutation(o.mutation, w.dir)
		check(err)
	}
	w.backend = startBackend()
	w.cleanup(w.backend.stop)
	w.start = time.Now() // a build is not a part of the run
	w.ctx, w.cancel = context.WithTimeout(context.Background(), length)
	defer w.cancel()
	p.run(w)
	w.checking.Wait()
	w.result.took = time.Since(w.start)
	for _, cleanup := range slices.Backward(w.cleanups) {
		cleanup()
	}
	return w.result
}

func (w *world) cleanup(f func()) { w.cleanups = append(w.cleanups, f) }

// over reports whether the run is to end.
func (w *world) over() bool { return w.ctx.Err() != nil }

// now is the time of the run, for histories.
func (w *world) now() int64 { return int64(time.Since(w.start)) + 1 }

// random returns numbers that follow from the seed, for a part of the run that
// these say.
func (w *world) random(part string, number int) *rand.Rand {
	var sum uint64
	for _, c := range part {
		sum = sum*131 + uint64(c)
	}
	return rand.New(rand.NewPCG(w.seed, sum<<32+uint64(number)))
}

// sleep waits, unless the run ends before.
func (w *world) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.ctx.Done():
	}
}

// each runs f for 0, 1, 2, …, some at a time, until the run is over.
func (w *world) each(atOnce int, f func(number int)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	next := 0
	for range atOnce {
		wg.Go(func() {
			for !w.over() {
				mu.Lock()
				number := next
				next++
				mu.Unlock()
				f(number)
			}
		})
	}
	wg.Wait()
}

// found notes a finding. More than a few of one run tell nothing new.
func (w *world) found(format string, args ...any) {
	if w.result.find(fmt.Sprintf(format, args...)) >= w.enough {
		w.cancel()
	}
}

// checkHistory checks what was seen of a document, in the background.
func (w *world) checkHistory(doc string, operations []history.Operation) {
	w.checks <- struct{}{}
	w.checking.Go(func() {
		defer func() { <-w.checks }()
		if len(w.result.found()) >= w.enough {
			return
		}
		w.result.add("histories", 1)
		w.result.add("operations", len(operations))
		switch history.Check(operations, 5*time.Second) {
		case history.Legal:
		case history.Undecided:
			w.result.add("undecided histories", 1)
		case history.Illegal:
			w.report(doc, operations)
		}
	})
}

// report writes a history that is illegal to a file.
func (w *world) report(doc string, operations []history.Operation) {
	check(os.MkdirAll(w.out, 0o700))
	file := filepath.Join(w.out, fmt.Sprintf("%s-%d-%s", w.result.profile, w.seed, filepath.Base(doc)))
	short, initial := history.Shrink(operations, 2*time.Second)
	check(history.Report(file, short, initial, []string{
		fmt.Sprintf("What the backend stored, in order: %s", w.backend.stored(doc)),
	}))
	w.found("no order explains what clients saw of %s: %s.txt and .html", doc, file)
}

// upTo returns a time shorter than d.
func upTo(random *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(d)))
}
