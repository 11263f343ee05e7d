// Package jcs brings JSON documents into the canonical form of RFC 8785, the
// JSON Canonicalization Scheme, and leaves out members that JSON Pointers
// (RFC 6901) name.
//
// It goes beyond RFC 8785 in one thing: to that, numbers are those of IEEE 754
// in double precision, and so 9007199254740993 is 9007199254740992, and 1e400
// is none. Here they are decimal numbers, of any length, and are never rounded.
// Where RFC 8785 has the same decimal number, the form is that of RFC 8785.
//
// It takes linear time, whatever the document is made of.
package jcs

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"sync"
)

const (
	maxSize  = 1 << 30 // bytes of a document, so that offsets have a bit to spare
	maxDepth = 10_000  // arrays and objects inside each other, as in encoding/json
	readSize = 32 << 10
)

// What is small is put in order in another way than what is large. These are
// variables for the tests, to which all is large.
var (
	// An object that is not in order is moved into it if that takes no more
	// than maxMove bytes in all and maxMovePerMember for each of its members:
	// as these are never counted twice, neither is a byte moved too often,
	// however deep it lies. Else a list tells the order, see program.
	maxMove          = 64 << 10
	maxMovePerMember = 1 << 10

	// Members are sorted by insertion if there are no more than smallGroup, and
	// by keys that are in memory beside them if no more than largeGroup.
	smallGroup = 16
	largeGroup = 64 << 10
)

var (
	errTooLarge  = errors.New("the JSON document is too large, or too deep")
	errDuplicate = errors.New("an object has two members of one name")
	errSyntax    = errors.New("this is not valid JSON")
)

// Canonicalizer brings one JSON document after the other into its canonical
// form, without the members that are to be ignored. It is not safe for
// concurrent use.
//
// It takes one pass: each token is written in its canonical form to out, and at
// the end of an object its members are put in order. No token gets much longer
// than it was, so that out does not get longer than the document; see
// compactMark.
type Canonicalizer struct {
	input

	out     []byte
	compact bool // there is a compactMark in out
	members []member
	open    []nesting
	matched []*Pointers // by the path to each open object or array
	ignored struct {
		now   bool // what comes is left out
		depth int  // in so many open objects and arrays
		out   int  // where out ended before
	}

	program program
	groups  []group
	keys    []uint64 // of the members of a group
	scratch []byte

	work int64 // bytes that were looked at or moved again, for the tests
}

// member is where a member of an object stands in out, with its name.
type member struct {
	start uint32
	end   uint32 // marked if there are cuts in it; before its end has come, how many cuts there were
}

// marked in an offset, which is less, is for what it tells besides.
const marked = 1 << 31

// nesting is an object or array that is not at its end yet.
type nesting struct {
	object   bool
	begun    bool // it has a member or element, even if that is ignored
	unsorted bool
	start    uint32 // in out, behind its brace
	first    uint32 // its first member in members
	matched  uint32 // its first pointer in matched
	cuts     uint32 // its first cut
	index    uint32 // of the next element, counting those that are ignored
}

// offset returns an offset, which maxSize keeps from being larger.
func offset(n int) uint32 { return uint32(n) } //nolint:gosec // see maxSize

var pool = sync.Pool{New: func() any { return new(Canonicalizer) }}

// NewCanonicalizer returns a Canonicalizer from a pool.
func NewCanonicalizer() *Canonicalizer { return pool.Get().(*Canonicalizer) }

// Release puts c back into the pool, but for what is large of it.
func (c *Canonicalizer) Release() {
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
	if cap(c.program.steps) > large/8 {
		c.program.steps = nil
	}
	c.release()
	pool.Put(c)
}

// Canonicalize reads a document without the members that are ignored, nil if
// none are. On an error there is no canonical form.
func (c *Canonicalizer) Canonicalize(document []byte, ignored *Pointers) error {
	c.use(document, nil)
	return c.read(int64(len(document)), ignored)
}

