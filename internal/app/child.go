package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/signal"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
)

// Child is a control plane in a process of its own, as the lab drives it: `aviary serve` on loopback, with data that
// outlive the process. It implements lab.ControlPlane.
type Child struct {
	// Binary is the aviary command; Dir its data directory.
	Binary, Dir string
	// Log gets what the process writes.
	Log io.Writer

	xds, admin, http *lab.Port
	process          *lab.Process
	conn             *grpc.ClientConn
	api              aviaryv1.AdminServiceClient
}

// NewChild keeps addresses for a control plane; Start starts it, Close gives everything back.
func NewChild(binary, dir string, log io.Writer) (*Child, error) {
	c := &Child{Binary: binary, Dir: dir, Log: log}
	for _, p := range []**lab.Port{&c.xds, &c.admin, &c.http} {
		port, err := lab.NewPort()
		if err != nil {
			c.Close()
			return nil, err
		}
		*p = port
	}
	conn, err := grpc.NewClient(c.admin.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}}))
	if err != nil {
		c.Close()
		return nil, err
	}
	c.conn, c.api = conn, aviaryv1.NewAdminServiceClient(conn)
	return c, nil
}

// Close kills the process and gives the addresses back.
func (c *Child) Close() {
	_ = c.Kill()
	if c.conn != nil {
		_ = c.conn.Close()
	}
	for _, p := range []*lab.Port{c.xds, c.admin, c.http} {
		if p != nil {
			p.Close()
		}
	}
}

// Address is where sidecars reach it.
func (c *Child) Address() string { return c.xds.Address() }

// API is a client of its admin API.
func (c *Child) API() aviaryv1.AdminServiceClient { return c.api }

// AdminAddress is where the admin API answers, HTTPAddress where metrics and health do.
func (c *Child) AdminAddress() string { return c.admin.Address() }

// HTTPAddress is where metrics and health answer.
func (c *Child) HTTPAddress() string { return c.http.Address() }

// Process is the running process, nil when there is none.
func (c *Child) Process() *lab.Process { return c.process }

// Start starts the process and returns when it serves.
func (c *Child) Start(ctx context.Context) error {
	if c.process != nil && c.process.Running() {
		return errors.New("the control plane runs already")
	}
	p, err := lab.StartProcess(context.WithoutCancel(ctx), lab.Command{
		Name: "aviary serve", Path: c.Binary, Log: c.Log,
		Args: []string{"serve", "--data-dir", c.Dir, "--xds", c.xds.Address(), "--admin", c.admin.Address(), "--http", c.http.Address()},
	})
	if err != nil {
		return err
	}
	c.process = p
	for {
		resp, err := (&http.Client{Timeout: time.Second}).Get("http://" + c.http.Address() + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			// A call too, as the connection to the process before may be on its last breath.
			if resp.StatusCode == http.StatusOK && c.answers(ctx) {
				return nil
			}
		}
		select {
		case <-p.Done():
			return fmt.Errorf("aviary serve ended: %w\n%s", p.Err(), strings.Join(p.Log(), "\n"))
		case <-ctx.Done():
			return fmt.Errorf("aviary serve is not ready: %w\n%s", ctx.Err(), strings.Join(p.Log(), "\n"))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *Child) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := c.api.GetVersion(ctx, &aviaryv1.GetVersionRequest{})
	return err == nil
}

// Stop asks the process to end and waits for it.
func (c *Child) Stop() error {
	if c.process == nil || !c.process.Running() {
		return nil
	}
	return c.process.Stop(15 * time.Second)
}

// Kill ends it at once.
func (c *Child) Kill() error {
	if c.process != nil {
		c.process.Kill()
	}
	return nil
}

// Pause stops it where it stands.
func (c *Child) Pause() error { return c.process.Pause() }

// Continue lets it go on.
func (c *Child) Continue() error { return c.process.Continue() }

// Apply declares documents.
func (c *Child) Apply(ctx context.Context, documents []byte) error {
	_, err := c.api.Apply(ctx, &aviaryv1.ApplyRequest{
		Files: []*aviaryv1.File{{Name: "lab", Content: documents}}, Author: "lab",
	})
	return err
}

// Act is a verb of the admin API.
func (c *Child) Act(ctx context.Context, verb, rollout string, regions []string) error {
	var err error
	const author = "lab"
	switch verb {
	case "start":
		_, err = c.api.StartRollout(ctx, &aviaryv1.StartRolloutRequest{Rollout: rollout, Regions: regions, Author: author})
	case "pause":
		_, err = c.api.PauseRollout(ctx, &aviaryv1.PauseRolloutRequest{Rollout: rollout, Regions: regions, Author: author})
	case "resume":
		_, err = c.api.ResumeRollout(ctx, &aviaryv1.ResumeRolloutRequest{Rollout: rollout, Regions: regions, Author: author})
	case "abort":
		_, err = c.api.AbortRollout(ctx, &aviaryv1.AbortRolloutRequest{Rollout: rollout, Regions: regions, Author: author})
	case "promote":
		_, err = c.api.PromoteRollout(ctx, &aviaryv1.PromoteRolloutRequest{Rollout: rollout, Regions: regions, Author: author})
	case "rollback":
		_, err = c.api.RollbackRollout(ctx, &aviaryv1.RollbackRolloutRequest{Rollout: rollout, Regions: regions, Author: author})
	case "retry":
		_, err = c.api.RetryRollout(ctx, &aviaryv1.RetryRolloutRequest{Rollout: rollout, Regions: regions, Author: author})
	default:
		err = fmt.Errorf("unknown verb %q", verb)
	}
	return err
}

// Rollout says where a rollout stands.
func (c *Child) Rollout(ctx context.Context, name string) (map[string]lab.RegionStatus, error) {
	resp, err := c.api.GetRollout(ctx, &aviaryv1.GetRolloutRequest{Rollout: name})
	if err != nil {
		return nil, err
	}
	out := map[string]lab.RegionStatus{}
	for _, r := range resp.GetRollout().GetRegions() {
		out[r.GetRegion()] = lab.RegionStatus{
			Phase: phaseName(r.GetPhase()), Reason: r.GetReason(), Weight: r.GetWeight(), Shadow: r.GetShadow(), Since: r.GetSince().AsTime(),
		}
	}
	return out, nil
}

// phaseName is PHASE_ROLLED_BACK → RolledBack.
func phaseName(p aviaryv1.Phase) string {
	var name strings.Builder
	for _, word := range strings.Split(strings.TrimPrefix(p.String(), "PHASE_"), "_") {
		name.WriteString(word[:1] + strings.ToLower(word[1:]))
	}
	return name.String()
}

// Bootstrap is what a sidecar starts with.
func (c *Child) Bootstrap(_ context.Context, s lab.Sidecar) ([]byte, error) {
	return bootstrap.Render(bootstrap.Options{
		ID: s.ID, Service: s.Service, Region: s.Region, Zone: s.Zone, Port: s.Port, Flush: s.Flush,
		Servers: []string{cmp.Or(s.Server, c.Address())}, Edges: signal.Edges, Admin: "127.0.0.1:0",
	})
}
