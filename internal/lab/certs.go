package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// CA is a throw-away certificate authority of one SPIFFE trust domain. Its key is in memory alone.
type CA struct {
	trustDomain string
	cert        *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA makes an authority for a trust domain such as "lab.example".
func NewCA(trustDomain string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("lab: make a CA: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "lab CA"}, URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	ca := &CA{trustDomain: trustDomain, key: key}
	ca.cert, err = ca.sign(template, template, key)
	return ca, err
}

// PEM is the authority's certificate.
func (ca *CA) PEM() []byte { return certPEM(ca.cert) }

// Pool holds the authority's certificate alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// SPIFFE is the identity of a service's sidecar in a region.
func (ca *CA) SPIFFE(region, service string) string {
	return "spiffe://" + ca.trustDomain + "/region/" + region + "/service/" + service
}

// Leaf is a certificate with its key, good for clients and for servers on loopback.
type Leaf struct {
	Cert, Key []byte // PEM
	TLS       tls.Certificate
}

// Sidecar issues the certificate of a service's sidecar in a region: one URI SAN, SPIFFE(region, service).
func (ca *CA) Sidecar(region, service string) (*Leaf, error) {
	return ca.Leaf(time.Hour, ca.SPIFFE(region, service))
}

// Leaf issues a certificate with any URI SANs; it expires after valid, which may be negative.
func (ca *CA) Leaf(valid time.Duration, uris ...string) (*Leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("lab: issue a certificate: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		NotBefore: now.Add(min(0, valid) - time.Minute), NotAfter: now.Add(valid),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, uri := range uris {
		parsed, err := url.Parse(uri)
		if err != nil {
			return nil, fmt.Errorf("lab: issue a certificate: %w", err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	cert, err := ca.sign(template, ca.cert, key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("lab: issue a certificate: %w", err)
	}
	leaf := &Leaf{Cert: certPEM(cert), Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
	leaf.TLS, err = tls.X509KeyPair(leaf.Cert, leaf.Key)
	return leaf, err
}

// Write puts cert.pem, key.pem and ca.pem into a directory.
func (ca *CA) Write(dir string, leaf *Leaf) error {
	for name, text := range map[string][]byte{"cert.pem": leaf.Cert, "key.pem": leaf.Key, "ca.pem": ca.PEM()} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return fmt.Errorf("lab: write certificates: %w", err)
		}
	}
	return nil
}

func (ca *CA) sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("lab: sign a certificate: %w", err)
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("lab: sign a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
