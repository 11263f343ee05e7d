// Command locks measures what the locks of each kind take: one that is free, a
// handover within one process and between two, and after its holder was killed.
// It starts a redis-server and an etcd of its own.
//
//	cd bench && go run ./locks
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddyetag/caddy-etag/etcdlock"
	_ "github.com/caddyetag/caddy-etag/redislock"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"

	etag "github.com/caddyetag/caddy-etag"
	"github.com/caddyetag/caddy-etag/internal/freeport"
)

// lock is a lock to measure.
type lock struct {
	Name    string
	Module  string
	Options string // in JSON
	Storage string
	Key     string
}

func (l lock) load() (etag.Locker, error) {
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:      &caddy.AdminConfig{Disabled: true},
		StorageRaw: json.RawMessage(fmt.Sprintf(`{"module": "file_system", "root": %q}`, l.Storage)),
	})
	if err != nil {
		return nil, err
	}
	module, err := ctx.LoadModuleByID("http.etag.locks."+l.Module, json.RawMessage(l.Options))
	if err != nil {
		return nil, err
	}
	return module.(etag.Locker), nil
}

func main() {
	log.SetFlags(0)
	if len(os.Args) == 3 && os.Args[1] == "hold" {
		if err := hold(os.Args[2]); err != nil {
			log.Fatal(err)
		}
		return
	}
	times := flag.Int("times", 200, "how often a lock is taken, and a twentieth of that how often handed over between processes")
	kills := flag.Int("kills", 5, "how many holders are killed")
	flag.Parse()
	if err := run(*times, *kills); err != nil {
		log.Fatal(err)
	}
}

func run(times, kills int) error {
	dir, err := os.MkdirTemp("", "locks")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	locks, stop, err := services(dir)
	defer stop()
	if err != nil {
		return err
	}
	fmt.Println("| | free | handed over in one process | handed over between two | after a kill |")
	fmt.Println("|---|---|---|---|---|")
	for _, l := range locks {
		locker, err := l.load()
		if err != nil {
			return err
		}
		if err := await(locker); err != nil {
			return fmt.Errorf("%s: %w", l.Name, err)
		}
		free, err := repeat(times, func() (time.Duration, error) { return takeFree(locker) })
		if err != nil {
			return err
		}
		within, err := repeat(times/4, func() (time.Duration, error) { return handOver(locker) })
		if err != nil {
			return err
		}
		row := []string{l.Name, median(free), median(within), "–", "–"}
		if l.Module != "local" {
			between, err := repeat(max(1, times/20), func() (time.Duration, error) { return l.fromOther(locker, false) })
			if err != nil {
				return err
			}
			killed, err := repeat(kills, func() (time.Duration, error) { return l.fromOther(locker, true) })
			if err != nil {
				return err
			}
			row[3], row[4] = median(between), fmt.Sprintf("%s (%s to %s)", median(killed), short(slices.Min(killed)), short(slices.Max(killed)))
		}
		fmt.Printf("| %s |\n", strings.Join(row, " | "))
	}
	return nil
}

