package counting

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
)

// TestEjection: the silence after an ejection is not health, so the ejection itself must come out at once.
func TestEjection(t *testing.T) {
	m := newMesh(t, lab.HTTP, func(b *bootstrapv3.Bootstrap) {
		for _, c := range b.StaticResources.Clusters {
			if c.Name == "cart/canary/v2" {
				c.OutlierDetection = &clusterv3.OutlierDetection{
					Consecutive_5Xx: wrapperspb.UInt32(5), MaxEjectionPercent: wrapperspb.UInt32(100), BaseEjectionTime: durationpb.New(time.Minute),
				}
				c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}}
			}
		}
	})
	m.set("v2", lab.Errors(1, 500))
	start := time.Now()
	users := m.users("v2", 200)
	wait(t, "ejection", func() bool { return m.seen.arm("v2").Ejections == 1 })
	seen := time.Now()
	report := users.Stop()
	m.seen.flushes(t, 3)
	arm := m.seen.arm("v2")
	if arm.Endpoints != 1 || arm.Ejected != 1 || arm.Ejections != 1 {
		t.Errorf("%+v, want one endpoint, ejected once", arm)
	}
	if received := m.instances["v2"].Counts().Received; received < 5 || tries(arm) != received {
		t.Errorf("%d tries, and the canary received %d", tries(arm), received)
	}
	if report.Failed > 0 {
		t.Errorf("%d of %d requests failed though stable was there", report.Failed, report.Done)
	}
	fmt.Fprintf(os.Stderr, "\nEjection: after 5 failures at 200 a second, seen %v after the first request was due (flush %v)\n",
		seen.Sub(start).Round(time.Millisecond), flushEvery)
}

// TestIdleSeriesAreDropped: Envoy forgets an outcome that lies idle, and when it comes back nothing is lost or counted twice.
func TestIdleSeriesAreDropped(t *testing.T) {
	m := newMesh(t, lab.HTTP, func(b *bootstrapv3.Bootstrap) {
		b.StatsEviction = &bootstrapv3.Bootstrap_StatsEvictionInterval{StatsEvictionInterval: durationpb.New(2 * flushEvery)}
	})
	m.set("v2", lab.Errors(0.3, 500))
	users := m.users("v2", 6)
	time.Sleep(5 * time.Second) // the users' time
	report := users.Stop()
	m.seen.flushes(t, 4)
	for _, v := range []string{"v1", "v2"} {
		if got, want := tries(m.seen.arm(v)), m.instances[v].Counts().Received; got != want {
			t.Errorf("%s: %d tries, and it received %d", v, got, want)
		}
	}
	if report.Done == 0 {
		t.Error("no request")
	}
	left, err := m.envoy.Stats(`^aviary\.tries`)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "end of idle series", func() bool {
		left, err = m.envoy.Stats(`^aviary\.tries`)
		return err == nil && len(left) == 0
	})
}

// TestFailover: a sidecar whose control plane dies reports to the next one.
func TestFailover(t *testing.T) {
	first, firstAt, stop := watch(t, "127.0.0.1:0", nil)
	second, secondAt, _ := watch(t, "127.0.0.1:0", nil)
	e := start(t, bootstrap.Options{ID: "p", Service: "caller", Region: "eu", Servers: []string{firstAt, secondAt}, Flush: flushEvery, Edges: signal.Edges})
	first.flushes(t, 2)
	if second.count() != 0 {
		t.Error("the second control plane was asked while the first was there")
	}
	stop()
	begin := time.Now()
	second.flushes(t, 2)
	fmt.Fprintf(os.Stderr, "\nFailover: telemetry at the next control plane after %v\n", time.Since(begin).Round(time.Millisecond))
	e.Kill()
}

// TestRotation: with secrets in files, a renewed certificate is used without a restart, and only for a server that is who
// it should be.
func TestRotation(t *testing.T) {
	ca, err := lab.NewCA("mesh.example")
	if err != nil {
		t.Fatal(err)
	}
	server, err := ca.Leaf(time.Hour, "spiffe://mesh.example/aviary")
	if err != nil {
		t.Fatal(err)
	}
	serials := make(chan string, 1000)
	config := &tls.Config{
		Certificates: []tls.Certificate{server.TLS}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(), MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2"},
		VerifyConnection: func(s tls.ConnectionState) error {
			serials <- s.PeerCertificates[0].SerialNumber.String()
			return nil
		},
	}
	seen, address, stop := watch(t, "127.0.0.1:0", config)
	dir := t.TempDir()
	renew := func() {
		leaf, err := ca.Sidecar("eu", "caller")
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{"cert.pem": leaf.Cert, "key.pem": leaf.Key, "ca.pem": ca.PEM()} {
			if err := os.WriteFile(filepath.Join(dir, "."+name), content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(dir, "."+name), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	renew()
	o := bootstrap.Options{
		ID: "p", Service: "caller", Region: "eu", Servers: []string{address}, Flush: flushEvery, Edges: signal.Edges,
		TLS: &bootstrap.TLS{
			Certificate: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), Authority: filepath.Join(dir, "ca.pem"),
			Server: "spiffe://mesh.example/aviary", SecretsDir: dir,
		},
	}
	secrets, err := bootstrap.Secrets(o)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range secrets {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := start(t, o)
	seen.flushes(t, 2)
	old := <-serials
	renew()
	stop()
	again, _, _ := watch(t, address, config)
	deadline := time.After(patience)
	for fresh := false; !fresh; {
		select {
		case serial := <-serials:
			fresh = serial != old
		case <-deadline:
			t.Fatal("the renewed certificate is not used")
		}
	}
	again.flushes(t, 2)
	e.Kill()

	// A certificate of the same authority that is somebody else's is refused.
	o.TLS.Server = "spiffe://mesh.example/other"
	e = start(t, o)
	wait(t, "refusal", func() bool {
		n, err := e.Stat("cluster.aviary.upstream_cx_connect_fail")
		return err == nil && n > 0
	})
	e.Kill()
}

func start(t *testing.T, o bootstrap.Options) *lab.Envoy {
	t.Helper()
	raw, err := bootstrap.Render(o)
	if err != nil {
		t.Fatal(err)
	}
	e, err := lab.StartEnvoy(t.Context(), lab.Options{Bootstrap: raw, LogLevel: "off"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Kill)
	return e
}

func (m *mesh) set(version string, b lab.Behavior) {
	m.t.Helper()
	if err := m.instances[version].Set(b); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) users(version string, rate float64) *lab.Users {
	m.t.Helper()
	u, err := lab.StartUsers(m.t.Context(), lab.UsersOptions{
		Proxies: []string{m.address}, Protocol: m.protocol, Rate: rate, Poisson: true, Headers: map[string]string{armHeader: version},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { u.Stop() })
	return u
}
