package etag

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	defaultLock        = "local"
	defaultLockTimeout = 10 * time.Second
	defaultLockHold    = time.Minute
)

// lockNamespace is where Caddy finds lockers.
const lockNamespace = "http.etag.locks"

// Locker is a lock service for the resources that are written to. Modules in
// the namespace http.etag.locks implement it; `lock` names the one to use.
//
// It is safe for concurrent use. Caddy calls its Cleanup, if it has one, when
// a configuration is replaced, while writes of that configuration may still
// wait for locks and hold them: what the service needs must stay open until
// the last of them is given back.
type Locker interface {
	// Lock waits until the lock for key is free, and takes it. Only one
	// holder at a time has it, in all processes that share the service, until
	// it is given back or its holder dies. If ctx ends first, Lock returns
	// ctx.Err() and has not taken the lock. Every other error means that the
	// service has failed, and that nothing may be written.
	//
	// A key is any text, with no limit to its length. The handler does not
	// wait for a Lock that goes on after ctx has ended; a lock that it takes
	// all the same is given back at once.
	Lock(ctx context.Context, key string) (Lock, error)
}

// SharedLocker is a Locker that also has shared locks: any number of holders
// at a time, but none beside the holder of an exclusive lock. Who waits for an
// exclusive lock should let no new shared one in. Writes without preconditions
// take shared locks where there are any.
type SharedLocker interface {
	Locker

	// RLock is Lock for a shared lock.
	RLock(ctx context.Context, key string) (Lock, error)
}

// Lock is a lock that is held. A Lock may also be a ContendedLock.
type Lock interface {
	// Unlock gives the lock back. It is called once, also when the lock is
	// lost. The handler does not wait for an Unlock that goes on after ctx has
	// ended.
	Unlock(ctx context.Context) error

	// Lost returns a channel that is closed when the lock may have got another
	// holder though it was not given back, such as when it could not be
	// renewed. It is nil for a lock that can't be lost. A write that has not
	// gone to the backend by then is not sent, and the answer to one that has
	// gets no new tag. It may be asked after Unlock, too.
	Lost() <-chan struct{}
}

// ContendedLock is a Lock that knows who waits for it.
type ContendedLock interface {
	Lock

	// Wanted returns a channel that is closed as soon as somebody waits for the
	// lock. A write that takes longer than the hold time goes on until then;
	// with a lock that is not a ContendedLock, it is canceled.
	Wanted() <-chan struct{}
}

// loadLocker loads the locker that the configuration names.
func (h *Handler) loadLocker(ctx caddy.Context) (err error) {
	if len(h.LockRaw) == 0 || string(h.LockRaw) == "null" {
		h.LockRaw = caddyconfig.JSONModuleObject(struct{}{}, "module", defaultLock, nil)
	}
	var options map[string]json.RawMessage
	if h.lockName, options, err = moduleOptions(h.LockRaw); err != nil {
		return errors.New(`invalid lock: must be an object such as {"module": "local"}`)
	}
	id, err := json.Marshal(options) // in the order of their names
	if err != nil {
		return err
	}
	h.lockID = string(id)

	instance, err := newLocker(h.lockName)
	if err != nil {
		return err
	}
	if len(options) > 1 && takesNoOptions(instance) {
		delete(options, "module")
		return fmt.Errorf("invalid lock option %q: lock %s takes no options", slices.Min(slices.Collect(maps.Keys(options))), h.lockName)
	}
	module, err := ctx.LoadModule(h, "LockRaw")
	if err != nil {
		return fmt.Errorf("invalid lock %s: %w", h.lockName, err)
	}
	h.locker = module.(Locker)
	return nil
}

// moduleOptions returns the name of the module that a configuration is of, and
// the options by their names, as Caddy reads them: in lower case. An error does
// not show what it is of, as that may have a password.
func moduleOptions(config json.RawMessage) (name string, options map[string]json.RawMessage, err error) {
	if err := json.Unmarshal(config, &options); err != nil {
		return "", nil, err
	}
	if module, ok := options["module"]; ok {
		if err := json.Unmarshal(module, &name); err != nil {
			return "", nil, err
		}
	}
	return name, options, nil
}

// newLocker returns a locker that is not set up yet.
func newLocker(name string) (Locker, error) {
	module, err := caddy.GetModule(lockNamespace + "." + name)
	if err != nil {
		return nil, fmt.Errorf("invalid lock %q: must be %s", name, lockNames())
	}
	instance := module.New()
	locker, ok := instance.(Locker)
	if !ok {
		return nil, fmt.Errorf("invalid lock %q: module %T is not a locker", name, instance)
	}
	return locker, nil
}

