package etag

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddyetag/caddy-etag/internal/held"
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
		_, err := try(client, "DELETE", url+"/doc", "", "If-Match", "*")
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
		for labels, count := range map[[3]string]float64{
			{kindRead, outcomeTagged, ""}:                     2,
			{kindRead, outcomeKept, ""}:                       1,
			{kindRead, outcomeNotModified, "if_none_match"}:   3,
			{kindRead, outcomeFailed, "if_match"}:             1,
			{kindRead, outcomeBypassed, "no_store"}:           1,
			{kindRead, outcomeBypassed, "status"}:             1,
			{kindWrite, outcomePassed, ""}:                    3,
			{kindWrite, outcomeFailed, "stale"}:               1,
			{kindWrite, outcomeRequired, ""}:                  1,
			{kindWrite, outcomeBypassed, ""}:                  1,
			{kindWrite, outcomeLockedOut, string(reasonBusy)}: 1,
		} {
			series := fmt.Sprintf("caddy_http_etag_outcomes_total{kind=%q,outcome=%q,reason=%q}", labels[0], labels[1], labels[2])
			require.InDelta(t, count, counted(series), 0, series)
		}
		require.InDelta(t, 7, counted("caddy_http_etag_internal_gets_total"), 0,
			"one for each guarded write, one for the new tag, one for each HEAD of what is tagged")
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

// scrape returns the values of the module's series.
// TestPlaceholdersAreEmptyWhereNothingIsDecided, and not unknown. A handler
// further down may decide yet.
func TestPlaceholdersAreEmptyWhereNothingIsDecided(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "one") })
	for _, c := range []struct {
		etag     string
		method   string
		expected string
	}{
		{"etag", "POST", "[  ]"},
		{"etag", "OPTIONS", "[  ]"},
		{"etag", "PROPFIND", "[  ]"},
		{"etag {\nif_match off\n}", "PUT", "[  ]"},
		{"etag {\nif_match off\n}\netag", "PUT", "[passed  ]"},
		{"etag\netag {\nif_match off\n}", "PUT", "[passed  ]"},
	} {
		url := startCaddy(t, "route {\nheader >X-Etag \"[{http.etag.outcome} {http.etag.reason} {http.etag.tag}]\"\n"+c.etag+"\nreverse_proxy "+upstream+"\n}")
		require.Equal(t, c.expected, do(t, clientFor(t, "h1", nil), c.method, url, "").header.Get("X-Etag"), "%s %s", c.etag, c.method)
	}
}

// TestHandlerThatDecidesNothingHidesNoDecision of one above.
func TestHandlerThatDecidesNothingHidesNoDecision(t *testing.T) {
	url := startCaddy(t, "route {\netag\netag {\nif_match off\n}\nrespond {http.etag.outcome}\n}")
	require.Equal(t, "passed", do(t, clientFor(t, "h1", nil), "PUT", url, "").body)
}

// TestNoLockIsNoWaitForOne: there is nothing to wait for.
func TestNoLockIsNoWaitForOne(t *testing.T) {
	s := newStore(map[string]string{"/doc": "one"})
	url := startCaddy(t, "handle /metrics {\nmetrics\n}\nhandle {\netag {\nlock off\n}\nreverse_proxy "+s.start(t)+"\n}")
	client := clientFor(t, "h1", nil)
	before := scrape(t, client, url)["caddy_http_etag_lock_wait_seconds_count"]
	require.Equal(t, 204, do(t, client, "PUT", url+"/doc", "two", "If-Match", "*").status)
	require.InDelta(t, before, scrape(t, client, url)["caddy_http_etag_lock_wait_seconds_count"], 0)
}

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
		header >X-Outcome {http.etag.outcome}
		etag
		handle /nothing {
			vars x y
		}
		handle {
			etag weak {
				existing replace
			}
			respond hello
		}`)
	load(t, config)
	t.Cleanup(stopCaddy)
	require.Equal(t, "kept", get(t, url).header.Get("X-Outcome"))
	get(t, url, "Accept-Encoding", "gzip")
	get(t, url+"/nothing")
	stopCaddy()
	lines := readLines(t, file)
	weak := `W/\"` + opaque(tagFor("hello")) + `\"`
	require.Contains(t, lines[0], `"tag":"`+weak+`","outcome":"kept"`)
	require.Contains(t, lines[1], `"tag":"`+weak+`","outcome":"kept"`)
	require.Contains(t, lines[2], `"tag":"","outcome":""`)

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
	before := held.Total()
	_, err := serve(h, func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, strings.Repeat("x", held.BlockSize+1))
		assert.EqualValues(t, 2*held.BlockSize, held.Total()-before)
		return nil
	}, http.MethodGet)
	require.NoError(t, err)
	require.Equal(t, before, held.Total())
}

