package etag

import (
	"crypto/rand"
	"crypto/sha256"
	"hash"
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

// blake3Minimum is the size in bytes from which a body's BLAKE3 digest is
// faster than its SHA-256. BLAKE3 gets fast with the size, and SHA-256 is fast
// on processors that have instructions for it.
var blake3Minimum = func() int64 {
	if cpuid.CPU.Supports(cpuid.SHA) || cpuid.CPU.Supports(cpuid.SHA2) {
		return 16 << 10
	}
	return 1 << 10
}()

// memoMinimum returns the size in bytes from which a body's digest is faster
// than its hash with an algorithm, 0 if it never is.
func memoMinimum(algorithm string) int64 {
	if algorithm != "sha256" {
		return 0
	}
	return blake3Minimum
}

// fastHasher is the running digest of one body.
type fastHasher struct {
	hash.Hash
	pool *sync.Pool
	key  memoKey
}

var (
	largePool = sync.Pool{New: func() any {
		hasher, err := blake3.NewKeyed(memoSecret())
		if err != nil {
			panic(err) // the key has the right length
		}
		return &fastHasher{Hash: hasher}
	}}
	smallPool = sync.Pool{New: func() any { return &fastHasher{Hash: sha256.New()} }}
)

// newFastHasher returns what digests a body of about this size the fastest:
// keyed BLAKE3, or for a small one SHA-256, in which no two different bodies
// with one digest are known either.
func newFastHasher(size int64) *fastHasher {
	pool := &largePool
	if size < blake3Minimum {
		pool = &smallPool
	}
	h := pool.Get().(*fastHasher)
	h.pool = pool
	h.Reset()
	return h
}

func (h *fastHasher) putBack() { h.pool.Put(h) }

// memoSecret is the key of the process.
var memoSecret = sync.OnceValue(func() []byte {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return secret
})

// sum returns the digest of a body that is looked at in a form. It is valid
// until h is put back.
func (h *fastHasher) sum(as form) *memoKey {
	h.key[0] = byte(as)
	_, _ = h.Write(h.key[:1]) // never fails
	h.Sum(h.key[:0])
	return &h.key
}
