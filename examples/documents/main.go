// Command documents starts a documents API that knows nothing of ETags, a
// Caddy in front of it that has the etag handler, and a page in which two
// people edit one document at the same time:
//
//	go run ./examples/documents
//
// Then open http://localhost:8080. The Caddyfile beside this file is the whole
// configuration of that Caddy.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/caddyetag/caddy-etag"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddyetag/caddy-etag/internal/freeport"
)

// Both are part of the program, so that it runs in any directory.
var (
	//go:embed Caddyfile
	caddyfile []byte

	//go:embed page
	page embed.FS
)

func main() {
	port := flag.Int("port", 8080, "TCP port of the page on localhost, 0 for any that is free")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *port, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "documents:", err)
		os.Exit(1)
	}
}

// run serves the page until ctx is done, and tells its address on out as soon
// as it can be opened.
func run(ctx context.Context, port int, out io.Writer) (err error) {
	port, err = freePort(port)
	if err != nil {
		return err
	}

	backend, stopBackend, err := startBackend()
	if err != nil {
		return err
	}
	defer stopBackend()

	// file_server reads files from a disk.
	dir, err := os.MkdirTemp("", "documents-page-")
	if err != nil {
		return fmt.Errorf("making a directory for the page: %w", err)
	}
	defer os.RemoveAll(dir)
	files, err := fs.Sub(page, "page")
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, files); err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}

	config, err := adapt(map[string]string{
		"DOCUMENTS_PORT":    strconv.Itoa(port),
		"DOCUMENTS_BACKEND": backend,
		"DOCUMENTS_PAGE":    dir,
	})
	if err != nil {
		return err
	}
	if err := caddy.Load(config, true); err != nil {
		return fmt.Errorf("starting caddy: %w", err)
	}
	defer func() {
		if stopErr := caddy.Stop(); stopErr != nil {
			err = errors.Join(err, fmt.Errorf("stopping caddy: %w", stopErr))
		}
	}()

	fmt.Fprintf(out, "The page is at http://localhost:%d\nThe backend, without ETags, is at http://%s/api/documents\nPress Ctrl+C to stop.\n", port, backend)
	<-ctx.Done()
	return nil
}

// freePort returns port, or one that is free if it is 0, and an error if
// another program has it. Caddy itself would not tell: it shares its ports
// (SO_REUSEPORT), so that of two runs on one port each would get half of the
// requests, and show another document.
func freePort(port int) (int, error) {
	if port == 0 {
		address, err := freeport.Address()
		if err != nil {
			return 0, err
		}
		_, found, err := net.SplitHostPort(address)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(found)
	}
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return 0, fmt.Errorf("listening on port %d, choose another with -port: %w", port, err)
	}
	return port, ln.Close()
}

// startBackend serves the documents on a loopback port of their own.
func startBackend() (address string, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("starting the backend: %w", err)
	}
	srv := &http.Server{
		Handler:           newDocuments(firstDocument),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() { _ = srv.Serve(ln) }() // returns when it is closed
	return ln.Addr().String(), func() { _ = srv.Close() }, nil
}

// adapt turns the Caddyfile into the JSON that Caddy loads, with values for
// its variables.
func adapt(variables map[string]string) ([]byte, error) {
	for name, value := range variables {
		if err := os.Setenv(name, value); err != nil {
			return nil, fmt.Errorf("setting %s: %w", name, err)
		}
	}
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile, map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return nil, fmt.Errorf("reading the Caddyfile: %w", err)
	}
	for _, w := range warnings {
		return nil, fmt.Errorf("reading the Caddyfile: %s", w)
	}
	return config, nil
}

// firstDocument is what there is to edit at the start. It is some lines long,
// since what a 304 spares is its length.
var firstDocument = document{
	ID:     "trip",
	Title:  "Weekend in the mountains",
	Author: "Ana",
	Text: `Friday
Train at 17:40 from platform 6, arrive 20:15.
Keys to the hut are at the village shop until 21:00.
Dinner: pasta, bring the small stove in case the gas is out.

Saturday
Breakfast at 7, leave by 8.
North ridge to the lake, about five hours with breaks.
If it rains: the lower path through the woods, three hours.
Back before dark, which is at 18:30.

Sunday
Clean the hut and close the shutters.
Train home at 15:10, seats are booked in car 4.

To bring
Map, first aid kit, two torches.
Rain jackets, the forecast is not sure yet.
Bread and cheese for six people.
`,
}
