package redislock

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/caddyserver/caddy/v2"
)

const (
	defaultAddress = "localhost:6379"
	defaultPrefix  = "etag:"
	defaultExpiry  = 5 * time.Second
	minExpiry      = time.Second
)

// config is a Locker's options with their defaults, and no placeholders. It
// holds nothing else, as equal ones share a client.
type config struct {
	Addresses        []string
	SentinelMaster   string
	SentinelUsername string
	SentinelPassword string
	Cluster          bool
	Username         string
	Password         string
	TLS              bool
	CA               string // in PEM
	DB               int
	Prefix           string
	Expiry           time.Duration
}

// check checks what can be known before placeholders are resolved and files are
// read.
func (l *Locker) check() error {
	for _, address := range l.Address {
		if strings.Contains(address, "{") {
			continue
		}
		if err := checkAddress(address, address); err != nil {
			return err
		}
	}
	switch {
	case l.Cluster && l.SentinelMaster != "":
		return fmt.Errorf("invalid redis sentinel_master %q: a cluster has no sentinels; must be empty with cluster", l.SentinelMaster)
	case len(l.Address) > 1 && !l.Cluster && l.SentinelMaster == "":
		return fmt.Errorf("invalid redis address %q: must be one, or those of sentinels or of a cluster", strings.Join(l.Address, " "))
	case l.SentinelMaster == "" && l.SentinelUsername+l.SentinelPassword != "":
		return fmt.Errorf("invalid redis sentinel_username or sentinel_password: must be empty without sentinel_master")
	case l.DB < 0, l.DB > 0 && l.Cluster:
		return fmt.Errorf("invalid redis db %d: must be 0 or more, and 0 with cluster", l.DB)
	case l.Expiry != 0 && time.Duration(l.Expiry) < minExpiry:
		return fmt.Errorf("invalid redis expiry %s: must be at least %s", time.Duration(l.Expiry), minExpiry)
	}
	return nil
}

// checkAddress checks an address. The error tells what was written for it.
func checkAddress(address, written string) error {
	if strings.HasPrefix(address, "/") {
		return nil
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return fmt.Errorf("invalid redis address %q: must be a host and port, such as localhost:6379, or the path of a Unix socket", withoutUser(written))
	}
	return nil
}

// resolve checks the options, resolves their placeholders and reads their files.
func (l *Locker) resolve() (config, error) {
	if err := l.check(); err != nil {
		return config{}, err
	}
	c := config{
		Cluster: l.Cluster,
		TLS:     l.TLS || l.TLSCA != "",
		DB:      l.DB,
		Prefix:  defaultPrefix,
		Expiry:  defaultExpiry,
	}
	var caFile string
	replacer := caddy.NewReplacer()
	for _, text := range []struct {
		option, value string
		resolved      *string
	}{
		{"sentinel_master", l.SentinelMaster, &c.SentinelMaster},
		{"sentinel_username", l.SentinelUsername, &c.SentinelUsername},
		{"sentinel_password", l.SentinelPassword, &c.SentinelPassword},
		{"username", l.Username, &c.Username},
		{"password", l.Password, &c.Password},
		{"tls_ca", l.TLSCA, &caFile},
		{"prefix", l.Prefix, &c.Prefix},
	} {
		if text.value == "" {
			continue
		}
		resolved, err := replacer.ReplaceOrErr(text.value, true, true)
		if err != nil {
			return c, fmt.Errorf("invalid redis %s: %w", text.option, err)
		}
		*text.resolved = resolved
	}
	for _, address := range l.Address {
		resolved, err := replacer.ReplaceOrErr(address, true, true)
		if err != nil {
			return c, fmt.Errorf("invalid redis address %q: %w", address, err)
		}
		if err := checkAddress(resolved, address); err != nil {
			return c, err
		}
		c.Addresses = append(c.Addresses, resolved)
	}
	if len(c.Addresses) == 0 {
		c.Addresses = []string{defaultAddress}
	}
	if l.Expiry != 0 {
		c.Expiry = time.Duration(l.Expiry)
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile) //nolint:gosec // the operator says which
		if err != nil {
			return c, fmt.Errorf("invalid redis tls_ca %q: %w", caFile, err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			return c, fmt.Errorf("invalid redis tls_ca %q: must have certificates in PEM", caFile)
		}
		c.CA = string(pem)
	}
	return c, nil
}

// withoutUser returns what was written for an address, for an error: it may be a
// URL with a password.
func withoutUser(address string) string {
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		return "***" + address[at:]
	}
	return address
}

// id names what has these options, without telling them.
func (c config) id() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", c))
	return hex.EncodeToString(sum[:])
}

// attemptTimeout is for how long Redis may take to answer.
func (c config) attemptTimeout() time.Duration { return min(2*time.Second, c.Expiry/3) }

func (c config) options() *redis.UniversalOptions {
	options := &redis.UniversalOptions{
		Addrs:            c.Addresses,
		MasterName:       c.SentinelMaster,
		SentinelUsername: c.SentinelUsername,
		SentinelPassword: c.SentinelPassword,
		IsClusterMode:    c.Cluster,
		Username:         c.Username,
		Password:         c.Password,
		DB:               c.DB,

		DialTimeout:           c.attemptTimeout(),
		ReadTimeout:           c.attemptTimeout(),
		WriteTimeout:          c.attemptTimeout(),
		DialerRetries:         1,
		ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}
	if c.TLS {
		options.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if c.CA != "" {
			options.TLSConfig.RootCAs = x509.NewCertPool()
			options.TLSConfig.RootCAs.AppendCertsFromPEM([]byte(c.CA))
		}
	}
	return options
}
