package redislock

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	etag "github.com/caddyetag/caddy-etag"
	"github.com/caddyetag/caddy-etag/locktest"
	"github.com/caddyetag/caddy-etag/locktest/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// server is a redis-server. It keeps nothing on disk, so that a restart forgets
// all locks.
type redisServer struct {
	port    string
	args    []string
	process *clustertest.Process
}

// startRedis starts a redis-server that ends with the test.
func startRedis(tb testing.TB, args ...string) *redisServer {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		tb.Skip("there is no redis-server; Debian has it in the package redis-server")
	}
	s := &redisServer{port: clustertest.FreePort(tb), args: args}
	s.Start(tb)
	return s
}

func (s *redisServer) Address() string { return "127.0.0.1:" + s.port }

func (s *redisServer) Stop(testing.TB) { s.process.Terminate() }

func (s *redisServer) Kill(testing.TB) { s.process.Kill() }

func (s *redisServer) Start(tb testing.TB) {
	tb.Helper()
	args := append([]string{"--port", s.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir()}, s.args...)
	s.process = clustertest.StartProcess(tb, exec.Command("redis-server", args...)) //nolint:noctx // it ends with the test
	s.answers(tb)
}

func (s *redisServer) answers(tb testing.TB) {
	client := s.client()
	defer client.Close()
	clustertest.Eventually(tb, "Redis answers", func() bool {
		err := client.Ping(context.Background()).Err()
		return err == nil || strings.Contains(err.Error(), "NOAUTH")
	})
}

func (s *redisServer) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.Address()})
}

// provision makes a locker of its own, as if in another process: its client
// and its queue are no other one's.
func provision(tb testing.TB, l *Locker) *Locker {
	tb.Helper()
	resolved, err := l.resolve()
	require.NoError(tb, err)
	l.resolved, l.id = resolved, resolved.id()+" "+strconv.FormatInt(time.Now().UnixNano(), 36)
	l.acquire()
	tb.Cleanup(func() { _ = l.Cleanup() })
	return l
}

func isLost(lock etag.Lock) bool {
	select {
	case <-lock.Lost():
		return true
	default:
		return false
	}
}

const testExpiry = 2 * time.Second

func newLocker(tb testing.TB, address string) *Locker {
	return provision(tb, &Locker{Address: []string{address}, Expiry: caddy.Duration(testExpiry)})
}

func TestSuite(t *testing.T) {
	server := startRedis(t)
	client := server.client()
	defer client.Close()
	locktest.Suite{
		New:    func(tb testing.TB) etag.Locker { return newLocker(tb, server.Address()) },
		Stop:   server.Stop,
		Start:  func(testing.TB) { server.Start(t) },
		Expiry: testExpiry,
		Expire: func(tb testing.TB, lock etag.Lock, _ string) {
			// a holder that lives would take back a lock that is free
			held := lock.(*heldLock)
			require.NoError(tb, client.Set(context.Background(), held.name, "another one's", 0).Err())
			clustertest.Eventually(tb, "the holder sees it", func() bool { return isLost(held) })
			held.renewing.Lock()
			defer held.renewing.Unlock()
			require.NoError(tb, client.Del(context.Background(), held.name).Err())
		},
	}.Run(t)
}

func TestScenarios(t *testing.T) {
	clustertest.Scenarios{
		Start: func(tb testing.TB) clustertest.Service { return startRedis(tb) },
		Lock: func(address string) string {
			return fmt.Sprintf("redis 8s {\naddress %s\nexpiry %s\n}", address, testExpiry)
		},
	}.Run(t)
}
