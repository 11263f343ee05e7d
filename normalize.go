package etag

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyetag/caddy-etag/internal/held"
	"github.com/caddyetag/caddy-etag/internal/jcs"
)

// normalizer makes bodies that mean the same equal, for hashing only.
type normalizer struct {
	json     bool
	ignored  *jcs.Pointers // members that are left out, nil if there are none
	patterns []*regexp.Regexp
}

// newNormalizer returns the normalizer with these options, or nil if it would
// do nothing.
func newNormalizer(json bool, pointers, patterns []string) (*normalizer, error) {
	if !json && len(pointers) == 0 && len(patterns) == 0 {
		return nil, nil
	}
	n := &normalizer{json: json || len(pointers) > 0}
	if len(pointers) > 0 {
		var err error
		if n.ignored, err = jcs.ParsePointers(pointers); err != nil {
			return nil, fmt.Errorf("invalid ignore_json %w", err)
		}
	}
	for _, pattern := range patterns {
		compiled, err := regexp.Compile(pattern)
		if err != nil {
			return nil, fmt.Errorf("invalid ignore_pattern %q: must be an RE2 expression: %w", pattern, err)
		}
		if compiled.MatchString("") {
			return nil, fmt.Errorf("invalid ignore_pattern %q: must not match an empty text", pattern)
		}
		n.patterns = append(n.patterns, compiled)
	}
	return n, nil
}

// leavesOut reports whether parts of bodies may be left out.
func (n *normalizer) leavesOut() bool {
	return n != nil && (n.ignored != nil || len(n.patterns) > 0)
}

// form is how a body is looked at to be hashed.
type form byte

const (
	formBytes form = iota // as it is
	formText              // without what the patterns match
	formJSON              // canonically, and then as text
)

// formOf returns the form of a body with this header and these first bytes.
func (n *normalizer) formOf(header http.Header, head []byte) form {
	if n == nil || len(header["Content-Encoding"]) > 0 {
		return formBytes
	}
	contentType := header.Get("Content-Type")
	if contentType == "" {
		contentType = http.DetectContentType(head) // which is what the client will get
	}
	mediaType := mediaTypeOf(contentType)
	switch {
	case n.json && isJSON(mediaType):
		return formJSON
	case len(n.patterns) > 0 && isText(mediaType):
		return formText
	}
	return formBytes
}

// mayNormalize reports whether a body with this header may have another form than
// its bytes.
func (n *normalizer) mayNormalize(header http.Header) bool {
	if n != nil && header.Get("Content-Type") == "" {
		return len(header["Content-Encoding"]) == 0
	}
	return n.formOf(header, nil) != formBytes
}

