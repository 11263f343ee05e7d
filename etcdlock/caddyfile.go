package etcdlock

import (
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile sets the locker up from what follows `lock`. Syntax:
//
//	lock etcd [<timeout> [<hold>]] {
//	    endpoints  <host:port...>
//	    username   <name>
//	    password   <password>
//	    tls        [<PEM file>]
//	    tls_client <PEM file of a certificate> <PEM file of its key>
//	    prefix     <text>
//	    expiry     <duration>
//	}
func (l *Locker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the name
	if d.NextArg() {
		return d.Errf("etcd takes no argument here: its options go in a block")
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		option := d.Val()
		if seen[option] {
			return d.Errf("option %s is given twice", option)
		}
		seen[option] = true
		if err := l.unmarshalOption(d, option); err != nil {
			return err
		}
	}
	return l.check()
}

// usage is how each option is written.
var usage = map[string]string{
	"endpoints":  "endpoints <host:port...>",
	"username":   "username <name>",
	"password":   "password <password>",
	"tls":        "tls [<PEM file>]",
	"tls_client": "tls_client <PEM file of a certificate> <PEM file of its key>",
	"prefix":     "prefix <text>",
	"expiry":     "expiry <duration>",
}

func (l *Locker) unmarshalOption(d *caddyfile.Dispenser, option string) error {
	args := func(values ...*string) error {
		if !d.AllArgs(values...) {
			// not shown, since one may be a part of a password
			return d.Errf("wrong number of arguments for %s of etcd: write %s", option, usage[option])
		}
		return nil
	}
	switch option {
	case "endpoints":
		if l.Endpoints = d.RemainingArgs(); len(l.Endpoints) == 0 {
			return args(new(string))
		}
		return nil

	case "username":
		return args(&l.Username)

	case "password":
		return args(&l.Password)

	case "prefix":
		return args(&l.Prefix)

	case "tls_client":
		return args(&l.TLSCert, &l.TLSKey)

	case "tls":
		l.TLS = true
		if d.NextArg() {
			l.TLSCA = d.Val()
		}
		return args()

	case "expiry":
		var value string
		if err := args(&value); err != nil {
			return err
		}
		expiry, err := caddy.ParseDuration(value)
		if err != nil || expiry < minExpiry || expiry%time.Second != 0 {
			return d.Errf("invalid etcd expiry %q: must be a duration of at least %s, in whole seconds", value, minExpiry)
		}
		l.Expiry = caddy.Duration(expiry)
		return nil
	}
	return d.Errf("unknown option %q of lock etcd: must be endpoints, username, password, tls, tls_client, prefix or expiry", option)
}

var _ caddyfile.Unmarshaler = (*Locker)(nil)
