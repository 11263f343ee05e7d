package etag

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(StorageLock{})
}

// StorageLock locks resources in Caddy's storage, and so across all Caddys
// that share it: files, or whatever storage module is configured. How long it
// takes for the lock of a process that died to become free is up to the
// storage.
type StorageLock struct {
	storage certmagic.Locker
}

// CaddyModule returns the Caddy module information.
func (StorageLock) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  lockNamespace + "storage",
		New: func() caddy.Module { return new(StorageLock) },
	}
}

// Provision finds the storage.
func (l *StorageLock) Provision(ctx caddy.Context) error {
	l.storage = ctx.Storage()
	return nil
}

// Lock implements Locker. The process's own lock comes first: it has its
// waiters in order, and only one of them polls the storage.
func (l *StorageLock) Lock(ctx context.Context, key string) error {
	if err := processLocks.lock(ctx, key); err != nil {
		return err
	}
	if err := l.storage.Lock(ctx, storageLockName(key)); err != nil {
		processLocks.unlock(key)
		return err
	}
	return nil
}

// Unlock implements Locker.
func (l *StorageLock) Unlock(ctx context.Context, key string) error {
	defer processLocks.unlock(key)
	return l.storage.Unlock(ctx, storageLockName(key))
}

// storageLockName is a name that any storage can take. The key itself would
// not do: Caddy's file storage, for one, maps "/a b" and "/a_b" to one file.
func storageLockName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "etag-" + hex.EncodeToString(sum[:])
}

// Interface guards
var (
	_ caddy.Provisioner = (*StorageLock)(nil)
	_ Locker            = (*StorageLock)(nil)
)
