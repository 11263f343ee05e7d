package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// hostility is what a client does that means no good. It returns after a few
// seconds at the latest.
type hostility struct {
	name string
	act  func(address string, random *rand.Rand)
}

var hostilities = []hostility{
	{"slow bodies", sendSlowly},
	{"windows of 0", openNoWindow},
	{"giant fields", sendGiantFields},
	{"JSON bombs", askForBombs},
	{"slow readers", readSlowly},
}

// runHostile has a client that reads and writes as it should, first alone and
// then beside hostile ones, and notes how long its requests take.
func runHostile(w *world) {
	w.backend.handle("bomb", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write(newBomb(r.URL.RawQuery))
	})
	w.backend.handle("large", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/octet-stream")
		_, _ = rw.Write(make([]byte, 1<<20))
	})
	site := fmt.Sprintf(`
	handle /bomb* {
		etag weak {
			ignore_json /a /*/b
		}
		reverse_proxy %[1]s
	}
	handle {
		etag {
			lock local 2s
		}
		reverse_proxy %[1]s
	}`, w.backend.address)
	c := w.startCaddy("caddy", site, "")

	calm := w.start.Add(w.length / 4)
	times := make(map[bool][]time.Duration) // whether it is calm
	var background sync.WaitGroup
	background.Go(func() {
		w.sleep(time.Until(calm))
		w.each(3*len(hostilities), func(number int) {
			h := hostilities[number%len(hostilities)]
			h.act(c.address, w.random(h.name, number))
			w.result.add(h.name, 1)
		})
	})
	client := newClient(false)
	client.Timeout = 30 * time.Second
	stored := make(map[string]string)
	for number := 0; !w.over(); number++ {
		begun := time.Now()
		wrong := w.behave(client, c.address, number, stored)
		if wrong != "" {
			w.found("a client that does nothing wrong: %s", wrong)
		}
		isCalm := begun.Before(calm)
		times[isCalm] = append(times[isCalm], time.Since(begun))
		w.sleep(2 * time.Millisecond)
	}
	background.Wait()
	for _, isCalm := range []bool{true, false} {
		of := times[isCalm]
		if len(of) == 0 {
			continue
		}
		slices.Sort(of)
		w.result.note("%s: %d turns of the client, median %s, 99 of 100 within %s, longest %s",
			map[bool]string{true: "alone", false: "beside hostile ones"}[isCalm], len(of),
			of[len(of)/2].Round(10*time.Microsecond), of[len(of)*99/100].Round(10*time.Microsecond), of[len(of)-1].Round(time.Millisecond))
	}
}

// behavedDocuments are written by the client that behaves, and are what hostile
// clients ask for.
const behavedDocuments = 20

// behave writes a document with a precondition, reads it, and asks whether it has
// changed. It tells what is wrong with the answers.
func (w *world) behave(client *http.Client, address string, number int, stored map[string]string) (wrong string) {
	url := fmt.Sprintf("http://%s/behaved/%d", address, number/10%behavedDocuments)
	ask := func(method, body, condition, tag string) (status int, content string) {
		r, err := http.NewRequest(method, url, strings.NewReader(body))
		check(err)
		setField(r.Header, condition, tag)
		res, err := client.Do(r)
		if err != nil {
			wrong = err.Error()
			return 0, ""
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			wrong = err.Error()
		}
		return res.StatusCode, string(text)
	}
	body := fmt.Sprintf("version %d", number)
	last, exists := stored[url]
	var status int
	if exists {
		status, _ = ask(http.MethodPut, body, "If-Match", tagOf([]byte(last)))
	} else {
		status, _ = ask(http.MethodPut, body, "If-None-Match", "*")
	}
	if status != http.StatusCreated && status != http.StatusNoContent {
		return fmt.Sprintf("a write is answered with %d %s", status, wrong)
	}
	stored[url] = body
	if status, content := ask(http.MethodGet, "", "If-None-Match", tagOf([]byte(last))); status != http.StatusOK || content != body {
		return fmt.Sprintf("a read is answered with %d, %q %s", status, content, wrong)
	}
	if status, _ := ask(http.MethodGet, "", "If-None-Match", tagOf([]byte(body))); status != http.StatusNotModified {
		return fmt.Sprintf("a conditional read is answered with %d %s", status, wrong)
	}
	return wrong
}

// dial connects, for a few seconds.
func dial(address string) (net.Conn, bool) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, false
	}
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	return conn, true
}

