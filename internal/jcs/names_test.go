package jcs

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

func utf16Of(s string) []uint16 { return utf16.Encode([]rune(s)) }

// FuzzCompareNames compares with what RFC 8785 §3.2.3 says, in so many words.
func FuzzCompareNames(f *testing.F) {
	f.Add("a", "b")
	f.Add("\ufb33", "\U0001F600")
	f.Add("\U0001F600", "\U0001F601")
	f.Add("\U0010ffff", "\U0001F601")
	f.Add("\ue000", "\uffff")
	f.Add("\ud7ff", "\U0001F601")
	f.Add("a\n", "a\u0080")
	f.Add("", "\"")
	f.Add("\x01\x02", "\x01\x1f")
	f.Add("\x0f", "\x10")
	f.Add("\\n", "\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		if !utf8.ValidString(a) || !utf8.ValidString(b) {
			return
		}
		quotedA, err := jsontext.AppendQuote(nil, a)
		require.NoError(t, err)
		quotedB, err := jsontext.AppendQuote(nil, b)
		require.NoError(t, err)
		c := &Canonicalizer{out: slices.Concat(quotedA, []byte(":1,"), quotedB, []byte(":1}"))}
		want := slices.Compare(utf16Of(a), utf16Of(b))
		require.Equal(t, want, c.compareNames(0, offset(len(quotedA)+3), 1))
		require.Equal(t, -want, c.compareNames(offset(len(quotedA)+3), 0, 1))
		require.Equal(t, math.MaxInt, max(math.MaxInt, c.commonPrefix(0, 0, 1, math.MaxInt)))
	})
}

// TestMembersAreInOrder, of objects with few and with many, in names that have
// much in common.
func TestMembersAreInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	letters := []rune("ab\"\\\n\x00\x01\x1f\x7fé€\ud7ff\ue000\ufb33😀😁\U0010ffff")
	random := func(n int) string {
		text := make([]rune, r.IntN(n+1))
		for i := range text {
			text[i] = letters[r.IntN(len(letters))]
		}
		return string(text)
	}
	for _, n := range []int{2, 10, smallGroup, smallGroup + 1, 100, 1000} {
		for _, prefix := range []string{"", "x", "\n\n", strings.Repeat("€\x1f", 50), strings.Repeat(`"`, 50), "a" + strings.Repeat(`"`, 50), strings.Repeat("\\", 31)} {
			for _, length := range []int{2, 4, 20} {
				names := make(map[string]bool)
				without := r.IntN(2) // of the prefix, in some names or in none
				for range n {
					names[prefix[:len(prefix)*(1-without*r.IntN(2))]+random(length)] = true
				}
				var members []string
				for name := range names { // in random order
					quoted, err := jsontext.AppendQuote(nil, name)
					require.NoError(t, err)
					members = append(members, string(quoted)+":1")
				}
				got, err := canonical(t, "{"+strings.Join(members, ",")+"}")
				require.NoError(t, err)

				sorted := slices.Collect(func(yield func(string) bool) {
					for name := range names {
						if !yield(name) {
							return
						}
					}
				})
				slices.SortFunc(sorted, func(a, b string) int { return slices.Compare(utf16Of(a), utf16Of(b)) })
				for i, name := range sorted {
					quoted, _ := jsontext.AppendQuote(nil, name)
					sorted[i] = string(quoted) + ":1"
				}
				require.Equal(t, "{"+strings.Join(sorted, ",")+"}", got)

				twice := append(slices.Clone(members), members[r.IntN(len(members))])
				r.Shuffle(len(twice), func(i, j int) { twice[i], twice[j] = twice[j], twice[i] })
				_, err = canonical(t, "{"+strings.Join(twice, ",")+"}")
				require.ErrorIs(t, err, errDuplicate)
			}
		}
	}
}

// TestLargeObjectsAreInOrder where they stand inside each other, so that some of
// them are moved and some are read by a program.
func TestLargeObjectsAreInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var build func(depth int) (shuffled, sorted string)
	build = func(depth int) (string, string) {
		if depth == 0 {
			text := `"` + strings.Repeat(string("xyz"[r.IntN(3)]), []int{1, 10, 3000, 70_000}[r.IntN(4)]) + `"`
			return text, text
		}
		type pair struct{ name, shuffled, sorted string }
		pairs := make([]pair, 1+r.IntN(5))
		for i := range pairs {
			a, b := build(depth - 1 - r.IntN(depth))
			pairs[i] = pair{fmt.Sprintf(`"%d%d":`, r.IntN(10), i), a, b}
		}
		slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(a.name, b.name) })
		var sorted, shuffled []string
		for _, p := range pairs {
			sorted = append(sorted, p.name+p.sorted)
		}
		if r.IntN(4) > 0 {
			r.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
		}
		for _, p := range pairs {
			shuffled = append(shuffled, p.name+p.shuffled)
		}
		if r.IntN(3) == 0 {
			return "[1," + "{" + strings.Join(shuffled, ",") + "}, 2]", "[1," + "{" + strings.Join(sorted, ",") + "},2]"
		}
		return "{" + strings.Join(shuffled, ",") + "}", "{" + strings.Join(sorted, ",") + "}"
	}
	programs := 0
	for range 80 {
		shuffled, sorted := build(1 + r.IntN(7))
		got, err := canonical(t, shuffled)
		require.NoError(t, err)
		require.Equal(t, sorted, got, "%.200s... became %.200s...", shuffled, got)
		c := new(Canonicalizer)
		require.NoError(t, c.Canonicalize([]byte(shuffled), nil))
		if c.isPlain() {
			continue
		}
		programs++

		// and so are those of which something is ignored
		var pointers []string
		var tokens [][]string
		for range 10 {
			path := []string{[]string{"*", strconv.Itoa(r.IntN(100))}[r.IntN(2)], fmt.Sprint(r.IntN(10), "", r.IntN(5))}[r.IntN(2):]
			pointers, tokens = append(pointers, "/"+strings.Join(path, "/")), append(tokens, path)
		}
		without, err := json.Marshal(remove(mustDecode(t, shuffled), tokens))
		require.NoError(t, err)
		want, err := canonical(t, string(without))
		require.NoError(t, err)
		got, err = canonical(t, shuffled, pointers...)
		require.NoError(t, err)
		require.Equal(t, want, got, "%.200s... became %.200s... without %v", shuffled, got, pointers)
	}
	require.Greater(t, programs, 20)
}
