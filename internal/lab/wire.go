package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"
)

// Network is what a wire does to what it carries. The zero value carries everything at once.
type Network struct {
	// Delay is added one way, both ways alike; Jitter adds between nothing and so much again. Nothing overtakes.
	Delay  time.Duration
	Jitter time.Duration
	// Loss is the part of the segments, in [0,1), that is lost and sent again after 200 ms, 400 ms, ….
	Loss float64
	// Cut closes every connection and refuses new ones.
	Cut bool
	// Blackhole loses every segment: connections stay, and those that are opened are, but nothing comes through. What was
	// sent comes when it is sent again after the end of it.
	Blackhole bool
}

func (n Network) String() string {
	var parts []string
	if n.Delay > 0 || n.Jitter > 0 {
		parts = append(parts, fmt.Sprintf("%v to %v one way", n.Delay, n.Delay+n.Jitter))
	}
	if n.Loss > 0 {
		parts = append(parts, percent(n.Loss)+" of segments lost")
	}
	if n.Cut {
		parts = append(parts, "cut")
	}
	if n.Blackhole {
		parts = append(parts, "nothing passes")
	}
	if len(parts) == 0 {
		return "well"
	}
	return strings.Join(parts, ", ")
}

// check says what is wrong with a network.
func (n Network) check() error {
	if n.Delay < 0 || n.Jitter < 0 || !(n.Loss >= 0 && n.Loss < 1) {
		return fmt.Errorf("network %+v; want delay and jitter >= 0, loss from 0%% to below 100%%", n)
	}
	if n.Cut && (n.Blackhole || n.Loss > 0 || n.Delay > 0 || n.Jitter > 0) || n.Blackhole && n.Loss > 0 {
		return errors.New("network: what is cut or a blackhole carries nothing, so that it has no other fault")
	}
	return nil
}

// The time after which a lost segment is sent again, and the longest that doubling makes of it, as TCP has them on Linux.
const (
	retransmit    = 200 * time.Millisecond
	maxRetransmit = 2 * time.Minute
)

// Wire forwards TCP connections to an address and does to them what a network can. Its own address stays the same.
type Wire struct {
	to   string
	port *Port

	conns sync.WaitGroup // what accepts, and every link

	mu       sync.Mutex // guards what follows, and orders Set and Close
	network  Network
	listener net.Listener // nil while it is cut
	links    map[*link]bool
	closed   bool
}

// NewWire opens a wire to an address (host:port), which need not be there yet.
func NewWire(to string) (*Wire, error) {
	port, err := NewPort()
	if err != nil {
		return nil, err
	}
	w := &Wire{to: to, port: port, links: map[*link]bool{}}
	if err := w.listen(); err != nil {
		port.Close()
		return nil, err
	}
	return w, nil
}

// Address is where it listens, host and port.
func (w *Wire) Address() string { return w.port.Address() }

// Port is the number of its port.
func (w *Wire) Port() int { return w.port.Number() }

// Set changes what the wire does from now on; what is on its way keeps its delay.
func (w *Wire) Set(n Network) error {
	if err := n.check(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("lab: wire to %s: %w", w.to, net.ErrClosed)
	}
	w.network = n
	if n.Cut {
		w.shut()
		return nil
	}
	return w.listen()
}

// Close cuts the wire; when it returns no goroutine of it is left.
func (w *Wire) Close() {
	w.mu.Lock()
	w.closed = true
	w.shut()
	w.mu.Unlock()
	w.conns.Wait()
	w.port.Close()
}

// listen begins to accept, if it does not yet; w.mu is held, or the wire is new.
func (w *Wire) listen() error {
	if w.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp4", w.port.Address())
	if err != nil {
		return fmt.Errorf("lab: wire to %s: %w", w.to, err)
	}
	w.listener = l
	w.conns.Go(func() { w.accept(l) })
	return nil
}

// shut ends the listener and every connection; w.mu is held.
func (w *Wire) shut() {
	if w.listener != nil {
		_ = w.listener.Close()
		w.listener = nil
	}
	for l := range w.links {
		l.end()
	}
	clear(w.links)
}

func (w *Wire) accept(listener net.Listener) {
	for {
		from, err := listener.Accept()
		if err != nil {
			return
		}
		l := &link{wire: w, from: from, ended: make(chan struct{})}
		w.mu.Lock()
		if w.listener != listener { // it was cut, or cut and mended, since
			w.mu.Unlock()
			_ = from.Close()
			continue
		}
		w.links[l] = true
		w.conns.Go(l.run)
		w.mu.Unlock()
	}
}

// lost draws whether a segment that is sent now is lost.
func (w *Wire) lost() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.network.Blackhole || w.network.Loss > 0 && rand.Float64() < w.network.Loss
}

// way draws how long a segment that is sent now takes.
func (w *Wire) way() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.network.Delay
	if w.network.Jitter > 0 {
		d += rand.N(w.network.Jitter)
	}
	return d
}

// link is one connection on its way.
type link struct {
	wire  *Wire
	from  net.Conn
	ended chan struct{}

	mu   sync.Mutex
	to   net.Conn // nil until it is dialed
	over bool
}

// end closes both ends.
func (l *link) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.over = true
	close(l.ended)
	_ = l.from.Close()
	if l.to != nil {
		_ = l.to.Close()
	}
}

// run carries the connection, both ways, until it is over.
func (l *link) run() {
	defer func() {
		l.end()
		l.wire.mu.Lock()
		delete(l.wire.links, l)
		l.wire.mu.Unlock()
	}()
	// The connection is there for who opened it; its SYN comes when the network carries it.
	if !l.pass(time.Now()) {
		return
	}
	to, err := net.DialTimeout("tcp4", l.wire.to, 5*time.Second)
	if err != nil {
		return
	}
	l.mu.Lock()
	if l.to = to; l.over {
		_ = to.Close()
	}
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.carry(to, l.from) })
	both.Go(func() { l.carry(l.from, to) })
	both.Wait()
}

// pass waits until a segment that was first sent at a time has come through. False: the connection is over.
func (l *link) pass(sent time.Time) bool {
	for again := retransmit; l.wire.lost(); again = min(2*again, maxRetransmit) {
		sent = sent.Add(again)
		if !l.until(sent) {
			return false
		}
	}
	return l.until(sent.Add(l.wire.way()))
}

func (l *link) until(at time.Time) bool {
	if wait := time.Until(at); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-l.ended:
		}
	}
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

// segment is what was read at once; none is the end.
type segment struct {
	sent time.Time
	data []byte
}

// carry takes one direction. What is read and not yet passed on is bounded: beyond that the sender waits, as for a window.
func (l *link) carry(to, from net.Conn) {
	segments := make(chan segment, 256)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(segments)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			if n > 0 {
				select {
				case segments <- segment{time.Now(), b[:n]}:
				case <-l.ended:
					return
				}
			}
			if err != nil {
				select {
				case segments <- segment{sent: time.Now()}:
				case <-l.ended:
				}
				return
			}
		}
	})
	defer reader.Wait()
	for s := range segments {
		if !l.pass(s.sent) {
			continue // to its end, which is near
		}
		if len(s.data) == 0 {
			_ = to.(*net.TCPConn).CloseWrite()
		} else if _, err := to.Write(s.data); err != nil {
			l.end() // who sends must learn of it
		}
	}
}