// TestLogsHaveNoCredentials, no cookie and no body, at debug.
func TestLogsHaveNoCredentials(t *testing.T) {
	s := newStore(maps.Clone(oneDoc))
	file := filepath.Join(t.TempDir(), "debug.log")
	url, config := siteAt(t, "etag\nreverse_proxy "+s.start(t))
	load(t, strings.Replace(config, "level PANIC", "level DEBUG\ninclude http.handlers.etag\noutput file "+file, 1))
	t.Cleanup(stopCaddy)
	client := clientFor(t, "h1", nil)
	secrets := []string{"Authorization", "Bearer secret-token", "Cookie", "session=secret-cookie"}
	address := url + "/d%6Fc?token=secret-query"
	do(t, client, "GET", address, "", secrets...)
	do(t, client, "PUT", address, "secret-body", append(secrets, "If-Match", oneTag)...)
	do(t, client, "PUT", address, "secret-body", append(secrets, "If-Match", oneTag)...)
	stopCaddy()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, outcome := range []string{outcomeTagged, outcomePassed, outcomeFailed} {
		require.Contains(t, string(text), `"outcome":"`+outcome+`"`)
	}
	require.NotContains(t, string(text), "secret")
	host := strings.TrimPrefix(url, "http://")
	require.Contains(t, string(text), `"method":"GET","host":"`+host+`","path":"/d%6Fc"`)
	require.Contains(t, string(text), `"method":"PUT","host":"`+host+`","path":"/d%6Fc"`)
	require.Contains(t, string(text), `"reason":"stale"`)
	require.Contains(t, string(text), `"if_match":`+strconv.Quote(oneTag))
	require.Contains(t, string(text), `"current_tag":`+strconv.Quote(tagFor("secret-body")))
	require.Contains(t, string(text), `"internal_get_status":200`)
}

// TestPlaceholdersInADeferredHeader, which is looked up while the outermost of
// three handlers sends the response, and hints before it.
func TestPlaceholdersInADeferredHeader(t *testing.T) {
	for _, size := range []string{"8MiB", "1"} {
		s := newStore(maps.Clone(oneDoc))
		s.answer = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusEarlyHints)
			return false
		}
		url := startCaddy(t, `route {
				header >X-Is "{http.etag.outcome}|{http.etag.tag}"
				etag {
					max_size `+size+`
					version above
					existing replace
				}
				etag {
					version between
					existing replace
				}
				etag {
					version below
				}
				reverse_proxy `+s.start(t)+`
			}`)
		client := clientFor(t, "h1", nil)
		read := do(t, client, "GET", url+"/doc", "")
		written := do(t, client, "PUT", url+"/doc", "two", "If-Match", "*")
		unguarded := do(t, client, "PUT", url+"/doc", "three")
		require.Equal(t, "passed|", unguarded.header.Get("X-Is"))
		if size == "1" {
			require.Equal(t, "bypassed|", read.header.Get("X-Is"))
			require.Equal(t, "passed|", written.header.Get("X-Is"))
			continue
		}
		require.Equal(t, `tagged|"above-`+opaque(tagFor("one"))+`"`, read.header.Get("X-Is"))
		require.Equal(t, `passed|"above-`+opaque(tagFor("two"))+`"`, written.header.Get("X-Is"))
	}
}

// TestPlaceholdersOfAWriteInADeferredHeader are the outer handler's, whatever the
// inner one has decided.
func TestPlaceholdersOfAWriteInADeferredHeader(t *testing.T) {
	scriptLocks(t, nil, granted, released)
	s := newStore(maps.Clone(oneDoc))
	s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body) // or it does not see that the proxy leaves
		<-r.Context().Done()
		return true
	}
	url := startCaddy(t, `route {
			header >X-Is "{http.etag.outcome}|{http.etag.reason}"
			etag {
				lock scripted 5s 100ms
			}
			etag {
				lock off
				require_if_match DELETE
			}
			reverse_proxy `+s.start(t)+`
		}`)
	client := clientFor(t, "h1", nil)
	timedOut := do(t, client, "PUT", url+"/doc", "two", "If-Match", "*")
	require.Equal(t, 504, timedOut.status)
	require.Equal(t, "timed_out|hold", timedOut.header.Get("X-Is"))
	required := do(t, client, "DELETE", url+"/doc", "")
	require.Equal(t, 428, required.status)
	require.Equal(t, "passed|", required.header.Get("X-Is"))
}
