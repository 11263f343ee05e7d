// Package etcdlock has a locker for the etag handler that keeps writes apart
// across all Caddys that share an etcd: `lock etcd`, the module
// http.etag.locks.etcd.
package etcdlock

import (
	"context"

	"github.com/caddyserver/caddy/v2"

	etag "github.com/caddyetag/caddy-etag"
)

func init() {
	caddy.RegisterModule(Locker{})
}

// Locker locks resources in etcd, and so across all Caddys that share it. A
// lock is taken by a majority of etcd's members and outlives the failure of any
// minority, and a restart of them all.
//
// A lock is a key that is bound to a lease, which all locks of this process
// share and which ends if the process does not renew it. Those who wait are
// served in the order in which they came, in all processes, and are told when
// it is their turn. There are no shared locks: writes to one resource exclude
// each other, with preconditions or without.
type Locker struct {
	// The members' addresses, as a host and port or a URL. Default:
	// localhost:2379.
	Endpoints []string `json:"endpoints,omitempty"`

	// The user and password. Placeholders are replaced.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`

	// Whether to speak TLS. The members' certificates are verified.
	TLS bool `json:"tls,omitempty"`

	// A PEM file of the certificate authorities to trust, in the place of the
	// system's. It implies tls.
	TLSCA string `json:"tls_ca,omitempty"`

	// PEM files of the certificate and key to show to etcd. They imply tls.
	TLSCert string `json:"tls_cert,omitempty"`
	TLSKey  string `json:"tls_key,omitempty"`

	// What the names of keys begin with. Caddys exclude each other if they have
	// the same prefix. Default: etag/
	Prefix string `json:"prefix,omitempty"`

	// After how long the locks of a process that does not renew its lease are
	// free, such as one that was killed; in whole seconds. etcd may raise it. It
	// is renewed three times as often. Default: 5s.
	Expiry caddy.Duration `json:"expiry,omitempty"`

	id       string // of the client in the pool
	resolved config
}

// CaddyModule returns the Caddy module information.
func (Locker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.etag.locks.etcd",
		New: func() caddy.Module { return new(Locker) },
	}
}

// Provision checks the options. etcd need not answer for that.
func (l *Locker) Provision(caddy.Context) error {
	resolved, err := l.resolve()
	if err != nil {
		return err
	}
	l.resolved, l.id = resolved, resolved.id()
	_ = l.acquire()
	return nil
}

// Cleanup gives the client up. It stays for as long as a lock needs it.
func (l *Locker) Cleanup() error {
	if l.id == "" {
		return nil
	}
	return l.release()
}

// clients are the clients of this process, by their configuration. A client
// outlives the configuration for which it was made as long as one of its locks
// is held or waited for.
var clients = caddy.NewUsagePool()

// acquire returns the client, of which the caller has a share until release.
func (l *Locker) acquire() *client {
	shared, _, _ := clients.LoadOrNew(l.id, func() (caddy.Destructor, error) { // never fails
		return &client{config: l.resolved, id: l.id}, nil
	})
	return shared.(*client)
}

func (l *Locker) release() error {
	_, err := clients.Delete(l.id)
	return err
}

// Lock implements etag.Locker.
func (l *Locker) Lock(ctx context.Context, key string) (etag.Lock, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return l.acquire().lock(ctx, key, func() { _ = l.release() })
}

// Interface guards
var (
	_ caddy.Provisioner  = (*Locker)(nil)
	_ caddy.CleanerUpper = (*Locker)(nil)
	_ etag.Locker        = (*Locker)(nil)
)
