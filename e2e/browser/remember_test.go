package browser

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// fetched is what a script gets of the document, by way of the browser's own
// cache: that asks with If-None-Match each time, and gets a 304 or the new text.
type fetched struct {
	Text       string
	FromMemory bool // the 304 had an Age
}

func (p *page) fetch() fetched {
	p.t.Helper()
	p.waitFor(fmt.Sprintf(`(() => {
		if (!window.fetching) {
			window.fetching = true;
			window.result = null;
			fetch(%q).then(async (res) => {
				window.result = {Text: await res.text(), FromMemory: res.headers.has("Age")};
			});
		}
		return window.result !== null;
	})()`, trip))
	return eval[fetched](p, `(() => { window.fetching = false; return window.result; })()`)
}

// TestNobodySeesAStateOlderThanAnAnsweredWrite: two pages edit the document in
// turn, while 304s come from memory.
func TestNobodySeesAStateOlderThanAnAnsweredWrite(t *testing.T) {
	address := startProgram(t)
	pages := []*page{openAt(t, address), openAt(t, address)}
	requests := []int{2, 2}
	fromMemory := 0
	for round := range 6 {
		writer, reader := round%2, 1-round%2
		for range 3 { // so that there is something to remember
			for _, p := range pages {
				if p.fetch().FromMemory {
					fromMemory++
				}
			}
		}
		text := fmt.Sprintf(", round %d", round)
		pages[writer].click(ana, "reload")
		requests[writer]++
		pages[writer].waitForRequests(requests[writer])
		pages[writer].write(ana, anasPlace, text)
		pages[writer].click(ana, "save")
		requests[writer]++
		saved := pages[writer].waitForRequests(requests[writer])
		require.Equal(t, "Ana PUT 200", saved[len(saved)-1].String())

		for range 3 {
			for _, i := range []int{reader, writer} {
				require.Contains(t, pages[i].fetch().Text, text, "round %d", round)
			}
		}
		pages[reader].click(ben, "reload")
		requests[reader]++
		pages[reader].waitForRequests(requests[reader])
		require.Contains(t, pages[reader].valueOf(ben, "text"), text)
	}
	require.NotZero(t, fromMemory, "nothing has been remembered, and so nothing has been tested")
}
