package regions

import (
	"context"
	"log/slog"
	"net/netip"
	"net/url"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/app"
	"github.com/aviary-mesh/aviary/internal/store"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// etcd is a store of its own process's kind: reached over TCP, so that the way to it can be made slow. It ends with the test.
func etcd(t *testing.T) string {
	t.Helper()
	any := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, []url.URL{any}, []url.URL{any}
	cfg.UnsafeNoFsync = true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return e.Clients[0].Addr().String()
}

// plane is a control plane in this process, on a store that it is told.
type plane struct {
	xds  string
	api  aviaryv1.AdminServiceClient
	stop func()
}

// start runs a control plane until stop, or the test's end.
func start(t *testing.T, store func(context.Context) (*store.Store, error), dns netip.AddrPort) *plane {
	t.Helper()
	log := new(rig.Log)
	a, err := app.New(app.Config{
		Open: store, DNS: dns, XDS: "127.0.0.1:0", Admin: "127.0.0.1:0", HTTP: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	select {
	case <-a.Ready():
	case err := <-ended:
		t.Fatalf("it ended before it was ready: %v\n%s", err, log)
	}
	xds, admin, _ := a.Addresses()
	conn, err := grpc.NewClient(admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{xds: xds, api: aviaryv1.NewAdminServiceClient(conn)}
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the control plane ended with %v", err)
		}
		if t.Failed() {
			t.Logf("control plane:\n%s", log)
		}
	}
	t.Cleanup(p.stop)
	return p
}
