package etcdlock

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// adaptLock adapts a Caddyfile with a lock, and returns the lock in JSON.
func adaptLock(tb testing.TB, lock string) (string, error) {
	tb.Helper()
	adapter := caddyconfig.GetAdapter("caddyfile")
	config, _, err := adapter.Adapt([]byte("http://localhost {\netag {\nlock "+lock+"\n}\n}\n"), nil)
	_, found, _ := strings.Cut(string(config), `"lock":`)
	found, _, _ = strings.Cut(found, "}]")
	return strings.TrimSuffix(found, "}"), err
}

func TestCaddyfile(t *testing.T) {
	for lock, want := range map[string]string{
		"etcd": `{"module":"etcd"`,
		`etcd {
			endpoints a:2379 https://b:2379
			username caddy
			password {env.ETCD_PASSWORD}
			tls /etc/ca.pem
			tls_client /etc/cert.pem /etc/key.pem
			prefix site1/
			expiry 3s
		}`: `{"endpoints":["a:2379","https://b:2379"],"expiry":3000000000,"module":"etcd","password":"{env.ETCD_PASSWORD}","prefix":"site1/",` +
			`"tls":true,"tls_ca":"/etc/ca.pem","tls_cert":"/etc/cert.pem","tls_key":"/etc/key.pem","username":"caddy"`,
		"etcd {\nendpoints {env.ETCD}\n}": `{"endpoints":["{env.ETCD}"],"module":"etcd"`,
	} {
		got, err := adaptLock(t, lock)
		require.NoError(t, err, lock)
		require.Equal(t, want, got)
	}
}

func TestCaddyfileErrors(t *testing.T) {
	for lock, want := range map[string]string{
		"etcd {\nendpoint a:1\n}":       `unknown option "endpoint"`,
		"etcd {\nendpoints\n}":          "wrong number of arguments for endpoints of etcd: write endpoints <host:port...>",
		"etcd {\ntls a b\n}":            "wrong number of arguments for tls of etcd: write tls [<PEM file>]",
		"etcd {\ntls_client a\n}":       "wrong number of arguments for tls_client of etcd: write tls_client <PEM file of a certificate> <PEM file of its key>",
		"etcd {\nprefix a\nprefix b\n}": "option prefix is given twice",
		"etcd {\nexpiry 1s\n}":          `invalid etcd expiry "1s": must be a duration of at least 2s, in whole seconds`,
		"etcd {\nexpiry 2500ms\n}":      `invalid etcd expiry "2500ms"`,
		"etcd {\npassword se cret\n}":   "wrong number of arguments for password of etcd: write password <password>",
		"etcd {\nendpoints a\n}":        `invalid etcd endpoint "a"`,
		"etcd {\npassword x\n}":         `invalid etcd username ""`,
	} {
		_, err := adaptLock(t, lock)
		require.ErrorContains(t, err, want, lock)
		require.ErrorContains(t, err, "Caddyfile:", "file and line")
		require.NotContains(t, err.Error(), "cret", "a part of a password")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Setenv("ETAG_TEST_PASSWORD", "secret")
	t.Setenv("ETAG_TEST_URL", "https://caddy:secret@localhost:2379")
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(notPEM, []byte("none"), 0o600))

	c, err := (&Locker{Username: "caddy", Password: "{env.ETAG_TEST_PASSWORD}"}).resolve()
	require.NoError(t, err)
	require.Equal(t, "secret", c.Password)
	require.Equal(t, []string{"localhost:2379"}, c.Endpoints)
	require.NotContains(t, c.id(), "secret")

	for want, l := range map[string]Locker{
		`invalid etcd endpoint "localhost"`:          {Endpoints: []string{"localhost"}},
		`invalid etcd endpoint "ftp://a:1"`:          {Endpoints: []string{"ftp://a:1"}},
		`invalid etcd endpoint "***@a:1"`:            {Endpoints: []string{"http://u:p@a:1"}},
		`invalid etcd endpoint "{env.ETAG_TEST_URL}`: {Endpoints: []string{"{env.ETAG_TEST_URL}"}},
		`invalid etcd endpoint "{env.ETAG_TEST_NO}"`: {Endpoints: []string{"{env.ETAG_TEST_NO}"}},
		`invalid etcd username ""`:                   {Password: "x"},
		`invalid etcd password`:                      {Username: "x", Password: "{env.ETAG_TEST_NO}"},
		`invalid etcd expiry 5ns`:                    {Expiry: 5},
		`invalid etcd tls_cert "a"`:                  {TLSCert: "a"},
		`invalid etcd tls_ca: must have`:             {TLSCA: notPEM},
		`invalid etcd tls_cert and tls_key`:          {TLSCert: notPEM, TLSKey: notPEM},
	} {
		_, err := l.resolve()
		require.ErrorContains(t, err, want)
	}
}
