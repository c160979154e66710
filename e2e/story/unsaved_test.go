package story

import (
	"testing"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
)

// TestUnsaved counts what net 1 cannot save between the first bad answer and the halt, and, beside it, what it can.
func TestUnsaved(t *testing.T) {
	for _, c := range []struct {
		name     string
		protocol lab.Protocol
		service  string
		kind     lab.Kind
		users    lab.UsersOptions
		saved    bool
	}{
		{name: "GET", kind: lab.FailStatus, saved: true},
		{name: "POST", kind: lab.FailStatus, users: lab.UsersOptions{Posts: 1, Body: 200}},
		{name: "POST that may be sent twice", kind: lab.FailStatus, service: "retries: {methods: [GET, POST]}", users: lab.UsersOptions{Posts: 1, Body: 200}, saved: true},
		{name: "the same with 1.5 MB", kind: lab.FailStatus, service: "retries: {methods: [GET, POST]}", users: lab.UsersOptions{Posts: 1, Body: 1_500_000}},
		{name: "GET broken mid-body", kind: lab.FailBreak},
		{name: "gRPC call that may be sent twice, status in the headers", protocol: lab.GRPC, service: "retries: {methods: [POST]}", kind: lab.FailStatus, saved: true},
		{name: "the same in the trailers", protocol: lab.GRPC, service: "retries: {methods: [POST]}", kind: lab.FailTrailer},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.users.Rate = 150
			r, users := begun(t, rig.Options{Protocol: c.protocol, Service: c.service, Policy: quarter}, c.users)
			r.UntilWeight(2500, climb)
			served(r, "v2", 20)
			if before := users.Report(); before.Failed > 0 {
				t.Errorf("%d failed while all was well: %q", before.Failed, before.Errors)
			}
			r.Set("v2", failing(c.kind, 1))
			r.UntilPhase(halted, soon)
			counts := quiet(r, "v2", "v1")
			bad := counts.Bad()
			report := users.Report()
			switch {
			case bad == 0:
				t.Error("the canary answered nothing badly: that shows nothing")
			case c.saved && report.Failed > 0:
				t.Errorf("%d of %d requests failed: %q", report.Failed, report.Done, report.Errors)
			case !c.saved && (report.Failed == 0 || report.Failed > bad):
				t.Errorf("%d requests failed of %d bad answers; net 1 cannot save these", report.Failed, bad)
			}
			t.Logf("%s: %d bad answers of the canary, users saw %d of them", c.name, bad, report.Failed)
		})
	}
}
