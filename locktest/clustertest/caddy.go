//go:build unix

// Package clustertest tests a locker whose service several Caddys share, with
// Caddys in processes of their own, before one backend.
package clustertest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyetag/caddy-etag/internal/freeport"
)

// runAsCaddy in the environment makes the test binary a Caddy.
const runAsCaddy = "ETAG_TEST_RUN_AS_CADDY"

// Main is the TestMain of a module that uses this package: it runs the tests,
// or a Caddy with what is built into the test binary.
func Main(m *testing.M) {
	if os.Getenv(runAsCaddy) != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// FreePort returns a TCP port that nothing listens on.
func FreePort(tb testing.TB) string {
	tb.Helper()
	address, err := freeport.Address()
	if err != nil {
		tb.Fatal(err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		tb.Fatal(err)
	}
	return port
}

// Eventually waits until a condition holds that something else brings about.
// The limit is for a condition that never does.
func Eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Process is a process of the test.
type Process struct {
	cmd    *exec.Cmd
	output bytes.Buffer
	ended  sync.Once
}

// StartProcess starts a process that ends with the test.
func StartProcess(tb testing.TB, cmd *exec.Cmd) *Process {
	tb.Helper()
	p := &Process{cmd: cmd}
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		p.Kill()
		if tb.Failed() {
			tb.Logf("%s said:\n%s", filepath.Base(cmd.Path), last(p.output.String(), 8000))
		}
	})
	return p
}

func last(text string, n int) string { return text[max(0, len(text)-n):] }

// Kill ends the process as a crash would.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Terminate ends the process as an operator would.
func (p *Process) Terminate() { p.end(syscall.SIGTERM) }

func (p *Process) end(signal syscall.Signal) {
	p.ended.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		_ = p.cmd.Process.Signal(signal)
		_ = p.cmd.Wait()
	})
}

// Pause stops the process until Resume.
func (p *Process) Pause(tb testing.TB) {
	tb.Helper()
	p.signal(tb, syscall.SIGSTOP)
	Eventually(tb, "the process stops", func() bool {
		state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(p.cmd.Process.Pid)).Output() //nolint:gosec // a number
		return err == nil && strings.HasPrefix(strings.TrimSpace(string(state)), "T")
	})
	time.Sleep(50 * time.Millisecond) // so that its last thread has
}

// Resume lets a paused process go on.
func (p *Process) Resume(tb testing.TB) { p.signal(tb, syscall.SIGCONT) }

func (p *Process) signal(tb testing.TB, signal syscall.Signal) {
	tb.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		tb.Fatal(err)
	}
}

// Caddy is a Caddy in a process of its own.
type Caddy struct {
	*Process
	URL string
}

// StartCaddy starts a Caddy with the etag handler and a lock before a backend.
// The lock is what follows `lock` in a Caddyfile.
func StartCaddy(tb testing.TB, lock, backend string) *Caddy {
	tb.Helper()
	port := FreePort(tb)
	dir := tb.TempDir()
	caddyfile := fmt.Sprintf(`{
	admin off
	persist_config off
	storage file_system %s
	default_bind 127.0.0.1
	grace_period 1s
}
http://127.0.0.1:%s {
	etag {
		lock %s
	}
	reverse_proxy %s {
		transport http {
			dial_timeout 5s
		}
	}
}
`, dir, port, lock, backend)
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "run", "--config", file, "--adapter", "caddyfile") //nolint:gosec // this very binary
	cmd.Env = append(os.Environ(), runAsCaddy+"=1", "HOME="+dir, "GOCOVERDIR="+dir)
	caddy := &Caddy{Process: StartProcess(tb, cmd), URL: "http://127.0.0.1:" + port}
	Eventually(tb, "Caddy answers", func() bool {
		res, err := http.Get(caddy.URL + "/up")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return true
	})
	return caddy
}

// Answer is what a Caddy answered with.
type Answer struct {
	Status int
	Tag    string
	Body   string
	Err    error
}

// Do sends a request, and a write with the tag that it rests on.
func (c *Caddy) Do(method, path, body, tag string) Answer {
	req, err := http.NewRequest(method, c.URL+path, strings.NewReader(body)) //nolint:noctx // the client has a timeout
	if err != nil {
		return Answer{Err: err}
	}
	if tag != "" {
		req.Header.Set("If-Match", tag)
		req.Header.Set("X-Base", tag)
	}
	res, err := client.Do(req)
	if err != nil {
		return Answer{Err: err}
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return Answer{Status: res.StatusCode, Tag: res.Header.Get("ETag"), Body: string(text), Err: err}
}

// Go is Do that goes on by itself.
func (c *Caddy) Go(method, path, body, tag string) <-chan Answer {
	answers := make(chan Answer, 1)
	go func() { answers <- c.Do(method, path, body, tag) }()
	return answers
}

// Await waits for an answer.
func Await(tb testing.TB, answers <-chan Answer) Answer {
	tb.Helper()
	select {
	case answer := <-answers:
		return answer
	case <-time.After(2 * time.Minute):
		tb.Fatal("no answer")
		return Answer{}
	}
}

var client = &http.Client{
	Timeout:   2 * time.Minute,
	Transport: &http.Transport{MaxIdleConnsPerHost: 100},
}
