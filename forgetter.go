package etag

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// forgetterNamespace is where the modules are that let several Caddys forget
// together.
const forgetterNamespace = "http.etag.forgetters"

// Forgetter tells the Caddys that remember the same resources what has changed.
// It is what a module in the namespace http.etag.forgetters implements, for the
// block of the remember option.
type Forgetter interface {
	// Forget tells all others that a resource has changed, given by its key;
	// "" stands for all. It returns when they are about to hear of it, and not
	// much later than ctx ends. What it could not tell, it tells as soon as it
	// can again: that all has changed, if need be.
	Forget(ctx context.Context, resource string) error

	// Listen has forget called for each resource of which another tells that it
	// has changed, "" for all, until stop is called.
	Listen(forget func(resource string)) (stop func())

	// Hears reports whether what others tell is heard at this moment. While it
	// is not, nothing is answered from memory; and before it is again, all has
	// been forgotten.
	Hears() bool
}

// forgetTimeout is for how long a write waits for the others to be told.
const forgetTimeout = 250 * time.Millisecond

// forgetters are those of all handlers of the process, by their configuration:
// one of those that are configured alike is enough to tell.
var forgetters = struct {
	mu   sync.RWMutex
	byID map[string][]Forgetter
}{byID: make(map[string][]Forgetter)}

// forgetResource forgets a resource here and everywhere; "" stands for all.
func forgetResource(resource string, logger *zap.Logger) {
	forgetHere(resource)
	forgetters.mu.RLock()
	defer forgetters.mu.RUnlock()
	if len(forgetters.byID) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), forgetTimeout)
	defer cancel()
	for _, alike := range forgetters.byID {
		if err := alike[0].Forget(ctx, resource); err != nil {
			logger.Error("telling other Caddys what has changed", zap.Error(err))
		}
	}
}

func forgetHere(resource string) {
	if resource == "" {
		changes.addAll()
	} else {
		changes.add(resource)
	}
}

// loadForgetter loads the forgetter that the configuration names, if it does.
func (h *Handler) loadForgetter(ctx caddy.Context) error {
	if len(h.RememberForgetterRaw) == 0 || string(h.RememberForgetterRaw) == "null" {
		h.RememberForgetterRaw = nil
		return nil
	}
	if h.Remember == 0 {
		return errors.New("invalid remember_forgetter without remember: must be beside a duration")
	}
	name, _, err := moduleOptions(h.RememberForgetterRaw)
	if err != nil {
		return errors.New(`invalid remember_forgetter: must be an object such as {"module": "redis"}`)
	}
	if !isForgetter(name) {
		return unknownForgetter(name)
	}
	var compact bytes.Buffer
	_ = json.Compact(&compact, h.RememberForgetterRaw)
	module, err := ctx.LoadModule(h, "RememberForgetterRaw")
	if err != nil {
		return fmt.Errorf("invalid remember_forgetter %s: %w", name, err)
	}
	forgetter, ok := module.(Forgetter)
	if !ok {
		return fmt.Errorf("invalid remember_forgetter %q: module %T is not a forgetter", name, module)
	}
	h.forgetter, h.forgetterID = forgetter, compact.String()
	h.stopListening = forgetter.Listen(forgetHere)

	forgetters.mu.Lock()
	defer forgetters.mu.Unlock()
	forgetters.byID[h.forgetterID] = append(forgetters.byID[h.forgetterID], forgetter)
	return nil
}

// releaseForgetter lets go of the forgetter.
func (h *Handler) releaseForgetter() {
	if h.forgetter == nil {
		return
	}
	h.stopListening()
	forgetters.mu.Lock()
	defer forgetters.mu.Unlock()
	alike := forgetters.byID[h.forgetterID]
	for i, other := range alike {
		if other == h.forgetter {
			alike = append(alike[:i:i], alike[i+1:]...)
			break
		}
	}
	if len(alike) == 0 {
		delete(forgetters.byID, h.forgetterID)
	} else {
		forgetters.byID[h.forgetterID] = alike
	}
}

// unmarshalForgetter parses the block of the remember option.
func (h *Handler) unmarshalForgetter(d *caddyfile.Dispenser) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if len(h.RememberForgetterRaw) > 0 {
			return d.Errf("too many modules for remember, %q: write one", name)
		}
		if !isForgetter(name) {
			return d.WrapErr(unknownForgetter(name))
		}
		module, err := caddy.GetModule(forgetterNamespace + "." + name)
		if err != nil {
			return d.WrapErr(err)
		}
		line, instance := lineOf(d.Token()), module.New()
		tokens := d.NextSegment()
		if unmarshaler, ok := instance.(caddyfile.Unmarshaler); ok {
			if err := unmarshaler.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
				return wrapOnce(line, err)
			}
		} else if len(tokens) > 1 {
			return line.Errf("remember %s takes no options", name)
		}
		h.RememberForgetterRaw = caddyconfig.JSONModuleObject(instance, "module", name, nil)
	}
	return nil
}

func isForgetter(name string) bool {
	_, err := caddy.GetModule(forgetterNamespace + "." + name)
	return name != "" && err == nil
}

func unknownForgetter(name string) error {
	modules := caddy.GetModules(forgetterNamespace)
	if len(modules) == 0 {
		return fmt.Errorf("invalid remember module %q: must be one in %s, of which this Caddy has none; the module redislock brings redis", name, forgetterNamespace)
	}
	names := make([]string, len(modules))
	for i, module := range modules {
		names[i] = module.ID.Name()
	}
	return fmt.Errorf("invalid remember module %q: must be %s, or another module in %s", name, strings.Join(names, " or "), forgetterNamespace)
}
