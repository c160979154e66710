package lab

import (
	"net"
	"strconv"
	"sync"
)

// Port is a loopback TCP port that is kept for its owner until Close: on Linux nobody else who asks the kernel for a free
// port gets it, while the owner, or a child process of the same user, may listen on it, stop, and listen again.
type Port struct {
	host    string
	number  int
	release func() error
	once    sync.Once
}

var handedOut = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// NewPort reserves a free port of 127.0.0.1 that this process never reserved before.
func NewPort() (*Port, error) { return newPort(loopback) }

const loopback = "127.0.0.1"

// newPort is NewPort of another loopback address.
func newPort(host string) (*Port, error) {
	for {
		number, release, err := reserve(host)
		if err != nil {
			return nil, err
		}
		handedOut.Lock()
		seen := handedOut.ports[number]
		if len(handedOut.ports) > 4096 {
			clear(handedOut.ports)
		}
		handedOut.ports[number] = true
		handedOut.Unlock()
		if !seen {
			return &Port{host: host, number: number, release: release}, nil
		}
		_ = release()
	}
}

// Number is the port's number.
func (p *Port) Number() int { return p.number }

// Address is host and port, "127.0.0.1:12345".
func (p *Port) Address() string { return net.JoinHostPort(p.host, strconv.Itoa(p.number)) }

// Close gives the port back. It does not stop who listens on it.
func (p *Port) Close() {
	p.once.Do(func() { _ = p.release() })
}
