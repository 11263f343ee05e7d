package etag

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const defaultLockTimeout = 10 * time.Second

// lockNamespace is where Caddy finds lockers.
const lockNamespace = "http.etag.locks."

// Locker is a lock service for the resources that are written to. Modules in
// the namespace http.etag.locks implement it; `lock` names the one to use.
//
// It is safe for concurrent use.
type Locker interface {
	// Lock waits until the lock for key is free, and takes it. Only one
	// holder at a time has it, in all processes that share the service, until
	// it calls Unlock or dies. If ctx ends first, Lock returns an error and
	// has not taken the lock. Every other error means that the service has
	// failed, and that nothing may be written.
	//
	// A key is any text, with no limit to its length.
	Lock(ctx context.Context, key string) error

	// Unlock gives back the lock that Lock took for key. It is called once
	// for each Lock that returned no error.
	Unlock(ctx context.Context, key string) error
}

// loadLocker returns the locker that the configuration names, nil if it is off.
func loadLocker(ctx caddy.Context, name string, options json.RawMessage) (Locker, error) {
	if name == "off" {
		return nil, nil
	}
	module, err := ctx.LoadModuleByID(lockNamespace+name, options)
	if err != nil {
		return nil, fmt.Errorf("invalid lock %q: must be local, storage, off or a module in %s: %w",
			name, strings.TrimSuffix(lockNamespace, "."), err)
	}
	locker, ok := module.(Locker)
	if !ok {
		return nil, fmt.Errorf("invalid lock %q: module %T is not a locker", name, module)
	}
	return locker, nil
}

// resourceKey names the resource that a request is for: the host in lower
// case, without the port, and the path as it was before any rewrite, decoded.
// Two spellings of a path may be one resource to the backend, and to have two
// resources share a lock costs only time. The query is left out for the same
// reason.
func resourceKey(r *http.Request) string {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	path := r.URL.Path
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		path = original.URL.Path
	}
	return strings.ToLower(host) + path
}

// errLockedOut means that the lock was not free within the timeout, or that
// the lock service has failed.
var errLockedOut = errors.New("the resource's lock could not be taken")

// lock takes the lock of the resource that the request is for. The error is
// errLockedOut, or the context's if the client has left.
func (h *Handler) lock(r *http.Request) (unlock func(), err error) {
	key := resourceKey(r)
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(h.LockTimeout))
	defer cancel()

	start := time.Now()
	if err := h.locker.Lock(ctx, key); err != nil {
		if left := r.Context().Err(); left != nil {
			return nil, left
		}
		if ctx.Err() == nil {
			h.logger.Error("taking the lock", zap.String("lock", h.Lock), zap.String("key", key), zap.Error(err))
		}
		return nil, errLockedOut
	}
	observeLockWait(start)
	return func() {
		// also when the client has left meanwhile
		ctx := context.WithoutCancel(r.Context())
		if err := h.locker.Unlock(ctx, key); err != nil {
			h.logger.Error("giving back the lock", zap.String("lock", h.Lock), zap.String("key", key), zap.Error(err))
		}
	}, nil
}
