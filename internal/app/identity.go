package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// identity is who a client of xDS is.
type identity struct {
	// node is the id that it gave itself, unique among the proxies of a service in a region.
	node, region, service string
}

// proxy names it among all: a lease is never renewed by another's telemetry.
func (i identity) proxy() string { return i.region + "/" + i.service + "/" + i.node }

// identify returns who is at the other end. With a client certificate region and service come from its only URI SAN
// (spiffe://DOMAIN/region/R/service/S), and a node that claims others is refused; without one (plaintext) they are what
// the node says.
func identify(ctx context.Context, node *corev3.Node) (identity, error) {
	id := identity{node: node.GetId(), region: node.GetLocality().GetRegion(), service: node.GetCluster()}
	if id.node == "" {
		return identity{}, errors.New("node.id is empty: every proxy needs a name of its own")
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity{}, errors.New("the connection has no peer")
	}
	if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		if len(tls.State.PeerCertificates) == 0 {
			return identity{}, errors.New("no client certificate")
		}
		region, service, err := proven(tls.State.PeerCertificates[0])
		if err != nil {
			return identity{}, err
		}
		if id.region != "" && id.region != region {
			return identity{}, fmt.Errorf("node.locality.region %q is not the certificate's region %q", id.region, region)
		}
		if id.service != "" && id.service != service {
			return identity{}, fmt.Errorf("node.cluster %q is not the certificate's service %q", id.service, service)
		}
		id.region, id.service = region, service
	}
	if id.region == "" {
		return identity{}, errors.New("node.locality.region is empty: the region decides what a proxy is given")
	}
	if id.service == "" {
		return identity{}, errors.New("node.cluster is empty: the calling service decides what a proxy is given")
	}
	return id, nil
}

// operator lets everybody use the admin API but a proxy: its certificate is for xDS.
func operator(ctx context.Context) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return errors.New("the connection has no peer")
	}
	if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(tls.State.PeerCertificates) > 0 {
		if region, service, err := proven(tls.State.PeerCertificates[0]); err == nil {
			return fmt.Errorf("the certificate is that of a proxy (region %s, service %s); the admin API wants one of an operator", region, service)
		}
	}
	return nil
}

// proven reads region and service from the certificate's single URI SAN.
func proven(cert *x509.Certificate) (region, service string, err error) {
	if len(cert.URIs) != 1 {
		return "", "", fmt.Errorf("the client certificate has %d URI SANs, want exactly one SPIFFE ID", len(cert.URIs))
	}
	id, err := spiffeid.FromURI(cert.URIs[0])
	if err != nil {
		return "", "", fmt.Errorf("the client certificate's URI SAN: %w", err)
	}
	parts := strings.Split(strings.TrimPrefix(id.Path(), "/"), "/")
	if len(parts) != 4 || parts[0] != "region" || parts[2] != "service" {
		return "", "", fmt.Errorf("SPIFFE ID %q is not of the form spiffe://DOMAIN/region/REGION/service/SERVICE", id)
	}
	return parts[1], parts[3], nil
}
