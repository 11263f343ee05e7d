// Command cluster shows several Caddys before one backend: two that guard its
// writes and share their locks in a Redis, and a third one that spreads the
// load. It starts all of them, has fifty writers race for one document, shows
// what is answered from memory and forgotten together, and kills a Caddy while
// it writes.
//
//	cd examples/cluster && go run .
//
// It needs Go and redis-server (Debian's package redis-server), and ends by
// itself.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyetag/caddy-etag"
	_ "github.com/caddyetag/caddy-etag/redislock"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddyetag/caddy-etag/internal/freeport"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "run" {
		caddycmd.Main() // one of the Caddys
		return
	}
	log.SetFlags(0)
	if err := show(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// guard is the configuration of a Caddy that guards writes.
const guard = `{
	admin off
	persist_config off
	grace_period 1s
	log {
		level ERROR
	}
}
http://%[1]s {
	header X-Caddy %[2]s
	etag {
		lock redis 15s {
			address %[3]s
		}
		remember 1h {
			redis {
				address %[3]s
			}
		}
	}
	reverse_proxy %[4]s
}
`

// balance is the configuration of the Caddy in front.
const balance = `{
	admin off
	persist_config off
	grace_period 1s
	log {
		level PANIC
	}
}
http://%s {
	reverse_proxy %s {
		lb_policy round_robin
		lb_try_duration 5s
		fail_duration 30s
		# A write on a connection that a dead Caddy has left is not sent again, as it
		# may have been done; one that can't connect goes to the other Caddy.
		transport http {
			keepalive off
		}
	}
}
`

// show runs all and tells what happens.
func show(out io.Writer) error {
	c, err := start()
	if c != nil {
		defer c.stop()
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "A backend, a redis-server, two Caddys that share their locks in it, and a third one in front.")
	if err := c.race(out); err != nil {
		return err
	}
	if err := c.forget(out); err != nil {
		return err
	}
	return c.kill(out)
}

// forget shows that a write through one Caddy is known to the other, which
// answers from memory.
func (c *cluster) forget(out io.Writer) error {
	_, tag, _, err := c.request(c.one, http.MethodGet, "", "")
	if err != nil {
		return err
	}
	before := c.backend.reads()
	var status int
	for range 100 { // the first ones find out that Redis is heard
		if status, err = c.revalidate(c.one, tag); err != nil {
			return err
		}
	}
	asked := c.backend.reads() - before
	fmt.Fprintf(out, "100 reads with that tag through Caddy one: each a %d, and the backend was asked %d times.\n", status, asked)
	if status != http.StatusNotModified || asked > 90 {
		return fmt.Errorf("a read was answered with %d, and the backend asked %d times", status, asked)
	}
	if status, _, _, err = c.request(c.two, http.MethodPut, "by way of Caddy two", tag); err != nil {
		return err
	}
	written := time.Now()
	for {
		read, err := c.revalidate(c.one, tag)
		if err != nil {
			return err
		}
		if read == http.StatusOK {
			break
		}
		if time.Since(written) > 10*time.Second {
			return fmt.Errorf("after the write, Caddy one still answers %d from memory", read)
		}
	}
	fmt.Fprintf(out, "A write through Caddy two: %d. Caddy one has forgotten that tag.\n", status)
	return nil
}

// revalidate asks a Caddy whether a tag is current.
func (c *cluster) revalidate(address, tag string) (status int, err error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+address+"/doc", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("If-None-Match", tag)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// race has fifty clients write what they have read, at one time.
func (c *cluster) race(out io.Writer) error {
	const writers = 50
	_, tag, _, err := c.do(http.MethodGet, "", "")
	if err != nil {
		return err
	}
	var mu sync.Mutex
	outcomes := make(map[string]int)
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			status, _, caddy, err := c.do(http.MethodPut, fmt.Sprintf("of writer %d", i), tag)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				outcomes[err.Error()]++
				return
			}
			outcomes[fmt.Sprintf("%d by Caddy %s", status, caddy)]++
		})
	}
	group.Wait()
	won := outcomes["204 by Caddy one"] + outcomes["204 by Caddy two"]
	fmt.Fprintf(out, "%d writers race for one document, all with the tag %s: %d won, %d got a 412. %v\n",
		writers, tag, won, outcomes["412 by Caddy one"]+outcomes["412 by Caddy two"], outcomes)
	if won != 1 || c.backend.writes() != 1 {
		return fmt.Errorf("%d writers won, and %d writes came to the backend", won, c.backend.writes())
	}
	return nil
}

