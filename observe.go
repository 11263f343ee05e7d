package etag

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// The outcomes of a request.
const (
	outcomeTagged      = "tagged"       // with a tag of ours
	outcomeKept        = "kept"         // with the tag that the backend gave it
	outcomeNotModified = "not_modified" // 304
	outcomeFailed      = "failed"       // 412
	outcomeBypassed    = "bypassed"     // neither tagged nor kept; a write: answered with the internal GET's answer
	outcomePassed      = "passed"       // a write that went downstream
	outcomeRequired    = "required"     // 428
	outcomeLockedOut   = "locked_out"   // 503
	outcomeTimedOut    = "timed_out"    // 504
	outcomeError       = "error"        // a read whose handler further down ended in an error
)

// metrics are what all handlers of the process count. Caddy has a new registry
// for each configuration that it loads, into which they are registered again,
// so that they survive that.
var metrics = struct {
	outcomes *prometheus.CounterVec
	saved    prometheus.Counter
	held     prometheus.GaugeFunc
	lockWait prometheus.Histogram

	internalGETs prometheus.Counter
}{
	outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy",
		Subsystem: "http_etag",
		Name:      "outcomes_total",
		Help:      "Requests by their kind (read or write), what the etag handler made of them, and why.",
	}, []string{"kind", "outcome", "reason"}),
	saved: prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "caddy",
		Subsystem: "http_etag",
		Name:      "saved_bytes_total",
		Help:      "Bytes of body that 304 responses to GET requests did not send, where the length is known.",
	}),
	held: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "caddy",
		Subsystem: "http_etag",
		Name:      "held_bytes",
		Help:      "Bytes of memory that bodies take which are held at this moment.",
	}, func() float64 { return float64(held.Total()) }),
	lockWait: prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "caddy",
		Subsystem: "http_etag",
		Name:      "lock_wait_seconds",
		Help:      "Time that writes have waited for the lock of their resource, one observation a lock taken.",
		Buckets:   []float64{.0001, .001, .01, .1, .5, 1, 2.5, 5, 10, 30},
	}),
	internalGETs: prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "caddy",
		Subsystem: "http_etag",
		Name:      "internal_gets_total",
		Help:      "GET requests that this handler has made to see the current representation.",
	}),
}

// registerMetrics registers the metrics with the registry of a configuration.
// All handlers of a configuration do, and only the first one can.
func registerMetrics(registry *prometheus.Registry) error {
	for _, collector := range []prometheus.Collector{metrics.outcomes, metrics.saved, metrics.held, metrics.lockWait, metrics.internalGETs} {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(collector); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

// observation is what the placeholders of a request tell: nothing until it is
// decided what becomes of the request, and then, as the response's header is
// not sent before, the same to all who see that.
type observation struct {
	replacer *caddy.Replacer // of the request; nil outside of a server

	// client is whom the response is written to. Its header map must be asked for
	// each time: that of a handler above, whose hold timer may send it at any
	// time, is another one from then on.
	client http.ResponseWriter

	mu      sync.Mutex
	outcome string
	reason  reason
	shown   bool
}

// begin begins to observe a request and the response to it.
func (o *observation) begin(r *http.Request, client http.ResponseWriter) {
	o.client = client
	o.replacer, _ = r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
}

// decide notes the outcome, and why it is that. Of the handlers that a response
// passes, the outermost is the last one to decide, and is the one that shows.
func (o *observation) decide(outcome string, why reason) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.outcome, o.reason = outcome, why
	if !o.shown {
		o.show()
	}
}

func (o *observation) decided() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.outcome
}

func (o *observation) why() reason {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reason
}

// show makes o what the placeholders of its request tell. To show it again is
// for who has decided before a handler further down did.
func (o *observation) show() {
	o.shown = true
	if o.replacer != nil {
		o.replacer.Set("http.etag.outcome", (*outcomePlaceholder)(o))
		o.replacer.Set("http.etag.reason", (*reasonPlaceholder)(o))
		o.replacer.Set("http.etag.tag", (*tagPlaceholder)(o))
	}
}

// showNothing makes the placeholders of a request empty of which nothing is
// decided here. A handler above may have decided.
func showNothing(r *http.Request) {
	replacer, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	for _, name := range []string{"http.etag.outcome", "http.etag.reason", "http.etag.tag"} {
		if _, known := replacer.Get(name); !known {
			replacer.Set(name, "")
		}
	}
}

// The kinds of requests.
const (
	kindRead  = "read"
	kindWrite = "write"
)

// frequent are the counters of what most requests come to. To find a counter by
// its labels took a tenth of all that this handler does for a small response.
var frequent = struct{ tagged, kept, notModified func() prometheus.Counter }{
	tagged:      frequentCounter(kindRead, outcomeTagged, ""),
	kept:        frequentCounter(kindRead, outcomeKept, ""),
	notModified: frequentCounter(kindRead, outcomeNotModified, reasonIfNoneMatch),
}

func frequentCounter(kind, outcome string, why reason) func() prometheus.Counter {
	return sync.OnceValue(func() prometheus.Counter {
		return metrics.outcomes.WithLabelValues(kind, outcome, string(why))
	})
}

// count adds the request to the metrics.
func (o *observation) count(kind string) {
	o.mu.Lock()
	outcome, why := o.outcome, o.reason
	o.mu.Unlock()
	switch {
	case outcome == "": // nothing was written
	case kind == kindRead && outcome == outcomeTagged && why == "":
		frequent.tagged().Inc()
	case kind == kindRead && outcome == outcomeKept && why == "":
		frequent.kept().Inc()
	case kind == kindRead && outcome == outcomeNotModified && why == reasonIfNoneMatch:
		frequent.notModified().Inc()
	default:
		metrics.outcomes.WithLabelValues(kind, outcome, string(why)).Inc()
	}
}

type (
	outcomePlaceholder observation
	reasonPlaceholder  observation
	tagPlaceholder     observation
)

func (p *outcomePlaceholder) String() string { return (*observation)(p).decided() }

func (p *reasonPlaceholder) String() string { return string((*observation)(p).why()) }

// String returns the tag that the response has now: encode may yet add to it.
func (p *tagPlaceholder) String() string {
	o := (*observation)(p)
	if o.decided() == "" {
		return ""
	}
	for w := o.client; w != nil; w = writerAbove(w) {
		if above, ok := w.(interface{ isBusy() bool }); ok && above.isBusy() {
			// It sends a hint (1xx), before there is a tag; or, from a hold timer, a
			// response to a client that nobody here should wait for.
			return ""
		}
	}
	return responseTag(o.client.Header()).field
}

// countSaved counts a body that a 304 to a GET did not send.
func countSaved(length int64) { metrics.saved.Add(float64(length)) }

func observeLockWait(since time.Time) { metrics.lockWait.Observe(time.Since(since).Seconds()) }
