package etag

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// What is past one of these limits is hashed as it is, so that no document
// costs more than a few times its size in time, nor, with the body that is
// held, three times its size in memory.
const (
	maxJSONDepth  = 256      // arrays and objects inside each other
	maxJSONString = 1 << 20  // bytes of one string or number, or of white space at one place; the decoder takes up to three times that to read it
	maxJSONMoves  = 16       // of each byte, on average, to put members in order
	jsonSlack     = 64 << 10 // bytes that the canonical form may be longer

	// Each member of an object, and of those that it is in, is noted in 8
	// bytes, in a list that doubles in size. So there may be a member for each
	// 16 bytes of the document, and for a mebibyte more.
	jsonMemberSize  = 16
	jsonMemberSlack = 1 << 20
)

var (
	errNotCanonical = errors.New("the document is past a limit of canonicalization")
	errDuplicate    = errors.New("an object has two members of one name")
	errInexact      = errors.New("a number is not exactly one of double precision")
	errTrailing     = errors.New("there is more after the JSON document")
)

// canonicalizer brings a JSON document into the form of RFC 8785, without the
// members that are to be ignored.
//
// The jsontext package splits the document into its tokens and checks them;
// what it offers to put a document into that form as a whole does so in
// several passes, takes quadratic time for objects inside each other, and
// needs several times the document's size to see that no name comes twice.
// Here it is one pass: a token is written in its canonical form to out, and at
// the end of an object its members are put in order there.
type canonicalizer struct {
	small, large *jsontext.Decoder // over a buffer, and over a reader
	buffer       bytes.Buffer
	reader       limitedReader

	size    int64
	out     []byte
	members []jsonMember // of the open objects
	open    []jsonNesting
	matched []*pointerTree // by the path to each open object or array
	moved   int64
	scratch []byte

	// top are the members of the document in their order, if it is an object
	// that out has in another order.
	top []jsonMember
}

// jsonMember is where a member of an object stands in out, with its name.
type jsonMember struct{ start, end uint32 }

// offset returns an offset, which run keeps from being larger.
func offset(n int) uint32 { return uint32(n) } //nolint:gosec // see run

// jsonNesting is an object or array that is not at its end yet.
type jsonNesting struct {
	object   bool
	unsorted bool
	start    uint32 // in out, behind its brace
	first    uint32 // its first member in members
	matched  uint32 // its first pointer in matched
	index    uint32 // of the next element, counting those that are ignored
}

var (
	duplicateNames   = jsontext.AllowDuplicateNames(true) // seen when members are put in order
	canonicalNumbers = []jsontext.Options{jsontext.CanonicalizeRawInts(true), jsontext.CanonicalizeRawFloats(true)}
)

// limitedReader refuses to read on in the middle of a token of great length,
// since the decoder keeps all of that in a buffer of its own.
type limitedReader struct {
	io.Reader
	decoder *jsontext.Decoder
	read    int64
	longest int64
}

func (r *limitedReader) Read(p []byte) (int, error) {
	token := r.read - r.decoder.InputOffset()
	if token > maxJSONString {
		return 0, errNotCanonical
	}
	r.longest = max(r.longest, token)
	n, err := r.Reader.Read(p)
	r.read += int64(n)
	return n, err
}

// run reads a JSON document of a size, from a reader if there is one, else from
// a text.
func (c *canonicalizer) run(text []byte, reader io.Reader, size int64, ignored *pointerTree) error {
	if size > math.MaxUint32/4 {
		return errNotCanonical
	}
	c.size = size
	c.out = room(c.out, int(size)+min(int(size)/16, jsonSlack)+64)
	c.members, c.open, c.matched, c.top = c.members[:0], c.open[:0], c.matched[:0], nil
	c.moved = 0
	if ignored != nil {
		c.matched = append(c.matched, ignored)
	}

	var decoder *jsontext.Decoder
	if reader == nil {
		if c.small == nil {
			c.small = new(jsontext.Decoder)
		}
		decoder = c.small
		c.buffer = *bytes.NewBuffer(text)
		decoder.Reset(&c.buffer, duplicateNames)
	} else {
		if c.large == nil {
			c.large = new(jsontext.Decoder)
		}
		decoder = c.large
		c.reader = limitedReader{Reader: reader, decoder: decoder}
		decoder.Reset(&c.reader, duplicateNames)
	}
	for {
		if err := c.next(decoder); err != nil {
			return err
		}
		if len(c.open) == 0 {
			break
		}
		if int64(len(c.out)) > c.size+jsonSlack {
			return errNotCanonical
		}
	}
	if _, err := decoder.ReadToken(); !errors.Is(err, io.EOF) {
		return errTrailing
	}
	return nil
}

