package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// benchInProcess runs the benchmarks of the module itself, which have no
// network between what they measure, and prints their figures: the handler
// beside the least that it could do, and the memory that it holds.
func benchInProcess() {
	fmt.Print("\n## The handler by itself\n\nIts time to that of the chain without it, the hash and one copy of the same bytes together.\n\n")
	fmt.Print("| algorithm | body |")
	for _, size := range sizes {
		fmt.Printf(" %s |", name(size))
	}
	fmt.Println("\n|---|---|---|---|---|")
	ratios := goBench("ReadRatio", "ratio")
	for _, algorithm := range []string{"sha256", "blake3", "xxh3"} {
		for _, body := range []string{"new", "same"} {
			fmt.Printf("| %s | %s |", algorithm, body)
			for _, size := range sizes {
				key := fmt.Sprintf("ReadRatio/%s/%dKiB/%s", algorithm, size>>10, body)
				fmt.Printf(" %.2f |", median(ratios[key]))
			}
			fmt.Println()
		}
	}

	fmt.Print("\n## Held memory\n\nWhat responses of 1 MiB hold at one time, with `max_memory` at its default of 256 MiB.\n\n")
	fmt.Println("| responses | held, MiB | to their bodies |\n|---|---|---|")
	held, toBodies := goBench("HeldMemory", "held-MiB"), goBench("HeldMemory", "held/bodies")
	for _, concurrent := range []int{1, 100, 1000} {
		key := fmt.Sprintf("HeldMemory/%d", concurrent)
		fmt.Printf("| %d | %.0f | %.2f |\n", concurrent, median(held[key]), median(toBodies[key]))
	}
}

// goBench runs a benchmark of the module some times over, and returns the
// figures that it reported in a unit, by the benchmark's name.
func goBench(benchmark, unit string) map[string][]float64 {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^Benchmark"+benchmark+"$",
		"-cpu", "1", "-benchtime", (2 * *round).String(), "-count", strconv.Itoa(min(*rounds, 5)), ".")
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, string(out))
	}
	check(err)
	figures := make(map[string][]float64)
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) == 0 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(words[0], "Benchmark")
		for i, word := range words {
			if word == unit {
				figure, err := strconv.ParseFloat(words[i-1], 64)
				check(err)
				figures[name] = append(figures[name], figure)
			}
		}
	}
	if len(figures) == 0 {
		check(fmt.Errorf("benchmark %s reported nothing in %s", benchmark, unit))
	}
	return figures
}
