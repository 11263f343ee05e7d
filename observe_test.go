package etag

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOutcomesArePlaceholdersAndCounted has every outcome happen, and looks
// for it in the access log and in the metrics, before and after a reload.
func TestOutcomesArePlaceholdersAndCounted(t *testing.T) {
	s := newStore(map[string]string{"/doc": "one", "/own": "one", "/none": "one"})
	entered, release := make(chan struct{}), make(chan struct{})
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/own":
			w.Header().Set("ETag", `"own"`)
		case r.URL.Path == "/none":
			w.Header().Set("Cache-Control", "no-store")
		case r.Method == http.MethodDelete:
			close(entered)
			<-release
		}
		return false
	}
	file := filepath.Join(t.TempDir(), "access.log")
	url, config := siteAt(t, `log {
			output file `+file+`
		}
		log_append outcome {http.etag.outcome}
		log_append tag {http.etag.tag}
		header >X-Outcome {http.etag.outcome}
		header >X-Tag {http.etag.tag}
		`+metricsSite(s.start(t)))
	load(t, config)
	t.Cleanup(stopCaddy)
	client := clientFor(t, "h1", nil)

	requests := []struct {
		method, path, outcome, tag string
		fields                     []string
	}{
		{"GET", "/doc", outcomeTagged, oneTag, nil},
		{"HEAD", "/doc", outcomeTagged, oneTag, nil},
		{"GET", "/own", outcomeKept, `"own"`, nil},
		{"GET", "/doc", outcomeNotModified, oneTag, []string{"If-None-Match", oneTag}},
		{"HEAD", "/doc", outcomeNotModified, oneTag, []string{"If-None-Match", oneTag}},
		{"GET", "/own", outcomeNotModified, `"own"`, []string{"If-None-Match", `"own"`}},
		{"GET", "/doc", outcomeFailed, oneTag, []string{"If-Match", `"x"`}},
		{"GET", "/none", outcomeBypassed, "", nil},
		{"GET", "/missing", outcomeBypassed, "", nil},
		{"PUT", "/doc", outcomePassed, "", nil},
		{"PUT", "/doc", outcomePassed, tagFor("/doc"), []string{"If-Match", "*"}},
		{"PUT", "/doc", outcomeFailed, tagFor("/doc"), []string{"If-Match", `"x"`}},
		{"PATCH", "/doc", outcomeRequired, "", nil},
		{"PUT", "/missing", outcomeBypassed, "", []string{"If-Match", `"x"`}},
	}
	before := scrape(t, client, url)
	for _, request := range requests {
		body := ""
		if request.method == "PUT" || request.method == "PATCH" {
			body = request.path
		}
		res := do(t, client, request.method, url+request.path, body, request.fields...)
		require.Equal(t, request.outcome, res.header.Get("X-Outcome"), "known when the header is sent: %s %s", request.method, request.path)
		require.Equal(t, res.tag(), res.header.Get("X-Tag"), "%s %s", request.method, request.path)
	}

	done := make(chan error)
	go func() {
		_, err := try(client, "DELETE", url+"/doc", "")
		done <- err
	}()
	<-entered
	lockedOut := do(t, client, "PUT", url+"/doc", "x")
	require.Equal(t, 503, lockedOut.status)
	require.Equal(t, outcomeLockedOut, lockedOut.header.Get("X-Outcome"))
	close(release)
	require.NoError(t, <-done)

	counted := func(series string) float64 { return scrape(t, client, url)[series] - before[series] }
	check := func() {
		for outcome, count := range map[string]float64{
			outcomeTagged: 2, outcomeKept: 1, outcomeNotModified: 3, outcomeFailed: 2, outcomeBypassed: 3,
			outcomePassed: 3, outcomeRequired: 1, outcomeLockedOut: 1,
		} {
			require.InDelta(t, count, counted(`caddy_http_etag_outcomes_total{outcome="`+outcome+`"}`), 0, outcome)
		}
		require.InDelta(t, 6, counted("caddy_http_etag_saved_bytes_total"), 0, "the length of two documents, each for one GET")
		require.InDelta(t, 5, counted("caddy_http_etag_lock_wait_seconds_count"), 0, "the locks that were taken")
		require.InDelta(t, 0, scrape(t, client, url)["caddy_http_etag_held_bytes"], 0)
	}
	check()
	load(t, strings.Replace(config, "grace_period 1s", "grace_period 2s", 1))
	client.CloseIdleConnections()
	eventually(t, func() bool { _, err := try(client, "GET", url+"/metrics", ""); return err == nil })
	check()
	stopCaddy()

	lines := readLines(t, file)
	var seen []string
	for _, line := range lines {
		var entry struct{ Outcome, Tag string }
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		if entry.Outcome != "" && !strings.Contains(line, "/metrics") {
			seen = append(seen, entry.Outcome+" "+entry.Tag)
		}
	}
	for i, request := range requests {
		require.Equal(t, request.outcome+" "+request.tag, seen[i], "%s %s", request.method, request.path)
	}
	require.Contains(t, seen, outcomeLockedOut+" ")
}

