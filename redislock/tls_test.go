package redislock

import (
	"context"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyetag/caddy-etag/internal/testcert"
	"github.com/caddyetag/caddy-etag/locktest/clustertest"
)

// TestTLS: the server's certificate is verified, with the authority that is
// configured, and nothing is sent in the clear.
func TestTLS(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("there is no redis-server; Debian has it in the package redis-server")
	}
	certificates, err := testcert.Make(t.TempDir())
	require.NoError(t, err)
	others, err := testcert.Make(t.TempDir())
	require.NoError(t, err)
	port := clustertest.FreePort(t)
	address := "127.0.0.1:" + port
	clustertest.StartProcess(t, exec.Command("redis-server", "--port", "0", "--tls-port", port, "--bind", "127.0.0.1", //nolint:noctx // it ends with the test
		"--tls-cert-file", certificates.Certificate, "--tls-key-file", certificates.Key, "--tls-ca-cert-file", certificates.CA,
		"--tls-auth-clients", "no", "--save", "", "--appendonly", "no", "--dir", t.TempDir()))

	locker := func(l Locker) *Locker {
		l.Address, l.Expiry = []string{address}, caddy.Duration(minExpiry)
		return provision(t, &l)
	}
	right := locker(Locker{TLSCA: certificates.CA})
	clustertest.Eventually(t, "Redis answers over TLS", func() bool {
		lock, err := right.Lock(context.Background(), "doc")
		return err == nil && lock.Unlock(context.Background()) == nil
	})

	for name, l := range map[string]*Locker{
		"of another authority": locker(Locker{TLSCA: others.CA}),
		"of the system's":      locker(Locker{TLS: true}),
	} {
		_, err := l.Lock(context.Background(), "doc")
		require.Error(t, err, name)
	}
	_, err = locker(Locker{}).Lock(context.Background(), "doc")
	require.Error(t, err, "in the clear")
}
