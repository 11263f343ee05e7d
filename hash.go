package etag

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/zeebo/blake3"
	"github.com/zeebo/xxh3"

	"github.com/caddyetag/caddy-etag/internal/held"
)

const (
	defaultAlgorithm = "sha256"
	defaultLength    = 32 // hex digits
	minLength        = 16 // hex digits: 64 bits
)

// algorithm is a hash function that tags can be made with.
type algorithm struct {
	digits int // hex digits of a full digest
	pool   sync.Pool
}

func newAlgorithm(newHash func() hash.Hash) *algorithm {
	return &algorithm{
		digits: 2 * newHash().Size(),
		pool:   sync.Pool{New: func() any { return &hasher{Hash: newHash()} }},
	}
}

var algorithms = map[string]*algorithm{
	"sha256": newAlgorithm(sha256.New),
	"blake3": newAlgorithm(func() hash.Hash { return blake3.New() }),
	"xxh3":   newAlgorithm(func() hash.Hash { return xxh128{xxh3.New()} }),
}

func algorithmNames() []string {
	return slices.Sorted(maps.Keys(algorithms))
}

// get returns a hasher that has seen nothing yet. It goes back with put.
func (a *algorithm) get() *hasher {
	h := a.pool.Get().(*hasher)
	h.Reset()
	return h
}

func (a *algorithm) put(h *hasher) { a.pool.Put(h) }

// hasher is the running hash of one body.
type hasher struct {
	hash.Hash
	sum [sha256.Size]byte // room for the longest digest, so that Sum allocates nothing
}

// writeBody hashes a body, which stays as it is.
func (h *hasher) writeBody(body *held.Body) {
	for piece := range body.Pieces() {
		_, _ = h.Write(piece) // never fails
	}
}

// xxh128 is XXH3-128 as a hash.Hash; its digest is in the canonical form,
// which is big-endian on every machine.
type xxh128 struct{ *xxh3.Hasher }

func (xxh128) Size() int { return 16 }

func (x xxh128) Sum(b []byte) []byte {
	sum := x.Sum128().Bytes()
	return append(b, sum[:]...)
}

// digest returns the digest of what has been written to h so far, which is
// valid until the next call.
func (h *hasher) digest() []byte { return h.Sum(h.sum[:0]) }

// digits returns the hexadecimal digits for the tag of a body that has been
// written to h in full.
func (h *hasher) digits(n int) string { return hexDigits(h.digest(), n) }

func hexDigits(digest []byte, n int) string {
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], digest)
	return string(text[:n])
}

// invertedDigits returns the digits with all bits inverted.
func (h *hasher) invertedDigits(n int) string {
	digest := h.digest()
	for i := range digest {
		digest[i] = ^digest[i]
	}
	return hexDigits(digest, n)
}

// makeTag joins the parts of a tag.
func makeTag(digits, version string, weak bool) entityTag {
	var b strings.Builder
	b.Grow(len(weakPrefix) + len(version) + len(`"-"`) + len(digits))
	if weak {
		b.WriteString(weakPrefix)
	}
	b.WriteByte('"')
	if version != "" {
		b.WriteString(version)
		b.WriteByte('-')
	}
	b.WriteString(digits)
	b.WriteByte('"')
	return entityTag{b.String()}
}

// keepETagc drops from s what can't stand in a tag.
func keepETagc(s string) string {
	for i := range len(s) {
		if !isETagc(s[i]) {
			kept := make([]byte, 0, len(s))
			for _, c := range []byte(s) {
				if isETagc(c) {
					kept = append(kept, c)
				}
			}
			return string(kept)
		}
	}
	return s
}
