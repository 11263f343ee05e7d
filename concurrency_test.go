package etag

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// race has n clients write a document, which they have read from the first of
// the sites, to the sites in turn, all at once. It returns how many the store
// let through, and asserts that these got 204 and all others 412.
//
// While Caddy reloads it may reset connections that it has not accepted yet,
// or not sent an answer on. A client tries again then, as a careful client
// does; if its write was done already, it gets a 412 for the second try.
func race(t *testing.T, s *store, client *http.Client, urls []string, n int, reloading bool) (written int) {
	t.Helper()
	send := func(method, url, body string, fields ...string) reply {
		res, err := try(client, method, url, body, fields...)
		for err != nil && reloading {
			res, err = try(client, method, url, body, fields...)
		}
		if err != nil {
			t.Error(err)
		}
		return res
	}
	before := s.changes()
	tag := send("GET", urls[0]+"/doc", "").tag()

	var mu sync.Mutex
	var passed []string // bodies
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			body := fmt.Sprintf("%d of %d, after %s", i, n, tag)
			switch res := send("PUT", urls[i%len(urls)]+"/doc", body, "If-Match", tag); res.status {
			case http.StatusNoContent:
				mu.Lock()
				defer mu.Unlock()
				passed = append(passed, body)
			case http.StatusPreconditionFailed:
			default:
				t.Errorf("got status %d: %s", res.status, res.body)
			}
		})
	}
	close(start)
	wg.Wait()
	written = s.changes() - before
	if !reloading {
		require.Len(t, passed, written)
	}
	if written == 1 && len(passed) > 0 {
		doc, _ := s.doc("/doc")
		require.Equal(t, []string{doc}, passed)
	}
	return written
}

func randomDelay() time.Duration { return rand.N(3 * time.Millisecond) }

func TestOneOfManyConcurrentWritesPasses(t *testing.T) {
	s, url, client := startStore(t, "", maps.Clone(oneDoc))
	s.delay = randomDelay
	for range 100 {
		require.Equal(t, 1, race(t, s, client, []string{url}, 50, false))
	}
	noLocks(t)
}

func TestOneOfManyConcurrentWritesPassesAcrossAReload(t *testing.T) {
	s := newStore(maps.Clone(oneDoc))
	s.delay = randomDelay
	url, config := siteAt(t, "etag\nreverse_proxy "+s.start(t))
	load(t, config)
	t.Cleanup(stopCaddy)
	client := clientFor(t, "h1", nil)
	client.Transport.(*http.Transport).DisableKeepAlives = true // a reload closes idle connections
	for i := range 100 {
		var wg sync.WaitGroup
		wg.Go(func() {
			time.Sleep(randomDelay())
			// another value, since Caddy does not reload an equal configuration
			load(t, strings.Replace(config, "grace_period 1s", fmt.Sprintf("grace_period %dms", 1000+i), 1))
		})
		require.Equal(t, 1, race(t, s, client, []string{url}, 50, true))
		wg.Wait()
	}
	eventually(t, func() bool { return localLocks.size() == 0 })
}

// TestWithoutALockSeveralWritesPass shows that it is the lock that the races
// above are won by: each write's check is done before the first write is.
func TestWithoutALockSeveralWritesPass(t *testing.T) {
	s, url, client := startStore(t, "lock off\nwrite_tag off", maps.Clone(oneDoc))
	const writers = 10
	var checks sync.WaitGroup
	checks.Add(writers)
	var reads atomic.Int32
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || reads.Add(1) == 1 { // the first is the race's own
			return false
		}
		doc, _ := s.doc(r.URL.Path)
		checks.Done()
		checks.Wait()
		_, _ = io.WriteString(w, doc)
		return true
	}
	require.Equal(t, writers, race(t, s, client, []string{url}, writers, false))
}

func TestOneOfManyWritesPassesAcrossProcesses(t *testing.T) {
	s := newStore(maps.Clone(oneDoc))
	s.delay = randomDelay
	upstream, storage := s.start(t), t.TempDir()
	a, _ := startProcess(t, storage, "lock storage 60s", upstream)
	b, _ := startProcess(t, storage, "lock storage 60s", upstream)
	client := clientFor(t, "h1", nil)
	for range 5 {
		require.Equal(t, 1, race(t, s, client, []string{a, b}, 4, false))
	}
}

