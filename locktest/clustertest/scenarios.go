//go:build unix

package clustertest

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Service is a lock service that several Caddys share.
type Service interface {
	// Address is where it listens. It stays the same.
	Address() string
	// Stop ends it, or does so as a crash would.
	Stop(tb testing.TB)
	Kill(tb testing.TB)
	// Start starts it again.
	Start(tb testing.TB)
}

// Scenarios are what happens to Caddys that share a service.
type Scenarios struct {
	// Start starts a service that ends with the test.
	Start func(tb testing.TB) Service
	// Lock is what follows `lock` in a Caddyfile for a service with an address.
	// Its timeout is to be longer than a lock takes to expire.
	Lock func(address string) string
}

// Run runs the scenarios.
func (s Scenarios) Run(t *testing.T) {
	t.Run("race", s.race)
	t.Run("holder is killed", s.killed)
	t.Run("holder is paused before it writes", s.paused)
	t.Run("holder is cut off before it writes", func(t *testing.T) { s.cutOff(t, (*Proxy).Cut) })
	t.Run("holder hears nothing before it writes", func(t *testing.T) { s.cutOff(t, (*Proxy).Silence) })
	t.Run("service is restarted while a write is in progress", func(t *testing.T) { s.restarted(t, Service.Stop) })
	t.Run("service crashes while a write is in progress", func(t *testing.T) { s.restarted(t, Service.Kill) })
	t.Run("service is stopped", s.stopped)
}

// cluster is two Caddys before one backend.
type cluster struct {
	backend *Backend
	service Service
	proxy   *Proxy // between the first one and the service
	a, b    *Caddy
}

const first = "first"

func (s Scenarios) cluster(t *testing.T) *cluster {
	c := &cluster{backend: StartBackend(t), service: s.Start(t)}
	c.backend.Set("/doc", first)
	c.proxy = StartProxy(t, c.service.Address())
	c.a = StartCaddy(t, s.Lock(c.proxy.Address), c.backend.Address)
	c.b = StartCaddy(t, s.Lock(c.service.Address()), c.backend.Address)
	for _, caddy := range []*Caddy{c.a, c.b} {
		c.works(t, caddy)
	}
	c.backend.Set("/doc", first)
	return c
}

// works waits until a Caddy takes writes, and returns how long it took.
func (c *cluster) works(t *testing.T, caddy *Caddy) time.Duration {
	t.Helper()
	start := time.Now()
	Eventually(t, "writes are taken", func() bool {
		c.backend.Set("/works", first)
		answer := caddy.Do(http.MethodPut, "/works", "second", Tag(first))
		if answer.Status != 204 && answer.Status != 503 {
			t.Fatalf("a write is answered with %+v", answer)
		}
		return answer.Status == 204
	})
	return time.Since(start)
}

// race has 50 clients write at a time, half of them through each Caddy.
func (s Scenarios) race(t *testing.T) {
	c := s.cluster(t)
	rounds, writers := 100, 50
	if testing.Short() {
		rounds = 5
	}
	tag, won := Tag(first), 0
	for round := range rounds {
		answers := make([]Answer, writers)
		var group sync.WaitGroup
		for i := range writers {
			group.Go(func() {
				caddy := []*Caddy{c.a, c.b}[i%2]
				answers[i] = caddy.Do(http.MethodPut, "/doc", fmt.Sprintf("%d in round %d", i, round), tag)
			})
		}
		group.Wait()
		statuses := make(map[int]int)
		for i, answer := range answers {
			if answer.Err != nil {
				t.Fatal(answer.Err)
			}
			statuses[answer.Status]++
			if answer.Status == 204 {
				tag = Tag(fmt.Sprintf("%d in round %d", i, round))
			}
		}
		if statuses[204] != 1 || statuses[412] != writers-1 {
			t.Fatalf("round %d: %v", round, statuses)
		}
		won++
	}
	t.Logf("%d rounds of %d writers, one winner each", won, writers)
}

// killed: who waits gets the lock of one that was killed.
func (s Scenarios) killed(t *testing.T) {
	c := s.cluster(t)
	c.backend.Shut(http.MethodPut)
	dead := c.a.Go(http.MethodPut, "/doc", "of the dead", Tag(first))
	Eventually(t, "the write is in progress", func() bool { return c.backend.Inside(http.MethodPut) == 1 })
	c.a.Kill()
	killed := time.Now()
	Await(t, dead)
	Eventually(t, "the backend drops the write", func() bool { return c.backend.Inside(http.MethodPut) == 0 })
	c.backend.Open(http.MethodPut)
	answer := c.b.Do(http.MethodPut, "/doc", "second", Tag(first))
	if answer.Status != 204 {
		t.Fatalf("after the holder was killed: %+v", answer)
	}
	t.Logf("free %s after its holder was killed", time.Since(killed).Round(10*time.Millisecond))
}

