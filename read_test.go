package etag

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestReadThatFailsGetsAProblemBody(t *testing.T) {
	url := startCaddy(t, "header Vary Accept\netag\nrespond hello")
	for name, test := range map[string]struct {
		fields []string
		yours  any
	}{
		"If-Match": {[]string{"If-Match", `"a"`, "If-Match", `"<&>"`}, `"a", "<&>"`},
	} {
		t.Run(name, func(t *testing.T) {
			res := get(t, url, test.fields...)
			require.Equal(t, 412, res.status)
			require.Equal(t, tagFor("hello"), res.tag())
			require.EqualValues(t, len(res.body), res.length)
			require.Equal(t, "Accept", res.header.Get("Vary"))
			require.Equal(t, "no-store", res.header.Get("Cache-Control"))

			var body map[string]any
			require.NoError(t, json.Unmarshal([]byte(res.body), &body))
			for _, name := range []string{"type", "detail", "message", "hint"} {
				require.NotEmpty(t, body[name], name)
				delete(body, name)
			}
			require.Equal(t, map[string]any{
				"title": "Precondition Failed", "error": "Precondition Failed", "status": 412.0, "reason": "if_match",
				"currentETag": tagFor("hello"), "yourETag": test.yours,
			}, body)
		})
	}
}

func TestReadThatFailsByDateSaysSo(t *testing.T) {
	url := startCaddy(t, `header Last-Modified "Sun, 06 Nov 1994 08:49:37 GMT"
		etag
		respond hello`)
	require.Equal(t, 200, get(t, url, "If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT").status)
	res := get(t, url, "If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")
	require.Equal(t, 412, res.status)
	require.NotContains(t, res.header, "Last-Modified")
	var body map[string]any
	require.NoError(t, json.Unmarshal([]byte(res.body), &body))
	require.Equal(t, tagFor("hello"), body["currentETag"])
	require.Equal(t, "if_unmodified_since", body["reason"])
	require.Nil(t, body["yourETag"])
}

// TestReadThatFailsGoesToErrorRoutes with `errors handle`, whether the tag is
// ours or the backend's, which is compared before the body has come.
func TestReadThatFailsGoesToErrorRoutes(t *testing.T) {
	for name, own := range map[string]string{"ours": "", "kept": `header ETag "\"own\""`} {
		t.Run(name, func(t *testing.T) {
			url := startCaddy(t, "etag {\nerrors handle\n}\n"+own+"\nrespond hello\nhandle_errors {\nrespond \"page {err.status_code}\"\n}")
			res := get(t, url, "If-Match", `"x"`)
			require.Equal(t, 412, res.status)
			require.Equal(t, "page 412", res.body)
			require.Equal(t, get(t, url).tag(), res.tag())
		})
	}
}

// TestPreconditionsThatTheBackendSees: those that it can judge without our tag.
func TestPreconditionsThatTheBackendSees(t *testing.T) {
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	var got http.Header
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		_, _ = io.WriteString(w, "hello")
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	tests := []struct {
		name   string
		fields []string
		sees   map[string][]string
	}{
		{
			"If-None-Match as it came",
			[]string{"If-None-Match", `"a" ,bad`, "If-None-Match", `W/"b"`},
			map[string][]string{"If-None-Match": {`"a" ,bad`, `W/"b"`}},
		},
		{
			"If-Modified-Since alone",
			[]string{"If-Modified-Since", date},
			map[string][]string{"If-Modified-Since": {date}},
		},
		{
			"If-Modified-Since beside an empty If-None-Match",
			[]string{"If-None-Match", "", "If-Modified-Since", date},
			map[string][]string{"If-None-Match": {""}, "If-Modified-Since": {date}},
		},
		{
			"If-Modified-Since beside If-None-Match",
			[]string{"If-None-Match", `"a"`, "If-Modified-Since", date},
			map[string][]string{"If-None-Match": {`"a"`}},
		},
		{"If-Match and If-Unmodified-Since", []string{"If-Match", "*", "If-Unmodified-Since", date}, map[string][]string{}},
		{
			"Range and If-Range",
			[]string{"Range", "bytes=0-1", "If-Range", `"a"`},
			map[string][]string{"Range": {"bytes=0-1"}, "If-Range": {`"a"`}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, 200, get(t, url, test.fields...).status)
			sees := make(map[string][]string)
			for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Range", "If-Range"} {
				if lines, ok := got[name]; ok {
					sees[name] = lines
				}
			}
			require.Equal(t, test.sees, sees)
		})
	}
}

// TestBackendsOwnNotModified: a backend with tags of its own saves its body
// by If-None-Match, but If-Match, which it hasn't seen, precedes.
func TestBackendsOwnNotModified(t *testing.T) {
	bodies := 0
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"own"`)
		if r.Header.Get("If-None-Match") == `"own"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		bodies++
		_, _ = io.WriteString(w, "hello")
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	res := get(t, url, "If-None-Match", `"own"`)
	require.Equal(t, 304, res.status)
	require.Equal(t, `"own"`, res.tag())
	require.Equal(t, 304, get(t, url, "If-None-Match", `"own"`, "If-Match", `"own"`).status)
	res = get(t, url, "If-None-Match", `"own"`, "If-Match", `"x"`)
	require.Equal(t, 412, res.status)
	require.Equal(t, `"own"`, res.tag())
	require.Equal(t, 2, bodies, "a 304 lacks what If-Match is judged by")
}

