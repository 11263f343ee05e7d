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
// storage. It has no shared locks: writes to one resource exclude each other,
// with preconditions or without.
type StorageLock struct {
	storage certmagic.Locker
}

// CaddyModule returns the Caddy module information.
func (StorageLock) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  lockNamespace + ".storage",
		New: func() caddy.Module { return new(StorageLock) },
	}
}

// Provision finds the storage.
func (l *StorageLock) Provision(ctx caddy.Context) error {
	l.storage = ctx.Storage()
	return nil
}

// storageQueue has this process's waiters for locks of a storage in order, so
// that only one of them polls the storage.
var storageQueue lockTable

// Lock implements Locker.
func (l *StorageLock) Lock(ctx context.Context, key string) (Lock, error) {
	queued, err := storageQueue.lock(ctx, key, false)
	if err != nil {
		return nil, err
	}
	name := storageLockName(key)
	if err := l.storage.Lock(ctx, name); err != nil {
		_ = queued.Unlock(ctx) // never fails
		return nil, err
	}
	return &storageLock{storage: l.storage, name: name, queued: queued}, nil
}

// storageLockName is a name that any storage can take. The key itself would
// not do: Caddy's file storage, for one, maps "/a b" and "/a_b" to one file.
func storageLockName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "etag-" + hex.EncodeToString(sum[:])
}

// storageLock is a StorageLock that is held. It can't tell who waits for it in
// other processes, nor whether it is lost.
type storageLock struct {
	storage certmagic.Locker
	name    string
	queued  Lock
}

func (l *storageLock) Unlock(ctx context.Context) error {
	defer func() { _ = l.queued.Unlock(ctx) }() // never fails
	return l.storage.Unlock(ctx, l.name)
}

func (l *storageLock) Lost() <-chan struct{} { return nil }

// Interface guards
var (
	_ caddy.Provisioner = (*StorageLock)(nil)
	_ Locker            = (*StorageLock)(nil)
	_ Lock              = (*storageLock)(nil)
)
