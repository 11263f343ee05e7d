package etag

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
)

// BenchmarkWrite measures a write through a real Caddy to a real upstream,
// guarded and not, and counts the requests that reach the upstream for it.
func BenchmarkWrite(b *testing.B) {
	for _, bench := range []struct {
		name    string
		options string
		fields  []string
	}{
		{"unguarded, lock off", "lock off", nil},
		{"unguarded", "", nil},
		{"guarded, write_tag off", "write_tag off", []string{"If-Match", "*"}},
		{"guarded", "", []string{"If-Match", "*"}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var requests atomic.Int64
			upstream := startUpstream(b, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				_, _ = w.Write([]byte("document"))
			})
			url := startCaddy(b, "etag {\n"+bench.options+"\n}\nreverse_proxy "+upstream)
			client := clientFor(b, "h1", nil)
			b.ResetTimer()
			for b.Loop() {
				require.Equal(b, 200, do(b, client, "PUT", url+"/doc", "document", bench.fields...).status)
			}
			b.ReportMetric(float64(requests.Load())/float64(b.N), "requests/op")
		})
	}
}

// BenchmarkLock measures to take a lock that nobody holds and to give it back.
func BenchmarkLock(b *testing.B) {
	for name, locker := range map[string]Locker{
		"local":   new(LocalLock),
		"storage": storageLock(b.TempDir()),
	} {
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			for b.Loop() {
				require.NoError(b, locker.Lock(ctx, "example.com/doc"))
				require.NoError(b, locker.Unlock(ctx, "example.com/doc"))
			}
		})
	}
}

// BenchmarkHandover measures how long it takes from when a lock is given back
// until one that waits for it has it. Two storages share nothing but their
// files, as in two processes.
func BenchmarkHandover(b *testing.B) {
	dir := b.TempDir()
	lockers := map[string][2]certmagic.Locker{
		"local":                  {new(LocalLock), new(LocalLock)},
		"storage, one process":   {storageLock(dir), storageLock(dir)},
		"storage, two processes": {&certmagic.FileStorage{Path: dir}, &certmagic.FileStorage{Path: dir}},
	}
	for name, pair := range lockers {
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			var total time.Duration
			for b.Loop() {
				require.NoError(b, pair[0].Lock(ctx, "doc"))
				taken := make(chan time.Time)
				go func() {
					_ = pair[1].Lock(ctx, "doc")
					taken <- time.Now()
				}()
				time.Sleep(rand.N(20 * time.Millisecond)) // it waits
				given := time.Now()
				require.NoError(b, pair[0].Unlock(ctx, "doc"))
				total += (<-taken).Sub(given)
				require.NoError(b, pair[1].Unlock(ctx, "doc"))
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(b.N), "ns/handover")
		})
	}
}

func storageLock(dir string) *StorageLock {
	return &StorageLock{storage: &certmagic.FileStorage{Path: dir}}
}
