package etag

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// defaultRememberEntries is how many validators are remembered.
const defaultRememberEntries = 10_000

// maxRememberEntries take some 36 GB.
const maxRememberEntries = 100_000_000

// memory remembers which tags were issued to which questions, so that a 304
// needs no backend. It knows no bodies.
//
// The cache has no expiry of its own, and so needs no goroutine: what is too
// old is seen when it is looked up.
type memory struct {
	validators *otter.Cache[questionKey, *validator]
}

func newMemory(entries int) (*memory, error) {
	cache, err := otter.New(&otter.Options[questionKey, *validator]{
		MaximumSize: entries,
		Executor:    func(task func()) { task() },
	})
	if err != nil {
		return nil, err
	}
	return &memory{cache}, nil
}

// validator is what is remembered of an answer.
type validator struct {
	text      string  // the tag, and lines for the header of a 304
	asked     instant // when downstream was
	changes   uint64  // of the resource, when downstream was asked
	size      int64   // of the body, -1 if that is not known
	tagLength int     // in bytes
	age       int32   // that the answer had, in seconds
	ours      bool    // the tag is
}

func (v *validator) representation() representation {
	return representation{tag: entityTag{v.text[:v.tagLength]}, ours: v.ours}
}

// ageAt returns the age of the answer, in seconds.
func (v *validator) ageAt(at instant) int64 {
	return int64(v.age) + int64(at.since(v.asked)/time.Second)
}

// newValidator returns what to remember of an answer with a tag and this
// header; nil if nothing may be. No size of a body is known.
func newValidator(q *question, tag entityTag, ours bool, header http.Header) *validator {
	if !mayRemember(header) {
		return nil
	}
	var text strings.Builder
	text.WriteString(tag.field)
	for _, name := range [...]string{"Cache-Control", "Content-Location", "Expires", "Vary"} {
		addLines(&text, name, header[name])
	}
	for name, lines := range header {
		if strings.HasPrefix(name, "Access-Control-") {
			addLines(&text, name, lines)
		}
	}
	v := &validator{text: text.String(), tagLength: len(tag.field), asked: q.at, changes: q.changes, ours: ours, size: -1}
	if age, err := strconv.ParseInt(header.Get("Age"), 10, 32); err == nil && age > 0 {
		v.age = int32(age)
	}
	return v
}

// mayRemember reports whether an answer is one for whoever asks the same: it
// is not for one client alone, nor does it depend on what the question lacks.
func mayRemember(header http.Header) bool {
	if len(header["Set-Cookie"]) > 0 || !mayStore(header) {
		return false
	}
	for name := range directives(header["Vary"]) {
		if name == "*" || changesNoAnswer(http.CanonicalHeaderKey(name)) {
			return false
		}
	}
	return true
}

func addLines(text *strings.Builder, name string, lines []string) {
	for _, line := range lines {
		text.WriteString(name)
		text.WriteByte(':')
		text.WriteString(line)
		text.WriteByte('\n')
	}
}

// setFields sets the fields of the answer in the header of a 304.
func (v *validator) setFields(header http.Header) {
	fields := v.text[v.tagLength:]
	if fields == "" {
		return
	}
	lines := make([]string, 0, strings.Count(fields, "\n"))
	last := ""
	for line := range strings.SplitSeq(strings.TrimSuffix(fields, "\n"), "\n") {
		name, value, _ := strings.Cut(line, ":")
		lines = append(lines, value)
		if name == last {
			header[name] = append(header[name], value)
			continue
		}
		header[name] = lines[len(lines)-1 : len(lines) : len(lines)]
		last = name
	}
}

// remembered returns the validator by which a read is a 304, nil if there is
// none: no tag that the client has was issued to its question, recently enough
// and since the resource was last written.
func (h *Handler) remembered(q *question, r *http.Request, c *conditions) *validator {
	if c.ifNoneMatch.empty() || !c.ifMatch.empty() || !c.ifUnmodifiedSince.IsZero() {
		return nil
	}
	if h.forgetter != nil && (!h.forgetter.Hears() || changes.count(q.written) != q.changes) {
		return nil // if it hears again since the question was asked, all has been forgotten meanwhile
	}
	v, ok := h.memory.validators.GetIfPresent(q.key)
	switch {
	case !ok, v.changes != q.changes, q.at.since(v.asked) > time.Duration(h.Remember), wantsFresh(r.Header, v.ageAt(q.at)):
		return nil
	case !v.representation().listed(c.ifNoneMatch, entityTag.weakMatch, c.accepted):
		return nil
	}
	return v
}

