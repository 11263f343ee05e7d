package etag

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// This file has what more than one test compares with, or waits for.

// tagFor returns the tag that a body gets by default.
func tagFor(body string) string {
	sum := sha256.Sum256([]byte(body))
	return fmt.Sprintf(`"%x"`, sum[:16])
}

// opaque returns the digits in a tag.
func opaque(tag string) string { return strings.Trim(tag, `"`) }

// withSuffix returns a tag as encode makes it.
func withSuffix(tag, suffix string) string {
	return strings.TrimSuffix(tag, `"`) + suffix + `"`
}

func withoutDate(header http.Header) http.Header {
	header = header.Clone()
	header.Del("Date")
	return header
}

// readLines returns the lines of a file, without the empty one at its end.
func readLines(tb testing.TB, file string) []string {
	tb.Helper()
	text, err := os.ReadFile(file)
	require.NoError(tb, err)
	return strings.Split(strings.TrimRight(string(text), "\n"), "\n")
}

// eventually waits until a condition holds that another goroutine brings
// about. The limit is for a condition that never does.
func eventually(tb testing.TB, condition func() bool) {
	tb.Helper()
	for range 10_000 {
		if condition() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	require.FailNow(tb, "the condition never came to hold")
}

// noMoreGoroutines waits until there are at most n goroutines. A connection of
// the client that is given up may become idle at any time, and is closed then.
func noMoreGoroutines(t *testing.T, n int, client *http.Client) {
	t.Helper()
	for range 60_000 {
		if runtime.NumGoroutine() <= n {
			return
		}
		client.CloseIdleConnections()
		time.Sleep(time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Fatalf("there are %d goroutines, more than %d:\n%s", runtime.NumGoroutine(), n, stacks[:runtime.Stack(stacks, true)])
}

// noLocks asserts that nobody holds a lock of this process.
func noLocks(tb testing.TB) {
	tb.Helper()
	require.Zero(tb, localLocks.size())
	require.Zero(tb, storageQueue.size())
}

// size returns how many keys are locked.
func (t *lockTable) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.locks)
}
