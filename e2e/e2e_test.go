// Package e2e runs one table of requests against backends in several
// frameworks, behind Caddy with the etag handler.
package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/caddyetag/caddy-etag"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddyetag/caddy-etag/internal/freeport"
)

// backends are the products APIs. None has code or settings of its own for
// ETags, unless it is told to bring its own.
var backends = []struct {
	name string
	own  bool // it brings its own tags
	// byDefault is that it brings its own tags without being told to.
	byDefault bool
	command   []string
}{
	{name: "Express", byDefault: true, command: []string{"node", "express/app.js"}},
	{name: "FastAPI", command: []string{python, "fastapi/app.py"}},
	{name: "Django REST framework", command: []string{python, "django/app.py"}},
	{name: "chi", command: []string{"chi"}}, // which the test builds
	{name: "Express, strong tags", own: true, command: []string{"node", "express/app.js"}},
	{name: "FastAPI, tags of versions", own: true, command: []string{python, "fastapi/app.py"}},
	{name: "Django, ConditionalGetMiddleware", own: true, command: []string{python, "django/app.py"}},
	{name: "chi, tags of versions", own: true, command: []string{"chi"}},
}

// python is Debian's, whose packages have the frameworks.
const python = "/usr/bin/python3"

func TestEveryBackend(t *testing.T) {
	chi := filepath.Join(t.TempDir(), "chi")
	out, err := exec.Command("go", "build", "-o", chi, "./chi").CombinedOutput()
	require.NoError(t, err, string(out))

	config := "{\nadmin off\npersist_config off\nauto_https off\ndefault_bind 127.0.0.1\nlog {\nlevel PANIC\n}\n}\n"
	behindCaddy, direct := make([]string, len(backends)), make([]string, len(backends))
	for i, backend := range backends {
		command := slices.Clone(backend.command)
		if command[0] == "chi" {
			command[0] = chi
		}
		direct[i] = freeAddress(t)
		behindCaddy[i] = freeAddress(t)
		startBackend(t, backend.name, direct[i], backend.own, command...)
		config += fmt.Sprintf("http://%s {\netag {\nrequire_if_match\n}\nreverse_proxy %s\n}\n", behindCaddy[i], direct[i])
	}
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	require.NoError(t, err)
	require.NoError(t, caddy.Load(adapted, true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })

	for i, backend := range backends {
		t.Run(backend.name, func(t *testing.T) {
			c := &client{t: t, url: "http://" + behindCaddy[i]}
			product := c.create()
			own := (&client{t: t, url: "http://" + direct[i]}).do("GET", product, "").tag()
			require.Equal(t, backend.own || backend.byDefault, own != "", "the backend's own tag is %q", own)
			if own != "" {
				require.Equal(t, own, c.do("GET", product, "").tag(), "it is kept")
			}
			t.Run("reads", func(t *testing.T) { c.with(t).reads() })
			t.Run("refused writes", func(t *testing.T) { c.with(t).refusedWrites() })
			t.Run("writes", func(t *testing.T) { c.with(t).writes() })
			t.Run("writes at one time", func(t *testing.T) { c.with(t).writesAtOneTime() })
			t.Run("deletions", func(t *testing.T) { c.with(t).deletions() })
		})
	}
}

// reads has a tag, a 304, HEAD, a list and *.
func (c *client) reads() {
	product := c.create()
	for _, path := range []string{product, "/products"} {
		full := c.do("GET", path, "")
		require.Equal(c.t, 200, full.status)
		require.Regexp(c.t, `^(W/)?"[^"]+"$`, full.tag())
		require.Equal(c.t, full.tag(), c.do("GET", path, "").tag())

		for _, field := range []string{full.tag(), `"x", ` + full.tag(), "*"} {
			again := c.do("GET", path, "", "If-None-Match", field)
			require.Equal(c.t, 304, again.status, field)
			require.Empty(c.t, again.body)
			require.Equal(c.t, full.tag(), again.tag())
		}
		require.Equal(c.t, 200, c.do("GET", path, "", "If-None-Match", `"x"`).status)

		head := c.do("HEAD", path, "")
		require.Empty(c.t, head.body)
		if head.status == 405 { // of FastAPI and chi, which have no route for it
			continue
		}
		require.Equal(c.t, 200, head.status)
		for _, name := range []string{"Etag", "Content-Type", "Content-Length"} {
			require.Equal(c.t, full.header.Get(name), head.header.Get(name), name)
		}
		require.Equal(c.t, 304, c.do("HEAD", path, "", "If-None-Match", full.tag()).status)
	}
	missing := c.do("GET", "/products/999999", "")
	require.Equal(c.t, 404, missing.status)
	require.Equal(c.t, 404, c.do("GET", "/products/999999", "", "If-None-Match", "*").status)
}

// refusedWrites are those without a precondition, and with false ones. They
// change nothing.
func (c *client) refusedWrites() {
	product := c.create()
	before := c.do("GET", product, "")
	for _, method := range []string{"PUT", "PATCH", "DELETE"} {
		// If-None-Match with a tag says nothing of what is overwritten
		for _, fields := range [][]string{nil, {"If-None-Match", before.tag()}} {
			required := c.do(method, product, changed("428"), fields...)
			require.Equal(c.t, 428, required.status, method)
			require.Equal(c.t, "application/problem+json", required.header.Get("Content-Type"))
		}

		for _, fields := range [][]string{{"If-Match", `"old"`}, {"If-Match", ""}, {"If-None-Match", "*"}} {
			refused := c.do(method, product, changed("412"), fields...)
			require.Equal(c.t, 412, refused.status, "%s %s", method, fields)
			require.Equal(c.t, before.tag(), refused.tag())
			var problem struct{ CurrentETag, YourETag string }
			require.NoError(c.t, json.Unmarshal([]byte(refused.body), &problem))
			require.Equal(c.t, before.tag(), problem.CurrentETag)
			if fields[0] == "If-Match" {
				require.Equal(c.t, fields[1], problem.YourETag)
			}
		}
	}
	require.Equal(c.t, before.body, c.do("GET", product, "").body)
	require.Equal(c.t, 404, c.do("PUT", "/products/999999", changed("404"), "If-Match", `"x"`).status)
}

