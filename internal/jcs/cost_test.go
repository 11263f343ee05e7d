package jcs

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// many returns texts for i from 0 on, with commas between them, of about so
// many bytes.
func many(size int, text func(i int) string) string {
	var b strings.Builder
	for i := 0; b.Len() < size-64; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(text(i))
	}
	return b.String()
}

func repeat(size int, text string) string { return many(size, func(int) string { return text }) }

// scattered returns i as a number of 32 bits, in another order.
func scattered(i int) uint32 { return uint32(i) * 2654435761 }

// inEachOther returns objects that stand inside each other, out of order, around
// a core.
func inEachOther(depth int, core string) string {
	return strings.Repeat(`{"b":1,"a":`, depth) + core + strings.Repeat("}", depth)
}

// hostile are documents of a size that could cost more than linear time.
var hostile = []struct {
	name     string
	document func(size int) string
}{
	{"small numbers", func(size int) string { return "[" + repeat(size, "1") + "]" }},
	{"numbers with other forms", func(size int) string { return "[" + repeat(size, "1.0,12e-3,1e20,9007199254740993.5,1e400") + "]" }},
	{"a number", func(size int) string { return strings.Repeat("1", size) }},
	{"a number of zeros", func(size int) string { return "0." + strings.Repeat("0", size) + "1" }},
	{"a number with a long exponent", func(size int) string { return "10e" + strings.Repeat("9", size) }},
	{"a number with a long negative exponent", func(size int) string { return "0.1e-1" + strings.Repeat("0", size) }},
	{"a number with a long exponent of zeros", func(size int) string { return "1e" + strings.Repeat("0", size) + "1" }},
	{"long numbers", func(size int) string {
		return "[" + repeat(size, strings.Repeat("12345.67890", 1)+strings.Repeat("1", 300)+"e-5") + "]"
	}},
	{"a string", func(size int) string { return `"` + strings.Repeat("a", size) + `"` }},
	{"a string of escapes", func(size int) string { return `"` + strings.Repeat(`\n\u0041`, size/8) + `"` }},
	{"a string of characters beyond ASCII", func(size int) string { return `"` + strings.Repeat("€é😀", size/9) + `"` }},
	{"strings of escapes", func(size int) string { return "[" + repeat(size, `"\u0041\n"`) + "]" }},
	{"white space", func(size int) string { return "[" + strings.Repeat(" \n", size/2) + "]" }},
	{"a name", func(size int) string { return `{"b":1,"a` + strings.Repeat(`\n`, size/2) + `":2}` }},
	{"two names that differ at their end", func(size int) string {
		return `{"` + strings.Repeat(`\u00e9`, size/12) + `b":1,"` + strings.Repeat(`\u00e9`, size/12) + `a":2}`
	}},
	{"names of 30 escapes", func(size int) string {
		return "{" + many(size, func(i int) string { return fmt.Sprintf(`"%s%08x":0`, strings.Repeat(`\n`, 30), scattered(i)) }) + "}"
	}},
	{"names of 300 escapes", func(size int) string {
		return "{" + many(size, func(i int) string { return fmt.Sprintf(`"%s%08x":0`, strings.Repeat(`\u0001`, 300), scattered(i)) }) + "}"
	}},
	{"names of other lengths", func(size int) string {
		return "{" + many(size, func(i int) string { return `"` + strings.Repeat("a", int(scattered(i)>>23)) + fmt.Sprintf(`b%x":0`, i) }) + "}"
	}},
	{"each name is the begin of the next", func(size int) string {
		longest := 1
		for longest*longest/2 < size {
			longest++
		}
		return "{" + many(size, func(i int) string {
			return `"` + strings.Repeat("a", max(longest-i, 0)) + strings.Repeat("b", max(i-longest, 0)) + `":0`
		}) + "}"
	}},
	{"small members", func(size int) string {
		return "{" + many(size, func(i int) string { return fmt.Sprintf(`"%x":0`, i) }) + "}"
	}},
	{"members in order", func(size int) string {
		return "{" + many(size, func(i int) string { return fmt.Sprintf(`"%011d":"abcdef"`, i) }) + "}"
	}},
	{"members in no order", func(size int) string {
		return "{" + many(size, func(i int) string { return fmt.Sprintf(`"%011d":"abcdef"`, scattered(i)) }) + "}"
	}},
	{"members in the opposite order", func(size int) string {
		return "{" + many(size, func(i int) string { return fmt.Sprintf(`"%011d":"abcdef"`, 99999999999-i) }) + "}"
	}},
	{"small objects", func(size int) string { return "[" + repeat(size, `{"b":1,"a":1}`) + "]" }},
	{"small objects in a large one", func(size int) string { return `{"b":0,"a":{"b":0,"a":[` + repeat(size, `{"b":1,"a":1}`) + "]}}" }},
	{"objects of 40 members", func(size int) string {
		object := "{" + many(500, func(i int) string { return fmt.Sprintf(`"n%d":%d`, 40-i, i) }) + "}"
		return "[" + repeat(size, object) + "]"
	}},
	{"objects in each other", func(size int) string { return "[" + repeat(size, inEachOther(100, "0")) + "]" }},
	{"objects in each other as deep as may be", func(size int) string { return "[" + repeat(size, inEachOther(maxDepth-1, "0")) + "]" }},
	{"large members in objects in each other", func(size int) string {
		return "[" + repeat(size, strings.Repeat(`{"b":1,"c":"`+strings.Repeat("c", 900)+`","a":`, 1000)+"0"+strings.Repeat("}", 1000)) + "]"
	}},
	{"a large array in objects in each other", func(size int) string { return inEachOther(1000, "["+repeat(size, `"text"`)+"]") }},
	{"names with escapes", func(size int) string { return "[" + repeat(size, `{"\u00e9":1,"\u00e8":2}`) + "]" }},
}