// next takes the next token.
func (c *canonicalizer) next(decoder *jsontext.Decoder) error {
	kind := decoder.PeekKind()
	var parent *jsonNesting
	if len(c.open) > 0 {
		parent = &c.open[len(c.open)-1]
		switch {
		case kind == '}', kind == ']':
			if _, err := decoder.ReadToken(); err != nil {
				return err
			}
			return c.close(parent)
		case parent.object:
			return c.member(decoder, parent)
		}
	}

	// an element of an array, or the document itself
	matched := len(c.matched)
	if parent != nil {
		index := parent.index
		parent.index++
		if c.descends(parent) {
			c.scratch = strconv.AppendInt(c.scratch[:0], int64(index), 10)
			if c.descend(parent, c.scratch) {
				return decoder.SkipValue()
			}
		}
		if len(c.out) > int(parent.start) {
			c.out = append(c.out, ',')
		}
	} else {
		matched = 0
	}
	return c.value(decoder, kind, matched)
}

// member takes a member of an object, up to the first brace of its value.
func (c *canonicalizer) member(decoder *jsontext.Decoder, parent *jsonNesting) error {
	name, err := decoder.ReadValue()
	if err != nil {
		return err
	}
	before := len(c.out)
	if before > int(parent.start) {
		c.out = append(c.out, ',')
	}
	start := len(c.out)
	if err := c.str(name); err != nil {
		return err
	}
	matched := len(c.matched)
	if c.descends(parent) {
		c.scratch, err = jsontext.AppendUnquote(c.scratch[:0], c.out[start:])
		if err != nil {
			return err
		}
		if c.descend(parent, c.scratch) {
			c.out = c.out[:before]
			return decoder.SkipValue()
		}
	}

	if len(c.members) > int(parent.first) {
		switch order := compareNames(c.out[c.members[len(c.members)-1].start:], c.out[start:]); {
		case order == 0:
			return errDuplicate
		case order > 0:
			parent.unsorted = true
		}
	}
	if len(c.members) == cap(c.members) {
		twice := max(2*len(c.members), 64)
		if int64(twice)*jsonMemberSize > c.size+jsonMemberSlack {
			return errNotCanonical
		}
		c.members = append(make([]jsonMember, 0, twice), c.members...)
	}
	c.members = append(c.members, jsonMember{start: offset(start)})
	c.out = append(c.out, ':')
	return c.value(decoder, decoder.PeekKind(), matched)
}

// descends reports whether a pointer goes into an object or array.
func (c *canonicalizer) descends(nesting *jsonNesting) bool {
	return len(c.matched) > int(nesting.matched)
}

// descend follows the pointers to a member or an element of the innermost
// object or array. It reports whether one ends there.
func (c *canonicalizer) descend(nesting *jsonNesting, token []byte) (ignored bool) {
	here := len(c.matched)
	for _, tree := range c.matched[nesting.matched:here] {
		for _, child := range [...]*pointerTree{tree.children[string(token)], tree.any} {
			if child != nil {
				c.matched = append(c.matched, child)
				ignored = ignored || child.ignored
			}
		}
	}
	if ignored {
		c.matched = c.matched[:here]
	}
	return ignored
}

// value takes a value whose place has been made, up to its first brace. matched
// is where the pointers begin that match its path.
func (c *canonicalizer) value(decoder *jsontext.Decoder, kind jsontext.Kind, matched int) error {
	if kind != '{' && kind != '[' {
		c.matched = c.matched[:matched]
		raw, err := decoder.ReadValue()
		if err != nil {
			return err
		}
		switch kind {
		case '"':
			err = c.str(raw)
		case '0':
			err = c.number(raw)
		default:
			c.out = append(c.out, raw...)
		}
		c.ended()
		return err
	}

	if _, err := decoder.ReadToken(); err != nil {
		return err
	}
	if len(c.open) == maxJSONDepth {
		return errNotCanonical
	}
	c.out = append(c.out, byte(kind))
	c.open = append(c.open, jsonNesting{
		object:  kind == '{',
		start:   offset(len(c.out)),
		first:   offset(len(c.members)),
		matched: offset(matched),
	})
	return nil
}

// ended notes the end of a value.
func (c *canonicalizer) ended() {
	if n := len(c.open); n > 0 && c.open[n-1].object {
		c.members[len(c.members)-1].end = offset(len(c.out))
	}
}

