package etcdlock

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"

	etag "github.com/caddyetag/caddy-etag"
	"github.com/caddyetag/caddy-etag/internal/testcert"
	"github.com/caddyetag/caddy-etag/locktest/clustertest"
)

// TestTLS: the members' certificates are verified, with the authority that is
// configured, and they verify ours.
func TestTLS(t *testing.T) {
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("there is no etcd; Debian has it in the package etcd-server")
	}
	certificates, err := testcert.Make(t.TempDir())
	require.NoError(t, err)
	others, err := testcert.Make(t.TempDir())
	require.NoError(t, err)
	url, peers := "https://127.0.0.1:"+clustertest.FreePort(t), "http://127.0.0.1:"+clustertest.FreePort(t)
	clustertest.StartProcess(t, exec.Command("etcd", "--data-dir", t.TempDir(), //nolint:noctx // it ends with the test
		"--listen-client-urls", url, "--advertise-client-urls", url,
		"--cert-file", certificates.Certificate, "--key-file", certificates.Key,
		"--client-cert-auth", "--trusted-ca-file", certificates.CA,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers))

	locker := func(l Locker) *Locker {
		l.Endpoints, l.Expiry = []string{url}, caddy.Duration(testExpiry)
		return provision(t, &l)
	}
	lock := func(l *Locker) (etag.Lock, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return l.Lock(ctx, "doc")
	}
	right := locker(Locker{TLSCA: certificates.CA, TLSCert: certificates.Certificate, TLSKey: certificates.Key})
	clustertest.Eventually(t, "etcd answers over TLS", func() bool {
		held, err := lock(right)
		return err == nil && held.Unlock(context.Background()) == nil
	})

	for name, l := range map[string]*Locker{
		"of another authority":        locker(Locker{TLSCA: others.CA, TLSCert: certificates.Certificate, TLSKey: certificates.Key}),
		"of the system's":             locker(Locker{TLSCert: certificates.Certificate, TLSKey: certificates.Key}),
		"without one of ours":         locker(Locker{TLSCA: certificates.CA}),
		"with one that it can't take": locker(Locker{TLSCA: certificates.CA, TLSCert: others.Certificate, TLSKey: others.Key}),
	} {
		_, err := lock(l)
		require.Error(t, err, name)
	}
}
