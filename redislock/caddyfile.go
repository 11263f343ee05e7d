package redislock

import (
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile sets the locker up from what follows `lock`. Syntax:
//
//	lock redis [<timeout> [<hold>]] {
//	    address            <host:port>
//	    sentinel           <master> <host:port...>
//	    sentinel_username  <name>
//	    sentinel_password  <password>
//	    cluster            <host:port...>
//	    username           <name>
//	    password           <password>
//	    tls                [<PEM file>]
//	    db                 <number>
//	    prefix             <text>
//	    expiry             <duration>
//	}
//
// At most one of address, sentinel and cluster is given.
func (l *Locker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return l.unmarshal(d, optionNames)
}

// usage is how each option is written.
var usage = map[string]string{
	"address":           "address <host:port>",
	"sentinel":          "sentinel <master> <host:port...>",
	"sentinel_username": "sentinel_username <name>",
	"sentinel_password": "sentinel_password <password>",
	"cluster":           "cluster <host:port...>",
	"username":          "username <name>",
	"password":          "password <password>",
	"tls":               "tls [<PEM file>]",
	"db":                "db <number>",
	"prefix":            "prefix <text>",
	"expiry":            "expiry <duration>",
}

// optionNames are the options in the order in which they are listed.
var optionNames = []string{
	"address", "sentinel", "sentinel_username", "sentinel_password", "cluster",
	"username", "password", "tls", "db", "prefix", "expiry",
}

func (l *Locker) unmarshal(d *caddyfile.Dispenser, allowed []string) error {
	d.Next() // the name
	if d.NextArg() {
		return d.Errf("redis takes no argument here: its options go in a block")
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		option := d.Val()
		if !slices.Contains(allowed, option) {
			return d.Errf("unknown option %q of redis: must be one of %s", option, strings.Join(allowed, ", "))
		}
		if seen[option] {
			return d.Errf("option %s is given twice", option)
		}
		seen[option] = true
		if err := l.unmarshalOption(d, option); err != nil {
			return err
		}
		if len(l.Address) > 0 && seen["address"] && (seen["sentinel"] || seen["cluster"]) || seen["sentinel"] && seen["cluster"] {
			return d.Errf("option %s: must be the only one of address, sentinel and cluster", option)
		}
	}
	return l.check()
}

func (l *Locker) unmarshalOption(d *caddyfile.Dispenser, option string) error {
	texts := map[string]*string{
		"username":          &l.Username,
		"password":          &l.Password,
		"sentinel_username": &l.SentinelUsername,
		"sentinel_password": &l.SentinelPassword,
		"prefix":            &l.Prefix,
	}
	if text, ok := texts[option]; ok {
		return oneArg(d, text)
	}
	var value string
	switch option {
	case "address":
		l.Address = []string{""}
		return oneArg(d, &l.Address[0])

	case "sentinel":
		if !d.Args(&l.SentinelMaster) {
			return wrongArguments(d, option)
		}
		if l.Address = d.RemainingArgs(); len(l.Address) == 0 {
			return wrongArguments(d, option)
		}

	case "cluster":
		l.Cluster = true
		if l.Address = d.RemainingArgs(); len(l.Address) == 0 {
			return wrongArguments(d, option)
		}

	case "tls":
		l.TLS = true
		if d.NextArg() {
			l.TLSCA = d.Val()
		}
		if d.NextArg() {
			return wrongArguments(d, option)
		}

	case "db":
		if err := oneArg(d, &value); err != nil {
			return err
		}
		db, err := strconv.Atoi(value)
		if err != nil || db < 0 {
			return d.Errf("invalid redis db %q: must be a number, 0 or more", value)
		}
		l.DB = db

	case "expiry":
		if err := oneArg(d, &value); err != nil {
			return err
		}
		expiry, err := caddy.ParseDuration(value)
		if err != nil || expiry < minExpiry {
			return d.Errf("invalid redis expiry %q: must be a duration of at least %s", value, minExpiry)
		}
		l.Expiry = caddy.Duration(expiry)
	}
	return nil
}

// oneArg takes exactly one argument.
func oneArg(d *caddyfile.Dispenser, value *string) error {
	option := d.Val()
	if !d.AllArgs(value) {
		return wrongArguments(d, option)
	}
	return nil
}

// wrongArguments does not show them: one may be a part of a password.
func wrongArguments(d *caddyfile.Dispenser, option string) error {
	return d.Errf("wrong number of arguments for %s of redis: write %s", option, usage[option])
}

var _ caddyfile.Unmarshaler = (*Locker)(nil)