// kill kills a Caddy while a write goes through it.
func (c *cluster) kill(out io.Writer) error {
	_, tag, _, err := c.do(http.MethodGet, "", "")
	if err != nil {
		return err
	}
	entered := c.backend.hold()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _, _, _ = c.request(c.one, http.MethodPut, "of one that is killed", tag)
	}()
	<-entered
	fmt.Fprintln(out, "A writer is at the backend through Caddy one, which is killed now.")
	killed := time.Now()
	c.kills(c.oneProcess)
	<-ended
	c.backend.free()
	status, _, caddy, err := c.do(http.MethodPut, "after the kill", tag)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "The next writer, by Caddy %s, waits until the lock of the dead one has expired: %d after %s.\n",
		caddy, status, time.Since(killed).Round(100*time.Millisecond))
	if status != http.StatusNoContent || caddy != "two" {
		return fmt.Errorf("a write after the kill was answered with %d by Caddy %s", status, caddy)
	}
	return nil
}

// cluster is all that runs.
type cluster struct {
	backend    *backend
	front, one string
	two        string
	oneProcess *exec.Cmd
	dir        string
	processes  []*exec.Cmd
}

func start() (*cluster, error) {
	dir, err := os.MkdirTemp("", "cluster")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, backend: &backend{doc: "the first version"}}
	addresses := make([]string, 5)
	for i := range addresses {
		if addresses[i], err = freeport.Address(); err != nil {
			return c, err
		}
	}
	upstream, redis, one, two, front := addresses[0], addresses[1], addresses[2], addresses[3], addresses[4]
	c.front, c.one, c.two = front, one, two

	listener, err := net.Listen("tcp", upstream)
	if err != nil {
		return c, err
	}
	go func() { _ = http.Serve(listener, c.backend) }()

	_, port, _ := net.SplitHostPort(redis)
	if _, err := c.run("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", dir); err != nil {
		return c, fmt.Errorf("%w; on Debian, apt install redis-server", err)
	}
	if c.oneProcess, err = c.caddy("one", fmt.Sprintf(guard, one, "one", redis, upstream)); err != nil {
		return c, err
	}
	if _, err = c.caddy("two", fmt.Sprintf(guard, two, "two", redis, upstream)); err != nil {
		return c, err
	}
	if _, err = c.caddy("front", fmt.Sprintf(balance, front, one+" "+two)); err != nil {
		return c, err
	}
	for _, address := range []string{one, two, front} {
		if err := c.await(address); err != nil {
			return c, err
		}
	}
	return c, nil
}

// caddy starts a Caddy, which is this very program.
func (c *cluster) caddy(name, caddyfile string) (*exec.Cmd, error) {
	file := filepath.Join(c.dir, name+".caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return c.run(self, "run", "--config", file, "--adapter", "caddyfile")
}

func (c *cluster) run(name string, args ...string) (*exec.Cmd, error) {
	process := exec.Command(name, args...)
	process.Env = append(os.Environ(), "XDG_DATA_HOME="+c.dir, "XDG_CONFIG_HOME="+c.dir)
	if err := process.Start(); err != nil {
		return nil, err
	}
	c.processes = append(c.processes, process)
	return process, nil
}

// await waits until a Caddy answers.
func (c *cluster) await(address string) error {
	for range 600 {
		if status, _, _, err := c.request(address, http.MethodGet, "", ""); err == nil && status == http.StatusOK {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("nothing answers at %s", address)
}

func (c *cluster) kills(process *exec.Cmd) {
	_ = process.Process.Kill()
	_ = process.Wait()
}

func (c *cluster) stop() {
	for _, process := range c.processes {
		c.kills(process)
	}
	_ = os.RemoveAll(c.dir)
}

// do sends a request to the Caddy in front.
func (c *cluster) do(method, body, tag string) (status int, current, caddy string, err error) {
	return c.request(c.front, method, body, tag)
}

func (c *cluster) request(address, method, body, tag string) (status int, current, caddy string, err error) {
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+address+"/doc", strings.NewReader(body))
	if err != nil {
		return 0, "", "", err
	}
	if tag != "" {
		req.Header.Set("If-Match", tag)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, res.Header.Get("ETag"), res.Header.Get("X-Caddy"), err
}

// backend has one document and knows nothing of ETags.
type backend struct {
	mu      sync.Mutex
	doc     string
	written int
	read    int
	gate    chan struct{} // writes wait for it, if there is one
	entered chan struct{}
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if r.Method == http.MethodGet {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.read++
		_, _ = io.WriteString(w, b.doc)
		return
	}
	b.mu.Lock()
	gate, entered := b.gate, b.entered
	b.mu.Unlock()
	if gate != nil {
		entered <- struct{}{}
		select {
		case <-gate:
		case <-r.Context().Done():
			return // the write of a Caddy that is gone is not done
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.doc = string(body)
	b.written++
	w.WriteHeader(http.StatusNoContent)
}

func (b *backend) reads() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

func (b *backend) writes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written
}

// hold has writes wait until free. The channel tells of each that does.
func (b *backend) hold() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gate, b.entered = make(chan struct{}), make(chan struct{}, 1)
	return b.entered
}

func (b *backend) free() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gate = nil
}