// await waits until a service grants locks.
func await(locker etag.Locker) error {
	var err error
	for range 300 {
		var l etag.Lock
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if l, err = locker.Lock(ctx, "await"); err == nil {
			err = l.Unlock(ctx)
			cancel()
			return err
		}
		cancel()
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func repeat(n int, measure func() (time.Duration, error)) ([]time.Duration, error) {
	results := make([]time.Duration, n)
	for i := range results {
		var err error
		if results[i], err = measure(); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func median(durations []time.Duration) string {
	slices.Sort(durations)
	return short(durations[len(durations)/2])
}

// short has two digits.
func short(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "µs"}} {
		if d >= unit.length {
			value := float64(d) / float64(unit.length)
			if value < 10 {
				return fmt.Sprintf("%.1f %s", value, unit.name)
			}
			return fmt.Sprintf("%.0f %s", value, unit.name)
		}
	}
	return fmt.Sprintf("%d ns", d)
}

// takeFree takes a lock that nobody holds, and gives it back.
func takeFree(locker etag.Locker) (time.Duration, error) {
	start := time.Now()
	l, err := locker.Lock(context.Background(), "free")
	if err != nil {
		return 0, err
	}
	err = l.Unlock(context.Background())
	return time.Since(start), err
}

// result is a lock that was waited for, and when it was got.
type result struct {
	lock etag.Lock
	err  error
	at   time.Time
}

func startWaiting(locker etag.Locker, key string) <-chan result {
	results := make(chan result, 1)
	go func() {
		l, err := locker.Lock(context.Background(), key)
		results <- result{l, err, time.Now()}
	}()
	time.Sleep(50*time.Millisecond + mathrand.N(100*time.Millisecond)) // it waits
	return results
}

// handOver gives a lock back for which one waits in this process.
func handOver(locker etag.Locker) (time.Duration, error) {
	first, err := locker.Lock(context.Background(), "handover")
	if err != nil {
		return 0, err
	}
	results := startWaiting(locker, "handover")
	given := time.Now()
	if err := first.Unlock(context.Background()); err != nil {
		return 0, err
	}
	second := <-results
	if second.err != nil {
		return 0, second.err
	}
	return second.at.Sub(given), second.lock.Unlock(context.Background())
}

// fromOther waits for a lock that another process gives back, or that is killed
// while it has it.
func (l lock) fromOther(locker etag.Locker, kill bool) (time.Duration, error) {
	// A key that this process has not had: with files, it would go on to renew
	// the lock of who is killed.
	l.Key = rand.Text()
	config, err := json.Marshal(l)
	if err != nil {
		return 0, err
	}
	holder := exec.Command(os.Args[0], "hold", string(config))
	holder.Stderr = os.Stderr
	orders, err := holder.StdinPipe()
	if err != nil {
		return 0, err
	}
	answers, err := holder.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := holder.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
	lines := bufio.NewReader(answers)
	if _, err := lines.ReadString('\n'); err != nil {
		return 0, fmt.Errorf("the holder has no lock: %w", err)
	}
	results := startWaiting(locker, l.Key)
	if kill {
		time.Sleep(mathrand.N(2 * time.Second))
	}
	given := time.Now()
	if kill {
		err = holder.Process.Kill()
	} else {
		_, err = io.WriteString(orders, "give\n")
	}
	if err != nil {
		return 0, err
	}
	got := <-results
	if got.err != nil {
		return 0, got.err
	}
	if !kill {
		line, err := lines.ReadString('\n')
		if err != nil {
			return 0, err
		}
		nanos, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			return 0, err
		}
		given = time.Unix(0, nanos)
	}
	return got.at.Sub(given), got.lock.Unlock(context.Background())
}

// hold is the other process: it takes a lock, gives it back when it is told
// to, and says when that was.
func hold(config string) error {
	var l lock
	if err := json.Unmarshal([]byte(config), &l); err != nil {
		return err
	}
	locker, err := l.load()
	if err != nil {
		return err
	}
	held, err := locker.Lock(context.Background(), l.Key)
	if err != nil {
		return err
	}
	fmt.Println("held")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	given := time.Now()
	err = held.Unlock(context.Background())
	fmt.Println(given.UnixNano())
	return err
}

// services starts what the locks need.
func services(dir string) (locks []lock, stop func(), err error) {
	var running []*exec.Cmd
	stop = func() {
		for _, service := range running {
			_ = service.Process.Kill()
			_ = service.Wait()
		}
	}
	redis, etcd, peers := freeAddress(), freeAddress(), "http://"+freeAddress()
	_, redisPort, _ := net.SplitHostPort(redis)
	for _, command := range [][]string{
		{"redis-server", "--port", redisPort, "--bind", "127.0.0.1", "--save", "", "--dir", dir},
		{
			"etcd", "--data-dir", filepath.Join(dir, "etcd"),
			"--listen-client-urls", "http://" + etcd, "--advertise-client-urls", "http://" + etcd,
			"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default=" + peers,
		},
	} {
		service := exec.Command(command[0], command[1:]...)
		if err := service.Start(); err != nil {
			return nil, stop, err
		}
		running = append(running, service)
	}
	return []lock{
		{Name: "`local`", Module: "local", Options: `{}`, Storage: dir},
		{Name: "`storage` (files)", Module: "storage", Options: `{}`, Storage: dir},
		{Name: "`redis`", Module: "redis", Options: fmt.Sprintf(`{"address": [%q]}`, redis), Storage: dir},
		{Name: "`etcd`", Module: "etcd", Options: fmt.Sprintf(`{"endpoints": [%q]}`, etcd), Storage: dir},
	}, stop, nil
}

func freeAddress() string {
	address, err := freeport.Address()
	if err != nil {
		log.Fatal(err)
	}
	return address
}
