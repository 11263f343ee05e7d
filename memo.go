package etag

import (
	"crypto/rand"
	"sync"
	"sync/atomic"

	"github.com/klauspost/cpuid/v2"
	"github.com/zeebo/blake3"
)

// A tag is computed once per body, not once per request: revalidation means
// that the same bytes come again and again. The memo knows bodies by a digest
// that is faster than the hash that makes the tag, and gives back the tag's
// digits.
//
// The digest is keyed BLAKE3, of 256 bits. That it has a collision would mean
// one strong tag for two different bodies, so this must not happen by chance
// nor by an attacker who chooses bodies and sees tags. By chance, two of 2^64
// bodies have one digest with a probability of 2^-129. For an attacker, BLAKE3
// is collision resistant even if the key is known, and the key, drawn when the
// process starts, is never shown, nor is a digest. XXH3 with a secret seed is
// ten times as fast, but nothing proves that it is hard to find two bodies
// with one digest for a seed that is not known: its seed has 64 bits, and it
// was not designed for that. So it is not used here, whatever it would save.
//
// The digest pays where it is faster than the hash, and only if bodies repeat.
type memo struct {
	shards [memoShards]memoShard

	// The handler stops asking the memo for a while if hardly anything in it
	// is ever found again.
	lookups, hits atomic.Int64
	pause         atomic.Int64 // bodies for which the memo is not asked yet
}

const (
	memoShards  = 16
	memoEntries = 4096 // of all shards, each less than 200 bytes

	memoTrial = 256  // lookups after which the hit rate is judged
	memoRate  = 16   // a hit in so many lookups is enough
	memoPause = 4096 // bodies to leave the memo alone for
)

type memoKey [32]byte

type memoShard struct {
	mu     sync.Mutex
	digits map[memoKey]string
	ring   []memoKey // in the order of their coming, to forget the oldest
	oldest int
}

// wanted reports whether to ask the memo for a body.
func (m *memo) wanted() bool {
	if m.pause.Load() <= 0 {
		return true
	}
	return m.pause.Add(-1) < 0
}

// get returns the digits for a body, if they are known.
func (m *memo) get(key *memoKey) (string, bool) {
	shard := &m.shards[key[0]%memoShards]
	shard.mu.Lock()
	digits, found := shard.digits[*key]
	shard.mu.Unlock()

	if found {
		m.hits.Add(1)
	}
	if m.lookups.Add(1) == memoTrial {
		if m.hits.Swap(0) < memoTrial/memoRate {
			m.pause.Store(memoPause)
		}
		m.lookups.Store(0)
	}
	return digits, found
}

// put notes the digits for a body.
func (m *memo) put(key *memoKey, digits string) {
	const perShard = memoEntries / memoShards
	shard := &m.shards[key[0]%memoShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.digits == nil {
		shard.digits = make(map[memoKey]string)
	}
	if _, found := shard.digits[*key]; found {
		return
	}
	if len(shard.ring) < perShard {
		shard.ring = append(shard.ring, *key)
	} else {
		delete(shard.digits, shard.ring[shard.oldest])
		shard.ring[shard.oldest] = *key
		shard.oldest = (shard.oldest + 1) % perShard
	}
	shard.digits[*key] = digits
}

// memoMinimum returns the size in bytes from which a body's digest is faster
// than its hash with an algorithm, 0 if it never is. BLAKE3 gets fast with the
// size, and SHA-256 is fast on processors that have instructions for it.
func memoMinimum(algorithm string) int64 {
	switch {
	case algorithm != "sha256":
		return 0
	case cpuid.CPU.Supports(cpuid.SHA) || cpuid.CPU.Supports(cpuid.SHA2):
		return 16 << 10
	default:
		return 1 << 10
	}
}

// fastHasher is the running digest of one body.
type fastHasher struct {
	*blake3.Hasher
	key memoKey
}

var fastPool = sync.Pool{New: func() any {
	hasher, err := blake3.NewKeyed(memoSecret())
	if err != nil {
		panic(err) // the key has the right length
	}
	return &fastHasher{Hasher: hasher}
}}

// memoSecret is the key of the process.
var memoSecret = sync.OnceValue(func() []byte {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return secret
})

// sum returns the digest. It is valid until h goes back to the pool.
func (h *fastHasher) sum() *memoKey {
	h.Sum(h.key[:0])
	return &h.key
}
