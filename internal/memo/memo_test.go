package memo

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
)

// digestNumber returns one of many digests.
func digestNumber(i int) *Digest {
	var digest Digest
	binary.BigEndian.PutUint64(digest[:], uint64(i)*0x9e3779b97f4a7c15)
	return &digest
}

// TestMemoIsBounded, in the number of bodies and in memory.
func TestMemoIsBounded(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	forgetAll()
	before := heap()
	m := New("")
	for i := range 2 * maxEntries {
		m.Put(digestNumber(i), strings.Clone(`"0123456789abcdef0123456789abcdef"`))
	}
	tags().CleanUp()
	require.LessOrEqual(t, tags().EstimatedSize(), maxEntries)
	require.Greater(t, tags().EstimatedSize(), maxEntries*9/10)
	memory := heap() - before
	t.Logf("%d bytes an entry", memory/maxEntries)
	require.LessOrEqual(t, memory, uint64(12<<20))
}

// forgetAll makes what other tests have put there leave the memo.
func forgetAll() {
	tags().InvalidateAll()
	tags().CleanUp()
}

// TestMemoIsLeftAloneWhereBodiesNeverRepeat, for longer each time; nor is it
// given up for good.
func TestMemoIsLeftAloneWhereBodiesNeverRepeat(t *testing.T) {
	forgetAll()
	m := New("")
	next := 0
	trial := func(body func() int) (asked int) {
		for asked < trialLookups && m.Wanted() {
			asked++
			if digest := digestNumber(body()); !known(m, digest) {
				m.Put(digest, "tag")
			}
		}
		return asked
	}
	fresh := func() int { next++; return next }
	for _, pause := range []int{256, 512, 1024, 2048, 4096, 8192, 8192} {
		require.Equal(t, trialLookups, trial(fresh))
		for range pause {
			require.False(t, m.Wanted())
		}
	}
	repeated := func() int { return -1 } // now
	for range 10 {
		require.Equal(t, trialLookups, trial(repeated))
	}
	require.Equal(t, trialLookups, trial(fresh))
	for range firstPause {
		require.False(t, m.Wanted(), "the pauses start anew")
	}
	require.True(t, m.Wanted())
}

func known(m *Memo, digest *Digest) bool {
	_, found := m.Get(digest)
	return found
}

// TestHitRates of what sites are asked for, once they have been asked for long
// enough.
func TestHitRates(t *testing.T) {
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, 999_999)
	for _, tt := range []struct {
		name  string
		body  func(i int) int
		warm  int
		least float64
	}{
		{"1,000 in turn", func(i int) int { return i % 1000 }, 20_000, .9},
		{"10,000 in turn", func(i int) int { return i % 10_000 }, 100_000, .9},
		{"100,000 in turn", func(i int) int { return i % 100_000 }, 1_500_000, .5},
		{"Zipf 1.1 over 1,000,000", func(int) int { return int(zipf.Uint64()) }, 300_000, .8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forgetAll()
			m := New(tt.name)
			hits, bodies := 0, 300_000
			if raceDetector && tt.warm > 100_000 {
				t.Skip("it takes long with the race detector, which has nothing to find here")
			}
			for i := range tt.warm + bodies {
				if !m.Wanted() {
					continue
				}
				digest := digestNumber(tt.body(i))
				switch {
				case !known(m, digest):
					m.Put(digest, "tag")
				case i >= tt.warm:
					hits++
				}
			}
			rate := float64(hits) / float64(bodies)
			t.Logf("%.3f", rate)
			require.GreaterOrEqual(t, rate, tt.least)
		})
	}
}

// TestHandlersThatMakeTagsInOneWayShareThem, and no others.
func TestHandlersThatMakeTagsInOneWayShareThem(t *testing.T) {
	digest := func(way string, form byte) Digest {
		h := NewHasher()
		defer h.Release()
		_, _ = h.Write([]byte("body"))
		return *New(way).Digest(h, form)
	}
	require.Equal(t, digest("a", 0), digest(strings.ToLower("A"), 0))
	require.NotEqual(t, digest("a", 0), digest("b", 0))
	require.NotEqual(t, digest("a", 0), digest("a", 1))
}

// TestDigestsAreOfBodiesAndForms, with and without the instructions for
// HighwayHash: two of one body in one form are equal, wherever the body is cut,
// and all others differ.
func TestDigestsAreOfBodiesAndForms(t *testing.T) {
	had := hasHighwayHash
	defer func() { hasHighwayHash = had }()
	pattern := func(n int) string {
		bytes := make([]byte, n)
		for i := range bytes {
			bytes[i] = byte(i % 251)
		}
		return string(bytes)
	}
	for _, has := range []bool{true, false} {
		hasHighwayHash = has
		one, other := makeHasher(), makeHasher()
		seen := make(map[Digest]string)
		for _, body := range []string{"", "a", "b", "aa", strings.Repeat("a", 16), strings.Repeat("a", 17), strings.Repeat("a", 33), pattern(32 << 10), pattern(32<<10) + "a", pattern(96 << 10)} {
			for form := range byte(3) {
				digest := digestOf(one, body, form, 32<<10)
				require.Equal(t, digest, digestOf(other, body, form, 1000))
				require.NotContains(t, seen, digest, "%d bytes", len(body))
				seen[digest] = body
			}
		}
	}
}

// TestDigestDependsOnTheKey, which is another one in each process.
func TestDigestDependsOnTheKey(t *testing.T) {
	had := key
	defer func() { key = had }()
	first := digestOf(makeHasher(), "body", 0, 10)
	key = func() []byte { return make([]byte, 32) }
	require.NotEqual(t, first, digestOf(makeHasher(), "body", 0, 10))
}

// digestOf returns the digest of a body that comes in pieces of a size.
func digestOf(h *Hasher, body string, form byte, size int) Digest {
	h.hash.Reset()
	for piece := range slices.Chunk([]byte(body), size) {
		_, _ = h.Write(piece)
	}
	return *New("").Digest(h, form)
}

// TestHashersFromThePoolHaveSeenNothing of what came before.
func TestHashersFromThePoolHaveSeenNothing(t *testing.T) {
	var first Digest
	for i := range 10 {
		h := NewHasher()
		_, _ = h.Write([]byte("body"))
		digest := *New("").Digest(h, 0)
		if i == 0 {
			first = digest
		}
		require.Equal(t, first, digest)
		_, _ = h.Write([]byte("more"))
		h.Release()
	}
}

// BenchmarkDigest measures the digest that the memo knows bodies by.
func BenchmarkDigest(b *testing.B) {
	keyed, err := blake3.NewKeyed(key())
	require.NoError(b, err)
	m := New("")
	for name, h := range map[string]*Hasher{"default": makeHasher(), "without HighwayHash": {hash: keyed}} {
		for _, size := range []int{1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20} {
			body := make([]byte, size)
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					h.hash.Reset()
					for piece := range slices.Chunk(body, 32<<10) {
						_, _ = h.Write(piece)
					}
					m.Digest(h, 0)
				}
			})
		}
	}
}
