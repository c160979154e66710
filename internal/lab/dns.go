package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Answer is what a DNS server says of a name.
type Answer struct {
	// Addresses are of either kind.
	Addresses []netip.Addr
	// Code is what it answers with; 0 is success.
	Code dnsmessage.RCode
	// Half answers for IPv4 and fails for IPv6; Silent says nothing at all.
	Half, Silent bool
}

// DNS is a name server on loopback, over UDP and, for what does not fit in a datagram, TCP.
type DNS struct {
	udp     *net.UDPConn
	tcp     *net.TCPListener
	running sync.WaitGroup

	mu      sync.Mutex
	answers map[string]Answer // by name
	asked   map[string]int
	streams int
}

// bound is how much of an answer fits in a datagram: what Go's resolver asks for.
const bound = 1232

// StartDNS starts a name server that knows no name.
func StartDNS() (*DNS, error) {
	s := &DNS{answers: map[string]Answer{}, asked: map[string]int{}}
	var err error
	if s.udp, s.tcp, err = listenBoth(); err != nil {
		return nil, fmt.Errorf("lab: name server: %w", err)
	}
	s.running.Go(s.datagrams)
	s.running.Go(s.accept)
	return s, nil
}

// Address is where it answers, over either.
func (s *DNS) Address() netip.AddrPort { return s.udp.LocalAddr().(*net.UDPAddr).AddrPort() }

// Close ends it; when it returns no goroutine of it is left.
func (s *DNS) Close() {
	_ = s.udp.Close()
	_ = s.tcp.Close()
	s.running.Wait()
}

func (s *DNS) datagrams() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if out := s.reply(buf[:n], bound); out != nil {
			_, _ = s.udp.WriteToUDPAddrPort(out, from)
		}
	}
}

func (s *DNS) accept() {
	for {
		conn, err := s.tcp.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.streams++
		s.mu.Unlock()
		s.running.Go(func() { s.stream(conn) })
	}
}

// stream answers one query.
func (s *DNS) stream(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // Close waits for it
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, query); err != nil {
		return
	}
	if out := s.reply(query, 1<<16-1); out != nil {
		_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
	}
}

// listenBoth takes a port that is free for both.
func listenBoth() (*net.UDPConn, *net.TCPListener, error) {
	for {
		udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, nil, err
		}
		tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: udp.LocalAddr().(*net.UDPAddr).Port})
		if err == nil {
			return udp, tcp, nil
		}
		_ = udp.Close()
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, nil, err
		}
	}
}

// Say makes the server say this of a name from now on. Of others it says that they do not exist.
func (s *DNS) Say(name string, a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[name] = a
}

// Asked is how often a name was asked for.
func (s *DNS) Asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

// Streams is how often it was asked over TCP.
func (s *DNS) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams
}

// reply is the answer to a query; nil is none.
func (s *DNS) reply(query []byte, limit int) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	name := strings.TrimSuffix(q.Name.String(), ".")
	s.mu.Lock()
	s.asked[name]++
	a, ok := s.answers[name]
	s.mu.Unlock()
	switch {
	case !ok:
		a.Code = dnsmessage.RCodeNameError
	case a.Silent:
		return nil
	case a.Half && q.Type == dnsmessage.TypeAAAA:
		a.Code = dnsmessage.RCodeServerFailure
	}
	out := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, RecursionAvailable: true, RCode: a.Code},
		Questions: []dnsmessage.Question{q},
	}
	for _, ip := range a.Addresses {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}}
		switch {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			r.Body = &dnsmessage.AResource{A: ip.As4()}
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			r.Body = &dnsmessage.AAAAResource{AAAA: ip.As16()}
		default:
			continue
		}
		out.Answers = append(out.Answers, r)
	}
	packed, err := out.Pack()
	if err == nil && len(packed) > limit {
		out.Answers, out.Truncated = nil, true
		packed, err = out.Pack()
	}
	if err != nil {
		return nil
	}
	return packed
}