// writes with the current tag, or *, pass; their tags are those that follow.
func (c *client) writes() {
	product := c.create()
	read, list := c.do("GET", product, ""), c.do("GET", "/products", "")
	for _, method := range []string{"PUT", "PATCH", "PUT"} {
		written := c.do(method, product, changed(method+read.tag()), "If-Match", read.tag())
		require.Equal(c.t, 200, written.status, "%s: %s", method, written.body)
		after := c.do("GET", product, "")
		require.NotEqual(c.t, read.tag(), after.tag())
		require.Equal(c.t, after.tag(), written.tag(), "the answer to %s has the new tag", method)
		require.Equal(c.t, after.body, written.body)

		require.Equal(c.t, 412, c.do(method, product, changed("lost"), "If-Match", read.tag()).status)
		require.Equal(c.t, after.body, c.do("GET", product, "").body)
		require.Equal(c.t, 200, c.do("GET", product, "", "If-None-Match", read.tag()).status)
		require.Equal(c.t, 304, c.do("GET", product, "", "If-None-Match", after.tag()).status)
		read = after
	}
	require.NotEqual(c.t, list.tag(), c.do("GET", "/products", "").tag())
	require.Equal(c.t, 200, c.do("GET", "/products", "", "If-None-Match", list.tag()).status)
	require.Equal(c.t, 200, c.do("PUT", product, changed("any"), "If-Match", "*").status)
	require.Equal(c.t, 200, c.do("PUT", product, changed("one of two"), "If-Match", `"x", `+c.do("GET", product, "").tag()).status)
}

// writesAtOneTime have one tag, and one of them passes.
func (c *client) writesAtOneTime() {
	product := c.create()
	for round := range 5 {
		tag := c.do("GET", product, "").tag()
		const writers = 8
		statuses := make([]int, writers)
		var done sync.WaitGroup
		for i := range writers {
			done.Go(func() {
				res, err := c.try([]string{"PUT", "PATCH"}[i%2], product, changed(fmt.Sprint(round, " ", i)), "If-Match", tag)
				if err == nil {
					statuses[i] = res.status
				}
			})
		}
		done.Wait()
		slices.Sort(statuses)
		require.Equal(c.t, append([]int{200}, slices.Repeat([]int{412}, writers-1)...), statuses)
	}
}

func (c *client) deletions() {
	product := c.create()
	tag := c.do("GET", product, "").tag()
	require.Equal(c.t, 200, c.do("PUT", product, changed("once more"), "If-Match", tag).status)
	require.Equal(c.t, 412, c.do("DELETE", product, "", "If-Match", tag).status)
	deleted := c.do("DELETE", product, "", "If-Match", c.do("GET", product, "").tag())
	require.Equal(c.t, 204, deleted.status)
	require.Empty(c.t, deleted.tag())
	require.Equal(c.t, 404, c.do("GET", product, "").status)
	require.Equal(c.t, 404, c.do("DELETE", product, "", "If-Match", "*").status)
}

// changed is what a write sends.
func changed(name string) string {
	body, _ := json.Marshal(map[string]any{"name": name, "price": 9.5})
	return string(body)
}

// client sends requests to one server.
type client struct {
	t   *testing.T
	url string
}

func (c *client) with(t *testing.T) *client { return &client{t, c.url} }

type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) tag() string { return r.header.Get("ETag") }

// create makes a product and returns its path.
func (c *client) create() string {
	c.t.Helper()
	res := c.do("POST", "/products", `{"name": "Espresso cup", "price": 12.5}`)
	require.Equal(c.t, 201, res.status, res.body)
	var product struct{ ID int }
	require.NoError(c.t, json.Unmarshal([]byte(res.body), &product))
	return fmt.Sprintf("/products/%d", product.ID)
}

func (c *client) do(method, path, body string, fields ...string) reply {
	c.t.Helper()
	res, err := c.try(method, path, body, fields...)
	require.NoError(c.t, err)
	return res
}

func (c *client) try(method, path, body string, fields ...string) (reply, error) {
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header[fields[i]] = []string{fields[i+1]} // also an empty one
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(content)}, err
}

// startBackend starts a backend, and waits until it answers.
func startBackend(t *testing.T, name, address string, own bool, command ...string) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		require.FailNow(t, name+" needs "+command[0]+": see .ci/e2e for what to install")
	}
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "PORT="+port, "NODE_ENV=production", "PYTHONUNBUFFERED=1")
	if own {
		cmd.Env = append(cmd.Env, "TAGS=own")
	}
	var output syncBuffer
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
	})

	deadline := time.Now().Add(2 * time.Minute)
	for {
		res, err := http.Get("http://" + address + "/products")
		if err == nil {
			res.Body.Close()
			require.Equal(t, 200, res.StatusCode, "%s: %s", name, output.String())
			return
		}
		select {
		case err := <-exited:
			exited <- err
			require.FailNow(t, name+" has ended", "%v\n%s", err, output.String())
		default:
			require.True(t, time.Now().Before(deadline), "%s does not answer: %v\n%s", name, errors.Unwrap(err), output.String())
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// syncBuffer is a buffer that a process writes to while it is read.
type syncBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer // not embedded: its ReadFrom would take no lock
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := freeport.Address()
	require.NoError(t, err)
	return address
}
