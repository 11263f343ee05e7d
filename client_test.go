package etag

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"
)

// This file has the clients that the tests talk to a Caddy with.

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
// and reads the response, which must come to its end.
func do(tb testing.TB, client *http.Client, method, url, body string, fields ...string) reply {
	tb.Helper()
	res, err := try(client, method, url, body, fields...)
	require.NoError(tb, err)
	require.NoError(tb, res.err)
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
	addFields(req.Header, fields)
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
