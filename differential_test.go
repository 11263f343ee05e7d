package etag

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// These tests compare what reads come to with and without the handler, and
// with what net/http makes of the same conditions where it knows the tag.

// condition is a precondition field as it is sent, and what it means by the
// contract: one line that net/http's ServeContent understands, none if the
// field is to be ignored.
type condition struct {
	name    string
	lines   []string
	means   string
	special string // the contract's reason, where net/http reads the lines otherwise
}

const (
	differentialDoc = "some content that stays as it is"
	foreignTag      = `"foreign"`
)

var differentialDate = time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC)

// tagConditions are the kinds of If-Match and If-None-Match for a resource
// with this tag.
func tagConditions(name, tag string) []condition {
	const (
		malformed = "a malformed member is passed over, and never matches"
		several   = "the lines of a list are one list"
		alone     = "* stands alone, by the grammar"
		suffix    = "an encoder's suffix does not make a tag foreign"
	)
	gzip := withSuffix(tag, "-gzip")
	suffixed := condition{name, []string{`"a", ` + gzip}, tag, suffix}
	if strings.HasPrefix(tag, weakPrefix) && name == "If-Match" {
		suffixed.means = foreignTag // a weak tag matches nothing, in the strong comparison
	}
	conditions := []condition{
		{name, nil, "", ""},
		{name, []string{tag}, tag, ""},
		{name, []string{"W/" + strings.TrimPrefix(tag, weakPrefix)}, "W/" + strings.TrimPrefix(tag, weakPrefix), ""},
		{name, []string{strings.TrimPrefix(tag, weakPrefix)}, strings.TrimPrefix(tag, weakPrefix), ""},
		{name, []string{foreignTag}, foreignTag, ""},
		{name, []string{`"a,b" , ,` + tag + `,`}, tag, ""},
		{name, []string{`"a", W/"b"`}, foreignTag, ""},
		{name, []string{"*"}, "*", ""},
		{name, []string{""}, "", ""},
		{name, []string{"bad"}, foreignTag, ""},
		{name, []string{"bad, " + tag}, tag, malformed},
		{name, []string{`"unclosed`}, foreignTag, ""},
		{name, []string{`"a" "b", ` + tag}, tag, malformed},
		{name, []string{"bad, *"}, foreignTag, alone},
		{name, []string{"", ""}, "", ""},
		{name, []string{foreignTag, tag}, tag, several},
		{name, []string{"", tag}, tag, several},
		{name, []string{"bad", tag}, tag, several},
		{name, []string{tag, tag}, tag, ""},
		suffixed,
		{name, []string{withSuffix(foreignTag, "-gzip")}, foreignTag, ""},
	}
	if name == "If-Match" {
		// If-None-Match goes downstream as it came, and net/http takes this for *.
		conditions = append(conditions, condition{name, []string{"*, " + foreignTag}, foreignTag, alone})
	}
	return conditions
}

// dateConditions are the kinds of If-Modified-Since and If-Unmodified-Since.
func dateConditions(name string) []condition {
	const several = "a date field of several lines is ignored"
	same := differentialDate.Format(http.TimeFormat)
	earlier := differentialDate.Add(-time.Second).Format(http.TimeFormat)
	later := differentialDate.Add(time.Hour).Format(http.TimeFormat)
	return []condition{
		{name, nil, "", ""},
		{name, []string{same}, same, ""},
		{name, []string{earlier}, earlier, ""},
		{name, []string{later}, later, ""},
		{name, []string{differentialDate.Add(-time.Hour).Format(time.ANSIC)}, earlier, ""},
		{name, []string{"*"}, "", ""},
		{name, []string{"yesterday"}, "", ""},
		{name, []string{"2020-01-01"}, "", ""},
		{name, []string{""}, "", ""},
		{name, []string{earlier, earlier}, "", several},
		{name, []string{later, same}, "", several},
		{name, []string{"", earlier}, "", ""},
	}
}

// differentialBackend is a resource at two paths: /with/… is behind the
// handler, /without/… is not.
type differentialBackend struct {
	name  string
	tag   string // with the handler
	own   bool   // the tag is the backend's
	dated bool
}

func (b differentialBackend) serve(w http.ResponseWriter, r *http.Request) {
	date := time.Time{}
	if b.dated {
		date = differentialDate
	}
	w.Header().Set("Content-Type", "text/plain")
	http.ServeContent(w, r, "", date, strings.NewReader(differentialDoc))
}

// oracle answers a request by what its conditions mean.
func (b differentialBackend) oracle(method string, conditions []condition) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/", nil)
	for _, c := range conditions {
		if c.means != "" {
			r.Header.Set(c.name, c.means)
		}
	}
	w := httptest.NewRecorder()
	w.Header().Set("ETag", b.tag)
	b.serve(w, r)
	return w
}

