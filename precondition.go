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

// codings is a set of content codings, as bits in the order of codingSuffixes.
type codings uint8

const (
	codingGzip codings = 1 << iota
	codingZstd
	codingBr

	caddyCodings = codingGzip | codingZstd // which Caddy itself has encoders for
	allCodings   = caddyCodings | codingBr
)

// codingSuffixes are what an encoder in front of the handler adds to the
// opaque part of a strong tag when it compresses the response, with the quote
// behind it.
var codingSuffixes = [...]string{`-gzip"`, `-zstd"`, `-br"`}

// maxSuffix is the length of the longest of them, without the quote.
const maxSuffix = len("-gzip")

// acceptedCodings returns the codings that a request accepts.
func acceptedCodings(header http.Header) (accepted codings) {
	var named, others codings // others: by "*", which is for what is not named
	for _, line := range header["Accept-Encoding"] {
		for member := range strings.SplitSeq(line, ",") {
			name, weight, _ := strings.Cut(member, ";")
			coding := codingNamed(trimOWS(name))
			named |= coding
			switch {
			case noWeight(weight):
			case trimOWS(name) == "*":
				others = allCodings
			default:
				accepted |= coding
			}
		}
	}
	return accepted | others&^named
}

func codingNamed(name string) codings {
	switch {
	case strings.EqualFold(name, "gzip"), strings.EqualFold(name, "x-gzip"):
		return codingGzip
	case strings.EqualFold(name, "zstd"):
		return codingZstd
	case strings.EqualFold(name, "br"):
		return codingBr
	}
	return 0
}

// noWeight reports whether a weight is q=0, which means "not acceptable" (RFC
// 9110 §12.4.2).
func noWeight(weight string) bool {
	weight, found := strings.CutPrefix(strings.ToLower(trimOWS(weight)), "q=")
	return found && strings.Trim(weight, "0.") == ""
}

// withoutCoding returns t without the suffix of one of some codings, or t
// itself if it has none.
func (t entityTag) withoutCoding(of codings) entityTag {
	for i, suffix := range codingSuffixes {
		if of&(1<<i) != 0 && strings.HasSuffix(t.field, suffix) {
			return entityTag{t.field[:len(t.field)-len(suffix)] + `"`}
		}
	}
	return t
}

// skip returns s without the white space at its start, and without commas
// there if they are to go too.
func skip(s string, commas bool) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t' || commas && s[0] == ',') {
		s = s[1:]
	}
	return s
}

// isETagc reports whether c may stand between the quotes of an entity tag:
// etagc of RFC 9110 §8.8.3.
func isETagc(c byte) bool {
	return c == 0x21 || c >= 0x23 && c != 0x7f
}

// etagc is isETagc, in a table for long lists.
var etagc = func() (is [256]bool) {
	for c := range is {
		is[c] = isETagc(byte(c))
	}
	return is
}()

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
	for i++; i < len(s) && etagc[s[i]]; i++ {
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
				line = skip(line, true)
				if line == "" {
					break
				}
				tag, rest := scanEntityTag(line)
				rest = skip(rest, false)
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

	// accepted are the codings that the response to a read may have. A cache
	// that is shared must not give its compressed entry, which it knows by a
	// suffix, to a client that can't read it.
	accepted codings
}

// hasConditions reports whether a request has preconditions.
func hasConditions(header http.Header) bool {
	return header["If-None-Match"] != nil || header["If-Match"] != nil ||
		header["If-Modified-Since"] != nil || header["If-Unmodified-Since"] != nil
}

// parseConditions reads the preconditions of a request, whose header has
// canonical names.
func parseConditions(header http.Header) conditions {
	return conditions{
		ifMatch:           header["If-Match"],
		ifNoneMatch:       header["If-None-Match"],
		ifUnmodifiedSince: parseDate(header["If-Unmodified-Since"]),
		ifModifiedSince:   parseDate(header["If-Modified-Since"]),
		accepted:          acceptedCodings(header),
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
	ours         bool // the tag is this module's
	mayBeWeak    bool // ours may have been sent with a W/ before it
	lastModified time.Time
}

// listed reports whether a member of the field names the representation, in
// the comparison that match does. An encoder that makes one of some codings may
// have added its suffix to the tag on its way to the client; on a tag that is
// not ours, only Caddy's own encoders are expected.
func (rep representation) listed(field tagField, match func(a, b entityTag) bool, suffixes codings) bool {
	if !rep.ours {
		suffixes &= caddyCodings
	}
	// Most members of a long list differ in their length already, or don't end
	// like the tag does.
	length := len(rep.tag.opaque())
	for tag := range field.members() {
		switch more := len(tag.opaque()) - length; {
		case more == 0 && match(rep.tag, tag):
			return true
		case more > 0 && more <= maxSuffix && match(rep.tag, tag.withoutCoding(suffixes)):
			return true
		}
	}
	return false
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
		if !c.ifMatch.any() && !rep.listed(c.ifMatch, entityTag.strongMatch, allCodings) {
			return failed
		}
	case c.modifiedAfter(rep):
		return failed
	}
	switch {
	case !c.ifNoneMatch.empty():
		if c.ifNoneMatch.any() || rep.listed(c.ifNoneMatch, entityTag.weakMatch, c.accepted) {
			return notModified
		}
	case !c.ifModifiedSince.IsZero() && !rep.lastModified.IsZero() && !rep.lastModified.After(c.ifModifiedSince):
		return notModified
	}
	return proceed
}

