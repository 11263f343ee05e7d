package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyetag/caddy-etag"
	_ "github.com/caddyetag/caddy-etag/etcdlock"
	_ "github.com/caddyetag/caddy-etag/redislock"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddyetag/caddy-etag/internal/freeport"
)

// A Caddy is this program again, with this variable set, so that only one
// build is needed.
const roleVar = "ETAG_STRESS_ROLE"

func runRole() { caddycmd.Main() }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// caddy is a Caddy in a process of its own.
type caddy struct {
	binary  string
	address string
	admin   string
	sites   string // a Caddyfile without its global options
	global  string // more global options
	logFile string
	version atomic.Int64 // of the configuration, which must differ to be loaded
	world   *world

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	killed *atomic.Bool // by kill
}

// startCaddy starts a Caddy with a site, which is the body of a site block.
func (w *world) startCaddy(name, site, global string) *caddy {
	c := &caddy{binary: w.binary, address: freeAddress(), admin: freeAddress(), global: global, world: w}
	c.sites = fmt.Sprintf("http://%s {\n%s\n}\n", c.address, site)
	c.logFile = filepath.Join(w.dir, name+".log")
	c.start()
	w.cleanup(func() {
		c.kill()
		c.readLog(w)
	})
	return c
}

func (c *caddy) caddyfile() string {
	version := c.version.Load()
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	default_bind 127.0.0.1
	grace_period %dms
	servers {
		protocols h1 h2c
	}
	log {
		level ERROR
	}
%s
}
%s`, c.admin, 3000+version, c.global, c.sites)
}

// start starts the process, and waits until it serves.
func (c *caddy) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	file := c.logFile + ".Caddyfile"
	check(os.WriteFile(file, []byte(c.caddyfile()), 0o600))
	output, err := os.OpenFile(c.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(err)
	defer output.Close()
	c.cmd = exec.CommandContext(context.Background(), c.binary, "run", "--config", file, "--adapter", "caddyfile")
	c.cmd.Env = append(os.Environ(), roleVar+"=caddy")
	c.cmd.Stdout, c.cmd.Stderr = output, output
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // should this process die
	check(c.cmd.Start())
	exited := make(chan struct{})
	killed := new(atomic.Bool)
	c.exited, c.killed = exited, killed
	go func(cmd *exec.Cmd) {
		err := cmd.Wait()
		if !killed.Load() {
			c.world.found("a Caddy has exited by itself: %v", err)
		}
		close(exited)
	}(c.cmd)
	if !await(c.address, exited) {
		text, _ := os.ReadFile(c.logFile)
		check(fmt.Errorf("a Caddy does not start: %s", text))
	}
}

// kill ends the process at once.
func (c *caddy) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed.Store(true)
	_ = c.cmd.Process.Kill()
	<-c.exited
}

// freeze stops the process as SIGSTOP does, and thaw lets it go on.
func (c *caddy) freeze() { c.signal(unix.SIGSTOP) }

func (c *caddy) thaw() { c.signal(unix.SIGCONT) }

func (c *caddy) signal(s unix.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.cmd.Process.Signal(s)
}

var adminClient = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// reload has Caddy load its configuration, changed in what changes nothing.
func (c *caddy) reload() error {
	c.version.Add(1)
	res, err := adminClient.Post("http://"+c.admin+"/load", "text/caddyfile", strings.NewReader(c.caddyfile()))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("reloading: %s: %s", res.Status, text)
	}
	return nil
}

// metrics returns Caddy's metrics that have no labels, by name.
func (c *caddy) metrics() (map[string]float64, error) {
	res, err := adminClient.Get("http://" + c.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	values := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if number, err := strconv.ParseFloat(value, 64); err == nil && !strings.HasPrefix(name, "#") {
			values[name] = number
		}
	}
	if len(values) == 0 {
		return nil, errors.New("no metrics")
	}
	return values, nil
}

// readLog looks in the log for what no client may see.
func (c *caddy) readLog(w *world) {
	text, err := os.ReadFile(c.logFile)
	check(err)
	for _, fault := range []string{"runtime error", "\npanic: ", "DATA RACE", "fatal error:", "runtime/debug.Stack", "concurrent map"} {
		if bytes.Contains(text, []byte(fault)) {
			check(os.MkdirAll(w.out, 0o700))
			file := filepath.Join(w.out, fmt.Sprintf("%s-%d-%s", w.result.profile, w.seed, filepath.Base(c.logFile)))
			check(os.WriteFile(file, text, 0o600))
			w.found("Caddy's log has %q: %s", fault, file)
			return
		}
	}
}

// await waits until something listens. It gives up when the process exits.
func await(address string, exited <-chan struct{}) bool {
	for range 3000 {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return true
		}
		select {
		case <-exited:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return false
}

func freeAddress() string {
	address, err := freeport.Address()
	check(err)
	return address
}
