package redislock

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// server watches for a Redis that may have forgotten locks, since it has
// started, or has taken another one's place. The connections to the former one
// are gone then, and so each new connection tells.
type server struct {
	expiry time.Duration
	many   bool // a cluster's nodes, none of which takes the place of all

	mu    sync.Mutex
	runID string    // of the last one
	until time.Time // no lock is granted before
}

// connected asks a server who it is, before anything else is sent on a new
// connection.
func (s *server) connected(ctx context.Context, connection *redis.Conn) error {
	now := time.Now()
	info, err := connection.Info(ctx, "server").Result()
	if err != nil {
		return fmt.Errorf("asking Redis for how long it has been up: %w", err)
	}
	var runID, mode string
	var uptime time.Duration
	for lines := bufio.NewScanner(strings.NewReader(info)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch name {
		case "run_id":
			runID = value
		case "redis_mode":
			mode = value
		case "uptime_in_seconds":
			seconds, _ := strconv.Atoi(value)
			uptime = time.Duration(max(0, seconds-1)) * time.Second // it counts begun seconds
		}
	}
	if mode != "sentinel" { // which has no locks; go-redis tells of connections to it too
		s.saw(now, runID, uptime)
	}
	return nil
}

func (s *server) saw(now time.Time, runID string, uptime time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	until := now.Add(s.expiry - uptime)
	if s.runID != "" && s.runID != runID && !s.many {
		until = now.Add(s.expiry)
	}
	s.runID = runID
	if until.After(s.until) {
		s.until = until
	}
}

// quiet returns for how long no lock may be granted yet.
func (s *server) quiet() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, time.Until(s.until))
}
