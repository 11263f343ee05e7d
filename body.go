package etag

import (
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// blockSize is what a block holds, in bytes: as much as reverse_proxy copies at
// a time. All blocks have one size, so that the pool keeps no giants and a
// body never has to be moved to grow.
const blockSize = 32 << 10

// block is a piece of a body.
type block struct {
	next *block
	n    int
	buf  *[blockSize]byte // by itself, since the allocator would round up a larger struct
}

func (b *block) bytes() []byte { return b.buf[:b.n] }

var blockPool = sync.Pool{New: func() any { return &block{buf: new([blockSize]byte)} }}

// budget is the memory that the bodies of one handler may take at one time.
type budget struct {
	limit int64 // bytes
	held  atomic.Int64
}

// take reserves the memory of a block, if there is that much left.
func (b *budget) take() bool {
	if b.held.Add(blockSize) > b.limit {
		b.held.Add(-blockSize)
		return false
	}
	heldBytes.Add(blockSize)
	return true
}

func (b *budget) giveBack() {
	b.held.Add(-blockSize)
	heldBytes.Add(-blockSize)
}

// heldBody is a body in memory, in pooled blocks within a budget.
type heldBody struct {
	budget      *budget
	first, last *block
	size        int64
	pinned      *block // somebody reads into it, who may still do so when it has left the body
}

// room returns the unused end of the last block, or nothing if the budget is
// used up. What is put there belongs to the body once grow has been called.
func (b *heldBody) room() []byte {
	if b.last == nil || b.last.n == blockSize {
		if !b.budget.take() {
			return nil
		}
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

// grow makes n bytes of the room a part of the body. It returns the last block
// if that is full now.
func (b *heldBody) grow(n int) (full *block) {
	b.last.n += n
	b.size += int64(n)
	if b.last.n == blockSize {
		return b.last
	}
	return nil
}

// head returns the first bytes of the body, at most a block.
func (b *heldBody) head() []byte {
	if b.first == nil {
		return nil
	}
	return b.first.bytes()
}

// contiguous returns the body if it is in one piece, else a reader for it.
func (b *heldBody) contiguous() ([]byte, io.Reader) {
	if b.first == b.last {
		return b.head(), nil
	}
	return nil, &bodyReader{next: b.first}
}

// hash writes the body to a hash, which never fails, and keeps it.
func (b *heldBody) hash(to hash.Hash) {
	for block := b.first; block != nil; block = block.next {
		_, _ = to.Write(block.bytes())
	}
}

// bodyReader reads a body without emptying it.
type bodyReader struct {
	next *block
	read int // of next
}

func (r *bodyReader) Read(p []byte) (int, error) {
	for r.next != nil && r.read == r.next.n {
		r.next, r.read = r.next.next, 0
	}
	if r.next == nil {
		return 0, io.EOF
	}
	n := copy(p, r.next.bytes()[r.read:])
	r.read += n
	return n, nil
}

// writeTo writes the body to w and empties it, block by block.
func (b *heldBody) writeTo(w io.Writer) error {
	for b.first != nil {
		if _, err := w.Write(b.first.bytes()); err != nil {
			b.release()
			return err
		}
		b.pop()
	}
	return nil
}

// pop gives the first block back.
func (b *heldBody) pop() {
	first := b.first
	b.first = first.next
	if b.first == nil {
		b.last = nil
	}
	b.size -= int64(first.n)
	if first != b.pinned {
		blockPool.Put(first)
	}
	b.budget.giveBack()
}

// release empties the body.
func (b *heldBody) release() {
	for b.first != nil {
		b.pop()
	}
}