// close ends the innermost object or array.
func (c *canonicalizer) close(nesting *jsonNesting) error {
	members := c.members[nesting.first:]
	if nesting.unsorted {
		slices.SortFunc(members, func(a, b jsonMember) int { return compareNames(c.out[a.start:], c.out[b.start:]) })
		for i, m := range members[1:] {
			if compareNames(c.out[members[i].start:], c.out[m.start:]) == 0 {
				return errDuplicate
			}
		}
		if len(c.open) == 1 {
			c.top = members // its size may be that of the document: not worth a move
		} else if err := c.sort(members, c.out[nesting.start:]); err != nil {
			return err
		}
	}
	if nesting.object {
		c.out = append(c.out, '}')
	} else {
		c.out = append(c.out, ']')
	}
	c.members = c.members[:nesting.first]
	c.matched = c.matched[:nesting.matched]
	c.open = c.open[:len(c.open)-1]
	c.ended()
	return nil
}

// sort brings what is between the braces of an object into the order of its
// members.
func (c *canonicalizer) sort(members []jsonMember, between []byte) error {
	c.moved += int64(len(between))
	if c.moved > maxJSONMoves*c.size+jsonSlack {
		return errNotCanonical
	}
	want := len(between)
	if want > jsonSlack {
		want = max(want, int(c.size)) // the objects around it need no other then
	}
	c.scratch = c.appendMembers(room(c.scratch, want), members)
	copy(between, c.scratch)
	return nil
}

// room returns an empty buffer of at least this capacity, this one if it has
// that.
func room(buffer []byte, capacity int) []byte {
	if cap(buffer) < capacity {
		return make([]byte, 0, capacity)
	}
	return buffer[:0]
}

func (c *canonicalizer) appendMembers(to []byte, members []jsonMember) []byte {
	for i, m := range members {
		if i > 0 {
			to = append(to, ',')
		}
		to = append(to, c.out[m.start:m.end]...)
	}
	return to
}

// writeTo writes the canonical form.
func (c *canonicalizer) writeTo(w io.Writer) {
	if c.top == nil {
		_, _ = w.Write(c.out) // a hash never fails
		return
	}
	before := []byte{'{'}
	for _, m := range c.top {
		_, _ = w.Write(before)
		_, _ = w.Write(c.out[m.start:m.end])
		before[0] = ','
	}
	_, _ = w.Write([]byte{'}'})
}

// text returns the canonical form, which is valid until c is used again.
func (c *canonicalizer) text() []byte {
	if c.top == nil {
		return c.out
	}
	c.scratch = room(c.scratch, len(c.out))
	c.scratch = append(c.scratch, '{')
	c.scratch = append(c.appendMembers(c.scratch, c.top), '}')
	return c.scratch
}

// join returns a body in one piece, which is valid until c is used again.
func (c *canonicalizer) join(body *heldBody) []byte {
	c.scratch = room(c.scratch, int(body.size))
	for block := body.first; block != nil; block = block.next {
		c.scratch = append(c.scratch, block.bytes()...)
	}
	return c.scratch
}

// putBack puts c into the pool, but for what is large.
func (c *canonicalizer) putBack() {
	const large = 1 << 20 // bytes
	if cap(c.out) > large {
		c.out = nil
	}
	if cap(c.scratch) > large {
		c.scratch = nil
	}
	if cap(c.members) > large/8 {
		c.members = nil
	}
	if c.reader.longest > large/8 {
		c.large = nil // its buffer is as long as that token
	}
	c.top = nil
	c.buffer = bytes.Buffer{} // it has the body's memory
	c.reader.Reader = nil
	canonicalizers.Put(c)
}

// str writes a string.
func (c *canonicalizer) str(raw []byte) (err error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		c.out = append(c.out, raw...) // the decoder has checked it
		return nil
	}
	c.scratch, err = jsontext.AppendUnquote(c.scratch[:0], raw)
	if err == nil {
		c.out, err = jsontext.AppendQuote(c.out, c.scratch)
	}
	return err
}

// number writes a number, unless that would make it another one: RFC 8785
// takes numbers for IEEE 754 ones of double precision, and writes the shortest
// text that stands for the same one. Where that text is another decimal
// number than was written, such as for 9007199254740993 or 1e400, the
// document is hashed as it is.
func (c *canonicalizer) number(raw []byte) (err error) {
	if isCanonicalNumber(raw) {
		c.out = append(c.out, raw...)
		return nil
	}
	start := len(c.out)
	c.out, err = jsontext.AppendFormat(c.out, raw, canonicalNumbers...)
	if err == nil && !sameNumber(raw, c.out[start:]) {
		err = errInexact
	}
	return err
}

