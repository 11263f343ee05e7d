package main

import (
	"fmt"
	"slices"
)

// series is a quantity that was sampled, and that may go up and down but must
// not grow.
type series struct {
	name    string
	floor   bool    // its lowest values count, as what a garbage collector leaves
	allowed float64 // growth, beside a tenth of it
	samples []float64
}

// windows are what the samples of a run are put together in: enough to tell a
// trend from chance.
const windows = 12

// minSamples is below what a run is too short to have a trend.
const minSamples = 10 * windows

// grows tells whether the quantity has grown over the run, after the first
// quarter, in which caches fill: more than is allowed, and steadily, by
// Kendall's rank correlation with time. One of 0.6 in 12 windows comes by chance
// in one of 250 runs.
func (s series) grows() (trend string, grows bool) {
	settled := s.samples[len(s.samples)/4:]
	if len(settled) < windows {
		return "", false
	}
	values := make([]float64, windows)
	for i := range values {
		window := slices.Sorted(slices.Values(settled[i*len(settled)/windows : (i+1)*len(settled)/windows]))
		values[i] = window[len(window)/2]
		if s.floor {
			values[i] = window[0]
		}
	}

	var slopes []float64
	order := 0
	for i := range values {
		for j := range i {
			slopes = append(slopes, (values[i]-values[j])/float64(i-j))
			switch {
			case values[i] > values[j]:
				order++
			case values[i] < values[j]:
				order--
			}
		}
	}
	slices.Sort(slopes)
	growth := slopes[len(slopes)/2] * (windows - 1)
	steady := float64(order)/float64(len(slopes)) >= 0.6
	sorted := slices.Sorted(slices.Values(values))
	middle := sorted[windows/2]
	trend = fmt.Sprintf("%s %.0f → %.0f", s.name, values[0], values[windows-1])
	return trend, steady && growth > s.allowed+middle/10
}
