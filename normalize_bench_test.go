package etag

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

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
		digits := func(h *Handler) {
			hash := bodyHash{digester: h.digester}
			defer hash.release()
			hash.choose(body.Size(), header, body.Head())
			for piece := range body.Pieces() {
				hash.write(piece)
			}
			_, err := hash.tag(b.Context(), time.Time{}, body, header, "")
			require.NoError(b, err)
		}
		plain.digester.memoMinimum = 0
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
			{"canonical", func() { n.normalize(body, formJSON, plain.digester.algorithm, plain.Length) }},
			{"ignoring", func() { ignoring.normalize(body, formJSON, plain.digester.algorithm, plain.Length) }},
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
