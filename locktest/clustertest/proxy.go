//go:build unix

package clustertest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy passes TCP connections on to a service, until it is told not to.
type Proxy struct {
	Address string

	target   string
	listener net.Listener
	mu       sync.Mutex
	changed  *sync.Cond
	cut      bool // connections are reset
	silent   bool // nothing passes, and nobody is told
	mute     bool // what clients send does not pass, and nobody is told
	conns    map[net.Conn]bool
}

// StartProxy starts a proxy that ends with the test.
func StartProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{Address: listener.Addr().String(), target: target, listener: listener, conns: make(map[net.Conn]bool)}
	p.changed = sync.NewCond(&p.mu)
	go p.serve()
	tb.Cleanup(func() {
		_ = listener.Close()
		p.Cut()
	})
	return p
}

func (p *Proxy) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.pass(conn)
	}
}

func (p *Proxy) pass(client net.Conn) {
	defer func() { _ = client.Close() }()
	if !p.add(client) {
		return
	}
	defer p.remove(client)
	service, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer func() { _ = service.Close() }()
	if !p.add(service) {
		return
	}
	defer p.remove(service)
	done := make(chan struct{}, 2)
	for _, way := range []struct{ from, to net.Conn }{{client, service}, {service, client}} {
		go func() {
			_, _ = io.Copy(gated{p, way.to, way.from == client}, way.from)
			done <- struct{}{}
		}()
	}
	<-done
}

// gated writes only while something may pass.
type gated struct {
	proxy      *Proxy
	to         io.Writer
	fromClient bool
}

func (g gated) Write(b []byte) (int, error) {
	g.proxy.mu.Lock()
	for (g.proxy.silent || g.proxy.mute && g.fromClient) && !g.proxy.cut {
		g.proxy.changed.Wait()
	}
	g.proxy.mu.Unlock()
	return g.to.Write(b)
}

func (p *Proxy) add(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return false
	}
	p.conns[conn] = true
	return true
}

func (p *Proxy) remove(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

// Cut resets all connections, and those that come.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.changed.Broadcast()
}

// Silence lets nothing pass any more, without a word.
func (p *Proxy) Silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = true
}

// Mute lets nothing pass any more that clients send, without a word.
func (p *Proxy) Mute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = true
}

// Restore lets everything pass again. What was held up comes late.
func (p *Proxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.silent, p.mute = false, false, false
	p.changed.Broadcast()
}
