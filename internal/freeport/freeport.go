// Package freeport finds ports for the servers of tests, benchmarks and
// examples that have to be told their port, since they can't be asked for it.
package freeport

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync/atomic"
)

// The ports that may be found. They lie below those that a system takes for
// outgoing connections (Linux: from 32768; elsewhere from 49152, RFC 6335 §6).
// One of those is free only until any program connects to anywhere, which may
// be before the server listens. It can even be whoever waits for the server:
// a connection to the port that it was itself given is one to itself.
const (
	first = 20000
	count = 12000
)

// block is how many ports a process takes before it comes to those of the
// process that was started next. Programs that find ports at one time seldom
// need more.
const block = 16

var taken atomic.Int64 // how many ports this process has looked at

// Address returns an address on 127.0.0.1 on which nothing listens, with TCP
// or UDP. It returns none twice, until all have been looked at.
func Address() (string, error) {
	start := int64(os.Getpid()) * block
	for range count {
		port := first + (start+taken.Add(1)-1)%count
		address := net.JoinHostPort("127.0.0.1", strconv.FormatInt(port, 10))
		if isFree(address) {
			return address, nil
		}
	}
	return "", errors.New("no port is free")
}

func isFree(address string) bool {
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	defer func() { _ = tcp.Close() }()
	udp, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	return udp.Close() == nil
}
