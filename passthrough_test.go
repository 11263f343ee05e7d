package etag

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
				require.NoError(t, control.SetReadDeadline(time.Now().Add(time.Minute)))
				require.NoError(t, control.SetWriteDeadline(time.Now().Add(time.Minute)))
				require.NoError(t, control.EnableFullDuplex())
				_, err := io.WriteString(w, "half ")
				require.NoError(t, err)
				require.NoError(t, control.Flush())
			}
			return nil
		}))
		require.NoError(t, err)
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
