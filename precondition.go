package etag

import (
	"iter"
	"net/http"
	"strings"
	"time"
)

// This file is the HTTP part of the module and knows nothing of Caddy: what
// an entity tag is (RFC 9110 §8.8.3), how the precondition fields are parsed
// (§13.1), and the order in which they are evaluated (§13.2.2).

// entityTag is a valid entity tag, as it stands in a field. The zero value is
// "no tag", which matches nothing.
type entityTag struct {
	field string
}

const weakPrefix = "W/"

func (t entityTag) exists() bool { return t.field != "" }

func (t entityTag) weak() bool { return strings.HasPrefix(t.field, weakPrefix) }

// opaque returns what stands between the quotes.
func (t entityTag) opaque() string {
	if !t.exists() {
		return ""
	}
	quoted := strings.TrimPrefix(t.field, weakPrefix)
	return quoted[1 : len(quoted)-1]
}

// weakMatch is the weak comparison of RFC 9110 §8.8.3.2.
func (t entityTag) weakMatch(o entityTag) bool {
	return t.exists() && o.exists() && t.opaque() == o.opaque()
}

// strongMatch is the strong comparison of RFC 9110 §8.8.3.2.
func (t entityTag) strongMatch(o entityTag) bool {
	return t.exists() && t.field == o.field && !t.weak()
}

// codingSuffixes are what an encoder in front of the handler adds to the
// opaque part of a strong tag when it compresses the response: the names of
// the codings that there are encoders for in Caddy.
var codingSuffixes = []string{"-gzip", "-zstd", "-br"}

// withoutCoding returns t without the suffix that an encoder added to it, or
// t itself if it has none.
func (t entityTag) withoutCoding() entityTag {
	for _, suffix := range codingSuffixes {
		if base, found := strings.CutSuffix(t.field, suffix+`"`); found {
			return entityTag{base + `"`}
		}
	}
	return t
}

// isETagc reports whether c may stand between the quotes of an entity tag:
// etagc of RFC 9110 §8.8.3.
func isETagc(c byte) bool {
	return c == 0x21 || c >= 0x23 && c != 0x7f
}

// scanEntityTag returns the entity tag at the start of s, and the rest of s.
// If there is none, tag does not exist and rest is s.
func scanEntityTag(s string) (tag entityTag, rest string) {
	i := 0
	if strings.HasPrefix(s, weakPrefix) {
		i = len(weakPrefix)
	}
	if i >= len(s) || s[i] != '"' {
		return entityTag{}, s
	}
	for i++; i < len(s) && isETagc(s[i]); i++ {
	}
	if i >= len(s) || s[i] != '"' {
		return entityTag{}, s
	}
	return entityTag{s[:i+1]}, s[i+1:]
}

// parseEntityTag returns s as an entity tag; it does not exist if s, but for
// white space around it, is anything else.
func parseEntityTag(s string) entityTag {
	tag, rest := scanEntityTag(trimOWS(s))
	if rest != "" {
		return entityTag{}
	}
	return tag
}

// responseTag returns the ETag of a response. A field of several lines, or
// one that is not an entity tag, is as good as none.
func responseTag(header http.Header) entityTag {
	lines := header["Etag"]
	if len(lines) != 1 {
		return entityTag{}
	}
	return parseEntityTag(lines[0])
}

func trimOWS(s string) string { return strings.Trim(s, " \t") }

// tagField is the value of an If-Match or If-None-Match field: its lines,
// nil where the request has none.
type tagField []string

func (f tagField) present() bool { return f != nil }

// empty reports whether the field has nothing in it.
func (f tagField) empty() bool {
	for _, line := range f {
		if trimOWS(line) != "" {
			return false
		}
	}
	return true
}

// any reports whether the field is "*", which by the grammar stands alone.
func (f tagField) any() bool {
	return len(f) == 1 && trimOWS(f[0]) == "*"
}

// members iterates over the members of the list, in the order of the field
// lines. Empty members are skipped (RFC 9110 §5.6.1.2). A malformed member is
// yielded as a tag that does not exist, and the list goes on after the next
// comma. Every byte is looked at twice at the most.
func (f tagField) members() iter.Seq[entityTag] {
	return func(yield func(entityTag) bool) {
		for _, line := range f {
			for {
				line = strings.TrimLeft(line, " \t,")
				if line == "" {
					break
				}
				tag, rest := scanEntityTag(line)
				rest = strings.TrimLeft(rest, " \t")
				if rest != "" && rest[0] != ',' {
					// no tag, or one with something behind it
					tag = entityTag{}
					if comma := strings.IndexByte(rest, ','); comma >= 0 {
						rest = rest[comma:]
					} else {
						rest = ""
					}
				}
				if !yield(tag) {
					return
				}
				line = rest
			}
		}
	}
}

// conditions are the preconditions of a request, but for If-Range.
type conditions struct {
	ifMatch           tagField
	ifNoneMatch       tagField
	ifUnmodifiedSince time.Time // zero: absent or ignored
	ifModifiedSince   time.Time // zero: absent or ignored
}

