package jcs

import (
	"bytes"
	"strconv"
)

// A number is ±0.D × 10^n, where D are its digits, which neither begin nor end
// with a zero. Zero has none. Its canonical form is what ECMAScript's
// Number::toString makes of D and n, to which RFC 8785 §3.2.2.3 refers, with
// all digits that D has instead of those that tell a number of double precision
// from the next.
//
// That may be longer than what was read: 1e20 has 21 digits. So what is not
// written with the same digits and point has a compact form in out, and its
// canonical form only where out is written: D, compactMark and, if it is not 0,
// the exponent x of D × 10^x; or, if that is huge, D, compactMark twice, and
// n-1. The mark stands in the canonical form of nothing.
const compactMark = 1

// In this range of n, the canonical form has no exponent.
const (
	leastPlain = -5
	mostPlain  = 21
)

// hugeExponent is how many digits an exponent may have to be calculated with
// in 64 bits, far from where they end.
const hugeExponent = 18

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// number takes a number.
func (c *Canonicalizer) number() error {
	start := len(c.out)
	for c.more() {
		rest := c.buf[c.pos:]
		n := 0
		for n < len(rest) && (isDigit(rest[n]) || rest[n] == '.' || rest[n] == '-' || rest[n] == 'e' || rest[n] == 'E' || rest[n] == '+') {
			n++
		}
		c.out = append(c.out, rest[:n]...)
		c.pos += n
		if n < len(rest) {
			break
		}
	}
	raw := c.out[start:]
	if isPlainInteger(raw) {
		return nil
	}
	var d decimal
	if !d.parse(raw) {
		return errSyntax
	}
	c.work += int64(len(raw))
	c.put(start, &d)
	return nil
}

// isPlainInteger reports whether a text is a number of the most frequent kind,
// and in canonical form.
func isPlainInteger(text []byte) bool {
	if len(text) == 0 || len(text) > mostPlain || text[0] == '0' && len(text) > 1 {
		return false
	}
	for _, b := range text {
		if !isDigit(b) {
			return false
		}
	}
	return true
}

// decimal is a number as it was read.
type decimal struct {
	negative bool
	// the digits in front of and behind the point, without the zeros with which
	// all of them begin or end
	whole, part []byte
	point       int64  // n, if there were no exponent
	written     bool   // there is an exponent
	exponent    []byte // its digits
	below       bool   // it is negative
}

// parse takes a text apart. It reports whether that is a number.
func (d *decimal) parse(text []byte) bool {
	if len(text) > 0 && text[0] == '-' {
		d.negative = true
		text = text[1:]
	}
	d.whole, text = cutDigits(text)
	if len(d.whole) == 0 || d.whole[0] == '0' && len(d.whole) > 1 {
		return false
	}
	if len(text) > 0 && text[0] == '.' {
		if d.part, text = cutDigits(text[1:]); len(d.part) == 0 {
			return false
		}
	}
	if len(text) > 0 && (text[0] == 'e' || text[0] == 'E') {
		d.written = true
		text = text[1:]
		if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
			d.below = text[0] == '-'
			text = text[1:]
		}
		if d.exponent, text = cutDigits(text); len(d.exponent) == 0 {
			return false
		}
		d.exponent = bytes.TrimLeft(d.exponent, "0")
	}
	d.trim()
	return len(text) == 0
}

func (d *decimal) trim() {
	d.whole = bytes.TrimLeft(d.whole, "0")
	d.part = bytes.TrimRight(d.part, "0")
	d.point = int64(len(d.whole))
	if len(d.part) == 0 {
		d.whole = bytes.TrimRight(d.whole, "0")
	}
	if len(d.whole) == 0 {
		all := len(d.part)
		d.part = bytes.TrimLeft(d.part, "0")
		d.point -= int64(all - len(d.part))
	}
}

func cutDigits(text []byte) (digits, rest []byte) {
	n := 0
	for n < len(text) && isDigit(text[n]) {
		n++
	}
	return text[:n], text[n:]
}

