package jcs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

// canonical returns the canonical form of a document without what pointers
// name, read from one piece of memory and, which must be the same, from small
// pieces.
func canonical(tb testing.TB, document string, pointers ...string) (string, error) {
	tb.Helper()
	var ignored *Pointers
	if len(pointers) > 0 {
		var err error
		ignored, err = ParsePointers(pointers)
		require.NoError(tb, err)
	}
	c := NewCanonicalizer()
	defer c.Release()
	err := c.Canonicalize([]byte(document), ignored)
	var whole bytes.Buffer
	written, writeErr := c.WriteTo(&whole)
	require.NoError(tb, writeErr)
	require.EqualValues(tb, whole.Len(), written)
	if err == nil {
		require.Equal(tb, whole.String(), string(c.Bytes()))
	}

	// as if all were large, and then even larger
	defer func(a, b, c int) { maxMove, smallGroup, largeGroup = a, b, c }(maxMove, smallGroup, largeGroup)
	maxMove, smallGroup = 0, 1
	for range 2 {
		require.Equal(tb, err, c.Canonicalize([]byte(document), ignored))
		if err == nil {
			require.Equal(tb, whole.String(), string(c.Bytes()))
		}
		largeGroup = 1
	}

	streamErr := c.CanonicalizeFrom(&smallReads{strings.NewReader(document)}, int64(len(document)), ignored)
	require.Equal(tb, err == nil, streamErr == nil, "%v, from a reader %v", err, streamErr)
	if err == nil {
		require.Equal(tb, whole.String(), string(c.Bytes()))
	}
	return whole.String(), err
}

// smallReads reads a few bytes at a time.
type smallReads struct{ io.Reader }

func (r *smallReads) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 7)]) }

// TestRFC8785Documents are the examples of §3.2.
func TestRFC8785Documents(t *testing.T) {
	const document = `{
		"numbers": [333333333.3333333, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
		"string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
		"literals": [null, true, false]
	}`
	got, err := canonical(t, document)
	require.NoError(t, err)
	require.Equal(t, `{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],`+
		`"string":"€$\u000f\nA'B\"\\\\\"/"}`, got)

	// It has another number there, which is none of double precision.
	got, err = canonical(t, strings.Replace(document, "333333333.3333333", "333333333.33333329", 1))
	require.NoError(t, err)
	require.Contains(t, got, "[333333333.33333329,1e+30,")

	got, err = canonical(t, `{
		"\u20ac": "Euro Sign",
		"\r": "Carriage Return",
		"\ufb33": "Hebrew Letter Dalet With Dagesh",
		"1": "One",
		"\ud83d\ude00": "Emoji: Grinning Face",
		"\u0080": "Control",
		"\u00f6": "Latin Small Letter O With Diaeresis"
	}`)
	require.NoError(t, err)
	require.Equal(t, `{"\r":"Carriage Return","1":"One",`+"\"\u0080\":\"Control\",\"\u00f6\":\"Latin Small Letter O With Diaeresis\","+
		"\"\u20ac\":\"Euro Sign\",\"\U0001F600\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}", got)
}

func TestWhatIsNoJSONIsRefused(t *testing.T) {
	for _, document := range []string{
		"", " ", "{", "}", "[", "]", "[1,]", "[,1]", "{,}", `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a" 1}`, `{a:1}`, "[1 2]",
		"01", "+1", ".5", "1.", "1e", "nul", "True", "NaN", `'a'`, `"a`, `"\x"`, `"\u12"`, "\"\t\"", "\"\xff\"", `"\ud800"`,
		"{} {}", "1 2", "[]]", "{}x", "\ufeff{}", "{\"a\":1}\n{\"a\":2}", "[}", "{]", "// a\n1",
		"-", "--1", "1.2.3", "1e+", "1e1.5", "1-1", "-01", "00", "1e5e5", "[1.]", "[-]", "[1e]", "truefalse", "tru", "nulll", "[true false]",
		`{"a":1 "b":2}`, `{"a":1,,"b":2}`, `{"a"::1}`, `{,"a":1}`, `[1,,2]`, `{"a":1]`, `[1}`, `"\ud800\u0041"`, `"\ud800\ud800"`, `"\udc00"`, `"\ud83d\u00"`,
		"\"\xf0\x9f\"", "\"\xed\xa0\x80\"", "\"\xc0\x80\"", "\"a\x00\"", "\x00", "\x00[]", "[]\x00", "[1\x00]", "[\x001]", `"\u00zz"`, `"\`, `"\u`, "\x01\x01",
	} {
		_, err := canonical(t, document)
		require.Error(t, err, "%q", document)
	}
}

