package etag

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
)

// entriesOf fills a memory with answers as a site has them, and returns the
// bytes that one takes, all in.
func entriesOf(tb testing.TB, entries int) float64 {
	tb.Helper()
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	h := newHandler(tb, Handler{Remember: caddy.Duration(time.Hour), RememberEntries: entries})
	header := http.Header{
		"Etag":          {`"7692c3ad3540bb803c020b3aee66cd88"`},
		"Cache-Control": {"private, max-age=0, must-revalidate"},
		"Vary":          {"Accept-Encoding, Origin"},
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for i := range entries {
		r.URL.Path = fmt.Sprintf("/documents/%d", i)
		q, ok := h.newQuestion(r)
		require.True(tb, ok)
		h.memory.validators.Set(q.key, newValidator(&q, responseTag(header), true, header))
	}
	h.memory.validators.CleanUp()
	perEntry := float64(heap()-before) / float64(h.memory.validators.EstimatedSize())
	runtime.KeepAlive(h)
	return perEntry
}

// TestEntryIsSmall: what is remembered of an answer takes less than 400 bytes.
func TestEntryIsSmall(t *testing.T) {
	perEntry := entriesOf(t, 50_000)
	t.Logf("%.0f bytes", perEntry)
	require.Less(t, perEntry, 400.0)
}

func BenchmarkEntries(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(entriesOf(b, 1_000_000), "B/entry")
	}
}

// BenchmarkRemembered compares a 304 from memory with one that a handler
// further down sends.
func BenchmarkRemembered(b *testing.B) {
	r := httptest.NewRequest(http.MethodGet, "/documents/1?page=2", nil)
	addFields(r.Header, fields{
		"If-None-Match", oneTag, "Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
		"Accept-Encoding", "gzip, deflate, br, zstd", "Accept-Language", "en-US,en;q=0.5", "Connection", "keep-alive",
		"Cookie", "session=0123456789abcdef0123456789abcdef", "User-Agent", "Mozilla/5.0", "Sec-Fetch-Dest", "document",
	})
	h := newHandler(b, Handler{Remember: caddy.Duration(time.Hour)})
	w := discardWriter{http.Header{}}
	require.NoError(b, h.ServeHTTP(w, r, writing("one", 3)))
	b.Run("from memory", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			clear(w.header)
			_ = h.ServeHTTP(w, r, nil)
		}
	})
	b.Run("question", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			h.newQuestion(r)
		}
	})
	b.Run("forget", func(b *testing.B) {
		c := h.newChange(w, r)
		b.ReportAllocs()
		for b.Loop() {
			c.forget()
		}
	})
}
