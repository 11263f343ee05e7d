//go:build race

package jcs

// mebibyte is less with the race detector, which makes all of this ten times as
// slow.
const mebibyte = 1 << 16
