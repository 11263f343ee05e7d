package etag

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
)

// memoHandler is a handler that asks the memo for every body.
func memoHandler(tb testing.TB, config Handler) *Handler {
	h := newHandler(tb, config)
	h.memoMinimum = 1
	return h
}

// tagOf returns the tag that h gives a body.
func tagOf(tb testing.TB, h *Handler, body []byte) string {
	tb.Helper()
	w, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
		_, err := w.Write(body)
		return err
	}, http.MethodGet)
	require.NoError(tb, err)
	return w.Header().Get("ETag")
}

// TestTagsFromTheMemoAreThoseOfTheHash: at the first time and the second, and
// for every way in which a body falls into blocks.
func TestTagsFromTheMemoAreThoseOfTheHash(t *testing.T) {
	with, without := memoHandler(t, Handler{}), newHandler(t, Handler{})
	without.memoMinimum = 0
	for _, size := range []int{0, 1, 1000, blockSize - 1, blockSize, blockSize + 1, 3 * blockSize, 300_000} {
		body := bytes.Repeat([]byte("x"), size)
		want := tagFor(string(body))
		require.Equal(t, want, tagOf(t, without, body))
		for range 2 {
			require.Equal(t, want, tagOf(t, with, body))
		}
	}
	require.EqualValues(t, 7, with.memo.hits.Load(), "all but the empty one")
}

func TestMemoIsBounded(t *testing.T) {
	m := new(memo)
	keyOf := func(i int) *memoKey {
		var key memoKey
		binary.BigEndian.PutUint64(key[:], uint64(i)*0x9e3779b97f4a7c15)
		return &key
	}
	const bodies = 10 * memoEntries
	for i := range bodies {
		m.put(keyOf(i), fmt.Sprint(i))
		m.put(keyOf(i), "the first one stays")
	}
	var entries int
	for i := range m.shards {
		require.Len(t, m.shards[i].digits, len(m.shards[i].ring))
		entries += len(m.shards[i].ring)
	}
	require.LessOrEqual(t, entries, memoEntries)
	digits, found := m.get(keyOf(bodies - 1))
	require.True(t, found, "the newest are kept")
	require.Equal(t, fmt.Sprint(bodies-1), digits)
	_, found = m.get(keyOf(0))
	require.False(t, found, "the oldest are forgotten")
}

// TestMemoIsLeftAloneWhereBodiesNeverRepeat: nor is it given up for good.
func TestMemoIsLeftAloneWhereBodiesNeverRepeat(t *testing.T) {
	h := memoHandler(t, Handler{})
	body := make([]byte, 100)
	unique := func(i int) []byte {
		binary.BigEndian.PutUint64(body, uint64(i))
		return body
	}
	for i := range memoTrial {
		tagOf(t, h, unique(i))
	}
	for i := range memoPause {
		tagOf(t, h, unique(memoTrial+i))
	}
	require.Zero(t, h.memo.lookups.Load(), "not asked once in the pause")

	for range memoTrial - 1 {
		tagOf(t, h, []byte("it repeats now"))
	}
	require.EqualValues(t, memoTrial-1, h.memo.lookups.Load(), "it is asked again")
	require.EqualValues(t, memoTrial-2, h.memo.hits.Load())
}

// TestMemoWithoutInstructionsForIt gives the same tags.
func TestMemoWithoutInstructionsForIt(t *testing.T) {
	had := hasGMAC
	defer func() { hasGMAC = had }()
	for _, has := range []bool{true, false} {
		hasGMAC = has
		fast := makeFastHasher()
		require.Equal(t, memoGMAC() != nil, fast.gmac != nil)
		require.True(t, has || fast.gmac == nil)
		other := makeFastHasher()
		seen := make(map[memoKey]string)
		for _, body := range []string{"", "a", "b", "aa", strings.Repeat("a", 16), strings.Repeat("a", 17), pattern(blockSize), pattern(blockSize) + "a", pattern(3 * blockSize)} {
			for _, as := range []form{formBytes, formText, formJSON} {
				key := digestOf(fast, body, as)
				require.Equal(t, key, digestOf(other, body, as))
				require.NotContains(t, seen, key, "%d bytes", len(body))
				seen[key] = body
			}
		}
	}
}

// digestOf returns the digest of a body.
func digestOf(h *fastHasher, body string, as form) memoKey {
	h.Reset()
	for block := range slices.Chunk([]byte(body), blockSize) {
		h.block(block)
	}
	return *h.sum(as)
}

func TestMemoIsForSlowHashesOnly(t *testing.T) {
	require.Zero(t, memoMinimum("xxh3"))
	require.Zero(t, memoMinimum("blake3"))
	require.Positive(t, memoMinimum("sha256"))
}

// BenchmarkMemo compares the digest that the memo knows bodies by with the
// hash that it spares, and with what a faster digest would give.
func BenchmarkMemo(b *testing.B) {
	for _, size := range []int{1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20} {
		body := make([]byte, size)
		keyed, err := blake3.NewKeyed(memoSecret())
		require.NoError(b, err)
		without := &fastHasher{Hash: keyed}
		digests := map[string]func() io.Writer{
			"memo": func() io.Writer { return newFastHasher() },
			"memo without GMAC": func() io.Writer {
				without.Reset()
				return without
			},
		}
		for _, name := range algorithmNames() {
			digests[name] = func() io.Writer { return algorithms[name].get() }
		}
		for name, digest := range digests {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					switch h := digest().(type) {
					case *fastHasher:
						for block := range slices.Chunk(body, blockSize) {
							h.block(block)
						}
						h.sum(formBytes)
						if h != without {
							h.putBack()
						}
					case *hasher:
						_, _ = h.Write(body)
						h.digest()
						algorithms[name].put(h)
					}
				}
			})
		}
	}
}
