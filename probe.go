package etag

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// current is what an internal GET found out.
type current struct {
	status int // of the answer; 0 if there was none
	representation
	digest []byte // of the body, if it was read to its end and asked for
	err    error  // what the chain returned
}

// probe is what the chain writes the answer to an internal GET to. It hashes
// the body as it comes, and holds it only if it may have to be normalized. Its
// header map is its own.
type probe struct {
	handler *Handler
	request *http.Request
	header  http.Header
	cutoff  cutoff

	// relay decides by the status whether the answer goes to the client.
	relay  func(status int) bool
	client http.ResponseWriter

	// wantDigest is whether the body's hash is wanted even if it makes no tag.
	wantDigest bool

	current
	wroteHeader bool
	relaying    bool
	hash        *hasher // nil if the body is not wanted, or relayed
	settled     bool    // the body is not wanted
	holding     bool
	noMemory    bool // to hold it
	body        heldBody
	bodyHash    bodyHash
	declared    int64
	received    int64
}

// readCurrent reads the current representation with a GET down the chain. An
// answer whose status relay takes goes to the client.
func (p place) readCurrent(w http.ResponseWriter, relay func(status int) bool) current {
	return p.run(&probe{client: w, relay: relay})
}

// readStored reads the representation that a write has left behind, with the
// digest of its body.
func (p place) readStored() current {
	none := func(int) bool { return false }
	return p.run(&probe{relay: none, wantDigest: true})
}

func (p place) run(to *probe) current {
	ctx, cancel := context.WithCancel(p.request.Context())
	defer cancel()
	to.handler = p.handler
	to.body.budget = p.handler.budget
	to.bodyHash.handler = p.handler
	to.header = make(http.Header)
	to.cutoff.cancel = cancel
	defer to.release()
	to.request = p.internalGET(ctx, to)
	to.err = to.serve(p.next)
	to.finish()
	return to.current
}

// serve calls the chain. That it was cut off, or that its backend died, is no
// reason to panic: the client's own request goes on.
func (p *probe) serve(next caddyhttp.Handler) (err error) {
	defer func() {
		if p.relaying {
			return // the client is getting a part of this
		}
		if recovered := recover(); recovered != nil {
			if !isAbort(recovered) {
				panic(recovered)
			}
			err = caddyhttp.Error(http.StatusBadGateway, errors.New("reading the current representation: its handler aborted"))
		}
	}()
	return next.ServeHTTP(p, p.request)
}

// finish concludes from what was written.
func (p *probe) finish() {
	if p.settled {
		p.err = nil // how the chain took being cut off
		return
	}
	if p.relaying {
		if p.err != nil && p.received != p.declared {
			panic(http.ErrAbortHandler) // the client must not take for whole what it got
		}
		return
	}
	if p.err == nil && p.hash != nil && p.declared >= 0 && p.received != p.declared {
		p.err = caddyhttp.Error(http.StatusBadGateway, errors.New("reading the current representation: its body is not as long as its Content-Length"))
	}
	if p.err != nil {
		// A part of an answer, if any, is none.
		p.status = http.StatusInternalServerError
		var handlerErr caddyhttp.HandlerError
		if errors.As(p.err, &handlerErr) && handlerErr.StatusCode != 0 {
			p.status = handlerErr.StatusCode
		}
		return
	}
	if p.hash == nil {
		return
	}
	if p.received > p.handler.MaxSize {
		p.tag = responseTag(p.header) // which a read past the limit goes out with, see passOversize
	}
	if !p.tag.exists() && p.handler.taggable(p.status, p.header) {
		if p.noMemory && p.received <= p.handler.MaxSize {
			p.status = http.StatusServiceUnavailable
			p.err = caddyhttp.Error(p.status, errors.New("holding the current representation to normalize it: max_memory is used up"))
			return
		}
		p.tag = makeTag(p.digits(), p.handler.version(p.request), p.handler.weak)
		p.ours = true
	}
	if p.wantDigest {
		p.digest = bytes.Clone(p.hash.digest())
	}
}

// digits returns the digits for the tag that a read would have.
func (p *probe) digits() string {
	if p.holding {
		return p.bodyHash.digits(&p.body, p.header)
	}
	return p.hash.digits(p.handler.Length)
}

