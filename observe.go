package etag

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
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
)

// metrics are what all handlers of the process count. Caddy has a new registry
// for each configuration that it loads, into which they are registered again,
// so that they survive that.
var metrics = struct {
	outcomes *prometheus.CounterVec
	saved    prometheus.Counter
	held     prometheus.GaugeFunc
	lockWait prometheus.Histogram
}{
	outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy",
		Subsystem: "http_etag",
		Name:      "outcomes_total",
		Help:      "Requests by what the etag handler made of them.",
	}, []string{"outcome"}),
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
	}, func() float64 { return float64(heldBytes.Load()) }),
	lockWait: prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "caddy",
		Subsystem: "http_etag",
		Name:      "lock_wait_seconds",
		Help:      "Time that writes have waited for the lock of their resource, one observation a lock taken.",
		Buckets:   []float64{.0001, .001, .01, .1, .5, 1, 2.5, 5, 10, 30},
	}),
}

// heldBytes is what all handlers hold.
var heldBytes atomic.Int64

// registerMetrics registers the metrics with the registry of a configuration.
// All handlers of a configuration do, and only the first one can.
func registerMetrics(registry *prometheus.Registry) error {
	for _, collector := range []prometheus.Collector{metrics.outcomes, metrics.saved, metrics.held, metrics.lockWait} {
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
	mu      sync.Mutex
	outcome string
	header  http.Header // of the response
}

// decide notes the outcome.
func (o *observation) decide(outcome string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.outcome = outcome
}

func (o *observation) decided() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.outcome
}

// show makes o what the placeholders of a request tell.
func (o *observation) show(r *http.Request) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.etag.outcome", (*outcomePlaceholder)(o))
		repl.Set("http.etag.tag", (*tagPlaceholder)(o))
	}
}

// count adds the request to the metrics.
func (o *observation) count() {
	if outcome := o.decided(); outcome != "" { // else nothing was written
		metrics.outcomes.WithLabelValues(outcome).Inc()
	}
}

type (
	outcomePlaceholder observation
	tagPlaceholder     observation
)

func (p *outcomePlaceholder) String() string { return (*observation)(p).decided() }

// String returns the tag that the response has now: encode may yet add to it.
func (p *tagPlaceholder) String() string {
	if (*observation)(p).decided() == "" {
		return ""
	}
	return responseTag(p.header).field
}

// countSaved counts a body that a 304 to a GET did not send.
func countSaved(length int64) { metrics.saved.Add(float64(length)) }

func observeLockWait(since time.Time) { metrics.lockWait.Observe(time.Since(since).Seconds()) }
