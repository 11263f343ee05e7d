package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// load is one request that is sent over and over.
type load struct {
	address, path string
	tag           string   // for If-None-Match, if there is one
	protocol      string   // h1 if empty, else h2 or h3, over TLS
	connections   int      // as many as the flag says if 0
	write         bool     // a PUT with If-Match: *
	servers       []server // whose processor time counts, the first one apart
}

// measured is what a round of a load has come to.
type measured struct {
	rate   float64 // requests a second
	server float64 // processor time of the first server for a request, in µs
	total  float64 // that of all servers and of the client
}

// run sends the request from all clients for a round.
func (l load) run() measured {
	var answered atomic.Int64
	clients := make([]func() error, cmp.Or(l.connections, *connections))
	for i := range clients {
		var done func()
		clients[i], done = l.client()
		defer done()
		check(clients[i]()) // connects
	}

	ctx, stop := context.WithTimeout(context.Background(), *round)
	defer stop()
	before := l.processorTimes()
	start := time.Now()
	var wg sync.WaitGroup
	for _, ask := range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				check(ask())
				answered.Add(1)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	m := measured{rate: float64(answered.Load()) / elapsed.Seconds()}
	for i, after := range l.processorTimes() {
		perRequest := float64((after - before[i]).Nanoseconds()) / 1000 / float64(answered.Load())
		m.total += perRequest
		if i == 0 {
			m.server = perRequest
		}
	}
	return m
}

// processorTimes are those of the servers and, at last, of this process.
func (l load) processorTimes() []time.Duration {
	times := make([]time.Duration, 0, len(l.servers)+1)
	for _, s := range l.servers {
		times = append(times, processorTime(s.cmd.Process.Pid))
	}
	return append(times, processorTime(os.Getpid()))
}

func (l load) want() string {
	switch {
	case l.write:
		return "204"
	case l.tag != "":
		return "304"
	}
	return "200"
}

// client returns a client with a connection of its own.
func (l load) client() (ask func() error, done func()) {
	if l.protocol == "" {
		return l.plainClient()
	}
	tlsConfig := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	var transport http.RoundTripper
	if l.protocol == "h3" {
		h3 := &http3.Transport{TLSClientConfig: tlsConfig}
		transport, done = h3, func() { _ = h3.Close() }
	} else {
		h2 := &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}
		transport, done = h2, h2.CloseIdleConnections
	}
	request, err := http.NewRequest(http.MethodGet, "https://"+l.address+l.path, nil)
	check(err)
	if l.tag != "" {
		request.Header.Set("If-None-Match", l.tag)
	}
	buffer := make([]byte, 64<<10)
	return func() error {
		res, err := transport.RoundTrip(request)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if status := strconv.Itoa(res.StatusCode); status != l.want() {
			return fmt.Errorf("got status %s, want %s", status, l.want())
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buffer)
		return err
	}, done
}

// plainClient knows no more of HTTP/1.1 than it needs, so that it takes little
// from the processors that the server runs on.
func (l load) plainClient() (ask func() error, done func()) {
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n", l.path, l.address)
	if l.write {
		request = fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: %s\r\nIf-Match: *\r\nContent-Length: 0\r\n", l.path, l.address)
	}
	if l.tag != "" {
		request += "If-None-Match: " + l.tag + "\r\n"
	}
	request += "\r\n"
	conn, err := net.Dial("tcp", l.address)
	check(err)
	r := bufio.NewReaderSize(conn, 64<<10)
	return func() error {
		if _, err := io.WriteString(conn, request); err != nil {
			return err
		}
		return readResponse(r, l.want())
	}, func() { conn.Close() }
}

// readResponse reads a response with this status to its end.
func readResponse(r *bufio.Reader, want string) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 || string(line[9:12]) != want {
		return fmt.Errorf("got %q, want status %s", line, want)
	}
	length, chunked := int64(0), false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		key, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(key, []byte("Content-Length")):
			length, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			if err != nil {
				return err
			}
		case bytes.EqualFold(key, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	if want == "304" || want == "204" {
		return nil
	}
	if !chunked {
		_, err := io.CopyN(io.Discard, r, length)
		return err
	}
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, r, size+2); err != nil || size == 0 {
			return err
		}
	}
}

// tagAt returns the tag that a server gives.
func tagAt(address, path string) string {
	res, err := http.Get("http://" + address + path)
	check(err)
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	check(err)
	tag := res.Header.Get("ETag")
	if tag == "" {
		check(fmt.Errorf("%s gave no tag for %s", address, path))
	}
	return tag
}

// firstEvent returns the microseconds until the first event of a stream.
func firstEvent(address string) float64 {
	start := time.Now()
	res, err := http.Get("http://" + address + "/events")
	check(err)
	defer res.Body.Close()
	line, err := textproto.NewReader(bufio.NewReader(res.Body)).ReadLine()
	check(err)
	if !strings.HasPrefix(line, "data:") {
		check(fmt.Errorf("got %q", line))
	}
	return float64(time.Since(start).Microseconds())
}