func TestDuplicateNamesAreRefused(t *testing.T) {
	for _, document := range []string{
		`{"a":1,"a":1}`, `{"a":1,"b":2,"a":3}`, `{"b":1,"a":2,"b":3}`, `{"a":1,"\u0061":2}`, `[{"x":{"":1,"":2}}]`,
		`{"é":1,"z":2,"\u00e9":3}`, `{"a\n":1,"a\u000a":2}`,
	} {
		_, err := canonical(t, document)
		require.ErrorIs(t, err, errDuplicate, document)
	}
	got, err := canonical(t, `{"b":{"a":1},"a":{"a":1}}`)
	require.NoError(t, err)
	require.Equal(t, `{"a":{"a":1},"b":{"a":1}}`, got)
}

func TestIgnoredMembersAreLeftOut(t *testing.T) {
	const document = `{"b": [{"id": 1, "at": 5}, {"at": {"deep": [1]}, "id": 2}, 3], "at": 7, "*": 1, "a/b": 2, "m~n": 3, "": 4, "01": 5, "é\n": 6}`
	for want, pointers := range map[string][]string{
		`{"":4,"*":1,"01":5,"a/b":2,"at":7,"b":[{"at":5,"id":1},{"at":{"deep":[1]},"id":2},3],"m~n":3,"é\n":6}`: {"/none", "/at/none", "/b/-", "/b/3", "/b/00", "/b/01/id", "/at/0"},
		`{"":4,"*":1,"01":5,"a/b":2,"b":[{"at":5,"id":1},{"at":{"deep":[1]},"id":2},3],"m~n":3,"é\n":6}`:        {"/at"},
		`{"":4,"*":1,"01":5,"a/b":2,"at":7,"b":[{"id":1},{"id":2},3],"m~n":3,"é\n":6}`:                          {"/b/*/at"},
		`{"":4,"*":1,"01":5,"a/b":2,"at":7,"b":[{"id":1},{"at":{"deep":[1]},"id":2},3],"m~n":3,"é\n":6}`:        {"/b/0/at"},
		`{"":4,"*":1,"01":5,"a/b":2,"at":7,"b":[{"at":5,"id":1},{"at":{"deep":[]},"id":2},3],"m~n":3,"é\n":6}`:  {"/*/*/at/deep/*"},
		`{"":4,"*":1,"a/b":2,"at":7,"b":[{"at":{"deep":[1]},"id":2}]}`:                                          {"/b/0", "/b/2", "/m~0n", "/01", "/é\n"},
		`{"*":1,"01":5,"at":7,"b":[{},{},3],"m~n":3,"é\n":6}`:                                                   {"/a~1b", "/", "/b/*/*"},
		`{}`: {"/*"},
		`{"":4,"*":1,"01":5,"a/b":2,"b":[{"at":5},{"at":{"deep":[1]}},3],"m~n":3,"é\n":6}`: {"/at", "/at/x", "/b/*/id", "/b/0/id", "/*/1/id"},
	} {
		got, err := canonical(t, document, pointers...)
		require.NoError(t, err, pointers)
		require.Equal(t, want, got, pointers)
	}
	got, err := canonical(t, `{"a":1,"b":2,"c":[3,{"b":4}],"d":{"b":5}}`, "/a/b", "/c/0/b", "/d/b")
	require.NoError(t, err)
	require.Equal(t, `{"a":1,"b":2,"c":[3,{"b":4}],"d":{}}`, got, "a pointer into a scalar names nothing, and nothing beside it")

	for _, scalar := range []string{"1", `"a"`, "null"} {
		got, err := canonical(t, scalar, "/a", "/*")
		require.NoError(t, err)
		require.Equal(t, scalar, got, "the whole document is never ignored")
	}
	_, err = canonical(t, `{"a": [1,, 2], "b": 1}`, "/a")
	require.Error(t, err, "what is ignored must be JSON too")
}

// randomJSON is a document, and the same one written in another way.
type randomJSON struct {
	*rand.Rand
}

