package etag

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// grpcEcho is a gRPC service as it is on the wire: messages with a length in
// front, sent back one by one, and the status in a trailer.
func grpcEcho(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_ = http.NewResponseController(w).Flush()
	for {
		message, err := readMessage(r.Body)
		if err != nil {
			break
		}
		_, _ = w.Write(message)
		_ = http.NewResponseController(w).Flush()
	}
	w.Header().Set("Grpc-Status", "0")
}

func grpcMessage(text string) []byte {
	message := make([]byte, 5, 5+len(text))
	binary.BigEndian.PutUint32(message[1:], uint32(len(text)))
	return append(message, text...)
}

// readMessage returns the next message, with its prefix.
func readMessage(r io.Reader) ([]byte, error) {
	prefix := make([]byte, 5)
	if _, err := io.ReadFull(r, prefix); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint32(prefix[1:]))
	_, err := io.ReadFull(r, message)
	return append(prefix, message...), err
}

// converse sends messages, each when the one before has been echoed.
func converse(t *testing.T, send io.WriteCloser, echo io.Reader, messages ...string) {
	t.Helper()
	for _, text := range messages {
		_, err := send.Write(grpcMessage(text))
		require.NoError(t, err)
		message, err := readMessage(echo)
		require.NoError(t, err)
		require.Equal(t, grpcMessage(text), message)
	}
	require.NoError(t, send.Close())
}

// TestGRPCWorks has each message of a stream answered before the next one is
// sent, also where the method is one that is guarded.
func TestGRPCWorks(t *testing.T) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	backend := httptest.NewUnstartedServer(http.HandlerFunc(grpcEcho))
	backend.Config.Protocols = protocols
	backend.Start()
	defer backend.Close()

	for _, options := range []string{"", "if_match POST"} {
		for name, messages := range map[string][]string{"unary": {"hello"}, "stream": {"one", "two", "three"}} {
			t.Run(name+" "+options, func(t *testing.T) {
				url := startCaddy(t, "etag {\n"+options+"\n}\nreverse_proxy h2c://"+backend.Listener.Addr().String())
				body, send := io.Pipe()
				req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url+"/echo.Echo/Say", body)
				require.NoError(t, err)
				req.Header.Set("Content-Type", "application/grpc")
				req.Header.Set("TE", "trailers")
				res, err := clientFor(t, "h2c", nil).Do(req)
				require.NoError(t, err)
				defer res.Body.Close()
				converse(t, send, res.Body, messages...)
				_, err = io.Copy(io.Discard, res.Body)
				require.NoError(t, err)
				require.Equal(t, "0", res.Trailer.Get("Grpc-Status"))
				require.Empty(t, res.Header.Get("ETag"))
			})
		}
	}
}

// TestResponseControllerReachesTheClientsWriter before and while a response is
// held.
func TestResponseControllerReachesTheClientsWriter(t *testing.T) {
	h := newHandler(t, Handler{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			control := http.NewResponseController(w)
			for range 2 {
				assert.NoError(t, control.SetReadDeadline(time.Now().Add(time.Minute)))
				assert.NoError(t, control.SetWriteDeadline(time.Now().Add(time.Minute)))
				assert.NoError(t, control.EnableFullDuplex())
				_, err := io.WriteString(w, "half ")
				assert.NoError(t, err)
				assert.NoError(t, control.Flush())
			}
			return nil
		}))
		assert.NoError(t, err)
	}))
	defer server.Close()
	res := get(t, server.URL)
	require.Equal(t, "half half ", res.body)
	require.Equal(t, tagFor("half half "), res.tag())
}

// TestFullDuplex answers each piece of a request's body before the next one is
// sent.
func TestFullDuplex(t *testing.T) {
	h := newHandler(t, Handler{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
				return err
			}
			w.Header().Set("X-Accel-Buffering", "no")
			grpcEcho(w, r)
			return nil
		}))
	}))
	defer server.Close()
	body, send := io.Pipe()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, server.URL, body)
	require.NoError(t, err)
	res, err := clientFor(t, "h1", nil).Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	converse(t, send, res.Body, "one", "two")
}

// pushRecorder notes what is pushed.
type pushRecorder struct {
	*httptest.ResponseRecorder
	pushed []string
}

func (r *pushRecorder) Push(target string, _ *http.PushOptions) error {
	r.pushed = append(r.pushed, target)
	return nil
}

func TestPushReachesTheClientsWriter(t *testing.T) {
	w := &pushRecorder{ResponseRecorder: httptest.NewRecorder()}
	err := newHandler(t, Handler{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil),
		caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			return w.(http.Pusher).Push("/style.css", nil)
		}))
	require.NoError(t, err)
	require.Equal(t, []string{"/style.css"}, w.pushed)
}

// echoLines is a backend that upgrades the connection, and then echoes lines.
func echoLines(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
	_ = buf.Flush()
	for {
		line, err := buf.ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprint(buf, "echo "+line)
		_ = buf.Flush()
	}
}

// TestUpgradeWorks: a connection that is upgraded is the backend's.
func TestUpgradeWorks(t *testing.T) {
	upstream := startUpstream(t, echoLines)
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	for _, field := range []string{"X-None: 1", "If-None-Match: *"} {
		host := strings.TrimPrefix(url, "http://")
		conn, err := net.Dial("tcp", host)
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n%s\r\n\r\n", host, field)
		buf := bufio.NewReader(conn)
		res, err := http.ReadResponse(buf, nil)
		require.NoError(t, err)
		require.Equal(t, 101, res.StatusCode)
		require.Empty(t, res.Header.Get("ETag"))
		for i := range 3 {
			fmt.Fprintf(conn, "message %d\n", i)
			line, err := buf.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("echo message %d\n", i), line)
		}
	}
}

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

func TestEarlyHintsComeBeforeTheTaggedResponse(t *testing.T) {
	hinted := make(chan struct{})
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		<-hinted // they must not be held with the rest
		_, _ = io.WriteString(w, "hello")
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	var links []string
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			require.Empty(t, header.Get("ETag"))
			links = append(links, fmt.Sprint(code, " ", header.Get("Link")))
			close(hinted)
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	res, err := clientFor(t, "h1", nil).Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, []string{"103 </style.css>; rel=preload"}, links)
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, tagFor("hello"), res.Header.Get("ETag"))
}