// hold holds a piece of the body, unless that is past max_size and so hashed
// as it is.
func (p *probe) hold(b []byte) {
	for p.holding && len(b) > 0 {
		room := p.body.room()
		p.noMemory = room == nil
		if p.noMemory || p.received > p.handler.MaxSize {
			p.holding = false
			p.body.release()
			return
		}
		n := copy(room, b)
		if full := p.body.grow(n); full != nil {
			p.bodyHash.block(full, p.declared, p.header)
		}
		b = b[n:]
	}
}

func (p *probe) release() {
	p.cutoff.stop()
	p.body.release()
	p.bodyHash.release()
	if p.hash != nil {
		p.handler.algorithm.put(p.hash)
	}
}

// Header returns the header of the answer, which is not the client's.
func (p *probe) Header() http.Header { return p.header }

// WriteHeader decides what is done with the body.
func (p *probe) WriteHeader(status int) {
	if p.wroteHeader || status < 200 {
		return
	}
	p.wroteHeader = true
	p.status = status
	p.declared = contentLength(p.header)

	if p.relay(status) {
		p.relaying = true
		dropTrailers(p.header) // they would come too late for the copy
		maps.Copy(p.client.Header(), p.header)
		p.client.WriteHeader(status)
		return
	}
	if successful(status) {
		p.tag = p.handler.keptTag(status, p.header)
		p.lastModified = parseDate(p.header["Last-Modified"])
		switch {
		case !mayHold(status, p.header):
			p.settled = true
			p.cutoff.now()
			return
		case p.wantDigest, !p.tag.exists() && p.handler.taggable(status, p.header):
			p.hash = p.handler.algorithm.get()
			p.holding = p.handler.normalizer.mayNormalize(p.header) && p.declared <= p.handler.MaxSize
			return
		}
	}
	p.settled = true
	p.cutoff.start(p.declared)
}

// Write takes a piece of the body.
func (p *probe) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	switch {
	case p.relaying:
		n, err := p.client.Write(b)
		p.received += int64(n)
		return n, err
	case p.hash != nil:
		p.received += int64(len(b))
		p.hold(b)
		return p.hash.Write(b)
	default:
		return p.cutoff.drain(len(b))
	}
}

// FlushError does nothing, but for an answer that the client gets.
func (p *probe) FlushError() error {
	p.WriteHeader(http.StatusOK)
	if p.relaying {
		return http.NewResponseController(p.client).Flush()
	}
	return nil
}

// place is a place in the chain with a write at it, as that came there. What
// the write does further down, such as to rewrite the URI or to use up a group
// of routes, does not change it.
type place struct {
	handler *Handler
	next    caddyhttp.Handler
	request *http.Request // a GET where the client sent the write
	vars    map[string]any
	groups  map[string]struct{}
}

// routeGroupKey is where Caddy keeps the groups of routes that the request
// has used up: of the routes in a group, such as consecutive handle blocks,
// only the first that matches is run.
const routeGroupKey caddy.CtxKey = "route_group"

func (h *Handler) placeOf(r *http.Request, next caddyhttp.Handler) place {
	get := r.Clone(r.Context())
	get.Method = http.MethodGet
	get.Body = http.NoBody
	get.GetBody = nil
	get.ContentLength = 0
	get.TransferEncoding = nil
	get.Trailer = nil
	for name := range get.Header {
		if aboutBody(name) || conditional(name) {
			delete(get.Header, name)
		}
	}
	// A cache between here and the backend must not say what is current.
	get.Header.Set("Cache-Control", "no-cache")

	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	groups, _ := r.Context().Value(routeGroupKey).(map[string]struct{})
	return place{h, next, get, maps.Clone(vars), maps.Clone(groups)}
}

// internalGET makes the GET that a client would have sent for the resource,
// as it would stand at this place, with a life of its own: a replacer,
// variables, used up groups and log fields that start as the write's were, and
// don't come back to it. A placeholder is looked up in the GET first, then in
// the write.
func (p place) internalGET(ctx context.Context, w http.ResponseWriter) *http.Request {
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

// aboutBody reports whether a request field is about the body, or announces
// one.
func aboutBody(name string) bool {
	switch name {
	case "Digest", "Expect", "Repr-Digest", "Trailer", "Transfer-Encoding", "Upgrade", "Want-Content-Digest":
		return true
	}
	return strings.HasPrefix(name, "Content-")
}

// conditional reports whether a request field makes the answer another than
// the whole of the current representation. "If" is WebDAV's (RFC 4918 §10.4).
func conditional(name string) bool {
	switch name {
	case "If", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range":
		return true
	}
	return false
}

// Interface guards
var (
	_ http.ResponseWriter = (*probe)(nil)
	_ io.Writer           = (*probe)(nil)
)
