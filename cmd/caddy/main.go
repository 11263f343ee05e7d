// Command caddy is a Caddy server with the standard modules and the etag
// handler, for trying the module out and for its tests. For production,
// build your own with xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyetag/caddy-etag"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	caddycmd.Main()
}
