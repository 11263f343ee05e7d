package etag

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddyetag/caddy-etag/internal/freeport"
	"github.com/caddyetag/caddy-etag/internal/testcert"
)

// This file has what the tests need to run a real Caddy, in this process or in
// one of its own.

// freePort returns a TCP port that nothing listens on.
func freePort(tb testing.TB) string {
	tb.Helper()
	address, err := freeport.Address()
	require.NoError(tb, err)
	_, port, err := net.SplitHostPort(address)
	require.NoError(tb, err)
	return port
}

// adapt adapts a Caddyfile to JSON.
func adapt(caddyfile string) ([]byte, error) {
	adapter := caddyconfig.GetAdapter("caddyfile")
	config, _, err := adapter.Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return config, err
}

// load runs a Caddyfile in place of the one that ran before, if any.
func load(tb testing.TB, caddyfile string) {
	tb.Helper()
	config, err := adapt(caddyfile)
	require.NoError(tb, err)
	require.NoError(tb, caddy.Load(config, true))
}

// startCaddy runs a Caddy with one site until the end of the test, and
// returns the site's URL. The site is the body of a site block.
func startCaddy(tb testing.TB, site string) string {
	tb.Helper()
	url, caddyfile := siteAt(tb, site)
	load(tb, caddyfile)
	tb.Cleanup(stopCaddy)
	return url
}

func siteAt(tb testing.TB, site string) (url, caddyfile string) {
	port := freePort(tb)
	return "http://127.0.0.1:" + port, fmt.Sprintf(`{
		admin off
		persist_config off
		default_bind 127.0.0.1
		grace_period 1s
		log {
			level PANIC
		}
		servers {
			protocols h1 h2 h2c
		}
	}
	http://127.0.0.1:%s {
		%s
	}`, port, site)
}

// metricsSite is a site with the handler in front of an upstream, and its
// metrics.
func metricsSite(upstream string) string {
	return `handle /metrics {
			metrics
		}
		handle {
			etag {
				require_if_match PATCH
				lock local 10ms
			}
			reverse_proxy ` + upstream + `
		}`
}

func stopCaddy() { _ = caddy.Stop() }

// startTLS is startCaddy over HTTPS, with HTTP/1.1, HTTP/2 and HTTP/3.
func startTLS(tb testing.TB, site string) (url string, roots *x509.CertPool) {
	tb.Helper()
	dir := tb.TempDir()
	certificates, err := testcert.Make(dir)
	require.NoError(tb, err)
	port := freePort(tb)
	load(tb, fmt.Sprintf(`{
		admin off
		persist_config off
		default_bind 127.0.0.1
		grace_period 1s
		auto_https disable_redirects
		storage file_system %s
		log {
			level PANIC
		}
	}
	https://localhost:%s {
		tls %s %s
		%s
	}`, dir, port, certificates.Certificate, certificates.Key, site))
	tb.Cleanup(stopCaddy)
	return "https://localhost:" + port, certificates.Roots
}

// runAsCaddy in the environment makes the test binary a Caddy, so that tests
// can have several processes of it.
const runAsCaddy = "ETAG_TEST_RUN_AS_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(runAsCaddy) != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// startProcess runs a Caddy as a process of its own, on a storage, in front of
// an upstream. It returns the site's URL and the process.
func startProcess(t *testing.T, storage, options, upstream string) (string, *exec.Cmd) {
	t.Helper()
	return startProcessWithGrace(t, "1s", storage, options, upstream)
}

// startProcessWithGrace is startProcess of a Caddy that waits for so long when
// it ends.
func startProcessWithGrace(t *testing.T, grace, storage, options, upstream string) (string, *exec.Cmd) {
	t.Helper()
	url, caddyfile := siteAt(t, "etag {\n"+options+"\n}\nreverse_proxy "+upstream)
	caddyfile = strings.Replace(caddyfile, "{", "{\nstorage file_system "+storage, 1)
	caddyfile = strings.Replace(caddyfile, "grace_period 1s", "grace_period "+grace, 1)
	file := filepath.Join(t.TempDir(), "Caddyfile")
	require.NoError(t, os.WriteFile(file, []byte(caddyfile), 0o600))

	cmd := exec.CommandContext(context.Background(), os.Args[0], "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), runAsCaddy+"=1", "HOME="+t.TempDir(), "GOCOVERDIR="+t.TempDir())
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	eventually(t, func() bool {
		res, err := http.Get(url + "/up")
		if err == nil {
			res.Body.Close()
		}
		return err == nil
	})
	return url, cmd
}

// scripted is a handler, of a directive with this name, that serves what a test
// has it serve: what no backend does behind reverse_proxy.
type scripted struct{}

// script is what it serves.
var script atomic.Pointer[caddyhttp.HandlerFunc]

func init() {
	caddy.RegisterModule(scripted{})
	httpcaddyfile.RegisterHandlerDirective("scripted", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return scripted{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("scripted", httpcaddyfile.Before, "reverse_proxy")
}

func (scripted) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.scripted", New: func() caddy.Module { return new(scripted) }}
}

func (scripted) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return (*script.Load())(w, r)
}

// startScripted runs a Caddy with a site that has the directive.
func startScripted(tb testing.TB, site string, serve caddyhttp.HandlerFunc) (url string) {
	tb.Helper()
	script.Store(&serve)
	return startCaddy(tb, site)
}
