//go:build !race

package memo

const raceDetector = false
