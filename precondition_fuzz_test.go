package etag

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// FuzzTagField checks what holds for a list of entity tags whatever it is.
func FuzzTagField(f *testing.F) {
	for _, lines := range []string{
		`"a"`, `W/"a", "b"`, "*", "", ",", `"a,b" , "c"`, `"a""b"`, "a\n\"b\"", "\"\x80\"", `w/"a", "`, `W/"W/"`, `"a" b,"c"`,
	} {
		f.Add(lines)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		field := tagField(strings.Split(lines, "\n"))
		rest := lines
		for tag := range field.members() {
			if !tag.exists() {
				continue
			}
			// Each member is the same alone, matches itself, and stands in
			// the field behind the one before.
			require.Equal(t, tag, parseEntityTag(tag.field))
			require.True(t, tag.weakMatch(tag))
			require.Equal(t, !tag.weak(), tag.strongMatch(tag))
			i := strings.Index(rest, tag.field)
			require.GreaterOrEqual(t, i, 0)
			rest = rest[i+len(tag.field):]

			var alone []entityTag
			for member := range (tagField{tag.field}).members() {
				alone = append(alone, member)
			}
			require.Equal(t, []entityTag{tag}, alone)
		}
		if field.empty() || field.any() {
			require.Len(t, rest, len(lines), "it has no member")
		}
	})
}

// wellFormed matches the value of a field line by the grammar, empty members
// included, in another way than the parser does it.
var wellFormed = regexp.MustCompile(`^(?:[ \t]*(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"[ \t]*|[ \t]*)(?:,(?:[ \t]*(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"[ \t]*|[ \t]*))*$`)

// forServeContent makes of a list of tags one that ServeContent takes in the
// way that the contract says, or nothing.
func forServeContent(lines []string, ours string) string {
	if lines == nil {
		return ""
	}
	// Difference: ServeContent sees the first of several field lines only.
	joined := strings.Join(lines, ", ")
	if strings.Trim(joined, " \t,") == "" && strings.Trim(strings.Join(lines, ""), " \t") == "" {
		return "" // Difference: so are several lines with nothing in them
	}
	if strings.Trim(joined, " \t") == "*" {
		return "*"
	}

	if wellFormed.MatchString(latin1(joined)) {
		return withoutSuffixes(joined, ours)
	}

	// Difference: a malformed member is passed over, and one of them is an
	// asterisk beside others. For ServeContent it ends the list, and an
	// asterisk counts wherever it comes to it.
	var members []string
	for member := range tagField(lines).members() {
		if member.exists() {
			members = append(members, member.field)
		}
	}
	if len(members) == 0 {
		return `"nothing"`
	}
	return withoutSuffixes(strings.Join(members, ", "), ours)
}

// withoutSuffixes takes what encode adds off our tag.
//
// Difference: such a suffix does not make our tag foreign.
func withoutSuffixes(list, ours string) string {
	opaque := strings.Trim(strings.TrimPrefix(ours, "W/"), `"`)
	for _, suffix := range []string{"-gzip", "-zstd", "-br"} {
		list = strings.ReplaceAll(list, opaque+suffix+`"`, opaque+`"`)
	}
	return list
}

// latin1 makes characters of bytes, for a regular expression.
func latin1(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteRune(rune(c))
	}
	return b.String()
}

// fuzzedRequest are the inputs of FuzzReadAgainstServeContent.
type fuzzedRequest struct {
	method string
	header http.Header
}

// parseFuzzed makes a request of one line of text for each field line, such
// as `If-Match: "a"`, in which TAG stands for the tag of the body. It reports
// whether a server would let such fields through.
func parseFuzzed(text, tag string, head bool) (req fuzzedRequest, valid bool) {
	req = fuzzedRequest{http.MethodGet, http.Header{"Accept-Encoding": {"gzip, zstd, br"}}}
	if head {
		req.method = http.MethodHead
	}
	for line := range strings.SplitSeq(text, "\n") {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since":
		case "":
			continue
		default:
			return req, false
		}
		value = strings.Trim(strings.ReplaceAll(value, "TAG", tag), " \t")
		if !httpguts.ValidHeaderFieldValue(value) {
			return req, false
		}
		req.header.Add(name, value)
	}
	return req, true
}

// reference is ServeContent's answer.
func (req fuzzedRequest) reference(body, tag string, lastModified time.Time) *http.Response {
	r := httptest.NewRequest(req.method, "/", nil)
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if value := forServeContent(req.header[name], tag); value != "" {
			r.Header.Set(name, value)
		}
	}
	for _, name := range []string{"If-Modified-Since", "If-Unmodified-Since"} {
		// Difference: a date field of several lines is ignored; ServeContent
		// takes the first.
		if lines := req.header[name]; len(lines) == 1 {
			r.Header.Set(name, lines[0])
		}
	}
	rec := httptest.NewRecorder()
	rec.Header().Set("ETag", tag)
	http.ServeContent(rec, r, "", lastModified, strings.NewReader(body))
	return rec.Result()
}

