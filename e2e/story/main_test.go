package story

import (
	"os"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func TestMain(m *testing.M) { rig.Main(m) }

// long asks for the runs that take many minutes.
var long = os.Getenv("AVIARY_LONG") != ""

const (
	// soon bounds what takes well under a second on a machine that does nothing else.
	soon = 20 * time.Second
	// climb bounds a way up of a few short steps.
	climb = 60 * time.Second

	halted    = aviaryv1.Phase_PHASE_HALTED
	retreated = aviaryv1.Phase_PHASE_RETREATED
	promoted  = aviaryv1.Phase_PHASE_PROMOTED
)

// quarter is a policy that stays at a quarter.
const quarter = `steps: [{share: "25%", hold: 10m}]
noData: {holdAfter: 1s}
lease: {ttl: 5s}`

// usual is how both versions answer while they are well.
var usual = lab.Behavior{Latency: lab.Latency{Median: 5 * time.Millisecond, Sigma: 0.3}}

func failing(kind lab.Kind, rate float64) lab.Behavior {
	return lab.Behavior{Latency: usual.Latency, Failures: []lab.Failure{{Kind: kind, Rate: rate}}}
}

// begun starts a region whose versions are well, with users, and starts the rollout.
func begun(t *testing.T, o rig.Options, u lab.UsersOptions) (*rig.Rig, *lab.Users) {
	t.Helper()
	r := rig.New(t, o)
	for version := range r.Instances {
		r.Set(version, usual)
	}
	u.Protocol = r.Options.Protocol
	users := r.Users(u)
	r.Act("start")
	return r, users
}

// served waits until a version answered so many requests well since now.
func served(r *rig.Rig, version string, n uint64) {
	before := r.Instances[version].Counts().Good()
	r.Until(version+" serves", soon, func() bool { return r.Instances[version].Counts().Good() >= before+n })
}

// quiet waits until nothing reached a version for a while in which another got traffic, and returns its counts.
func quiet(r *rig.Rig, version, other string) lab.Counts {
	const long = time.Second
	r.Until(version+" is quiet", soon, func() bool {
		return r.Instances[other].Counts().LastReceived.Sub(r.Instances[version].Counts().LastReceived) > long
	})
	return r.Instances[version].Counts()
}

// reaction is the time from the first bad response to the last request.
func reaction(c lab.Counts) time.Duration { return max(c.LastReceived.Sub(c.FirstBad), 0) }

// noFailedGET holds for every story that net 1 can save.
func noFailedGET(t *testing.T, u *lab.Users) {
	t.Helper()
	report := u.Report()
	if report.Methods["GET"] == 0 {
		t.Error("no GET was sent: that shows nothing")
	}
	if n := report.FailedMethods["GET"]; n > 0 || report.Skipped > 0 {
		t.Errorf("%d of %d GETs failed, %d were not sent: %q", n, report.Methods["GET"], report.Skipped, report.Errors)
	}
}
