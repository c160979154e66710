package bootstrap

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Options say for whom a bootstrap is.
type Options struct {
	// ID names one proxy; no two that run at the same time may share it.
	ID string
	// Service is the caller this proxy belongs to. With mTLS it must be what the certificate says, as must Region.
	Service, Region string
	// Zone within the region; may be "".
	Zone string
	// Gateway asks for a public listener in place of the sidecar's on loopback.
	Gateway bool
	// Port of the listener that the control plane gives it; 0 is the default (15001, a gateway 8080).
	Port int
	// Servers are the control planes as host:port, in the order in which they are tried.
	Servers []string
	// TLS is nil for plaintext, which is allowed to loopback addresses only, unless Plaintext says otherwise.
	TLS       *TLS
	Plaintext bool
	// Flush is the time between two reports of telemetry, from 100 ms to 5 min; 0 is 1 s.
	Flush time.Duration
	// Edges are the rising upper bounds of the latency buckets in microseconds.
	Edges []float64
	// Admin is the address of Envoy's own admin interface: a loopback host:port or the path of a Unix socket; "" is none.
	Admin string
}

// TLS names the files of a client certificate and of the authority that signs control planes. They are read by Envoy.
type TLS struct {
	Certificate, Key, Authority string
	// Server is who the control plane must be: a URI (spiffe://…) or a DNS name in its certificate.
	Server string
	// SecretsDir is where the files of Secrets were put. Envoy then follows changes of the certificate, key and authority
	// without a restart, when these are replaced by a rename within their directories. "": it reads them once.
	SecretsDir string
}

const (
	defaultFlush = time.Second
	minFlush     = 100 * time.Millisecond
	maxFlush     = 5 * time.Minute
)

type server struct {
	host string
	ip   bool
	port uint32
}

// check gives the servers, parsed; its error joins all that is wrong.
func (o *Options) check() ([]server, error) {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for name, v := range map[string]string{"ID": o.ID, "Service": o.Service, "Region": o.Region} {
		if v == "" {
			fail("%s is empty", name)
		}
	}
	servers := make([]server, 0, len(o.Servers))
	if len(o.Servers) == 0 {
		fail("Servers is empty: name at least one control plane")
	}
	for _, s := range o.Servers {
		parsed, err := parseServer(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if o.TLS == nil && !o.Plaintext && !loopback(parsed.host) {
			fail("server %s is not on loopback: give TLS, or ask for plaintext by name", s)
		}
		servers = append(servers, parsed)
	}
	if o.TLS != nil {
		if o.Plaintext {
			fail("TLS and Plaintext exclude each other")
		}
		if o.TLS.Certificate == "" || o.TLS.Key == "" || o.TLS.Authority == "" {
			fail("TLS needs a certificate, a key and an authority")
		}
		if o.TLS.Server == "" {
			fail("TLS needs the name of the control plane (a URI or DNS name): any certificate of the authority would do otherwise")
		}
	}
	if o.Flush != 0 && (o.Flush < minFlush || o.Flush > maxFlush || o.Flush%time.Millisecond != 0) {
		fail("Flush %v: want whole milliseconds from %v to %v", o.Flush, minFlush, maxFlush)
	}
	if o.Port < 0 || o.Port > 65535 {
		fail("Port %d: want 0 to 65535", o.Port)
	}
	if len(o.Edges) == 0 {
		fail("Edges is empty")
	}
	for i, e := range o.Edges {
		if !(e > 0) || i > 0 && e <= o.Edges[i-1] {
			fail("Edges[%d] = %v: want positive, rising microseconds", i, e)
			break
		}
	}
	if o.Admin != "" && !filepath.IsAbs(o.Admin) {
		if a, err := parseServer(o.Admin); err != nil {
			errs = append(errs, err)
		} else if !a.ip || !loopback(a.host) {
			fail("Admin %s: want a loopback address or the absolute path of a socket", o.Admin)
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("bootstrap: %w", errors.Join(errs...))
	}
	return servers, nil
}

func parseServer(s string) (server, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || strings.ContainsAny(host, "/ ") {
		return server{}, fmt.Errorf("%q: want host:port", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return server{}, fmt.Errorf("%q: want a port from 0 to 65535", s)
	}
	_, err = netip.ParseAddr(host)
	return server{host: host, ip: err == nil, port: uint32(n)}, nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