// value appends a value to both texts.
func (r *randomJSON) value(a, b *bytes.Buffer, depth int) {
	kind := r.IntN(8)
	if depth == 0 {
		kind = r.IntN(5)
	}
	r.space(a)
	r.space(b)
	switch kind {
	case 0:
		literal := []string{"null", "true", "false"}[r.IntN(3)]
		a.WriteString(literal)
		b.WriteString(literal)
	case 1, 2:
		n := r.IntN(1_000_000)
		fmt.Fprintf(a, "%d.%02d", n/100, n%100)
		fmt.Fprintf(b, []string{"%d.%02d", "%d.%02d0", "%d.%02de0"}[r.IntN(3)], n/100, n%100)
	case 3, 4:
		r.text(a, b, r.name())
	case 5:
		a.WriteByte('[')
		b.WriteByte('[')
		for i := range r.IntN(5) {
			if i > 0 {
				a.WriteByte(',')
				b.WriteByte(',')
			}
			r.value(a, b, depth-1)
		}
		a.WriteByte(']')
		b.WriteByte(']')
	default:
		var one, other []string
		for i := range r.IntN(6) {
			var x, y bytes.Buffer
			r.text(&x, &y, fmt.Sprint(r.name(), i))
			r.space(&x)
			x.WriteByte(':')
			y.WriteByte(':')
			r.value(&x, &y, depth-1)
			one, other = append(one, x.String()), append(other, y.String())
		}
		r.Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
		a.WriteString("{" + strings.Join(one, ",") + "}")
		b.WriteString("{" + strings.Join(other, ",") + "}")
	}
	r.space(b)
}

func (r *randomJSON) space(to *bytes.Buffer) {
	for r.IntN(3) == 0 {
		to.WriteByte(" \t\r\n"[r.IntN(4)])
	}
}

func (r *randomJSON) name() string {
	var b strings.Builder
	for range r.IntN(4) {
		b.WriteRune([]rune("ab\"\\/\n\x00\x1f\x7fé€\ufb33😀\U0010ffff")[r.IntN(14)])
	}
	return b.String()
}

// text appends a string to both texts, with other escapes.
func (r *randomJSON) text(a, b *bytes.Buffer, s string) {
	quoted, _ := jsontext.AppendQuote(nil, s)
	a.Write(quoted)
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c < 0x20 || c == '"' || c == '\\' || c < 0x10000 && r.IntN(2) == 0:
			fmt.Fprintf(b, []string{`\u%04x`, `\u%04X`}[r.IntN(2)], c)
		case c >= 0x10000 && r.IntN(2) == 0:
			fmt.Fprintf(b, `\u%04x\u%04x`, 0xd800+(c-0x10000)>>10, 0xdc00+(c-0x10000)&0x3ff)
		case c == '/':
			b.WriteString(`\/`)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
}

// TestSpellingIsOfNoMeaning: the order of members, white space, escapes and
// the spelling of numbers. And one other value gives another form.
func TestSpellingIsOfNoMeaning(t *testing.T) {
	for seed := range uint64(2000) {
		r := &randomJSON{Rand: rand.New(rand.NewPCG(seed, 0))}
		var a, b bytes.Buffer
		r.value(&a, &b, 4)
		one, err := canonical(t, a.String())
		require.NoError(t, err, a.String())
		other, err := canonical(t, b.String())
		require.NoError(t, err, b.String())
		require.Equal(t, one, other, "%s and %s", a.String(), b.String())

		changed := `[` + a.String() + `,1]`
		same := `[` + b.String() + `,2]`
		one, err = canonical(t, changed)
		require.NoError(t, err)
		other, err = canonical(t, same)
		require.NoError(t, err)
		require.NotEqual(t, one, other)

		// the one that is different is ignored
		one, err = canonical(t, changed, "/1")
		require.NoError(t, err)
		other, err = canonical(t, same, "/1")
		require.NoError(t, err)
		require.Equal(t, one, other)
	}
}

// TestAnyOtherValueGivesAnotherForm: of each number and string in turn.
func TestAnyOtherValueGivesAnotherForm(t *testing.T) {
	const document = `{"id": 17, "name": "cup", "tags": ["a", "b", {"x": null}], "price": {"amount": 12.5, "currency": "NOK"}, "ok": true}`
	want, err := canonical(t, document)
	require.NoError(t, err)
	for _, change := range []string{
		"17>18", "17>\"17\"", "cup>cap", `"id">"ID"`, `"a">"b"`, "null>false", "null>0", "12.5>12.50000000000001", "NOK>EUR", "true>false",
		`"a", "b">"b", "a"`, `"a", "b">"a"`, `"ok": true>"ok": [true]`, `, "ok": true>`, `{"x": null}>{}`, `"tags"> "tag"`,
	} {
		from, to, _ := strings.Cut(change, ">")
		changed := strings.Replace(document, from, to, 1)
		require.NotEqual(t, document, changed, change)
		got, err := canonical(t, changed)
		require.NoError(t, err, change)
		require.NotEqual(t, want, got, change)
	}
}