// grounds returns the precondition that a verdict of evaluateRead rests on.
func (c conditions) grounds(v verdict) reason {
	switch {
	case v == failed && !c.ifMatch.empty():
		return reasonIfMatch
	case v == failed:
		return reasonIfUnmodifiedSince
	case v == notModified && !c.ifNoneMatch.empty():
		return reasonIfNoneMatch
	case v == notModified && !c.ifModifiedSince.IsZero():
		return reasonIfModifiedSince
	}
	return ""
}

// spelling returns a tag that matches in the client's spelling, if that is one
// with an encoder's suffix: a cache knows its entry by it (RFC 9111 §4.3.4). A
// member that is the tag itself goes first.
func (c conditions) spelling(rep representation) entityTag {
	if rep.listed(c.ifNoneMatch, entityTag.weakMatch, 0) {
		return rep.tag
	}
	suffixes := c.accepted
	if !rep.ours {
		suffixes &= caddyCodings
	}
	for tag := range c.ifNoneMatch.members() {
		if rep.tag.weakMatch(tag.withoutCoding(suffixes)) {
			return tag
		}
	}
	return rep.tag
}

// isUnstable reports whether a response whose tag the client does not have
// would have been a 304 by its date.
func (c conditions) isUnstable(header http.Header) bool {
	return !c.ifNoneMatch.empty() && !c.ifModifiedSince.IsZero() &&
		c.ifModifiedSince.Equal(parseDate(header["Last-Modified"]))
}

// modifiedAfter reports whether If-Unmodified-Since is there and false. It is
// ignored where the modification date is not known (RFC 9110 §13.1.4).
func (c conditions) modifiedAfter(rep representation) bool {
	return !c.ifUnmodifiedSince.IsZero() && !rep.lastModified.IsZero() && rep.lastModified.After(c.ifUnmodifiedSince)
}

// How If-Match on a write compares weak tags.
const (
	weakAuto   = "auto"   // opaque tags are compared where the current tag is itself weak
	weakReject = "reject" // RFC 9110's letter: a weak tag never matches
	weakAccept = "accept" // opaque tags are always compared
)

var weakIfMatchWords = []string{weakAuto, weakReject, weakAccept}

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

// sayWhatIsReplaced reports whether the preconditions say which state a write
// is to replace, or that there must be none. A date is too coarse for that, and
// If-None-Match with tags says nothing of what is overwritten.
func (c conditions) sayWhatIsReplaced() bool {
	return c.ifMatch.present() || c.ifNoneMatch.any()
}

// needTag reports whether a write's preconditions can't be evaluated without
// the tag of a resource that exists. One that If-None-Match: * refuses needs it
// for its answer.
func (c conditions) needTag() bool {
	return !c.ifMatch.any() || c.ifNoneMatch.present()
}

// evaluateWrite evaluates the preconditions of a write to a resource that
// exists, in the order of RFC 9110 §13.2.2, and returns why they are false, or
// no reason if they hold. Unlike a read's, an If-Match that is empty or
// malformed is false, and so is an If-None-Match that is empty or has a
// malformed member: a client whose tag was undefined must not write, and what
// a field forbids must be known.
func (c conditions) evaluateWrite(rep representation, weak string) reason {
	switch {
	case c.ifMatch.present():
		if why := c.evaluateIfMatch(rep, weak); why != "" {
			return why
		}
	case c.modifiedAfter(rep):
		return reasonStale
	}
	switch {
	case !c.ifNoneMatch.present():
		return ""
	case c.ifNoneMatch.malformed():
		return reasonMalformed
	case c.ifNoneMatch.any(), rep.listed(c.ifNoneMatch, entityTag.weakMatch, allCodings):
		return reasonExists
	}
	return ""
}

// evaluateIfMatch evaluates the If-Match of a write.
func (c conditions) evaluateIfMatch(rep representation, weak string) reason {
	match := entityTag.strongMatch
	switch {
	case weak == weakAccept, weak == weakAuto && rep.tag.weak():
		// No client could ever hold a strong tag of a representation whose
		// tag is weak.
		match = entityTag.weakMatch
	case rep.ours && rep.mayBeWeak && !rep.tag.weak():
		match = entityTag.weakMatch
	}
	switch {
	case c.ifMatch.any(), rep.listed(c.ifMatch, match, allCodings):
		return ""
	case c.ifMatch.noTag():
		return reasonMalformed
	case !rep.tag.exists(), !match(rep.tag, rep.tag):
		return reasonNoTag // or a weak one, which can't be named
	}
	return reasonStale
}

// evaluateCreate evaluates the preconditions of a write to a resource that
// does not exist, apart from If-Match: every well-formed If-None-Match holds,
// and If-Unmodified-Since is ignored (RFC 9110 §13.1.2, §13.1.4).
func (c conditions) evaluateCreate() reason {
	if c.ifNoneMatch.present() && c.ifNoneMatch.malformed() {
		return reasonMalformed
	}
	return ""
}

// malformed reports whether the field is empty, or has a member that is no
// tag.
func (f tagField) malformed() bool {
	if f.any() {
		return false
	}
	for tag := range f.members() {
		if !tag.exists() {
			return true
		}
	}
	return f.noTag()
}

// noTag reports whether the field has no tag in it.
func (f tagField) noTag() bool {
	for tag := range f.members() {
		if tag.exists() {
			return false
		}
	}
	return true
}