// TestFieldsOfA304 are all but those about the body.
func TestFieldsOfA304(t *testing.T) {
	stay := []string{
		"Cache-Control", "max-age=60", "Content-Location", "/there", "Expires", "Sun, 06 Nov 2094 08:49:37 GMT",
		"Vary", "Accept", "Set-Cookie", "a=b", "Set-Cookie", "c=d", "X-Other", "kept", "Content-Security-Policy", "default-src 'self'",
	}
	gone := []string{
		"Content-Type", "text/plain", "Content-Length", "5", "Content-Encoding", "x-own", "Content-Language", "en",
		"Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT", "Trailer", "X-Sum",
	}
	for name, own := range map[string]string{"ours": "", "kept": `"own"`} {
		t.Run(name, func(t *testing.T) {
			h := newHandler(t, Handler{})
			rec, err := serve(h, func(w http.ResponseWriter, r *http.Request) error {
				addFields(w.Header(), stay)
				addFields(w.Header(), gone)
				if own != "" {
					w.Header().Set("ETag", own)
				}
				_, err := io.WriteString(w, "hello")
				w.Header().Set("X-Sum", "after the body")
				return err
			}, http.MethodGet, "If-None-Match", "*")
			require.NoError(t, err)
			require.Equal(t, 304, rec.Code)
			require.Empty(t, rec.Body.String())

			want := make(http.Header)
			addFields(want, stay)
			want.Set("ETag", own)
			if own == "" {
				want.Set("ETag", tagFor("hello"))
			}
			require.Equal(t, want, rec.Result().Header)
			require.Empty(t, rec.Result().Trailer)
		})
	}
}

func TestLastModifiedStaysOnA304WithoutATag(t *testing.T) {
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	rec, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, r *http.Request) error {
		addFields(w.Header(), []string{"Last-Modified", date, "Cache-Control", "no-store"})
		_, err := io.WriteString(w, "hello")
		return err
	}, http.MethodGet, "If-Modified-Since", date)
	require.NoError(t, err)
	require.Equal(t, 304, rec.Code)
	require.Equal(t, date, rec.Header().Get("Last-Modified"))
}

func TestRangeOnHeadIsIgnored(t *testing.T) {
	var got http.Header
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("hello"))
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)
	res := do(t, clientFor(t, "h1", nil), http.MethodHead, url, "", "Range", "bytes=0-1", "If-Range", `"x"`)
	require.Equal(t, 200, res.status)
	require.EqualValues(t, 5, res.length)
	require.Equal(t, tagFor("hello"), res.tag())
	require.NotContains(t, got, "Range")
	require.NotContains(t, got, "If-Range")
}

// TestPanicAfterAnEarlyAnswer is of interest only if it isn't the way in
// which reverse_proxy takes being cut off.
func TestPanicAfterAnEarlyAnswer(t *testing.T) {
	next := func(value any) caddyhttp.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("ETag", `"own"`)
			w.WriteHeader(http.StatusOK)
			panic(value)
		}
	}
	rec, err := serve(newHandler(t, Handler{}), next(http.ErrAbortHandler), http.MethodGet, "If-None-Match", `"own"`)
	require.NoError(t, err)
	require.Equal(t, 304, rec.Code)
	require.PanicsWithValue(t, "broken", func() {
		_, _ = serve(newHandler(t, Handler{}), next("broken"), http.MethodGet, "If-None-Match", `"own"`)
	})
}

// TestResponsesWithADateMayBeLeftWithoutATag, so that the backend's 304s by date
// go on where its bodies change each time: the recipe in docs/recipes.md.
func TestResponsesWithADateMayBeLeftWithoutATag(t *testing.T) {
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	requests := 0
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		requests++
		if r.URL.Path == "/dated" {
			w.Header().Set("Last-Modified", date)
			if r.Header.Get("If-Modified-Since") == date {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		fmt.Fprintf(w, "request %d", requests)
	})
	for site, tagged := range map[string]bool{
		"etag": true,
		"etag {\nmatch {\nstatus 200\nheader !Last-Modified\n}\n}": false,
	} {
		url := startCaddy(t, "header >X-Reason {http.etag.reason}\n"+site+"\nreverse_proxy "+upstream)
		require.NotEmpty(t, get(t, url+"/other").tag())
		first := get(t, url+"/dated")
		require.Equal(t, tagged, first.tag() != "")
		if !tagged {
			require.Equal(t, "no_match", first.header.Get("X-Reason"))
			require.Equal(t, 304, get(t, url+"/dated", "If-Modified-Since", date).status)
			continue
		}
		again := get(t, url+"/dated", "If-Modified-Since", date, "If-None-Match", first.tag())
		require.Equal(t, 200, again.status, "by RFC 9110 §13.1.3, the date does not count")
		require.Equal(t, "unstable", again.header.Get("X-Reason"))
	}
}
