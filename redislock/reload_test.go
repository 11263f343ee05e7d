package redislock

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
)

// TestLocksOutliveTheirConfiguration: one that is held is renewed, and one that
// is waited for is taken, when the configuration is gone.
func TestLocksOutliveTheirConfiguration(t *testing.T) {
	server := startRedis(t)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	old := &Locker{Address: []string{server.Address()}, Expiry: caddy.Duration(minExpiry)}
	require.NoError(t, old.Provision(ctx))
	lock, err := old.Lock(context.Background(), "doc")
	require.NoError(t, err)

	fresh := &Locker{Address: []string{server.Address()}, Expiry: caddy.Duration(minExpiry)}
	require.NoError(t, fresh.Provision(ctx))
	cancel()
	require.NoError(t, old.Cleanup())
	require.NoError(t, fresh.Cleanup())
	refs, exists := clients.References(old.id)
	require.True(t, exists)
	require.Equal(t, 1, refs)

	other := newLocker(t, server.Address())
	waiting, stop := context.WithTimeout(context.Background(), 3*minExpiry)
	defer stop()
	_, err = other.Lock(waiting, "doc")
	require.ErrorIs(t, err, context.DeadlineExceeded, "it is renewed")
	require.False(t, isLost(lock))

	require.NoError(t, lock.Unlock(context.Background()))
	_, exists = clients.References(old.id)
	require.False(t, exists, "the client goes with its last lock")
	lock, err = other.Lock(context.Background(), "doc")
	require.NoError(t, err)
	require.NoError(t, lock.Unlock(context.Background()))
}

// TestWhoWaitsIsWokenByAMessage, not by looking: the client does not look again
// within the test.
func TestWhoWaitsIsWokenByAMessage(t *testing.T) {
	server := startRedis(t)
	first, second := newLocker(t, server.Address()), newLocker(t, server.Address())
	client := second.clientForTest(t)
	lock, err := first.Lock(context.Background(), "doc")
	require.NoError(t, err)

	name := client.name("doc")
	woken := make(chan struct{}, 1)
	client.setWaiting(name, woken)
	client.listen()
	// that messages come is seen by the first one
	require.Eventually(t, func() bool {
		n, err := client.redis.PubSubNumSub(context.Background(), client.channel).Result()
		return err == nil && n[client.channel] == 1
	}, time.Minute, time.Millisecond)
	require.NoError(t, lock.Unlock(context.Background()))
	select {
	case <-woken:
	case <-time.After(time.Minute):
		t.Fatal("no message")
	}
}

// TestCredentials: a password and a database are used, and a wrong password is
// no lock.
func TestCredentials(t *testing.T) {
	server := startRedis(t, "--requirepass", "secret")
	right := provision(t, &Locker{Address: []string{server.Address()}, Password: "secret", DB: 3, Prefix: "p:", Expiry: caddy.Duration(minExpiry)})
	lock, err := right.Lock(context.Background(), "doc")
	require.NoError(t, err)
	client := right.clientForTest(t)
	keys, err := client.redis.Keys(context.Background(), "p:*").Result()
	require.NoError(t, err)
	require.Equal(t, []string{client.name("doc")}, keys)
	require.NoError(t, lock.Unlock(context.Background()))

	wrong := provision(t, &Locker{Address: []string{server.Address()}, Password: "other", Expiry: caddy.Duration(minExpiry)})
	_, err = wrong.Lock(context.Background(), "doc")
	require.ErrorContains(t, err, "WRONGPASS")
}

// TestCommands: a user who may do what docs/recipes.md says, and no more, is
// enough.
func TestCommands(t *testing.T) {
	server := startRedis(t)
	admin := server.client()
	defer admin.Close()
	require.NoError(t, admin.Do(context.Background(), "ACL", "SETUSER", "caddy", "on", ">secret", "~etag:*", "&etag:*",
		"+eval", "+evalsha", "+script|load", "+get", "+set", "+getrange", "+del", "+pexpire", "+publish", "+subscribe", "+ping", "+info").Err())
	locker := func() *Locker {
		return provision(t, &Locker{Address: []string{server.Address()}, Username: "caddy", Password: "secret", Expiry: caddy.Duration(minExpiry)})
	}
	first, second := locker(), locker()
	for range 3 {
		lock, err := first.Lock(context.Background(), "doc")
		require.NoError(t, err)
		taken := make(chan error, 1)
		go func() {
			lock, err := second.Lock(context.Background(), "doc")
			if err == nil {
				err = lock.Unlock(context.Background())
			}
			taken <- err
		}()
		time.Sleep(minExpiry / 2) // it is renewed
		require.False(t, isLost(lock))
		require.NoError(t, lock.Unlock(context.Background()))
		require.NoError(t, <-taken)
	}
	log, err := admin.ACLLog(context.Background(), 10).Result()
	require.NoError(t, err)
	for _, denied := range log {
		require.NotContains(t, []string{"eval", "evalsha", "publish", "subscribe", "info", "ping"}, denied.Object)
	}
}

func (l *Locker) clientForTest(tb testing.TB) *client {
	c := l.acquire()
	tb.Cleanup(func() { _ = l.release() })
	return c
}
