package etag

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// requestFields tell which request a line of the log is about: by the path as
// the client sent it, and without the query, which may have credentials.
func requestFields(r *http.Request) []zap.Field {
	return []zap.Field{
		zap.String("method", r.Method),
		zap.String("host", r.Host),
		zap.String("path", originalURL(r).EscapedPath()),
	}
}

// logDecision says at debug what became of a request, and by what.
func (h *Handler) logDecision(r *http.Request, message string, seen *observation, more ...zap.Field) {
	c := h.logger.Check(zapcore.DebugLevel, message)
	if c == nil {
		return
	}
	fields := append(requestFields(r),
		zap.String("outcome", seen.decided()),
		zap.String("reason", string(seen.why())),
		zap.String("tag", responseTag(seen.client.Header()).field))
	for _, name := range [...]string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if lines, ok := r.Header[name]; ok {
			fields = append(fields, zap.String(strings.ReplaceAll(strings.ToLower(name), "-", "_"), strings.Join(lines, ", ")))
		}
	}
	c.Write(append(fields, more...)...)
}

// isDebugging reports whether decisions are logged: if not, what is only for
// the log need not be made.
func (h *Handler) isDebugging() bool { return h.logger.Core().Enabled(zapcore.DebugLevel) }

// warnInterval is the time in which it is said once that max_memory is used up.
const warnInterval = time.Minute

// memoryWarning is when the handler last said that max_memory is used up.
type memoryWarning struct{ last atomic.Int64 }

// warnNoMemory says that max_memory is used up.
func (h *Handler) warnNoMemory() {
	now, last := now().steady, h.memoryWarned.last.Load()
	if last != 0 && now-last < int64(warnInterval) || !h.memoryWarned.last.CompareAndSwap(last, now) {
		return
	}
	h.logger.Warn("max_memory is used up: responses pass without a tag, and guarded writes get a 503",
		zap.Int64("max_memory", h.MaxMemory), zap.Int64("held", h.budget.Held()), zap.Int64("held_by_all", held.Total()))
}