// isCanonicalNumber reports whether a number, which is a valid one, is sure to
// be in canonical form. It knows those that are most frequent: with no
// exponent, at most 15 digits, and none that could be left out. All decimal
// numbers of 15 digits are different ones in double precision.
func isCanonicalNumber(raw []byte) bool {
	const exactDigits = 15
	digits := raw
	if digits[0] == '-' {
		digits = digits[1:]
	}
	point := -1
	for i, b := range digits {
		switch b {
		case '.':
			point = i
		case 'e', 'E':
			return false
		}
	}
	if point < 0 {
		return len(digits) <= exactDigits && (digits[0] != '0' || len(digits) == len(raw)) // not -0
	}
	if len(digits) > exactDigits+1 || digits[len(digits)-1] == '0' {
		return false
	}
	return digits[0] != '0' || !bytes.HasPrefix(digits, []byte("0.000000")) // else with an exponent
}

// sameNumber reports whether two texts stand for one decimal number, but for
// their signs.
func sameNumber(a, b []byte) bool {
	var x, y decimal
	x.parse(a)
	y.parse(b)
	return x.exponent == y.exponent && x.equalDigits(&y)
}

// decimal is 0.digits × 10^exponent, where digits neither begin nor end with
// a zero and may have a point between them. Zero has none.
type decimal struct {
	digits   []byte
	exponent int64
}

func (d *decimal) parse(text []byte) {
	text = bytes.TrimPrefix(text, []byte("-"))
	mantissa, exponent := text, []byte(nil)
	if e := bytes.IndexAny(text, "eE"); e >= 0 {
		mantissa, exponent = text[:e], text[e+1:]
	}
	whole, _, _ := bytes.Cut(mantissa, []byte("."))
	d.exponent = int64(len(whole))
	d.digits = bytes.TrimRight(mantissa, "0.")
	for len(d.digits) > 0 && (d.digits[0] == '0' || d.digits[0] == '.') {
		if d.digits[0] == '0' {
			d.exponent--
		}
		d.digits = d.digits[1:]
	}
	if len(d.digits) == 0 {
		*d = decimal{}
		return
	}
	if len(exponent) > 0 {
		// One that is out of range is cut to one that no number of double
		// precision has.
		e, _ := strconv.ParseInt(string(exponent), 10, 32)
		d.exponent += e
	}
}

func (d *decimal) equalDigits(other *decimal) bool {
	a, b := d.digits, other.digits
	for {
		if len(a) > 0 && a[0] == '.' {
			a = a[1:]
		}
		if len(b) > 0 && b[0] == '.' {
			b = b[1:]
		}
		if len(a) == 0 || len(b) == 0 {
			return len(a) == len(b)
		}
		if a[0] != b[0] {
			return false
		}
		a, b = a[1:], b[1:]
	}
}

// compareNames compares the canonical strings that two texts begin with as
// sequences of UTF-16 code units (RFC 8785 §3.2.3).
func compareNames(a, b []byte) int {
	for i := 1; ; i++ {
		x, y := a[i], b[i]
		switch {
		case x == '\\', y == '\\', x >= utf8.RuneSelf, y >= utf8.RuneSelf:
			return compareUTF16(unquoteFrom(a, i), unquoteFrom(b, i))
		case x != y:
			if x == '"' {
				return -1
			}
			if y == '"' {
				return 1
			}
			return cmp.Compare(x, y)
		case x == '"':
			return 0
		}
	}
}

// unquoteFrom returns the characters from a place in the string that a text
// begins with, to its end.
func unquoteFrom(text []byte, i int) []byte {
	end, escaped := i, false
	for ; text[end] != '"'; end++ {
		if text[end] == '\\' {
			escaped = true
			end++
		}
	}
	if !escaped {
		return text[i:end]
	}
	quoted := append([]byte{'"'}, text[i:end+1]...)
	unquoted, _ := jsontext.AppendUnquote(nil, quoted) // it was quoted here
	return unquoted
}

// compareUTF16 compares two UTF-8 texts as sequences of UTF-16 code units,
// where characters beyond U+FFFF are less than those from U+E000 on.
func compareUTF16(a, b []byte) int {
	for len(a) > 0 && len(b) > 0 {
		x, n := utf8.DecodeRune(a)
		y, m := utf8.DecodeRune(b)
		if x != y {
			if order := cmp.Compare(firstUTF16(x), firstUTF16(y)); order != 0 {
				return order
			}
			return cmp.Compare(x, y) // they have one high surrogate
		}
		a, b = a[n:], b[m:]
	}
	return cmp.Compare(len(a), len(b))
}

// firstUTF16 returns the first UTF-16 code unit of a character.
func firstUTF16(r rune) rune {
	if r < 0x10000 {
		return r
	}
	return 0xd800 + (r-0x10000)>>10
}
