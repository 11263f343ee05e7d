package history

import (
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Verdict is what a check found.
type Verdict string

// The verdicts.
const (
	Legal     Verdict = "legal"
	Illegal   Verdict = "illegal"
	Undecided Verdict = "undecided" // within the time that it had
)

// Check tells whether there is an order of the operations of one document that
// explains all answers. The document did not exist before the first of them.
func Check(operations []Operation, timeout time.Duration) Verdict {
	all := fresh(operations)
	v := verdict(all, timeout, absent)
	if v == Undecided && firstIllegal(all, func(known []Operation) bool { return verdict(known, timeout, absent) == Illegal }) != nil {
		return Illegal
	}
	return v
}

// fresh applies the rule of freshness: a 304 from memory happened at any moment
// since the last write that was answered before its call.
func fresh(operations []Operation) []Operation {
	moved := make([]Operation, len(operations))
	for i, op := range operations {
		if op.Remembered {
			since := int64(0)
			for _, write := range operations {
				if write.effective() && write.Return < op.Call {
					since = max(since, write.Return+1)
				}
			}
			op.Call = min(op.Call, since)
		}
		moved[i] = op
	}
	return moved
}

func verdict(operations []Operation, timeout time.Duration, initial ...string) Verdict {
	simple := withEnds(withoutUnseen(operations))
	switch porcupine.CheckOperationsTimeout(model(initial...), forPorcupine(simple), timeout) {
	case porcupine.Ok:
		return Legal
	case porcupine.Illegal:
		return Illegal
	case porcupine.Unknown:
	}
	return Undecided
}

// forPorcupine leaves out reads without an answer, which tell nothing.
func forPorcupine(operations []Operation) []porcupine.Operation {
	converted := make([]porcupine.Operation, 0, len(operations))
	for _, op := range operations {
		if op.Kind == Read && !op.answered() {
			continue
		}
		converted = append(converted, porcupine.Operation{ClientId: op.Client, Input: op, Call: op.Call, Return: op.Return})
	}
	return converted
}

// withoutUnseen leaves out writes whose outcome is not known, where nobody has
// seen what they wrote: the search grows with each of them. Where an order of
// the others explains all, so does that order with the write not done; and where
// one with the write explains all, so does that without it, as whatever came
// next did not look at what it had written. It could only depend on there being
// a document, and so the write must have been one that replaces, or nothing else
// may depend on that.
func withoutUnseen(operations []Operation) []Operation {
	existenceMatters := slices.ContainsFunc(operations, func(op Operation) bool {
		return op.Kind == Delete || op.IfMatch == "*" && op.Kind == Write
	})
	tagsExclude := slices.ContainsFunc(operations, func(op Operation) bool {
		return op.Kind != Read && op.IfNoneMatch != "" && op.IfNoneMatch != "*"
	})
	return slices.DeleteFunc(slices.Clone(operations), func(op Operation) bool {
		replaces := op.IfMatch != "" && !op.Late
		return op.Kind == Write && !op.answered() && (replaces || !existenceMatters) && !tagsExclude && !named(operations, op)
	})
}

// named reports whether another operation names what a write has written.
func named(operations []Operation, write Operation) bool {
	return slices.ContainsFunc(operations, func(op Operation) bool {
		return op.Content != write.Content && (op.Got == write.Content || op.Tag == write.Content || op.IfMatch == write.Content)
	})
}

// withEnds gives a write whose outcome is not known an end where it must have
// happened: when somebody had seen what it wrote. Else it may still be done after
// its answer.
func withEnds(operations []Operation) []Operation {
	ended := slices.Clone(operations)
	for i, op := range operations {
		if op.Kind == Read || op.answered() {
			continue
		}
		ended[i].Return = Never
		if at := seenAt(operations, op); op.Kind == Write && at >= op.Call {
			ended[i].Return = at
		}
	}
	return ended
}

// seenAt returns when somebody had first seen what a write has written.
func seenAt(operations []Operation, write Operation) int64 {
	at := int64(Never)
	for _, op := range operations {
		shows := op.Kind == Read && op.Got == write.Content || op.Tag == write.Content
		if shows && op.Content != write.Content || op.Kind != Read && op.effective() && op.IfMatch == write.Content {
			at = min(at, op.Return)
		}
	}
	return at
}
