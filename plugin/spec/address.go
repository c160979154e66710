package spec

import (
	"errors"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// address is where an endpoint is.
type address struct {
	// host is an IP address or a DNS name.
	host string
	// ip is not valid when host is a name.
	ip   netip.Addr
	port uint16
}

func (a address) String() string {
	if a.ip.IsValid() {
		return netip.AddrPortFrom(a.ip, a.port).String()
	}
	return a.host + ":" + strconv.Itoa(int(a.port))
}

var (
	dnsName = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	// endsInNumber is what some resolvers take for an IPv4 address, such as 10.1 and 127.0x1.
	endsInNumber = regexp.MustCompile(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)
)

// parseAddress reads "IP:port" or "name:port" and says what is wrong with one that nobody can connect to.
func parseAddress(text string) (address, error) {
	if a, err := netip.ParseAddrPort(text); err == nil {
		switch {
		case a.Port() == 0:
			return address{}, errors.New("port 0 cannot be connected to")
		case a.Addr().Zone() != "":
			return address{}, errors.New("an interface means nothing on another machine")
		case a.Addr().IsUnspecified() || a.Addr().IsMulticast():
			return address{}, errors.New("no host has this address")
		}
		return address{host: a.Addr().String(), ip: a.Addr(), port: a.Port()}, nil
	}
	i := strings.LastIndex(text, ":")
	if i < 0 {
		return address{}, errors.New("no port")
	}
	host := text[:i]
	port, err := strconv.ParseUint(text[i+1:], 10, 16)
	switch {
	case err != nil || strconv.FormatUint(port, 10) != text[i+1:]:
		return address{}, errors.New("no port from 1 to 65535")
	case port == 0:
		return address{}, errors.New("port 0 cannot be connected to")
	case len(host) > 253 || !dnsName.MatchString(strings.ToLower(host)) || endsInNumber.MatchString(strings.ToLower(host)):
		return address{}, errors.New("neither an IP address nor a DNS name")
	case host != strings.ToLower(host):
		return address{}, errors.New("a name is written in lower case")
	}
	return address{host: host, port: uint16(port)}, nil
}