func isJSON(mediaType string) bool {
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

func isText(mediaType string) bool {
	switch mediaType {
	case "application/xml", "application/javascript":
		return true
	}
	return strings.HasPrefix(mediaType, "text/") || strings.HasSuffix(mediaType, "+xml") || isJSON(mediaType)
}

// normalizing lets as many large bodies be normalized at a time as there are
// processors: more would only take more memory.
var normalizing = make(chan struct{}, runtime.GOMAXPROCS(0))

// errTooSlow means that a body has not had its turn to be normalized in time.
var errTooSlow = errors.New("no processor was free in time to normalize the body")

// takeTurn waits until a large body may be normalized, for as long as ctx, and
// until a time if there is one. The turn goes back with endTurn.
func takeTurn(ctx context.Context, until time.Time) error {
	select {
	case normalizing <- struct{}{}:
		return nil
	default:
	}
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	select {
	case normalizing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errTooSlow
	}
}

func endTurn() { <-normalizing }

// digits returns the digits for the tag of a body in this form. A body that
// is not what its Content-Type says, or is past a limit, is hashed as it is.
// The only error is that of takeTurn.
//
// No two bodies that differ in more than the options say have one tag. Where
// one is hashed as it is and the other canonically, the first is the canonical
// form of the other. What patterns left out is not the end of a hash that any
// body as it is has, see writePieces.
func (n *normalizer) digits(ctx context.Context, until time.Time, body *held.Body, as form, algorithm *algorithm, length int) (string, error) {
	if body.Size() > held.BlockSize {
		if err := takeTurn(ctx, until); err != nil {
			return "", err
		}
		defer endTurn()
	}
	return n.normalize(body, as, algorithm, length), nil
}

func (n *normalizer) normalize(body *held.Body, as form, algorithm *algorithm, length int) string {
	hash := algorithm.get()
	defer algorithm.put(hash)
	if as == formJSON {
		c := jcs.NewCanonicalizer()
		defer c.Release()
		if canonicalize(c, body, n.ignored) == nil {
			if len(n.patterns) == 0 {
				_, _ = c.WriteTo(hash) // never fails
				return hash.digits(length)
			}
			return n.digitsOfText(c.Bytes(), hash, length)
		}
	}
	if len(n.patterns) == 0 || as == formBytes {
		hash.writeBody(body)
		return hash.digits(length)
	}
	text, ok := body.Contiguous()
	if !ok {
		joined := joinPool.Get().(*bytes.Buffer)
		defer putJoined(joined)
		joined.Reset()
		joined.Grow(int(body.Size()))
		for piece := range body.Pieces() {
			joined.Write(piece)
		}
		text = joined.Bytes()
	}
	return n.digitsOfText(text, hash, length)
}

func canonicalize(c *jcs.Canonicalizer, body *held.Body, ignored *jcs.Pointers) error {
	if text, ok := body.Contiguous(); ok {
		return c.Canonicalize(text, ignored)
	}
	return c.CanonicalizeFrom(body.NewReader(), body.Size(), ignored)
}

// digitsOfText returns the digits without what the patterns match.
func (n *normalizer) digitsOfText(text []byte, hash *hasher, length int) string {
	if matches := n.matches(text); len(matches) > 0 {
		writePieces(hash, text, matches)
		return hash.invertedDigits(length)
	}
	_, _ = hash.Write(text) // never fails
	return hash.digits(length)
}

// joinPool has buffers for bodies of which patterns need the whole in one piece.
var joinPool = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// putJoined puts a buffer back, unless it is large.
func putJoined(joined *bytes.Buffer) {
	if joined.Cap() <= 1<<20 {
		joinPool.Put(joined)
	}
}

// maxMatches is how many matches a body may have. One with more is hashed as
// it is, since to list them would take several times its size.
const maxMatches = 1 << 16

// matches returns what all patterns match in a text, each match as its begin
// and end, in order and apart.
func (n *normalizer) matches(text []byte) [][]int {
	var matches [][]int
	for _, pattern := range n.patterns {
		matches = append(matches, pattern.FindAllIndex(text, maxMatches+1)...)
		if len(matches) > maxMatches {
			return nil
		}
	}
	matches = slices.DeleteFunc(matches, func(m []int) bool { return m[0] == m[1] })
	if len(n.patterns) > 1 {
		slices.SortFunc(matches, func(a, b []int) int { return cmp.Compare(a[0], b[0]) })
	}
	return join(matches)
}

// join makes one match of those that overlap or touch: how many there are is
// left out, too, as in a number that a pattern matches digit by digit.
func join(matches [][]int) [][]int {
	joined := matches[:0]
	for _, m := range matches {
		if last := len(joined) - 1; last >= 0 && m[0] <= joined[last][1] {
			joined[last][1] = max(joined[last][1], m[1])
		} else {
			joined = append(joined, m)
		}
	}
	return joined
}

// writePieces hashes what is left of a text without its matches: each piece
// behind its length, so that "a" and "b" with something between them that was
// left out are not "ab". For the digits of such a hash all its bits are
// inverted, since a body that is hashed as it is may well look like this.
func writePieces(hash *hasher, text []byte, matches [][]int) {
	write := func(piece []byte) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(piece)))
		_, _ = hash.Write(length[:])
		_, _ = hash.Write(piece)
	}
	end := 0
	for _, m := range matches {
		write(text[end:m[0]])
		end = m[1]
	}
	write(text[end:])
}
