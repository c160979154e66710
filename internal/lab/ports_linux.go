package lab

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// reserve binds a free loopback port without listening on it. The kernel then gives the port to nobody who asks for any
// port, refuses connections to it, and lets those who name it (with SO_REUSEADDR, as Go and Envoy do) listen on it.
func reserve(host string) (port int, release func() error, err error) {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return 0, nil, fmt.Errorf("lab: reserve a port: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("lab: reserve a port: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return 0, nil, fmt.Errorf("lab: reserve a port: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: ip.As4()}); err != nil {
		return 0, nil, fmt.Errorf("lab: reserve a port: %w", err)
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		return 0, nil, fmt.Errorf("lab: reserve a port: %w", err)
	}
	return address.(*unix.SockaddrInet4).Port, func() error { return unix.Close(fd) }, nil
}
