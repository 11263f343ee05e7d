package etag

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
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

// change makes the body one that has not been served yet.
func (b *readBench) change() {
	binary.LittleEndian.PutUint64(b.body, binary.LittleEndian.Uint64(b.body)+1)
}

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

// TestReadTakesFewAllocations: at most four more than the chain without the
// handler.
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
		require.LessOrEqual(t, allocations(bench.tagged), bare+4, "%s, the same body", algorithm)
		require.LessOrEqual(t, allocations(func() { bench.change(); bench.tagged() }), bare+4, "%s, a new body", algorithm)
	}
}

var _ caddyhttp.Handler = (*readBench)(nil)
