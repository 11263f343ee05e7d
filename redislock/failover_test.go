package redislock

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"

	etag "github.com/caddyetag/caddy-etag"
	"github.com/caddyetag/caddy-etag/locktest"
	"github.com/caddyetag/caddy-etag/locktest/clustertest"
)

// startSentinel starts a master, a replica, and a sentinel that watches over
// them, and returns the sentinel's address.
func startSentinel(t *testing.T) (master *redisServer, address string) {
	master = startRedis(t)
	replica := startRedis(t, "--replicaof", "127.0.0.1 "+master.port)
	synced := replica.client()
	defer synced.Close()
	clustertest.Eventually(t, "the replica is up to date", func() bool {
		info, err := synced.InfoMap(context.Background(), "replication").Result()
		return err == nil && info["Replication"]["master_link_status"] == "up"
	})

	port := clustertest.FreePort(t)
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf(`port %s
bind 127.0.0.1
sentinel monitor main 127.0.0.1 %s 1
sentinel down-after-milliseconds main 500
sentinel failover-timeout main 2000
`, port, master.port)), 0o600))
	clustertest.StartProcess(t, exec.Command("redis-server", file, "--sentinel")) //nolint:noctx // it ends with the test
	sentinel := redis.NewSentinelClient(&redis.Options{Addr: "127.0.0.1:" + port})
	defer sentinel.Close()
	clustertest.Eventually(t, "the sentinel knows the replica", func() bool {
		replicas, err := sentinel.Replicas(context.Background(), "main").Result()
		return err == nil && len(replicas) == 1
	})
	return master, "127.0.0.1:" + port
}

// TestFailover: a write in progress keeps its lock when a replica takes the
// place of the master that had it, as its holder restores what may be
// forgotten before anybody is granted a lock. The keys are deleted, as if the
// replica had never got them.
func TestFailover(t *testing.T) {
	master, sentinel := startSentinel(t)
	backend := clustertest.StartBackend(t)
	backend.Set("/doc", "first")
	lock := fmt.Sprintf("redis 8s {\nsentinel main %s\nexpiry %s\n}", sentinel, testExpiry)
	a := clustertest.StartCaddy(t, lock, backend.Address)
	b := clustertest.StartCaddy(t, lock, backend.Address)
	for _, caddy := range []*clustertest.Caddy{a, b} {
		clustertest.Eventually(t, "writes are taken", func() bool {
			return caddy.Do(http.MethodPut, "/other", "new", "").Status == 204
		})
	}

	backend.Shut(http.MethodPut)
	holder := a.Go(http.MethodPut, "/doc", "second", clustertest.Tag("first"))
	clustertest.Eventually(t, "the write is in progress", func() bool { return backend.Inside(http.MethodPut) == 1 })
	master.Kill(t)
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{sentinel}})
	defer client.Close()
	clustertest.Eventually(t, "the replica takes over", func() bool {
		return client.FlushAll(context.Background()).Err() == nil
	})
	other := b.Go(http.MethodPut, "/other", "newer", "")
	clustertest.Eventually(t, "another document is written", func() bool {
		select {
		case answer := <-other:
			require.Equal(t, 503, answer.Status)
			other = b.Go(http.MethodPut, "/other", "newer", "")
		default:
		}
		return backend.Inside(http.MethodPut) == 2
	})
	require.Equal(t, 503, b.Do(http.MethodPut, "/doc", "of another", clustertest.Tag("first")).Status)
	backend.Open(http.MethodPut)
	require.Equal(t, 204, clustertest.Await(t, holder).Status)
	require.Equal(t, 204, b.Do(http.MethodPut, "/doc", "third", clustertest.Tag("second")).Status)
}

// TestNewConnectionToASentinelIsNoFailover: it is a Redis of its own, but has no
// locks.
func TestNewConnectionToASentinelIsNoFailover(t *testing.T) {
	_, sentinel := startSentinel(t)
	locker := provision(t, &Locker{Address: []string{sentinel}, SentinelMaster: "main", Expiry: caddy.Duration(testExpiry)})
	server := &locker.clientForTest(t).server
	runID := func() string {
		server.mu.Lock()
		defer server.mu.Unlock()
		return server.runID
	}
	require.NoError(t, locker.clientForTest(t).redis.Ping(context.Background()).Err())
	master := runID()
	require.NotEmpty(t, master)

	// go-redis calls this for the sentinel's connections, too
	direct := redis.NewClient(&redis.Options{Addr: sentinel, Protocol: 2, DisableIdentity: true, OnConnect: server.connected})
	defer direct.Close()
	require.NoError(t, direct.Ping(context.Background()).Err())
	require.Equal(t, master, runID())
}

// TestCluster is of a cluster of three nodes, which have the locks by their
// names.
func TestCluster(t *testing.T) {
	var addresses []string
	var nodes []*redis.Client
	for i := range 3 {
		bus := clustertest.FreePort(t) // the default is out of range for many ports
		node := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus)
		client := node.client()
		t.Cleanup(func() { _ = client.Close() })
		require.NoError(t, client.ClusterAddSlotsRange(context.Background(), i*16384/3, (i+1)*16384/3-1).Err())
		if i > 0 {
			require.NoError(t, nodes[0].Do(context.Background(), "CLUSTER", "MEET", "127.0.0.1", node.port, bus).Err())
		}
		nodes, addresses = append(nodes, client), append(addresses, node.Address())
	}
	clustertest.Eventually(t, "the cluster is up", func() bool {
		for _, node := range nodes {
			info, err := node.ClusterInfo(context.Background()).Result()
			if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:3") {
				return false
			}
		}
		return true
	})
	newLocker := func(tb testing.TB) *Locker {
		return provision(tb, &Locker{Address: addresses[:1], Cluster: true, Expiry: caddy.Duration(testExpiry)})
	}
	locktest.Run(t, func(tb testing.TB) etag.Locker { return newLocker(tb) })

	locker := newLocker(t)
	for i := range 30 {
		lock, err := locker.Lock(context.Background(), fmt.Sprint("doc", i))
		require.NoError(t, err)
		defer func() { _ = lock.Unlock(context.Background()) }()
	}
	for _, node := range nodes {
		size, err := node.DBSize(context.Background()).Result()
		require.NoError(t, err)
		require.Positive(t, size, "each node has some of the locks")
	}
}
