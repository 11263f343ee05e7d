package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// result is what came of a profile.
type result struct {
	profile string
	took    time.Duration

	mu       sync.Mutex
	names    []string // of the figures, in the order in which they came
	figures  map[string]int
	notes    []string
	findings []string
}

// add adds to a figure.
func (r *result) add(name string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.figures == nil {
		r.figures = make(map[string]int)
	}
	if _, known := r.figures[name]; !known {
		r.names = append(r.names, name)
	}
	r.figures[name] += n
}

func (r *result) figure(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.figures[name]
}

// note adds words to what the table says.
func (r *result) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// find adds a finding, and returns how many there are.
func (r *result) find(what string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings = append(r.findings, what)
	return len(r.findings)
}

func (r *result) found() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.findings)
}

// printTable prints what came of all profiles, and returns how many findings
// there are.
func printTable(out io.Writer, results []*result) (findings int) {
	fmt.Fprint(out, "| profile | took | what | findings |\n|---|---|---|---|\n")
	for _, r := range results {
		slices.Sort(r.names)
		what := make([]string, 0, len(r.names)+len(r.notes))
		for _, name := range r.names {
			what = append(what, fmt.Sprintf("%d %s", r.figures[name], name))
		}
		what = append(what, r.notes...)
		fmt.Fprintf(out, "| %s | %s | %s | %d |\n", r.profile, r.took.Round(time.Second), strings.Join(what, ", "), len(r.findings))
		findings += len(r.findings)
	}
	for _, r := range results {
		for _, finding := range r.findings {
			fmt.Fprintf(out, "\n%s: %s\n", r.profile, finding)
		}
	}
	return findings
}
