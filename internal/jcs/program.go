package jcs

import (
	"math"
	"slices"
)

// program tells in which order to read out where that is not the order in
// which it stands there. To move what is in an object that is large, or has
// few members for its size, could take more than linear time where objects
// stand inside each other.
type program struct {
	steps []member
	cuts  []cut
	calls []uint32 // where to go on behind each list that is being read
}

// A step is the part of out from start to end. There is a comma in front of it
// if start is marked, and it is the last of its list if end is. Or, by this end,
// it is the list that begins at start.
const stepCall = math.MaxUint32

// cut is a part of out in the place of which a list is to be read: what is
// between the braces of an object. In a list there is none that is not called
// by it; those that none calls are in the order of out.
type cut struct{ start, end, list uint32 }

func (p *program) reset() { p.steps, p.cuts = p.steps[:0], p.cuts[:0] }

// cutsNow returns how many cuts there are that no list calls.
func (p *program) cutsNow() uint32 { return offset(len(p.cuts)) }

// cut puts the members of an object, which have been sorted, in order. Those
// cuts are in it that come after the first so many.
func (p *program) cut(start, end, before uint32, members []member) {
	list := offset(len(p.steps))
	inner := p.cuts[before:]
	p.steps = slices.Grow(p.steps, len(members)+2*len(inner))
	for i, m := range members {
		first := len(p.steps)
		if m.end < marked {
			p.steps = append(p.steps, m)
		} else {
			m.end &^= marked
			// as many searches as cuts, at the most, of which there are few
			at, _ := slices.BinarySearchFunc(inner, m.start, func(c cut, start uint32) int { return int(c.start) - int(start) })
			p.read(m.start, m.end, inner[at:])
		}
		if i > 0 {
			p.steps[first].start |= marked
		}
	}
	p.steps[len(p.steps)-1].end |= marked
	p.cuts = append(p.cuts[:before], cut{start, end, list})
}

// cutAll makes a list of all the steps that there are, which are members.
func (p *program) cutAll(start, end uint32) {
	for i := range p.steps[1:] {
		p.steps[i+1].start |= marked
	}
	p.steps[len(p.steps)-1].end |= marked
	p.cuts = append(p.cuts, cut{start: start, end: end})
}

// read appends the steps for a part of out, with the cuts in it.
func (p *program) read(start, end uint32, cuts []cut) {
	for _, c := range cuts {
		if c.start > end {
			break
		}
		p.steps = append(p.steps, member{start, c.start}, member{c.list, stepCall})
		start = c.end
	}
	p.steps = append(p.steps, member{start, end})
}
