package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lockService is what several Caddys share to take turns.
type lockService struct {
	name    string
	program string // the server's, if it has one

	start func(w *world) usedLock

	// freeze is for how long a Caddy may be stopped and still have its locks: a
	// service that gives those of a dead holder away can't tell it from one that
	// is stopped.
	freeze time.Duration

	// documents are written at one time: many, where who waits for a lock asks
	// for it but once a second.
	documents int
}

// usedLock is a lock service that has been started.
type usedLock struct {
	lock   string // the lock and its options, in a site
	global string // more global options of Caddy's

	// outage has the service be gone until the returned function is called.
	outage func() (back func())
}

// lockServices are those that the profile goes through, where their servers are
// installed. A Caddy is not stopped for so long that its locks expire: who is
// stopped can't know that, and its backend knows no locks.
var lockServices = []lockService{
	{name: "storage", start: startStorage, freeze: 3 * time.Second, documents: 48},
	{name: "redis", program: "redis-server", start: startRedis, freeze: 1500 * time.Millisecond, documents: 4},
	{name: "etcd", program: "etcd", start: startEtcd, freeze: 1500 * time.Millisecond, documents: 4},
}

func runCluster(w *world) {
	var services sync.WaitGroup
	for i, service := range lockServices {
		if _, err := exec.LookPath(service.program); service.program != "" && err != nil {
			w.result.note("no %s, which is not installed", service.program)
			continue
		}
		used := service.start(w)
		services.Go(func() { w.runWithService(service, used, i) })
	}
	services.Wait()
}

// runWithService has clients race through three Caddys.
func (w *world) runWithService(service lockService, used usedLock, number int) {
	lock := used.lock
	if w.lock != "" {
		lock = w.lock
	}
	site := fmt.Sprintf("etag {\nlock %s\n}\nreverse_proxy %s {\ntransport http {\nkeepalive off\n}\n}", lock, w.backend.address)
	var caddys []*caddy
	var entries []string
	for i := range 3 {
		c := w.startCaddy(fmt.Sprintf("%s-%d", service.name, i), site, used.global)
		caddys = append(caddys, c)
		entries = append(entries, c.address)
	}
	load := &racing{
		world: w, entries: entries, clients: []*http.Client{newClient(false), newClient(true)},
		faults: true, rounds: 4, writers: 5, readers: 2, name: service.name,
		path: func(_ *rand.Rand, number int) string { return fmt.Sprintf("/%s/%d", service.name, number) },
	}
	var background sync.WaitGroup
	background.Go(func() { w.breakNowAndThen(service, used, number, caddys) })
	w.each(service.documents, load.document)
	background.Wait()
}

// breakNowAndThen kills, stops and reloads Caddys, and takes the lock service
// away, one at a time.
func (w *world) breakNowAndThen(service lockService, used usedLock, number int, caddys []*caddy) {
	random := w.random("break", number)
	for {
		w.sleep(500*time.Millisecond + upTo(random, 1500*time.Millisecond))
		if w.over() {
			return
		}
		c := caddys[random.IntN(len(caddys))]
		switch random.IntN(5) {
		case 0:
			c.kill()
			time.Sleep(upTo(random, time.Second))
			c.start()
			w.result.add("Caddys killed and started", 1)
		case 1, 2:
			c.freeze()
			time.Sleep(upTo(random, service.freeze))
			c.thaw()
			w.result.add("Caddys stopped and continued", 1)
		case 3:
			if err := c.reload(); err == nil {
				w.result.add("reloads", 1)
			}
		case 4:
			back := used.outage()
			time.Sleep(upTo(random, time.Second))
			back()
			w.result.add("outages of the "+service.name, 1)
		}
	}
}

func startStorage(w *world) usedLock {
	dir := filepath.Join(w.dir, "storage")
	return usedLock{
		lock:   "storage 10s 1m",
		global: "storage file_system {\nroot " + dir + "\n}",
		outage: func() (back func()) { return storageOutage(dir) },
	}
}

// storageOutage puts a file where the directory of the storage was.
func storageOutage(dir string) (back func()) {
	file := dir + ".file"
	check(os.MkdirAll(dir, 0o700))
	check(os.WriteFile(file, nil, 0o600))
	exchange := func() {
		check(unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE))
	}
	exchange()
	return func() {
		exchange()
		check(os.Remove(file))
	}
}
