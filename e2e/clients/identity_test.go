package clients

import (
	"context"
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/aviary-mesh/aviary/internal/app"
	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/signal"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
)

const twoCallers = `
apiVersion: aviary.dev/v1
kind: Region
metadata: {name: eu-west}
spec: {zones: [a]}
---
apiVersion: aviary.dev/v1
kind: Region
metadata: {name: us-east}
spec: {zones: [a]}
---
apiVersion: aviary.dev/v1
kind: Service
metadata: {name: front}
spec: {hosts: [front.example], stable: v1, versions: [{name: v1, digest: "sha256:1"}], calls: [shop]}
---
apiVersion: aviary.dev/v1
kind: Service
metadata: {name: other}
spec: {hosts: [other.example], stable: v1, versions: [{name: v1, digest: "sha256:1"}]}
---
apiVersion: aviary.dev/v1
kind: Service
metadata: {name: shop}
spec:
  hosts: [shop.example]
  stable: v1
  versions:
    - {name: v1, digest: "sha256:1", regions: [{region: eu-west, endpoints: [{zone: a, address: "127.0.0.1:9"}]}]}
`

// secure is a control plane with TLS in this process.
type secure struct {
	ca    *lab.CA
	dir   string
	xds   string
	admin string
}

func startSecure(t *testing.T) *secure {
	t.Helper()
	ca, err := lab.NewCA("mesh.example")
	if err != nil {
		t.Fatal(err)
	}
	s := &secure{ca: ca, dir: t.TempDir()}
	server, err := ca.Leaf(time.Hour, "spiffe://mesh.example/aviary")
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Write(s.dir, server); err != nil {
		t.Fatal(err)
	}
	a, err := app.New(app.Config{
		DataDir: t.TempDir(), XDS: "127.0.0.1:0", Admin: "127.0.0.1:0", HTTP: "127.0.0.1:0",
		TLS: &app.TLS{
			Certificate: filepath.Join(s.dir, "cert.pem"), Key: filepath.Join(s.dir, "key.pem"), Authority: filepath.Join(s.dir, "ca.pem"),
		},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.xds, s.admin, _ = a.Addresses()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-a.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	api := aviaryv1.NewAdminServiceClient(s.dial(t, s.admin, s.leaf(t, "spiffe://mesh.example/operator")))
	if _, err := api.Apply(t.Context(), &aviaryv1.ApplyRequest{Files: []*aviaryv1.File{{Name: "two.yaml", Content: []byte(twoCallers)}}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *secure) leaf(t *testing.T, uris ...string) *lab.Leaf {
	t.Helper()
	leaf, err := s.ca.Leaf(time.Hour, uris...)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// dial connects with a certificate, or without one.
func (s *secure) dial(t *testing.T, address string, leaf *lab.Leaf) *grpc.ClientConn {
	t.Helper()
	config := &tls.Config{RootCAs: s.ca.Pool(), ServerName: "localhost"}
	if leaf != nil {
		config.Certificates = []tls.Certificate{leaf.TLS}
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// clusters asks for all clusters and returns their names.
func clusters(t *testing.T, conn *grpc.ClientConn, node *corev3.Node) ([]string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&discoveryv3.DiscoveryRequest{Node: node, TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"}); err != nil {
		return nil, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range resp.Resources {
		for _, want := range []string{"shop/stable/v1"} {
			if strings.Contains(string(r.Value), want) {
				names = append(names, want)
			}
		}
	}
	return names, nil
}

func node(region, service string) *corev3.Node {
	return &corev3.Node{Id: "n1", Cluster: service, Locality: &corev3.Locality{Region: region}}
}

func TestACertificateSaysWhoAProxyIs(t *testing.T) {
	s := startSecure(t)
	front := s.leaf(t, s.ca.SPIFFE("eu-west", "front"))
	for _, c := range []struct {
		name string
		leaf *lab.Leaf
		node *corev3.Node
		want []string
		code codes.Code
		says string
	}{
		{"what it proves and claims", front, node("eu-west", "front"), []string{"shop/stable/v1"}, codes.OK, ""},
		{"what it proves without a claim", front, node("", ""), []string{"shop/stable/v1"}, codes.OK, ""},
		{"another service has a view of its own", s.leaf(t, s.ca.SPIFFE("eu-west", "other")), node("eu-west", "other"), nil, codes.OK, ""},
		{"a claim of another region", front, node("us-east", "front"), nil, codes.PermissionDenied, `"us-east"`},
		{"a claim of another service", front, node("eu-west", "other"), nil, codes.PermissionDenied, `"other"`},
		{"a region that nobody declared", s.leaf(t, s.ca.SPIFFE("mars", "front")), node("", ""), nil, codes.PermissionDenied, `"mars"`},
		{"two identities", s.leaf(t, s.ca.SPIFFE("eu-west", "front"), s.ca.SPIFFE("eu-west", "other")), node("", ""), nil, codes.PermissionDenied, "exactly one"},
		{"an identity of another form", s.leaf(t, "spiffe://mesh.example/ns/x/sa/y"), node("", ""), nil, codes.PermissionDenied, "not of the form"},
		{"no certificate", nil, node("eu-west", "front"), nil, codes.Unavailable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := clusters(t, s.dial(t, s.xds, c.leaf), c.node)
			if status.Code(err) != c.code || c.says != "" && !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, want %v with %q", err, c.code, c.says)
			}
			if strings.Join(got, ",") != strings.Join(c.want, ",") {
				t.Errorf("clusters %v, want %v", got, c.want)
			}
		})
	}
	t.Run("a proxy's certificate is not for the admin API", func(t *testing.T) {
		_, err := aviaryv1.NewAdminServiceClient(s.dial(t, s.admin, front)).ListRollouts(t.Context(), &aviaryv1.ListRolloutsRequest{})
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "of a proxy") {
			t.Errorf("%v, want PermissionDenied", err)
		}
	})
	t.Run("telemetry in another's name is refused", func(t *testing.T) {
		stream, err := metricsv3.NewMetricsServiceClient(s.dial(t, s.xds, front)).StreamMetrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&metricsv3.StreamMetricsMessage{
			Identifier: &metricsv3.StreamMetricsMessage_Identifier{Node: node("us-east", "front")},
		}); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(new(metricsv3.StreamMetricsResponse)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v, want PermissionDenied", err)
		}
	})
}

func TestAnEnvoyConnectsWithItsCertificate(t *testing.T) {
	s := startSecure(t)
	dir := t.TempDir()
	if err := s.ca.Write(dir, s.leaf(t, s.ca.SPIFFE("eu-west", "front"))); err != nil {
		t.Fatal(err)
	}
	port, err := lab.NewPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	text, err := bootstrap.Render(bootstrap.Options{
		ID: "front-tls", Service: "front", Region: "eu-west", Servers: []string{s.xds}, Port: port.Number(), Edges: signal.Edges,
		TLS: &bootstrap.TLS{
			Certificate: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), Authority: filepath.Join(dir, "ca.pem"),
			Server: "spiffe://mesh.example/aviary",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := lab.StartEnvoy(context.Background(), lab.Options{Name: "front-tls", Bootstrap: text})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Kill)
	ready, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := e.WaitReady(ready); err != nil {
		t.Fatal(err)
	}
	for {
		all, err := e.Listeners()
		if err == nil && len(all) == 1 {
			break
		}
		if ready.Err() != nil {
			t.Fatalf("no listener: %v, %v", all, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestPlaintextIsForLoopback(t *testing.T) {
	_, err := app.New(app.Config{DataDir: t.TempDir(), XDS: "0.0.0.0:0", Admin: "127.0.0.1:0", HTTP: "127.0.0.1:0"})
	if err == nil || !strings.Contains(err.Error(), "--plaintext") {
		t.Errorf("plaintext on every address: %v", err)
	}
}
