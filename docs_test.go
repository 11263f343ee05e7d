package etag

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/fcgi"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
)

// This file has what the documentation says: each Caddyfile and JSON in it is
// loaded, each command is run here or in .ci, each link leads somewhere, and
// each option, reason and module that it names is there.

// docBlock is a block of code on a page.
type docBlock struct {
	page, heading string
	n             int    // its number among those of its language below the heading
	language      string // of the fence, and what stands behind it there
	info          string
	text          string
}

func (b docBlock) name() string { return fmt.Sprintf("%s#%s-%d", b.page, slug(b.heading), b.n) }

// docPages returns the documentation for users, and its text. That of the tests
// is none: its commands take hours.
func docPages(tb testing.TB) map[string]string {
	tb.Helper()
	names, err := filepath.Glob("docs/*.md")
	require.NoError(tb, err)
	require.GreaterOrEqual(tb, len(names), 5)
	pages := make(map[string]string)
	for _, name := range append(names, "README.md") {
		if filepath.Base(name) == "testing.md" {
			continue
		}
		text, err := os.ReadFile(name)
		require.NoError(tb, err)
		pages[filepath.ToSlash(name)] = string(text)
	}
	return pages
}

// docBlocks returns the blocks of code of all pages.
func docBlocks(tb testing.TB, languages ...string) (blocks []docBlock) {
	tb.Helper()
	pages := docPages(tb)
	for _, page := range slices.Sorted(maps.Keys(pages)) {
		var heading string
		var open *docBlock
		seen := make(map[string]int)
		for line := range strings.Lines(pages[page]) {
			fence := strings.HasPrefix(line, "```")
			switch {
			case fence && open == nil:
				language, info, _ := strings.Cut(strings.TrimSpace(line[3:]), " ")
				require.NotEmpty(tb, language, "a block of no language below %q of %s", heading, page)
				seen[language]++
				open = &docBlock{page: page, heading: heading, n: seen[language], language: language, info: info}
			case fence:
				if slices.Contains(languages, open.language) {
					blocks = append(blocks, *open)
				}
				open = nil
			case open != nil:
				open.text += line
			case strings.HasPrefix(line, "#"):
				heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
				clear(seen)
			}
		}
		require.Nil(tb, open, page)
	}
	require.NotEmpty(tb, blocks)
	return blocks
}

// slug is the anchor that GitHub gives to a heading.
func slug(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

var (
	siteAddress  = regexp.MustCompile(`(?m)^([a-z]+(?:\.[a-z]+)+)?(?::[0-9]+)? \{$`)
	backendOf    = regexp.MustCompile(`\b(reverse_proxy|php_fastcgi) [a-z]+:\d+`)
	moduleBlock  = regexp.MustCompile(`(?s)(lock|remember) (\S+)( \d+s)? \{\n(.*?)\n\t\t\}`)
	optionOfLock = regexp.MustCompile(`(?m)^\s*([a-z_]+)( .*)?$`)
)

// docSite makes a Caddyfile of a block that this machine can run: names, ports,
// backends and directories are those of the test.
func docSite(t *testing.T, b docBlock, upstream string) (url, caddyfile string) {
	t.Helper()
	text := b.text
	if strings.HasPrefix(text, "etag") { // a directive
		text = "example.com {\n" + text + "\nreverse_proxy localhost:3000\n}\n"
	}
	if b.info != "" {
		text = withoutModule(t, b.info, text)
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "index.php"), nil, 0o600))
	for _, path := range []string{"/var/www/html", "/var/log/caddy", "/mnt/caddy"} {
		text = strings.ReplaceAll(text, path, filepath.ToSlash(dir))
	}
	port := freePort(t)
	require.Regexp(t, siteAddress, text)
	text = siteAddress.ReplaceAllStringFunc(text, func(line string) string {
		return "http://" + siteAddress.FindStringSubmatch(line)[1] + ":" + port + " {"
	})
	text = backendOf.ReplaceAllStringFunc(text, func(line string) string {
		if directive, _, _ := strings.Cut(line, " "); directive == "php_fastcgi" {
			return directive + " " + startFastCGI(t)
		}
		return "reverse_proxy " + upstream
	})
	global := "\nadmin off\npersist_config off\ndefault_bind 127.0.0.1\ngrace_period 1s\nlog {\nlevel PANIC\n}\n"
	if rest, found := strings.CutPrefix(text, "{\n"); found {
		return "http://127.0.0.1:" + port, "{" + global + rest
	}
	return "http://127.0.0.1:" + port, "{" + global + "}\n" + text
}

