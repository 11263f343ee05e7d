package jcs

import (
	"bytes"
	"io"
)

// WriteTo writes the canonical form to w. It spares the copy that Bytes may
// have to make.
func (c *Canonicalizer) WriteTo(w io.Writer) (written int64, err error) {
	if c.isPlain() {
		n, err := w.Write(c.out)
		return int64(n), err
	}
	to := writer{w: w, buf: buffer(c.scratch, 4<<10)}
	c.write(&to)
	to.flush()
	c.scratch = to.buf
	return to.written, to.err
}

// Bytes returns the canonical form, which is valid until c is used again.
func (c *Canonicalizer) Bytes() []byte {
	if c.isPlain() {
		return c.out
	}
	to := writer{buf: buffer(c.scratch, len(c.out))}
	c.write(&to)
	c.scratch = to.buf
	return c.scratch
}

// isPlain reports whether out is the canonical form.
func (c *Canonicalizer) isPlain() bool { return !c.compact && len(c.program.cuts) == 0 }

// writer collects small pieces for another writer, or all if there is none.
type writer struct {
	w       io.Writer
	buf     []byte
	written int64
	err     error
}

func (w *writer) write(p []byte) {
	if w.w != nil && len(w.buf)+len(p) > cap(w.buf) {
		w.flush()
		if len(p) > cap(w.buf)/2 {
			w.pass(p)
			return
		}
	}
	w.buf = append(w.buf, p...)
}

func (w *writer) writeByte(b byte) {
	if w.w != nil && len(w.buf) == cap(w.buf) {
		w.flush()
	}
	w.buf = append(w.buf, b)
}

func (w *writer) flush() {
	w.pass(w.buf)
	w.buf = w.buf[:0]
}

func (w *writer) pass(p []byte) {
	if w.err == nil {
		var n int
		n, w.err = w.w.Write(p)
		w.written += int64(n)
	}
}

// write writes out as the program has it.
func (c *Canonicalizer) write(to *writer) {
	p := &c.program
	begin := len(p.steps)
	p.read(0, offset(len(c.out)), p.cuts)
	p.steps[len(p.steps)-1].end |= marked
	p.calls = p.calls[:0]
	for at := offset(begin); ; {
		step := p.steps[at]
		at++
		if step.end == stepCall {
			p.calls = append(p.calls, at)
			at = step.start
			continue
		}
		if step.start >= marked {
			to.writeByte(',')
		}
		c.writePart(to, c.out[step.start&^marked:step.end&^marked])
		if step.end < marked {
			continue
		}
		if len(p.calls) == 0 {
			break
		}
		at = p.calls[len(p.calls)-1]
		p.calls = p.calls[:len(p.calls)-1]
	}
	p.steps = p.steps[:begin]
}

// writePart writes a part of out, with those numbers in their canonical form
// that have another one there.
func (c *Canonicalizer) writePart(to *writer, part []byte) {
	for c.compact {
		mark := bytes.IndexByte(part, compactMark)
		if mark < 0 {
			break
		}
		begin := mark
		for begin > 0 && isDigit(part[begin-1]) {
			begin--
		}
		to.write(part[:begin])
		size := to.writeCompact(part[begin:mark], part[mark+1:])
		c.work += int64(mark - begin + size)
		part = part[mark+1+size:]
	}
	to.write(part)
}
