package jcs

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
)

// Names are in the order of their UTF-16 code units (RFC 8785 §3.2.3). They are
// compared as they stand in out: what is equal there up to a place has equal
// characters up to there, since each is written in one way, and so it takes a
// look at no more than the first that differs.

// symbol returns the byte of a name's characters in UTF-8 that a place in a
// canonical string stands for, and for how many bytes it stands there.
func symbol(text []byte) (char, size uint8) {
	if text[0] != '\\' {
		return text[0], 1
	}
	switch text[1] {
	case 'b':
		return '\b', 2
	case 't':
		return '\t', 2
	case 'n':
		return '\n', 2
	case 'f':
		return '\f', 2
	case 'r':
		return '\r', 2
	case 'u': // of a control character
		low := text[5] - '0'
		if text[5] >= 'a' {
			low = text[5] - 'a' + 10
		}
		return (text[4]-'0')<<4 | low, 6
	}
	return text[1], 2
}

// end ranks the end of a name.
const end = 0

// rank returns where a name with this symbol stands among those that are the
// same up to it, and how long that is.
//
// UTF-8 has the order of code points. In UTF-16, those beyond U+FFFF, which
// begin with F0 to F4 in UTF-8, are less than those from U+E000 on, which
// begin with EE or EF.
func rank(text []byte) (rank, size uint8) {
	if text[0] == '"' {
		return end, 1
	}
	char, size := symbol(text)
	switch {
	case char >= 0xf0:
		char -= 2
	case char >= 0xee:
		char += 5
	}
	return 1 + char, size
}

// ranks is how many there are: no byte of UTF-8 is more than F4.
const ranks = 1 + 0xf5

// commonPrefix returns the place up to which two names are equal and neither is
// at its end, from one on up to which they are. Both are where a symbol begins.
// It does not look at those that begin at a limit or behind it.
func (c *Canonicalizer) commonPrefix(a, b uint32, from, limit int) int {
	x, y := c.out[a:], c.out[b:]
	i := from
	for i < limit && x[i] == y[i] && x[i] != '"' {
		if x[i] != '\\' {
			i++
			continue
		}
		if x[i+1] != y[i+1] {
			break
		}
		size := 2
		if x[i+1] == 'u' {
			size = len(`\u0000`)
			if [2]byte(x[i+4:i+6]) != [2]byte(y[i+4:i+6]) {
				break
			}
		}
		i += size
	}
	c.work += int64(i - from + 1)
	return i
}

// compareNames compares the names at two places in out, which are equal up to
// a place in them.
func (c *Canonicalizer) compareNames(a, b uint32, from int) int {
	at := c.commonPrefix(a, b, from, math.MaxInt)
	x, _ := rank(c.out[int(a)+at:])
	y, _ := rank(c.out[int(b)+at:])
	return cmp.Compare(x, y)
}

// group is a part of the members of an object whose names are equal up to a
// place in them.
type group struct {
	first, last uint32
	equal       uint32
}

// sortByName sorts members by their names. It reports whether these are all
// different.
//
// It is a radix sort from the first symbol on: a symbol is looked at a few
// times in each name, as long as there are others that are the same up to it.
func (c *Canonicalizer) sortByName(members []member) (different bool) {
	different = true
	c.groups = append(c.groups[:0], group{0, offset(len(members)), 1})
	for different && len(c.groups) > 0 {
		g := c.groups[len(c.groups)-1]
		c.groups = c.groups[:len(c.groups)-1]
		of := members[g.first:g.last]
		if len(of) > largeGroup {
			different = c.divide(of, g.first, int(g.equal))
		} else {
			different = c.divideByKeys(of, g.first, int(g.equal))
		}
	}
	return different
}

// divideByKeys is like divide for the first eight symbols at a place, with
// which most names are in order. It fetches those of a name only once.
func (c *Canonicalizer) divideByKeys(members []member, first uint32, equal int) bool {
	c.keys = slices.Grow(c.keys[:0], len(members))
	same := true
	for _, m := range members {
		key := c.key(int(m.start) + equal)
		c.keys = append(c.keys, key)
		same = same && key == c.keys[0]
	}
	c.work += int64(8 * len(members))
	if same && len(members) > 1 {
		if hasEnd(c.keys[0]) {
			return false
		}
		equal = c.commonPrefixOfAll(members, equal)
		c.groups = append(c.groups, group{first, first + offset(len(members)), offset(equal)})
		return true
	}

	sortByKey(c.keys, members, 64-8)
	for i := 0; i < len(members); {
		run := i + 1
		for run < len(members) && c.keys[run] == c.keys[i] {
			run++
		}
		if run > i+1 {
			if hasEnd(c.keys[i]) {
				return false
			}
			size := c.keySize(int(members[i].start) + equal)
			c.groups = append(c.groups, group{first + offset(i), first + offset(run), offset(equal + size)})
		}
		i = run
	}
	return true
}

