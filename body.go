package etag

import (
	"io"
	"sync"
)

// blockSize is as much as reverse_proxy copies at a time.
const blockSize = 32 << 10

// block is a piece of a body. All blocks have one size, so that the pool keeps
// no giants and a body never has to be moved to grow.
type block struct {
	next *block
	n    int
	buf  [blockSize]byte
}

var blockPool = sync.Pool{New: func() any { return new(block) }}

// heldBody is a body in memory, in pooled blocks. The zero value is empty.
type heldBody struct {
	first, last *block
	size        int64
}

// room returns the unused end of the last block, which is never empty. What
// is put there belongs to the body once grow has been called.
func (b *heldBody) room() []byte {
	if b.last == nil || b.last.n == blockSize {
		next := blockPool.Get().(*block)
		next.next, next.n = nil, 0
		if b.last == nil {
			b.first = next
		} else {
			b.last.next = next
		}
		b.last = next
	}
	return b.last.buf[b.last.n:]
}

func (b *heldBody) grow(n int) {
	b.last.n += n
	b.size += int64(n)
}

// Write appends p. It never fails.
func (b *heldBody) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := copy(b.room(), rest)
		b.grow(n)
		rest = rest[n:]
	}
	return len(p), nil
}

// head returns the first bytes of the body, at most a block.
func (b *heldBody) head() []byte {
	if b.first == nil {
		return nil
	}
	return b.first.buf[:b.first.n]
}

// WriteTo writes the body to w and empties it, block by block.
func (b *heldBody) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for b.first != nil {
		n, err := w.Write(b.first.buf[:b.first.n])
		written += int64(n)
		if err != nil {
			b.release()
			return written, err
		}
		b.pop()
	}
	return written, nil
}

// pop gives the first block back to the pool.
func (b *heldBody) pop() {
	first := b.first
	b.first = first.next
	if b.first == nil {
		b.last = nil
	}
	b.size -= int64(first.n)
	blockPool.Put(first)
}

// release empties the body.
func (b *heldBody) release() {
	for b.first != nil {
		b.pop()
	}
}
