package etag_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	etag "github.com/caddyetag/caddy-etag"
)

func init() { caddy.RegisterModule(DirectoryLock{}) }

// DirectoryLock locks resources by files in a directory. It shows what a locker
// has to do; one for production would also free the locks of who has died.
type DirectoryLock struct {
	// The directory.
	Path string `json:"path"`
}

// CaddyModule puts the locker where the option looks for it.
func (DirectoryLock) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.etag.locks.directory",
		New: func() caddy.Module { return new(DirectoryLock) },
	}
}

// UnmarshalCaddyfile reads the block of the option.
func (l *DirectoryLock) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the name of the locker
	for d.NextBlock(0) {
		if d.Val() != "path" || !d.AllArgs(&l.Path) {
			return d.ArgErr()
		}
	}
	return nil
}

// Lock waits until the lock is free, or the context is over.
func (l *DirectoryLock) Lock(ctx context.Context, key string) (etag.Lock, error) {
	// a key is any text, which a file's name is not
	name := filepath.Join(l.Path, fmt.Sprintf("%x", sha256.Sum256([]byte(key))))
	for {
		file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return directoryLock(name), file.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err // the directory is gone: nothing may be written
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

type directoryLock string

// Unlock gives the lock back.
func (l directoryLock) Unlock(context.Context) error { return os.Remove(string(l)) }

// Lost is nil, as nobody takes the file away.
func (l directoryLock) Lost() <-chan struct{} { return nil }

// A locker of one's own is a Caddy module, and has a block for its options.
func ExampleLocker() {
	directory, err := os.MkdirTemp("", "locks-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(directory)
	backend := newBackend()
	defer backend.Close()
	site, stop := serve(`
		etag {
			lock directory 1s {
				path ` + directory + `
			}
		}
		reverse_proxy ` + backend.Listener.Addr().String() + `
	`)
	defer stop()

	tag := send("GET", site, "").Header.Get("ETag")
	fmt.Println(send("PUT", site, "Ana's", "If-Match", tag).StatusCode)
	fmt.Println(send("PUT", site, "Ben's", "If-Match", tag).StatusCode)

	// With the directory gone, no write goes on.
	_ = os.RemoveAll(directory)
	fmt.Println(send("PUT", site, "Ben's", "If-Match", "*").StatusCode)
	// Output:
	// 204
	// 412
	// 503
}
