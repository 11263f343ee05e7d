package etag

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFieldsAboutABodyThatIsNotSent are in neither a 304 nor a 412.
func TestFieldsAboutABodyThatIsNotSent(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if own := r.URL.Query().Get("own"); own != "" {
			w.Header().Set("ETag", own)
		}
		addFields(w.Header(), []string{
			"Content-Digest", "a=:b:", "Content-MD5", "x", "Digest", "x", "Content-Language", "en", "Last-Modified", "x",
			"Repr-Digest", "a=:b:", "Signature", "s", "Signature-Input", "i",
			"Content-Security-Policy", "script-src 'nonce-1'", "Content-Security-Policy-Report-Only", "script-src 'nonce-1'",
			"Cache-Control", "max-age=60", "CDN-Cache-Control", "max-age=600", "Surrogate-Control", "max-age=600",
			"X-Accel-Expires", "600", "Pragma", "x", "Vary", "Accept", "Content-Type", "application/json",
		})
		_, _ = io.WriteString(w, `{"a":1}`)
	})
	exact := []string{"Repr-Digest", "Signature", "Signature-Input"}
	policy := []string{"Content-Security-Policy", "Content-Security-Policy-Report-Only"}
	body := []string{"Content-Digest", "Content-MD5", "Digest", "Content-Language", "Content-Type", "Content-Length", "Last-Modified"}
	caching := []string{"Cache-Control", "CDN-Cache-Control", "Surrogate-Control", "X-Accel-Expires", "Pragma"}
	for name, test := range map[string]struct {
		options, own string
		gone, kept   []string // of a 304
	}{
		"strong":           {"etag", "", body, append(append(exact, policy...), caching...)},
		"kept":             {"etag", `"own"`, body, append(append(exact, policy...), caching...)},
		"kept, weak":       {"etag", `W/"own"`, append(body, exact...), append(policy, caching...)},
		"weak":             {"etag weak", "", append(body, exact...), append(policy, caching...)},
		"leaves parts out": {"etag weak {\nignore_json /b\n}", "", append(append(body, exact...), policy...), caching},
		"weak, kept, would leave parts out": {
			"etag weak {\nignore_json /b\n}", `W/"own"`,
			append(body, exact...), append(policy, caching...),
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := startCaddy(t, test.options+"\nreverse_proxy "+upstream) + "?own=" + test.own
			res := get(t, url, "If-None-Match", "*")
			require.Equal(t, 304, res.status)
			require.NotEmpty(t, res.tag())
			require.Equal(t, "Accept", res.header.Get("Vary"))
			for _, field := range test.gone {
				require.Empty(t, res.header.Get(field), field)
			}
			for _, field := range test.kept {
				require.NotEmpty(t, res.header.Get(field), field)
			}

			res = get(t, url, "If-Match", `"other"`)
			require.Equal(t, 412, res.status)
			require.NotEmpty(t, res.tag())
			require.Equal(t, "Accept", res.header.Get("Vary"))
			for _, field := range append(append(body[:4:4], exact...), caching[1:]...) {
				require.Empty(t, res.header.Get(field), field)
			}
			require.Equal(t, "no-store", res.header.Get("Cache-Control"))
		})
	}
}

// TestNotModifiedIsInTheClientsSpelling, if that is the tag with an encoder's
// suffix: a cache knows its entry by it.
func TestNotModifiedIsInTheClientsSpelling(t *testing.T) {
	for own, tag := range map[string]string{"": tagFor("hello"), `"own"`: `"own"`} {
		upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			if own != "" {
				w.Header().Set("ETag", own)
			}
			_, _ = io.WriteString(w, "hello")
		})
		url := startCaddy(t, "etag\nreverse_proxy "+upstream)
		gzip := withSuffix(tag, "-gzip")
		for _, test := range []struct{ list, spelled string }{
			{gzip, gzip},
			{"W/" + gzip, "W/" + gzip},
			{`"other", ` + gzip, gzip},
			{gzip + ", " + tag, tag},
			{"W/" + tag, tag},
			{"*", tag},
		} {
			res := get(t, url, "If-None-Match", test.list, "Accept-Encoding", "gzip")
			require.Equal(t, 304, res.status, test.list)
			require.Equal(t, test.spelled, res.tag(), test.list)
		}
		require.Equal(t, 200, get(t, url, "If-None-Match", gzip).status, "which the client can't read")
	}
}

