package browser

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// TestClientBehindCaddy uses client.js as a program of one's own does.
func TestClientBehindCaddy(t *testing.T) {
	p := open(t)
	p.do(chromedp.Evaluate[chromedp.Void](`(async () => {
		const { ConflictError, ETagClient, NotJSONError } = await import("/client.js");
		const told = [];
		const client = new ETagClient({ onResponse: ({ method, status }) => told.push(method + " " + status) });
		const trip = "/api/documents/trip";
		const read = await client.get(trip);
		const patched = await client.patch(trip, { title: "Sunday" });
		told.push(patched.value.title, patched.tag !== read.tag);
		const conflict = await client.patch(trip, { title: "Monday" }, read.tag).catch((error) => error);
		told.push(conflict instanceof ConflictError, conflict.reason, conflict.current.value.title);
		const posted = await client.post("/api/documents", { title: "Another" });
		told.push(posted.location, posted.value.title);
		await client.updateWithRetry(posted.location, (doc) => ({ ...doc, title: doc.title + "!" }));
		told.push((await client.get(posted.location)).value.title);
		told.push(await client.get("/style.css").catch((error) => error instanceof NotJSONError));
		window.told = told.join(", ");
	})().catch((error) => { window.told = String(error); })`))
	p.waitFor(`window.told !== undefined`)
	require.Equal(t, "GET 200, PATCH 204, GET 200, Sunday, true, "+
		"PATCH 412, GET 304, true, stale, Sunday, "+
		"POST 201, /api/documents/1, Another, "+
		"GET 200, PUT 200, GET 304, Another!, "+
		"GET 200, true", eval[string](p, `window.told`))
	// The page does not show what another client was answered: a 412.
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Len(t, p.problems, 1)
	p.problems = nil
}
