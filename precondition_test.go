package etag

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEntityTags(t *testing.T) {
	tests := []struct {
		name, in, tag string // tag is empty where in is none
	}{
		{"strong", `"a"`, `"a"`},
		{"weak", `W/"a"`, `W/"a"`},
		{"empty", `""`, `""`},
		{"empty weak", `W/""`, `W/""`},
		{"comma inside", `"a,b"`, `"a,b"`},
		{"first etagc", `"!"`, `"!"`},
		{"all between the gap and DEL", `"#$%&'()*+,-./09:;<=>?@AZ[\]^_` + "`" + `az{|}~"`, `"#$%&'()*+,-./09:;<=>?@AZ[\]^_` + "`" + `az{|}~"`},
		{"obs-text", "\"\x80\xff\"", "\"\x80\xff\""},
		{"UTF-8", `"é"`, `"é"`},
		{"white space around", " \t\"a\"\t ", `"a"`},

		{"nothing", "", ""},
		{"white space", " ", ""},
		{"unquoted", "a", ""},
		{"any", "*", ""},
		{"unterminated", `"a`, ""},
		{"unterminated weak", `W/"a`, ""},
		{"quote alone", `"`, ""},
		{"prefix alone", "W/", ""},
		{"half a prefix", `W"a"`, ""},
		{"lower-case prefix", `w/"a"`, ""},
		{"white space behind the prefix", `W/ "a"`, ""},
		{"two prefixes", `W/W/"a"`, ""},
		{"single quotes", `'a'`, ""},
		{"space inside", `"a b"`, ""},
		{"tab inside", "\"a\tb\"", ""},
		{"control character inside", "\"a\x01b\"", ""},
		{"DEL inside", "\"a\x7fb\"", ""},
		{"quote inside", `"a"b"`, ""},
		{"escaped quote inside", `"a\"b"`, ""},
		{"something behind", `"a" b`, ""},
		{"two", `"a", "b"`, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.tag, parseEntityTag(test.in).field)
			require.Equal(t, test.tag != "", parseEntityTag(test.in).exists())
		})
	}
}

func TestComparison(t *testing.T) {
	// the table of RFC 9110 §8.8.3.2, and what is no tag
	tests := []struct {
		a, b         string
		strong, weak bool
	}{
		{`W/"1"`, `W/"1"`, false, true},
		{`W/"1"`, `W/"2"`, false, false},
		{`W/"1"`, `"1"`, false, true},
		{`"1"`, `"1"`, true, true},
		{`"1"`, `"2"`, false, false},
		{`"a"`, `"A"`, false, false},
		{`""`, `""`, true, true},
		{`""`, ``, false, false},
		{``, ``, false, false},
		{``, `"1"`, false, false},
	}
	for _, test := range tests {
		a, b := entityTag{test.a}, entityTag{test.b}
		for range 2 {
			require.Equal(t, test.strong, a.strongMatch(b), "%s %s", a, b)
			require.Equal(t, test.weak, a.weakMatch(b), "%s %s", a, b)
			a, b = b, a
		}
	}
}

func TestTagOfAResponseIsOneLine(t *testing.T) {
	require.Equal(t, `"a"`, responseTag(http.Header{"Etag": {` "a" `}}).field)
	for _, lines := range [][]string{nil, {}, {""}, {"a"}, {`"a"`, `"a"`}, {`"a", "b"`}, {"*"}} {
		require.False(t, responseTag(http.Header{"Etag": lines}).exists(), lines)
	}
}

// bad stands for a malformed member in the tables below.
const bad = ""

func TestLists(t *testing.T) {
	tests := []struct {
		name    string
		lines   []string
		members []string
	}{
		{"one", []string{`"a"`}, []string{`"a"`}},
		{"some", []string{`"a", W/"b" ,"c"`}, []string{`"a"`, `W/"b"`, `"c"`}},
		{"several lines", []string{`"a"`, `"b", "c"`, `"d"`}, []string{`"a"`, `"b"`, `"c"`, `"d"`}},
		{"empty members", []string{", ,\t", ` , "a",,`, "", `,"b"`}, []string{`"a"`, `"b"`}},
		{"no member", []string{"", ",", " , "}, nil},
		{"commas inside", []string{`"a,b", ",", W/",,"`}, []string{`"a,b"`, `","`, `W/",,"`}},
		{"backslash is no escape", []string{`"a\", "b"`}, []string{`"a\"`, `"b"`}},
		{"malformed first", []string{`a, "b"`}, []string{bad, `"b"`}},
		{"malformed in the middle", []string{`"a", b c, "d"`}, []string{`"a"`, bad, `"d"`}},
		{"malformed last", []string{`"a", b`}, []string{`"a"`, bad}},
		{"malformed line", []string{"a", `"b"`}, []string{bad, `"b"`}},
		{"lower-case prefix", []string{`w/"a", "b"`}, []string{bad, `"b"`}},
		{"something behind a tag", []string{`"a"b, "c" d, "e"`}, []string{bad, bad, `"e"`}},
		{"no comma", []string{`"a""b", "c"`}, []string{bad, `"c"`}},
		{"space inside", []string{`"a b", "c"`}, []string{bad, `"c"`}},
		{"unterminated", []string{`"a, "b"`}, []string{bad, `"b"`}},
		{"unterminated up to a comma", []string{`"a,"b", "c"`}, []string{bad, `"c"`}},
		{"unterminated ends with its line", []string{`"a`, `"b"`}, []string{bad, `"b"`}},
		{"any is no member", []string{`*, "a"`}, []string{bad, `"a"`}},
		{"any in quotes", []string{`"*"`}, []string{`"*"`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var members []string
			for tag := range tagField(test.lines).members() {
				members = append(members, tag.field)
			}
			require.Equal(t, test.members, members)
		})
	}
}