// withoutModule puts the built-in lock, or none to forget, in the place of a
// module's block. The module's own source has to know the options in it; .ci/docs
// adapts the whole.
func withoutModule(t *testing.T, module, text string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(module, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "the module of a block")
	var source []byte
	for _, file := range files {
		code, err := os.ReadFile(file)
		require.NoError(t, err)
		if !strings.HasSuffix(file, "_test.go") {
			source = append(source, code...)
		}
	}
	block := moduleBlock.FindStringSubmatch(text)
	require.NotNil(t, block, text)
	name, options := block[2], block[4]
	if block[1] == "remember" {
		name, options, _ = strings.Cut(options, "{")
		name = strings.TrimSpace(name)
		options = strings.TrimRight(options, "}\t\n ")
	}
	require.Equal(t, module, name+"lock")
	for _, option := range optionOfLock.FindAllStringSubmatch(options, -1) {
		require.True(t, regexp.MustCompile(`"`+option[1]+`":`).Match(source), "%s has no option %s", module, option[1])
	}
	if block[1] == "remember" {
		return moduleBlock.ReplaceAllString(text, "remember $2")
	}
	return moduleBlock.ReplaceAllString(text, "lock local$3")
}

// docBackend answers with what was put there, and with the fields that the query
// names. What is made by PHP, or is JSON, has the number of the request in it.
func docBackend(t *testing.T) http.Handler {
	var mu sync.Mutex
	texts, requests := make(map[string]string), 0
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		requests++
		for name, values := range r.URL.Query() {
			w.Header()[http.CanonicalHeaderKey(name)] = values
		}
		w.Header().Set("X-Asked", fmt.Sprint(r.Header.Get("X-Etag-Internal"), requests))
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			if text, found := texts[r.URL.Path]; found {
				_, _ = io.WriteString(w, text)
				return
			}
			switch filepath.Ext(r.URL.Path) {
			case ".php":
				fmt.Fprintf(w, "<p>Hello <!-- generated at %d -->", requests)
			case ".json":
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"generated_at": %d, "items": []}`, requests)
			default:
				_, _ = io.WriteString(w, "hello")
			}
		default:
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			texts[r.URL.Path] = string(text)
			w.WriteHeader(http.StatusNoContent)
		}
	})
}

// startFastCGI runs docBackend as PHP would be run.
func startFastCGI(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() { _ = fcgi.Serve(ln, docBackend(t)) }()
	return ln.Addr().String()
}

// docRequest is a request to a site of the documentation, and what it gets.
type docRequest struct {
	line   string // the method, and the target if it is not /doc
	fields string // name: value, several by a comma; $tag is the last tag that a GET got
	status int
	want   string // fields of the response, as above; * for any value, - for none
}

// a read that gets a tag, and one with it that gets none of the body
var readAndAgain = []docRequest{
	{"GET", "", 200, "Etag: *"},
	{"GET", "If-None-Match: $tag", 304, ""},
}

// two writes of one tag
var lostUpdate = []docRequest{
	{"GET", "", 200, "Etag: *"},
	{"PUT", "If-Match: $tag", 204, ""},
	{"PUT", "If-Match: $tag", 412, "Etag: *"},
}

// docRequests is what is seen of a Caddyfile of the documentation, by its name. Of
// any other, it is readAndAgain and lostUpdate.
var docRequests = map[string][]docRequest{
	"README.md#a-caddyfile-for-your-case-2": {
		{"GET", "", 200, "Etag: -"},
		{"GET /api/doc", "", 200, "Etag: *, Cache-Control: no-cache"},
		{"PUT /api/doc", "", 428, ""},
		{"PUT /api/doc", "If-Match: $tag", 204, ""},
		{"PUT /api/doc", "If-Match: $tag", 412, ""},
	},
	"README.md#a-caddyfile-for-your-case-3": {
		{"GET /doc.json", "", 200, "Etag: *"},
		{"GET /doc.json", "If-None-Match: $tag", 304, ""},
	},
	"README.md#a-caddyfile-for-your-case-4": {
		{"GET", "", 200, "Etag: *, Cache-Control: no-cache, X-Asked: 1"},
		{"GET", "If-None-Match: $tag", 304, "Age: *, X-Asked: -"},
		{"PUT", "If-Match: $tag", 204, ""},
		{"GET", "If-None-Match: $tag", 200, "Etag: *"},
	},
	"README.md#seeing-why-1": {
		{"GET", "", 200, "X-Etag-Outcome: tagged "},
		{"GET", "If-None-Match: $tag", 304, "X-Etag-Outcome: not_modified if_none_match"},
		{"GET /doc?Cache-Control=no-store", "", 200, "X-Etag-Outcome: bypassed no_store"},
	},
	"docs/how-it-works.md#304-without-the-backend-1": {
		{"GET", "", 200, "Etag: *"},
		{"GET", "If-None-Match: $tag", 304, "Age: *"},
	},
	"docs/how-it-works.md#weak-tags-of-what-a-body-means-1": {
		{"GET /doc.json", "", 200, "Etag: *"},
		{"GET /doc.json", "If-None-Match: $tag", 304, ""},
	},
	"docs/how-it-works.md#another-tag-while-nothing-changed-1": {
		{"GET", "", 200, "X-Asked: 1"},
		{"HEAD", "", 200, "X-Asked: true3"}, // a GET after the HEAD
	},
	"docs/operations.md#metrics-1": {{"GET /metrics", "", 200, "Etag: -"}},
	"docs/recipes.md#wordpress-and-php-1": {
		{"GET /index.php", "", 200, "Etag: *"},
		{"GET /index.php", "If-None-Match: $tag", 304, ""},
		{"GET /?Cache-Control=no-store", "", 200, "Etag: -"},
		{"POST /", "X-HTTP-Method-Override: PUT", 204, ""},
	},
	"docs/recipes.md#mediawiki-and-other-backends-with-dates-1": {
		{"GET /doc?Last-Modified=Sun,+06+Nov+1994+08:49:37+GMT", "", 200, "Etag: -"},
		{"GET", "", 200, "Etag: *"},
	},
	"docs/recipes.md#djangos-forms-1": {
		{"GET /form?Set-Cookie=csrftoken=x", "", 200, "Etag: -"},
		{"GET /form?Set-Cookie=csrftoken=x&Etag=%22own%22", "", 200, `Etag: "own"`},
		{"GET", "", 200, "Etag: *"},
	},
	"docs/recipes.md#nextjs-react-and-other-streams-1": {
		{"GET", "", 200, "Etag: *"},
		{"GET /doc?X-Accel-Buffering=no", "", 200, "Etag: -"},
	},
	"docs/recipes.md#nextjs-react-and-other-streams-2": {
		{"GET", "", 200, "Etag: *"},
		{"GET /feed/1", "", 200, "Etag: -"},
	},
	"docs/recipes.md#trpc-1": {
		{"GET", "", 200, "Etag: *, Cache-Control: no-cache"},
		{"GET", "trpc-accept: application/jsonl", 200, "Etag: -, Cache-Control: -"},
		{"POST", "", 204, ""},
	},
	"docs/recipes.md#spring-and-other-no-store-1": {
		{"GET /api/doc?Cache-Control=no-store", "", 200, "Etag: *"},
		{"PUT /api/doc?Cache-Control=no-store", "", 428, ""},
		{"PUT /api/doc?Cache-Control=no-store", "If-Match: $tag", 204, ""},
		{"PUT /api/doc?Cache-Control=no-store", "If-Match: $tag", 412, ""},
	},
	"docs/recipes.md#an-app-with-an-api-on-another-origin-1": {
		{"OPTIONS", "Origin: https://app.example.com, Access-Control-Request-Method: PUT", 204, "Access-Control-Allow-Origin: https://app.example.com, Access-Control-Allow-Headers: *, Access-Control-Allow-Methods: *, Etag: -"},
		{"GET", "Origin: https://app.example.com", 200, "Etag: *, Access-Control-Allow-Origin: https://app.example.com, Access-Control-Expose-Headers: *Retry-After*ETag*, Vary: *Origin*"},
		{"GET", "Origin: https://app.example.com, If-None-Match: $tag", 304, "Access-Control-Allow-Origin: https://app.example.com"},
		{"PUT", "Origin: https://app.example.com", 428, "Access-Control-Allow-Origin: https://app.example.com"},
		{"PUT", "Origin: https://app.example.com, If-Match: $tag", 204, "Access-Control-Allow-Origin: https://app.example.com"},
		{"PUT", "Origin: https://app.example.com, If-Match: $tag", 412, "Etag: *, Access-Control-Allow-Origin: https://app.example.com, Access-Control-Allow-Credentials: true, Access-Control-Expose-Headers: *ETag*"},
	},
	"docs/recipes.md#s3-tus-and-registries-1": {
		{"PUT /bucket/doc", `Authorization: AWS4-HMAC-SHA256 x, If-Match: "x"`, 204, ""},
		{"PUT /doc", `Authorization: AWS4-HMAC-SHA256 x, If-Match: "x"`, 412, ""},
		{"GET /bucket/doc?Etag=%22own%22", "", 200, `Etag: "own"`},
	},
	"docs/recipes.md#webdav-and-caldav-1": {{"PUT", `If-Match: "x"`, 204, ""}},
	"docs/recipes.md#mobile-sync-1": {
		{"GET /sync/doc.json", "", 200, "Etag: *, Cache-Control: no-cache"},
		{"GET /sync/doc.json", "If-None-Match: $tag", 304, ""},
		{"PUT /sync/doc.json", "", 428, ""},
		{"PUT /sync/doc.json", "If-Match: $tag", 204, ""},
		{"PUT /sync/doc.json", "If-Match: $tag", 412, ""},
		{"PUT /sync/doc.json", "If-None-Match: *", 412, ""},
	},
	"docs/recipes.md#behind-a-cdn-1": {
		{"GET", "", 200, "Etag: *"},
		{"PUT", "If-Match: W/$tag", 204, ""},
		{"PUT", "If-Match: W/$tag", 412, ""},
	},
	"docs/recipes.md#reads-only-1": {
		readAndAgain[0], readAndAgain[1],
		{"PUT", `If-Match: "x"`, 204, ""},
	},
}

// TestDocsCaddyfiles loads each Caddyfile of the documentation, and sends it
// requests.
func TestDocsCaddyfiles(t *testing.T) {
	names := make(map[string]bool)
	for _, b := range docBlocks(t, "caddyfile") {
		require.False(t, names[b.name()], b.name())
		names[b.name()] = true
		t.Run(b.name(), func(t *testing.T) {
			upstream := startUpstream(t, docBackend(t).ServeHTTP)
			url, caddyfile := docSite(t, b, upstream)
			load(t, caddyfile)
			t.Cleanup(stopCaddy)
			requests, found := docRequests[b.name()]
			if !found {
				requests = append(slices.Clone(readAndAgain), lostUpdate...)
			}
			host := "example.com"
			if site := siteAddress.FindStringSubmatch(b.text); site != nil && site[1] != "" {
				host = site[1]
			}
			seen(t, url, host, requests)
		})
	}
	for name := range docRequests {
		require.True(t, names[name], "there is no %s", name)
	}
}

// seen sends requests, one after the other.
func seen(t *testing.T, url, host string, requests []docRequest) {
	t.Helper()
	client := clientFor(t, "h1", nil)
	tag := ""
	for i, r := range requests {
		method, target, _ := strings.Cut(r.line, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, url+cmp.Or(target, "/doc"), nil)
		require.NoError(t, err)
		if method == http.MethodPut {
			req.Body = io.NopCloser(strings.NewReader(fmt.Sprint("text ", i)))
		}
		req.Host = host
		for name, value := range fieldsOf(r.fields) {
			req.Header.Set(name, strings.ReplaceAll(value, "$tag", tag))
		}
		res, err := client.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, r.status, res.StatusCode, "%d. %s %s: %s", i+1, r.line, r.fields, body)
		for name, want := range fieldsOf(r.want) {
			got, present := strings.Join(res.Header.Values(name), ", "), len(res.Header.Values(name)) > 0
			require.Equal(t, want != "-", present, "%s of %d. %s: %q", name, i+1, r.line, got)
			if want != "-" {
				pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(want)), `\*`, ".*") + "$"
				require.Regexp(t, pattern, strings.TrimSpace(got), "%s of %d. %s", name, i+1, r.line)
			}
		}
		if method == http.MethodGet && res.Header.Get("ETag") != "" {
			tag = res.Header.Get("ETag")
		}
	}
}

func fieldsOf(text string) map[string]string {
	fields := make(map[string]string)
	for field := range strings.SplitSeq(text, ", ") {
		if name, value, found := strings.Cut(field, ": "); found {
			fields[name] = value
		}
	}
	return fields
}

// TestDocsJSON: the JSON of the documentation is loaded, or is what is answered.
func TestDocsJSON(t *testing.T) {
	const site = `{"admin": {"disabled": true, "config": {"persist": false}}, "logging": {"logs": {"default": {"level": "PANIC"}}}, "apps": {"http": {"servers": {"site": {"listen": ["127.0.0.1:%s"], "routes": [{"handle": [%s]}]}}}}}`
	for _, b := range docBlocks(t, "json") {
		t.Run(b.name(), func(t *testing.T) {
			var members map[string]any
			require.NoError(t, json.Unmarshal([]byte(b.text), &members))
			switch {
			case members["handler"] != nil:
				require.NoError(t, caddy.Load(fmt.Appendf(nil, site, freePort(t), b.text), true))
				t.Cleanup(stopCaddy)
			case members["apps"] != nil:
				require.Equal(t, "caddy.json", b.info) // which TestDocsCommands loads
			case members["title"] != nil:
				url := startCaddy(t, "etag\nrespond `"+exampleProduct+"`")
				r := do(t, clientFor(t, "h1", nil), http.MethodPut, url+"/", "x", "If-Match", `"old"`)
				var got map[string]any
				require.NoError(t, json.Unmarshal([]byte(r.body), &got))
				for name, value := range members {
					require.Equal(t, value, got[name], name)
				}
			default:
				t.Error("nobody knows what this is")
			}
		})
	}
}

// exampleProduct is what Caddyfile.example shows.
const exampleProduct = `{"id": 1, "name": "Espresso cup", "price": 12.5}`

// runInCI has the commands of the documentation that .ci runs, and by what.
var runInCI = map[string]struct{ file, line string }{
	"go test ./...": {".ci/run", `grep -m 1 -x 'go test \./\.\.\.' README.md`},
	"go run ./cmd/caddy run --config Caddyfile.example":   {".ci/smoke", "start Caddyfile.example"},
	"xcaddy build --with github.com/caddyetag/caddy-etag": {".ci/xcaddy", "--with github.com/caddyetag/caddy-etag@v0.0.0=."},
	"xcaddy build --with github.com/caddyetag/caddy-etag --with github.com/caddyetag/caddy-etag/redislock --with github.com/caddyetag/caddy-etag/etcdlock": {".ci/xcaddy", "--with github.com/caddyetag/caddy-etag/etcdlock@v0.0.0=./etcdlock"},
}

// TestDocsCommands runs the commands of the documentation, in their order and
// against one Caddy whose admin API is on, or finds who runs them.
func TestDocsCommands(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl")
	}
	dir, admin := t.TempDir(), "127.0.0.1:"+freePort(t)
	for _, b := range docBlocks(t, "json") {
		if b.info != "" {
			text := strings.Replace(b.text, "{", `{"admin": {"listen": "`+admin+`", "config": {"persist": false}}, "logging": {"logs": {"default": {"level": "PANIC"}}},`, 1)
			text = strings.Replace(text, ":8080", "127.0.0.1:"+freePort(t), 1)
			require.NoError(t, os.WriteFile(filepath.Join(dir, b.info), []byte(text), 0o600))
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "empty.json"), []byte(`{"admin": {"listen": "`+admin+`", "config": {"persist": false}}}`), 0o600))
	process := exec.CommandContext(context.Background(), os.Args[0], "run", "--config", filepath.Join(dir, "empty.json"))
	process.Env = append(os.Environ(), runAsCaddy+"=1", "HOME="+dir, "GOCOVERDIR="+t.TempDir())
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	eventually(t, func() bool {
		res, err := http.Get("http://" + admin + "/config/")
		if err == nil {
			res.Body.Close()
		}
		return err == nil
	})

	ran := make(map[string]bool)
	for _, b := range docBlocks(t, "sh") {
		for line := range strings.Lines(b.text) {
			line = strings.TrimSpace(line)
			ran[line] = true
			if by, found := runInCI[line]; found {
				text, err := os.ReadFile(by.file)
				require.NoError(t, err)
				require.Contains(t, string(text), by.line, line)
				continue
			}
			require.Contains(t, line, "curl -f ", "nobody runs this: %s", line) // -f: an error is an exit status
			require.Contains(t, line, "localhost:2019/")
			command := exec.CommandContext(t.Context(), "bash", "-c", strings.Replace(line, "localhost:2019", admin, 1)+" -sS --max-time 60")
			command.Dir = dir
			output, err := command.CombinedOutput()
			require.NoError(t, err, "%s: %s", line, output)
			if strings.HasSuffix(line, "/id/etag") {
				require.Contains(t, string(output), `"max_size":4194304`)
				require.Contains(t, string(output), `"remember":"30s"`)
			}
		}
	}
	for line := range runInCI {
		require.True(t, ran[line], "nobody is told to run %s", line)
	}

	// .ci/smoke runs these two, and no others
	var consoles []string
	for _, b := range docBlocks(t, "console") {
		consoles = append(consoles, b.page)
	}
	require.Equal(t, []string{"README.md", "README.md"}, consoles)
}

// TestDocsDockerfile: the one that is shown is the one that .ci builds.
func TestDocsDockerfile(t *testing.T) {
	want, err := os.ReadFile("examples/docker/Dockerfile")
	require.NoError(t, err)
	blocks := docBlocks(t, "dockerfile")
	require.Len(t, blocks, 1)
	require.Equal(t, string(want), blocks[0].text)
	mod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	version := regexp.MustCompile(`caddyserver/caddy/v2 (v\S+)`).FindSubmatch(mod)[1]
	require.Contains(t, string(want), "xcaddy build "+string(version))
}

// TestDocsLanguages: a block in another language than these is seen by no test.
func TestDocsLanguages(t *testing.T) {
	for page, text := range docPages(t) {
		for _, fence := range regexp.MustCompile("(?m)^ *```(.+)$").FindAllStringSubmatch(text, -1) {
			language, _, _ := strings.Cut(fence[1], " ")
			require.Contains(t, []string{"caddyfile", "json", "sh", "console", "dockerfile"}, language, page)
		}
		require.NotRegexp(t, "(?m)^ +```", text, "%s: a block that is indented", page)
	}
}

