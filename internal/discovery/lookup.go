package discovery

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// Lookup finds the addresses of a host.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// Machine looks up as the machine is configured to: in its hosts file, then at its DNS servers.
func Machine() Lookup {
	return lookup(func(server string) string { return server })
}

// Server looks up in the machine's hosts file, then at one DNS server.
func Server(at netip.AddrPort) Lookup {
	return lookup(func(string) string { return at.String() })
}

// lookup asks for IPv4 and IPv6. When one of the two fails, all does: half an answer would take the other half's endpoints
// away.
func lookup(at func(server string) string) Lookup {
	r := &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, server string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, at(server))
		if err == nil {
			// The resolver reads on for seconds after its caller has given up.
			context.AfterFunc(ctx, func() { _ = conn.Close() })
		}
		return conn, err
	}}
	return func(ctx context.Context, host string) ([]netip.Addr, error) {
		found, err := r.LookupNetIP(ctx, "ip", host)
		var failed *net.DNSError
		if errors.As(err, &failed) && failed.Server != "" {
			failed.Server = at(failed.Server) // the one that was asked
		}
		return found, err
	}
}
