// Package redislock has a locker for the etag handler that keeps writes apart
// across all Caddys that share a Redis: `lock redis`, the module
// http.etag.locks.redis.
package redislock

import (
	"context"

	"github.com/caddyserver/caddy/v2"

	etag "github.com/caddyetag/caddy-etag"
)

func init() {
	caddy.RegisterModule(Locker{})
}

// Locker locks resources in Redis, and so across all Caddys that share it: one
// server, one that Sentinel watches over, or a cluster.
//
// A lock is a key with a random token, which only its owner gives back and
// renews, and which expires if nobody does. Writes that wait for one lock in
// one process are served in order; those that wait in other processes are woken
// by a message when it is given back, and look for themselves too, after 10 ms
// at first, every 250 ms at last. There are no shared locks: writes to one
// resource exclude each other, with preconditions or without.
type Locker struct {
	// The server's address: a host and port, or the path of a Unix socket. For
	// a cluster or Sentinel, the addresses of some of the nodes or sentinels.
	// Default: localhost:6379.
	Address []string `json:"address,omitempty"`

	// The name of the master that sentinels at the addresses watch over.
	SentinelMaster string `json:"sentinel_master,omitempty"`

	// The user and password that the sentinels themselves ask for, if any.
	SentinelUsername string `json:"sentinel_username,omitempty"`
	SentinelPassword string `json:"sentinel_password,omitempty"`

	// Whether the addresses are nodes of a Redis Cluster.
	Cluster bool `json:"cluster,omitempty"`

	// The user (of Redis' ACL) and password. Placeholders are replaced.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`

	// Whether to speak TLS. The server's certificate is verified.
	TLS bool `json:"tls,omitempty"`

	// A PEM file of the certificate authorities to trust, in the place of the
	// system's. It implies tls.
	TLSCA string `json:"tls_ca,omitempty"`

	// The number of the database. A cluster has 0 only. Default: 0.
	DB int `json:"db,omitempty"`

	// What the names of keys and of the channel begin with. Caddys exclude each
	// other if they have the same prefix. Default: etag:
	Prefix string `json:"prefix,omitempty"`

	// After how long a lock that is not renewed is free, such as that of a
	// process that was killed. It is renewed three times as often. It is also for
	// how long no lock is granted once Redis has started, or, with Sentinel, a
	// replica has taken its place, as those that were held may be forgotten: their
	// holders restore them in that time. With a cluster, a lock that a replica had
	// not got may be granted again. All Caddys must have the same. Default: 5s.
	Expiry caddy.Duration `json:"expiry,omitempty"`

	id       string // of the client in the pool
	resolved config
}

// CaddyModule returns the Caddy module information.
func (Locker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.etag.locks.redis",
		New: func() caddy.Module { return new(Locker) },
	}
}

// Provision checks the options and sets the client up. Redis need not answer
// for that.
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
		return newClient(l.resolved, l.id), nil
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
	lock, err := l.acquire().lock(ctx, key)
	if err != nil {
		_ = l.release()
		return nil, err
	}
	lock.release = l.release
	return lock, nil
}

// Interface guards
var (
	_ caddy.Provisioner  = (*Locker)(nil)
	_ caddy.CleanerUpper = (*Locker)(nil)
	_ etag.Locker        = (*Locker)(nil)
)
