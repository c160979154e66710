package rig

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Wire is a TCP connection's way that can be cut: it forwards to an address.
type Wire struct {
	to       string
	listener net.Listener
	done     sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

// NewWire opens a wire to an address; it closes with the test.
func NewWire(t testing.TB, to string) *Wire {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{to: to, listener: l, conns: map[net.Conn]bool{}}
	w.done.Go(w.accept)
	t.Cleanup(func() {
		_ = l.Close()
		w.Cut()
		w.done.Wait()
	})
	return w
}

// Address is where it listens.
func (w *Wire) Address() *net.TCPAddr { return w.listener.Addr().(*net.TCPAddr) }

// Cut closes every connection, and each new one at once.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for c := range w.conns {
		_ = c.Close()
	}
	clear(w.conns)
}

// Mend lets new connections through.
func (w *Wire) Mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
}

func (w *Wire) accept() {
	for {
		from, err := w.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.DialTimeout("tcp4", w.to, time.Second)
		if err != nil {
			_ = from.Close()
			continue
		}
		if !w.keep(from, to) {
			continue
		}
		w.done.Go(func() { w.copy(to, from) })
		w.done.Go(func() { w.copy(from, to) })
	}
}

func (w *Wire) keep(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		if w.cut {
			_ = c.Close()
		} else {
			w.conns[c] = true
		}
	}
	return !w.cut
}

// copy ends both connections when one of them ends.
func (w *Wire) copy(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range []net.Conn{to, from} {
		_ = c.Close()
		delete(w.conns, c)
	}
}
