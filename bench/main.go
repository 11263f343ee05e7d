// Command bench measures what tagging costs and saves: Caddy with the etag
// handler on and off in front of one upstream, and other servers with their
// own ETag middleware on and off. It prints Markdown tables.
//
// Every pair is measured in one run, in turn and several times over, and what
// is printed are medians and ratios: the speed of a machine drifts, the ratio
// of two things that are measured next to each other does so much less.
//
//	go run . [-rounds 25] [-round 120ms] [-connections 16] [-peers=false]
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

var (
	rounds      = flag.Int("rounds", 25, "how many times each pair is measured")
	round       = flag.Duration("round", 120*time.Millisecond, "how long one measurement takes")
	connections = flag.Int("connections", 16, "how many clients ask at one time")
	peers       = flag.Bool("peers", true, "measure other servers too, which needs node and npm")
)

// sizes are those of the bodies, in bytes.
var sizes = []int{1 << 10, 64 << 10, 1 << 20}

func main() {
	if role := os.Getenv(roleVar); role != "" {
		runRole(role)
		return
	}
	flag.Parse()
	dir, err := os.MkdirTemp("", "bench")
	check(err)
	defer os.RemoveAll(dir)

	fmt.Printf("%s, %d processors, %s; %d connections, medians of %d rounds of %s.\n",
		processor(), runtime.NumCPU(), runtime.Version(), *connections, *rounds, *round)
	benchCaddy(dir)
	benchInProcess()
	if *peers {
		benchPeers()
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// processor returns the name of the processor, and whether it has
// instructions for SHA-256.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	name, sha := runtime.GOARCH, "without SHA extensions"
	for line := range strings.Lines(string(info)) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			name = strings.TrimSpace(value)
		case "flags", "Features":
			if strings.Contains(value, "sha_ni") || strings.Contains(value, "sha2") {
				sha = "with SHA extensions"
			}
		}
	}
	return name + " " + sha
}

// benchCaddy measures one Caddy, which has a site for each way to tag.
func benchCaddy(dir string) {
	upstream := startRole("upstream")
	defer upstream.stop()

	sites := map[string]string{
		"off":    "",
		"sha256": "etag",
		"unique": "etag", // its own, since a handler notices whether bodies repeat
		"blake3": "etag {\nalgorithm blake3\n}",
		"xxh3":   "etag {\nalgorithm xxh3\n}",
	}
	addresses := make(map[string]string, len(sites))
	config := "{\nadmin off\npersist_config off\nauto_https off\ndefault_bind 127.0.0.1\nlog {\nlevel ERROR\n}\n}\n"
	for name, directive := range sites {
		addresses[name] = freeAddress()
		config += fmt.Sprintf("http://%s {\n%s\nreverse_proxy %s\n}\n", addresses[name], directive, upstream.address)
	}
	file := filepath.Join(dir, "Caddyfile")
	check(os.WriteFile(file, []byte(config), 0o600))
	caddy := startRole("caddy", "run", "--config", file, "--adapter", "caddyfile")
	defer caddy.stop()
	for _, address := range addresses {
		await(address)
	}

	fmt.Print("\n## Caddy, on and off\n\nRequests a second through `reverse_proxy`, and the ratio to the same request with the handler off.\n\n")
	fmt.Println("| size | off | sha256, repeating | sha256, never repeating | blake3, repeating | xxh3, repeating | sha256, 304 |")
	fmt.Println("|---|---|---|---|---|---|---|")
	for _, size := range sizes {
		path := fmt.Sprintf("/repeating/%d", size)
		unique := fmt.Sprintf("/unique/%d", size)
		tag := tagAt(addresses["sha256"], path)
		results := interleave([]load{
			{addresses["off"], path, ""},
			{addresses["sha256"], path, ""},
			{addresses["off"], unique, ""},
			{addresses["unique"], unique, ""},
			{addresses["blake3"], path, ""},
			{addresses["xxh3"], path, ""},
			{addresses["sha256"], path, tag},
		})
		off, unTagged := results[0], results[2]
		cell := func(on, off []float64) string {
			return fmt.Sprintf("%.0f (%.2f)", median(on), ratio(on, off))
		}
		fmt.Printf("| %s | %.0f | %s | %s | %s | %s | %s |\n", name(size), median(off),
			cell(results[1], off), cell(results[3], unTagged), cell(results[4], off), cell(results[5], off), cell(results[6], off))
	}

	fmt.Print("\n## First byte of a stream\n\nTime from the request to the first event of a `text/event-stream`.\n\n| off | on |\n|---|---|\n")
	var off, on []float64
	for range *rounds * 10 {
		off = append(off, firstEvent(addresses["off"]))
		on = append(on, firstEvent(addresses["sha256"]))
	}
	fmt.Printf("| %.0f µs | %.0f µs |\n", median(off), median(on))
}

// benchPeers measures what other servers make of the same body.
func benchPeers() {
	fmt.Print("\n## Other servers, with their own ETag middleware on and off\n\nThe ratio of requests a second.\n\n")
	fmt.Print("| server |")
	for _, size := range sizes {
		fmt.Printf(" 200, %s |", name(size))
	}
	for _, size := range sizes {
		fmt.Printf(" 304, %s |", name(size))
	}
	fmt.Println("\n|---|---|---|---|---|---|---|")

	install := exec.Command("npm", "ci", "--silent", "--no-audit", "--no-fund")
	install.Dir = "node"
	install.Stderr = os.Stderr
	check(install.Run())
	for _, peer := range []string{"express", "hono", "fastify", "fiber", "go-http-utils"} {
		benchPeer(peer)
	}
}

func benchPeer(peer string) {
	off, on := startPeer(peer, "off"), startPeer(peer, "on")
	defer off.stop()
	defer on.stop()
	var full, notModified string
	for _, size := range sizes {
		path := fmt.Sprintf("/repeating/%d", size)
		results := interleave([]load{
			{off.address, path, ""},
			{on.address, path, ""},
			{on.address, path, tagAt(on.address, path)},
		})
		full += fmt.Sprintf(" %.2f |", ratio(results[1], results[0]))
		notModified += fmt.Sprintf(" %.2f |", ratio(results[2], results[0]))
	}
	fmt.Printf("| %s |%s%s\n", peer, full, notModified)
}

// interleave measures loads in turn, for some rounds, and returns the
// requests a second of each. Each round has another order, since a load finds
// the machine as the one before has left it.
func interleave(loads []load) [][]float64 {
	results := make([][]float64, len(loads))
	for i := range *rounds + 1 {
		for _, j := range rand.Perm(len(loads)) {
			rate := loads[j].run()
			if i > 0 { // the first round is to warm up
				results[j] = append(results[j], rate)
			}
		}
	}
	return results
}

// ratio is the median of the ratios, round by round.
func ratio(on, off []float64) float64 {
	ratios := make([]float64, len(on))
	for i := range on {
		ratios[i] = on[i] / off[i]
	}
	return median(ratios)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func name(size int) string {
	if size >= 1<<20 {
		return fmt.Sprintf("%d MiB", size>>20)
	}
	return fmt.Sprintf("%d KiB", size>>10)
}
