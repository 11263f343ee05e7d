// Command bench measures what tagging costs and saves: Caddy with the etag
// handler on and off in front of one upstream, and other servers with their
// own ETag middleware on and off. It prints Markdown tables.
//
// Every pair is measured in one run, in turn and several times over, and what
// is printed are medians and ratios: the speed of a machine drifts, the ratio
// of two things that are measured next to each other does so much less.
//
//	go run . [-rounds 40] [-round 120ms] [-connections 16] [-peers=false]
package main

import (
	"crypto/x509"
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

	"github.com/caddyetag/caddy-etag/internal/testcert"
)

var (
	rounds      = flag.Int("rounds", 40, "how many times each pair is measured")
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

// sites are those of the measured Caddy. Each has a way to tag of its own. Some
// that are alike are there since a handler notices whether bodies repeat.
var sites = map[string]string{
	"off":          "reverse_proxy UPSTREAM",
	"off again":    "reverse_proxy UPSTREAM",
	"on":           "etag\nreverse_proxy UPSTREAM",
	"unique":       "etag\nreverse_proxy UPSTREAM",
	"blake3":       "etag {\nalgorithm blake3\n}\nreverse_proxy UPSTREAM",
	"xxh3":         "etag {\nalgorithm xxh3\n}\nreverse_proxy UPSTREAM",
	"canonicalize": "etag weak {\ncanonicalize json\n}\nreverse_proxy UPSTREAM",
	"remember":     "etag {\nremember 1h\n}\nreverse_proxy UPSTREAM",
	"no backend":   "respond 304",
	"h2c off":      "reverse_proxy h2c://UPSTREAM",
	"h2c":          "etag\nreverse_proxy h2c://UPSTREAM",
}

// roots has the authority of the certificate that the measured Caddy shows.
var roots *x509.CertPool

// caddy is the Caddy that is measured, and its backend.
type caddy struct {
	servers          []server
	addresses, https map[string]string // by the name of the site
}

func startCaddy(dir string) caddy {
	upstream := startRole("upstream")
	c := caddy{addresses: make(map[string]string), https: make(map[string]string)}
	certificates, err := testcert.Make(dir)
	check(err)
	roots = certificates.Roots
	var config strings.Builder
	config.WriteString("{\nadmin off\npersist_config off\nauto_https off\ndefault_bind 127.0.0.1\nlog {\nlevel ERROR\n}\n}\n")
	for name, site := range sites {
		c.addresses[name] = freeAddress()
		site = strings.ReplaceAll(site, "UPSTREAM", upstream.address)
		fmt.Fprintf(&config, "http://%s {\n%s\n}\n", c.addresses[name], site)
		if strings.HasPrefix(name, "off") || name == "on" {
			c.https[name] = freeAddress()
			fmt.Fprintf(&config, "https://%s {\ntls %s %s\n%s\n}\n", c.https[name], certificates.Certificate, certificates.Key, site)
		}
	}
	file := filepath.Join(dir, "Caddyfile")
	check(os.WriteFile(file, []byte(config.String()), 0o600))
	c.servers = []server{startRole("caddy", "run", "--config", file, "--adapter", "caddyfile"), upstream}
	for _, address := range c.addresses {
		await(address)
	}
	for _, address := range c.https {
		await(address)
	}
	return c
}

func (c caddy) stop() {
	for _, s := range c.servers {
		s.stop()
	}
}

// load is a load on a site.
func (c caddy) load(site, path, tag, protocol string) load {
	address := c.addresses[site]
	if protocol != "" {
		address = c.https[site]
	}
	return load{address: address, path: path, tag: tag, protocol: protocol, servers: c.servers}
}

const cellHelp = "Each cell has the requests a second to those of the same request with the handler off, and then the " +
	"processor time of Caddy, and of Caddy, backend and client, that a request takes with the handler off to that with it on: " +
	"above 1 is better in all three. The column \"noise\" is the handler off measured twice, as if it were two."

// benchCaddy measures the handler behind each protocol, on and off.
func benchCaddy(dir string) {
	c := startCaddy(dir)
	defer c.stop()

	fmt.Printf("\n## Caddy, on and off\n\n%s\n\n", cellHelp)
	header := []string{"", "off, a second", "noise", "200, repeating", "200, never repeating", "200, repeating, blake3", "200, repeating, xxh3", "304"}
	printHeader(header)
	for _, size := range sizes {
		path, unique := fmt.Sprintf("/repeating/%d", size), fmt.Sprintf("/unique/%d", size)
		results := interleave([]load{
			c.load("off", path, "", ""),
			c.load("off again", path, "", ""),
			c.load("on", path, "", ""),
			c.load("blake3", path, "", ""),
			c.load("xxh3", path, "", ""),
			c.load("on", path, tagAt(c.addresses["on"], path), ""),
			c.load("off", unique, "", ""),
			c.load("unique", unique, "", ""),
		})
		off := results[0]
		fmt.Printf("| HTTP/1.1, %s | %.0f | %s | %s | %s | %s | %s | %s |\n", name(size), median(rates(off)),
			cell(results[1], off), cell(results[2], off), cell(results[7], results[6]), cell(results[3], off), cell(results[4], off), cell(results[5], off))
	}

	fmt.Print("\n## TLS, HTTP/2 and HTTP/3\n\n")
	printHeader([]string{"", "off, a second", "noise", "200, repeating", "304"})
	for _, protocol := range []string{"h2", "h3"} {
		for _, size := range sizes {
			path := fmt.Sprintf("/repeating/%d", size)
			results := interleave([]load{
				c.load("off", path, "", protocol),
				c.load("off again", path, "", protocol),
				c.load("on", path, "", protocol),
				c.load("on", path, tagAt(c.addresses["on"], path), protocol),
			})
			off := results[0]
			fmt.Printf("| %s, %s | %.0f | %s | %s | %s |\n", protocol, name(size), median(rates(off)),
				cell(results[1], off), cell(results[2], off), cell(results[3], off))
		}
	}

	fmt.Print("\n## Other ways\n\n64 KiB over HTTP/1.1.\n\n")
	printHeader([]string{"", "off, a second", "on"})
	path := fmt.Sprintf("/repeating/%d", 64<<10)
	for _, connections := range []int{1, 32, 256} {
		off, on := c.load("off", path, "", ""), c.load("on", path, "", "")
		off.connections, on.connections = connections, connections
		results := interleave([]load{off, on})
		fmt.Printf("| %d connections | %.0f | %s |\n", connections, median(rates(results[0])), cell(results[1], results[0]))
	}
	results := interleave([]load{c.load("h2c off", path, "", ""), c.load("h2c", path, "", "")})
	fmt.Printf("| h2c to the backend | %.0f | %s |\n", median(rates(results[0])), cell(results[1], results[0]))
	for _, kind := range []string{"repeating", "unique"} {
		json := "/" + kind + "-json"
		results = interleave([]load{c.load("off", json, "", ""), c.load("canonicalize", json, "", "")})
		fmt.Printf("| JSON, canonicalize, %s | %.0f | %s |\n", kind, median(rates(results[0])), cell(results[1], results[0]))
	}
	off, on := c.load("off", "/write", "", ""), c.load("on", "/write", "", "")
	off.write, on.write = true, true
	off.connections, on.connections = 1, 1 // writes to one resource wait for each other
	results = interleave([]load{off, on})
	fmt.Printf("| a guarded PUT of nothing, 1 connection | %.0f | %s |\n", median(rates(results[0])), cell(results[1], results[0]))

	fmt.Print("\n## 304 without the backend\n\nRequests a second of a 304 from memory to those of other answers.\n\n")
	printHeader([]string{"", "from memory, a second", "to Caddy's `respond 304`", "to a 304 without `remember`", "to the 200 with the handler off"})
	for _, size := range sizes {
		path := fmt.Sprintf("/repeating/%d", size)
		tag := tagAt(c.addresses["remember"], path)
		results := interleave([]load{
			c.load("remember", path, tag, ""),
			c.load("no backend", path, tag, ""),
			c.load("on", path, tag, ""),
			c.load("off", path, "", ""),
		})
		fmt.Printf("| %s | %.0f | %.2f | %.2f | %.2f |\n", name(size), median(rates(results[0])),
			ratio(rates(results[0]), rates(results[1])), ratio(rates(results[0]), rates(results[2])), ratio(rates(results[0]), rates(results[3])))
	}

	fmt.Print("\n## First byte of a stream\n\nTime from the request to the first event of a `text/event-stream`.\n\n| off | on |\n|---|---|\n")
	var without, with []float64
	for range *rounds * 10 {
		without = append(without, firstEvent(c.addresses["off"]))
		with = append(with, firstEvent(c.addresses["on"]))
	}
	fmt.Printf("| %.0f µs | %.0f µs |\n", median(without), median(with))
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
			{address: off.address, path: path},
			{address: on.address, path: path},
			{address: on.address, path: path, tag: tagAt(on.address, path)},
		})
		full += fmt.Sprintf(" %.2f |", ratio(rates(results[1]), rates(results[0])))
		notModified += fmt.Sprintf(" %.2f |", ratio(rates(results[2]), rates(results[0])))
	}
	fmt.Printf("| %s |%s%s\n", peer, full, notModified)
}

// interleave measures loads in turn, for some rounds. Each round has another
// order, since a load finds the machine as the one before has left it.
func interleave(loads []load) [][]measured {
	results := make([][]measured, len(loads))
	for i := range *rounds + 1 {
		for _, j := range rand.Perm(len(loads)) {
			m := loads[j].run()
			if i > 0 { // the first round is to warm up
				results[j] = append(results[j], m)
			}
		}
	}
	return results
}

func column(results []measured, of func(measured) float64) []float64 {
	values := make([]float64, len(results))
	for i, m := range results {
		values[i] = of(m)
	}
	return values
}

func rates(results []measured) []float64 {
	return column(results, func(m measured) float64 { return m.rate })
}

// cell tells how a load does to the same with the handler off.
func cell(on, off []measured) string {
	server := func(m measured) float64 { return m.server }
	total := func(m measured) float64 { return m.total }
	return fmt.Sprintf("%.2f / %.2f / %.2f", ratio(rates(on), rates(off)),
		ratio(column(off, server), column(on, server)), ratio(column(off, total), column(on, total)))
}

func printHeader(columns []string) {
	fmt.Printf("| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
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
