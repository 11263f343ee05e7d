package etag

import (
	"hash/maphash"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// changes counts how often resources have changed, for all handlers of the
// process. What was computed before a change, and arrives or is looked up after
// it, is not remembered.
//
// Resources share counters by their hash: that one forgets for another costs
// only time, and so the table never grows, and a write takes the same time
// whatever is remembered.
var changes = changeTable{seed: maphash.MakeSeed()}

const changeCounters = 1 << 16

type changeTable struct {
	seed     maphash.Seed
	all      atomic.Uint64 // changes of everything
	counters [changeCounters]atomic.Uint64
}

func (t *changeTable) counter(resource string) *atomic.Uint64 {
	return &t.counters[maphash.String(t.seed, resource)%changeCounters]
}

// count returns a number that differs from all earlier ones if the resource
// may have changed in the meantime.
func (t *changeTable) count(resource string) uint64 {
	return t.counter(resource).Load() + t.all.Load()
}

// add notes a change of a resource, given by its key.
func (t *changeTable) add(resource string) { t.counter(resource).Add(1) }

// addAll notes a change of all resources.
func (t *changeTable) addAll() { t.all.Add(1) }

// change is a request that may change a resource: remember forgets that before
// the request goes downstream, when its answer begins, as the client may read
// again from then on, and when downstream has ended.
type change struct {
	handler  *Handler
	request  *http.Request
	header   http.Header // of the answer
	resource string
}

func (h *Handler) newChange(w http.ResponseWriter, r *http.Request) change {
	return change{h, r, w.Header(), resourceKey(r)}
}

// forget forgets the resource, those that the answer names as changed or created
// (RFC 9111 §4.4), and the collection that the resource is in, as far as paths
// tell: a list of documents changes with each of them.
func (c change) forget() {
	if remembering.Load() == 0 {
		return
	}
	forgetResource(c.resource, c.handler.logger)
	if collection := collectionOf(c.resource); collection != c.resource {
		forgetResource(collection, c.handler.logger)
	}
	for _, name := range [...]string{"Location", "Content-Location"} {
		for _, line := range c.header[name] {
			if resource := c.named(line); resource != "" {
				forgetResource(resource, c.handler.logger)
			}
		}
	}
}

// collectionOf returns the key of the resource one level up.
func collectionOf(resource string) string {
	host, last := strings.IndexByte(resource, '/'), strings.LastIndexByte(resource, '/')
	if last <= host {
		return resource[:host+1]
	}
	return resource[:last]
}

// named returns the key of a resource that a field of the answer names, if it
// is one of the same host.
func (c change) named(reference string) string {
	target, err := url.Parse(strings.TrimSpace(reference))
	if err != nil {
		return ""
	}
	base := &url.URL{Scheme: "http", Host: c.request.Host, Path: originalURL(c.request).Path}
	target = base.ResolveReference(target)
	if hostKey(target.Host) != hostKey(c.request.Host) {
		return ""
	}
	return keyOf(target.Host, target.Path)
}

// isSafe reports whether a method changes nothing (RFC 9110 §9.2.1 and the
// IANA registry).
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodConnect,
		"PROPFIND", "REPORT", "SEARCH", "QUERY":
		return true
	}
	return false
}

// serveChange lets a request go downstream that is not guarded, and may change
// what is remembered.
func (h *Handler) serveChange(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	c := h.newChange(w, r)
	c.forget()
	defer c.forget()
	return next.ServeHTTP(watchAnswer(w, func(int) { c.forget() }, c.forget), r)
}
