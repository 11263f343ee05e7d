package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyetag/caddy-etag/stress/history"
)

// TestMain lets this program be a Caddy, as main does.
func TestMain(m *testing.M) {
	if os.Getenv(roleVar) != "" {
		runRole()
		return
	}
	os.Exit(m.Run())
}

// TestFaultsAreFound: a run that finds nothing must be one that could have.
func TestFaultsAreFound(t *testing.T) {
	find := func(t *testing.T, name, finding string, o options) {
		t.Helper()
		o.seed, o.enough, o.out = 1, 1, t.TempDir()
		chosen, err := chooseProfiles(name)
		require.NoError(t, err)
		length := time.Minute
		if name == "soak" {
			length = 5 * time.Second // it looks at the end
		}
		r := run(chosen[0], o, length)
		require.NotEmpty(t, r.found())
		require.Regexp(t, finding, r.found()[0])
		if finding == noOrder {
			files, err := os.ReadDir(o.out)
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(files), 2, "a history, and the page that shows it")
		}
		t.Logf("found after %s: %s", r.took, r.found()[0])
	}
	findings := map[string]string{
		"writes": noOrder, "remember": noOrder,
		// a write that passes by a part's tag, or is refused with it, whichever comes first
		"deaths": "a write was sent to the backend|^(PUT|PATCH|DELETE) .*: 412",
		"soak":   "bytes held", "reads": "status", "hostile": "a write is answered with 503",
	}
	t.Run("lock off", func(t *testing.T) { find(t, "writes", noOrder, options{lock: "off"}) })
	t.Run("locks of one Caddy for several", func(t *testing.T) { find(t, "cluster", noOrder, options{lock: "local"}) })
	for _, mutation := range mutationNames() {
		t.Run(mutation, func(t *testing.T) {
			name, _, _ := strings.Cut(mutation, "/")
			find(t, name, findings[name], options{mutation: mutation})
		})
	}
}

const noOrder = "no order explains"

// TestCaddyThatExitsIsFound: requests without an answer are no finding.
func TestCaddyThatExitsIsFound(t *testing.T) {
	exits := func(end func(*caddy)) []string {
		r := run(profile{name: "exits", run: func(w *world) {
			c := w.startCaddy("caddy", "respond hello", "")
			end(c)
			<-c.exited
		}}, options{seed: 1, enough: 1, out: t.TempDir()}, time.Minute)
		return r.found()
	}
	require.Empty(t, exits(func(c *caddy) { c.kill() }))
	require.Equal(t, []string{"a Caddy has exited by itself: signal: killed"}, exits(func(c *caddy) { _ = c.cmd.Process.Kill() }))
	require.Contains(t, exits(func(c *caddy) { _ = c.cmd.Process.Signal(syscall.SIGQUIT) })[0], "exit status 2", "as a panic ends it")
}

// TestAnswersOf499: few are another client's doing, and tell nothing; many are
// not.
func TestAnswersOf499(t *testing.T) {
	after := func(times int) (last history.Operation, findings []string) {
		r := run(profile{name: "499", run: func(w *world) {
			c := w.startCaddy("caddy", "respond 499", "")
			client := newClient(false)
			for range times {
				last = w.send(client, request{op: history.Operation{Kind: history.Write}, address: c.address, path: "/"})
			}
		}}, options{seed: 1, enough: 1, out: t.TempDir()}, time.Minute)
		return last, r.found()
	}
	last, findings := after(5)
	require.Empty(t, findings)
	require.Zero(t, last.Status)
	require.EqualValues(t, history.Never, last.Return)
	require.True(t, last.Late)
	_, findings = after(6)
	require.Equal(t, []string{"clients that have not left are answered with 499"}, findings)
}