func TestLockOfAKilledProcessBecomesFree(t *testing.T) {
	s := newStore(maps.Clone(oneDoc))
	upstream, storage := s.start(t), t.TempDir()
	a, process := startProcess(t, storage, "lock storage 60s", upstream)
	b, _ := startProcess(t, storage, "lock storage 60s", upstream)
	entered, release := make(chan struct{}), make(chan struct{})
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			close(entered)
			<-release
			return true
		}
		return false
	}
	go func() {
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodDelete, a+"/doc", nil)
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			res.Body.Close()
		}
	}()
	<-entered
	locks, err := filepath.Glob(filepath.Join(storage, "locks", "etag-*.lock"))
	require.NoError(t, err)
	require.Len(t, locks, 1)
	require.NoError(t, process.Process.Kill())
	close(release)

	require.Equal(t, 204, do(t, clientFor(t, "h1", nil), "PUT", b+"/doc", "two", "If-Match", oneTag).status)
}

// increment reads the counter, adds one and writes it, again after each 412.
func increment(client *http.Client, url string) error {
	for {
		read, err := try(client, "GET", url+"/counter", "")
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(read.body)
		if err != nil {
			return err
		}
		res, err := try(client, "PUT", url+"/counter", strconv.Itoa(n+1), "If-Match", read.tag())
		switch {
		case err != nil:
			return err
		case res.status == http.StatusNoContent:
			return nil
		case res.status != http.StatusPreconditionFailed:
			return fmt.Errorf("status %d: %s", res.status, res.body)
		}
	}
}

// count has one client at each site increment the counter n times.
func count(t *testing.T, s *store, urls []string, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for _, url := range urls {
		client := clientFor(t, "h1", nil)
		wg.Go(func() {
			for range n {
				if err := increment(client, url); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	counter, _ := s.doc("/counter")
	require.Equal(t, strconv.Itoa(len(urls)*n), counter)
}

func TestCounterLosesNoIncrement(t *testing.T) {
	s, url, _ := startStore(t, "", map[string]string{"/counter": "0"})
	count(t, s, []string{url, url}, 200)
}

func TestCounterLosesNoIncrementAcrossProcesses(t *testing.T) {
	s := newStore(map[string]string{"/counter": "0"})
	upstream, storage := s.start(t), t.TempDir()
	a, _ := startProcess(t, storage, "lock storage 60s", upstream)
	b, _ := startProcess(t, storage, "lock storage 60s", upstream)
	count(t, s, []string{a, b}, 5)
}

// TestMixedLoadLeavesNothingBehind runs reads, guarded writes, clients that
// leave and an upstream that dies, for half a minute, and then looks for
// goroutines and locks.
func TestMixedLoadLeavesNothingBehind(t *testing.T) {
	if testing.Short() {
		t.Skip("runs for half a minute")
	}
	// what is started once is started now
	_, url, _ := startStore(t, "", maps.Clone(oneDoc))
	get(t, url+"/doc")
	stopCaddy()
	before := runtime.NumGoroutine()

	s := newStore(maps.Clone(oneDoc))
	upstream := httptest.NewServer(s)
	defer upstream.Close()
	url = startCaddy(t, "etag\nreverse_proxy "+upstream.Listener.Addr().String())
	client := clientFor(t, "h1", nil)
	s.delay = randomDelay
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if rand.IntN(10) > 0 {
			return false
		}
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "dying")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	var wg sync.WaitGroup
	var wrote, refused atomic.Int32
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				switch status := mixedRequest(client, url+"/doc"); status {
				case http.StatusNoContent:
					wrote.Add(1)
				case http.StatusPreconditionFailed:
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.Positive(t, wrote.Load())
	require.Positive(t, refused.Load())

	client.CloseIdleConnections()
	eventually(t, func() bool { return localLocks.size() == 0 })
	stopCaddy()
	upstream.CloseClientConnections()
	noMoreGoroutines(t, before+2, client) // the store's server
}

// mixedRequest sends a read, or a read and a write by its tag, and leaves some
// of them before they are answered. It returns the last status, or 0.
func mixedRequest(client *http.Client, url string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if rand.IntN(4) == 0 {
		time.AfterFunc(rand.N(4*time.Millisecond), cancel)
	}
	send := func(method, tag string) (status int, newTag string) {
		req, _ := http.NewRequestWithContext(ctx, method, url, strings.NewReader(fmt.Sprint(rand.Int())))
		if method == http.MethodGet {
			req.Body, req.ContentLength = nil, 0
			req.Header.Set("If-None-Match", tag)
		} else {
			req.Header.Set("If-Match", tag)
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, ""
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode, res.Header.Get("ETag")
	}
	status, tag := send(http.MethodGet, `"other"`)
	if tag != "" && rand.IntN(2) == 0 {
		status, _ = send(http.MethodPut, tag)
	}
	return status
}
