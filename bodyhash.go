package etag

// bodyHash finds the digits for the tag of a body that is held. It takes the
// body block by block, as these fill up and their bytes are still in the
// processor's cache, and lets the memo spare it the hash where that is faster.
type bodyHash struct {
	handler *Handler
	fast    *fastHasher // for the memo
	hash    *hasher     // for the tag
	blocks  int         // how many have been taken
}

// block takes the next full block of a body of which a length is declared, -1
// if none is.
func (b *bodyHash) block(full *block, declared int64) {
	if b.blocks == 0 {
		b.choose(max(declared, blockSize))
	}
	b.blocks++
	b.write(full.bytes())
}

// choose decides how to hash a body of about this size.
func (b *bodyHash) choose(size int64) {
	h := b.handler
	if h.memoMinimum > 0 && size >= h.memoMinimum && h.memo.wanted() {
		b.fast = fastPool.Get().(*fastHasher)
		b.fast.Reset()
		return
	}
	b.hash = h.algorithm.get()
}

func (b *bodyHash) write(p []byte) {
	if b.fast != nil {
		_, _ = b.fast.Write(p) // never fails
	}
	if b.hash != nil {
		_, _ = b.hash.Write(p) // never fails
	}
}

// digits returns the digits for the whole body.
func (b *bodyHash) digits(body *heldBody) string {
	if b.blocks == 0 {
		b.choose(body.size)
	}
	if last := body.last; last != nil && last.n < blockSize {
		b.write(last.bytes())
	}
	if b.fast == nil {
		return b.hash.digits(b.handler.Length)
	}
	key := b.fast.sum()
	digits, found := b.handler.memo.get(key)
	if !found {
		b.catchUp(body)
		digits = b.hash.digits(b.handler.Length)
		b.handler.memo.put(key, digits)
	}
	return digits
}

// catchUp hashes all of the body that has come so far for the tag.
func (b *bodyHash) catchUp(body *heldBody) {
	b.hash = b.handler.algorithm.get()
	for block := body.first; block != nil; block = block.next {
		_, _ = b.hash.Write(block.bytes())
	}
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
		fastPool.Put(b.fast)
		b.fast = nil
	}
	if b.hash != nil {
		b.handler.algorithm.put(b.hash)
		b.hash = nil
	}
}
