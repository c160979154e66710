package counting

import (
	"net"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/signal"
)

// TestAnotherRegion: tries that the endpoints of another region get are counted there, faults and cut requests included, and
// not in the sidecar's own, which has the same version and gets requests at the same time.
func TestAnotherRegion(t *testing.T) {
	away, err := lab.StartInstance(lab.InstanceOptions{Service: "cart", Version: "v1", Protocol: lab.HTTP})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(away.Close)
	at, err := net.ResolveTCPAddr("tcp", away.Address())
	if err != nil {
		t.Fatal(err)
	}
	m := newMesh(t, lab.HTTP, func(b *bootstrapv3.Bootstrap) {
		c := proto.CloneOf(named(b, "cart/stable/v1"))
		c.Name = "cart/remote/v1"
		c.LoadAssignment.ClusterName = c.Name
		metadata := c.LoadAssignment.Endpoints[0].LbEndpoints[0].Metadata.FilterMetadata["aviary"]
		metadata.Fields["region"] = structpb.NewStringValue("us")
		b.StaticResources.Clusters = append(b.StaticResources.Clusters, c)
		point(b, c.Name, at)
		routes(b, func(h *routev3.VirtualHost) {
			r := proto.CloneOf(h.Routes[0])
			r.Match.Headers[0] = exactly("x-region", "us")
			r.Action = proto.CloneOf(h.Routes[len(h.Routes)-1]).Action
			r.GetRoute().ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: c.Name}
			h.Routes = append([]*routev3.Route{r}, h.Routes...)
		})
	})
	for _, c := range []struct {
		name     string
		behavior lab.Behavior
		class    signal.Class
		patience time.Duration
		unseen   bool
	}{
		{name: "none", class: signal.Class{Status: 200, GRPC: -1}},
		{name: "500", behavior: lab.Errors(1, 500), class: signal.Class{Status: 500, GRPC: -1}},
		{name: "hang, route's timeout", behavior: lab.Failing(lab.FailHang, 1), class: signal.Class{GRPC: -1, Flags: "UT"}},
		{name: "hang, caller leaves", behavior: lab.Failing(lab.FailHang, 1), class: signal.Class{GRPC: -1, Flags: "DC"}, patience: 100 * time.Millisecond},
		{name: "refused", behavior: lab.Behavior{Refuse: true}, class: signal.Class{GRPC: -1, Flags: "UF"}, unseen: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.t = t
			if err := away.Set(c.behavior); err != nil {
				t.Fatal(err)
			}
			away.ResetCounts()
			m.instances["v1"].ResetCounts()
			m.seen.reset()
			var users []*lab.Users
			for _, headers := range []map[string]string{{"x-region": "us"}, nil} {
				u, err := lab.StartUsers(t.Context(), lab.UsersOptions{
					Proxies: []string{m.address}, Protocol: lab.HTTP, Rate: rate, Timeout: c.patience, Headers: headers,
				})
				if err != nil {
					t.Fatal(err)
				}
				users = append(users, u)
			}
			time.Sleep(period) // the users' time; nothing is waited for
			there, here := users[0].Stop().Done, users[1].Stop().Done
			us := armName{version: "v1", region: "us"}
			deadline := time.Now().Add(patience)
			for (tries(m.seen.of(us)) < there || tries(m.seen.arm("v1")) < here) && time.Now().Before(deadline) {
				time.Sleep(5 * time.Millisecond)
			}
			m.seen.flushes(t, 3) // more must not come
			if got := away.Counts().Received; got != there && !c.unseen || c.unseen && got > 0 {
				t.Errorf("the other region received %d of %d", got, there)
			}
			if got := m.instances["v1"].Counts().Received; got != here {
				t.Errorf("the own region received %d of %d", got, here)
			}
			check := func(of armName, class signal.Class, want uint64) {
				arm := m.seen.of(of)
				if len(arm.Outcomes) != 1 || arm.Outcomes[0].Class != class || arm.Outcomes[0].Tries != want ||
					arm.Outcomes[0].Latency.Total() != want || arm.Overflows+arm.ConnectFailures+arm.Ejections > 0 {
					t.Errorf("%+v, want %d tries of class %+v, with their latencies", arm, want, class)
				}
			}
			check(us, c.class, there)
			check(armName{version: "v1"}, signal.Class{Status: 200, GRPC: -1}, here)
			if arm := m.seen.of(armName{version: "v1", region: signal.Elsewhere}); arm.Endpoints != 1 || arm.Healthy != 1 || met(arm) > 0 {
				t.Errorf("elsewhere %+v, want one endpoint and nothing counted", arm)
			}
			if arm := m.seen.arm("v1"); arm.Endpoints != 1 {
				t.Errorf("%d endpoints here, want 1", arm.Endpoints)
			}
		})
	}
}

// TestPending: requests that wait for a connection are a gauge of their version.
func TestPending(t *testing.T) {
	m := newMesh(t, lab.HTTP, nil)
	m.set("v3", lab.Failing(lab.FailHang, 1)) // there is one connection
	m.users("v3", 200)
	wait(t, "one under way and one that waits", func() bool {
		arm := m.seen.arm("v3")
		return arm.InProgress == 1 && arm.Pending == 1
	})
}
