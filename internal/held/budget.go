// Package held keeps bodies in memory: in blocks, within a budget, and for no
// longer than a time.
package held

import "sync/atomic"

// Budget is the memory that some bodies may take at one time.
type Budget struct {
	limit int64 // bytes
	held  atomic.Int64
	whole *Budget // that this one is a part of, nil if of none
}

// NewBudget returns a budget of so many bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Part returns a budget of so many bytes of this one, which others can still
// take before.
func (b *Budget) Part(limit int64) *Budget { return &Budget{limit: limit, whole: b} }

// Held returns how many bytes are taken.
func (b *Budget) Held() int64 { return b.held.Load() }

var total atomic.Int64

// Total returns how many bytes are taken of all budgets of the process.
func Total() int64 { return total.Load() }

// take reserves so many bytes, if there is that much left.
func (b *Budget) take(size int64) bool {
	if b.held.Add(size) > b.limit {
		b.held.Add(-size)
		return false
	}
	if b.whole == nil {
		total.Add(size)
		return true
	}
	if !b.whole.take(size) {
		b.held.Add(-size)
		return false
	}
	return true
}

func (b *Budget) giveBack(size int64) {
	b.held.Add(-size)
	if b.whole == nil {
		total.Add(-size)
	} else {
		b.whole.giveBack(size)
	}
}
