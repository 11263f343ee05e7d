package etag

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// chainPosition is a place in the chain with a request at it, as that came
// there. What the request does further down, such as to rewrite the URI or to use up a
// group of routes, does not change it.
type chainPosition struct {
	handler *Handler
	next    caddyhttp.Handler
	request *http.Request // a GET where the client sent it
	header  http.Header   // what handlers above have set of the response's
	vars    map[string]any
	groups  map[string]struct{}
}

// routeGroupKey is where Caddy keeps the groups of routes that the request
// has used up: of the routes in a group, such as consecutive handle blocks,
// only the first that matches is run.
const routeGroupKey caddy.CtxKey = "route_group"

// internalVar is the variable that tells an internal GET from the client's own
// requests.
const internalVar = "etag_internal"

func (h *Handler) chainPosition(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) *chainPosition {
	get := r.Clone(r.Context())
	get.Method = http.MethodGet
	get.Body = http.NoBody
	get.GetBody = nil
	get.ContentLength = 0
	get.TransferEncoding = nil
	get.Trailer = nil
	makeInternal(get.Header)

	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	vars = maps.Clone(vars)
	if vars == nil {
		vars = make(map[string]any)
	}
	vars[internalVar] = true
	groups, _ := r.Context().Value(routeGroupKey).(map[string]struct{})
	return &chainPosition{h, next, get, w.Header().Clone(), vars, maps.Clone(groups)}
}

// internalGET makes the GET that a client would have sent for the resource, as it
// would stand at this position, with a life of its own: a replacer, variables,
// used up groups and log fields that start as the write's were, and don't come
// back to it. A placeholder is looked up in the GET first, then in the write.
func (p *chainPosition) internalGET(ctx context.Context, w http.ResponseWriter) *http.Request {
	get := p.request.Clone(ctx)

	// PrepareRequest takes the URL for the one that the client sent.
	if original, ok := ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		get.URL, get.RequestURI = original.URL, original.RequestURI
	}
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	repl := caddy.NewReplacer()
	get = caddyhttp.PrepareRequest(get, repl, w, server)

	// From here on the request must keep its pointer, which repl is bound to.
	url := *p.request.URL
	get.URL, get.RequestURI = &url, p.request.RequestURI
	maps.Copy(get.Context().Value(caddyhttp.VarsCtxKey).(map[string]any), p.vars)
	maps.Copy(get.Context().Value(routeGroupKey).(map[string]struct{}), p.groups)
	if parent, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(parent.Get)
	}
	return get
}

// makeInternal makes the header of a request one for an internal GET.
func makeInternal(header http.Header) {
	for name := range header {
		if isBodyField(name) || isConditional(name) || isOfWrite(name) {
			delete(header, name)
		}
	}
	keepPreferences(header)
}

// isOfWrite reports whether a request field makes something else than a GET of
// the request, or has a backend remember its answer as the write's.
func isOfWrite(name string) bool {
	switch name {
	case "Idempotency-Key", "X-Idempotency-Key":
		return true
	}
	return isMethodOverride(name)
}

// keepPreferences takes off the preferences (RFC 7240) that ask for another
// way of answering than with the representation.
func keepPreferences(header http.Header) {
	var kept []string
	for _, line := range header["Prefer"] {
		for preference := range splitUnquoted(line, ',') {
			name, _, _ := strings.Cut(preference, ";")
			name, _, _ = strings.Cut(name, "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "", "return", "respond-async", "wait", "handling":
			default:
				kept = append(kept, strings.TrimSpace(preference))
			}
		}
	}
	delete(header, "Prefer")
	if len(kept) > 0 {
		header["Prefer"] = []string{strings.Join(kept, ", ")}
	}
}

// signsMethod reports whether the credentials of a request are good for its
// method alone, so that a GET with them would be refused.
func signsMethod(r *http.Request) bool {
	if len(r.Header["Signature-Input"]) > 0 || r.URL.Query().Has("X-Amz-Signature") {
		return true
	}
	scheme, _, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	scheme = strings.ToUpper(scheme)
	return strings.HasPrefix(scheme, "AWS4-") || scheme == "DIGEST" || scheme == "DPOP"
}

// currentRepresentation is what an internal GET found out.
type currentRepresentation struct {
	status int         // of the answer; 0 if there was none
	header http.Header // of the answer
	representation
	reason reason // why it has no tag
	digest []byte // of the body, if it was read to its end and asked for
	err    error  // what the chain returned

	relayed bool // the answer has gone to the client
}

// exists reports whether there is a resource, as far as the answer tells.
func (c *currentRepresentation) exists() bool {
	return c.status != http.StatusNotFound && c.status != http.StatusGone
}