// sendRemembered answers a read with a 304 that needs no backend.
func (h *Handler) sendRemembered(w http.ResponseWriter, r *http.Request, q *question, v *validator, c *conditions) {
	header := w.Header()
	seen := new(observation)
	seen.begin(r, w)
	seen.decide(outcomeNotModified, reasonRemembered)

	h.dropForNotModified(header, v.representation(), nil)
	v.setFields(header)
	values := [...]string{
		c.spelling(v.representation()).field,
		v.asked.date().Format(http.TimeFormat),
		strconv.FormatInt(v.ageAt(q.at), 10),
	}
	header["Etag"] = values[0:1:1]
	header["Date"] = values[1:2:2]
	header["Age"] = values[2:3:3]
	if r.Method == http.MethodGet && v.size >= 0 {
		countSaved(v.size)
	}
	w.WriteHeader(http.StatusNotModified)
	seen.count(kindRead)
	if h.isDebugging() {
		h.logDecision(r, "decided on the read", seen, zap.Int("status", http.StatusNotModified))
	}
}

// issue remembers a tag that the response is about to be sent with. It does so
// at once if nothing that still comes of the response matters, else when that
// is complete. The size is that of the body, -1 if it is not known.
func (rd *read) issue(tag entityTag, size int64, atOnce bool) {
	may := successful(rd.status) && rd.status != http.StatusPartialContent || rd.status == http.StatusNotModified
	if rd.question == nil || !tag.exists() || !may {
		return
	}
	rd.issued = newValidator(rd.question, tag, rd.tagging.ours(), rd.client.Header())
	if rd.issued == nil {
		return
	}
	if !rd.head {
		rd.issued.size = size
	}
	if atOnce {
		rd.remember()
	}
}

// remember remembers what has been issued, unless the resource has been written
// meanwhile.
func (rd *read) remember() {
	if rd.issued.changes == changes.count(rd.question.written) {
		rd.handler.memory.validators.Set(rd.question.key, rd.issued)
	}
	rd.remembered = true
}

// rememberAnswer remembers the tag of a response that is complete, if that has
// not been done. One that has no tag to remember ends what was remembered.
func (rd *read) rememberAnswer(err error) {
	switch {
	case rd.remembered:
	case rd.issued != nil && err == nil && (rd.declared < 0 || rd.received == rd.declared):
		rd.issued.size = rd.received
		rd.remember()
	case rd.seen.decided() != outcomeFailed: // which says nothing of the resource
		rd.handler.memory.validators.Invalidate(rd.question.key)
	}
}

// memories are those of all handlers of the process. Handlers of an old and a
// new configuration that are configured alike share theirs, so that a reload
// forgets nothing.
var memories = struct {
	pool  *caddy.UsagePool
	mu    sync.Mutex
	taken map[takenMemory]struct{}
}{
	pool:  caddy.NewUsagePool(),
	taken: make(map[takenMemory]struct{}),
}

// memoryKey is what a memory is known by: how its handler is configured, and a
// number that tells it from others that are configured alike.
type memoryKey struct {
	config string
	number int
}

// takenMemory is a memory that a handler of a configuration has, which is
// known by its registry.
type takenMemory struct {
	of *prometheus.Registry
	memoryKey
}

// remembering counts the handlers that remember.
var remembering atomic.Int64

// provisionMemory gives the handler its memory. It is called before the
// defaults are filled in.
func (h *Handler) provisionMemory(ctx caddy.Context) error {
	if h.Remember <= 0 {
		return h.loadForgetter(ctx) // which refuses one
	}
	entries := h.RememberEntries
	if entries <= 0 {
		entries = defaultRememberEntries
	}
	config, err := json.Marshal(h)
	if err != nil {
		return err
	}

	memories.mu.Lock()
	defer memories.mu.Unlock()
	key := takenMemory{ctx.GetMetricsRegistry(), memoryKey{config: string(config)}}
	for {
		if _, taken := memories.taken[key]; !taken {
			break
		}
		key.number++
	}
	shared, _, err := memories.pool.LoadOrNew(key.memoryKey, func() (caddy.Destructor, error) { return newMemory(entries) })
	if err != nil {
		return err
	}
	memories.taken[key] = struct{}{}
	h.memory, h.memoryTaken = shared.(*memory), key
	remembering.Add(1)
	return h.loadForgetter(ctx)
}

// Destruct implements caddy.Destructor.
func (m *memory) Destruct() error { return nil }

// releaseMemory gives the memory back.
func (h *Handler) releaseMemory() error {
	h.releaseForgetter()
	if h.memory == nil {
		return nil
	}
	remembering.Add(-1)
	memories.mu.Lock()
	defer memories.mu.Unlock()
	delete(memories.taken, h.memoryTaken)
	_, err := memories.pool.Delete(h.memoryTaken.memoryKey)
	return err
}