// put writes a number in the place of the text that it was read from, which is
// what out has from start on.
func (c *Canonicalizer) put(start int, d *decimal) {
	switch {
	case len(d.whole)+len(d.part) == 0:
		c.out = append(c.out[:start], '0')
		return
	case !d.written && leastPlain <= d.point && d.point <= mostPlain:
		// It is in canonical form, but for zeros behind the point.
		if point := bytes.IndexByte(c.out[start:], '.'); point >= 0 {
			c.out = bytes.TrimRight(c.out, "0")
			c.out = bytes.TrimSuffix(c.out, []byte{'.'})
		}
		return
	}

	// The digits move to the left, to where none is that is still to be read.
	end := start
	if d.negative {
		end++ // the sign is there
	}
	end += copy(c.out[end:], d.whole)
	end += copy(c.out[end:], d.part)
	c.compact = true
	if len(d.exponent) > hugeExponent {
		c.putHuge(end, d)
		return
	}
	x := parseDigits(d.exponent)
	if d.below {
		x = -x
	}
	x += d.point - int64(len(d.whole)+len(d.part))
	c.out = append(c.out[:end], compactMark)
	if x != 0 {
		c.out = strconv.AppendInt(c.out, x, 10)
	}
}

func parseDigits(digits []byte) (n int64) {
	for _, b := range digits {
		n = 10*n + int64(b-'0')
	}
	return n
}

// putHuge writes what comes behind the digits, which end in out at end, of a
// number whose exponent is huge.
func (c *Canonicalizer) putHuge(end int, d *decimal) {
	delta := d.point - 1
	if d.below {
		delta = -delta // of the magnitude, which is far larger
	}
	from := len(c.out) - len(d.exponent)
	magnitude, carry := addTo(d.exponent, delta)
	from += len(d.exponent) - len(magnitude)

	// It may move to the right, by less than what is appended.
	c.out = append(c.out, "    "...)
	at := end + 2
	if d.below {
		at++
	}
	if carry {
		at++
	}
	size := copy(c.out[at:], c.out[from:from+len(magnitude)])
	c.out = append(c.out[:end], compactMark, compactMark)
	if d.below {
		c.out = append(c.out, '-')
	}
	if carry {
		c.out = append(c.out, '1')
	}
	c.out = c.out[:len(c.out)+size]
}

// addTo adds to a number by its digits, which it changes, and returns those of
// them that count then. It reports whether a 1 is to stand in front of them.
func addTo(digits []byte, delta int64) (sum []byte, carry bool) {
	for i := len(digits) - 1; i >= 0 && delta != 0; i-- {
		delta += int64(digits[i] - '0')
		digit := delta % 10
		delta /= 10
		if digit < 0 {
			digit += 10
			delta--
		}
		digits[i] = byte('0' + digit)
	}
	if delta > 0 {
		return digits, true
	}
	return bytes.TrimLeft(digits, "0"), false
}

// writeCompact writes the canonical form of a number with these digits, from
// what stands behind its mark. It returns how much of that belongs to it.
func (w *writer) writeCompact(digits, behind []byte) (size int) {
	huge := len(behind) > 0 && behind[0] == compactMark
	if huge {
		size++
	}
	below := size < len(behind) && behind[size] == '-'
	if below {
		size++
	}
	magnitude, _ := cutDigits(behind[size:])
	size += len(magnitude)
	if huge {
		w.writeFraction(digits)
		w.writeExponent(magnitude, below)
		return size
	}

	x := parseDigits(magnitude)
	if below {
		x = -x
	}
	k := int64(len(digits))
	switch n := k + x; {
	case k <= n && n <= mostPlain:
		w.write(digits)
		w.writeZeros(n - k)
	case 0 < n && n <= mostPlain:
		w.write(digits[:n])
		w.writeByte('.')
		w.write(digits[n:])
	case leastPlain <= n && n <= 0:
		w.writeByte('0')
		w.writeByte('.')
		w.writeZeros(-n)
		w.write(digits)
	default:
		w.writeFraction(digits)
		var text [20]byte
		w.writeExponent(strconv.AppendInt(text[:0], max(n-1, 1-n), 10), n < 1)
	}
	return size
}

// writeFraction writes digits with a point behind the first.
func (w *writer) writeFraction(digits []byte) {
	w.write(digits[:1])
	if len(digits) > 1 {
		w.writeByte('.')
		w.write(digits[1:])
	}
}

func (w *writer) writeExponent(magnitude []byte, below bool) {
	w.writeByte('e')
	if below {
		w.writeByte('-')
	} else {
		w.writeByte('+')
	}
	w.write(magnitude)
}

func (w *writer) writeZeros(n int64) {
	for range n {
		w.writeByte('0')
	}
}