// TestWorkIsLinear counts the bytes that are looked at or moved again, once
// each has been read: they are at most a few for each byte of the document, and
// as many in a large document as in a small one.
func TestWorkIsLinear(t *testing.T) {
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			perByte := func(size int) float64 {
				document := []byte(h.document(size))
				c := new(Canonicalizer)
				require.NoError(t, canonicalizeHeld(c, document))
				_, err := c.WriteTo(new(counter))
				require.NoError(t, err)
				return float64(c.work) / float64(len(document))
			}
			of := map[int]float64{}
			for _, mebibytes := range []int{1, 2, 4, 8} {
				of[mebibytes] = perByte(mebibytes * mebibyte)
				require.LessOrEqual(t, of[mebibytes], 1.25*of[1]+0.5)
			}
			t.Logf("%.2f bytes for each at 1 MiB, %.2f at 8 MiB", of[1], of[8])
			require.LessOrEqual(t, of[8], 100.0)
		})
	}
}

// counter counts what is written.
type counter struct{ written int }

func (c *counter) Write(p []byte) (int, error) {
	c.written += len(p)
	return len(p), nil
}

// TestMemoryIsThatOfTheDocument: out, and what the members of large objects
// are noted in. The keys to sort by come on top, whose number has a limit.
func TestMemoryIsThatOfTheDocument(t *testing.T) {
	const size = 4 * mebibyte
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			c, document := new(Canonicalizer), []byte(h.document(size))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			require.NoError(t, canonicalizeHeld(c, document))
			_, err := c.WriteTo(new(counter))
			require.NoError(t, err)
			runtime.ReadMemStats(&after)
			taken := float64(after.TotalAlloc-before.TotalAlloc) / float64(len(document)) // which is more than it ever was at a time
			kept := float64(cap(c.out)+cap(c.scratch)+8*cap(c.members)+8*cap(c.program.steps)+12*cap(c.program.cuts)) / float64(len(document))
			t.Logf("%.2f times its size in all, %.2f at the end", taken, kept)
			limit := 2.5
			if strings.HasSuffix(h.name, "as deep as may be") {
				limit = 5
			}
			require.LessOrEqual(t, kept, limit)
			require.LessOrEqual(t, cap(c.keys), largeGroup+largeGroup/4)
		})
	}
}

// TestWhatIsTooDeepIsRefused, and nothing else that is valid.
func TestWhatIsTooDeepIsRefused(t *testing.T) {
	for _, braces := range [][2]string{{"[", "]"}, {`{"":`, "}"}} {
		nested := func(depth int) []byte {
			return []byte(strings.Repeat(braces[0], depth-1) + "[]" + strings.Repeat(braces[1], depth-1))
		}
		c := new(Canonicalizer)
		require.NoError(t, c.Canonicalize(nested(maxDepth), nil))
		require.ErrorIs(t, c.Canonicalize(nested(maxDepth+1), nil), errTooLarge)
		require.Error(t, c.Canonicalize(nested(maxDepth)[:maxDepth], nil), "it ends too early")
	}
	require.ErrorIs(t, new(Canonicalizer).CanonicalizeFrom(strings.NewReader("1"), maxSize, nil), errTooLarge)
}

// canonicalizeHeld takes a document as bodies come: a small one in one piece,
// and a large one from a reader.
func canonicalizeHeld(c *Canonicalizer, document []byte) error {
	if len(document) <= 32<<10 {
		return c.Canonicalize(document, nil)
	}
	return c.CanonicalizeFrom(bytes.NewReader(document), int64(len(document)), nil)
}

// TestPoolKeepsNoGiants, nor what belongs to a document.
func TestPoolKeepsNoGiants(t *testing.T) {
	c := new(Canonicalizer)
	for _, document := range []string{
		`{"b":{"z":"` + strings.Repeat("x", 500_000) + `","y":"` + strings.Repeat("x", 800_000) + `"},"a":1}`,
		"{" + many(3<<20, func(i int) string { return fmt.Sprintf(`"%020d":0`, scattered(i)) }) + "}",
		"[" + repeat(3<<20, "1e20") + "]",
	} {
		require.NoError(t, canonicalizeHeld(c, []byte(document)))
		require.NotEmpty(t, c.Bytes())
		c.Release()
		for name, kept := range map[string]int{
			"out": cap(c.out), "scratch": cap(c.scratch), "members": 8 * cap(c.members), "steps": 8 * cap(c.program.steps),
			"keys": 8 * cap(c.keys), "cuts": 12 * cap(c.program.cuts), "calls": 4 * cap(c.program.calls), "groups": 12 * cap(c.groups), "open": 32 * cap(c.open),
		} {
			require.LessOrEqual(t, kept, 1<<20, name)
		}
		require.Nil(t, c.reader)
		require.Nil(t, c.buf)
	}
}

// BenchmarkHostile measures the time of documents that could take more than
// linear time, for each byte of them.
func BenchmarkHostile(b *testing.B) {
	for _, h := range hostile {
		for _, size := range []int{1 << 20, 2 << 20, 4 << 20, 8 << 20} {
			b.Run(fmt.Sprintf("%s/%dMiB", h.name, size>>20), func(b *testing.B) {
				document := []byte(h.document(size))
				b.SetBytes(int64(len(document)))
				for b.Loop() {
					c := NewCanonicalizer()
					require.NoError(b, canonicalizeHeld(c, document))
					_, err := c.WriteTo(new(counter))
					require.NoError(b, err)
					c.Release()
				}
			})
		}
	}
}
