package browser

import (
	"fmt"
	"strings"
	"testing"

	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// This file has what becomes of text that is not saved yet.

func TestReloadKeepsUnsavedText(t *testing.T) {
	p := open(t)
	p.write(ana, anasPlace, anasText)
	p.click(ana, "reload")
	require.Equal(t, "Ana GET 304", p.waitForRequests(3)[2].String())
	require.Contains(t, p.valueOf(ana, "text"), anasPlace+anasText)
	require.True(t, p.visible(ana, "dirty"))
	require.Equal(t, "Nothing has changed but your text, which is not saved yet.", p.textOf(part(ana, "status")))

	p.write(ben, bensPlace, bensText)
	p.click(ben, "save")
	p.waitForRequests(4)
	p.click(ana, "reload")
	require.Equal(t, "Ana GET 200", p.waitForRequests(5)[4].String())
	require.True(t, p.visible(ana, "conflict"))
	require.Equal(t, "Ben was faster", p.textOf(part(ana, "conflict-heading")))
	require.Equal(t, "Nothing is lost. Here is what each of you has changed:", p.textOf(part(ana, "conflict-text")))
	require.Contains(t, p.textOf(part(ana, "yours")), anasText)

	p.click(ana, "merge")
	p.waitFor(`document.activeElement.id === "ana-text"`)
	require.Contains(t, p.valueOf(ana, "text"), anasPlace+anasText)
	require.Contains(t, p.valueOf(ana, "text"), bensPlace+bensText)
	p.click(ana, "save")
	require.Equal(t, "Ana PUT 200", p.waitForRequests(6)[5].String())
}

// holdRequests keeps the page's requests back until they are let go.
func (p *page) holdRequests() (letGo func()) {
	p.t.Helper()
	p.do(chromedp.Evaluate[chromedp.Void](`(() => {
		const send = window.fetch;
		window.held = [];
		window.fetch = (...request) => new Promise((resolve) => window.held.push(() => resolve(send(...request))));
		window.letGo = () => {
			window.fetch = send;
			window.held.forEach((go) => go());
		};
	})()`))
	return func() {
		p.t.Helper()
		p.waitFor(`window.held.length === 1`)
		p.do(chromedp.Evaluate[chromedp.Void](`window.letGo()`))
	}
}

// TestTypingGoesOn while a request is on its way: its answer leaves what was
// typed as it is.
func TestTypingGoesOn(t *testing.T) {
	p := open(t)
	p.write(ana, anasPlace, anasText)
	letGo := p.holdRequests()
	p.click(ana, "save")
	p.write(ana, bensPlace, ", and")
	letGo()
	require.Equal(t, "Ana PUT 200", p.waitForRequests(3)[2].String())
	require.Contains(t, p.valueOf(ana, "text"), anasText)
	require.Contains(t, p.valueOf(ana, "text"), bensPlace+", and")
	require.True(t, p.visible(ana, "dirty"))
	require.Equal(t, "Saved, but for what you have typed since.", p.textOf(part(ana, "status")))
	p.do(chromedp.KeyEvent(" a lamp")) // the cursor is where it was
	require.Contains(t, p.valueOf(ana, "text"), bensPlace+", and a lamp")
	p.click(ana, "save")
	require.Equal(t, "Ana PUT 200", p.waitForRequests(4)[3].String())
	require.False(t, p.visible(ana, "dirty"))

	letGo = p.holdRequests()
	p.click(ben, "reload")
	p.write(ben, "Sunday", " morning")
	letGo()
	require.Equal(t, "Ben GET 200", p.waitForRequests(5)[4].String())
	require.True(t, p.visible(ben, "conflict"))
	require.Contains(t, p.textOf(part(ben, "yours")), "Sunday morning")
	p.click(ben, "merge")
	p.waitFor(`document.activeElement.id === "ben-text"`)
	p.click(ben, "save")
	p.waitForRequests(6)

	letGo = p.holdRequests()
	p.click(ben, "sign")
	p.write(ben, "Saturday", " evening")
	letGo()
	require.Equal(t, "Ben PUT 200", p.waitForRequests(7)[6].String())
	require.True(t, p.visible(ben, "conflict"))
	require.Contains(t, p.textOf(part(ben, "theirs")), "– Ben")
	require.Contains(t, p.textOf(part(ben, "yours")), "Saturday evening")
}

// TestLeavingAsksFirst, if there is something to lose.
func TestLeavingAsksFirst(t *testing.T) {
	p := open(t)
	dialogs := make(chan cdppage.DialogType, 10)
	require.NoError(t, chromedp.Listen(p.ctx, func(event any) {
		if e, ok := event.(*cdppage.EventJavascriptDialogOpening); ok {
			dialogs <- e.Type
			go func() { // stays, as the answer is no
				_, _ = chromedp.Call(p.ctx, cdppage.HandleJavaScriptDialog, cdppage.HandleJavaScriptDialogParams{Accept: false})
			}()
		}
	}))
	asks := func() bool {
		return eval[bool](p, `(() => {
			const leaving = new Event("beforeunload", { cancelable: true });
			dispatchEvent(leaving);
			return leaving.defaultPrevented;
		})()`)
	}
	require.False(t, asks())
	p.write(ana, anasPlace, anasText)
	require.True(t, asks())
	p.do(chromedp.Evaluate[chromedp.Void](`setTimeout(() => location.reload())`))
	select {
	case dialog := <-dialogs:
		require.Equal(t, cdppage.DialogTypeBeforeunload, dialog)
	case <-p.ctx.Done():
		require.FailNow(t, "nobody was asked")
	}
	p.waitFor(`document.readyState === "complete"`)
	require.Contains(t, p.valueOf(ana, "text"), anasText)

	p.click(ana, "save")
	p.waitForRequests(3)
	require.False(t, asks())
	p.write(ben, bensPlace, bensText)
	p.click(ben, "save")
	p.waitForRequests(5)
	require.True(t, asks(), "what a conflict is about is not saved either")
	p.click(ben, "take")
	p.waitFor(`document.activeElement.id === "ben-text"`)
	require.False(t, asks())
	require.Empty(t, dialogs)
}

func TestControlSSaves(t *testing.T) {
	p := open(t)
	save := func(modifier chromedp.Modifier) { p.do(chromedp.KeyEvent("s", chromedp.KeyModifiers(modifier))) }
	p.write(ana, anasPlace, anasText)
	save(chromedp.ModifierCtrl)
	require.Equal(t, "Ana PUT 200", p.waitForRequests(3)[2].String())
	require.True(t, p.focused(ana, "text"))
	require.False(t, p.visible(ana, "dirty"))
	require.Contains(t, p.valueOf(ana, "text"), anasPlace+anasText+", leave", "it writes no s")
	p.do(chromedp.KeyEvent("!")) // where the cursor was
	require.Contains(t, p.valueOf(ana, "text"), anasPlace+anasText+"!")

	p.write(ben, bensPlace, bensText)
	save(chromedp.ModifierMeta)
	require.Equal(t, []string{"Ben PUT 412", "Ben GET 200"}, tell(p.waitForRequests(5)[3:]), "of Ana's, that is not saved, nothing is sent")
	save(chromedp.ModifierCtrl) // has to be decided first
	require.True(t, p.visible(ben, "conflict"))

	// With the focus nowhere, all there is.
	p.do(chromedp.Evaluate[chromedp.Void](`document.activeElement.blur()`))
	save(chromedp.ModifierCtrl)
	require.Equal(t, "Ana PUT 200", p.waitForRequests(6)[5].String())
	require.True(t, eval[bool](p, `(() => {
		const key = new KeyboardEvent("keydown", { key: "s", ctrlKey: true, cancelable: true });
		document.dispatchEvent(key);
		return key.defaultPrevented;
	})()`), "the browser does not save the page")
	require.Len(t, p.requests(), 6)
}

// TestMergeShowsTheChange of the other one: it is selected, and in view.
func TestMergeShowsTheChange(t *testing.T) {
	p := open(t)
	long := strings.Repeat("A line that is long enough to be wrapped somewhere, wherever the editor of this page ends.\n", 60)
	set := func(text string) {
		p.do(chromedp.Focus(part(ana, "text")), chromedp.KeyEvent("a", chromedp.KeyModifiers(chromedp.ModifierCtrl)))
		p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`document.execCommand("insertText", false, %q)`, text)))
	}
	set("First\n" + long + "Last\nEnd")
	p.click(ana, "save")
	p.waitForRequests(3)
	p.click(ben, "reload")
	p.waitForRequests(4)

	for _, c := range []struct{ anas, bens, selected string }{
		{"Last", "First", "Last, says Ana"},
		{"First", "Last", "First, says Ana"},
		{"End", "First", "End, says Ana"},
	} {
		p.write(ana, c.anas, ", says Ana")
		p.click(ana, "save")
		p.waitFor(`document.querySelector('#ana [data-part="status"]').textContent === "Saved."`)
		p.write(ben, c.bens, ", says Ben")
		p.click(ben, "save")
		p.waitFor(`document.querySelector("#ben").classList.contains("in-conflict")`)
		p.click(ben, "merge")
		p.waitFor(`document.activeElement.id === "ben-text"`)
		require.Equal(t, c.selected, eval[string](p, `(() => {
			const f = document.activeElement;
			return f.value.slice(f.selectionStart, f.selectionEnd);
		})()`))
		// How far down the change is, by a copy of the text that can be measured.
		require.True(t, eval[bool](p, fmt.Sprintf(`(() => {
			const field = document.activeElement, copy = document.createElement("div"), style = getComputedStyle(field);
			for (const name of ["font", "lineHeight", "padding", "borderWidth", "boxSizing", "letterSpacing"]) copy.style[name] = style[name];
			Object.assign(copy.style, { position: "absolute", top: 0, whiteSpace: "pre-wrap", overflowWrap: "break-word", width: field.clientWidth + "px", borderWidth: 0 });
			const mark = document.createElement("span");
			mark.textContent = %q;
			copy.append(field.value.slice(0, field.selectionStart), mark);
			document.body.append(copy);
			const at = mark.offsetTop;
			copy.remove();
			return field.scrollTop <= at && at + mark.offsetHeight <= field.scrollTop + field.clientHeight;
		})()`, c.selected)), "%s is not in view", c.selected)

		p.click(ben, "save")
		p.waitFor(`document.querySelector('#ben [data-part="status"]').textContent === "Saved."`)
		p.click(ana, "reload")
		p.waitFor(`!document.querySelector('[aria-busy="true"]') && document.querySelector("#ana-text").value === document.querySelector("#ben-text").value`)
		set("First\n" + long + "Last\nEnd")
		p.click(ana, "save")
		p.waitFor(`document.querySelector('#ana [data-part="status"]').textContent === "Saved."`)
		p.click(ben, "reload")
		p.waitFor(`!document.querySelector('[aria-busy="true"]') && document.querySelector("#ana-text").value === document.querySelector("#ben-text").value`)
	}

	// Where only the title is another one, that is what is shown.
	p.do(chromedp.Focus(part(ana, "title")), chromedp.KeyEvent(kb.End), chromedp.KeyEvent(" again"))
	p.click(ana, "save")
	p.waitFor(`document.querySelector('#ana [data-part="status"]').textContent === "Saved."`)
	p.write(ben, "Last", ", says Ben")
	p.click(ben, "save")
	p.waitFor(`document.querySelector("#ben").classList.contains("in-conflict")`)
	p.click(ben, "merge")
	p.waitFor(`document.activeElement.id === "ben-title"`)
	require.Equal(t, "Weekend in the mountains again", p.valueOf(ben, "title"))
}

// TestLandmarksHaveNamesOfTheirOwn, by which a screen reader lists them.
func TestLandmarksHaveNamesOfTheirOwn(t *testing.T) {
	p := open(t)
	names := eval[[]string](p, `[...document.querySelectorAll("main section, [role=region]")]
		.filter((e) => e.checkVisibility())
		.map((e) => e.getAttribute("aria-label") ?? document.getElementById(e.getAttribute("aria-labelledby"))?.textContent ?? "")`)
	require.ElementsMatch(t, []string{"Ana", "Ben", "What went over the wire", "Requests, newest first"}, names)
}