// TestTrailersThatTheBackendAnnounces: no field of the header becomes one on its
// word, nor does our tag.
func TestTrailersThatTheBackendAnnounces(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if own := r.URL.Query().Get("own"); own != "" {
			w.Header().Set("ETag", own)
		}
		w.Header().Set("Trailer", "ETag, Cache-Control, X-Stood, X-Sum, Content-Type")
		addFields(w.Header(), []string{"Cache-Control", "max-age=60", "X-Stood", "in the header", "Content-Type", "text/plain"})
		_, _ = io.WriteString(w, "hello")
		w.Header().Set("X-Sum", "5")
		w.Header().Set("ETag", `"of the trailer"`)
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	for _, protocol := range []string{"h1", "h2c"} {
		client := clientFor(t, protocol, nil)
		for own, tag := range map[string]string{"": tagFor("hello"), `"own"`: `"own"`} {
			res := do(t, client, "GET", url+"?own="+own, "")
			require.Equal(t, "hello", res.body)
			require.Equal(t, tag, res.tag())
			require.Equal(t, "max-age=60", res.header.Get("Cache-Control"))
			require.Equal(t, "in the header", res.header.Get("X-Stood"))
			require.Equal(t, "text/plain", res.header.Get("Content-Type"))
			require.Equal(t, "5", res.trailer.Get("X-Sum"))
			require.NotContains(t, res.header, "X-Sum")
			if own == "" {
				require.NotContains(t, res.trailer, "Etag", "that of what is tagged here")
			}
			for _, method := range []string{"GET", "HEAD"} {
				res = do(t, client, method, url+"?own="+own, "", "If-None-Match", tag)
				require.Equal(t, 304, res.status)
				require.Equal(t, tag, res.tag())
				require.Equal(t, "max-age=60", res.header.Get("Cache-Control"))
			}
			require.Equal(t, tag, do(t, client, "HEAD", url+"?own="+own, "").tag())
		}
	}
}

// TestTrailerTagOfTheBackend stays on what gets none of ours.
func TestTrailerTagOfTheBackend(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		addFields(w.Header(), []string{"Trailer", "ETag", "Cache-Control", "no-store"})
		_, _ = io.WriteString(w, "hello")
		w.Header().Set("ETag", `"of the trailer"`)
	})
	res := get(t, startCaddy(t, "etag\nreverse_proxy "+upstream))
	require.Empty(t, res.tag())
	require.Equal(t, `"of the trailer"`, res.trailer.Get("ETag"))
}

// TestNoStoreMayBeTagged, and then its writes are guarded.
func TestNoStoreMayBeTagged(t *testing.T) {
	for option, tag := range map[string]string{"": "", "no_store skip": "", "no_store tag": oneTag} {
		s := newStore(map[string]string{"/doc": "one"})
		url := startCaddy(t, "header Cache-Control no-store\netag {\n"+option+"\n}\nreverse_proxy "+s.start(t))
		client := clientFor(t, "h1", nil)
		require.Equal(t, tag, get(t, url+"/doc").tag())
		require.Equal(t, 412, do(t, client, "PUT", url+"/doc", "two", "If-Match", `"other"`).status)
		status := map[bool]int{true: 204, false: 412}[tag != ""]
		require.Equal(t, status, do(t, client, "PUT", url+"/doc", "two", "If-Match", oneTag).status)
	}
}

// TestCacheControlIsForResponsesThatSayNothing of caching.
func TestCacheControlIsForResponsesThatSayNothing(t *testing.T) {
	for field, added := range map[string]bool{
		"X-None": true, "Cache-Control": false, "Expires": false, "Pragma": false, "Set-Cookie": false,
		"CDN-Cache-Control": false, "Surrogate-Control": false, "X-Accel-Expires": false,
	} {
		upstream := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(field, "x=y")
			_, _ = io.WriteString(w, "hello")
		})
		res := get(t, startCaddy(t, "etag {\ncache_control no-cache\n}\nreverse_proxy "+upstream))
		require.Equal(t, tagFor("hello"), res.tag())
		require.Equal(t, added, res.header.Get("Cache-Control") == "no-cache", field)
	}
}

// TestScriptBehindA304RunsToItsEnd, if its output is not too long.
func TestScriptBehindA304RunsToItsEnd(t *testing.T) {
	var ended, cut atomic.Int64
	upstream := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"own"`)
		for range 8 {
			if _, err := io.WriteString(w, strings.Repeat("x", 64<<10)); err != nil {
				cut.Add(1)
				return
			}
		}
		ended.Add(1)
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	const requests = 20
	for range requests {
		require.Equal(t, 304, get(t, url, "If-None-Match", `"own"`).status)
	}
	eventually(t, func() bool { return ended.Load()+cut.Load() == requests })
	require.Greater(t, ended.Load(), cut.Load(), "a machine that stands still may let the time for one run out")
}

// TestReadersLeaveMemoryToTheGuard, whatever they hold.
func TestReadersLeaveMemoryToTheGuard(t *testing.T) {
	h := newHandler(t, Handler{MaxMemory: 1 << 20})
	rest := h.readBudget.Part(1 << 20)
	hold := newBodyOf(rest)
	for hold.Room() != nil {
		hold.Grow(len(hold.Room()))
	}
	require.Equal(t, 1<<20-2*guardShare(1<<20), h.budget.Held())
	guard := newBodyOf(h.budget)
	require.NotNil(t, guard.Room(), "for an internal GET")
	hold.Release()
	guard.Release()
	require.Zero(t, h.budget.Held())
}
