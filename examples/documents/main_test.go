package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the tests run the program as often as they like, each in a
// process of its own, since there is one Caddy in a process.
func TestMain(m *testing.M) {
	if os.Getenv("DOCUMENTS_TEST_RUN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program returns the program with these arguments, in another directory.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = t.TempDir()
	// What Caddy saves goes here, and so does the page that it serves.
	cmd.Env = append(os.Environ(), "DOCUMENTS_TEST_RUN=1", "GORACE=atexit_sleep_ms=0",
		"XDG_CONFIG_HOME="+t.TempDir(), "XDG_DATA_HOME="+t.TempDir(), "TMPDIR="+t.TempDir())
	return cmd
}

// start runs the program until the end of the test, and returns the address
// that it tells.
func start(t *testing.T) string {
	t.Helper()
	cmd := program(t, "-port", "0")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { stop(t, cmd) })

	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err, "the program ended before it told its address")
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "The page is at ")
	require.True(t, ok, "the program said %q", line)
	return address
}

// stop ends the program as Ctrl+C does, and looks for what it left behind.
func stop(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	killer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer killer.Stop()
	require.NoError(t, cmd.Wait())
	for _, variable := range cmd.Env {
		if dir, ok := strings.CutPrefix(variable, "TMPDIR="); ok && strings.Contains(dir, t.Name()) {
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
		}
	}
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) tag() string { return r.header.Get("ETag") }

// do sends a request with the header fields given as pairs of name and value.
func do(t *testing.T, method, url, body string, fields ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return reply{res.StatusCode, res.Header, string(text)}
}

func TestPage(t *testing.T) {
	t.Parallel()
	site := start(t)
	for file, contentType := range map[string]string{
		"/":          "text/html; charset=utf-8",
		"/app.js":    "text/javascript; charset=utf-8",
		"/client.js": "text/javascript; charset=utf-8",
		"/merge.js":  "text/javascript; charset=utf-8",
		"/style.css": "text/css; charset=utf-8",
		"/icon.svg":  "image/svg+xml",
	} {
		first := do(t, http.MethodGet, site+file, "")
		require.Equal(t, http.StatusOK, first.status, file)
		require.Equal(t, contentType, first.header.Get("Content-Type"), file)
		require.Contains(t, first.header.Get("Content-Security-Policy"), "default-src 'none'", file)
		require.NotEmpty(t, first.tag(), file)

		again := do(t, http.MethodGet, site+file, "", "If-None-Match", first.tag())
		require.Equal(t, http.StatusNotModified, again.status, file)
		require.Empty(t, again.body, file)
	}
	require.Contains(t, do(t, http.MethodGet, site+"/", "").body, "Two people, one document")
	require.Equal(t, http.StatusNotFound, do(t, http.MethodGet, site+"/main.go", "").status)
}

func TestSecondSaveIsRefused(t *testing.T) {
	t.Parallel()
	trip := start(t) + "/api/documents/trip"
	read := do(t, http.MethodGet, trip, "")
	require.Equal(t, http.StatusOK, read.status)
	require.Equal(t, "no-cache", read.header.Get("Cache-Control"))
	require.NotEmpty(t, read.tag())

	unchanged := do(t, http.MethodGet, trip, "", "If-None-Match", read.tag())
	require.Equal(t, http.StatusNotModified, unchanged.status)
	require.Equal(t, read.tag(), unchanged.tag())
	require.Empty(t, unchanged.body)

	// Ana and Ben have both read the document. Ana saves first.
	ana := do(t, http.MethodPut, trip, `{"title":"Ana's","author":"Ana"}`, "If-Match", read.tag())
	require.Equal(t, http.StatusOK, ana.status)
	require.Equal(t, "/api/documents/trip", ana.header.Get("Content-Location"))
	require.NotEmpty(t, ana.tag())
	require.NotEqual(t, read.tag(), ana.tag())

	ben := do(t, http.MethodPut, trip, `{"title":"Ben's","author":"Ben"}`, "If-Match", read.tag())
	require.Equal(t, http.StatusPreconditionFailed, ben.status)
	require.Equal(t, "application/problem+json", ben.header.Get("Content-Type"))
	require.Equal(t, ana.tag(), ben.tag())
	var problem struct {
		CurrentETag string `json:"currentETag"`
		YourETag    string `json:"yourETag"`
	}
	require.NoError(t, json.Unmarshal([]byte(ben.body), &problem))
	require.Equal(t, ana.tag(), problem.CurrentETag)
	require.Equal(t, read.tag(), problem.YourETag)

	// The tag of Ana's answer is that of what is stored, and Ben's save gets
	// through with it.
	now := do(t, http.MethodGet, trip, "")
	require.Equal(t, ana.body, now.body)
	require.Equal(t, ana.tag(), now.tag())
	ben = do(t, http.MethodPut, trip, `{"title":"Both","author":"Ben"}`, "If-Match", problem.CurrentETag)
	require.Equal(t, http.StatusOK, ben.status)
	require.Contains(t, do(t, http.MethodGet, trip, "").body, `"title":"Both"`)

	// A write that names no state at all is refused, a removal too.
	for _, method := range []string{http.MethodPut, http.MethodDelete} {
		require.Equal(t, http.StatusPreconditionRequired, do(t, method, trip, `{}`).status, method)
	}
	require.Equal(t, http.StatusNoContent, do(t, http.MethodDelete, trip, "", "If-Match", ben.tag()).status)
	require.Equal(t, http.StatusNotFound, do(t, http.MethodGet, trip, "").status)
}

