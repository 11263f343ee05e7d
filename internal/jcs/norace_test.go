//go:build !race

package jcs

const mebibyte = 1 << 20