// parseConditions reads the preconditions of a request, whose header has
// canonical names.
func parseConditions(header http.Header) conditions {
	return conditions{
		ifMatch:           header["If-Match"],
		ifNoneMatch:       header["If-None-Match"],
		ifUnmodifiedSince: parseDate(header["If-Unmodified-Since"]),
		ifModifiedSince:   parseDate(header["If-Modified-Since"]),
	}
}

// parseDate returns the HTTP-date that a field holds, or the zero time if it
// holds anything else: a recipient ignores such a condition (RFC 9110
// §13.1.3, §13.1.4).
func parseDate(lines []string) time.Time {
	if len(lines) != 1 {
		return time.Time{}
	}
	date, err := http.ParseTime(trimOWS(lines[0]))
	if err != nil {
		return time.Time{}
	}
	if date.IsZero() {
		// some clients send the first date that they can express
		return date.Add(1)
	}
	return date
}

// representation is what preconditions are compared with: the validators of
// the response that the request would have without them.
type representation struct {
	tag          entityTag
	ours         bool // the tag is this module's, so an encoder's suffix may have been added to it
	lastModified time.Time
}

// names reports whether a client that sends tag means the representation, in
// the comparison that match does.
func (rep representation) names(tag entityTag, match func(a, b entityTag) bool) bool {
	return match(rep.tag, tag) || rep.ours && match(rep.tag, tag.withoutCoding())
}

// verdict is what the preconditions of a request come to.
type verdict int

const (
	proceed     verdict = iota // all hold: do what the request asks for
	notModified                // 304 (Not Modified)
	failed                     // 412 (Precondition Failed)
)

// evaluateRead evaluates the preconditions of a GET or HEAD request whose
// response would be a 2xx, in the order of RFC 9110 §13.2.2. An empty field
// counts as absent.
func (c conditions) evaluateRead(rep representation) verdict {
	switch {
	case !c.ifMatch.empty():
		if !c.ifMatch.any() && !rep.listed(c.ifMatch, entityTag.strongMatch) {
			return failed
		}
	case c.modifiedAfter(rep):
		return failed
	}
	switch {
	case !c.ifNoneMatch.empty():
		if c.ifNoneMatch.any() || rep.listed(c.ifNoneMatch, entityTag.weakMatch) {
			return notModified
		}
	case !c.ifModifiedSince.IsZero() && !rep.lastModified.IsZero() && !rep.lastModified.After(c.ifModifiedSince):
		return notModified
	}
	return proceed
}

// modifiedAfter reports whether If-Unmodified-Since is there and false. It is
// ignored where the modification date is not known (RFC 9110 §13.1.4).
func (c conditions) modifiedAfter(rep representation) bool {
	return !c.ifUnmodifiedSince.IsZero() && !rep.lastModified.IsZero() && rep.lastModified.After(c.ifUnmodifiedSince)
}

// listed reports whether a member of the field names the representation.
func (rep representation) listed(field tagField, match func(a, b entityTag) bool) bool {
	for tag := range field.members() {
		if rep.names(tag, match) {
			return true
		}
	}
	return false
}

// How If-Match on a write compares weak tags.
const (
	weakAuto   = "auto"   // opaque tags are compared where the current tag is itself weak
	weakReject = "reject" // RFC 9110's letter: a weak tag never matches
	weakAccept = "accept" // opaque tags are always compared
)

// guarded reports whether a write with this header carries a precondition. A
// field that is empty or malformed counts: the client did mean to be careful.
func guarded(header http.Header) bool {
	for _, name := range []string{"If-Match", "If-None-Match", "If-Unmodified-Since"} {
		if _, present := header[name]; present {
			return true
		}
	}
	return false
}

// createOnly reports whether the write is to go through only if the resource
// does not exist.
func (c conditions) createOnly() bool {
	return c.ifNoneMatch.any() && !c.ifMatch.present()
}

// evaluateWrite evaluates the preconditions of a write to a resource that
// exists, in the order of RFC 9110 §13.2.2. Unlike a read's, an If-Match that
// is empty or malformed is false, and so is an If-None-Match that is empty or
// has a malformed member: a client whose tag was undefined must not write,
// and what a field forbids must be known.
func (c conditions) evaluateWrite(rep representation, weak string) verdict {
	switch {
	case c.ifMatch.present():
		match := entityTag.strongMatch
		if weak == weakAccept || weak == weakAuto && rep.tag.weak() {
			// No client could ever hold a strong tag of a representation
			// whose tag is weak.
			match = entityTag.weakMatch
		}
		if !c.ifMatch.any() && !rep.listed(c.ifMatch, match) {
			return failed
		}
	case c.modifiedAfter(rep):
		return failed
	}

	if c.ifNoneMatch.present() {
		if c.ifNoneMatch.empty() || c.ifNoneMatch.any() {
			return failed
		}
		for tag := range c.ifNoneMatch.members() {
			if !tag.exists() || rep.names(tag, entityTag.weakMatch) {
				return failed
			}
		}
	}
	return proceed
}
