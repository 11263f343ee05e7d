package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load is one request that is sent over and over.
type load struct {
	address, path string
	tag           string // for If-None-Match, if there is one
}

// run sends the request from all clients for a round, and returns how many
// were answered in a second. A client knows no more of HTTP/1.1 than it needs,
// so that it takes little from the processors that the server runs on.
func (l load) run() float64 {
	want := "200"
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n", l.path, l.address)
	if l.tag != "" {
		want = "304"
		request += "If-None-Match: " + l.tag + "\r\n"
	}
	request += "\r\n"

	var answered atomic.Int64
	ctx, stop := context.WithTimeout(context.Background(), *round)
	defer stop()
	start := time.Now()
	var wg sync.WaitGroup
	for range *connections {
		wg.Go(func() {
			conn, err := net.Dial("tcp", l.address)
			check(err)
			defer conn.Close()
			r := bufio.NewReaderSize(conn, 64<<10)
			for ctx.Err() == nil {
				_, err := io.WriteString(conn, request)
				check(err)
				check(readResponse(r, want))
				answered.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(answered.Load()) / time.Since(start).Seconds()
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
	if want == "304" {
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
