package etag

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTrailersOfATaggedResponseAreKept, announced ones and those that are not,
// beside the length where the protocol can have both.
func TestTrailersOfATaggedResponseAreKept(t *testing.T) {
	for kind, name := range map[string]string{"announced": "X-Sum", "late": http.TrailerPrefix + "X-Sum"} {
		upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			if kind == "announced" {
				w.Header().Set("Trailer", "X-Sum")
			}
			_, _ = io.WriteString(w, "hello")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set(name, "42")
		})
		url, roots := startTLS(t, "etag\nreverse_proxy "+upstream)
		for _, protocol := range []string{"h1", "h2", "h3"} {
			t.Run(kind+" "+protocol, func(t *testing.T) {
				client := clientFor(t, protocol, roots)
				res := do(t, client, http.MethodGet, url, "")
				require.NoError(t, res.err)
				require.Equal(t, "hello", res.body)
				require.Equal(t, tagFor("hello"), res.tag())
				require.Equal(t, http.Header{"X-Sum": {"42"}}, res.trailer)
				require.NotContains(t, res.header, "X-Sum")
				if protocol == "h1" {
					require.EqualValues(t, -1, res.length)
				} else {
					require.EqualValues(t, 5, res.length)
				}
				require.Equal(t, 304, do(t, client, http.MethodGet, url, "", "If-None-Match", res.tag()).status)
			})
		}
	}
}

// TestTrailersAfterAnEarlyAnswerAreDropped: the response that they belong to
// has not been sent.
func TestTrailersAfterAnEarlyAnswerAreDropped(t *testing.T) {
	w, err := serve(newHandler(t, Handler{}), func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("ETag", `"own"`)
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(http.StatusOK)
		_, err := io.WriteString(w, "body")
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Other", "1")
		return err
	}, http.MethodGet, "If-None-Match", `"own"`)
	require.NoError(t, err)
	require.Equal(t, 304, w.Code)
	require.NotContains(t, w.Header(), "X-Sum")
	require.NotContains(t, w.Header(), http.TrailerPrefix+"X-Other")
}

func TestTagOfAnOversizeBodyInATrailer(t *testing.T) {
	body := strings.Repeat("large ", 100_000)
	for name, backend := range map[string]http.HandlerFunc{
		"chunked": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", "invalid")
			_, _ = io.WriteString(w, body)
		},
		"Content-Length": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = io.WriteString(w, body)
		},
		"own trailer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, body)
			w.Header().Set("X-Sum", "1")
		},
	} {
		url := startCaddy(t, "encode gzip\netag {\nmax_size 100KiB\noversize trailer\n}\nreverse_proxy "+startUpstream(t, backend))
		for _, protocol := range []string{"h1", "h2c"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				client := clientFor(t, protocol, nil)
				res := do(t, client, "GET", url, "", "TE", "trailers")
				require.NoError(t, res.err)
				require.Equal(t, body, res.body)
				require.Equal(t, tagFor(body), res.trailer.Get("ETag"))
				require.Empty(t, res.tag())
				if name == "own trailer" {
					require.Equal(t, "1", res.trailer.Get("X-Sum"))
				}

				// encode adds no suffix to a trailer
				res = do(t, client, "GET", url, "", "TE", "trailers", "Accept-Encoding", "gzip")
				require.NoError(t, res.err)
				require.Equal(t, "W/"+tagFor(body), res.trailer.Get("ETag"))

				res = do(t, client, "GET", url, "")
				require.Equal(t, body, res.body)
				require.NotContains(t, res.trailer, "Etag", "the client takes no trailers")
			})
		}
	}
}

func TestNoTrailerForABodyThatBreaksOff(t *testing.T) {
	for _, length := range []string{"", "200000"} {
		upstream := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			_, _ = w.Write(make([]byte, 150_000))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		url := startCaddy(t, "etag {\nmax_size 100KiB\noversize trailer\n}\nreverse_proxy "+upstream)
		res, err := try(clientFor(t, "h1", nil), "GET", url, "", "TE", "trailers")
		if err == nil {
			require.Error(t, res.err)
			require.Empty(t, res.trailer.Get("ETag"))
		}
	}
}

// TestTrailerTagIsWeakWhateverGoesDownstream: an encoder in front goes by what
// the client accepts.
func TestTrailerTagIsWeakWhateverGoesDownstream(t *testing.T) {
	body := strings.Repeat("large ", 1000)
	upstream := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
	url := startCaddy(t, "route {\nencode\netag {\nmax_size 1KiB\noversize trailer\n}\nrequest_header -Accept-Encoding\nreverse_proxy "+upstream+"\n}")
	require.Equal(t, tagFor(body), get(t, url, "TE", "trailers").trailer.Get("ETag"))
	require.Equal(t, "W/"+tagFor(body), get(t, url, "TE", "trailers", "Accept-Encoding", "gzip").trailer.Get("ETag"))
	require.Equal(t, tagFor(body), get(t, url, "TE", "trailers", "Accept-Encoding", "identity").trailer.Get("ETag"))
}

