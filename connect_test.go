package etag

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// TestExtendedConnectIsNotHeld: the upgrade to WebSocket of HTTP/2 (RFC 8441),
// which reverse_proxy makes one of HTTP/1.1 to the backend.
//
//nolint:staticcheck // the transport of net/http takes no :protocol
func TestExtendedConnectIsNotHeld(t *testing.T) {
	upstream := startUpstream(t, echoLines)
	t.Setenv("GODEBUG", "http2xconnect=1") // which Go's server asks for when it starts
	url, _ := startProcess(t, t.TempDir(), "", upstream)

	transport := &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}
	defer transport.CloseIdleConnections()
	body, send := io.Pipe()
	defer send.Close()
	req, err := http.NewRequest(http.MethodConnect, url, body)
	require.NoError(t, err)
	req.Header[":protocol"] = []string{"websocket"}
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("If-None-Match", "*")
	res, err := transport.RoundTrip(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, 200, res.StatusCode)
	require.Empty(t, res.Header.Get("ETag"))
	echo := bufio.NewReader(res.Body)
	for i := range 3 {
		fmt.Fprintf(send, "message %d\n", i)
		line, err := echo.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("echo message %d\n", i), line)
	}
}
