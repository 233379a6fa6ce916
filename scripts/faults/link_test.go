package faults

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// link is a TCP connection's way from agent to endpoint, which can be bad.
type link struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex
	relay func(l *link, client net.Conn)
	conns map[net.Conn]struct{}
	ended bool
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: listener, target: target, relay: (*link).pass, conns: make(map[net.Conn]struct{})}
	l.running.Go(l.accept)
	t.Cleanup(func() {
		listener.Close()
		l.mu.Lock()
		l.ended = true
		l.mu.Unlock()
		l.cut()
		l.running.Wait()
	})
	return l
}

func (l *link) url() string { return "https://" + l.listener.Addr().String() }

func (l *link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		relay := l.relay
		l.mu.Unlock()
		if l.keep(client) {
			l.running.Go(func() { relay(l, client); l.close(client) })
		}
	}
}

// become changes what the link does, and ends the connections that are.
func (l *link) become(relay func(*link, net.Conn)) {
	l.mu.Lock()
	l.relay = relay
	l.mu.Unlock()
	l.cut()
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.Close()
	}
}

func (l *link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		c.Close()
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *link) close(c net.Conn) {
	c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

func (l *link) dial() (net.Conn, bool) {
	server, err := net.Dial("tcp", l.target)
	if err != nil {
		return nil, false
	}
	return server, l.keep(server)
}

// pass is a good link.
func (l *link) pass(client net.Conn) { l.between(client, io.Copy, io.Copy) }

// hole takes everything and answers nothing.
func (l *link) hole(client net.Conn) { io.Copy(io.Discard, client) }

// reset breaks off after some thousand bytes, which is in the body of a batch.
func (l *link) reset(client net.Conn) {
	l.between(client, func(to io.Writer, from io.Reader) (int64, error) {
		n, err := io.CopyN(to, from, 1500+rand.Int64N(3000))
		client.(*net.TCPConn).SetLinger(0)
		if server, ok := to.(*net.TCPConn); ok {
			server.SetLinger(0)
		}
		return n, err
	}, io.Copy)
}

// trickle lets answers through a byte at a time.
func (l *link) trickle(client net.Conn) {
	l.between(client, io.Copy, func(to io.Writer, from io.Reader) (n int64, err error) {
		for ; err == nil; n++ {
			_, err = io.CopyN(to, from, 1)
			time.Sleep(20 * time.Millisecond)
		}
		return n, err
	})
}

// between connects a client with the endpoint until either copier ends.
func (l *link) between(client net.Conn, up, down func(io.Writer, io.Reader) (int64, error)) {
	server, ok := l.dial()
	if !ok {
		return
	}
	var both sync.WaitGroup
	for _, copy := range []func(){func() { up(server, client) }, func() { down(client, server) }} {
		both.Go(func() {
			copy()
			l.close(server)
			client.Close()
		})
	}
	both.Wait()
}