var (
	docFence   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	docLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	docHeading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// TestDocsLinks: each link in this repository leads to a file, and to a heading in
// it; and the pages are linked from the README.
func TestDocsLinks(t *testing.T) {
	pages := docPages(t)
	for _, pattern := range []string{"*.md", "*/*/*.md"} {
		names, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, name := range names {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			pages[filepath.ToSlash(name)] = string(text)
		}
	}
	delete(pages, "CHANGELOG.md") // whose links lead to versions

	headings := func(page string) (slugs []string) {
		for _, heading := range docHeading.FindAllStringSubmatch(docFence.ReplaceAllString(pages[page], ""), -1) {
			slugs = append(slugs, slug(heading[1]))
		}
		return slugs
	}
	linked := make(map[string]bool)
	for page, text := range pages {
		for _, link := range docLink.FindAllStringSubmatch(docFence.ReplaceAllString(text, ""), -1) {
			target := link[1]
			if strings.Contains(target, "://") {
				continue
			}
			file, anchor, anchored := strings.Cut(target, "#")
			to := page
			if file != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(page), file))
				_, err := os.Stat(to)
				require.NoError(t, err, "%s in %s", target, page)
			}
			if anchored {
				require.Contains(t, headings(to), anchor, "%s in %s", target, page)
			}
			if page == "README.md" {
				linked[to] = true
			}
		}
	}
	for page := range docPages(t) {
		if page != "README.md" && page != "docs/testing.md" { // which is for contributors
			require.True(t, linked[page], "the README has no link to %s", page)
		}
	}

	// the list at the top of the recipes has all of them
	for _, heading := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(pages["docs/recipes.md"], -1) {
		require.Contains(t, pages["docs/recipes.md"], "- ["+heading[1]+"](#"+slug(heading[1])+")\n")
	}
}

