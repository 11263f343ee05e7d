package redislock

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/caddyserver/caddy/v2"
)

func init() { redis.SetLogger(logger{}) }

// logger has what go-redis says in Caddy's log, at debug: it would write it to
// the standard error output, and a service that fails is logged by the handler.
type logger struct{}

// Printf implements go-redis' logger.
func (logger) Printf(_ context.Context, format string, args ...any) {
	caddy.Log().Named("redis").Debug(fmt.Sprintf(format, args...))
}
