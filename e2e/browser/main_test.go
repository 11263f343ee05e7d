// Package browser drives the page of examples/documents in a headless
// Chromium. It is a module of its own, so that who builds the handler need not
// get what it takes to drive a browser.
package browser

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

var (
	screenshotFile = flag.String("screenshot", "", "write the picture of a conflict to this `file`, for the README")
	looksDir       = flag.String("looks", "", "write the pictures of all looks of the page to this `directory`")
)

// limit is for a condition that never comes to hold, on a slow machine.
const limit = 2 * time.Minute

// What all tests share: the program, and the browser.
var (
	program string
	browser context.Context
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "etag-browser-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)

	var stop func()
	browser, stop, err = startBrowser(filepath.Join(dir, "profile"))
	if err != nil {
		return fail(err)
	}
	defer stop()

	program = filepath.Join(dir, "documents")
	build := exec.Command("go", "build", "-o", program, "./examples/documents")
	build.Dir = filepath.Join("..", "..") // with the versions that go.mod has there
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fail(fmt.Errorf("building examples/documents: %w", err))
	}
	return m.Run()
}

// startBrowser starts a Chromium that asks nothing of any other machine.
func startBrowser(profile string) (context.Context, func(), error) {
	path, err := findChromium()
	if err != nil {
		return nil, nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(profile),
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("no-proxy-server", true),
	)
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it can't be had as root
	}
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stop := chromedp.NewContext(allocator)
	stopBoth := func() { stop(); stopAllocator() }
	if err := chromedp.Do(ctx); err != nil {
		stopBoth()
		return nil, nil, fmt.Errorf("starting %s: %w", path, err)
	}
	return ctx, stopBoth, nil
}

func findChromium() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no Chromium in PATH: install it first, on Debian with apt-get install chromium")
}

// startProgram runs examples/documents until the end of the test, and returns
// the address of its page.
func startProgram(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(program, "-port", "0")
	cmd.Env = append(os.Environ(),
		"XDG_CONFIG_HOME="+t.TempDir(), "XDG_DATA_HOME="+t.TempDir(), "TMPDIR="+t.TempDir())
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		killer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
		defer killer.Stop()
		require.NoError(t, cmd.Wait())
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err, "the program ended before it told its address")
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "The page is at ")
	require.True(t, ok, "the program said %q", line)
	return address
}

// page is the page in a tab of its own.
type page struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // what the console tells of errors
}

// open starts the program and opens its page. At the end of the test, the
// console must have told of no error but of the writes that were refused.
func open(t *testing.T) *page {
	t.Helper()
	return openAt(t, startProgram(t))
}

// openAt opens a page of a program that runs.
func openAt(t *testing.T, address string) *page {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(browser)
	t.Cleanup(closeTab)
	ctx, cancel := context.WithTimeout(ctx, limit)
	t.Cleanup(cancel)

	p := &page{t: t, ctx: ctx}
	require.NoError(t, chromedp.Listen(ctx, p.listen))
	p.do(chromedp.EmulateViewport(1280, 900))
	p.do(chromedp.Navigate(address))
	p.waitForRequests(2)
	t.Cleanup(p.checkConsole)
	return p
}

func (p *page) listen(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			p.problems = append(p.problems, e.Entry.Text)
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning || e.Type == runtime.ConsoleAPICalledTypeAssert {
			p.problems = append(p.problems, fmt.Sprintf("console.%s", e.Type))
		}
	case *runtime.EventExceptionThrown:
		p.problems = append(p.problems, exceptionText(e.ExceptionDetails))
	}
}

func exceptionText(details *runtime.ExceptionDetails) string {
	if details.Exception != nil && details.Exception.Description != "" {
		return details.Exception.Description
	}
	return details.Text
}

