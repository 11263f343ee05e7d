package etag

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"hash"
	"runtime"
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
// That two bodies have one digest would mean one strong tag for both, so this
// must not happen by chance nor by an attacker who chooses bodies and sees
// tags. The digest is SHA-256 of the GMACs (NIST SP 800-38D) of the body's
// blocks, with a key that is drawn when the process starts. Neither the key
// nor a GMAC is ever shown, and so whoever chooses the bodies knows nothing of
// the key: for any two different blocks, of at most 32 KiB, the probability
// over the keys that their GMACs are equal is less than 2^-116, since they are
// values of two different polynomials of a degree of at most 2049 over a field
// of 2^128 elements. With 4096 bodies known, a body is taken for another one
// with a probability of less than 2^-104. (That all GMACs have one nonce would
// matter if they were shown.) Two lists of GMACs with one SHA-256 are not
// known.
//
// Where the processor has no instructions for GMAC, the digest is keyed BLAKE3
// of the body, which is half as fast where both are: even if the key is known,
// nobody knows how to find two bodies with one digest. XXH3 with a secret seed
// would be nine times as fast as GMAC, but nothing proves that it is hard to
// find two bodies with one digest: its seed has 64 bits, and it was not
// designed for that. So it is not used here, whatever it would save.
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

// hasGMAC and hasSHA256 tell whether the processor has instructions for these.
var (
	hasGMAC = cpuid.CPU.Supports(cpuid.AESNI, cpuid.CLMUL) || cpuid.CPU.Supports(cpuid.AESARM, cpuid.PMULL) ||
		runtime.GOARCH == "s390x"
	hasSHA256 = cpuid.CPU.Supports(cpuid.SHA) || cpuid.CPU.Supports(cpuid.SHA2)
)

// memoMinimum returns the size in bytes from which a body's digest is faster
// than its hash with an algorithm, 0 if it never is.
func memoMinimum(algorithm string) int64 {
	switch {
	case algorithm != "sha256":
		return 0
	case hasSHA256 && !hasGMAC:
		return 16 << 10 // BLAKE3 gets fast with the size
	default:
		return 1 << 10
	}
}

// fastHasher is the running digest of one body.
type fastHasher struct {
	hash.Hash             // of the GMACs, or of the body
	gmac      cipher.AEAD // nil if there is none
	key       memoKey
}

var fastPool = sync.Pool{New: func() any { return makeFastHasher() }}

func makeFastHasher() *fastHasher {
	if gmac := memoGMAC(); gmac != nil {
		return &fastHasher{Hash: sha256.New(), gmac: gmac}
	}
	hasher, err := blake3.NewKeyed(memoSecret())
	if err != nil {
		panic(err) // the key has the right length
	}
	return &fastHasher{Hash: hasher}
}

func newFastHasher() *fastHasher {
	h := fastPool.Get().(*fastHasher)
	h.Reset()
	return h
}

func (h *fastHasher) putBack() { fastPool.Put(h) }

// memoSecret is the key of the process.
var memoSecret = sync.OnceValue(func() []byte {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return secret
})

// memoGMAC returns GMAC with the key of the process. It is nil if the
// processor has no instructions for it, or if Go runs in its FIPS 140 mode,
// which does not let a nonce be chosen.
func memoGMAC() cipher.AEAD {
	if !hasGMAC {
		return nil
	}
	block, err := aes.NewCipher(memoSecret())
	if err != nil {
		return nil
	}
	gmac, err := cipher.NewGCM(block)
	if err != nil {
		return nil
	}
	return gmac
}

var memoNonce [12]byte

// block takes the next block of a body. All but the last one are full.
func (h *fastHasher) block(p []byte) {
	if h.gmac != nil {
		p = h.gmac.Seal(h.key[:0], memoNonce[:], nil, p) //nolint:gosec // nothing is encrypted, nor shown; see memo
	}
	_, _ = h.Write(p) // never fails
}

// sum returns the digest of a body that is looked at in a form. It is valid
// until h is put back.
func (h *fastHasher) sum(as form) *memoKey {
	h.key[0] = byte(as)
	_, _ = h.Write(h.key[:1]) // never fails
	h.Sum(h.key[:0])
	return &h.key
}