// FuzzReadAgainstServeContent compares the read path with net/http's answer
// for the same tag, date, body and request. All differences are named here
// and in forServeContent; the contract states each of them.
func FuzzReadAgainstServeContent(f *testing.F) {
	const some = int64(784111777) // Sun, 06 Nov 1994 08:49:37 GMT
	for _, fields := range []string{
		"", "If-None-Match: TAG", "If-None-Match: W/TAG", `If-None-Match: "a", TAG`, "If-None-Match: *", "If-None-Match: *, TAG",
		"If-None-Match: bad, TAG", "If-None-Match: \"a\"\nIf-None-Match: TAG", "If-None-Match:", "If-None-Match: ,",
		"If-Match: TAG", "If-Match: W/TAG", `If-Match: "a"`, "If-Match: *", "If-Match:", "If-Match: bad",
		"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT",
		"If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT", "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT",
		"If-Unmodified-Since: Mon, 01 Jan 0001 00:00:00 GMT",
		"If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT\nIf-Modified-Since: x",
		"If-None-Match: \"a\"\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
		"If-Match: TAG\nIf-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\nIf-None-Match: TAG",
	} {
		f.Add("hello", some, fields, false, false, uint8(1))
		f.Add("<html>"+longText, some, fields, true, true, uint8(2))
	}
	f.Add("", int64(0), "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", false, false, uint8(0))
	f.Add("", some, "If-None-Match: TAG", true, false, uint8(7))

	handlers := map[bool]*Handler{false: newHandler(f, Handler{}), true: newHandler(f, Handler{Strength: "weak"})}
	f.Fuzz(func(t *testing.T, body string, seconds int64, fields string, head, weak bool, pieces uint8) {
		tag := tagFor(body)
		if weak {
			tag = "W/" + tag
		}
		req, valid := parseFuzzed(fields, tag, head)
		if !valid {
			t.Skip()
		}
		lastModified := time.Unix(seconds%1e11, 0).UTC() // years that an HTTP-date can have
		if year := lastModified.Year(); year < 1 || year > 9999 {
			t.Skip()
		}
		want := req.reference(body, tag, lastModified)
		got := req.ours(t, handlers[weak], body, lastModified, int(pieces))

		require.Equal(t, want.StatusCode, got.Code)
		// Difference: a 304 by a member with a suffix has that member's spelling.
		if spelled := responseTag(got.Result().Header); got.Code == http.StatusNotModified && spelled.field != tag {
			require.Contains(t, strings.Join(req.header["If-None-Match"], ","), spelled.field)
			require.True(t, entityTag{tag}.weakMatch(spelled.withoutCoding(allCodings)))
			got.Result().Header.Set("ETag", tag)
		}
		wantBody, err := io.ReadAll(want.Body)
		require.NoError(t, err)
		header := got.Result().Header
		switch want.StatusCode {
		case http.StatusPreconditionFailed:
			// Difference: a 412 has a problem body; ServeContent's has none,
			// and the fields of the representation.
			require.Equal(t, "application/problem+json", header.Get("Content-Type"))
			require.Equal(t, tag, header.Get("ETag"))
			require.Equal(t, head, got.Body.Len() == 0)
			return
		case http.StatusOK:
			// Difference: ServeContent serves ranges.
			want.Header.Del("Accept-Ranges")
		}
		if body == "" {
			// Difference: ServeContent takes an empty body for text, where
			// net/http gives it no type.
			want.Header.Del("Content-Type")
			header.Del("Content-Type")
		}
		require.Equal(t, want.Header, header)
		require.Equal(t, string(wantBody), got.Body.String())
	})
}

// ours is the handler's answer, where the handler behind writes the body in
// some pieces, with a length in every other case.
func (req fuzzedRequest) ours(t *testing.T, h *Handler, body string, lastModified time.Time, pieces int) *httptest.ResponseRecorder {
	r := httptest.NewRequest(req.method, "/", nil)
	r.Header = req.header.Clone()
	rec := httptest.NewRecorder()
	require.NoError(t, h.ServeHTTP(rec, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if !lastModified.IsZero() && lastModified.Unix() != 0 {
			w.Header().Set("Last-Modified", lastModified.Format(http.TimeFormat))
		}
		if pieces%2 == 0 {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		size := len(body)/(pieces+1) + 1
		for rest := body; rest != ""; {
			n := min(size, len(rest))
			if _, err := io.WriteString(w, rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		w.WriteHeader(http.StatusOK) // for the empty body
		return nil
	})))
	require.Equal(t, req.header, r.Header)
	return rec
}
