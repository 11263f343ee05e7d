package etag

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

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
				held = h.budget.held.Load()
				close(release)
				done.Wait()
			}
			require.LessOrEqual(b, held, h.MaxMemory)
			b.ReportMetric(float64(held)/(1<<20), "held-MiB")
			b.ReportMetric(float64(held)/float64(concurrent*size), "held/bodies")
		})
	}
}
