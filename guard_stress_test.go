package etag

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestNoUpdateIsLostAmongClientsThatLeave has a dozen clients a round write with
// one tag, and a third of them leave at any moment: while they wait, while they
// are judged, while their write is stored. The backend stores what it has, in
// its own time. Of each round's writes it must have stored one.
func TestNoUpdateIsLostAmongClientsThatLeave(t *testing.T) {
	for _, reloading := range []bool{false, true} {
		for _, protocol := range []string{"h1", "h2c"} {
			t.Run(fmt.Sprintf("%s, reloading: %t", protocol, reloading), func(t *testing.T) {
				rounds, writers := 200, 12
				if testing.Short() {
					rounds = 40
				}
				g := startGuardedSite(t, `handle /metrics {
					metrics
				}
				handle {
					etag
					reverse_proxy %s {
						transport http {
							keepalive off
						}
					}
				}`)
				g.delay = randomDelay
				g.client = clientFor(t, protocol, nil)
				g.client.Transport.(*http.Transport).DisableKeepAlives = true // a reload closes idle connections
				require.Equal(t, 204, g.do("PUT", "/doc", "zero", "If-Match", oneTag, "X-Base", oneTag).status)
				goroutines := runtime.NumGoroutine()

				for round := range rounds {
					var wg sync.WaitGroup
					if reloading && round%10 == 5 {
						wg.Go(func() {
							time.Sleep(randomDelay())
							// another value, since Caddy does not reload an equal configuration
							load(t, strings.Replace(g.config, "grace_period 1s", fmt.Sprintf("grace_period %dms", 1000+round), 1))
						})
					}
					tag := g.currentTag()
					for i := range writers {
						wg.Go(func() {
							ctx, leave := context.WithCancel(context.Background())
							defer leave()
							if i%3 == 0 {
								defer time.AfterFunc(rand.N(8*time.Millisecond), leave).Stop()
							}
							g.write(ctx, fmt.Sprintf("%d of round %d", i, round), tag)
						})
					}
					wg.Wait()
				}

				g.gone()
				g.checkHistory(t)
				if !reloading { // which resets connections before their requests are read
					require.Len(t, g.stored(), rounds+1, "each round's first write passes")
				}
				require.Equal(t, 1, g.get(&g.most))
				g.passesMeanwhile(t) // no lock is left behind
				client := clientFor(t, "h1", nil)
				eventually(t, func() bool { return scrape(t, client, g.url)["caddy_http_etag_held_bytes"] == 0 })
				client.CloseIdleConnections()
				noMoreGoroutines(t, goroutines+5, g.client) // Caddy's own come and go
			})
		}
	}
}

// currentTag reads the document's tag, again where a reload has reset the
// connection.
func (g *guardSite) currentTag() string {
	for {
		if res, err := try(g.client, "GET", g.url+"/doc", ""); err == nil && res.status == http.StatusOK {
			return res.tag()
		}
	}
}

// write sends a guarded write from a goroutine of its own.
func (g *guardSite) write(ctx context.Context, body, tag string) {
	req, _ := http.NewRequestWithContext(ctx, http.MethodPut, g.url+"/doc", strings.NewReader(body))
	addFields(req.Header, []string{"If-Match", tag, "X-Base", tag})
	res, err := g.client.Do(req)
	if err != nil {
		return // it has left, or a reload has reset its connection
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent && res.StatusCode != http.StatusPreconditionFailed {
		g.tb.Errorf("got status %d", res.StatusCode)
	}
}
