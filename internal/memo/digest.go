package memo

import (
	"crypto/rand"
	"hash"
	"runtime"
	"sync"

	"github.com/klauspost/cpuid/v2"
	"github.com/minio/highwayhash"
	"github.com/zeebo/blake3"
)

// hasHighwayHash and hasSHA256 tell whether the processor has instructions for
// these.
var (
	hasHighwayHash = cpuid.CPU.Supports(cpuid.AVX2) || cpuid.CPU.Supports(cpuid.SSE4) || cpuid.CPU.Supports(cpuid.ASIMD) ||
		runtime.GOARCH == "ppc64le"
	hasSHA256 = cpuid.CPU.Supports(cpuid.SHA) || cpuid.CPU.Supports(cpuid.SHA2)
)

// FasterThanSHA256 returns the size in bytes from which the digest of a body
// takes less time than its SHA-256.
func FasterThanSHA256() int64 {
	if hasSHA256 && !hasHighwayHash {
		return 16 << 10 // BLAKE3 gets fast with the size
	}
	return 1 << 10
}

// Digest is what the memo knows a body by.
type Digest [32]byte

// Hasher makes the digest of one body.
type Hasher struct {
	hash   hash.Hash
	digest Digest
}

var hasherPool = sync.Pool{New: func() any { return makeHasher() }}

func makeHasher() *Hasher {
	if hasHighwayHash {
		keyed, err := highwayhash.New(key())
		if err != nil {
			panic(err) // the key has the right length
		}
		return &Hasher{hash: keyed}
	}
	keyed, err := blake3.NewKeyed(key())
	if err != nil {
		panic(err)
	}
	return &Hasher{hash: keyed}
}

// NewHasher returns a hasher from the pool that has seen nothing yet.
func NewHasher() *Hasher {
	h := hasherPool.Get().(*Hasher)
	h.hash.Reset()
	return h
}

// Release puts the hasher back into the pool.
func (h *Hasher) Release() { hasherPool.Put(h) }

// key is drawn once in the life of the process.
var key = sync.OnceValue(func() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return key
})

// Write takes the next bytes of a body. It never fails.
func (h *Hasher) Write(p []byte) (int, error) { return h.hash.Write(p) }