// paused: who was stopped for longer than its lock lasts does not write.
func (s Scenarios) paused(t *testing.T) {
	c := s.cluster(t)
	c.backend.Shut(http.MethodGet)
	paused := c.a.Go(http.MethodPut, "/doc", "of one that slept", Tag(first))
	Eventually(t, "the current representation is read", func() bool { return c.backend.Inside(http.MethodGet) == 1 })
	c.a.Pause(t)
	// so that the answer waits for it, and it goes on at once when it wakes
	c.backend.Open(http.MethodGet)
	stored := c.backend.Stored()
	if answer := c.b.Do(http.MethodPut, "/doc", "second", Tag(first)); answer.Status != 204 {
		t.Fatalf("while the holder is paused: %+v", answer)
	}
	c.a.Resume(t)
	if answer := Await(t, paused); answer.Status != 503 {
		t.Errorf("who was paused: %+v", answer)
	}
	if n := c.backend.Stored() - stored; n != 1 {
		t.Errorf("%d writes were done", n)
	}
	c.works(t, c.a)
}

// cutOff: who can't renew its lock does not write, nor does who can't take one.
func (s Scenarios) cutOff(t *testing.T, cut func(*Proxy)) {
	c := s.cluster(t)
	c.backend.Shut(http.MethodGet)
	holder := c.a.Go(http.MethodPut, "/doc", "of one cut off", Tag(first))
	Eventually(t, "the current representation is read", func() bool { return c.backend.Inside(http.MethodGet) == 1 })
	cut(c.proxy)
	stored := c.backend.Stored()

	// the other one gets the lock, and then its answer from the backend
	other := c.b.Go(http.MethodPut, "/doc", "second", Tag(first))
	Eventually(t, "the other one has the lock", func() bool { return c.backend.Inside(http.MethodGet) == 2 })
	c.backend.Open(http.MethodGet)
	if answer := Await(t, other); answer.Status != 204 {
		t.Errorf("while the holder is cut off: %+v", answer)
	}
	if answer := Await(t, holder); answer.Status != 503 {
		t.Errorf("who was cut off: %+v", answer)
	}
	if answer := c.a.Do(http.MethodPut, "/doc", "third", Tag("second")); answer.Status != 503 {
		t.Errorf("who is cut off: %+v", answer)
	}
	if answer := c.a.Do(http.MethodPut, "/doc", "third", ""); answer.Status != 503 {
		t.Errorf("who is cut off, without a precondition: %+v", answer)
	}
	if n := c.backend.Stored() - stored; n != 1 {
		t.Errorf("%d writes were done", n)
	}
	c.proxy.Restore()
	t.Logf("takes writes again after %s", c.works(t, c.a).Round(10*time.Millisecond))
}

// restarted: a write in progress keeps its lock, whatever the service forgets.
func (s Scenarios) restarted(t *testing.T, stop func(Service, testing.TB)) {
	c := s.cluster(t)
	c.backend.Shut(http.MethodPut)
	holder := c.a.Go(http.MethodPut, "/doc", "second", Tag(first))
	Eventually(t, "the write is in progress", func() bool { return c.backend.Inside(http.MethodPut) == 1 })

	stop(c.service, t)
	c.service.Start(t)
	back := time.Now()
	// others can be written, and this one can't: the backend would tell, also of
	// one without a precondition
	t.Logf("takes writes again after %s", c.backend.others(t, c.b, back).Round(10*time.Millisecond))
	for _, tag := range []string{Tag(first), ""} {
		other := c.b.Go(http.MethodPut, "/doc", "of another", tag)
		Eventually(t, "another write is answered", func() bool {
			if c.backend.Inside(http.MethodPut) > 2 {
				t.Fatal("another write is at the backend beside the one in progress")
			}
			return len(other) > 0
		})
		if answer := <-other; answer.Status != 503 {
			t.Errorf("while a write is in progress: %+v", answer)
		}
	}
	c.backend.Open(http.MethodPut)
	if answer := Await(t, holder); answer.Status != 204 {
		t.Errorf("the write in progress: %+v", answer)
	}
	Eventually(t, "the lock is free again", func() bool {
		return c.b.Do(http.MethodPut, "/doc", "third", Tag("second")).Status == 204
	})
}

// others waits until another document is written, while the gate is shut for
// writes, and returns for how long the service has been back.
func (b *Backend) others(t *testing.T, caddy *Caddy, back time.Time) time.Duration {
	t.Helper()
	done := caddy.Go(http.MethodPut, "/other", "new", "")
	Eventually(t, "another document is written", func() bool {
		select {
		case answer := <-done:
			if answer.Status != 503 {
				t.Fatalf("another document: %+v", answer)
			}
			done = caddy.Go(http.MethodPut, "/other", "new", "")
		default:
		}
		return b.Inside(http.MethodPut) == 2
	})
	return time.Since(back)
}

// stopped: without the service nobody writes, and with it all do again.
func (s Scenarios) stopped(t *testing.T) {
	c := s.cluster(t)
	c.service.Stop(t)
	stored := c.backend.Stored()
	for _, caddy := range []*Caddy{c.a, c.b} {
		for _, tag := range []string{Tag(first), ""} {
			if answer := caddy.Do(http.MethodPut, "/doc", "second", tag); answer.Status != 503 {
				t.Errorf("without the service: %+v", answer)
			}
		}
		if answer := caddy.Do(http.MethodGet, "/doc", "", ""); answer.Status != 200 || answer.Tag != Tag(first) {
			t.Errorf("a read without the service: %+v", answer)
		}
	}
	if n := c.backend.Stored() - stored; n != 0 {
		t.Errorf("%d writes were done without the service", n)
	}
	c.service.Start(t)
	for _, caddy := range []*Caddy{c.a, c.b} {
		t.Logf("takes writes again after %s", c.works(t, caddy).Round(10*time.Millisecond))
	}
}