// CanonicalizeFrom is like Canonicalize for a document of a size that is read
// from r.
func (c *Canonicalizer) CanonicalizeFrom(r io.Reader, size int64, ignored *Pointers) error {
	c.use(nil, r)
	return c.read(size, ignored)
}

func (c *Canonicalizer) read(size int64, ignored *Pointers) error {
	if size >= maxSize {
		return errTooLarge
	}
	c.reset(int(size))
	if ignored != nil {
		c.matched = append(c.matched, ignored)
	}
	if err := c.value(c.token(), 0); err != nil {
		return err
	}
	for len(c.open) > 0 {
		if err := c.next(&c.open[len(c.open)-1]); err != nil {
			return err
		}
	}
	if c.token() != 0 || c.more() {
		return errSyntax // there is more behind the document
	}
	return c.err
}

func (c *Canonicalizer) reset(size int) {
	c.out = buffer(c.out, size+size/10+64)
	c.compact = false
	c.members, c.open, c.matched = c.members[:0], c.open[:0], c.matched[:0]
	c.ignored.now = false
	c.program.reset()
	c.work = 0
}

// buffer returns an empty buffer of at least this capacity, the old one if it
// has that.
func buffer(old []byte, capacity int) []byte {
	if cap(old) < capacity {
		return make([]byte, 0, capacity)
	}
	return old[:0]
}

// next takes the next member or element of the innermost object or array, up
// to the first brace of its value, or the end of all.
func (c *Canonicalizer) next(parent *nesting) error {
	end := byte(']')
	if parent.object {
		end = '}'
	}
	token := c.token()
	switch {
	case token == end:
		c.pos++
		return c.close(parent)
	case parent.begun && token != ',':
		return errSyntax
	case parent.begun:
		c.pos++
		token = c.token()
	}
	parent.begun = true
	if parent.object {
		return c.member(token, parent)
	}
	return c.element(token, parent)
}

// element takes an element of an array.
func (c *Canonicalizer) element(token byte, parent *nesting) error {
	before, matched := len(c.out), len(c.matched)
	if !c.ignored.now && c.descends(parent) {
		c.scratch = strconv.AppendInt(c.scratch[:0], int64(parent.index), 10)
		if c.descend(parent, c.scratch) {
			c.ignore(before)
		}
	}
	parent.index++
	if len(c.out) > int(parent.start) {
		c.out = append(c.out, ',')
	}
	return c.value(token, matched)
}

// member takes a member of an object.
func (c *Canonicalizer) member(token byte, parent *nesting) error {
	before, matched := len(c.out), len(c.matched)
	if before > int(parent.start) {
		c.out = append(c.out, ',')
	}
	start := len(c.out)
	if token != '"' {
		return errSyntax
	}
	if err := c.text(); err != nil {
		return err
	}
	if c.token() != ':' {
		return errSyntax
	}
	c.pos++
	switch {
	case c.ignored.now:
	case c.descends(parent) && c.descend(parent, c.name(start)):
		c.ignore(before)
	default:
		if err := c.add(start, parent); err != nil {
			return err
		}
		c.out = append(c.out, ':')
	}
	return c.value(c.token(), matched)
}

// add notes a member whose name stands at the end of out.
func (c *Canonicalizer) add(start int, parent *nesting) error {
	if len(c.members) > int(parent.first) {
		switch order := c.compareNames(c.members[len(c.members)-1].start, offset(start), 1); {
		case order == 0:
			return errDuplicate
		case order > 0:
			parent.unsorted = true
		}
	}
	if len(c.members) == cap(c.members) {
		// Half as much again, but not more than can still come.
		const least = len(`"":0,`)
		more := min(len(c.members)/2+64, (cap(c.out)-len(c.out))/least+1)
		c.members = append(make([]member, 0, len(c.members)+more), c.members...)
	}
	c.members = append(c.members, member{offset(start), c.program.cutsNow()}) // see ended
	return nil
}

