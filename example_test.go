package etag_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	etag "github.com/caddyetag/caddy-etag"
	"github.com/caddyetag/caddy-etag/internal/freeport"
)

// This file has what the documentation of the module shows of its use.

// A site in which a client that has a page already is told so, without the page.
func Example() {
	site, stop := serve(`
		etag
		respond "Hello!"
	`)
	defer stop()

	first := send("GET", site, "")
	fmt.Println(first.StatusCode, first.Header.Get("ETag"))
	again := send("GET", site, "", "If-None-Match", first.Header.Get("ETag"))
	fmt.Println(again.StatusCode)
	// Output:
	// 200 "334d016f755cd6dc58c53a86e183882f"
	// 304
}

// A backend that knows nothing of ETags, and of two writes that were made of
// one state, one that is refused.
func ExampleHandler() {
	backend := newBackend()
	defer backend.Close()
	site, stop := serve(`
		etag {
			require_if_match
		}
		reverse_proxy ` + backend.Listener.Addr().String() + `
	`)
	defer stop()

	tag := send("GET", site, "").Header.Get("ETag")
	fmt.Println("without a tag:", send("PUT", site, "blind").StatusCode)
	fmt.Println("Ana:", send("PUT", site, "Ana's", "If-Match", tag).StatusCode)
	fmt.Println("Ben:", send("PUT", site, "Ben's", "If-Match", tag).StatusCode)
	// Output:
	// without a tag: 428
	// Ana: 204
	// Ben: 412
}

// What a Caddyfile says is what JSON would say.
func ExampleHandler_UnmarshalCaddyfile() {
	var h etag.Handler
	err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`
		etag weak {
			ignore_json /generated_at
			max_size    1MiB
			lock        storage 5s
		}
	`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(caddyconfig.JSON(h, nil)))
	// Output:
	// {"strength":"weak","ignore_json":["/generated_at"],"max_size":1048576,"lock":{"module":"storage"},"lock_timeout":5000000000}
}

// A mistake in JSON names the option, its value and what is allowed.
func ExampleHandler_UnmarshalJSON() {
	var h etag.Handler
	fmt.Println(h.UnmarshalJSON([]byte(`{"max_delay": "soon"}`)))
	// Output:
	// invalid max_delay "soon": must be a duration of at least 1ms, such as "300ms", or the number -1 for no limit
}

// Any number of holders may have a shared lock, and nobody else beside them.
func ExampleSharedLocker() {
	var locker etag.SharedLocker = new(etag.LocalLock)
	one, _ := locker.RLock(context.Background(), "example.com/documents/1")
	two, _ := locker.RLock(context.Background(), "example.com/documents/1")

	gone, leave := context.WithCancel(context.Background())
	leave()
	_, err := locker.Lock(gone, "example.com/documents/1")
	fmt.Println(err)

	_ = one.Unlock(context.Background())
	_ = two.Unlock(context.Background())
	alone, err := locker.Lock(context.Background(), "example.com/documents/1")
	fmt.Println(err)
	_ = alone.Unlock(context.Background())
	// Output:
	// context canceled
	// <nil>
}

// Who has the lock is told when somebody waits for it.
func ExampleContendedLock() {
	locker := new(etag.LocalLock)
	lock, _ := locker.Lock(context.Background(), "example.com/documents/1")

	var next sync.WaitGroup
	next.Go(func() {
		lock, _ := locker.Lock(context.Background(), "example.com/documents/1")
		fmt.Println("the next one has it")
		_ = lock.Unlock(context.Background())
	})

	<-lock.(etag.ContendedLock).Wanted()
	fmt.Println("somebody waits")
	_ = lock.Unlock(context.Background())
	next.Wait()
	// Output:
	// somebody waits
	// the next one has it
}

// serve runs a Caddy with one site, whose directives are given.
func serve(directives string) (url string, stop func()) {
	address, err := freeport.Address()
	if err != nil {
		panic(err)
	}
	url = "http://" + address
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(`{
		admin off
		persist_config off
		log {
			level PANIC
		}
	}
	`+url+` {
		bind 127.0.0.1
		`+directives+`
	}`), nil)
	if err != nil {
		panic(err)
	}
	if err := caddy.Load(config, true); err != nil {
		panic(err)
	}
	return url, func() { _ = caddy.Stop() }
}

// newBackend is a server of one text, which can be replaced.
func newBackend() *httptest.Server {
	var mu sync.Mutex
	text := "nobody's"
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPut {
			body, _ := io.ReadAll(r.Body)
			text = string(body)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_, _ = io.WriteString(w, text)
	}))
}

// send sends a request with a header field, which is given as name and value.
func send(method, url, body string, field ...string) *http.Response {
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	if len(field) == 2 {
		req.Header.Set(field[0], field[1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		panic(err)
	}
	res.Body.Close()
	return res
}
