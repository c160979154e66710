package lab

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
)

// dependency is a service that instances of another one call for each request.
type dependency struct {
	addresses []string
	next      atomic.Uint64
	transport *http.Transport
}

func newDependency(addresses []string) *dependency {
	return &dependency{addresses: addresses, transport: &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}}
}

// call asks the next instance, once, and says whether it answered well before ctx ended. A call for a copy is marked as one.
func (d *dependency) call(ctx context.Context, copied string) bool {
	address := d.addresses[d.next.Add(1)%uint64(len(d.addresses))]
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return false
	}
	if copied != "" {
		req.Header.Set(ShadowHeader, copied)
	}
	resp, err := d.transport.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode < 400
}

func (d *dependency) close() { d.transport.CloseIdleConnections() }