// metricsSite is a site with the handler in front of an upstream, and its
// metrics.
func metricsSite(upstream string) string {
	return `handle /metrics {
			metrics
		}
		handle {
			etag {
				require_if_match PATCH
				lock local 10ms
			}
			reverse_proxy ` + upstream + `
		}`
}

// scrape returns the values of the module's series.
func scrape(t *testing.T, client *http.Client, url string) map[string]float64 {
	t.Helper()
	res, err := try(client, "GET", url+"/metrics", "")
	for range 100 {
		if err == nil {
			break
		}
		res, err = try(client, "GET", url+"/metrics", "")
	}
	require.NoError(t, err)
	values := make(map[string]float64)
	for line := range strings.Lines(res.body) {
		var value float64
		series, text, found := strings.Cut(strings.TrimSpace(line), " ")
		if !found || !strings.HasPrefix(series, "caddy_http_etag_") {
			continue
		}
		_, err := fmt.Sscan(text, &value)
		require.NoError(t, err)
		values[series] = value
	}
	return values
}

// TestPlaceholdersAreTheOutermostHandlers, and of the response as encode left it.
func TestPlaceholdersAreTheOutermostHandlers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	url, config := siteAt(t, `log {
			output file `+file+`
		}
		log_append outcome {http.etag.outcome}
		log_append tag {http.etag.tag}
		encode {
			minimum_length 1
		}
		etag
		handle {
			etag weak {
				existing replace
			}
			respond hello
		}`)
	load(t, config)
	t.Cleanup(stopCaddy)
	get(t, url)
	get(t, url, "Accept-Encoding", "gzip")
	stopCaddy()
	lines := readLines(t, file)
	weak := `W/\"` + opaque(tagFor("hello")) + `\"`
	require.Contains(t, lines[0], `"tag":"`+weak+`","outcome":"kept"`)
	require.Contains(t, lines[1], `"tag":"`+weak+`","outcome":"kept"`)

	url, config = siteAt(t, `log {
			output file `+file+`2
		}
		log_append outcome {http.etag.outcome}
		log_append tag {http.etag.tag}
		encode {
			minimum_length 1
		}
		etag
		respond hello`)
	load(t, config)
	get(t, url, "Accept-Encoding", "gzip")
	stopCaddy()
	require.Contains(t, readLines(t, file+"2")[0], `"tag":"\"`+opaque(tagFor("hello"))+`-gzip\"","outcome":"tagged"`)
}

// TestHeldBytesAreSeenWhileTheyAreHeld in the gauge.
func TestHeldBytesAreSeenWhileTheyAreHeld(t *testing.T) {
	h := newHandler(t, Handler{})
	before := heldBytes.Load()
	_, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, strings.Repeat("x", blockSize+1))
		require.EqualValues(t, 2*blockSize, heldBytes.Load()-before)
		return nil
	}, http.MethodGet)
	require.NoError(t, err)
	require.Equal(t, before, heldBytes.Load())
}

// TestLogsHaveNoCredentials, no cookie and no body, at debug.
func TestLogsHaveNoCredentials(t *testing.T) {
	s := newStore(copyOf(oneDoc))
	file := filepath.Join(t.TempDir(), "debug.log")
	url, config := siteAt(t, "etag\nreverse_proxy "+s.start(t))
	load(t, strings.Replace(config, "level PANIC", "level DEBUG\ninclude http.handlers.etag\noutput file "+file, 1))
	t.Cleanup(stopCaddy)
	client := clientFor(t, "h1", nil)
	secrets := []string{"Authorization", "Bearer secret-token", "Cookie", "session=secret-cookie"}
	do(t, client, "GET", url+"/doc", "", secrets...)
	do(t, client, "PUT", url+"/doc", "secret-body", append(secrets, "If-Match", oneTag)...)
	do(t, client, "PUT", url+"/doc", "secret-body", append(secrets, "If-Match", oneTag)...)
	stopCaddy()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, outcome := range []string{outcomeTagged, outcomePassed, outcomeFailed} {
		require.Contains(t, string(text), `"outcome":"`+outcome+`"`)
	}
	require.NotContains(t, string(text), "secret")
}
