package etag_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"

	etag "github.com/caddyetag/caddy-etag"
	"github.com/caddyetag/caddy-etag/locktest"
)

func TestLocalLock(t *testing.T) {
	locktest.Run(t, func(testing.TB) etag.Locker { return new(etag.LocalLock) })
}

// TestStorageLock is of Caddy's default storage, files.
func TestStorageLock(t *testing.T) {
	dir := t.TempDir()
	locktest.Run(t, func(tb testing.TB) etag.Locker {
		ctx, err := caddy.ProvisionContext(&caddy.Config{
			Admin:      &caddy.AdminConfig{Disabled: true},
			StorageRaw: json.RawMessage(fmt.Sprintf(`{"module": "file_system", "root": %q}`, dir)),
		})
		require.NoError(tb, err)
		locker := new(etag.StorageLock)
		require.NoError(tb, locker.Provision(ctx))
		return locker
	})
}