// relay is the way of an answer to the client, if it is one that takes the
// place of the write's.
type relay struct {
	client http.ResponseWriter
	takes  func(status int) bool
	begin  func() // before anything is sent
}

// wanted is what an internal GET is to find out, beside the status.
type wanted struct {
	tag    bool
	digest bool // of the body, whether or not it makes the tag
}

// read makes an internal GET. An answer whose status the relay takes goes to
// the client.
//
// A transport may end a request because the one that had its connection before
// was canceled (https://go.dev/issue/41600, seen with Go 1.26 still), and
// reverse_proxy then takes this client for the one that has left. A GET can be
// made again.
func (p *chainPosition) read(ctx context.Context, wanted wanted, relay *relay) currentRepresentation {
	current := p.readOnce(ctx, wanted, relay)
	if current.status == statusClientClosedRequest && ctx.Err() == nil {
		return p.readOnce(ctx, wanted, relay)
	}
	return current
}

func (p *chainPosition) readOnce(ctx context.Context, wanted wanted, relay *relay) currentRepresentation {
	metrics.internalGETs.Inc()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rec := &getRecorder{handler: p.handler, wanted: wanted, relay: relay}
	rec.header = p.header.Clone()
	if rec.header == nil {
		rec.header = make(http.Header)
	}
	rec.body.Budget = p.handler.budget
	rec.hash.digester = p.handler.digester
	rec.cutoff.cancel = cancel
	defer rec.release()
	rec.request = p.internalGET(ctx, rec)
	rec.err = rec.serve(p.next)
	rec.finish()
	return rec.currentRepresentation
}

// getRecorder is what the chain writes the answer to an internal GET to. It
// hashes the body as it comes, and holds it only if it may have to be
// normalized. Its header map is its own.
type getRecorder struct {
	handler *Handler
	request *http.Request
	cutoff  cutoff
	wanted  wanted
	relay   *relay // nil: no answer goes to the client

	currentRepresentation
	tagging     tagging
	wroteHeader bool
	settled     bool    // the body is not wanted, or no longer
	raw         *hasher // of the body as it is
	holding     bool
	body        held.Body
	hash        bodyHash // of the body that is held
	declared    int64
	received    int64
}

// serve calls the chain. That it was cut off, or that its backend died, is no
// reason to panic: the client's own request goes on.
func (rec *getRecorder) serve(next caddyhttp.Handler) (err error) {
	defer func() {
		if rec.relayed {
			return // the client is getting a part of this
		}
		if recovered := recover(); recovered != nil {
			if !isAbort(recovered) {
				panic(recovered)
			}
			err = caddyhttp.Error(http.StatusBadGateway, errors.New("reading the current representation: its handler aborted"))
		}
	}()
	return next.ServeHTTP(rec, rec.request)
}

// finish concludes from what was written.
func (rec *getRecorder) finish() {
	switch {
	case rec.settled:
		rec.err = nil // how the chain took being cut off
		return
	case rec.relayed:
		if rec.err != nil && rec.received != rec.declared {
			panic(http.ErrAbortHandler) // the client must not take for whole what it got
		}
		return
	case rec.err == nil && rec.raw != nil && rec.declared >= 0 && rec.received != rec.declared:
		rec.err = caddyhttp.Error(http.StatusBadGateway,
			fmt.Errorf("reading the current representation: got %d bytes of body where Content-Length is %d", rec.received, rec.declared))
	}
	if rec.err != nil {
		// A part of an answer, if any, is none.
		rec.status = http.StatusInternalServerError
		var handlerErr caddyhttp.HandlerError
		if errors.As(rec.err, &handlerErr) && handlerErr.StatusCode != 0 {
			rec.status = handlerErr.StatusCode
		}
		return
	}
	if !rec.wroteHeader {
		rec.status = http.StatusOK // which net/http sends for a handler that writes nothing
	}
	if rec.raw == nil {
		return
	}
	if rec.tagging.ours() && !rec.tag.exists() && rec.reason == "" {
		tag, err := rec.mintedTag()
		if err != nil {
			rec.status = http.StatusServiceUnavailable
			rec.err = caddyhttp.Error(rec.status, fmt.Errorf("reading the current representation: %w", err))
			return
		}
		rec.tag = tag
	}
	if rec.wanted.digest {
		rec.digest = bytes.Clone(rec.raw.digest())
	}
}

// mintedTag returns the tag that a read would have.
func (rec *getRecorder) mintedTag() (entityTag, error) {
	version := rec.handler.version(rec.request)
	if rec.holding {
		return rec.hash.tag(rec.request.Context(), time.Time{}, &rec.body, rec.header, version)
	}
	return rec.handler.digester.tag(rec.raw.digits(rec.handler.Length), version), nil
}