// TestDocsOptions: the block and the table of options have all that there are, and
// none besides; what stands behind # in the block is right too.
func TestDocsOptions(t *testing.T) {
	readme := docPages(t)["README.md"]
	var block string
	for _, b := range docBlocks(t, "caddyfile") {
		if b.page == "README.md" && b.heading == "Options" {
			block = b.text
		}
	}
	var names []string
	for line := range strings.Lines(block) {
		option, off := strings.CutPrefix(strings.TrimSpace(line), "# ")
		option, weak, _ := strings.Cut(option, "  #")
		if strings.HasPrefix(option, "etag") || option == "}" || option == "" {
			continue
		}
		names = append(names, strings.Fields(option)[0])
		strength := "strong"
		if weak != "" {
			strength = "weak"
		}
		if off {
			_, err := adapt("http://localhost {\netag " + strength + " {\n" + option + "\n}\n}")
			require.NoError(t, err)
		}
	}
	require.Equal(t, caddyfileOptionNames(), names)

	_, table, found := strings.Cut(readme, "| Option | JSON |")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	var rows []string
	for row := range strings.Lines(table) {
		if name, found := strings.CutPrefix(row, "| `"); found {
			name, _, _ = strings.Cut(name, "`")
			rows = append(rows, name)
		}
	}
	require.Equal(t, append([]string{"strong"}, caddyfileOptionNames()...), rows)
	for _, name := range documentedFields() {
		require.Contains(t, table, "`"+name+"`")
	}
}

