package etag

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// readBench is a chain to measure: a handler that writes a body as
// reverse_proxy does, with a length and 32 KiB at a time, to a client that
// takes no time.
type readBench struct {
	handler   *Handler
	body      []byte
	mediaType []string
	length    []string
	copy      []byte // where a body is copied to
	header    http.Header
	request   *http.Request
	algorithm *algorithm
}

var _ caddyhttp.Handler = (*readBench)(nil)

func newReadBench(tb testing.TB, algorithm string, size int) *readBench {
	return &readBench{
		handler:   newHandler(tb, Handler{Algorithm: algorithm}),
		body:      []byte(pattern(size)),
		mediaType: []string{"application/octet-stream"},
		length:    []string{strconv.Itoa(size)},
		copy:      make([]byte, size),
		header:    make(http.Header),
		request:   httptest.NewRequest(http.MethodGet, "/", nil),
		algorithm: algorithms[algorithm],
	}
}

// ServeHTTP is the end of the chain.
func (b *readBench) ServeHTTP(w http.ResponseWriter, _ *http.Request) error {
	w.Header()["Content-Type"] = b.mediaType
	w.Header()["Content-Length"] = b.length
	for piece := range slices.Chunk(b.body, 32<<10) {
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// bare serves a response without the handler.
func (b *readBench) bare() {
	clear(b.header)
	_ = b.ServeHTTP(discardWriter{b.header}, b.request)
}

// hashAndCopy does what the handler can't do without.
func (b *readBench) hashAndCopy() {
	h := b.algorithm.get()
	_, _ = h.Write(b.body)
	_ = h.digest()
	b.algorithm.put(h)
	copy(b.copy, b.body)
}

// tagged serves a response with the handler.
func (b *readBench) tagged() {
	clear(b.header)
	_ = b.handler.ServeHTTP(discardWriter{b.header}, b.request, b)
}

// change makes the body one that has not been served yet, by no handler: the
// memo is that of the process.
func (b *readBench) change() { binary.LittleEndian.PutUint64(b.body, changed.Add(1)) }

var changed atomic.Uint64

// notModified makes the request one that is answered with a 304.
func (b *readBench) notModified(tb testing.TB) {
	tb.Helper()
	b.tagged()
	b.request.Header["If-None-Match"] = slices.Clone(b.header["Etag"])
	require.NotEmpty(tb, b.request.Header["If-None-Match"])
}

// eachRead runs a benchmark for each algorithm and some sizes.
func eachRead(b *testing.B, run func(b *testing.B, newBench func() *readBench)) {
	for _, algorithm := range algorithmNames() {
		for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", algorithm, size>>10), func(b *testing.B) {
				run(b, func() *readBench { return newReadBench(b, algorithm, size) })
			})
		}
	}
}

// BenchmarkRead measures the handler beside the same chain without it, and
// beside hash and copy of the same bytes alone. A new body is one that the
// handler has not seen before; the same body is what revalidation brings.
func BenchmarkRead(b *testing.B) {
	eachRead(b, func(b *testing.B, newBench func() *readBench) {
		for _, measured := range []struct {
			name string
			f    func(bench *readBench)
		}{
			{"bare", (*readBench).bare},
			{"hash+copy", (*readBench).hashAndCopy},
			{"200,new", func(bench *readBench) { bench.change(); bench.tagged() }},
			{"200,same", (*readBench).tagged},
			{"304,same", (*readBench).tagged},
		} {
			b.Run(measured.name, func(b *testing.B) {
				bench := newBench() // whose handler remembers no other body
				if measured.name == "304,same" {
					bench.notModified(b)
				}
				b.SetBytes(int64(len(bench.body)))
				b.ReportAllocs()
				for b.Loop() {
					measured.f(bench)
				}
			})
		}
	})
}

// BenchmarkReadRatio measures the three in turn, so that all have the same
// machine, and reports the time with the handler to that of the others
// together. At 64 KiB it is to be 1.15 at the most for a new body.
func BenchmarkReadRatio(b *testing.B) {
	eachRead(b, func(b *testing.B, newBench func() *readBench) {
		for _, name := range []string{"new", "same"} {
			b.Run(name, func(b *testing.B) {
				bench := newBench()
				const turns = 16 // of each, so that the clock costs nothing
				var with, without time.Duration
				measure := func(total *time.Duration, f func()) {
					start := time.Now()
					for range turns {
						f()
					}
					*total += time.Since(start)
				}
				for b.Loop() {
					measure(&with, func() {
						if name == "new" {
							bench.change()
						}
						bench.tagged()
					})
					measure(&without, bench.bare)
					measure(&without, bench.hashAndCopy)
				}
				b.ReportMetric(float64(with)/float64(without), "ratio")
				b.ReportMetric(0, "ns/op")
			})
		}
	})
}

