package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
)

// TLS names the files of our certificate and of the authority that signs those of the other side.
type TLS struct{ Certificate, Key, Authority string }

func (t TLS) read() (tls.Certificate, *x509.CertPool, error) {
	pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
	if err != nil {
		return pair, nil, fmt.Errorf("certificate: %w", err)
	}
	pem, err := os.ReadFile(t.Authority)
	if err != nil {
		return pair, nil, fmt.Errorf("authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return pair, nil, fmt.Errorf("authority: %s holds no PEM certificate", t.Authority)
	}
	return pair, pool, nil
}

// config is for serving. It reads the files at every handshake, so that a rotated certificate is served without a restart.
func (t TLS) config() (*tls.Config, error) {
	load := func() (*tls.Config, error) {
		pair, pool, err := t.read()
		if err != nil {
			return nil, err
		}
		return &tls.Config{
			MinVersion:   tls.VersionTLS12,
			Certificates: []tls.Certificate{pair},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    pool,
			NextProtos:   []string{"h2"},
		}, nil
	}
	first, err := load()
	if err != nil {
		return nil, err
	}
	first.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return load() }
	return first, nil
}

var errPlaintext = errors.New("plaintext is for loopback only: give --tls-cert, --tls-key and --tls-ca, or ask for it by name with --plaintext")

// guardPlaintext refuses an address that others can reach, unless it was asked for.
func guardPlaintext(address string, allowed bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %q: want host:port: %w", address, err)
	}
	if ip := net.ParseIP(host); allowed || host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s: %w", address, errPlaintext)
}
