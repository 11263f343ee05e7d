package etag

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

// jsonDocument is a list of about this size, as an API would send it, with
// members in an order that is not the canonical one.
func jsonDocument(size int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"items": [`)
	for i := 0; b.Len() < size-200; i++ {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, `{"name": "Espresso cup %d", "id": %d, "price": %d.5, "tags": ["kitchen", "caf\u00e9", "a \"b\""], `+
			`"active": true, "stock": {"oslo": %d, "bergen": null}}`, i, i, i%100, i%7)
	}
	b.WriteString(`], "total": 17}`)
	return b.Bytes()
}

// hold returns a body in memory.
func hold(tb testing.TB, content []byte) *heldBody {
	body := &heldBody{budget: &budget{limit: 1 << 30}}
	tb.Cleanup(body.release)
	for len(content) > 0 {
		n := copy(body.room(), content)
		body.grow(n)
		content = content[n:]
	}
	return body
}

// BenchmarkNormalize measures what it takes to find the digits of a JSON body
// that is held: hashed as it is, canonically, and canonically when it has been
// seen before; and, to compare, jsontext.Compact of the same document.
// compacts is the time of all that, for a new body, to the time of Compact,
// measured in turn: it is to be 4.5 at the most.
func BenchmarkNormalize(b *testing.B) {
	n, err := newNormalizer(true, nil, nil)
	require.NoError(b, err)
	ignoring, err := newNormalizer(true, []string{"/items/*/stock/oslo", "/generated_at"}, nil)
	require.NoError(b, err)
	header := http.Header{"Content-Type": {"application/json"}}
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		document := jsonDocument(size)
		body := hold(b, document)
		compact := make([]byte, len(document))
		plain, normalizing := newHandler(b, Handler{}), newHandler(b, Handler{Strength: "weak", Canonicalize: "json"})
		digits := func(h *Handler) string {
			hash := bodyHash{handler: h}
			defer hash.release()
			for block := body.first; block != nil; block = block.next {
				if block.n == blockSize {
					hash.block(block, body.size, header)
				}
			}
			return hash.digits(body, header)
		}
		plain.memoMinimum = 0
		measured := []struct {
			name string
			f    func()
		}{
			{"compact", func() {
				copy(compact, document)
				v := jsontext.Value(compact)
				_ = v.Compact()
			}},
			{"plain", func() { digits(plain) }},
			{"canonical", func() { n.digits(body, formJSON, plain.algorithm, plain.Length) }},
			{"ignoring", func() { ignoring.digits(body, formJSON, plain.algorithm, plain.Length) }},
			{"repeated", func() { digits(normalizing) }},
		}
		for _, m := range measured {
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, m.name), func(b *testing.B) {
				b.SetBytes(int64(len(document)))
				b.ReportAllocs()
				for b.Loop() {
					m.f()
				}
			})
		}
		b.Run(fmt.Sprintf("%dKiB/ratio", size>>10), func(b *testing.B) {
			times := make([]time.Duration, len(measured))
			for b.Loop() {
				for i, m := range measured {
					start := time.Now()
					for range max(1, 16<<10/size) {
						m.f()
					}
					times[i] += time.Since(start)
				}
			}
			b.ReportMetric(float64(times[2])/float64(times[0]), "compacts")
			b.ReportMetric(float64(times[3])/float64(times[0]), "ignoring-compacts")
			b.ReportMetric(float64(times[4])/float64(times[1]), "repeated-to-plain")
			b.ReportMetric(0, "ns/op")
		})
	}
}