// BenchmarkColdRead measures the handler as a server calls it: after much else,
// which has taken the processor's caches. Beside that it is measured warm, in
// turn with the other.
func BenchmarkColdRead(b *testing.B) {
	other := make([]byte, 4<<20) // more than a processor has caches of its own for
	for _, kind := range []string{"200", "304"} {
		b.Run(kind, func(b *testing.B) {
			bench := newReadBench(b, "sha256", 1<<10)
			if kind == "304" {
				bench.notModified(b)
			}
			var cold, warm []time.Duration
			measure := func(times *[]time.Duration) {
				start := time.Now()
				bench.tagged()
				*times = append(*times, time.Since(start))
			}
			for b.Loop() {
				for i := 0; i < len(other); i += 64 {
					other[i]++
				}
				measure(&cold)
				for range 3 {
					bench.tagged()
				}
				measure(&warm)
			}
			slices.Sort(cold)
			slices.Sort(warm)
			b.ReportMetric(float64(cold[len(cold)/2]), "cold-ns")
			b.ReportMetric(float64(warm[len(warm)/2]), "warm-ns")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkMemoOfNewBodies reports what the memo costs where no body comes again:
// the time with it to that without, in turn. It is to be less than 1.03. A run
// must be long enough for the memo to be tried again, which is once in some 8,000
// bodies.
func BenchmarkMemoOfNewBodies(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			with, without := newReadBench(b, "sha256", size), newReadBench(b, "sha256", size)
			without.handler.digester.memoMinimum = 0
			small := newReadBench(b, "sha256", 1<<10)
			small.handler = with.handler
			for range 20_000 { // until the memo is left alone for as long as it can be
				small.change()
				small.tagged()
			}
			var times [2]time.Duration
			for b.Loop() {
				for i, bench := range []*readBench{with, without} {
					start := time.Now()
					for range 16 {
						bench.change()
						bench.tagged()
					}
					times[i] += time.Since(start)
				}
			}
			b.ReportMetric(float64(times[0])/float64(times[1]), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// TestReadTakesFewAllocations: at most four more than the chain without the
// handler, and one for a body that the memo has not seen before.
func TestReadTakesFewAllocations(t *testing.T) {
	for _, algorithm := range algorithmNames() {
		bench := newReadBench(t, algorithm, 64<<10)
		allocations := func(f func()) float64 {
			// The least of many runs is one in which no pool was emptied; with
			// the race detector, pools drop some of what they get.
			least := testing.AllocsPerRun(1, f)
			for range 100 {
				least = min(least, testing.AllocsPerRun(1, f))
			}
			return least
		}
		bare := allocations(bench.bare)
		full := allocations(bench.tagged)
		require.LessOrEqual(t, full, bare+4, "%s, the same body", algorithm)
		require.LessOrEqual(t, allocations(func() { bench.change(); bench.tagged() }), bare+5, "%s, a new body", algorithm)
		bench.notModified(t)
		require.LessOrEqual(t, allocations(bench.tagged), full+2, "%s, a 304", algorithm)
	}
}

// BenchmarkHeldMemory reports what concurrent responses hold, in all and over
// the size of their bodies, when all have come to their last byte and none has
// been sent.
func BenchmarkHeldMemory(b *testing.B) {
	const size = 1 << 20
	for _, concurrent := range []int{1, 100, 1000} {
		b.Run(strconv.Itoa(concurrent), func(b *testing.B) {
			chain := newReadBench(b, "sha256", size)
			h := newHandler(b, Handler{MaxDelay: noDelay})
			var held int64
			for b.Loop() {
				var complete, done sync.WaitGroup
				complete.Add(concurrent)
				release := make(chan struct{})
				wait := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
					err := chain.ServeHTTP(w, r)
					complete.Done()
					<-release
					return err
				})
				for range concurrent {
					done.Go(func() {
						r := httptest.NewRequest(http.MethodGet, "/", nil)
						_ = h.ServeHTTP(discardWriter{make(http.Header)}, r, wait)
					})
				}
				complete.Wait()
				held = h.budget.Held()
				close(release)
				done.Wait()
			}
			require.LessOrEqual(b, held, h.MaxMemory)
			b.ReportMetric(float64(held)/(1<<20), "held-MiB")
			b.ReportMetric(float64(held)/float64(concurrent*size), "held/bodies")
		})
	}
}
