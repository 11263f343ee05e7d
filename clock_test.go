package etag

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTimeGoesByOnEitherClock(t *testing.T) {
	const second = int64(time.Second)
	begin := instant{wall: 1000 * second, steady: 10 * second}
	for name, tt := range map[string]struct {
		now  instant
		want time.Duration
	}{
		"both go on":                   {instant{1005 * second, 15 * second}, 5 * time.Second},
		"the clock is set back":        {instant{100 * second, 15 * second}, 5 * time.Second},
		"the clock is put forward":     {instant{5000 * second, 15 * second}, 4000 * time.Second},
		"the machine has slept":        {instant{1605 * second, 15 * second}, 605 * time.Second},
		"another goroutine was sooner": {instant{999 * second, 9 * second}, 0},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, tt.now.since(begin)) })
	}

	before := time.Now().Truncate(time.Second)
	first := now()
	time.Sleep(2 * time.Millisecond)
	later := now()
	require.GreaterOrEqual(t, later.since(first), 2*time.Millisecond)
	require.GreaterOrEqual(t, later.steady-first.steady, int64(2*time.Millisecond))
	require.False(t, first.date().Before(before))
	require.Equal(t, time.UTC, first.date().Location())
}
