package etag

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
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
		{"guarded, by a tag", "", []string{"If-Match", tagFor("document")}},
		{"guarded, with Expect", "", []string{"If-Match", tagFor("document"), "Expect", "100-continue"}},
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
		"storage": newStorageLock(b.TempDir()),
	} {
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			for b.Loop() {
				lock, err := locker.Lock(ctx, "example.com/doc")
				require.NoError(b, err)
				require.NoError(b, lock.Unlock(ctx))
			}
		})
	}
}

// BenchmarkLockAmongMany measures to take a lock and to give it back while as
// many others are held.
func BenchmarkLockAmongMany(b *testing.B) {
	for _, others := range []int{0, 100_000} {
		b.Run(strconv.Itoa(others), func(b *testing.B) {
			table, ctx := new(lockTable), context.Background()
			for i := range others {
				table.take(b, "other"+strconv.Itoa(i), false)
			}
			b.ResetTimer()
			for b.Loop() {
				lock, err := table.lock(ctx, "doc", false)
				require.NoError(b, err)
				require.NoError(b, lock.Unlock(ctx))
			}
		})
	}
}

// BenchmarkWaitersThatLeave measures what each of many that wait for a lock
// costs when all leave at one time.
func BenchmarkWaitersThatLeave(b *testing.B) {
	for _, waiters := range []int{1_000, 10_000, 40_000} {
		b.Run(strconv.Itoa(waiters), func(b *testing.B) {
			table := new(lockTable)
			held := table.take(b, "doc", false)
			for b.Loop() {
				b.StopTimer()
				ctx, leave := context.WithCancel(context.Background())
				var gone sync.WaitGroup
				for range waiters {
					gone.Go(func() { _, _ = table.lock(ctx, "doc", false) })
				}
				table.await(b, "doc", waiters)
				b.StartTimer()
				leave()
				gone.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(waiters), "ns/waiter")
			unlock(b, held)
		})
	}
}

// BenchmarkHandover measures how long it takes from when a lock is given back
// until one that waits for it has it. Two storages share nothing but their
// files, as in two processes.
func BenchmarkHandover(b *testing.B) {
	dir := b.TempDir()
	lockers := map[string][2]Locker{
		"local":                  {new(LocalLock), new(LocalLock)},
		"storage, one process":   {newStorageLock(dir), newStorageLock(dir)},
		"storage, two processes": {otherProcess(dir), otherProcess(dir)},
	}
	for name, pair := range lockers {
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			var total time.Duration
			for b.Loop() {
				first, err := pair[0].Lock(ctx, "doc")
				require.NoError(b, err)
				taken := make(chan Lock)
				go func() {
					lock, _ := pair[1].Lock(ctx, "doc")
					taken <- lock
				}()
				time.Sleep(rand.N(20 * time.Millisecond)) // it waits
				given := time.Now()
				require.NoError(b, first.Unlock(ctx))
				second := <-taken
				total += time.Since(given)
				require.NoError(b, second.Unlock(ctx))
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(b.N), "ns/handover")
		})
	}
}

func newStorageLock(dir string) *StorageLock {
	return &StorageLock{storage: &certmagic.FileStorage{Path: dir}}
}

// otherProcess is a locker that shares nothing but its files with others.
type otherProcess string

func (dir otherProcess) Lock(ctx context.Context, key string) (Lock, error) {
	storage := &certmagic.FileStorage{Path: string(dir)}
	queued, _ := new(lockTable).lock(ctx, key, false)
	return &storageLock{storage: storage, name: key, queued: queued}, storage.Lock(ctx, key)
}
