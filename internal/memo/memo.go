// Package memo spares bodies that come again and again the hash that makes
// their tag.
//
// A tag is computed once per body, not once per request: revalidation means
// that the same bytes come again and again. The memo knows bodies by a digest
// that is faster than the hash that makes the tag, and gives back the tag.
//
// That two bodies have one digest would mean one strong tag for both, so this
// must not happen by chance, nor by somebody who chooses bodies and sees their
// tags. The digest is HighwayHash-256 of the body, with a key that is drawn when
// the process starts. Its strength is that of a design without a known attack,
// where GMAC, half as fast, would have a proof. What that means here: neither the
// key nor a digest is ever shown. Who chooses bodies sees only whether two of
// his own have one tag, in one process, until it ends; by chance, that takes
// 2^128 bodies. Should an attack on the keyed hash be found, then it is one on
// the bodies of one process, and on nothing that is kept: the tags themselves are
// of the hash that was chosen for them.
//
// Where the processor has no vector instructions for HighwayHash, the digest is
// keyed BLAKE3 of the body: even if the key is known, nobody knows how to find two
// bodies with one digest. XXH3 with a secret seed would be twice as fast as
// HighwayHash, but its seed has 64 bits, and it was not designed against somebody
// who looks for collisions. So it is not used here, whatever it would save.
//
// The digest pays where it is faster than the hash, and only if bodies repeat.
package memo

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"

	"github.com/maypok86/otter/v2"
)

// maxEntries is how many bodies are known in the whole process. Each takes less
// than 190 bytes, so that all take less than 12 MiB.
const maxEntries = 65_536

// tags are those of all bodies that are known. A body that is asked for again
// and again stays, though many others are asked for once between: a crawler
// that reads a site again and again, in order, finds much of it here even if that
// is more than fits.
var tags = sync.OnceValue(func() *otter.Cache[Digest, string] {
	return otter.Must(&otter.Options[Digest, string]{
		MaximumSize: maxEntries,
		Executor:    func(task func()) { task() }, // no goroutines
	})
})

// Memo is the part of a handler in what is known: the tags that it makes. It
// is safe for concurrent use.
type Memo struct {
	way [sha256.Size]byte // in which the tags are made

	// Wanted says no for a while if hardly anything is ever found again.
	lookups, hits atomic.Int64
	pause         atomic.Int64 // bodies for which it does so yet
	nextPause     atomic.Int64
}

const (
	trialLookups = 256 // after which the hit rate is judged
	trialRate    = 16  // a hit in so many lookups is enough

	// How many bodies to leave the memo alone for: at first, and at the most,
	// as the pause is twice as long each time. Trials and pauses have no common
	// divisor with the bodies of a site, and so the trials come to see all of
	// them: it is found out that they are read in turn, however many they are.
	firstPause = 256
	maxPause   = 8192
)

// New returns the memo of a handler, for tags that are made in a way that the
// text tells. Handlers that make them in one way share them.
func New(way string) *Memo {
	m := &Memo{way: sha256.Sum256([]byte(way))}
	m.nextPause.Store(firstPause)
	return m
}

// Wanted reports whether to ask the memo for a body.
func (m *Memo) Wanted() bool {
	if m.pause.Load() <= 0 {
		return true
	}
	return m.pause.Add(-1) < 0
}

// Digest returns the digest of a body that is looked at in a form, whatever its
// number stands for: the same bytes in another form, or tagged in another way,
// are another body. It is valid until h is released.
func (m *Memo) Digest(h *Hasher, form byte) *Digest {
	h.digest[0] = form
	_, _ = h.hash.Write(h.digest[:1]) // never fails
	_, _ = h.hash.Write(m.way[:])
	h.hash.Sum(h.digest[:0])
	return &h.digest
}

// Get returns the tag of a body, if it is known.
func (m *Memo) Get(digest *Digest) (tag string, found bool) {
	tag, found = tags().GetIfPresent(*digest)
	if found {
		m.hits.Add(1)
	}
	if m.lookups.Add(1) == trialLookups {
		m.judge(m.hits.Swap(0))
		m.lookups.Store(0)
	}
	return tag, found
}

// judge decides by the hits of a trial whether to go on.
func (m *Memo) judge(hits int64) {
	if hits >= trialLookups/trialRate {
		m.nextPause.Store(firstPause)
		return
	}
	pause := m.nextPause.Load()
	m.nextPause.Store(min(2*pause, maxPause))
	m.pause.Store(pause)
}

// Put notes the tag of a body.
func (m *Memo) Put(digest *Digest, tag string) { tags().Set(*digest, tag) }
