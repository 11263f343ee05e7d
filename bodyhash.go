package etag

import "net/http"

// bodyHash finds the digits for the tag of a body that is held. It takes the
// body block by block, as these fill up and their bytes are still in the
// processor's cache, and lets the memo spare it the hash where that is faster.
type bodyHash struct {
	handler *Handler
	form    form
	fast    *fastHasher // for the memo
	hash    *hasher     // for the tag, of a body that is hashed as it is
	blocks  int         // how many have been taken
}

// block takes the next full block of a body with this header, of which a
// length is declared, -1 if none is.
func (b *bodyHash) block(full *block, declared int64, header http.Header) {
	if b.blocks == 0 {
		b.choose(max(declared, blockSize), header, full.bytes())
	}
	b.blocks++
	b.write(full.bytes())
}

// choose decides how to hash a body of about this size.
func (b *bodyHash) choose(size int64, header http.Header, head []byte) {
	h := b.handler
	b.form = h.normalizer.formOf(header, head)
	switch {
	case b.form != formBytes:
		// Nothing is as slow as to normalize, and so any digest pays.
		if h.memo.wanted() {
			b.fast = newFastHasher()
		}
	case h.memoMinimum > 0 && size >= h.memoMinimum && h.memo.wanted():
		b.fast = newFastHasher()
	default:
		b.hash = h.algorithm.get()
	}
}

func (b *bodyHash) write(p []byte) {
	if b.fast != nil {
		b.fast.block(p)
	}
	if b.hash != nil {
		_, _ = b.hash.Write(p) // never fails
	}
}

// digits returns the digits for the whole body.
func (b *bodyHash) digits(body *heldBody, header http.Header) string {
	if b.blocks == 0 {
		b.choose(body.size, header, body.head())
	}
	if last := body.last; last != nil && last.n < blockSize {
		b.write(last.bytes())
	}
	if b.fast == nil {
		return b.compute(body)
	}
	key := b.fast.sum(b.form)
	digits, found := b.handler.memo.get(key)
	if !found {
		digits = b.compute(body)
		b.handler.memo.put(key, digits)
	}
	return digits
}

// compute returns the digits without the memo.
func (b *bodyHash) compute(body *heldBody) string {
	h := b.handler
	if b.form != formBytes {
		return h.normalizer.digits(body, b.form, h.algorithm, h.Length)
	}
	if b.hash == nil {
		b.catchUp(body)
	}
	return b.hash.digits(h.Length)
}

// catchUp hashes all of the body that has come so far for the tag.
func (b *bodyHash) catchUp(body *heldBody) {
	b.hash = b.handler.algorithm.get()
	body.hash(b.hash)
}

// stream goes on with the hash for the tag alone, for a body that will not be
// held to its end.
func (b *bodyHash) stream(body *heldBody) *hasher {
	if b.hash == nil {
		b.catchUp(body)
	} else if last := body.last; last != nil && last.n < blockSize {
		b.write(last.bytes())
	}
	hash := b.hash
	b.hash = nil
	return hash
}

// release gives back what the hash took.
func (b *bodyHash) release() {
	if b.fast != nil {
		b.fast.putBack()
		b.fast = nil
	}
	if b.hash != nil {
		b.handler.algorithm.put(b.hash)
		b.hash = nil
	}
}