// takesNoOptions reports whether a module is one without any field to set.
func takesNoOptions(module any) bool {
	if _, ok := module.(json.Unmarshaler); ok {
		return false
	}
	structure := reflect.Indirect(reflect.ValueOf(module)).Type()
	return structure.Kind() == reflect.Struct && len(jsonOptions(structure)) == 0
}

// lockNames lists the lockers of this Caddy.
func lockNames() string {
	modules := caddy.GetModules(lockNamespace)
	names := make([]string, len(modules))
	for i, module := range modules {
		names[i] = module.ID.Name()
	}
	return strings.Join(names, " or ") + ", or another module in " + lockNamespace
}

// resourceKey names the resource that a request is for: the host without port,
// brackets and trailing dot, and the path as it was before any rewrite,
// decoded and cleaned, all in lower case, without the query. Two names of one
// resource must not have two locks; that two resources share one costs only
// time.
func resourceKey(r *http.Request) string {
	return keyOf(r.Host, originalURL(r).Path)
}

// keyOf is the key of a resource with this host and decoded path.
func keyOf(host, decodedPath string) string {
	return hostKey(host) + strings.ToLower(path.Clean("/"+decodedPath))
}

// hostKey is the part of a key that is the host.
func hostKey(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// originalURL returns the URL that the client sent, as it was before any
// rewrite.
func originalURL(r *http.Request) *url.URL {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return original.URL
	}
	return r.URL
}

var (
	// errBusy means that the lock was not free within the timeout.
	errBusy = errors.New("the resource's lock was not free in time")

	// errLockFailed means that the lock service failed.
	errLockFailed = errors.New("the lock service failed")
)

const (
	// lockGrace is for how long a locker whose context has ended may take to
	// say so, before it counts as hanging.
	lockGrace = 250 * time.Millisecond

	// unlockTimeout is for how long giving a lock back may take.
	unlockTimeout = 2 * time.Second
)

// takeLock takes the lock of a resource. The error is errBusy, errLockFailed, or
// that of the client's context if the client has left. It does not trust the
// locker to return in time.
func (h *Handler) takeLock(client context.Context, key string, shared bool) (Lock, error) {
	ctx, cancel := context.WithTimeout(client, time.Duration(h.LockTimeout))
	defer cancel()

	start := time.Now()
	lock, err := h.awaitLock(ctx, key, shared)
	if err == nil {
		if _, none := lock.(noLock); !none {
			observeLockWait(start)
		}
		return lock, nil
	}
	switch {
	case client.Err() != nil:
		return nil, client.Err()
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil, errBusy
	}
	h.logger.Error("taking a resource's lock", zap.String("lock", h.lockName), zap.String("key", key), zap.Error(err))
	return nil, errLockFailed
}

// awaitLock calls the locker, and waits for it no longer than ctx lasts.
func (h *Handler) awaitLock(ctx context.Context, key string, shared bool) (Lock, error) {
	lockFunc := h.locker.Lock
	if sharedLocker, ok := h.locker.(SharedLocker); ok && shared {
		lockFunc = sharedLocker.RLock
	}
	if _, prompt := h.locker.(promptLocker); prompt {
		return lockFunc(ctx, key)
	}

	type result struct {
		lock Lock
		err  error
	}
	results := make(chan result, 1)
	go func() {
		var r result
		r.err = survive(func() (err error) {
			r.lock, err = lockFunc(ctx, key)
			return err
		})
		results <- r
	}()

	select {
	case r := <-results:
		return r.lock, r.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(lockGrace)
	defer grace.Stop()
	select {
	case r := <-results:
		if r.err == nil {
			return r.lock, nil
		}
		return nil, r.err
	case <-grace.C:
	}
	go func() {
		if r := <-results; r.err == nil {
			h.giveBack(r.lock, key)
		}
	}()
	return nil, errors.New("the lock service does not answer")
}

// survive makes a panic an error: a locker is called in a goroutine that nobody
// else recovers, and that would end Caddy.
func survive(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the locker panicked: %v", p)
		}
	}()
	return f()
}

// promptLocker is a Locker whose methods are known to return as soon as their
// context ends.
type promptLocker interface{ prompt() }

// giveBack gives a lock back, and waits for that no longer than it may take.
func (h *Handler) giveBack(lock Lock, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), unlockTimeout)
	unlock := func() {
		defer cancel()
		if err := survive(func() error { return lock.Unlock(ctx) }); err != nil {
			h.logger.Error("giving back a resource's lock", zap.String("lock", h.lockName), zap.String("key", key), zap.Error(err))
		}
	}
	if _, prompt := h.locker.(promptLocker); prompt {
		unlock()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		unlock()
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
