package etag

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// normalizer makes bodies that mean the same equal, for hashing only.
type normalizer struct {
	json     bool
	ignored  *pointerTree // members that are left out, nil if there are none
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
		if n.ignored, err = parsePointers(pointers); err != nil {
			return nil, err
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

var canonicalizers = sync.Pool{New: func() any { return new(canonicalizer) }}

// digits returns the digits for the tag of a body in this form. A body that
// is not what its Content-Type says, or is past a limit, is hashed as it is.
//
// No two bodies that differ in more than the options say have one tag. Where
// one is hashed as it is and the other canonically, the first is the canonical
// form of the other. What patterns left out is not the end of a hash that any
// body as it is has, see writePieces.
func (n *normalizer) digits(body *heldBody, as form, algorithm *algorithm, length int) string {
	if body.size > blockSize {
		normalizing <- struct{}{}
		defer func() { <-normalizing }()
	}
	hash := algorithm.get()
	defer algorithm.put(hash)
	c := canonicalizers.Get().(*canonicalizer)
	defer c.putBack()

	text, reader := body.contiguous()
	if as == formJSON && c.run(text, reader, body.size, n.ignored) == nil {
		if len(n.patterns) == 0 {
			c.writeTo(hash)
			return hash.digits(length)
		}
		text, reader = c.text(), nil
	}
	if len(n.patterns) > 0 && as != formBytes {
		if reader != nil {
			text, reader = c.join(body), nil
		}
		if matches := n.matches(text); len(matches) > 0 {
			writePieces(hash, text, matches)
			return hash.invertedDigits(length)
		}
	}
	if reader == nil {
		_, _ = hash.Write(text) // never fails
	} else {
		body.hash(hash)
	}
	return hash.digits(length)
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
		matches = mergeOverlaps(matches)
	}
	return matches
}

// mergeOverlaps makes one match of those that overlap.
func mergeOverlaps(matches [][]int) [][]int {
	joined := matches[:0]
	for _, m := range matches {
		if last := len(joined) - 1; last >= 0 && m[0] < joined[last][1] {
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

// pointerTree is a set of JSON Pointers (RFC 6901) by their reference tokens.
type pointerTree struct {
	children map[string]*pointerTree
	any      *pointerTree // for the token *
	ignored  bool         // a pointer ends here
}

// anyToken in a pointer stands for any one token.
const anyToken = "*"

// parsePointers returns the set of some pointers.
func parsePointers(pointers []string) (*pointerTree, error) {
	root := new(pointerTree)
	for _, pointer := range pointers {
		tokens, err := parsePointer(pointer)
		if err != nil {
			return nil, err
		}
		tree := root
		for _, token := range tokens {
			tree = tree.child(token)
		}
		tree.ignored = true
	}
	return root, nil
}

// child returns the subtree for a token, which it makes if need be.
func (t *pointerTree) child(token string) *pointerTree {
	if token == anyToken {
		if t.any == nil {
			t.any = new(pointerTree)
		}
		return t.any
	}
	if t.children == nil {
		t.children = make(map[string]*pointerTree)
	}
	if t.children[token] == nil {
		t.children[token] = new(pointerTree)
	}
	return t.children[token]
}

// parsePointer returns the reference tokens of a JSON Pointer (RFC 6901 §3).
// That of the whole document is none that could be ignored.
func parsePointer(pointer string) ([]string, error) {
	if !strings.HasPrefix(pointer, "/") {
		return nil, fmt.Errorf("invalid ignore_json %q: must be a JSON Pointer to a member, such as /generated_at or /items/*/views", pointer)
	}
	tokens := strings.Split(pointer[1:], "/")
	for i, token := range tokens {
		for j := strings.IndexByte(token, '~'); j >= 0; {
			if j+1 == len(token) || token[j+1] != '0' && token[j+1] != '1' {
				return nil, fmt.Errorf("invalid ignore_json %q: a ~ must be written as ~0 and a / in a name as ~1", pointer)
			}
			next := strings.IndexByte(token[j+1:], '~')
			if next < 0 {
				break
			}
			j += 1 + next
		}
		tokens[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
	}
	return tokens, nil
}
