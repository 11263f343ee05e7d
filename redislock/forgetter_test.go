package redislock

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddyetag/caddy-etag/locktest/clustertest"
)

// peer is what one of several Caddys has of Redis, and what it was told.
type peer struct {
	*teller
	mu   sync.Mutex
	told []string
}

func newPeer(t *testing.T, address string) *peer {
	t.Helper()
	resolved, err := (&Locker{Address: []string{address}}).resolve()
	require.NoError(t, err)
	p := &peer{teller: newTeller(resolved)}
	t.Cleanup(func() { _ = p.Destruct() })
	p.listen(func(resource string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.told = append(p.told, resource)
	})
	clustertest.Eventually(t, "it hears", p.hears)
	p.take()
	return p
}

// take returns what it was told since the last time.
func (p *peer) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	told := p.told
	p.told = nil
	return told
}

func (p *peer) was(t *testing.T, told string) {
	t.Helper()
	clustertest.Eventually(t, "it is told", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return slices.Contains(p.told, told)
	})
	p.take()
}

// TestOthersAreTold what one forgets, and it itself is not.
func TestOthersAreTold(t *testing.T) {
	server := startRedis(t)
	one, two, three := newPeer(t, server.Address()), newPeer(t, server.Address()), newPeer(t, server.Address())
	require.NoError(t, one.forget(context.Background(), "a.example/with space"))
	two.was(t, "a.example/with space")
	three.was(t, "a.example/with space")
	require.NoError(t, one.forget(context.Background(), ""))
	two.was(t, "")
	require.NoError(t, two.forget(context.Background(), "b"))
	one.was(t, "b")
	require.Empty(t, one.take())
}

// TestWhoDoesNotHearSaysSo, and forgets all before it hears again.
func TestWhoDoesNotHearSaysSo(t *testing.T) {
	server := startRedis(t)
	proxy := clustertest.StartProxy(t, server.Address())
	for name, cut := range map[string]func(){"cut off": proxy.Cut, "silent": proxy.Silence} {
		one, two := newPeer(t, proxy.Address), newPeer(t, server.Address())
		cut()
		clustertest.Eventually(t, "it hears nothing: "+name, func() bool { return !one.hears() })
		require.NoError(t, two.forget(context.Background(), "missed"))
		proxy.Restore()
		clustertest.Eventually(t, "it hears again: "+name, one.hears)
		require.Contains(t, one.take(), "", "it forgets all")
	}
}

// TestMessagesAloneAreNotHearing: others may wait behind them for any time.
func TestMessagesAloneAreNotHearing(t *testing.T) {
	server := startRedis(t)
	proxy := clustertest.StartProxy(t, server.Address())
	one, two := newPeer(t, proxy.Address), newPeer(t, server.Address())
	proxy.Mute()
	clustertest.Eventually(t, "it hears nothing", func() bool {
		require.NoError(t, two.forget(context.Background(), "doc"))
		return !one.hears()
	})
	require.Contains(t, one.take(), "doc")
	proxy.Restore()
	clustertest.Eventually(t, "it hears again", one.hears)
	require.Contains(t, one.take(), "", "it forgets all")
}

// TestWhatCouldNotBeToldIsToldLater: that all has changed.
func TestWhatCouldNotBeToldIsToldLater(t *testing.T) {
	server := startRedis(t)
	proxy := clustertest.StartProxy(t, server.Address())
	one, two := newPeer(t, proxy.Address), newPeer(t, server.Address())
	proxy.Cut()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	require.Error(t, one.forget(ctx, "doc"))
	require.NoError(t, one.forget(ctx, "doc"), "it is known that they have to be told")
	proxy.Restore()
	two.was(t, "")
	clustertest.Eventually(t, "it tells each again", func() bool {
		one.teller.mu.Lock()
		defer one.teller.mu.Unlock()
		return !one.behind
	})
	require.NoError(t, one.forget(context.Background(), "doc"))
	two.was(t, "doc")
}

// TestRestartOfRedis: all forget, and go on.
func TestRestartOfRedis(t *testing.T) {
	server := startRedis(t)
	one, two := newPeer(t, server.Address()), newPeer(t, server.Address())
	server.Kill(t)
	clustertest.Eventually(t, "they hear nothing", func() bool { return !one.hears() && !two.hears() })
	server.Start(t)
	clustertest.Eventually(t, "they hear again", func() bool { return one.hears() && two.hears() })
	require.Contains(t, one.take(), "")
	require.Contains(t, two.take(), "")
	require.NoError(t, one.forget(context.Background(), "doc"))
	two.was(t, "doc")
}

