package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	gohttputils "github.com/go-http-utils/etag"
	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/etag"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyetag/caddy-etag"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddyetag/caddy-etag/internal/freeport"
)

// A server is this program again, with its role in this variable and its
// address in the other; or a program for node.
const (
	roleVar    = "ETAG_BENCH_ROLE"
	addressVar = "ETAG_BENCH_ADDRESS"
	etagVar    = "ETAG_BENCH_ETAG" // on or off
)

// server is a process that is measured, or that what is measured asks.
type server struct {
	address string
	cmd     *exec.Cmd
}

func startRole(role string, args ...string) server {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	return start(cmd, role != "caddy") // Caddy has its addresses in its configuration
}

// startPeer starts another server, with its ETag middleware on or off.
func startPeer(name, state string) server {
	var cmd *exec.Cmd
	if name == "fiber" || name == "go-http-utils" {
		cmd = exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"="+name)
	} else {
		cmd = exec.Command("node", filepath.Join("node", name+".mjs"))
		cmd.Env = append(os.Environ(), "NODE_ENV=production")
	}
	cmd.Env = append(cmd.Env, etagVar+"="+state)
	return start(cmd, true)
}

func start(cmd *exec.Cmd, wait bool) server {
	s := server{freeAddress(), cmd}
	cmd.Env = append(cmd.Env, addressVar+"="+s.address)
	cmd.Stderr = os.Stderr
	check(cmd.Start())
	if wait {
		await(s.address)
	}
	return s
}

func (s server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// await waits until something listens.
func await(address string) {
	for range 1000 {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	check(errors.New("nothing listens at " + address))
}

func freeAddress() string {
	address, err := freeport.Address()
	check(err)
	return address
}

func runRole(role string) {
	address := os.Getenv(addressVar)
	switch role {
	case "caddy":
		caddycmd.Main()
	case "upstream":
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetUnencryptedHTTP2(true)
		log.Fatal((&http.Server{Addr: address, Handler: upstream(), Protocols: protocols}).ListenAndServe())
	case "go-http-utils":
		handler := upstream()
		if os.Getenv(etagVar) == "on" {
			handler = gohttputils.Handler(handler, false)
		}
		log.Fatal(http.ListenAndServe(address, handler))
	case "fiber":
		app := fiber.New()
		if os.Getenv(etagVar) == "on" {
			app.Use(etag.New())
		}
		bodies := newBodies()
		app.Get("/repeating/:size", func(c fiber.Ctx) error {
			c.Set("Content-Type", "text/plain")
			return c.Send(bodies[c.Params("size")])
		})
		log.Fatal(app.Listen(address, fiber.ListenConfig{DisableStartupMessage: true}))
	}
}

// newBodies returns a body of each size, by the size.
func newBodies() map[string][]byte {
	bodies := make(map[string][]byte, len(sizes))
	for _, size := range sizes {
		body := make([]byte, size)
		for i := range body {
			body[i] = "0123456789abcdef"[i*7%16]
		}
		bodies[strconv.Itoa(size)] = body
	}
	return bodies
}

// upstream is the backend behind Caddy.
func upstream() http.Handler {
	bodies := newBodies()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /repeating/{size}", func(w http.ResponseWriter, r *http.Request) {
		sendBody(w, bodies[r.PathValue("size")], nil)
	})
	var count atomic.Uint64
	mux.HandleFunc("GET /unique/{size}", func(w http.ResponseWriter, r *http.Request) {
		var mark [8]byte
		binary.BigEndian.PutUint64(mark[:], count.Add(1))
		sendBody(w, bodies[r.PathValue("size")], mark[:])
	})
	for kind, mark := range map[string]func() uint64{
		"repeating": func() uint64 { return 0 },
		"unique":    func() uint64 { return count.Add(1) },
	} {
		mux.HandleFunc("GET /"+kind+"-json", func(w http.ResponseWriter, _ *http.Request) {
			document := fmt.Sprintf(`{"version":%d,"items":[%s0]}`, mark(), jsonItems)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(document)))
			_, _ = io.WriteString(w, document)
		})
	}
	mux.HandleFunc("GET /write", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "document") })
	mux.HandleFunc("PUT /write", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: first\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	return mux
}

// jsonItems are those of a document of about 64 KiB.
var jsonItems = strings.Repeat(`{"name":"a product","price":12.50,"tags":["one","two"],"id":1234567},`, 900)

// sendBody sends a body, with a mark in the place of its first bytes.
func sendBody(w http.ResponseWriter, body, mark []byte) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(mark)
	_, _ = w.Write(body[len(mark):])
}
