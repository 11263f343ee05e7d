package jcs

import (
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// input is a document to be read, of which a part is in memory.
type input struct {
	buf []byte
	pos int // of the next byte in buf

	reader io.Reader // of what comes behind buf, nil if nothing does
	chunk  []byte    // buf, if there is a reader
	err    error     // of the reader
}

func (in *input) use(document []byte, r io.Reader) {
	in.buf, in.pos, in.reader, in.err = document, 0, r, nil
	if r != nil && in.chunk == nil {
		in.chunk = make([]byte, readSize)
	}
}

// release lets go of the document.
func (in *input) release() { in.buf, in.reader, in.err = nil, nil, nil }

// fill reads on. It reports whether there is more than before.
func (in *input) fill() bool {
	for in.reader != nil {
		rest := copy(in.chunk, in.buf[in.pos:])
		n, err := in.reader.Read(in.chunk[rest:])
		in.buf, in.pos = in.chunk[:rest+n], 0
		if err != nil {
			in.reader = nil
			if !errors.Is(err, io.EOF) {
				in.err = err
			}
		}
		if n > 0 {
			return true
		}
	}
	return false
}

// more reports whether there is a next byte.
func (in *input) more() bool { return in.pos < len(in.buf) || in.fill() }

// need reports whether there are n more bytes, which are in buf then.
func (in *input) need(n int) bool {
	for len(in.buf)-in.pos < n {
		if !in.fill() {
			return false
		}
	}
	return true
}

// token skips white space and returns the next byte, which it does not take; 0
// if there is none.
func (in *input) token() byte {
	for in.more() {
		switch b := in.buf[in.pos]; b {
		case ' ', '\t', '\n', '\r':
			in.pos++
		default:
			return b
		}
	}
	return 0
}

// literal takes a literal.
func (c *Canonicalizer) literal(text string) error {
	if !c.need(len(text)) || string(c.buf[c.pos:c.pos+len(text)]) != text {
		return errSyntax
	}
	c.pos += len(text)
	c.out = append(c.out, text...)
	return nil
}

// text takes a string.
func (c *Canonicalizer) text() error {
	c.pos++
	c.out = append(c.out, '"')
	for c.more() {
		rest := c.buf[c.pos:]
		plain := plainText(rest)
		c.out = append(c.out, rest[:plain]...)
		c.pos += plain
		if plain == len(rest) {
			continue
		}
		switch b := rest[plain]; {
		case b == '"':
			c.pos++
			c.out = append(c.out, '"')
			return nil
		case b == '\\':
			if !c.escape() {
				return errSyntax
			}
		case b < ' ':
			return errSyntax
		case !c.characters():
			return errSyntax
		}
	}
	return errSyntax
}

// plainText returns how many bytes there are in front of the first that is not
// plain: a quote, a backslash, a control character or none of ASCII.
func plainText(p []byte) (n int) {
	const each, high = 0x0101010101010101, 0x8080808080808080
	for ; len(p)-n >= 8; n += 8 {
		// Of what is found in each byte, the first is right, and that is all
		// that counts: a borrow comes only from one that was found.
		x := binary.LittleEndian.Uint64(p[n:])
		quote, backslash := x^each*'"', x^each*'\\'
		if found := (x | (x - each*' ') | (quote - each) | (backslash - each)) & high; found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	for ; n < len(p); n++ {
		if b := p[n]; b < ' ' || b == '"' || b == '\\' || b >= utf8.RuneSelf {
			break
		}
	}
	return n
}

// characters takes characters beyond ASCII. It reports whether they are valid.
func (c *Canonicalizer) characters() bool {
	for c.more() && c.buf[c.pos] >= utf8.RuneSelf {
		rest := c.buf[c.pos:]
		n := 0
		for n < len(rest) && rest[n] >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(rest[n:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			n += size
		}
		c.out = append(c.out, rest[:n]...)
		c.pos += n
		if n == 0 && (utf8.FullRune(rest) || !c.fill()) {
			return false
		}
	}
	return true
}

// escape takes an escape in a string. It reports whether that is valid.
func (c *Canonicalizer) escape() bool {
	if !c.need(2) {
		return false
	}
	b := c.buf[c.pos+1]
	if b == 'u' {
		r, ok := c.codeUnit()
		if !ok {
			return false
		}
		c.pos += len(`\u0000`)
		if utf16.IsSurrogate(r) {
			low, ok := c.codeUnit()
			if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
				return false
			}
			c.pos += len(`\u0000`)
		}
		c.out = appendCharacter(c.out, r)
		return true
	}
	c.pos += 2
	switch b {
	case '"', '\\', 'b', 't', 'n', 'f', 'r':
		c.out = append(c.out, '\\', b)
	case '/':
		c.out = append(c.out, '/')
	default:
		return false
	}
	return true
}

// codeUnit returns the UTF-16 code unit of the next escape.
func (c *Canonicalizer) codeUnit() (unit rune, ok bool) {
	if !c.need(len(`\u0000`)) || c.buf[c.pos] != '\\' || c.buf[c.pos+1] != 'u' {
		return 0, false
	}
	for _, b := range c.buf[c.pos+2 : c.pos+6] {
		unit <<= 4
		switch {
		case '0' <= b && b <= '9':
			unit |= rune(b - '0')
		case 'a' <= b && b <= 'f':
			unit |= rune(b - 'a' + 10)
		case 'A' <= b && b <= 'F':
			unit |= rune(b - 'A' + 10)
		default:
			return 0, false
		}
	}
	return unit, true
}

// appendCharacter appends a character as it stands in a canonical string
// (RFC 8785 §3.2.2.2).
func appendCharacter(to []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(to, '\\', byte(r))
	case '\b':
		return append(to, `\b`...)
	case '\t':
		return append(to, `\t`...)
	case '\n':
		return append(to, `\n`...)
	case '\f':
		return append(to, `\f`...)
	case '\r':
		return append(to, `\r`...)
	}
	if r < ' ' {
		const digits = "0123456789abcdef"
		return append(to, '\\', 'u', '0', '0', digits[r>>4], digits[r&0xf])
	}
	return utf8.AppendRune(to, r)
}
