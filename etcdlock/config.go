package etcdlock

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/caddyserver/caddy/v2"
)

const (
	defaultEndpoint = "localhost:2379"
	defaultPrefix   = "etag/"
	defaultExpiry   = 5 * time.Second
	minExpiry       = 2 * time.Second // etcd grants no less by default
)

// config is a Locker's options with their defaults, and no placeholders. It
// holds nothing else, as equal ones share a client.
type config struct {
	Endpoints []string
	Username  string
	Password  string
	TLS       bool
	CA        string // in PEM
	Cert, Key string // in PEM
	Prefix    string
	Expiry    time.Duration
}

// check checks what can be known before placeholders are resolved and files are
// read.
func (l *Locker) check() error {
	for _, endpoint := range l.Endpoints {
		if strings.Contains(endpoint, "{") {
			continue
		}
		if err := checkEndpoint(endpoint, endpoint); err != nil {
			return err
		}
	}
	expiry := time.Duration(l.Expiry)
	switch {
	case expiry != 0 && (expiry < minExpiry || expiry%time.Second != 0):
		return fmt.Errorf("invalid etcd expiry %s: must be at least %s, in whole seconds", expiry, minExpiry)
	case (l.Username == "") != (l.Password == ""):
		return fmt.Errorf("invalid etcd username %q: must have a password, and a password a username", l.Username)
	case (l.TLSCert == "") != (l.TLSKey == ""):
		return fmt.Errorf("invalid etcd tls_cert %q: must have a tls_key, and a tls_key a tls_cert", l.TLSCert)
	}
	return nil
}

// resolve checks the options, resolves their placeholders and reads their files.
func (l *Locker) resolve() (config, error) {
	if err := l.check(); err != nil {
		return config{}, err
	}
	c := config{
		TLS:    l.TLS || l.TLSCA != "" || l.TLSCert != "" || l.TLSKey != "",
		Prefix: defaultPrefix,
		Expiry: defaultExpiry,
	}
	replacer := caddy.NewReplacer()
	var ca, cert, key string
	for _, text := range []struct {
		option, value string
		resolved      *string
	}{
		{"username", l.Username, &c.Username},
		{"password", l.Password, &c.Password},
		{"tls_ca", l.TLSCA, &ca},
		{"tls_cert", l.TLSCert, &cert},
		{"tls_key", l.TLSKey, &key},
		{"prefix", l.Prefix, &c.Prefix},
	} {
		if text.value == "" {
			continue
		}
		resolved, err := replacer.ReplaceOrErr(text.value, true, true)
		if err != nil {
			return c, fmt.Errorf("invalid etcd %s: %w", text.option, err)
		}
		*text.resolved = resolved
	}
	for _, endpoint := range l.Endpoints {
		resolved, err := replacer.ReplaceOrErr(endpoint, true, true)
		if err != nil {
			return c, fmt.Errorf("invalid etcd endpoint %q: %w", endpoint, err)
		}
		if err := checkEndpoint(resolved, endpoint); err != nil {
			return c, err
		}
		c.TLS = c.TLS || strings.HasPrefix(resolved, "https://")
		c.Endpoints = append(c.Endpoints, resolved)
	}
	if len(c.Endpoints) == 0 {
		c.Endpoints = []string{defaultEndpoint}
	}
	if l.Expiry != 0 {
		c.Expiry = time.Duration(l.Expiry)
	}
	for _, file := range []struct {
		option, name string
		content      *string
	}{{"tls_ca", ca, &c.CA}, {"tls_cert", cert, &c.Cert}, {"tls_key", key, &c.Key}} {
		if file.name == "" {
			continue
		}
		content, err := os.ReadFile(file.name)
		if err != nil {
			return c, fmt.Errorf("invalid etcd %s %q: %w", file.option, file.name, err)
		}
		*file.content = string(content)
	}
	if _, err := c.tls(); err != nil {
		return c, err
	}
	return c, nil
}

// withoutUser returns what was written for an endpoint, for an error: it may be a
// URL with a password.
func withoutUser(endpoint string) string {
	if at := strings.LastIndexByte(endpoint, '@'); at >= 0 {
		return "***" + endpoint[at:]
	}
	return endpoint
}

// checkEndpoint checks an endpoint. The error tells what was written for it.
func checkEndpoint(endpoint, written string) error {
	if !isEndpoint(endpoint) {
		return fmt.Errorf("invalid etcd endpoint %q: must be a host and port, such as localhost:2379, or an http or https URL of them", withoutUser(written))
	}
	return nil
}

func isEndpoint(text string) bool {
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && strings.Trim(u.Path, "/") == ""
	}
	_, port, err := net.SplitHostPort(text)
	return err == nil && port != ""
}

func (c config) tls() (*tls.Config, error) {
	if !c.TLS {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, fmt.Errorf("invalid etcd tls_ca: must have certificates in PEM")
		}
	}
	if c.Cert != "" {
		pair, err := tls.X509KeyPair([]byte(c.Cert), []byte(c.Key))
		if err != nil {
			return nil, fmt.Errorf("invalid etcd tls_cert and tls_key: must be a certificate and its key in PEM: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// id names what has these options, without telling them.
func (c config) id() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", c))
	return hex.EncodeToString(sum[:])
}

// attemptTimeout is for how long etcd may take to answer.
func (c config) attemptTimeout() time.Duration { return min(2*time.Second, c.Expiry/3) }

// dial makes a client. With a user, etcd has to answer.
func (c config) dial() (*clientv3.Client, error) {
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		Username:             c.Username,
		Password:             c.Password,
		TLS:                  tlsConfig,
		DialTimeout:          c.attemptTimeout(),
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: c.attemptTimeout(),
		Logger:               caddy.Log().Named("etcd").WithOptions(onlyErrors),
	})
}