// exactNumber reports whether the shortest text for the nearest number of
// double precision is the same decimal number, by arithmetic.
func exactNumber(text string) bool {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return false
	}
	want, ok := new(big.Rat).SetString(text)
	got, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'e', -1, 64))
	return ok && want.Cmp(got) == 0
}

// decoded is a document as encoding/json reads it, with numbers by value. It
// also tells whether all numbers are exact, how deep it is, and whether it is
// too expensive to tell.
func decoded(tb testing.TB, document string) (tree any, exact, tooLong bool) {
	decoder := json.NewDecoder(strings.NewReader(document))
	decoder.UseNumber()
	require.NoError(tb, decoder.Decode(&tree))
	exact = true
	var walk func(v any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			for name, member := range v {
				v[name] = walk(member)
			}
		case []any:
			for i, element := range v {
				v[i] = walk(element)
			}
		case json.Number:
			_, exponent, _ := strings.Cut(strings.ToLower(v.String()), "e")
			exponent = strings.TrimLeft(exponent, "+-0")
			tooLong = tooLong || len(exponent) > 3
			if len(exponent) > 4 {
				return v
			}
			exact = exact && exactNumber(v.String())
			number, _ := new(big.Rat).SetString(v.String())
			return number.RatString() + "n"
		}
		return v
	}
	return walk(tree), exact, tooLong
}

// FuzzCanonical compares with jsontext, which reads and writes the whole
// document, and with what encoding/json decodes.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{
		`{"b":1,"a":[1.0,2e0,"\u0041",null,true,{"z":0,"y":-0}]}`, `[]`, `{}`, `"\ud83d\ude00"`, `9007199254740993`, `1e400`,
		`{"é":1,"e":2,"\ufb33":3,"😀":4}`, `{"a":1,"a":2}`, ` [ 1 , 2 ] `, `[[[[]]]]`, `{"a":{"b":{"d":1,"c":2},"a":3}}`,
		`{"generated_at":"now","items":[{"at":1,"id":2}]}`, "[1]\n", `[0.1,0.10,1e-1,123456789012345.6]`, `{"":{"":""}}`,
		`{"x":1,"b":2,"0":3,"y":{"b":4,"0":5}}`, `[1,[2,3],{"0":4}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, document string) {
		got, err := canonical(t, document)
		reference := jsontext.Value(document)
		if referenceErr := reference.Canonicalize(); referenceErr != nil {
			require.Error(t, err, "jsontext says %v", referenceErr)
			return
		}
		if strings.Count(document, "[")+strings.Count(document, "{") > maxDepth {
			return
		}
		tree, exact, tooLong := decoded(t, document)
		if tooLong {
			return
		}
		require.NoError(t, err)
		if exact {
			require.Equal(t, string(reference), got)
		}
		again, _, _ := decoded(t, got)
		require.Equal(t, tree, again)
		twice, err := canonical(t, got)
		require.NoError(t, err)
		require.Equal(t, got, twice)

		// without a member is as if it had never been there
		ignoring, err := canonical(t, document, "/a", "/*/b", "/*/0")
		require.NoError(t, err)
		without, err := json.Marshal(remove(mustDecode(t, got), [][]string{{"a"}, {"*", "b"}, {"*", "0"}}))
		require.NoError(t, err)
		want, err := canonical(t, string(without))
		require.NoError(t, err)
		require.Equal(t, want, ignoring)
	})
}

func mustDecode(tb testing.TB, document string) (tree any) {
	decoder := json.NewDecoder(strings.NewReader(document))
	decoder.UseNumber()
	require.NoError(tb, decoder.Decode(&tree))
	return tree
}

// remove takes what pointers name out of a document.
func remove(tree any, pointers [][]string) any {
	below := func(token string) (removed bool, rest [][]string) {
		for _, p := range pointers {
			if p[0] == "*" || p[0] == token {
				if len(p) == 1 {
					return true, nil
				}
				rest = append(rest, p[1:])
			}
		}
		return false, rest
	}
	switch v := tree.(type) {
	case map[string]any:
		for name, member := range v {
			if removed, rest := below(name); removed {
				delete(v, name)
			} else {
				v[name] = remove(member, rest)
			}
		}
	case []any:
		kept := []any{}
		for i, element := range v {
			if removed, rest := below(strconv.Itoa(i)); !removed {
				kept = append(kept, remove(element, rest))
			}
		}
		return kept
	}
	return tree
}