// name returns the characters of the name at the end of out.
func (c *Canonicalizer) name(start int) []byte {
	quoted := c.out[start+1 : len(c.out)-1]
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted
	}
	c.scratch = c.scratch[:0]
	for len(quoted) > 0 {
		char, size := symbol(quoted)
		c.scratch = append(c.scratch, char)
		quoted = quoted[size:]
	}
	return c.scratch
}

// ignore leaves out what stands in out from before on, and the value to come.
func (c *Canonicalizer) ignore(before int) {
	c.ignored.now, c.ignored.depth, c.ignored.out = true, len(c.open), before
	c.out = c.out[:before]
}

// descends reports whether a pointer goes into an object or array.
func (c *Canonicalizer) descends(nesting *nesting) bool {
	return len(c.matched) > int(nesting.matched)
}

// descend follows the pointers to a member or an element of the innermost
// object or array. It reports whether one ends there.
func (c *Canonicalizer) descend(nesting *nesting, token []byte) (ignored bool) {
	here := len(c.matched)
	for _, tree := range c.matched[nesting.matched:here] {
		for _, child := range [...]*Pointers{tree.children[string(token)], tree.any} {
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
func (c *Canonicalizer) value(token byte, matched int) (err error) {
	switch token {
	case '{', '[':
		return c.begin(token, matched)
	case '"':
		err = c.text()
	case 't':
		err = c.literal("true")
	case 'f':
		err = c.literal("false")
	case 'n':
		err = c.literal("null")
	default:
		err = c.number()
	}
	c.matched = c.matched[:matched]
	c.ended()
	return err
}

// begin opens an object or array.
func (c *Canonicalizer) begin(brace byte, matched int) error {
	if len(c.open) == maxDepth {
		return errTooLarge
	}
	c.pos++
	c.out = append(c.out, brace)
	c.open = append(c.open, nesting{
		object:  brace == '{',
		start:   offset(len(c.out)),
		first:   offset(len(c.members)),
		matched: offset(matched),
		cuts:    c.program.cutsNow(),
	})
	return nil
}

// ended notes the end of a value.
func (c *Canonicalizer) ended() {
	depth := len(c.open)
	if c.ignored.now {
		c.out = c.out[:c.ignored.out]
		c.ignored.now = depth > c.ignored.depth
		return
	}
	if depth > 0 && c.open[depth-1].object {
		last := &c.members[len(c.members)-1]
		cuts := last.end
		last.end = offset(len(c.out))
		if c.program.cutsNow() > cuts {
			last.end |= marked
		}
	}
}

// close ends the innermost object or array.
func (c *Canonicalizer) close(parent *nesting) error {
	if parent.unsorted {
		if err := c.order(parent); err != nil {
			return err
		}
	}
	if parent.object {
		c.out = append(c.out, '}')
	} else {
		c.out = append(c.out, ']')
	}
	c.members = c.members[:parent.first]
	c.matched = c.matched[:parent.matched]
	c.open = c.open[:len(c.open)-1]
	c.ended()
	return nil
}

// order puts the members of an object in order.
func (c *Canonicalizer) order(parent *nesting) error {
	members := c.members[parent.first:]
	if !c.sortByName(members) {
		return errDuplicate
	}
	between := c.out[parent.start:]
	if len(between) <= min(maxMove, maxMovePerMember*len(members)) && c.program.cutsNow() == parent.cuts {
		c.work += int64(len(between))
		c.scratch = c.scratch[:0]
		for _, m := range members {
			c.scratch = append(append(c.scratch, ','), c.out[m.start:m.end]...)
		}
		copy(between, c.scratch[1:])
		return nil
	}
	if len(c.open) == 1 && c.program.cutsNow() == 0 {
		// It is the whole document, and its members are the steps as they stand.
		c.members, c.program.steps = c.program.steps, members
		c.program.cutAll(parent.start, offset(len(c.out)))
	} else {
		c.program.cut(parent.start, offset(len(c.out)), parent.cuts, members)
	}
	return nil
}
