package etag

import (
	"context"
	"net/http"
	"time"

	"github.com/caddyetag/caddy-etag/internal/held"
	"github.com/caddyetag/caddy-etag/internal/memo"
)

// digester makes the tags of a handler's bodies.
type digester struct {
	algorithm   *algorithm
	length      int         // of the digits
	weak        bool        // the tags are
	constant    bool        // the version is, so that the memo knows whole tags
	normalizer  *normalizer // nil: bodies are hashed as they are
	memo        *memo.Memo
	memoMinimum int64 // the size in bytes of the smallest body to ask the memo for, 0: none
}

func (d *digester) tag(digits, version string) entityTag { return makeTag(digits, version, d.weak) }

// forMemo returns what the memo is to know of a body: the tag, or its digits
// where the version is another one each time.
func (d *digester) forMemo(digits string, tag entityTag) string {
	if d.constant {
		return tag.field
	}
	return digits
}

func (d *digester) fromMemo(known, version string) entityTag {
	if d.constant {
		return entityTag{known}
	}
	return d.tag(known, version)
}

// memoMinimum returns the size in bytes from which the memo's digest of a body
// is faster than its hash with an algorithm, 0 if it never is.
func memoMinimum(algorithm string) int64 {
	if algorithm != "sha256" {
		return 0
	}
	return memo.FasterThanSHA256()
}

// bodyHash finds the digits for the tag of a body that is held. It takes the
// bytes while they are still in the processor's cache, and lets the memo spare
// the body the hash where that is faster.
type bodyHash struct {
	digester *digester
	form     form
	chosen   bool
	fast     *memo.Hasher // for the memo
	hash     *hasher      // for the tag, of a body that is hashed as it is
}

// hashPiece is the size in bytes of the least that is hashed at a time. It is
// more than http.DetectContentType looks at.
const hashPiece = 4 << 10

// grew takes what has come to the body, which has this header, and of which a
// length is declared, -1 if none is.
func (b *bodyHash) grew(body *held.Body, declared int64, header http.Header) {
	fresh := body.Fresh(hashPiece)
	if len(fresh) == 0 {
		return
	}
	if !b.chosen {
		b.choose(max(declared, body.Size()), header, body.Head())
	}
	b.write(fresh)
}

// choose decides how to hash a body of about this size.
func (b *bodyHash) choose(size int64, header http.Header, head []byte) {
	d := b.digester
	b.chosen = true
	b.form = d.normalizer.formOf(header, head)
	switch {
	case b.form != formBytes:
		// Nothing is as slow as to normalize, and so any digest pays.
		if d.memo.Wanted() {
			b.fast = memo.NewHasher()
		}
	case d.memoMinimum > 0 && size >= d.memoMinimum && d.memo.Wanted():
		b.fast = memo.NewHasher()
	default:
		b.hash = d.algorithm.get()
	}
}

func (b *bodyHash) write(p []byte) {
	if b.fast != nil {
		_, _ = b.fast.Write(p) // never fails
	}
	if b.hash != nil {
		_, _ = b.hash.Write(p) // never fails
	}
}

// tag returns the tag for the whole body. One that has to be normalized may
// have to wait for that, for as long as ctx, and until a time if there is one;
// then there is an error.
func (b *bodyHash) tag(ctx context.Context, until time.Time, body *held.Body, header http.Header, version string) (entityTag, error) {
	if !b.chosen {
		b.choose(body.Size(), header, body.Head())
	}
	b.write(body.Fresh(0))
	if b.fast == nil {
		digits, err := b.compute(ctx, until, body)
		return b.digester.tag(digits, version), err
	}
	digest := b.digester.memo.Digest(b.fast, byte(b.form))
	if known, found := b.digester.memo.Get(digest); found {
		return b.digester.fromMemo(known, version), nil
	}
	digits, err := b.compute(ctx, until, body)
	if err != nil {
		return entityTag{}, err
	}
	tag := b.digester.tag(digits, version)
	b.digester.memo.Put(digest, b.digester.forMemo(digits, tag))
	return tag, nil
}

// compute returns the digits without the memo.
func (b *bodyHash) compute(ctx context.Context, until time.Time, body *held.Body) (string, error) {
	d := b.digester
	if b.form != formBytes {
		return d.normalizer.digits(ctx, until, body, b.form, d.algorithm, d.length)
	}
	if b.hash == nil {
		b.catchUp(body)
	}
	return b.hash.digits(d.length), nil
}

// catchUp hashes all of the body that has come so far for the tag.
func (b *bodyHash) catchUp(body *held.Body) {
	b.hash = b.digester.algorithm.get()
	b.hash.writeBody(body)
}

// stream goes on with the hash for the tag alone, for a body that will not be
// held to its end.
func (b *bodyHash) stream(body *held.Body) *hasher {
	if b.hash == nil {
		b.catchUp(body)
	} else {
		b.write(body.Fresh(0))
	}
	hash := b.hash
	b.hash = nil
	return hash
}

// release gives back what the hash took.
func (b *bodyHash) release() {
	if b.fast != nil {
		b.fast.Release()
		b.fast = nil
	}
	if b.hash != nil {
		b.digester.algorithm.put(b.hash)
		b.hash = nil
	}
}