// checkConsole looks for errors. Chromium itself writes one for each response
// of status 4xx, so that there is one for each write that was refused.
func (p *page) checkConsole() {
	refused := 0
	for _, r := range p.requests() {
		if r.Status >= 400 {
			refused++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, problem := range p.problems {
		if strings.Contains(problem, "status of 412") || strings.Contains(problem, "status of 428") {
			refused--
			continue
		}
		require.Fail(p.t, "the console tells of an error", problem)
	}
	require.Zero(p.t, refused, "refused writes that the console does not tell of")
}

// action is one that returns nothing.
type action = chromedp.Action[chromedp.Void]

// do runs actions, each of which waits for the elements that it needs.
func (p *page) do(actions ...action) {
	p.t.Helper()
	require.NoError(p.t, chromedp.Do(p.ctx, actions...))
}

// eval returns the value of a JavaScript expression.
func eval[T any](p *page, expression string) T {
	p.t.Helper()
	value, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	require.NoError(p.t, err, "evaluating %s", expression)
	return value
}

// waitFor waits until a JavaScript expression is true.
func (p *page) waitFor(expression string) {
	p.t.Helper()
	err := chromedp.Do(p.ctx, chromedp.Poll[chromedp.Void](expression,
		chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(limit)))
	require.NoError(p.t, err, "waiting for %s", expression)
}

// request is a row of the page's log.
type request struct {
	Who       string
	Method    string
	URL       string
	Status    int
	Condition string
	Tag       string
	Bytes     int
	Saved     int
}

// String tells what the tests compare.
func (r request) String() string { return fmt.Sprintf("%s %s %d", r.Who, r.Method, r.Status) }

// requests returns the log, oldest first.
func (p *page) requests() []request {
	p.t.Helper()
	return eval[[]request](p, `[...document.querySelectorAll("#log tr")].reverse().map((row) => {
		const part = (name) => row.querySelector('[data-part="' + name + '"]');
		const number = (name) => Number(part(name).textContent.replace(/[^0-9]/g, ""));
		return {
			Who: part("who").textContent, Method: part("method").textContent, URL: part("url").textContent,
			Status: number("code"), Condition: part("condition").title, Tag: part("tag").title,
			Bytes: number("bytes"), Saved: number("saved"),
		};
	})`)
}

// waitForRequests waits until there have been n requests, and returns them.
func (p *page) waitForRequests(n int) []request {
	p.t.Helper()
	p.waitFor(fmt.Sprintf(`document.querySelectorAll("#log tr").length >= %d && !document.querySelector('[aria-busy="true"]')`, n))
	requests := p.requests()
	require.Len(p.t, requests, n)
	return requests
}

// tell returns what the tests compare of requests.
func tell(requests []request) []string {
	told := make([]string, len(requests))
	for i, r := range requests {
		told[i] = r.String()
	}
	return told
}

// part is the selector of a part of somebody's editor.
func part(who, name string) chromedp.CSS {
	return chromedp.CSS(fmt.Sprintf(`#%s [data-part="%s"]`, who, name))
}

func (p *page) click(who, name string) {
	p.t.Helper()
	p.do(chromedp.Click(part(who, name), chromedp.NodeVisible))
}

func (p *page) textOf(selector chromedp.CSS) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf(`document.querySelector(%q).innerText`, selector))
}

func (p *page) valueOf(who, name string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf(`document.querySelector(%q).value`, part(who, name)))
}

func (p *page) visible(who, name string) bool {
	p.t.Helper()
	return eval[bool](p, fmt.Sprintf(`document.querySelector(%q).checkVisibility()`, part(who, name)))
}

// focused reports whether a part of somebody's editor has the focus.
func (p *page) focused(who, name string) bool {
	p.t.Helper()
	return eval[bool](p, fmt.Sprintf(`document.activeElement === document.querySelector(%q)`, part(who, name)))
}

// sum returns one of the sums above the log.
func (p *page) sum(name string) int {
	p.t.Helper()
	return eval[int](p, fmt.Sprintf(`Number(document.getElementById("sum-%s").textContent.replaceAll(",", ""))`, name))
}

// write types text behind the first place at which the editor's text has
// another one, as if somebody had put the cursor there.
func (p *page) write(who, behind, text string) {
	p.t.Helper()
	p.do(
		chromedp.Focus(part(who, "text")),
		chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`(() => {
			const field = document.querySelector(%q);
			const at = field.value.indexOf(%q);
			if (at < 0) throw new Error("the text has no such place");
			field.setSelectionRange(at + %d, at + %[3]d);
		})()`, part(who, "text"), behind, len(behind))),
		chromedp.KeyEvent(text),
	)
}