func TestListIsReadNoFurtherThanNeeded(t *testing.T) {
	for tag := range (tagField{`"a", "b"`, `"c"`}).members() {
		require.Equal(t, `"a"`, tag.field)
		break
	}
}

func TestAnyStandsAlone(t *testing.T) {
	for _, lines := range [][]string{{"*"}, {" *\t"}} {
		require.True(t, tagField(lines).any(), lines)
	}
	for _, lines := range [][]string{nil, {}, {""}, {"*", "*"}, {"*", ""}, {"*,"}, {`"a", *`}, {`"*"`}, {"**"}, {"W/*"}} {
		require.False(t, tagField(lines).any(), lines)
	}
}

func TestEmptyFields(t *testing.T) {
	for _, lines := range [][]string{nil, {}, {""}, {" ", "\t"}} {
		require.True(t, tagField(lines).empty(), lines)
	}
	for _, lines := range [][]string{{"*"}, {"", "a"}, {`""`}} {
		require.False(t, tagField(lines).empty(), lines)
	}
}

// TestListsAreParsedInLinearTime: with a million repeats of each piece, work
// that grows with the square would never come to its end. No member is copied.
func TestListsAreParsedInLinearTime(t *testing.T) {
	for _, piece := range []string{`"a`, `W/"`, `"`, ",", `","`, `"" `, "W/", `"a" "b",`, ` ,`, "*,", "\x80", `W/"a",`} {
		members := func(repeats int) (n int) {
			field := tagField{strings.Repeat(piece, repeats)}
			for range field.members() {
				n++
			}
			return n
		}
		const repeats = 1 << 20
		require.LessOrEqual(t, members(repeats), repeats*strings.Count(piece+`"`, `"`), "%q", piece)

		field := tagField{strings.Repeat(piece, 1000)}
		require.LessOrEqual(t, testing.AllocsPerRun(10, func() {
			for range field.members() {
				continue
			}
		}), 2.0, "%q", piece)
	}
}

func TestDates(t *testing.T) {
	date := time.Date(1994, 11, 6, 8, 49, 37, 0, time.UTC)
	for name, lines := range map[string][]string{
		"IMF-fixdate":        {"Sun, 06 Nov 1994 08:49:37 GMT"},
		"RFC 850":            {"Sunday, 06-Nov-94 08:49:37 GMT"},
		"asctime":            {"Sun Nov  6 08:49:37 1994"},
		"white space around": {" Sun, 06 Nov 1994 08:49:37 GMT\t"},
	} {
		require.True(t, date.Equal(parseDate(lines)), name)
	}
	for name, lines := range map[string][]string{
		"absent":          nil,
		"empty":           {""},
		"no date":         {"yesterday"},
		"seconds":         {"784111777"},
		"ISO 8601":        {"1994-11-06T08:49:37Z"},
		"two lines":       {"Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT"},
		"two in one line": {"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT"},
		"no such day":     {"Sun, 31 Feb 1994 08:49:37 GMT"},
	} {
		require.True(t, parseDate(lines).IsZero(), name)
	}
	require.False(t, parseDate([]string{"Mon, 01 Jan 0001 00:00:00 GMT"}).IsZero(), "the first date is one too")
}

// Dates before, at and after the modification in TestReadPreconditions.
const (
	earlier  = "Sun, 06 Nov 1994 08:49:36 GMT"
	modified = "Sun, 06 Nov 1994 08:49:37 GMT"
	later    = "Sun, 06 Nov 1994 08:49:38 GMT"
	first    = "Mon, 01 Jan 0001 00:00:00 GMT"
)

