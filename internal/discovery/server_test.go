package discovery_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// answer is what a server says of a name.
type answer struct {
	addresses []string
	rcode     dnsmessage.RCode
	// half answers for IPv4 and fails for IPv6; silent says nothing at all.
	half, silent bool
}

// server is a DNS server on loopback, over UDP and, for what does not fit in a datagram, TCP.
type server struct {
	at netip.AddrPort

	mu      sync.Mutex
	answers map[string]answer // by name
	asked   map[string]int
	streams int
}

// bound is how much of an answer fits in a datagram: what Go's resolver asks for.
const bound = 1232

func serve(t *testing.T) *server {
	t.Helper()
	udp, tcp := listen(t)
	s := &server{at: udp.LocalAddr().(*net.UDPAddr).AddrPort(), answers: map[string]answer{}, asked: map[string]int{}}
	var running sync.WaitGroup
	running.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if out := s.reply(t, buf[:n], bound); out != nil {
				_, _ = udp.WriteToUDPAddrPort(out, from)
			}
		}
	})
	running.Go(func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.streams++
			s.mu.Unlock()
			running.Go(func() {
				defer conn.Close()
				var size [2]byte
				if _, err := io.ReadFull(conn, size[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(conn, query); err != nil {
					return
				}
				if out := s.reply(t, query, 1<<16-1); out != nil {
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
				}
			})
		}
	})
	t.Cleanup(func() {
		udp.Close()
		tcp.Close()
		running.Wait()
	})
	return s
}

// listen takes a port that is free for both.
func listen(t *testing.T) (*net.UDPConn, *net.TCPListener) {
	t.Helper()
	for {
		udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: udp.LocalAddr().(*net.UDPAddr).Port})
		if err == nil {
			return udp, tcp
		}
		udp.Close()
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// say makes the server say this of a name from now on. Of others it says that they do not exist.
func (s *server) say(name string, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[name] = a
}

// count is how often a name was asked for.
func (s *server) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

func (s *server) reply(t *testing.T, query []byte, limit int) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		t.Error(err)
		return nil
	}
	q, err := p.Question()
	if err != nil {
		t.Error(err)
		return nil
	}
	name := strings.TrimSuffix(q.Name.String(), ".")
	s.mu.Lock()
	s.asked[name]++
	a, ok := s.answers[name]
	s.mu.Unlock()
	switch {
	case !ok:
		a.rcode = dnsmessage.RCodeNameError
	case a.silent:
		return nil
	case a.half && q.Type == dnsmessage.TypeAAAA:
		a.rcode = dnsmessage.RCodeServerFailure
	}
	out := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, RecursionAvailable: true, RCode: a.rcode},
		Questions: []dnsmessage.Question{q},
	}
	for _, text := range a.addresses {
		ip := netip.MustParseAddr(text)
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
		t.Error(err)
	}
	return packed
}
