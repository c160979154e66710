package lab

import (
	"context"
	"time"
)

// ControlPlane is the control plane under test, as a person at its command line has it. It runs as a process of its own,
// so that it can be killed, and keeps its data from one Start to the next.
type ControlPlane interface {
	// Start starts the process, or starts it again after Stop or Kill, and returns when it serves, at the same Address.
	Start(ctx context.Context) error
	// Stop asks it to end (SIGTERM) and waits until it has. Without a running process it does nothing.
	Stop() error
	// Kill ends it at once (SIGKILL).
	Kill() error
	// Pause stops it where it stands (SIGSTOP); Continue lets it go on.
	Pause() error
	Continue() error
	// Apply declares documents (YAML).
	Apply(ctx context.Context, documents []byte) error
	// Act is start, pause, resume, abort, promote, rollback or retry of a rollout in some of its regions; none is all.
	Act(ctx context.Context, verb, rollout string, regions []string) error
	// Rollout says where a rollout stands in each region.
	Rollout(ctx context.Context, name string) (map[string]RegionStatus, error)
	// Bootstrap returns what the Envoy of a sidecar starts with.
	Bootstrap(ctx context.Context, s Sidecar) ([]byte, error)
	// Address is where it serves sidecars, host:port. The lab puts a wire before it.
	Address() string
}

// RegionStatus is where a rollout stands in one region.
type RegionStatus struct {
	// Phase such as "Progressing" or "Halted", and the name of its reason.
	Phase, Reason string
	// Weight is the canary's intended share, Shadow the share of the requests that is copied to it, of 10,000.
	Weight, Shadow uint32
	// Since is when the phase or step was entered, by the control plane's clock; zero: it does not say.
	Since time.Time
}

// Sidecar is one proxy of a calling service.
type Sidecar struct {
	// ID is unique among the proxies of a run.
	ID                    string
	Region, Zone, Service string
	// Server is where the sidecar is to reach the control plane, host:port: its region's wire; "" is the Address.
	Server string
	// Port is a free loopback port kept for the sidecar's egress listener. A control plane that has its own way to choose
	// one may leave it: the users ask Envoy where it listens.
	Port int
	// Flush is how often the sidecar reports telemetry; 0: the control plane's default.
	Flush time.Duration
}
