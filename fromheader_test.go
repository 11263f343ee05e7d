package etag

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// These tests are about tags from a field, with from_header.

// TestTagIsTheValueOfTheField, whatever the body.
func TestTagIsTheValueOfTheField(t *testing.T) {
	ours := tagFor(alphabet)
	for _, tt := range []struct {
		options string
		header  fields
		tag     string
	}{
		{"", fields{"X-Version", "7"}, `"7"`},
		{"", fields{"X-Version", `"7"`}, `"7"`},
		{"", fields{"X-Version", ` 7:a/b `}, `"7:a/b"`},
		{"", fields{"X-Version", `W/"7"`}, `W/"7"`},
		{"weak", fields{"X-Version", "7"}, `W/"7"`},
		{"weak", fields{"X-Version", `"7"`}, `W/"7"`},
		{"version v1", fields{"X-Version", "7"}, `"v1-7"`},
		{"", nil, ours},
		{"", fields{"X-Version", ""}, ours},
		{"", fields{"X-Version", "a b"}, ours},
		{"", fields{"X-Version", `a"b`}, ours},
		{"", fields{"X-Version", "7", "X-Version", "8"}, ours},
		{"", fields{"X-Version", "7", "ETag", `"own"`}, `"own"`},
		{"existing replace", fields{"X-Version", "7", "ETag", `"own"`}, `"7"`},
		{"", fields{"X-Version", "7", "ETag", "own"}, `"7"`},
		{"", fields{"X-Version", "7", "Cache-Control", "no-store"}, ""},
		{"no_store tag", fields{"X-Version", "7", "Cache-Control", "no-store"}, `"7"`},
		{"", fields{"X-Version", "7", "Content-Type", "text/event-stream"}, ""},
		{"", fields{"X-Version", "7", "Trailer", "ETag"}, `"7"`},
	} {
		upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			addFields(w.Header(), tt.header)
			fmt.Fprint(w, alphabet)
		})
		strength, options := "", tt.options
		if options == "weak" {
			strength, options = "weak", ""
		}
		url := startCaddy(t, "etag "+strength+" {\nfrom_header x-version\n"+options+"\n}\nreverse_proxy "+upstream)
		for _, method := range []string{"GET", "HEAD"} {
			for _, protocol := range []string{"h1", "h2c"} {
				client := clientFor(t, protocol, nil)
				res := do(t, client, method, url, "")
				require.Equal(t, tt.tag, res.tag(), "%s %v", tt.options, tt.header)
				require.Empty(t, res.trailer)
				if tt.tag != "" {
					require.Equal(t, 304, do(t, client, method, url, "", "If-None-Match", tt.tag).status, tt.header)
					require.Equal(t, 412, do(t, client, method, url, "", "If-Match", `"x"`).status, tt.header)
				}
			}
		}
	}
}

// TestTagOfAFieldHoldsNothing: the body goes on as it comes, however large.
func TestTagOfAFieldHoldsNothing(t *testing.T) {
	goOn := make(chan struct{})
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", "7")
		fmt.Fprint(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-goOn
		fmt.Fprint(w, "second")
	})
	url := startCaddy(t, "etag {\nfrom_header X-Version\nmax_size 1\nmax_delay -1\n}\nreverse_proxy "+upstream)
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	first := make([]byte, 5)
	_, err = res.Body.Read(first)
	require.NoError(t, err, "before the backend has gone on")
	require.Equal(t, "first", string(first))
	require.Equal(t, `"7"`, res.Header.Get("ETag"))
	close(goOn)
}

// TestHeadOfATagOfAFieldAsksOnce.
func TestHeadOfATagOfAFieldAsksOnce(t *testing.T) {
	var methods atomic.Value
	methods.Store("")
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		methods.Store(methods.Load().(string) + r.Method + " ")
		w.Header().Set("X-Version", "7")
		fmt.Fprint(w, alphabet)
	})
	url := startCaddy(t, "etag {\nfrom_header X-Version\n}\nreverse_proxy "+upstream)
	require.Equal(t, `"7"`, do(t, clientFor(t, "h1", nil), "HEAD", url, "").tag())
	require.Equal(t, "HEAD ", methods.Load())
}

// TestOnlyResponsesWithStatus200AreTaggedByAField.
func TestOnlyResponsesWithStatus200AreTaggedByAField(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", "7")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, alphabet)
	})
	url := startCaddy(t, "etag {\nfrom_header X-Version\nmatch status 2xx\n}\nreverse_proxy "+upstream)
	require.Equal(t, tagFor(alphabet), get(t, url).tag())
}

// TestTagOfAFieldGuardsWrites: with the version that a read showed, of a body
// of any size, and so that the backend sees none of our preconditions.
func TestTagOfAFieldGuardsWrites(t *testing.T) {
	for _, protocol := range []string{"h1", "h2c"} {
		version := 1
		s := newStore(map[string]string{"/doc": strings.Repeat(alphabet, 100)})
		s.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				version++
				return false
			}
			w.Header().Set("X-Version", fmt.Sprint(version))
			return false
		}
		url := startCaddy(t, "etag {\nfrom_header X-Version\nmax_size 1KiB\n}\nreverse_proxy "+s.start(t)) + "/doc"
		client := clientFor(t, protocol, nil)
		first := do(t, client, "GET", url, "").tag()
		require.Equal(t, `"1"`, first)
		res := do(t, client, "PUT", url, "new", "If-Match", first)
		require.Less(t, res.status, 300)
		require.Equal(t, `"2"`, res.tag(), "the new tag is the new version")
		require.NotContains(t, s.last(t, "PUT").Header, "If-Match")
		res = do(t, client, "PUT", url, "newer", "If-Match", first)
		require.Equal(t, 412, res.status)
		require.Equal(t, `"2"`, res.tag())
		require.Equal(t, 2, version)
	}
}