// TestForgettersShareTheirConnection, which goes with the last of them.
func TestForgettersShareTheirConnection(t *testing.T) {
	server := startRedis(t)
	forgetter := func() *Forgetter {
		f := new(Forgetter)
		require.NoError(t, f.UnmarshalCaddyfile(caddyfile.NewTestDispenser("redis {\naddress "+server.Address()+"\n}")))
		require.NoError(t, f.Provision(caddy.Context{}))
		return f
	}
	one, other := forgetter(), forgetter()
	require.Same(t, one.shared, other.shared)
	clustertest.Eventually(t, "it hears", one.Hears)
	require.NoError(t, one.Cleanup())
	require.NoError(t, other.Forget(context.Background(), "doc"))
	require.NoError(t, other.Cleanup())
	require.Error(t, other.shared.stopped.Err())
	_, exists := tellers.References(one.id)
	require.False(t, exists)
}

func TestForgetterTakesNoExpiry(t *testing.T) {
	adapter := caddyconfig.GetAdapter("caddyfile")
	_, _, err := adapter.Adapt([]byte("http://localhost {\netag {\nremember 1h {\nredis {\nexpiry 2s\nprefix x\n}\n}\n}\n}\n"), nil)
	require.ErrorContains(t, err, `Caddyfile:5`)
	require.ErrorContains(t, err, `unknown option "expiry" of redis: must be one of address, sentinel, sentinel_username, sentinel_password, cluster, username, password, tls, db, prefix`)
	f := new(Forgetter)
	f.Expiry = caddy.Duration(time.Second)
	require.ErrorContains(t, f.Provision(caddy.Context{}), "expiry")
}

// TestWriteThroughOneCaddyForgetsOnAll, whether or not Redis is there in the
// meantime.
func TestWriteThroughOneCaddyForgetsOnAll(t *testing.T) {
	server := startRedis(t)
	backend := clustertest.StartBackend(t)
	options := "local\nremember 1h {\nredis {\naddress " + server.Address() + "\n}\n}"
	one, two := clustertest.StartCaddy(t, options, backend.Address), clustertest.StartCaddy(t, options, backend.Address)
	read := func(c *clustertest.Caddy, tag string) (status int, newTag string, fromMemory bool) {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, c.URL+"/doc", nil)
		require.NoError(t, err)
		req.Header.Set("If-None-Match", tag)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		return res.StatusCode, res.Header.Get("ETag"), res.Header.Get("Age") != ""
	}
	// remembers reports whether a Caddy comes to answer from memory.
	remembers := func(c *clustertest.Caddy, tag string) {
		t.Helper()
		clustertest.Eventually(t, "it answers from memory", func() bool {
			status, _, fromMemory := read(c, tag)
			require.Equal(t, http.StatusNotModified, status)
			return fromMemory
		})
	}
	require.Less(t, one.Do(http.MethodPut, "/doc", "0", "").Status, 300)
	for round := range 20 {
		writer, reader := one, two
		if round%2 == 1 {
			writer, reader = two, one
		}
		_, tag, _ := read(reader, `"x"`)
		remembers(one, tag)
		remembers(two, tag)
		if round == 10 {
			server.Kill(t)
			clustertest.Eventually(t, "nothing is answered from memory", func() bool {
				_, _, fromMemory := read(reader, tag)
				return !fromMemory
			})
			require.Less(t, writer.Do(http.MethodPut, "/doc", fmt.Sprint("r", round), tag).Status, 300)
			server.Start(t)
		} else {
			require.Less(t, writer.Do(http.MethodPut, "/doc", fmt.Sprint("r", round), tag).Status, 300)
		}
		clustertest.Eventually(t, "the others hear of it", func() bool {
			_, newTag, fromMemory := read(reader, tag)
			return newTag != tag && !fromMemory
		})
		status, newTag, _ := read(writer, tag)
		require.Equal(t, http.StatusOK, status, "who has written knows it at once")
		require.NotEqual(t, tag, newTag)
	}
}
