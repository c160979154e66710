package main

import (
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/aviary-mesh/aviary/internal/lab"
)

const controlPlane = "spiffe://lab.example/aviary"

// secured starts a control plane that asks for client certificates and returns its address and a directory with those
// of a client.
func secured(t *testing.T) (address, dir string) {
	t.Helper()
	ca, err := lab.NewCA("lab.example")
	if err != nil {
		t.Fatal(err)
	}
	certificates := func(uri string) string {
		leaf, err := ca.Leaf(time.Hour, uri)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := ca.Write(dir, leaf); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	own := certificates(controlPlane)
	pair, err := tls.LoadX509KeyPair(filepath.Join(own, "cert.pem"), filepath.Join(own, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := servePlane(t.TempDir(), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
	})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p.address, certificates("spiffe://lab.example/people/ann")
}

func TestACertificateProvesBothSides(t *testing.T) {
	address, dir := secured(t)
	region := filepath.Join(t.TempDir(), "eu.yaml")
	if err := os.WriteFile(region, []byte("apiVersion: aviary.dev/v1\nkind: Region\nmetadata: {name: eu}\nspec: {zones: [a]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	trusting := []string{"--address", address, "--ca", filepath.Join(dir, "ca.pem")}
	proven := slices.Concat(trusting, []string{"--cert", filepath.Join(dir, "cert.pem"), "--key", filepath.Join(dir, "key.pem")})
	for _, c := range []struct {
		name  string
		verb  []string
		flags []string
		code  int
		says  string
	}{
		{"by the host's name", []string{"apply", "-f", region, "--author", "mallory"}, proven, exitOK, "Region/eu created"},
		{"the author is who the certificate names", []string{"history", "region", "eu"}, proven, exitOK, "spiffe://lab.example/people/ann"},
		{"by a URI", []string{"get", "--server-name", controlPlane}, proven, exitOK, "Region/eu"},
		{"another URI", []string{"get", "--server-name", "spiffe://lab.example/impostor"}, proven, exitUnreachable, "not spiffe://lab.example/impostor"},
		{"another name", []string{"get", "--server-name", "impostor"}, proven, exitUnreachable, "impostor"},
		{"no client certificate", []string{"get"}, trusting, exitUnreachable, "It may ask for a client certificate"},
		{"no TLS", []string{"get"}, trusting[:2], exitUnreachable, "--ca if it speaks TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			if code := run(t.Context(), slices.Concat(c.verb, c.flags), strings.NewReader(""), &out, &out); code != c.code || !strings.Contains(out.String(), c.says) {
				t.Fatalf("exit code %d, want %d: %s, want %q", code, c.code, &out, c.says)
			}
		})
	}
}
