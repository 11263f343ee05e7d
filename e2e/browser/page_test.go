package browser

import (
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

const (
	ana = "ana"
	ben = "ben"

	trip = "/api/documents/trip"

	// lines of the document that each of them changes
	anasPlace, anasText = "Breakfast at 7", ", pancakes"
	bensPlace, bensText = "two torches", ", the big map"
)

func TestReloadIsNotModified(t *testing.T) {
	p := open(t)
	read := p.requests()
	require.Equal(t, []string{"Ana GET 200", "Ben GET 200"}, tell(read))
	for _, r := range read {
		require.Equal(t, trip, r.URL)
		require.Empty(t, r.Condition)
		require.NotEmpty(t, r.Tag)
		require.Positive(t, r.Bytes)
		require.Zero(t, r.Saved)
	}
	length := read[0].Bytes
	require.Equal(t, 2*length, p.sum("bytes"))
	require.Zero(t, p.sum("saved"))

	p.click(ana, "reload")
	again := p.waitForRequests(3)[2]
	require.Equal(t, "Ana GET 304", again.String())
	require.Equal(t, "If-None-Match: "+read[0].Tag, again.Condition)
	require.Equal(t, read[0].Tag, again.Tag)
	require.Zero(t, again.Bytes)
	require.Equal(t, length, again.Saved)
	require.Equal(t, "Nothing has changed: the server sent no body.", p.textOf(part(ana, "status")))

	p.click(ben, "reload")
	p.waitForRequests(4)
	require.Equal(t, 4, p.sum("requests"))
	require.Equal(t, 2*length, p.sum("saved"))
	require.Equal(t, 2*length, p.sum("bytes"))
	require.Zero(t, p.sum("prevented"))
}

// makeConflict has both change the document, Ana save, and then Ben.
func makeConflict(p *page) {
	p.t.Helper()
	p.write(ana, anasPlace, anasText)
	require.True(p.t, p.visible(ana, "dirty"))
	p.write(ben, bensPlace, bensText)
	p.click(ana, "save")
	p.waitForRequests(3)
	require.Equal(p.t, "Saved.", p.textOf(part(ana, "status")))
	require.False(p.t, p.visible(ana, "dirty"))

	p.click(ben, "save")
	requests := p.waitForRequests(5)
	require.Equal(p.t, []string{"Ana PUT 200", "Ben PUT 412", "Ben GET 200"}, tell(requests[2:]))
	read, saved, refused, reread := requests[0], requests[2], requests[3], requests[4]
	require.Equal(p.t, "If-Match: "+read.Tag, saved.Condition)
	require.Equal(p.t, "If-Match: "+read.Tag, refused.Condition)
	require.Equal(p.t, saved.Tag, refused.Tag)
	require.Equal(p.t, saved.Tag, reread.Tag)
	require.Equal(p.t, 1, p.sum("prevented"))

	require.True(p.t, p.visible(ben, "conflict"))
	require.False(p.t, p.visible(ben, "form"))
	require.True(p.t, p.focused(ben, "conflict-heading"))
	require.Equal(p.t, "Ana was faster", p.textOf(part(ben, "conflict-heading")))
	theirs, yours := p.textOf(part(ben, "theirs")), p.textOf(part(ben, "yours"))
	require.Contains(p.t, theirs, anasText)
	require.NotContains(p.t, theirs, bensText)
	require.Contains(p.t, yours, bensText)
	require.NotContains(p.t, yours, anasText)
	require.False(p.t, p.visible(ana, "conflict"))
}

func TestMergeAfterConflict(t *testing.T) {
	p := open(t)
	makeConflict(p)

	p.click(ben, "merge")
	p.waitFor(`document.activeElement.id === "ben-text"`)
	require.False(t, p.visible(ben, "conflict"))
	require.True(t, p.visible(ben, "dirty"))
	require.Equal(t, "Both changes are in the text. Read it, then save.", p.textOf(part(ben, "status")))
	merged := p.valueOf(ben, "text")
	require.Contains(t, merged, anasPlace+anasText)
	require.Contains(t, merged, bensPlace+bensText)

	p.click(ben, "save")
	saved := p.waitForRequests(6)
	require.Equal(t, "Ben PUT 200", saved[5].String())
	require.Equal(t, "If-Match: "+saved[4].Tag, saved[5].Condition)
	p.click(ana, "reload")
	require.Equal(t, "Ana GET 200", p.waitForRequests(7)[6].String())
	require.Equal(t, merged, p.valueOf(ana, "text"))
	require.Equal(t, "Read what Ben has saved.", p.textOf(part(ana, "status")))
}

func TestMergeOfOneLine(t *testing.T) {
	p := open(t)
	p.write(ana, anasPlace, anasText)
	p.write(ben, anasPlace, bensText)
	p.click(ana, "save")
	p.waitForRequests(3)
	p.click(ben, "save")
	p.waitForRequests(5)
	p.click(ben, "merge")
	p.waitFor(`document.activeElement.id === "ben-text"`)
	require.Contains(t, p.textOf(part(ben, "status")), "You both changed the same lines.")
	require.Contains(t, p.valueOf(ben, "text"),
		anasPlace+anasText+", leave by 8.\n"+anasPlace+bensText+", leave by 8.\n")
}

func TestKeepMineAfterConflict(t *testing.T) {
	p := open(t)
	makeConflict(p)
	p.click(ben, "keep")
	requests := p.waitForRequests(6)
	require.Equal(t, "Ben PUT 200", requests[5].String())
	require.Equal(t, "If-Match: "+requests[4].Tag, requests[5].Condition)
	require.True(t, p.focused(ben, "text"))
	require.Equal(t, "Saved.", p.textOf(part(ben, "status")))

	p.click(ana, "reload")
	p.waitForRequests(7)
	require.Contains(t, p.valueOf(ana, "text"), bensText)
	require.NotContains(t, p.valueOf(ana, "text"), anasText)
}

// What is kept may be overtaken too, which is a conflict again.
func TestKeepMineIsOvertaken(t *testing.T) {
	p := open(t)
	makeConflict(p)
	p.write(ana, "Sunday", " morning")
	p.click(ana, "save")
	p.waitForRequests(6)
	p.click(ben, "keep")
	require.Equal(t, []string{"Ben PUT 412", "Ben GET 200"}, tell(p.waitForRequests(8)[6:]))
	require.True(t, p.visible(ben, "conflict"))
	require.Contains(t, p.textOf(part(ben, "theirs")), "Sunday morning")
	require.Equal(t, 2, p.sum("prevented"))
}

func TestTakeTheirsAfterConflict(t *testing.T) {
	p := open(t)
	makeConflict(p)
	p.click(ben, "take")
	p.waitFor(`document.activeElement.id === "ben-text"`)
	require.Len(t, p.requests(), 5)
	require.Equal(t, p.valueOf(ana, "text"), p.valueOf(ben, "text"))
	require.False(t, p.visible(ben, "dirty"))

	p.click(ben, "reload")
	require.Equal(t, "Ben GET 304", p.waitForRequests(6)[5].String())
}

func TestSignRetries(t *testing.T) {
	p := open(t)
	p.write(ana, anasPlace, anasText)
	p.click(ana, "save")
	p.waitForRequests(3)
	p.click(ben, "sign")
	require.Equal(t, []string{"Ben PUT 412", "Ben GET 200", "Ben PUT 200"}, tell(p.waitForRequests(6)[3:]))
	require.Contains(t, p.textOf(part(ben, "status")), "Signed, at attempt 2")
	require.Contains(t, p.valueOf(ben, "text"), anasText)
	require.True(t, strings.HasSuffix(p.valueOf(ben, "text"), "\n– Ben\n"))
}

func TestWriteWithoutTag(t *testing.T) {
	p := open(t)
	p.do(chromedp.Click(chromedp.CSS("#blind")))
	require.Equal(t, "A script PUT 428", p.waitForRequests(3)[2].String())
	require.Zero(t, p.sum("prevented"), "it names no state that it would overwrite")
	p.click(ana, "reload")
	require.Equal(t, "Ana GET 304", p.waitForRequests(4)[3].String())
}

// tabTo presses Tab until a part of somebody's editor has the focus.
func (p *page) tabTo(who, name string) {
	p.t.Helper()
	for range 40 { // more than the page has stops
		p.do(chromedp.KeyEvent(kb.Tab))
		require.True(p.t, eval[bool](p, `document.activeElement === document.body || document.activeElement.matches(":focus-visible")`),
			"the focus can't be seen on %s", eval[string](p, `document.activeElement.outerHTML`))
		if p.focused(who, name) {
			return
		}
	}
	require.FailNow(p.t, "no number of Tabs leads there", part(who, name))
}

func TestKeyboardAlone(t *testing.T) {
	p := open(t)
	press := func(key string, modifiers ...chromedp.Modifier) {
		p.do(chromedp.KeyEvent(key, chromedp.KeyModifiers(modifiers...)))
	}
	p.tabTo(ana, "text")
	press(kb.Home, chromedp.ModifierCtrl)
	press("Ana writes. ")
	p.tabTo(ana, "save")
	press(kb.Enter)
	require.Equal(t, "Ana PUT 200", p.waitForRequests(3)[2].String())
	require.True(t, p.focused(ana, "save"), "a button that was pressed keeps the focus")

	p.tabTo(ben, "title")
	press(kb.End)
	press(" with Ben")
	press(kb.Enter) // in a field of one line, it submits the form
	require.Equal(t, []string{"Ben PUT 412", "Ben GET 200"}, tell(p.waitForRequests(5)[3:]))
	require.True(t, p.focused(ben, "conflict-heading"))

	// From the heading, both versions and the three ways out are next.
	for _, name := range []string{"theirs", "yours", "merge", "take", "keep"} {
		press(kb.Tab)
		require.True(t, p.focused(ben, name), name)
	}
	press(kb.Tab, chromedp.ModifierShift)
	press(kb.Tab, chromedp.ModifierShift)
	require.True(t, p.focused(ben, "merge"))
	press(" ") // a button takes either key
	p.waitFor(`document.activeElement.id === "ben-text"`)
	p.tabTo(ben, "save")
	press(kb.Enter)
	require.Equal(t, "Ben PUT 200", p.waitForRequests(6)[5].String())
	require.True(t, p.focused(ben, "save"))
	require.Contains(t, p.valueOf(ben, "text"), "Ana writes. Friday")
	require.Equal(t, "Weekend in the mountains with Ben", p.valueOf(ben, "title"))
}

// looks are the pictures that are taken of a conflict.
var looks = []struct {
	name   string
	scheme string
	width  int64
}{
	{"light", "light", 1280},
	{"dark", "dark", 1280},
	{"phone-light", "light", 375},
	{"phone-dark", "dark", 375},
	{"medium", "light", 820},
	{"least", "dark", 320}, // WCAG 2.2, success criterion 1.4.10
}

// lowContrast returns the visible texts whose color is too close to that of
// what is behind them (WCAG 2.2, success criterion 1.4.3).
const lowContrast = `(() => {
	const parse = (color) => color.match(/[\d.]+/g).map(Number);
	const light = (color) => {
		const [r, g, b] = parse(color).slice(0, 3).map((c) => c / 255)
			.map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const behind = (element) => {
		for (let e = element; e; e = e.parentElement) {
			const color = getComputedStyle(e).backgroundColor;
			if ((parse(color)[3] ?? 1) === 1) return color;
		}
		return "rgb(255, 255, 255)";
	};
	const hasText = (element) => element.value || [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
	const low = [];
	for (const element of document.body.querySelectorAll("*")) {
		if (!hasText(element) || !element.checkVisibility()) continue;
		const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05);
		if (ratio < 4.5) low.push(ratio.toFixed(2) + " " + element.outerHTML.slice(0, 120));
	}
	return low;
})()`

// clipped returns the visible texts that reach out of a box that cuts them off
// at its sides, whether it scrolls or not.
const clipped = `(() => {
	const cut = [];
	for (const element of document.querySelectorAll("main *")) {
		if (element.matches(".visually-hidden, thead *") || !element.checkVisibility()) continue;
		for (const node of element.childNodes) {
			if (node.nodeType !== 3 || !node.data.trim()) continue;
			const range = document.createRange();
			range.selectNodeContents(node);
			const text = range.getBoundingClientRect();
			for (let box = element; box; box = box.parentElement) {
				const { left, right } = box.getBoundingClientRect();
				const cuts = getComputedStyle(box).overflowX !== "visible" || box === document.body;
				if (cuts && (text.left < left - 1 || text.right > right + 1)) cut.push(node.data);
			}
		}
	}
	return cut;
})()`

func TestLooks(t *testing.T) {
	p := open(t)
	require.Empty(t, eval[[]string](p, `[...document.querySelectorAll("input, textarea")].filter((f) => f.labels.length !== 1).map((f) => f.id)`),
		"fields without a label")
	p.click(ana, "reload")
	p.waitForRequests(3)
	p.click(ben, "reload")
	p.waitForRequests(4)
	p.write(ana, anasPlace, anasText)
	p.write(ana, "Rain jackets", " for all")
	p.write(ben, bensPlace, bensText)
	p.click(ana, "save")
	p.waitForRequests(5)
	p.click(ben, "save")
	p.waitForRequests(7)

	p.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#ana-text").scrollTop = 0`))

	backgrounds := map[string]string{}
	for _, look := range looks {
		_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{
				{Name: "prefers-color-scheme", Value: look.scheme},
				{Name: "prefers-reduced-motion", Value: "reduce"}, // colors change at once
			},
		})
		require.NoError(t, err)
		p.do(chromedp.EmulateViewport(look.width, 900))
		p.waitFor(fmt.Sprintf(`innerWidth === %d && matchMedia("(prefers-color-scheme: %s)").matches`, look.width, look.scheme))
		require.LessOrEqual(t, eval[int64](p, `document.documentElement.scrollWidth`), look.width, "%s must not scroll sideways", look.name)
		require.Empty(t, eval[[]string](p, lowContrast), "%s has text that is hard to read", look.name)
		require.Empty(t, eval[[]string](p, clipped), "%s has text that is cut off", look.name)
		background := eval[string](p, `getComputedStyle(document.body).backgroundColor`)
		if before, ok := backgrounds[look.scheme]; ok {
			require.Equal(t, before, background)
		}
		backgrounds[look.scheme] = background

		picture, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100)) // 100 is for PNG
		require.NoError(t, err)
		decoded, err := png.Decode(bytes.NewReader(picture))
		require.NoError(t, err)
		require.EqualValues(t, look.width, decoded.Bounds().Dx(), look.name)

		if *looksDir != "" {
			require.NoError(t, os.WriteFile(filepath.Join(*looksDir, look.name+".png"), picture, 0o644))
		}
		if *screenshotFile != "" && look.name == "light" {
			require.NoError(t, os.WriteFile(*screenshotFile, shrink(t, decoded), 0o644))
		}
	}
	require.NotEqual(t, backgrounds["light"], backgrounds["dark"])
}

// shrink returns a picture as a PNG of the 256 colors that it has most of, a
// third of the size, for a repository that keeps it for ever.
func shrink(t *testing.T, picture image.Image) []byte {
	t.Helper()
	bounds := picture.Bounds()
	count := map[color.RGBA]int{}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[color.RGBAModel.Convert(picture.At(x, y)).(color.RGBA)]++
		}
	}
	colors := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		return cmp.Or(cmp.Compare(count[b], count[a]),
			cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	})
	palette := make(color.Palette, min(256, len(colors)))
	for i := range palette {
		palette[i] = colors[i]
	}
	small := image.NewPaletted(bounds, palette)
	draw.Draw(small, bounds, picture, bounds.Min, draw.Src)
	var file bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	require.NoError(t, encoder.Encode(&file, small))
	return file.Bytes()
}