// TestReplacedTagReachesNobodyAsATrailer, past a limit neither.
func TestReplacedTagReachesNobodyAsATrailer(t *testing.T) {
	for _, announced := range []bool{true, false} {
		upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			name := http.TrailerPrefix + "ETag"
			if announced {
				w.Header().Set("Trailer", "ETag, X-Sum")
				name = "ETag"
			}
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, strings.Repeat("a", 5000))
			_ = http.NewResponseController(w).Flush()
			w.Header().Set(name, `"own"`)
			w.Header().Set("X-Sum", "1")
		})
		for _, options := range []string{"max_size 1KiB", "max_size 1KiB\noversize trailer", "no_store skip"} {
			url := startCaddy(t, "etag {\nexisting replace\n"+options+"\n}\nreverse_proxy "+upstream)
			for _, protocol := range []string{"h1", "h2c"} {
				for _, request := range [][]string{{"GET"}, {"DELETE"}, {"DELETE", "If-Match", "*"}} {
					res := do(t, clientFor(t, protocol, nil), request[0], url, "", append(request[1:], "TE", "trailers")...)
					require.Equal(t, 200, res.status)
					require.NotEqual(t, `"own"`, res.tag(), "%s %v", protocol, request)
					require.NotEqual(t, `"own"`, res.trailer.Get("ETag"), "%s %v", protocol, request)
					if announced {
						require.Equal(t, "1", res.trailer.Get("X-Sum"), "%s %v", protocol, request)
					}
				}
			}
		}
	}
}

// TestTagOfATrailerHasTheFieldsOfAny: an answer from memory has them, too.
func TestTagOfATrailerHasTheFieldsOfAny(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Content-Type", r.URL.Query().Get("type"))
		_, _ = io.WriteString(w, `"`+strings.Repeat("x", 3000)+`"`)
	})
	url := startCaddy(t, "etag weak {\nmax_size 1KiB\noversize trailer\nremember 1h\ncache_control no-cache\ncanonicalize json\n}\nreverse_proxy "+upstream)
	for _, kind := range []string{"text/plain", "application/json"} {
		client, url := clientFor(t, "h1", nil), url+"/?type="+kind
		sends := []string{"TE", "trailers", "Origin", "https://app.example"}
		first := do(t, client, "GET", url, "", sends...)
		require.NotEmpty(t, first.trailer.Get("ETag"))
		remembered := do(t, client, "GET", url, "", append(sends, "If-None-Match", first.trailer.Get("ETag"))...)
		require.Equal(t, 304, remembered.status)
		require.NotEmpty(t, remembered.header.Get("Age"))
		for _, res := range []reply{first, remembered} {
			require.Equal(t, "ETag", res.header.Get(exposeHeaders))
			require.Equal(t, "no-cache", res.header.Get("Cache-Control"))
		}
	}
}

// TestLateTagOfTheBackendIsNoTrailer of what is tagged here.
func TestLateTagOfTheBackendIsNoTrailer(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", "v1")
		if r.URL.Path == "/announced" {
			w.Header().Set("Trailer", "X-Sum")
			defer w.Header().Set("X-Sum", "1")
		}
		_, _ = io.WriteString(w, strings.Repeat("x", 5000))
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"ETag", `"own"`)
	})
	const trailer = "max_size 1000\noversize trailer"
	for _, options := range []string{"from_header X-Version", trailer, "", "existing replace", trailer + "\nexisting replace"} {
		url := startCaddy(t, "etag {\n"+options+"\n}\nreverse_proxy "+upstream)
		for _, protocol := range []string{"h1", "h2c"} {
			for _, path := range []string{"/", "/announced"} {
				res := do(t, clientFor(t, protocol, nil), "GET", url+path, "", "TE", "trailers")
				if strings.HasPrefix(options, trailer) {
					require.Equal(t, []string{tagFor(res.body)}, res.trailer["Etag"], "%s %s %s", options, protocol, path)
				} else {
					require.NotEmpty(t, res.tag())
					require.Empty(t, res.trailer["Etag"], "%s %s %s", options, protocol, path)
				}
			}
		}
	}
}

// TestReplacedTagIsNoTrailerWhereThereIsNone: a body that would have been
// normalized, had it been held, gets none of ours.
func TestReplacedTagIsNoTrailerWhereThereIsNone(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		addFields(w.Header(), fields{"Content-Type", "application/json", "Trailer", "ETag"})
		_, _ = io.WriteString(w, `{"a":1`)
		_ = http.NewResponseController(w).Flush()
		time.Sleep(100 * time.Millisecond)
		_, _ = io.WriteString(w, `}`)
		w.Header().Set("ETag", `"own"`)
	})
	url := startCaddy(t, "etag weak {\nexisting replace\ncanonicalize json\nmax_delay 20ms\noversize trailer\n}\nreverse_proxy "+upstream)
	for _, protocol := range []string{"h1", "h2c"} {
		res := do(t, clientFor(t, protocol, nil), "GET", url, "", "TE", "trailers")
		require.JSONEq(t, `{"a":1}`, res.body)
		require.Empty(t, res.trailer.Get("ETag"), protocol)
	}
}