func TestReadsDifferOnlyWhereTheContractSays(t *testing.T) {
	backends := []differentialBackend{
		{"strong", `"own"`, true, true},
		{"weak", `W/"own"`, true, true},
		{"tag", `"own"`, true, false},
		{"date", tagFor(differentialDoc), false, true},
		{"neither", tagFor(differentialDoc), false, false},
	}
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		for _, b := range backends {
			if strings.HasSuffix(r.URL.Path, "/"+b.name) {
				if b.own {
					w.Header().Set("ETag", b.tag)
				}
				b.serve(w, r)
			}
		}
	})
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte(differentialDoc), 0o600))
	require.NoError(t, os.Chtimes(file, differentialDate, differentialDate))
	url := startCaddy(t, `root `+dir+`
		handle_path /with/* {
			etag
			@file path /file
			handle @file {
				file_server
			}
			handle {
				reverse_proxy `+upstream+`
			}
		}
		handle_path /without/* {
			@file path /file
			handle @file {
				file_server
			}
			handle {
				reverse_proxy `+upstream+`
			}
		}`)
	client := clientFor(t, "h1", nil)
	backends = append(backends, differentialBackend{"file", do(t, client, "GET", url+"/without/file", "").tag(), true, true})
	require.NotEmpty(t, backends[len(backends)-1].tag)

	random := rand.New(rand.NewPCG(1, 2))
	pick := func(of []condition) condition {
		if random.IntN(3) == 0 {
			return of[0] // absent
		}
		return of[random.IntN(len(of))]
	}
	statuses := make(map[int]int)
	for round := range 2000 {
		b := backends[round%len(backends)]
		method := []string{http.MethodGet, http.MethodHead}[random.IntN(2)]
		conditions := []condition{
			pick(tagConditions("If-Match", b.tag)),
			pick(tagConditions("If-None-Match", b.tag)),
			pick(dateConditions("If-Unmodified-Since")),
			pick(dateConditions("If-Modified-Since")),
		}
		sends := fields{"Accept-Encoding", "gzip"} // or its suffix is foreign
		var special []string
		for _, c := range conditions {
			for _, line := range c.lines {
				sends = append(sends, c.name, line)
			}
			if c.special != "" {
				special = append(special, c.special)
			}
		}
		told := fmt.Sprintf("round %d: %s %s %q", round, method, b.name, sends)

		with := do(t, client, method, url+"/with/"+b.name, "", sends...)
		without := do(t, client, method, url+"/without/"+b.name, "", sends...)
		want := b.oracle(method, conditions)
		statuses[with.status]++
		require.Equal(t, want.Code, with.status, told)
		switch {
		case !b.own:
			// A response with no tag of its own gets ours, and is judged by it.
		case len(special) == 0:
			require.Equal(t, without.status, with.status, told)
			require.Equal(t, without.tag(), with.tag(), told)
		case without.status != with.status:
			require.NotEmpty(t, special, told)
		}

		// what the client gets with it
		switch with.status {
		case 200:
			require.Equal(t, want.Body.String(), with.body, told)
			require.EqualValues(t, len(differentialDoc), with.length, told)
			require.Equal(t, b.tag, with.tag(), told)
		case 304:
			require.Empty(t, with.body, told)
			if means := conditions[1].means; b.own || means != "" && means != "*" { // else it may be the backend's
				require.True(t, entityTag{b.tag}.weakMatch(parseEntityTag(with.tag()).withoutCoding(allCodings)), told)
			}
		case 412:
			require.Equal(t, method == http.MethodHead, with.body == "", told)
			require.Equal(t, b.tag, with.tag(), told)
		}
	}
	for _, status := range []int{200, 304, 412} {
		require.Greater(t, statuses[status], 200, "too few to tell anything: %v", statuses)
	}
}

// TestConditionsThatOthersPrecede are those in which a backend's own answer to
// the one that it sees is not the answer to all.
func TestConditionsThatOthersPrecede(t *testing.T) {
	same := differentialDate.Format(http.TimeFormat)
	earlier := differentialDate.Add(-time.Second).Format(http.TimeFormat)
	for _, own := range []string{"", `"own"`} {
		b := differentialBackend{"", own, own != "", true}
		tag := own
		if own == "" {
			tag = tagFor(differentialDoc)
		}
		url := startCaddy(t, "etag\nreverse_proxy "+startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			if own != "" {
				w.Header().Set("ETag", own)
			}
			b.serve(w, r)
		}))
		for _, test := range []struct {
			sends  fields
			status int
		}{
			{fields{"If-Match", tag, "If-Modified-Since", same}, 304},
			{fields{"If-Match", "*", "If-Modified-Since", same}, 304},
			{fields{"If-Match", tag, "If-None-Match", "*"}, 304},
			{fields{"If-Match", tag, "If-None-Match", tag}, 304},
			{fields{"If-Match", tag, "If-Modified-Since", earlier}, 200},
			{fields{"If-Match", `"x"`, "If-Modified-Since", same}, 412},
			{fields{"If-Match", `"x"`, "If-None-Match", tag}, 412},
			{fields{"If-Match", `"x"`, "If-None-Match", "*"}, 412},
			{fields{"If-Unmodified-Since", earlier, "If-None-Match", tag}, 412},
			{fields{"If-Unmodified-Since", earlier, "If-None-Match", "*"}, 412},
			{fields{"If-Unmodified-Since", earlier, "If-Modified-Since", same}, 412},
			{fields{"If-Unmodified-Since", same, "If-None-Match", tag}, 304},
			{fields{"If-Unmodified-Since", same, "If-Modified-Since", same}, 304},
			{fields{"If-Unmodified-Since", "x", "If-None-Match", tag}, 304},
			{fields{"If-Match", tag, "If-Unmodified-Since", earlier, "If-None-Match", tag}, 304},
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				for _, protocol := range []string{"h1", "h2c"} {
					res := do(t, clientFor(t, protocol, nil), method, url, "", test.sends...)
					require.Equal(t, test.status, res.status, "%s %v", method, test.sends)
					require.Equal(t, tag, res.tag(), "%s %v", method, test.sends)
				}
			}
		}
	}
}