func TestOtherDocuments(t *testing.T) {
	t.Parallel()
	site := start(t)
	list := do(t, http.MethodGet, site+"/api/documents", "")
	require.JSONEq(t, `[{"id":"trip","title":"Weekend in the mountains"}]`, list.body)

	other := site + "/api/documents/other"
	created := do(t, http.MethodPut, other, `{"title":"Other"}`, "If-None-Match", "*")
	require.Equal(t, http.StatusCreated, created.status)
	require.NotEmpty(t, created.tag())
	again := do(t, http.MethodPut, other, `{"title":"Mine"}`, "If-None-Match", "*")
	require.Equal(t, http.StatusPreconditionFailed, again.status)

	for body, status := range map[string]int{
		`{"title":`:     http.StatusBadRequest,
		`{"name":"x"}`:  http.StatusBadRequest,
		`{"id":"trip"}`: http.StatusConflict,
		`{"text":"` + strings.Repeat("x", maxBody) + `"}`: http.StatusRequestEntityTooLarge,
	} {
		res := do(t, http.MethodPut, other, body, "If-Match", created.tag())
		require.Equal(t, status, res.status, res.body)
		require.Contains(t, res.body, `"error":`)
	}
	require.Equal(t, created.tag(), do(t, http.MethodGet, other, "").tag())
	changed := do(t, http.MethodGet, site+"/api/documents", "", "If-None-Match", list.tag())
	require.Equal(t, http.StatusOK, changed.status)
}

func TestPatchAndPost(t *testing.T) {
	t.Parallel()
	site := start(t)
	trip := site + "/api/documents/trip"
	read := do(t, http.MethodGet, trip, "")
	require.Equal(t, http.StatusPreconditionRequired, do(t, http.MethodPatch, trip, `{"title":"Sunday"}`).status)
	patched := do(t, http.MethodPatch, trip, `{"title":"Sunday"}`, "If-Match", read.tag())
	require.Equal(t, http.StatusNoContent, patched.status)
	now := do(t, http.MethodGet, trip, "")
	require.Equal(t, now.tag(), patched.tag())
	require.Equal(t, strings.Replace(read.body, "Weekend in the mountains", "Sunday", 1), now.body)
	require.Equal(t, http.StatusPreconditionFailed, do(t, http.MethodPatch, trip, `{"title":"Monday"}`, "If-Match", read.tag()).status)
	for _, patch := range []string{`{"id":"other"}`, `{"title":1}`, `{`} {
		require.Equal(t, http.StatusBadRequest, do(t, http.MethodPatch, trip, patch, "If-Match", now.tag()).status, patch)
	}

	for _, id := range []string{"1", "2"} {
		posted := do(t, http.MethodPost, site+"/api/documents", `{"title":"Another"}`)
		require.Equal(t, http.StatusCreated, posted.status)
		require.Equal(t, "/api/documents/"+id, posted.header.Get("Location"))
		require.Equal(t, posted.body, do(t, http.MethodGet, site+posted.header.Get("Location"), "").body)
	}
	require.Equal(t, http.StatusBadRequest, do(t, http.MethodPost, site+"/api/documents", `{"name":"x"}`).status)
}

func TestTwoRuns(t *testing.T) {
	t.Parallel()
	first, second := start(t), start(t)
	require.NotEqual(t, first, second)
	trip := "/api/documents/trip"
	tag := do(t, http.MethodGet, first+trip, "").tag()
	require.Equal(t, tag, do(t, http.MethodGet, second+trip, "").tag())

	saved := do(t, http.MethodPut, first+trip, `{"title":"First"}`, "If-Match", tag)
	require.Equal(t, http.StatusOK, saved.status)
	require.Equal(t, saved.tag(), do(t, http.MethodGet, first+trip, "").tag())
	require.Equal(t, tag, do(t, http.MethodGet, second+trip, "").tag())
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	address, err := url.Parse(start(t))
	require.NoError(t, err)
	output, err := program(t, "-port", address.Port()).CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Contains(t, string(output), "listening on port "+address.Port()+", choose another with -port")
}