// key returns the ranks of eight symbols, with nothing behind the end of the
// name.
func (c *Canonicalizer) key(at int) (key uint64) {
	const each, high = 0x0101010101010101, 0x8080808080808080
	if text := c.out[at:]; len(text) >= 8 {
		x := binary.BigEndian.Uint64(text)
		quote, backslash := x^each*'"', x^each*'\\'
		if (x|(quote-each)|(backslash-each))&high == 0 {
			return x + each
		}
	}
	for shift := 64 - 8; shift >= 0; shift -= 8 {
		r, size := rank(c.out[at:])
		if r == end {
			break
		}
		key |= uint64(r) << shift
		at += int(size)
	}
	return key
}

func hasEnd(key uint64) bool { return key&0xff == end }

// keySize returns the size of eight symbols.
func (c *Canonicalizer) keySize(at int) (sum int) {
	for range 8 {
		_, size := rank(c.out[at+sum:])
		sum += int(size)
	}
	return sum
}

// sortByKey sorts members by their keys, which are equal but for the byte at
// shift and those behind it.
func sortByKey(keys []uint64, members []member, shift int) {
	if len(keys) <= smallGroup {
		for i := 1; i < len(keys); i++ {
			key, m := keys[i], members[i]
			j := i
			for ; j > 0 && keys[j-1] > key; j-- {
				keys[j], members[j] = keys[j-1], members[j-1]
			}
			keys[j], members[j] = key, m
		}
		return
	}
	var begins, ends [256]uint32
	for _, key := range keys {
		ends[key>>shift&0xff]++
	}
	sum := uint32(0)
	for b, count := range ends {
		begins[b] = sum
		sum += count
		ends[b] = sum
	}
	for b := range begins {
		for begins[b] < ends[b] {
			from := begins[b]
			to := begins[keys[from]>>shift&0xff]
			begins[keys[from]>>shift&0xff]++
			keys[from], keys[to] = keys[to], keys[from]
			members[from], members[to] = members[to], members[from]
		}
	}
	if shift == 0 {
		return
	}
	begin := uint32(0)
	for _, end := range ends {
		if end > begin+1 {
			sortByKey(keys[begin:end], members[begin:end], shift-8)
		}
		begin = end
	}
}

// divide brings members, which begin at first of all and whose names are equal
// up to a place, into the order of the first symbol that is not the same in
// all of them, and leaves the order of those that have the same there for
// later. It reports whether no two have the whole name in common.
func (c *Canonicalizer) divide(members []member, first uint32, equal int) bool {
	counts, sizes := c.count(members, equal)
	if int(counts[c.scratch[0]]) == len(members) && c.scratch[0] != end {
		equal = c.commonPrefixOfAll(members, equal)
		counts, sizes = c.count(members, equal)
	}
	if counts[end] > 1 {
		return false
	}
	var begins, ends [ranks]uint32
	sum := uint32(0)
	for r, count := range counts {
		begins[r] = sum
		sum += count
		ends[r] = sum
		if count > 1 {
			c.groups = append(c.groups, group{first + begins[r], first + sum, offset(equal + int(sizes[r]))})
		}
	}
	of := c.scratch
	for r := range begins {
		for begins[r] < ends[r] {
			from := begins[r]
			is := of[from]
			to := begins[is]
			members[from], members[to] = members[to], members[from]
			of[from], of[to] = of[to], is
			begins[is]++
		}
	}
	return true
}

// count counts the names that have the same rank at a place, and leaves the
// rank of each in scratch. It also tells the sizes of their symbols.
func (c *Canonicalizer) count(members []member, at int) (counts [ranks]uint32, sizes [ranks]uint8) {
	c.scratch = c.scratch[:0]
	for _, m := range members {
		r, size := rank(c.out[int(m.start)+at:])
		counts[r]++
		sizes[r] = size
		c.scratch = append(c.scratch, r)
	}
	c.work += int64(len(members))
	return counts, sizes
}

// commonPrefixOfAll returns the place up to which all names are equal, from one
// on up to which they are.
func (c *Canonicalizer) commonPrefixOfAll(members []member, common int) int {
	// Not to look far ahead in most names for one that differs soon, it goes on
	// from a place only if none does before.
	for ahead := 8; ; ahead *= 2 {
		limit, next := common+ahead, math.MaxInt
		for _, m := range members[1:] {
			next = min(next, c.commonPrefix(members[0].start, m.start, common, min(limit, next)))
		}
		common = next
		if next < limit {
			return common
		}
	}
}
