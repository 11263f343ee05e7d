package held

import (
	"errors"
	"io"
	"iter"
	"sync"
)

// BlockSize is what a block holds at the least, in bytes: as much as
// reverse_proxy copies at a time. Larger ones are for bodies that fill them,
// since a client gets them with fewer writes: a body takes no more memory for
// that.
const BlockSize = 32 << 10

// blockClasses is the number of sizes that blocks have, each twice the one
// before. A body never has to be moved to grow.
const blockClasses = 6

// block is a piece of a body.
type block struct {
	next  *block
	n     int
	class int
	buf   []byte
}

func (b *block) bytes() []byte { return b.buf[:b.n] }

func (b *block) full() bool { return b.n == len(b.buf) }

func blockSize(class int) int64 { return BlockSize << class }

var blockPools [blockClasses]sync.Pool

func getBlock(class int) *block {
	b, ok := blockPools[class].Get().(*block)
	if !ok {
		b = &block{class: class, buf: make([]byte, blockSize(class))}
	}
	b.next, b.n = nil, 0
	return b
}

// Body is a body in memory, in pooled blocks within a budget. It is not safe
// for concurrent use.
type Body struct {
	Budget *Budget // where its memory comes from

	// Expected is the size that the body is expected to get, 0 if that is not
	// known.
	Expected int64

	first, last *block
	size        int64
	fresh       int    // begin of what Fresh has not returned, in the last block
	pinned      *block // see Pin
}

// Room returns the unused end of the last block, or nothing if the budget is
// used up. What is put there belongs to the body once Grow has been called.
func (b *Body) Room() []byte {
	if b.last == nil || b.last.full() {
		class := b.class()
		for !b.Budget.take(blockSize(class)) {
			if class == 0 {
				return nil
			}
			class = 0
		}
		next := getBlock(class)
		b.fresh = 0
		if b.last == nil {
			b.first = next
		} else {
			b.last.next = next
		}
		b.last = next
	}
	return b.last.buf[b.last.n:]
}

// class returns the size of the next block: the largest that what is still
// expected will fill.
func (b *Body) class() int {
	class := 0
	for rest := b.Expected - b.size; class < blockClasses-1 && rest >= blockSize(class+1); {
		class++
	}
	return class
}

// Grow makes n bytes of the room a part of the body.
func (b *Body) Grow(n int) {
	b.last.n += n
	b.size += int64(n)
}

// Fresh returns the bytes that it has not returned before, if there are at
// least so many, or if no more can come to the last block. It must be called
// after each Grow.
func (b *Body) Fresh(least int) []byte {
	if b.last == nil {
		return nil
	}
	fresh := b.last.buf[b.fresh:b.last.n]
	if len(fresh) < least && !b.last.full() {
		return nil
	}
	b.fresh = b.last.n
	return fresh
}

// Pin keeps the room from being used for another body while somebody reads
// into it: it may still be read into when it has left this body.
func (b *Body) Pin() { b.pinned = b.last }

// Unpin ends what Pin began.
func (b *Body) Unpin() { b.pinned = nil }

// Size returns the number of bytes.
func (b *Body) Size() int64 { return b.size }

// Head returns the first bytes, those of the first block.
func (b *Body) Head() []byte {
	if b.first == nil {
		return nil
	}
	return b.first.bytes()
}

// Contiguous returns all bytes if they are in one piece.
func (b *Body) Contiguous() (whole []byte, ok bool) {
	if b.first != b.last {
		return nil, false
	}
	return b.Head(), true
}

// Pieces iterates over the body, block by block.
func (b *Body) Pieces() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for block := b.first; block != nil && yield(block.bytes()); block = block.next {
		}
	}
}

// NewReader returns a reader for the body, which it does not empty.
func (b *Body) NewReader() io.ReadSeeker { return &reader{body: b, next: b.first} }

type reader struct {
	body   *Body
	next   *block
	read   int   // of next
	offset int64 // in the body
}

// Seek implements io.Seeker.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.body.size
	}
	if offset < 0 {
		return 0, errors.New("held: seeking before the start of a body")
	}
	r.offset = offset
	r.next, r.read = r.body.first, 0
	for ; r.next != nil && offset >= int64(r.next.n); r.next = r.next.next {
		offset -= int64(r.next.n)
	}
	if r.next != nil {
		r.read = int(offset)
	}
	return r.offset, nil
}

func (r *reader) Read(p []byte) (int, error) {
	for r.next != nil && r.read == r.next.n {
		r.next, r.read = r.next.next, 0
	}
	if r.next == nil {
		return 0, io.EOF
	}
	n := copy(p, r.next.bytes()[r.read:])
	r.read += n
	r.offset += int64(n)
	return n, nil
}

// WriteTo writes the body to w and empties it, block by block.
func (b *Body) WriteTo(w io.Writer) (written int64, err error) {
	for b.first != nil {
		n, err := w.Write(b.first.bytes())
		written += int64(n)
		if err != nil {
			b.Release()
			return written, err
		}
		b.pop()
	}
	return written, nil
}

// pop gives the first block back.
func (b *Body) pop() {
	first := b.first
	b.first = first.next
	if b.first == nil {
		b.last = nil
	}
	b.size -= int64(first.n)
	b.Budget.giveBack(blockSize(first.class))
	if first != b.pinned {
		blockPools[first.class].Put(first)
	}
}

// Release empties the body and gives its memory back.
func (b *Body) Release() {
	for b.first != nil {
		b.pop()
	}
}
