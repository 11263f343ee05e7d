package etag

import (
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// memoHandler is a handler that asks the memo for every body, and counts for
// how many it has to compute the tag.
func memoHandler(tb testing.TB, config Handler) (h *Handler, computed *atomic.Int64) {
	h = newHandler(tb, config)
	h.digester.memoMinimum = 1
	computed = new(atomic.Int64)
	slow := h.digester.algorithm
	h.digester.algorithm = newAlgorithm(func() hash.Hash {
		return countedHash{slow.get(), computed}
	})
	computed.Store(0)
	return h, computed
}

// countedHash counts the bodies that are hashed.
type countedHash struct {
	hash.Hash
	bodies *atomic.Int64
}

func (c countedHash) Reset() {
	c.bodies.Add(1)
	c.Hash.Reset()
}

// TestTagsFromTheMemoAreThoseOfTheHash: at the first time and the second, and
// for every way in which a body falls into blocks.
func TestTagsFromTheMemoAreThoseOfTheHash(t *testing.T) {
	with, computed := memoHandler(t, Handler{})
	without := newHandler(t, Handler{})
	without.digester.memoMinimum = 0
	for _, size := range []int{0, 1, 1000, held.BlockSize - 1, held.BlockSize, held.BlockSize + 1, 3 * held.BlockSize, 300_000} {
		next := writing(strings.Repeat("x", size), size+1)
		want := tagFor(strings.Repeat("x", size))
		require.Equal(t, want, tagOfBody(t, without, next))
		for range 2 {
			require.Equal(t, want, tagOfBody(t, with, next))
		}
	}
	require.EqualValues(t, 9, computed.Load(), "once each, but for the empty one")
}

// TestMemoKeepsFormsApart: the same bytes as JSON, as text and as neither.
func TestMemoKeepsFormsApart(t *testing.T) {
	h, computed := memoHandler(t, Handler{Strength: "weak", Canonicalize: "json", IgnorePattern: []string{"b"}})
	normalizer := normalizerWith(t, true, nil, "b")
	for _, size := range []int{100, 20 << 10, 100 << 10} {
		document := `{"b":1,"a":"` + strings.Repeat("x", size) + `"}`
		tags := map[string]string{}
		for range 3 {
			for _, contentType := range []string{"application/json", "text/plain", "image/png"} {
				w, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
					w.Header().Set("Content-Type", contentType)
					_, err := io.WriteString(w, document)
					return err
				}, http.MethodGet)
				require.NoError(t, err)
				tag := w.Header().Get("ETag")
				if tags[contentType] == "" {
					tags[contentType] = tag
				}
				require.Equal(t, tags[contentType], tag)
				require.Equal(t, `W/"`+digitsOf(t, normalizer, contentType, document)+`"`, tag)
			}
		}
		require.Len(t, map[string]bool{tags["application/json"]: true, tags["text/plain"]: true, tags["image/png"]: true}, 3)
	}
	require.EqualValues(t, 9, computed.Load(), "of 27: a tag is computed once per body")
}

func TestMemoIsForSlowHashesOnly(t *testing.T) {
	require.Zero(t, memoMinimum("xxh3"))
	require.Zero(t, memoMinimum("blake3"))
	require.Positive(t, memoMinimum("sha256"))
}

// BenchmarkHash measures the hashes that tags are made with; BenchmarkDigest
// of the memo is beside it what the memo spares.
func BenchmarkHash(b *testing.B) {
	for _, size := range []int{1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20} {
		body := make([]byte, size)
		for _, name := range algorithmNames() {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					h := algorithms[name].get()
					_, _ = h.Write(body)
					h.digest()
					algorithms[name].put(h)
				}
			})
		}
	}
}