// hold holds a piece of the body, if it may have to be normalized.
func (rec *getRecorder) hold(b []byte) {
	for rec.holding && len(b) > 0 {
		room := rec.body.Room()
		if room == nil {
			rec.handler.warnNoMemory()
			rec.reason = reasonNoMemory
			rec.settle()
			return
		}
		n := copy(room, b)
		rec.body.Grow(n)
		rec.hash.grew(&rec.body, rec.declared, rec.header)
		b = b[n:]
	}
}

// settle ends an answer of which no more is wanted.
func (rec *getRecorder) settle() {
	rec.settled = true
	rec.drop()
	rec.cutoff.start(rec.declared - rec.received)
}

// drop gives back what is held.
func (rec *getRecorder) drop() {
	rec.holding = false
	rec.body.Release()
}

func (rec *getRecorder) release() {
	rec.cutoff.stop()
	rec.drop()
	rec.hash.release()
	if rec.raw != nil {
		rec.handler.digester.algorithm.put(rec.raw)
	}
}

// Header returns the header of the answer, which is not the client's.
func (rec *getRecorder) Header() http.Header { return rec.header }

// WriteHeader decides what is done with the body.
func (rec *getRecorder) WriteHeader(status int) {
	if rec.wroteHeader || status < 200 {
		return
	}
	rec.wroteHeader = true
	rec.status = status
	rec.declared = contentLength(rec.header)

	if rec.relay != nil && rec.relay.takes(status) {
		rec.startRelay()
		return
	}
	if !successful(status) {
		rec.settle()
		return
	}

	rec.lastModified = parseDate(rec.header["Last-Modified"])
	rec.tagging = rec.handler.tagging(status, rec.header)
	if rec.declared > rec.handler.MaxSize {
		rec.pastMaxSize()
	}
	rec.tag = rec.tagging.ofHeader(rec.handler, rec.request)
	rec.ours = rec.tagging.ours()
	rec.mayBeWeak = rec.handler.Oversize == oversizeTrailer
	rec.reason = rec.tagging.reason
	switch {
	case !mayHold(status, rec.header):
		rec.settled = true
		rec.cutoff.now()
	case rec.wanted.digest, rec.wanted.tag && rec.ours && !rec.tag.exists():
		rec.raw = rec.handler.digester.algorithm.get()
		rec.holding = rec.tagging.source == tagMinted && rec.handler.digester.normalizer.mayNormalize(rec.header)
	default:
		rec.settle()
	}
}

// pastMaxSize is called for a body that is larger than a read holds.
func (rec *getRecorder) pastMaxSize() {
	rec.tagging = rec.tagging.pastLimit(rec.handler.Oversize, reasonTooLarge, true)
	rec.ours, rec.reason = rec.tagging.ours(), rec.tagging.reason
	rec.drop() // it is hashed as it is
}

// startRelay sends the header to the client.
func (rec *getRecorder) startRelay() {
	rec.relayed = true
	dropTrailers(rec.header, announcedFields(rec.header)) // they would come too late for the copy
	header := rec.relay.client.Header()
	clear(header)
	maps.Copy(header, rec.header)
	rec.relay.begin()
	rec.relay.client.WriteHeader(rec.status)
}

// Write takes a piece of the body.
func (rec *getRecorder) Write(b []byte) (int, error) {
	rec.WriteHeader(http.StatusOK)
	if rec.relayed {
		n, err := rec.relay.client.Write(b)
		rec.received += int64(n)
		return n, err
	}
	if !rec.settled {
		if err := rec.take(b); !rec.settled {
			return len(b), err
		}
	}
	return rec.cutoff.drain(len(b))
}

// take hashes a piece of the body.
func (rec *getRecorder) take(b []byte) error {
	before := rec.received
	rec.received += int64(len(b))
	if before <= rec.handler.MaxSize && rec.received > rec.handler.MaxSize && rec.tagging.source == tagMinted {
		rec.pastMaxSize()
		if !rec.ours && !rec.wanted.digest {
			rec.settle()
			return nil
		}
	}
	rec.hold(b)
	_, err := rec.raw.Write(b)
	return err
}

// FlushError does nothing, except for an answer that the client gets.
func (rec *getRecorder) FlushError() error {
	rec.WriteHeader(http.StatusOK)
	if rec.relayed {
		return http.NewResponseController(rec.relay.client).Flush()
	}
	return nil
}

// Interface guards
var (
	_ http.ResponseWriter = (*getRecorder)(nil)
	_ io.Writer           = (*getRecorder)(nil)
)
