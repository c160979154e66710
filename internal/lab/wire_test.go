package lab

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// echo answers every byte with itself.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func wire(t *testing.T, n Network) *Wire {
	t.Helper()
	w, err := NewWire(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	if err := w.Set(n); err != nil {
		t.Fatal(err)
	}
	return w
}

func dial(t *testing.T, w *Wire) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", w.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// trip sends a text and returns how long its echo took; an error when none came within the time.
func trip(c net.Conn, text string, within time.Duration) (time.Duration, error) {
	begin := time.Now()
	if err := c.SetDeadline(begin.Add(within)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return 0, err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return 0, err
	}
	if string(got) != text {
		return 0, errors.New("another echo: " + string(got))
	}
	return time.Since(begin), nil
}

func TestWireCarriesInOrder(t *testing.T) {
	for name, n := range map[string]Network{
		"well":  {},
		"delay": {Delay: 5 * time.Millisecond, Jitter: 20 * time.Millisecond},
		"loss":  {Loss: .2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, wire(t, n))
			sent := make([]byte, 300_000)
			_, _ = rand.Read(sent)
			go func() {
				_, _ = c.Write(sent)
				_ = c.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("sent %d bytes, got %d, the same: %v, %v", len(sent), len(got), bytes.Equal(got, sent), err)
			}
		})
	}
}

func TestWireDelaysBothWays(t *testing.T) {
	w := wire(t, Network{Delay: 40 * time.Millisecond})
	c := dial(t, w)
	for range 3 {
		if took, err := trip(c, "hello", 10*time.Second); err != nil || took < 80*time.Millisecond {
			t.Errorf("a round trip took %v, %v; want 80ms at least", took, err)
		}
	}
}

func TestWireHoldsBackWhatIsLost(t *testing.T) {
	w := wire(t, Network{Loss: .3})
	var held atomic.Int32
	var all sync.WaitGroup
	for range 12 {
		c := dial(t, w)
		all.Go(func() {
			if took, err := trip(c, "x", 2*time.Minute); err != nil {
				t.Error(err)
			} else if took >= retransmit {
				held.Add(1)
			}
		})
	}
	all.Wait()
	if held.Load() == 0 { // one time in 400,000 nothing is lost
		t.Error("nothing was held back")
	}
}

func TestWireCut(t *testing.T) {
	w := wire(t, Network{})
	address := w.Address()
	for round := range 3 {
		c := dial(t, w)
		if _, err := trip(c, "hello", 10*time.Second); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := w.Set(Network{Cut: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := trip(c, "hello", 10*time.Second); err == nil || errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("round %d: an open connection outlived the cut: %v", round, err)
		}
		if _, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("round %d: %v, want ECONNREFUSED", round, err)
		}
		if err := w.Set(Network{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWireBlackhole(t *testing.T) {
	w := wire(t, Network{})
	before := dial(t, w)
	if _, err := trip(before, "hello", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := w.Set(Network{Blackhole: true}); err != nil {
		t.Fatal(err)
	}
	during := dial(t, w)
	for name, c := range map[string]net.Conn{"open": before, "new": during} {
		var timeout net.Error
		if _, err := trip(c, name, 250*time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%s connection: %v, want nothing until a time-out", name, err)
		}
	}
	if err := w.Set(Network{}); err != nil {
		t.Fatal(err)
	}
	// What was sent is sent again.
	for name, c := range map[string]net.Conn{"open": before, "new": during} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		got := make([]byte, len(name))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != name {
			t.Errorf("%s connection after the blackhole: %q, %v", name, got, err)
		}
	}
}

func TestWireToNobody(t *testing.T) {
	port, err := NewPort()
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	w, err := NewWire(port.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := trip(dial(t, w), "hello", 20*time.Second); err == nil {
		t.Error("an echo from nobody")
	}
	if err := w.Set(Network{Loss: 1}); err == nil {
		t.Error("a loss of all was taken")
	}
	if err := w.Set(Network{Cut: true, Delay: time.Second}); err == nil {
		t.Error("a cut with a delay was taken")
	}
	w.Close()
	if err := w.Set(Network{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed wire: %v", err)
	}
}