// sendSlowly sends a guarded write to a document of the client that behaves, a
// byte at a time, for longer than that client would wait for a lock.
func sendSlowly(address string, random *rand.Rand) {
	conn, ok := dial(address)
	if !ok {
		return
	}
	defer conn.Close()
	length := fmt.Sprintf("Content-Length: %d", 100_000+random.IntN(900_000))
	if random.IntN(2) == 0 {
		length = "Transfer-Encoding: chunked"
	}
	fmt.Fprintf(conn, "PUT /behaved/%d HTTP/1.1\r\nHost: %s\r\nIf-Match: *\r\n%s\r\n\r\n", random.IntN(behavedDocuments), address, length)
	if strings.HasPrefix(length, "Transfer") {
		fmt.Fprint(conn, "fffff\r\n")
	}
	for range 60 {
		if _, err := conn.Write([]byte("x")); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// openNoWindow asks for much over HTTP/2, and lets nothing of it be sent.
func openNoWindow(address string, random *rand.Rand) {
	conn, ok := dial(address)
	if !ok {
		return
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	_ = framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	for i := range uint32(50) {
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for _, field := range [][2]string{
			{":method", "GET"},
			{":scheme", "http"},
			{":authority", address},
			{":path", []string{"/large", "/bomb?deep", fmt.Sprintf("/behaved/%d", random.IntN(behavedDocuments))}[random.IntN(3)]},
		} {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		if err != nil {
			return
		}
	}
	time.Sleep(3 * time.Second)
}

// sendGiantFields sends fields as large as Caddy takes them, and larger.
func sendGiantFields(address string, random *rand.Rand) {
	conn, ok := dial(address)
	if !ok {
		return
	}
	defer conn.Close()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	name := []string{"If-None-Match", "If-Match", "If-Range", "Prefer", "Accept-Encoding", "If-Modified-Since"}[random.IntN(6)]
	piece := []string{`"a",`, `W/"`, `",`, `,`, `"a" "b", `, "\t", "gzip;q=0,", `"` + strings.Repeat("x", 5000) + `", `}[random.IntN(8)]
	value := strings.Repeat(piece, (100_000+random.IntN(1_000_000))/len(piece))
	method := []string{"GET", "PUT", "HEAD"}[random.IntN(3)]
	document := "behaved"
	if method == http.MethodPut {
		document = "giant" // some of these writes pass
	}
	fmt.Fprintf(conn, "%s /%s/%d HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nRange: bytes=0-1\r\n", method, document, random.IntN(behavedDocuments), address)
	if random.IntN(2) == 0 {
		fmt.Fprintf(conn, "%s: %s\r\n", name, value)
	} else {
		for line := range slices.Chunk([]byte(value), 1000) {
			if _, err := fmt.Fprintf(conn, "%s: %s\r\n", name, line); err != nil {
				return
			}
		}
	}
	fmt.Fprint(conn, "\r\n")
	time.Sleep(upTo(random, 300*time.Millisecond))
}

// askForBombs asks for JSON that is hard to normalize.
func askForBombs(address string, random *rand.Rand) {
	client := newClient(random.IntN(2) == 0)
	client.Timeout = 5 * time.Second
	defer client.CloseIdleConnections()
	for range 3 {
		kind := bombs[random.IntN(len(bombs))]
		res, err := client.Get("http://" + address + "/bomb?" + kind)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	time.Sleep(upTo(random, 200*time.Millisecond))
}

var bombs = []string{"deep", "wide", "numbers", "exponents", "escapes", "same", "objects"}

// newBomb makes JSON of half a megabyte.
func newBomb(kind string) []byte {
	const size = 500_000
	switch kind {
	case "deep":
		return []byte(strings.Repeat(`[{"a":`, size/12) + "1" + strings.Repeat("}]", size/12))
	case "wide":
		var b bytes.Buffer
		b.WriteString("{")
		for i := range size / 12 {
			fmt.Fprintf(&b, `"%x":%d,`, i*7919%size, i)
		}
		b.WriteString(`"z":0}`)
		return b.Bytes()
	case "numbers":
		return []byte("[1" + strings.Repeat("0", size/2) + ",0." + strings.Repeat("0", size/2) + "1]")
	case "exponents":
		return []byte("[" + strings.Repeat("1e99999999999999999999,1e-99999999999999999999,", size/48) + "0]")
	case "escapes":
		return []byte(`["` + strings.Repeat(`\ud83d\ude00\u0000`, size/18) + `"]`)
	case "same":
		return []byte("{" + strings.Repeat(`"a":1,`, size/6) + `"a":1}`)
	}
	return []byte("[" + strings.Repeat(`{"b":1,"a":{"b":2}},`, size/20) + "0]")
}

// readSlowly asks for much, and reads a byte at a time.
func readSlowly(address string, _ *rand.Rand) {
	conn, ok := dial(address)
	if !ok {
		return
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(4096)
	}
	fmt.Fprintf(conn, "GET /large HTTP/1.1\r\nHost: %s\r\n\r\n", address)
	one := make([]byte, 1)
	for range 60 {
		if _, err := conn.Read(one); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