// TestReadPreconditions has the order of RFC 9110 §13.2.2: what comes first
// decides, whatever comes behind.
func TestReadPreconditions(t *testing.T) {
	const own = `"own"`
	tests := []struct {
		name   string
		tag    string // of the representation
		ours   bool
		date   string // of the representation
		fields []string
		want   verdict
	}{
		{"nothing", own, false, modified, nil, proceed},

		{"If-Match, equal", own, false, "", []string{"If-Match", own}, proceed},
		{"If-Match, other", own, false, "", []string{"If-Match", `"x"`}, failed},
		{"If-Match, in a list", own, false, "", []string{"If-Match", `"x", bad, ` + own}, proceed},
		{"If-Match, in another line", own, false, "", []string{"If-Match", `"x"`, "If-Match", own}, proceed},
		{"If-Match, weak against strong", own, false, "", []string{"If-Match", "W/" + own}, failed},
		{"If-Match, strong against weak", "W/" + own, false, "", []string{"If-Match", own}, failed},
		{"If-Match, both weak", "W/" + own, false, "", []string{"If-Match", "W/" + own}, failed},
		{"If-Match, any", own, false, "", []string{"If-Match", "*"}, proceed},
		{"If-Match, any without a tag", "", false, "", []string{"If-Match", "*"}, proceed},
		{"If-Match, any in a list", own, false, "", []string{"If-Match", `"x", *`}, failed},
		{"If-Match, any in two lines", own, false, "", []string{"If-Match", "*", "If-Match", "*"}, failed},
		{"If-Match, malformed", own, false, "", []string{"If-Match", "own"}, failed},
		{"If-Match, no member", own, false, "", []string{"If-Match", ","}, failed},
		{"If-Match, empty", own, false, "", []string{"If-Match", " "}, proceed},
		{"If-Match without a tag", "", false, "", []string{"If-Match", own}, failed},
		{"If-Match, our tag with a suffix", own, true, "", []string{"If-Match", `"own-gzip"`}, proceed},
		{"If-Match, a backend's tag with a suffix", own, false, "", []string{"If-Match", `"own-gzip"`}, proceed},
		{"If-Match, a backend's tag with a suffix that Caddy does not make", own, false, "", []string{"If-Match", `"own-br"`}, failed},

		{"If-Unmodified-Since, earlier", own, false, modified, []string{"If-Unmodified-Since", earlier}, failed},
		{"If-Unmodified-Since, equal", own, false, modified, []string{"If-Unmodified-Since", modified}, proceed},
		{"If-Unmodified-Since, later", own, false, modified, []string{"If-Unmodified-Since", later}, proceed},
		{"If-Unmodified-Since, the first date", own, false, modified, []string{"If-Unmodified-Since", first}, failed},
		{"If-Unmodified-Since, unknown", own, false, "", []string{"If-Unmodified-Since", earlier}, proceed},
		{"If-Unmodified-Since, no date", own, false, modified, []string{"If-Unmodified-Since", "x"}, proceed},
		{"If-Unmodified-Since, two lines", own, false, modified, []string{"If-Unmodified-Since", earlier, "If-Unmodified-Since", earlier}, proceed},
		{"If-Unmodified-Since beside If-Match", own, false, modified, []string{"If-Match", own, "If-Unmodified-Since", earlier}, proceed},
		{"If-Unmodified-Since beside an empty If-Match", own, false, modified, []string{"If-Match", "", "If-Unmodified-Since", earlier}, failed},

		{"If-None-Match, equal", own, false, "", []string{"If-None-Match", own}, notModified},
		{"If-None-Match, other", own, false, "", []string{"If-None-Match", `"x"`}, proceed},
		{"If-None-Match, in a list", own, false, "", []string{"If-None-Match", `"x", bad, , ` + own}, notModified},
		{"If-None-Match, in another line", own, false, "", []string{"If-None-Match", `"x"`, "If-None-Match", own}, notModified},
		{"If-None-Match, weak against strong", own, false, "", []string{"If-None-Match", "W/" + own}, notModified},
		{"If-None-Match, strong against weak", "W/" + own, false, "", []string{"If-None-Match", own}, notModified},
		{"If-None-Match, any", own, false, "", []string{"If-None-Match", "*"}, notModified},
		{"If-None-Match, any in a list", own, false, "", []string{"If-None-Match", `"x", *`}, proceed},
		{"If-None-Match, malformed", own, false, "", []string{"If-None-Match", "own"}, proceed},
		{"If-None-Match, no tag", "", false, "", []string{"If-None-Match", own}, proceed},
		{"If-None-Match, no tag against a malformed member", "", false, "", []string{"If-None-Match", "own"}, proceed},

		{"suffix, gzip", own, true, "", []string{"If-None-Match", `"own-gzip"`}, notModified},
		{"suffix, zstd", own, true, "", []string{"If-None-Match", `"own-zstd"`}, notModified},
		{"suffix, br", own, true, "", []string{"If-None-Match", `"own-br"`}, notModified},
		{"suffix, weakened", own, true, "", []string{"If-None-Match", `W/"own-gzip"`}, notModified},
		{"suffix, unknown", own, true, "", []string{"If-None-Match", `"own-lz4"`}, proceed},
		{"suffix, twice", own, true, "", []string{"If-None-Match", `"own-gzip-gzip"`}, proceed},
		{"suffix, inside", own, true, "", []string{"If-None-Match", `"own-gzip-"`}, proceed},
		{"suffix, on a backend's tag", own, false, "", []string{"If-None-Match", `"own-gzip"`}, notModified},
		{"suffix, on a backend's tag, that Caddy does not make", own, false, "", []string{"If-None-Match", `"own-br"`}, proceed},
		{"suffix, of a coding that is not accepted", own, true, "", []string{"If-None-Match", `"own-gzip"`, "Accept-Encoding", "zstd, br"}, proceed},
		{"suffix, of a coding that is refused", own, true, "", []string{"If-None-Match", `"own-gzip"`, "Accept-Encoding", "gzip;q=0, *;q=0.000"}, proceed},
		{"suffix, of a coding that is refused, beside any other", own, true, "", []string{"If-None-Match", `"own-gzip"`, "Accept-Encoding", "gzip;q=0, *"}, proceed},
		{"suffix, of a coding that is refused, behind any other", own, true, "", []string{"If-None-Match", `"own-gzip"`, "Accept-Encoding", "*", "Accept-Encoding", "x-gzip; q=0"}, proceed},
		{"suffix, of a coding beside one that is refused", own, true, "", []string{"If-None-Match", `"own-br"`, "Accept-Encoding", "gzip;q=0, *"}, notModified},
		{"suffix, of any coding", own, true, "", []string{"If-None-Match", `"own-br"`, "Accept-Encoding", "*;q=0.1"}, notModified},
		{"suffix, If-Match whatever is accepted", own, true, "", []string{"If-Match", `"own-gzip"`, "Accept-Encoding", "identity"}, proceed},
		{"suffix, the backend's", `"own-gzip"`, false, "", []string{"If-None-Match", `"own-gzip"`}, notModified},
		{"suffix, a part of our tag", `"v-gzip"`, true, "", []string{"If-None-Match", `"v-gzip"`}, notModified},

		{"If-Modified-Since, earlier", own, false, modified, []string{"If-Modified-Since", earlier}, proceed},
		{"If-Modified-Since, equal", own, false, modified, []string{"If-Modified-Since", modified}, notModified},
		{"If-Modified-Since, later", own, false, modified, []string{"If-Modified-Since", later}, notModified},
		{"If-Modified-Since, unknown", own, false, "", []string{"If-Modified-Since", later}, proceed},
		{"If-Modified-Since, no date", own, false, modified, []string{"If-Modified-Since", "x"}, proceed},
		{"If-Modified-Since, two lines", own, false, modified, []string{"If-Modified-Since", later, "If-Modified-Since", later}, proceed},
		{"If-Modified-Since beside If-None-Match", own, false, modified, []string{"If-None-Match", `"x"`, "If-Modified-Since", later}, proceed},
		{"If-Modified-Since beside a malformed If-None-Match", own, false, modified, []string{"If-None-Match", "x", "If-Modified-Since", later}, proceed},
		{"If-Modified-Since beside an empty If-None-Match", own, false, modified, []string{"If-None-Match", "", "If-Modified-Since", later}, notModified},

		{"failed before not modified", own, false, modified, []string{"If-Match", `"x"`, "If-None-Match", own}, failed},
		{"holds, then not modified", own, false, modified, []string{"If-Match", own, "If-None-Match", own}, notModified},
		{"unmodified, then not modified", own, false, modified, []string{"If-Unmodified-Since", modified, "If-None-Match", "*"}, notModified},
		{"modified before not modified", own, false, modified, []string{"If-Unmodified-Since", earlier, "If-Modified-Since", later}, failed},
		{"holds, then not modified since", own, false, modified, []string{"If-Match", "*", "If-Modified-Since", modified}, notModified},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			header := make(http.Header)
			addFields(header, test.fields)
			if header["Accept-Encoding"] == nil {
				header.Set("Accept-Encoding", "gzip, zstd, br")
			}
			var date []string
			if test.date != "" {
				date = []string{test.date}
			}
			require.Equal(t, test.want, parseConditions(header).evaluateRead(representation{
				tag:          entityTag{test.tag},
				ours:         test.ours,
				lastModified: parseDate(date),
			}))
		})
	}
}
