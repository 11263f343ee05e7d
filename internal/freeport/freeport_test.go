package freeport

import (
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// port of an address that Address found
func port(t *testing.T) int {
	t.Helper()
	address, err := Address()
	require.NoError(t, err)
	host, text, err := net.SplitHostPort(address)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1", host)
	number, err := strconv.Atoi(text)
	require.NoError(t, err)
	return number
}

func TestAddress(t *testing.T) {
	seen := make(map[int]bool)
	for range 500 {
		number := port(t)
		require.False(t, seen[number], "%d came twice", number)
		require.True(t, number >= first && number < 32768, "%d is a port for outgoing connections", number)
		seen[number] = true
	}
}

// TestNextPort: what listens is passed over, whichever protocol it speaks.
func TestNextPort(t *testing.T) {
	for _, listen := range []func(address string) (interface{ Close() error }, error){
		func(address string) (interface{ Close() error }, error) { return net.Listen("tcp", address) },
		func(address string) (interface{ Close() error }, error) { return net.ListenPacket("udp", address) },
	} {
		// The next port may be that of another process.
		for range 100 {
			next := port(t) + 1
			held, err := listen("127.0.0.1:" + strconv.Itoa(next))
			if err != nil {
				continue
			}
			found := port(t)
			require.NoError(t, held.Close())
			require.NotEqual(t, next, found)
		}
	}
}

func TestAddressesAtOneTime(t *testing.T) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[string]int)
	for range 50 {
		wg.Go(func() {
			for range 10 {
				address, err := Address()
				mu.Lock()
				if err != nil {
					address = err.Error()
				}
				seen[address]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 500)
}
