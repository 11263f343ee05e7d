package etag

import (
	"context"
	"maps"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// read is a GET or HEAD request, and the policy of its response: which tag that
// gets, and what the request's preconditions make of it.
type read struct {
	heldResponse

	wish
	parsed   conditions // room for those of the wish
	tagging  tagging
	hash     bodyHash
	trailer  *hasher // of a body that is passed, and tagged in a trailer
	observed observation
	seen     *observation // observed, or that of the first answer

	// position is set where the resource may have to be asked for again, since
	// what downstream answered can't be judged, or is not the part that the
	// client asked for. Then again is set, and nothing has been sent.
	position *chainPosition
	again    asking
	asked    asking // what this is the answer to

	headerTag entityTag      // what the header alone tells
	whole     representation // by which a part is judged that has no tag of its own

	// question is set where the tag may be remembered, and issued is what to
	// remember of the answer.
	question   *question
	issued     *validator
	remembered bool // issued is

	tag [1]string // room for the value of the ETag field
}

// wish is what a request asks for, as it came: others change the request
// meanwhile, while a hold timer may look at it.
type wish struct {
	conditions  *conditions // nil if there are none
	trailers    bool        // the client takes them, and a tag may be one
	coded       bool        // it takes a content coding, too
	crossOrigin bool        // the client is a script of another origin

	ranged      bool         // the client asks for a part
	rangeIsOurs bool         // downstream was not asked for it
	ifRange     entityTag    // of a request for a part
	part        hiddenFields // Range and If-Range
}

// asking is what downstream is asked.
type asking int

const (
	askedAsIs    asking = iota // the client's own request
	askedWhole                 // a GET for the whole representation
	askedForPart               // a GET for the part that the client asks for
)

func newRead(h *Handler, w http.ResponseWriter, r *http.Request) *read {
	rd := &read{hash: bodyHash{digester: h.digester}}
	rd.init(h, w, r, rd)
	rd.seen = &rd.observed
	rd.seen.begin(r, w)
	rd.trailers = h.Oversize == oversizeTrailer && takesTrailers(r)
	rd.coded = rd.trailers && takesCoding(r.Header)
	rd.crossOrigin = isCrossOrigin(r)
	if hasConditions(r.Header) {
		rd.parsed = parseConditions(r.Header)
		rd.conditions = &rd.parsed
	}
	if len(r.Header["Range"]) > 0 && r.Method == http.MethodGet && !hasContent(r) { // of no other method (RFC 9110 §14.2)
		rd.ranged = true
		rd.rangeIsOurs = h.Ranges == rangesOn
		rd.ifRange = ifRangeTag(r.Header)
		rd.part.note(r.Header, "Range")
		rd.part.note(r.Header, "If-Range")
	}
	return rd
}

// mayAskAgain reports whether downstream's answer to a request may be one that
// can't be judged: to a HEAD, without the body that makes the tag, or a part of
// a representation where the request names another one by its tag.
func (rd *read) mayAskAgain() bool {
	switch {
	case rd.head:
		return !hasContent(rd.request)
	case !rd.ranged:
		return false
	}
	return rd.tagInQuestion() || rd.conditions != nil && !rd.conditions.ifUnmodifiedSince.IsZero()
}

// tagInQuestion reports whether a request for a part says something of a tag.
func (rd *read) tagInQuestion() bool {
	return rd.rangeIsOurs || rd.ifRange.exists() ||
		rd.conditions != nil && (!rd.conditions.ifMatch.empty() || !rd.conditions.ifNoneMatch.empty())
}

// hasContent reports whether a GET or HEAD has a body. Over HTTP/3, a request
// without a Content-Length is not known to have none, and is taken to.
func hasContent(r *http.Request) bool {
	return r.ContentLength > 0 || r.ContentLength < 0 && r.ProtoMajor != 3
}

// takesCoding reports whether a request takes a response that is compressed.
func takesCoding(header http.Header) bool {
	accepted := header.Get("Accept-Encoding")
	return accepted != "" && accepted != "identity"
}

// serveConditional calls next for a request that may be answered before next
// has come to its end: with a 304 or 412 as soon as the header of a response
// with a tag of its own is there, or a HEAD request with the header of a
// stream. What next does from then on is in vain, so its context is canceled.
//
// A context of our own would be no cheaper than the standard one: reverse_proxy
// hides it behind a value, and what is derived from that waits for it in a
// goroutine, which takes twice as long.
func (rd *read) serveConditional(r *http.Request, next caddyhttp.Handler) error {
	hidden := hideFromDownstream(r.Header, rd.handler.Existing == existingReplace)
	if rd.rangeIsOurs {
		hidden.hide(r.Header, "Range")
		hidden.hide(r.Header, "If-Range")
	}
	client, cancelable := r.Context(), !hasContent(r)
	if cancelable {
		ctx, cancel := context.WithCancel(client)
		rd.cutoff.cancel = cancel
		setContext(r, ctx)
		defer cancel()
	}

	defer rd.ignoreAbort()
	defer rd.undisturbed(func() {
		hidden.restore(r.Header)
		if cancelable {
			setContext(r, client)
		}
	})
	return next.ServeHTTP(rd, r)
}

// hideFromDownstream takes off the preconditions that downstream would judge
// without knowing our tag.
//
// If-None-Match stays where it is judged first: a backend that has tags of its
// own saves its body by it. But not where the tags that it knows are replaced,
// nor beside If-Match and If-Unmodified-Since, which precede it (RFC 9110
// §13.2.2): a 304 lacks what those are judged by. If-Modified-Since stays where
// it is alone and valid.
func hideFromDownstream(header http.Header, replaced bool) (hidden hiddenFields) {
	precedes := !tagField(header["If-Match"]).empty() || !parseDate(header["If-Unmodified-Since"]).IsZero()
	hidden.hide(header, "If-Match")
	hidden.hide(header, "If-Unmodified-Since")
	if replaced || precedes || !tagField(header["If-None-Match"]).empty() || len(header["If-Modified-Since"]) > 1 {
		hidden.hide(header, "If-Modified-Since")
	}
	if replaced || precedes {
		hidden.hide(header, "If-None-Match")
	}
	return hidden
}

// serveAgain asks for the resource again, with GET and with a chain whose
// first pass has left nothing behind. What it answers is judged, and made the
// answer to the client's request.
func (rd *read) serveAgain() error {
	rd.release()
	header := rd.client.Header()
	clear(header)
	maps.Copy(header, rd.position.header)

	metrics.internalGETs.Inc()
	second := newRead(rd.handler, rd.client.ResponseWriter, rd.request)
	defer second.release()
	second.wish, second.head = rd.wish, rd.head
	second.seen = rd.seen
	second.asked = rd.again
	defer func() { rd.status, rd.sendErr = second.status, second.sendErr }()
	second.question = rd.question
	ctx, cancel := context.WithCancel(rd.request.Context())
	defer cancel()
	second.cutoff.cancel = cancel
	get := rd.position.internalGET(ctx, second)
	if second.asked == askedForPart {
		second.position = rd.position // the resource may have changed by now
		second.whole = rd.representation(rd.headerTag)
		rd.part.restore(get.Header)
	}
	return second.finish(second.serveSecond(get, rd.position.next))
}

// serveSecond calls the chain with a GET of our own.
func (rd *read) serveSecond(get *http.Request, next caddyhttp.Handler) error {
	defer rd.ignoreAbort()
	return next.ServeHTTP(rd, get)
}

// ignoreAbort is deferred: a chain that gives up on a response which needs
// nothing more of it, as it was cut off, is no reason to.
func (rd *read) ignoreAbort() {
	if !rd.answered() {
		return
	}
	if p := recover(); p != nil && !isAbort(p) {
		panic(p)
	}
}

// headerCame holds a response that gets a tag of ours from its body, or of
// which the client asks for a part.
func (rd *read) headerCame() (hold bool) {
	rd.tagging = rd.handler.tagging(rd.status, rd.client.Header())
	rd.replaces = rd.tagging.replaces
	rd.headerTag = rd.tagging.ofHeader(rd.handler, rd.request)
	if rd.asked == askedForPart && rd.status == http.StatusPartialContent && !rd.headerTag.exists() {
		rd.judgeByWhole()
	}
	if rd.position != nil {
		if rd.again = rd.nextQuestion(); rd.again != askedAsIs {
			rd.state = stateAnswered // by the second answer
			rd.cutoff.start(rd.declared - rd.received)
			return false
		}
	}
	if rd.head && rd.asked == askedAsIs {
		// There is no body to make a tag of.
		rd.tagging = rd.tagging.pastLimit(oversizePass, reasonTooLarge, false)
	}
	if rd.tagging.source == tagMinted || rd.canServeRange() {
		return true
	}
	rd.pass()
	return false
}

// nextQuestion returns what to ask downstream after its first answer:
// askedAsIs if that can be judged, and answers the client.
func (rd *read) nextQuestion() asking {
	switch {
	case rd.head:
		if rd.declared > rd.handler.MaxSize {
			return askedAsIs
		}
		unjudged := rd.tagging.source == tagNone && rd.conditions != nil && successful(rd.status)
		if rd.tagging.source == tagMinted || unjudged {
			return askedWhole
		}
	case rd.rangeIsOurs && rd.asked == askedAsIs:
		// What can't be held may be a film, whose parts the backend can serve.
		// But without a tag it can't know which version If-Range names.
		if rd.status == http.StatusOK && !rd.canServeRange() && servesRanges(rd.client.Header()) &&
			(!rd.ifRange.exists() || rd.ifRange.strongMatch(rd.tagging.kept)) && !rd.isJudged() {
			return askedForPart
		}
	case rd.status == http.StatusPartialContent || rd.status == http.StatusRequestedRangeNotSatisfiable:
		ofAnother := rd.ifRange.exists() && !rd.ifRange.strongMatch(rd.tagging.kept)
		// A part has the date by which If-Unmodified-Since is judged, a 416 has not.
		unjudged := rd.tagInQuestion() || rd.status == http.StatusRequestedRangeNotSatisfiable
		if ofAnother || rd.asked == askedAsIs && rd.tagging.source != tagKept && unjudged {
			return askedWhole
		}
	}
	return askedAsIs
}

// isJudged reports whether the preconditions answer the request already, by what
// the header tells. They precede Range (RFC 9110 §13.2.2).
func (rd *read) isJudged() bool {
	return rd.conditions != nil && rd.headerTag.exists() && rd.verdict(rd.headerTag) != proceed
}

func (rd *read) bodyGrew() {
	if rd.tagging.source == tagMinted {
		rd.hash.grew(&rd.body, rd.declared, rd.client.Header())
	}
}

func (rd *read) limitPassed(limit reason) {
	rd.tagging = rd.tagging.pastLimit(rd.handler.Oversize, limit, rd.trailers)
	if rd.tagging.source == tagTrailer {
		rd.startTrailer(limit)
	}
	rd.pass()
}

// pass evaluates the preconditions against the tag that the response has
// already, if any, and lets go on what they don't answer.
func (rd *read) pass() {
	rd.tagging.dropReplaced(rd.client.Header())
	tag := rd.headerTag
	switch {
	case rd.status == http.StatusNotModified:
		rd.seen.decide(outcomeNotModified, rd.grounds(notModified))
	case rd.tagging.source == tagOfField:
		rd.setTag(tag)
		rd.seen.decide(outcomeTagged, "")
	case rd.tagging.source == tagKept && successful(rd.status):
		rd.seen.decide(outcomeKept, "")
	case rd.tagging.source == tagKept:
		rd.seen.decide(outcomeBypassed, reasonStatus)
	default:
		rd.seen.decide(outcomeBypassed, rd.tagging.reason)
	}

	// A 304 from downstream would be a 200 without If-None-Match, which
	// downstream has seen and If-Match, which it hasn't, precedes.
	if rd.conditions != nil && (successful(rd.status) || rd.status == http.StatusNotModified) {
		switch verdict := rd.verdict(tag); {
		case verdict == failed:
			rd.answerEarly(rd.sendFailed)
			return
		case verdict == notModified && successful(rd.status):
			rd.answerEarly(rd.sendNotModified)
			return
		}
	}
	rd.issue(tag, rd.declared, rd.head || rd.status == http.StatusNotModified)
	rd.passOn()
}

// verdict evaluates the preconditions against a response with this tag.
func (rd *read) verdict(tag entityTag) verdict {
	return rd.conditions.evaluateRead(rd.representation(tag))
}

// grounds returns the precondition that a verdict rests on; none if the request
// has no preconditions.
func (rd *read) grounds(v verdict) reason {
	if rd.conditions == nil {
		return ""
	}
	return rd.conditions.grounds(v)
}

func (rd *read) representation(tag entityTag) representation {
	return representation{
		tag:          tag,
		ours:         rd.tagging.ours() || rd.tagging.source == tagNone && rd.whole.ours,
		lastModified: parseDate(rd.client.Header()["Last-Modified"]),
	}
}

// bodyComplete tags the response, evaluates the preconditions, and sends what they
// make of it.
func (rd *read) bodyComplete() {
	header := rd.client.Header()
	tag, err := rd.completeTag()
	if err != nil {
		rd.limitPassed(reasonTooSlow)
		return
	}
	if rd.tagging.source == tagKept {
		rd.seen.decide(outcomeKept, "")
	} else {
		rd.setTag(tag)
		rd.seen.decide(outcomeTagged, "")
	}
	if rd.conditions != nil && successful(rd.status) {
		switch rd.verdict(tag) {
		case failed:
			rd.answer(rd.sendFailed)
			return
		case notModified:
			rd.answer(rd.sendNotModified)
			return
		case proceed:
		}
		if rd.tagging.ours() && rd.conditions.isUnstable(header) {
			rd.seen.decide(outcomeTagged, reasonUnstable)
		}
	}
	if rd.canServeRange() {
		rd.issue(tag, rd.received, true)
		rd.sendRange()
		return
	}
	if _, says := header["Accept-Ranges"]; !says && rd.handler.Ranges == rangesOn && rd.status == http.StatusOK {
		header["Accept-Ranges"] = []string{"bytes"}
	}
	rd.issue(tag, rd.received, true)
	rd.sendComplete()
}

// completeTag returns the tag of a response whose body is held in full.
func (rd *read) completeTag() (entityTag, error) {
	if rd.tagging.source != tagMinted {
		return rd.headerTag, nil
	}
	return rd.hash.tag(rd.request.Context(), rd.holdTimer.Due(), &rd.body, rd.client.Header(), rd.handler.version(rd.request))
}

// setTag gives the response a tag of ours.
func (rd *read) setTag(tag entityTag) {
	header := rd.client.Header()
	dropTrailerTag(header)
	rd.tag[0] = tag.field
	header["Etag"] = rd.tag[:]
	rd.replaces = true // a trailer that is still to come must not tell another tag
	rd.setTaggedFields(header)
}

// setTaggedFields sets what else the header of a response with a tag of ours has.
func (rd *read) setTaggedFields(header http.Header) {
	exposeTag(header, rd.crossOrigin)
	if rd.handler.CacheControl != "" && !saysHowToCache(header) {
		header["Cache-Control"] = []string{rd.handler.CacheControl}
	}
}

// sendNotModified sends a 304.
func (rd *read) sendNotModified() {
	rd.seen.decide(outcomeNotModified, rd.grounds(notModified))
	rd.status = http.StatusNotModified
	if !rd.head {
		countSaved(max(rd.declared, rd.received))
	}
	header := rd.client.Header()
	tag := responseTag(header)
	if !tag.exists() {
		tag = rd.headerTag // of a part
	}
	rep := rd.representation(tag)
	rd.handler.dropForNotModified(header, rep, rd.stood)
	rd.issue(tag, max(rd.declared, rd.received), true)
	if tag.exists() {
		rd.tag[0] = rd.conditions.spelling(rep).field
		header["Etag"] = rd.tag[:]
	}
	rd.client.WriteHeader(rd.status)
}

// dropForNotModified makes the header of a 200 that of a 304.
func (h *Handler) dropForNotModified(header http.Header, rep representation, stood []string) {
	dropBodyFields(header)
	dropTrailers(header, stood)
	if rep.tag.exists() {
		delete(header, "Last-Modified") // as ServeContent has it
	}
	if rep.tag.weak() {
		dropFields(header, exactFields)
	}
	if rep.ours && h.digester.normalizer.leavesOut() {
		// Their nonce is that of the body which is not sent, and the client has
		// another one.
		dropFields(header, policyFields)
	}
}

// sendFailed sends a 412.
func (rd *read) sendFailed() {
	rd.seen.decide(outcomeFailed, rd.grounds(failed))
	rd.status = http.StatusPreconditionFailed
	header := rd.client.Header()
	tag := responseTag(header)
	dropRepresentationFields(header, rd.stood)
	rd.err = rd.handler.sendProblem(&rd.client, readFailed(tag, rd.tagging.reason, rd.conditions), rd.head)
}

// startTrailer hashes the body on its way, for a tag in a trailer.
func (rd *read) startTrailer(limit reason) {
	header := rd.client.Header()
	rd.hash.form = rd.handler.digester.normalizer.formOf(header, rd.body.Head())
	rd.trailer = rd.hash.stream(&rd.body)
	rd.tee = rd.trailer
	delete(header, "Etag") // an invalid one, or one to be replaced
	dropTrailerTag(header)
	rd.replaces = true // see setTag
	header.Add("Trailer", "ETag")
	if rd.hash.form == formBytes || limit == reasonTooLarge {
		rd.setTaggedFields(header) // see sendTrailer
	}
	if rd.http1 {
		delete(header, "Content-Length") // in HTTP/1.1 only chunked responses have trailers
	}
}

// sendTrailer makes the tag of a body that has passed, and its trailer. It is
// weak if the body may have been compressed on its way, since an encoder in
// front adds no suffix to a trailer. A body that would have been normalized,
// had it been held, gets none: it would be another one than the next read's.
func (rd *read) sendTrailer() {
	h := rd.handler
	if rd.hash.form != formBytes && rd.received <= h.MaxSize {
		if rd.replaces {
			delete(rd.client.Header(), "Etag")
		}
		return
	}
	tag := makeTag(rd.trailer.digits(h.Length), h.version(rd.request), h.weak || rd.coded)
	rd.client.Header()["Etag"] = []string{tag.field}
	rd.issue(tag, rd.received, true)
	rd.seen.decide(outcomeTagged, "")
}

// finish completes the response once downstream has come to its end, with err.
func (rd *read) finish(err error) error {
	if rd.again != askedAsIs {
		return rd.serveAgain()
	}
	err = rd.heldResponse.finish(err)
	switch {
	case rd.state == stateHijacked:
		rd.seen.decide(outcomeBypassed, reasonUpgrade)
	case err != nil && rd.state != stateAnswered:
		rd.seen.decide(outcomeError, "")
	}
	if rd.trailer != nil && rd.state == statePassing && err == nil && (rd.declared < 0 || rd.received == rd.declared) {
		rd.sendTrailer()
	}
	if rd.question != nil {
		rd.rememberAnswer(err)
	}
	return err
}

// observe tells what became of the read, which has ended, or panicked.
func (rd *read) observe(ended bool) {
	if !ended && rd.sendErr == nil { // else it is the client that has left
		rd.seen.decide(outcomeError, "")
	}
	if rd.seen.decided() == "" {
		rd.seen.show() // nothing was written: the placeholders are empty, not unknown
	}
	rd.seen.count(kindRead)
	if rd.handler.isDebugging() {
		rd.handler.logDecision(rd.request, "decided on the read", rd.seen, zap.Int("status", rd.status))
	}
}

// release gives back all that the read took, whatever became of it.
func (rd *read) release() {
	rd.heldResponse.release()
	rd.hash.release()
	if rd.trailer != nil {
		rd.handler.digester.algorithm.put(rd.trailer)
		rd.trailer = nil
	}
}
