package history

import (
	"fmt"
	"hash/maphash"

	"github.com/anishathalye/porcupine"
)

// absent is the state of a document that does not exist. Every other state is
// the tag of its content.
const absent = ""

// step returns the states that a document can be in after an operation that
// found it in this one; none if that operation can't have been answered as it
// was.
func step(state string, op Operation) []string {
	switch {
	case op.Kind == Read:
		if readShows(state, op) {
			return []string{state}
		}
		return nil
	case op.Status == Refused:
		return []string{state}
	case !op.answered():
		if op.Late || holds(state, op) {
			return []string{state, op.Content}
		}
		return []string{state}
	case op.effective():
		if !holds(state, op) || op.Kind == Delete && state == absent || op.Tag != "" && op.Tag != op.Content {
			return nil
		}
		return []string{op.Content}
	case op.Status == 412:
		if holds(state, op) || op.Tag != state {
			return nil
		}
		return []string{state}
	case op.Status == 404:
		if state != absent || op.Kind == Write && op.IfMatch == "" {
			return nil
		}
		return []string{state}
	}
	return nil // an answer that no request of ours should get
}

// readShows reports whether a read of a document in this state can have got its
// answer.
func readShows(state string, op Operation) bool {
	switch op.Status {
	case 200: // also where If-None-Match is false: a 304 only spares the body
		return state != absent && op.Got == state && (op.Tag == "" || op.Tag == state)
	case 304:
		return state != absent && op.Tag == state && (op.IfNoneMatch == state || op.IfNoneMatch == "*")
	case 404:
		return state == absent
	case 412:
		return state != absent && op.IfMatch != "" && !holds(state, op)
	}
	return false
}

// holds reports whether the preconditions of a write are true in a state.
func holds(state string, op Operation) bool {
	switch {
	case op.IfMatch == "*" && state == absent, op.IfNoneMatch == "*" && state != absent:
		return false
	case op.IfMatch != "" && op.IfMatch != "*" && op.IfMatch != state:
		return false
	}
	return op.IfNoneMatch == "" || op.IfNoneMatch == "*" || op.IfNoneMatch != state
}

var seed = maphash.MakeSeed()

// model is the document for porcupine, which starts in one of these states.
func model(initial ...string) porcupine.Model {
	of := porcupine.NondeterministicModel{
		Init: func() []any { return boxed(initial) },
		Step: func(state, input, _ any) []any { return boxed(step(state.(string), input.(Operation))) },
		Hash: func(state any) uint64 { return maphash.String(seed, state.(string)) },
		DescribeOperation: func(input, _ any) string {
			return input.(Operation).String()
		},
		DescribeState: func(state any) string {
			if state == absent {
				return "none"
			}
			return fmt.Sprint(state)
		},
	}
	return of.ToModel()
}

func boxed(states []string) []any {
	boxes := make([]any, len(states))
	for i, state := range states {
		boxes[i] = state
	}
	return boxes
}
