package counting

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"text/tabwriter"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/signal"
)

// TestShadow makes every fault happen to copies of requests, and compares in the same way. The users get stable's answers,
// and neither version's own arm has anything of it.
func TestShadow(t *testing.T) {
	var report strings.Builder
	table := tabwriter.NewWriter(&report, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "protocol\tfault\tusers' requests\tfailed\treceived\ttries\toverflows\terrors\tlatencies\tp50\tclass\tstable received\tstable tries\t")
	for _, protocol := range []lab.Protocol{lab.HTTP, lab.HTTP2, lab.GRPC} {
		t.Run(string(protocol), func(t *testing.T) {
			m := newMesh(t, protocol, nil)
			for _, f := range faults {
				if _, possible := f.class[protocol]; !possible || f.patience > 0 { // a copy has no caller who could leave
					continue
				}
				if f.version == "v1" {
					f.version = "v4"
				}
				t.Run(f.name, func(t *testing.T) {
					m.t = t
					fmt.Fprintf(table, "%s\t%s\t%s\t\n", protocol, f.name, m.run(f, true))
				})
			}
		})
	}
	table.Flush()
	fmt.Fprintf(os.Stderr, "\nCounting copies (shadows v2, v3 with room for one, v4 without a limit of its own)\n%s\n", report.String())
}

// copies sends at least 20 requests that are copied to a shadow, and says by how much each of its counters grew meanwhile.
func (m *mesh) copies(version string) (by map[string]uint64, n uint64) {
	m.t.Helper()
	shadow := "cluster.cart/shadow/" + version + "."
	before := m.counters()
	users, err := lab.StartUsers(m.t.Context(), lab.UsersOptions{
		Proxies: []string{m.address}, Protocol: m.protocol, Rate: 100, Headers: map[string]string{shadowHeader: version},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	wait(m.t, "requests", func() bool { return users.Report().Done >= 20 })
	n = users.Stop().Done
	wait(m.t, "end of all copies", func() bool {
		by = m.counters()
		return by[shadow+"upstream_rq_completed"]-before[shadow+"upstream_rq_completed"] >= n && by[shadow+"upstream_rq_active"] == 0
	})
	grown := map[string]uint64{}
	for name, now := range by {
		if stat, ours := strings.CutPrefix(name, shadow); ours {
			grown[stat] = now - min(now, before[name])
		}
	}
	return grown, n
}

// TestShadowCountersMislead: by its cluster's counters a copy has a status even when there was no answer, and one that broke
// is a good one.
func TestShadowCountersMislead(t *testing.T) {
	for _, c := range []struct {
		name     string
		behavior lab.Behavior
		status   string
	}{
		{"refused", lab.Behavior{Refuse: true}, "upstream_rq_503"},
		{"reset", failing(lab.FailReset)(lab.HTTP), "upstream_rq_503"},
		{"broken mid-body", failing(lab.FailBreak)(lab.HTTP), "upstream_rq_200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh(t, lab.HTTP, everything)
			m.set("v2", c.behavior)
			if by, n := m.copies("v2"); by[c.status] != n {
				t.Errorf("%s grew by %d, want %d", c.status, by[c.status], n)
			}
		})
	}
}

// TestACopyWithoutAnEndpoint met no version, and is no try.
func TestACopyWithoutAnEndpoint(t *testing.T) {
	m := newMesh(t, lab.HTTP, func(b *bootstrapv3.Bootstrap) {
		everything(b)
		named(b, "cart/shadow/v4").LoadAssignment.Endpoints = nil
	})
	by, n := m.copies("v4")
	if by["upstream_cx_none_healthy"] != n {
		t.Errorf("%d of %d copies had no endpoint", by["upstream_cx_none_healthy"], n)
	}
	wait(t, "tries on stable", func() bool { return tries(m.seen.arm("v1")) == n })
	m.seen.flushes(t, 3) // more must not come
	for _, name := range []armName{{version: "v4"}, {version: "v4", shadow: true}} {
		if arm := m.seen.of(name); met(arm) > 0 {
			t.Errorf("%+v", arm)
		}
	}
}

// TestACopyEndsWithItsBody: when the caller leaves before the whole body came, the copy ends too, and is no error of the
// shadow's.
func TestACopyEndsWithItsBody(t *testing.T) {
	m := newMesh(t, lab.HTTP, nil)
	connection, err := net.Dial("tcp", m.address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if _, err := fmt.Fprintf(connection, "POST / HTTP/1.1\r\nHost: cart\r\n%s: v2\r\nContent-Length: 1000\r\n\r\nhalf", shadowHeader); err != nil {
		t.Fatal(err)
	}
	wait(t, "copy at the service", func() bool { return m.instances["v2"].Counts().InFlight == 1 })
	connection.Close()
	shadow := func() signal.Arm { return m.seen.of(armName{version: "v2", shadow: true}) }
	wait(t, "try", func() bool { return tries(shadow()) == 1 })
	if class := shadow().Outcomes[0].Class; class != (signal.Class{GRPC: -1, Flags: "DR"}) || isError(class) {
		t.Errorf("class %+v", class)
	}
}