// documentedFields are the names of the options in JSON.
func documentedFields() (names []string) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Handler]()) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// notOurs are the words with an underscore that are Caddy's and others'.
var notOurs = []string{
	"basic_auth", "etag_internal", "file_server", "forward_auth", "fresh_when", "grace_period", "handle_errors",
	"header_up", "ignore_user_abort", "php_fastcgi", "proxy_pass", "fastcgi_pass", "response_header_timeout", "reverse_proxy", "rule_files",
	"sentinel_password", "sentinel_username", "sha_ni", "log_append",
	"sentinel_master", "tls_ca", "tls_client", "tls_cert", "tls_key",
}

// TestDocsNames: what the pages call an option, an outcome or a reason is one, and
// options that they write out can be written so.
func TestDocsNames(t *testing.T) {
	source, err := os.ReadFile("reason.go")
	require.NoError(t, err)
	var reasons []string
	for _, reason := range regexp.MustCompile(`reason = "([a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		reasons = append(reasons, reason[1])
	}
	require.Greater(t, len(reasons), 20)
	known := slices.Concat(reasons, notOurs, documentedFields(), caddyfileOptionNames(), []string{
		outcomeTagged, outcomeKept, outcomeNotModified, outcomeFailed, outcomeBypassed,
		outcomePassed, outcomeRequired, outcomeLockedOut, outcomeTimedOut, outcomeError,
	})
	pages := docPages(t)
	for page, text := range pages {
		for _, span := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(docFence.ReplaceAllString(text, ""), -1) {
			name, arguments, written := strings.Cut(strings.ReplaceAll(span[1], "\n", " "), " ")
			if regexp.MustCompile(`^[a-z]+_[a-z_]+$`).MatchString(name) && !strings.HasPrefix(name, "caddy_") {
				require.Contains(t, known, name, "%s of %s", span[0], page)
			}
			if !written || !slices.Contains(caddyfileOptionNames(), name) || name == "lock" && regexp.MustCompile("^(redis|etcd)").MatchString(arguments) {
				continue
			}
			_, strong := adapt("http://localhost {\netag {\n" + name + " " + arguments + "\n}\n}")
			if strong != nil {
				_, weak := adapt("http://localhost {\netag weak {\n" + name + " " + arguments + "\n}\n}")
				require.NoError(t, weak, "%s of %s", span[0], page)
			}
		}
	}

	_, table, found := strings.Cut(pages["README.md"], "| Reason |")
	require.True(t, found)
	var shown []string
	for row := range strings.Lines(table) {
		if strings.HasPrefix(row, "| `") {
			for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(strings.Split(row, "|")[1], -1) {
				shown = append(shown, name[1])
			}
		}
	}
	require.ElementsMatch(t, reasons, shown)
}

// TestDocsBenchmarks: what was measured can be measured again.
func TestDocsBenchmarks(t *testing.T) {
	for page, text := range docPages(t) {
		for _, command := range regexp.MustCompile("`([^`]*go (?:run|test) [^`]+)`").FindAllStringSubmatch(docFence.ReplaceAllString(text, ""), -1) {
			dir := "."
			line := strings.ReplaceAll(command[1], "\n", " ")
			if in, rest, found := strings.Cut(line, " && "); found {
				dir, line = strings.TrimPrefix(in, "cd "), rest
			}
			words := strings.Fields(line)
			files, err := filepath.Glob(filepath.Join(dir, words[len(words)-1], "*.go"))
			require.NoError(t, err)
			require.NotEmpty(t, files, "%s of %s", line, page)
			if len(words) > 3 && words[2] == "-bench" {
				var code bytes.Buffer
				for _, file := range files {
					text, err := os.ReadFile(file)
					require.NoError(t, err)
					code.Write(text)
				}
				for name := range strings.SplitSeq(strings.Trim(words[3], "'"), "|") {
					require.Regexp(t, "func Benchmark[A-Za-z]*"+name, code.String(), "%s of %s", line, page)
				}
			}
		}
	}
}
