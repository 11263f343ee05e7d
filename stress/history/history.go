// Package history has what clients saw of a document, and tells whether a
// server that keeps its word can have shown them that.
//
// A document is a register: it has one content at a time, or none. Its content
// is known by its entity tag, as equal contents have equal tags. What a server
// promises of it is linearizability: each operation that was answered happened
// at one moment between its call and its return, and saw what the one before
// it had left.
package history

import (
	"fmt"
	"math"
	"strings"
)

// Never is when an operation returns that has no answer: it may have happened
// at any time after its call, or not at all.
const Never = math.MaxInt64

// Kind is what an operation does.
type Kind string

// The kinds of operations.
const (
	Read   Kind = "read"
	Write  Kind = "write"
	Delete Kind = "delete"
)

// Operation is a request of a client's for a document, and its answer.
type Operation struct {
	Client int
	Kind   Kind

	// Call and Return are when it was sent, and when its answer had come, in
	// nanoseconds on one clock.
	Call, Return int64

	// IfMatch and IfNoneMatch are its preconditions: a tag, * or nothing.
	IfMatch, IfNoneMatch string

	// Content is the tag of what it writes.
	Content string

	// Late is set for a write that the backend may do at any time after its
	// call, whoever has the lock then: one for which it takes longer than the
	// server waits. Its precondition says nothing of when that is.
	Late bool

	// Status is that of its answer, 0 if none came. Refused is a status of
	// its own.
	Status int

	// Tag is the ETag field of its answer.
	Tag string

	// Got is the tag of the content that came, computed from its bytes.
	Got string

	// Remembered is set for a 304 that was answered from memory: it may be as
	// old as the last write that was answered before its call.
	Remembered bool
}

// Refused is the status of a write of which the server says that nothing was
// written.
const Refused = -1

// answered reports whether it is known what the operation did.
func (op Operation) answered() bool {
	return op.Status != 0 && (op.Kind == Read || op.Status < 500)
}

// effective reports whether it is known that the operation has changed the
// document.
func (op Operation) effective() bool {
	return op.Kind != Read && op.Status >= 200 && op.Status < 300
}

// idle reports whether it is known that the operation has changed nothing.
func (op Operation) idle() bool {
	return op.Kind == Read || op.answered() && !op.effective()
}

func (op Operation) String() string {
	var b strings.Builder
	b.WriteString(string(op.Kind))
	if op.Content != "" {
		b.WriteString(" of " + op.Content)
	}
	if op.IfMatch != "" {
		b.WriteString(", If-Match: " + op.IfMatch)
	}
	if op.IfNoneMatch != "" {
		b.WriteString(", If-None-Match: " + op.IfNoneMatch)
	}
	if op.Late {
		b.WriteString(", which the backend may do late")
	}
	b.WriteString(" → ")
	switch {
	case op.Status == 0:
		b.WriteString("no answer")
	case op.Status == Refused:
		b.WriteString("503, not written")
	case op.Remembered:
		b.WriteString("304 from memory")
	default:
		fmt.Fprint(&b, op.Status)
	}
	if op.Tag != "" {
		b.WriteString(" with ETag: " + op.Tag)
	}
	if op.Got != "" && op.Got != op.Tag {
		b.WriteString(" and the content of " + op.Got)
	}
	return b.String()
}
