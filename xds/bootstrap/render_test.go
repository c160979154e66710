package bootstrap

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata")

var edges = []float64{100, 110, 1000, 2500, 10_000, 1_000_000}

func cases() map[string]Options {
	tls := TLS{Certificate: "/certs/cert.pem", Key: "/certs/key.pem", Authority: "/ca/ca.pem", Server: "spiffe://mesh/control"}
	sds := tls
	sds.SecretsDir = "/secrets"
	sds.Server = "control.example"
	return map[string]Options{
		"loopback": {ID: "web-1", Service: "web", Region: "eu", Zone: "a", Servers: []string{"127.0.0.1:18000"}, Edges: edges,
			Admin: "127.0.0.1:15000"},
		"failover": {ID: "edge-1", Service: "edge", Region: "eu", Gateway: true, Plaintext: true, Flush: 100 * time.Millisecond,
			Servers: []string{"control.eu.example:443", "10.0.0.7:443"}, Edges: edges, Admin: "/run/aviary/admin.sock"},
		"mtls":     {ID: "web-1", Service: "web", Region: "eu", Servers: []string{"10.0.0.7:443"}, TLS: &tls, Edges: edges},
		"rotation": {ID: "web-1", Service: "web", Region: "eu", Servers: []string{"10.0.0.7:443"}, TLS: &sds, Edges: edges},
	}
}

func TestRender(t *testing.T) {
	for name, o := range cases() {
		t.Run(name, func(t *testing.T) {
			got, err := Render(o)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", got)
			for range 20 {
				if again, _ := Render(o); !bytes.Equal(again, got) {
					t.Fatal("a second rendering differs")
				}
			}
			secrets, err := Secrets(o)
			if err != nil {
				t.Fatal(err)
			}
			if want := o.TLS != nil && o.TLS.SecretsDir != ""; (len(secrets) > 0) != want {
				t.Errorf("got %d secrets", len(secrets))
			}
			for file, content := range secrets {
				golden(t, name+"."+file, content)
			}
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites):\n%s", path, diff)
	}
}

func TestRenderRefuses(t *testing.T) {
	good := cases()["loopback"]
	tls := cases()["mtls"].TLS
	for _, c := range []struct {
		name, want string
		change     func(*Options)
	}{
		{"no id", "ID is empty", func(o *Options) { o.ID = "" }},
		{"no service", "Service is empty", func(o *Options) { o.Service = "" }},
		{"no region", "Region is empty", func(o *Options) { o.Region = "" }},
		{"no server", "at least one control plane", func(o *Options) { o.Servers = nil }},
		{"server without a port", `"10.0.0.1": want host:port`, func(o *Options) { o.Servers = []string{"10.0.0.1"} }},
		{"plaintext off loopback", "give TLS", func(o *Options) { o.Servers = append(o.Servers, "10.0.0.1:1") }},
		{"plaintext to a name, even localhost", "give TLS", func(o *Options) { o.Servers = []string{"localhost:1"} }},
		{"TLS and plaintext", "exclude each other", func(o *Options) { o.TLS, o.Plaintext = tls, true }},
		{"TLS without a key", "certificate, a key", func(o *Options) { c := *tls; c.Key = ""; o.TLS = &c }},
		{"TLS with whom", "name of the control plane", func(o *Options) { c := *tls; c.Server = ""; o.TLS = &c }},
		{"too quick a flush", "whole milliseconds", func(o *Options) { o.Flush = 50 * time.Millisecond }},
		{"no edges", "Edges is empty", func(o *Options) { o.Edges = nil }},
		{"falling edges", "Edges[1] = 1", func(o *Options) { o.Edges = []float64{2, 1} }},
		{"admin for all to see", "want a loopback address", func(o *Options) { o.Admin = "0.0.0.0:1" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good
			c.change(&o)
			out, err := Render(o)
			if err == nil || !strings.Contains(err.Error(), c.want) || out != nil {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestStatistics: which of Envoy's statistics are let through, and under whose name.
func TestStatistics(t *testing.T) {
	config := statsConfig(edges)
	passes := func(stat string) bool {
		for _, p := range config.GetStatsMatcher().GetInclusionList().GetPatterns() {
			if p.GetExact() == stat || p.GetPrefix() != "" && strings.HasPrefix(stat, p.GetPrefix()) ||
				p.GetSafeRegex() != nil && regexp.MustCompile(`^(?:`+p.GetSafeRegex().GetRegex()+`)$`).MatchString(stat) {
				return true
			}
		}
		return false
	}
	name := regexp.MustCompile(config.GetStatsTags()[0].GetRegex())
	for stat, cluster := range map[string]string{
		"cluster.cart/stable/v1.upstream_rq_active":                         "cart/stable/v1",
		"cluster.cart/stable/v1.2.upstream_rq_pending_active":               "cart/stable/v1.2",
		"cluster.cart/remote/v1.outlier_detection.ejections_enforced_total": "cart/remote/v1",
		"cluster.cart/shed/v1.upstream_rq_pending_overflow":                 "cart/shed/v1",
		"cluster.cart/shadow/v2.upstream_rq_max_duration_reached":           "cart/shadow/v2",
		"cluster.cart/shadow/v2.upstream_rq_timeout":                        "cart/shadow/v2",
		"cluster.cart/stable/v1.upstream_rq_timeout":                        "",
		"cluster.cart/shadow/v2.upstream_rq_per_try_timeout":                "",
		"cluster.cart/shadow/v2.upstream_rq_200":                            "",
		"cluster.cart/stable/v1.upstream_rq_time":                           "",
		"cluster.aviary.upstream_rq_active":                                 "",
	} {
		got := ""
		if passes(stat) {
			got = name.FindStringSubmatch(stat)[2]
		}
		if got != cluster {
			t.Errorf("%s is of %q, want %q", stat, got, cluster)
		}
	}
	for _, stat := range []string{"aviary.tries", "server.uptime", "cluster.aviary.upstream_cx_active"} {
		if !passes(stat) {
			t.Errorf("%s does not pass", stat)
		}
	}
}

// TestEnvoyAccepts has the real Envoy validate every bootstrap, with no word of warning.
func TestEnvoyAccepts(t *testing.T) {
	envoy := envoyBinary(t)
	for name, o := range cases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if o.TLS != nil {
				o.TLS.Certificate, o.TLS.Key, o.TLS.Authority = selfSigned(t, dir)
				if o.TLS.SecretsDir != "" {
					o.TLS.SecretsDir = dir
				}
			}
			secrets, err := Secrets(o)
			if err != nil {
				t.Fatal(err)
			}
			for file, content := range secrets {
				write(t, filepath.Join(dir, file), content)
			}
			config, err := Render(o)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "bootstrap.json")
			write(t, path, config)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, envoy, "--mode", "validate", "-c", path, "-l", "warn", "--use-dynamic-base-id").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if text := string(out); strings.Contains(text, "[warning]") || strings.Contains(text, "[error]") {
				t.Errorf("Envoy complains:\n%s", text)
			}
		})
	}
}

func envoyBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("AVIARY_ENVOY"); path != "" {
		return path
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path
	}
	path := filepath.Join("..", "..", ".tools", "envoy", "envoy")
	if _, err := os.Stat(path); err != nil {
		t.Skip("no envoy: set AVIARY_ENVOY or run make envoy")
	}
	return path
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func selfSigned(t *testing.T, dir string) (certificate, key, authority string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, authority = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")
	pemCert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	write(t, certificate, pemCert)
	write(t, authority, pemCert)
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	return certificate, key, authority
}
