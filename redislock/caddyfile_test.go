package redislock

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
		"redis": `{"module":"redis"`,
		`redis 5s 10s {
			address redis.internal:6380
			username caddy
			password {env.REDIS_PASSWORD}
			tls /etc/ca.pem
			db 3
			prefix site1:
			expiry 3s
		}`: `{"address":["redis.internal:6380"],"db":3,"expiry":3000000000,"module":"redis","password":"{env.REDIS_PASSWORD}","prefix":"site1:","tls":true,"tls_ca":"/etc/ca.pem","username":"caddy"},"lock_hold":10000000000,"lock_timeout":5000000000`,
		`redis {
			sentinel main a:26379 b:26379
			sentinel_username watcher
			sentinel_password {env.SENTINEL_PASSWORD}
		}`: `{"address":["a:26379","b:26379"],"module":"redis","sentinel_master":"main","sentinel_password":"{env.SENTINEL_PASSWORD}","sentinel_username":"watcher"`,
		"redis {\naddress {env.REDIS_ADDRESS}\n}": `{"address":["{env.REDIS_ADDRESS}"],"module":"redis"`,
		"redis {\ncluster a:7000 b:7000\n}":       `{"address":["a:7000","b:7000"],"cluster":true,"module":"redis"`,
	} {
		got, err := adaptLock(t, lock)
		require.NoError(t, err, lock)
		require.Equal(t, want, got)
	}
}

func TestCaddyfileErrors(t *testing.T) {
	for lock, want := range map[string]string{
		"redis {\nhost a:1\n}":                    `unknown option "host" of redis: must be one of address, sentinel, sentinel_username, sentinel_password, cluster, username, password, tls, db, prefix, expiry`,
		"redis {\naddress\n}":                     "wrong number of arguments for address of redis: write address <host:port>",
		"redis {\naddress a:1 b:1\n}":             "wrong number of arguments for address of redis: write address <host:port>",
		"redis {\nsentinel main\n}":               "wrong number of arguments for sentinel of redis: write sentinel <master> <host:port...>",
		"redis {\ncluster\n}":                     "wrong number of arguments for cluster of redis: write cluster <host:port...>",
		"redis {\ntls a b\n}":                     "wrong number of arguments for tls of redis: write tls [<PEM file>]",
		"redis {\ndb 1\ndb 2\n}":                  "option db is given twice",
		"redis {\npassword se cret\n}":            "wrong number of arguments for password of redis: write password <password>",
		"redis {\nprefix\n}":                      "wrong number of arguments for prefix of redis: write prefix <text>",
		"redis {\ndb 1 2\n}":                      "wrong number of arguments for db of redis: write db <number>",
		"redis {\nexpiry\n}":                      "wrong number of arguments for expiry of redis: write expiry <duration>",
		"redis {\ndb one\n}":                      `invalid redis db "one": must be a number`,
		"redis {\nexpiry 1ms\n}":                  `invalid redis expiry "1ms": must be a duration of at least 1s`,
		"redis {\naddress a:1\ncluster b:1\n}":    "must be the only one of address, sentinel and cluster",
		"redis {\nsentinel m a:1\ncluster b:1\n}": "must be the only one of address, sentinel and cluster",
		"redis {\nsentinel m a:1\naddress b:1\n}": "must be the only one of address, sentinel and cluster",
		"redis {\naddress localhost\n}":           `invalid redis address "localhost"`,
		"redis {\naddress redis://u:p@a:1\n}":     `invalid redis address "***@a:1"`,
		"redis {\nsentinel_password x\n}":         "must be empty without sentinel_master",
		"redis {\ncluster a:1\ndb 1\n}":           "invalid redis db 1: must be 0 or more, and 0 with cluster",
	} {
		_, err := adaptLock(t, lock)
		require.ErrorContains(t, err, want, lock)
		require.ErrorContains(t, err, "Caddyfile:", "file and line")
		require.NotContains(t, err.Error(), "cret", "a part of a password")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Setenv("ETAG_TEST_PASSWORD", "secret")
	t.Setenv("ETAG_TEST_URL", "redis://:secret@localhost:6379")
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(notPEM, []byte("none"), 0o600))

	c, err := (&Locker{Password: "{env.ETAG_TEST_PASSWORD}"}).resolve()
	require.NoError(t, err)
	require.Equal(t, "secret", c.Password)
	require.Equal(t, []string{"localhost:6379"}, c.Addresses)
	require.NotContains(t, c.id(), "secret")
	_, err = (&Locker{Address: []string{"/run/redis.sock"}}).resolve()
	require.NoError(t, err)

	for want, l := range map[string]Locker{
		`invalid redis address "localhost"`:          {Address: []string{"localhost"}},
		`invalid redis address "***@a:1"`:            {Address: []string{"redis://u:p@a:1"}},
		`invalid redis address "{env.ETAG_TEST_URL}`: {Address: []string{"{env.ETAG_TEST_URL}"}},
		`invalid redis address "a:1 b:1": must be`:   {Address: []string{"a:1", "b:1"}},
		`invalid redis password`:                     {Password: "{env.ETAG_TEST_THAT_IS_NOT_SET}"},
		`invalid redis address "{env.ETAG_TEST_NO`:   {Address: []string{"{env.ETAG_TEST_NO}"}},
		`invalid redis db -1`:                        {DB: -1},
		`invalid redis db 1: must be 0 or more, and`: {DB: 1, Cluster: true},
		`invalid redis expiry 5ns: must be at leas`:  {Expiry: 5},
		`invalid redis sentinel_master "m"`:          {Cluster: true, SentinelMaster: "m"},
		`sentinel_password: must be empty without`:   {SentinelPassword: "x"},
		`invalid redis tls_ca "` + notPEM:            {TLSCA: notPEM},
		`invalid redis tls_ca "/no/such"`:            {TLSCA: "/no/such"},
	} {
		_, err := l.resolve()
		require.ErrorContains(t, err, want)
	}
}
