package etag

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// This file has what the tests need to run a real Caddy in this process.

// freePort returns a TCP port that nothing listens on.
func freePort(tb testing.TB) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
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

func stopCaddy() { _ = caddy.Stop() }

// startTLS is startCaddy over HTTPS, with HTTP/1.1, HTTP/2 and HTTP/3.
func startTLS(tb testing.TB, site string) (url string, roots *x509.CertPool) {
	tb.Helper()
	dir := tb.TempDir()
	cert, key, roots := makeCertificate(tb, dir)
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
	}`, dir, port, cert, key, site))
	tb.Cleanup(stopCaddy)
	return "https://localhost:" + port, roots
}

func makeCertificate(tb testing.TB, dir string) (certFile, keyFile string, roots *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "localhost"},
		DNSNames:              []string{"localhost"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(tb, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(tb, err)

	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	certFile = filepath.Join(dir, "cert.pem")
	keyFile = filepath.Join(dir, "key.pem")
	require.NoError(tb, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(tb, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))

	roots = x509.NewCertPool()
	require.True(tb, roots.AppendCertsFromPEM(certPEM))
	return certFile, keyFile, roots
}

// startUpstream runs a backend until the end of the test, and returns its
// address.
func startUpstream(tb testing.TB, handler http.HandlerFunc) string {
	tb.Helper()
	srv := httptest.NewServer(handler)
	tb.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// clientFor returns a client that speaks one protocol, "h1", "h2", "h2c" or
// "h3", neither asks for compression nor follows redirects.
func clientFor(tb testing.TB, protocol string, roots *x509.CertPool) *http.Client {
	tb.Helper()
	client := &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	tlsConfig := &tls.Config{RootCAs: roots}
	if protocol == "h3" {
		transport := &http3.Transport{TLSClientConfig: tlsConfig, DisableCompression: true}
		tb.Cleanup(func() { transport.Close() })
		client.Transport = transport
		return client
	}

	protocols := new(http.Protocols)
	switch protocol {
	case "h1":
		protocols.SetHTTP1(true)
	case "h2":
		protocols.SetHTTP2(true)
	case "h2c":
		protocols.SetUnencryptedHTTP2(true)
	default:
		tb.Fatalf("unknown protocol %q", protocol)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, Protocols: protocols, DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	client.Transport = transport
	return client
}

// reply is a response that has been read to its end.
type reply struct {
	status  int
	header  http.Header
	trailer http.Header
	body    string
	length  int64 // Content-Length, or -1
	err     error // from reading the body
}

func (r reply) tag() string { return r.header.Get("ETag") }

// do sends a request with the header fields given as pairs of name and value,
// and reads the response.
func do(tb testing.TB, client *http.Client, method, url, body string, fields ...string) reply {
	tb.Helper()
	res, err := try(client, method, url, body, fields...)
	require.NoError(tb, err)
	return res
}

// try is do for a request that may get no response, or is sent from another
// goroutine than the test's.
func try(client *http.Client, method, url, body string, fields ...string) (reply, error) {
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, url, content)
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	var buf bytes.Buffer
	_, err = buf.ReadFrom(res.Body)
	return reply{res.StatusCode, res.Header, res.Trailer, buf.String(), res.ContentLength, err}, nil
}

// get is do for a GET request over HTTP/1.1.
func get(tb testing.TB, url string, fields ...string) reply {
	tb.Helper()
	return do(tb, clientFor(tb, "h1", nil), http.MethodGet, url, "", fields...)
}

// readLines returns the lines of a file, without the empty one at its end.
func readLines(tb testing.TB, file string) []string {
	tb.Helper()
	text, err := os.ReadFile(file)
	require.NoError(tb, err)
	return strings.Split(strings.TrimRight(string(text), "\n"), "\n")
}

// eventually waits until a condition holds that another goroutine brings
// about. The limit is for a condition that never does.
func eventually(tb testing.TB, condition func() bool) {
	tb.Helper()
	for range 10_000 {
		if condition() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	require.FailNow(tb, "the condition never came to hold")
}
