//go:build !linux

package lab

import (
	"fmt"
	"net"
)

// reserve finds a free loopback port. It cannot be held here: a bound socket would keep its user out as well.
func reserve(host string) (port int, release func() error, err error) {
	l, err := net.Listen("tcp4", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, nil, fmt.Errorf("lab: reserve a port: %w", err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	return port, func() error { return nil }, l.Close()
}
