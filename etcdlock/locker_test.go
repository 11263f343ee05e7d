package etcdlock

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	etag "github.com/caddyetag/caddy-etag"
	"github.com/caddyetag/caddy-etag/locktest"
	"github.com/caddyetag/caddy-etag/locktest/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// etcdServer is an etcd of one member. Its data outlives it.
type etcdServer struct {
	port, peers, dir string
	process          *clustertest.Process
}

// startEtcd starts an etcd that ends with the test.
func startEtcd(tb testing.TB) *etcdServer {
	tb.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		tb.Skip("there is no etcd; Debian has it in the package etcd-server")
	}
	s := &etcdServer{port: clustertest.FreePort(tb), peers: clustertest.FreePort(tb), dir: tb.TempDir()}
	s.Start(tb)
	return s
}

func (s *etcdServer) Address() string { return "127.0.0.1:" + s.port }

func (s *etcdServer) Stop(testing.TB) { s.process.Terminate() }

func (s *etcdServer) Kill(testing.TB) { s.process.Kill() }

func (s *etcdServer) Start(tb testing.TB) {
	tb.Helper()
	url, peers := "http://"+s.Address(), "http://127.0.0.1:"+s.peers
	s.process = clustertest.StartProcess(tb, exec.Command("etcd", "--data-dir", s.dir, //nolint:noctx // it ends with the test
		"--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers))
	client := s.client(tb)
	defer client.Close()
	clustertest.Eventually(tb, "etcd answers", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := client.Put(ctx, "up", "")
		return err == nil
	})
}

func (s *etcdServer) client(tb testing.TB) *clientv3.Client {
	tb.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Address()}, Logger: zap.NewNop()})
	require.NoError(tb, err)
	return client
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

const testExpiry = 3 * time.Second

func newLocker(tb testing.TB, address string) *Locker {
	return provision(tb, &Locker{Endpoints: []string{address}, Expiry: caddy.Duration(testExpiry)})
}

func TestSuite(t *testing.T) {
	server := startEtcd(t)
	client := server.client(t)
	defer client.Close()
	locktest.Suite{
		New:    func(tb testing.TB) etag.Locker { return newLocker(tb, server.Address()) },
		Stop:   server.Stop,
		Start:  func(testing.TB) { server.Start(t) },
		Expiry: testExpiry,
		Expire: func(tb testing.TB, lock etag.Lock, _ string) {
			_, err := client.Revoke(context.Background(), lock.(*heldLock).lease.session.Lease())
			require.NoError(tb, err)
		},
	}.Run(t)
}

func TestScenarios(t *testing.T) {
	clustertest.Scenarios{
		Start: func(tb testing.TB) clustertest.Service { return startEtcd(tb) },
		Lock: func(address string) string {
			return fmt.Sprintf("etcd 10s {\nendpoints %s\nexpiry %s\n}", address, testExpiry)
		},
	}.Run(t)
}

// TestLockThatEtcdCouldNotBeToldOfIsFreeAgain, whether or not the lease that it
// was on goes on for another one.
func TestLockThatEtcdCouldNotBeToldOfIsFreeAgain(t *testing.T) {
	for _, beside := range []bool{false, true} {
		t.Run(fmt.Sprintf("beside another: %t", beside), func(t *testing.T) {
			t.Parallel()
			server := startEtcd(t)
			holder, other := newLocker(t, server.Address()), newLocker(t, server.Address())
			lock, err := holder.Lock(context.Background(), "lock")
			require.NoError(t, err)
			if beside {
				another, err := holder.Lock(context.Background(), "another")
				require.NoError(t, err)
				defer func() { _ = another.Unlock(context.Background()) }()
			}
			server.Kill(t)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			require.Error(t, lock.Unlock(ctx))
			server.Start(t)

			ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			again, err := other.Lock(ctx, "lock")
			require.NoError(t, err)
			require.NoError(t, again.Unlock(ctx))
		})
	}
}
