package etag

import (
	"errors"
	"net/http"
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

// observe tells what the handler made of a request: to the metrics, and in the
// placeholders {http.etag.outcome} and {http.etag.tag}, the tag that the
// response has.
func observe(r *http.Request, outcome string, header http.Header) {
	if outcome == "" {
		return // nothing was written
	}
	metrics.outcomes.WithLabelValues(outcome).Inc()
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.etag.outcome", outcome)
		repl.Set("http.etag.tag", responseTag(header).field)
	}
}

// countSaved counts a body that a 304 to a GET did not send.
func countSaved(length int64) { metrics.saved.Add(float64(length)) }

func observeLockWait(since time.Time) { metrics.lockWait.Observe(time.Since(since).Seconds()) }
