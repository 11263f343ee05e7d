package history

import (
	"cmp"
	"slices"
	"time"
)

// Shrink returns a short history that is illegal because the given one is, and
// the states that its document may have been in before. It only takes away what
// can't make a legal history illegal: what came after, what was over before, and
// operations that changed nothing.
func Shrink(operations []Operation, timeout time.Duration) (short []Operation, initial []string) {
	short, initial = fresh(operations), []string{absent}
	illegal := func(candidate []Operation, initial []string) bool {
		return verdict(candidate, timeout, initial...) == Illegal
	}

	short = firstIllegal(short, func(candidate []Operation) bool { return illegal(candidate, initial) })
	if short == nil {
		return operations, initial
	}

	any := states(short)
	for _, cut := range cuts(short) {
		if candidate := after(short, cut); illegal(candidate, any) {
			short, initial = candidate, any
			break
		}
	}

	for i, op := range slices.Backward(slices.Clone(short)) {
		if !op.idle() {
			continue
		}
		if candidate := slices.Delete(slices.Clone(short), i, i+1); illegal(candidate, initial) {
			short = candidate
		}
	}
	short = withoutUnseen(short)
	slices.SortFunc(short, func(a, b Operation) int { return cmp.Compare(a.Call, b.Call) })
	return short, initial
}

// firstIllegal returns the shortest beginning that is illegal. It is looked for
// from the start on, as it takes long to find that a long history is illegal.
func firstIllegal(operations []Operation, illegal func([]Operation) bool) []Operation {
	var ends []int64
	for _, op := range operations {
		if op.answered() && op.Return != Never {
			ends = append(ends, op.Return)
		}
	}
	slices.Sort(ends)
	for _, end := range ends {
		if known := before(operations, end); illegal(known) {
			return known
		}
	}
	return nil
}

// before returns what was known at a time: what is answered later may have
// happened by then.
func before(operations []Operation, end int64) []Operation {
	var known []Operation
	for _, op := range operations {
		switch {
		case op.Call > end:
			continue
		case op.Return > end && op.Kind == Read:
			continue
		case op.Return > end:
			op.Return, op.Status, op.Tag = Never, 0, ""
		}
		known = append(known, op)
	}
	return known
}

// cuts returns the times at which no write that was answered is under way, the
// latest first.
func cuts(operations []Operation) []int64 {
	var times []int64
	for _, op := range operations {
		quiet := !slices.ContainsFunc(operations, func(other Operation) bool {
			return other.effective() && other.Call < op.Call && other.Return >= op.Call
		})
		if quiet {
			times = append(times, op.Call)
		}
	}
	slices.Sort(times)
	slices.Reverse(times)
	return times
}

// after returns what was not over at a time: writes whose outcome is not known,
// and all that began then.
func after(operations []Operation, begin int64) []Operation {
	var later []Operation
	for _, op := range operations {
		if op.Call >= begin || op.Kind != Read && !op.answered() {
			later = append(later, op)
		}
	}
	return later
}

// states returns all states that a history speaks of.
func states(operations []Operation) []string {
	all := []string{absent}
	for _, op := range operations {
		for _, tag := range []string{op.Content, op.Tag, op.Got, op.IfMatch, op.IfNoneMatch} {
			if tag != "*" && !slices.Contains(all, tag) {
				all = append(all, tag)
			}
		}
	}
	return all
}
