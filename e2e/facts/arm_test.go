package facts

import (
	"os"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	compositev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/composite/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

func TestWithoutPreviousPrioritiesTheCanaryIsTriedTwice(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.change = func(g *given) {
		s.unejected(g)
		for _, r := range g.all() {
			r.GetRoute().RetryPolicy.RetryPriority = nil
		}
	}
	s.set(s.v2, lab.Errors(1, 500))
	s.at(traffic.Whole)
	all := s.ask(ask{n: 300, users: 50})
	t.Logf("%d of 300 GETs failed, %d tries on the canary", all.failed(), s.v2.Counts().Received)
	if all.failed() != 300 || s.v2.Counts().Received != 600 {
		t.Errorf("%v, %d tries on the canary: are they not needed?", all, s.v2.Counts().Received)
	}
}

// bump is a change of a cluster that means nothing.
func bump(c *clusterv3.Cluster, n int) {
	c.ConnectTimeout = durationpb.New(2*time.Second + time.Duration(n)*time.Millisecond)
}

// armChanges are the ways in which an arm changes.
var armChanges = []struct {
	name string
	do   func(s *shop, n int, canary traffic.Arm)
}{
	{"the arm is edited", func(s *shop, n int, _ traffic.Arm) {
		s.change = func(g *given) { bump(g.cluster(s.arm()), n) }
	}},
	{"all its clusters are edited", func(s *shop, n int, _ traffic.Arm) {
		s.change = func(g *given) {
			for _, c := range g.clusters {
				bump(c, n)
			}
		}
	}},
	{"the arm is a plain cluster every other time", func(s *shop, n int, _ traffic.Arm) {
		s.change = func(g *given) {
			if n%2 == 1 {
				to, from := g.cluster(s.arm()), g.cluster(s.canary())
				to.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
				to.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: from.EdsClusterConfig.EdsConfig, ServiceName: s.canary()}
				to.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
			}
		}
	}},
	{"there is a canary every other time", func(s *shop, n int, canary traffic.Arm) {
		s.in.Canary, s.in.Weight = &canary, 5000
		if n%2 == 1 {
			s.in.Canary, s.in.Weight = nil, 0
		}
	}},
	{"the canary has endpoints every other time", func(s *shop, n int, canary traffic.Arm) {
		if n%2 == 1 {
			canary.Localities = nil
		}
		s.in.Canary = &canary
	}},
}

func TestTheArmMayChangeUnderLoad(t *testing.T) {
	changes := 60
	if os.Getenv("AVIARY_LONG") != "" {
		changes = 1500
	}
	for _, c := range armChanges {
		t.Run(c.name, func(t *testing.T) {
			s := newShop(t, theMesh(t), traffic.HTTP)
			canary := *s.in.Canary
			s.at(5000)
			end := s.background(20)
			s.until("requests on the canary", func() bool { return s.v2.Counts().Received > 100 })
			for n := range changes {
				c.do(s, n+1, canary)
				s.publish()
			}
			all := end()
			t.Logf("%d changes: %d of %d requests failed, %d were on the canary", changes, all.failed(), len(all), all.of("v2"))
			if all.failed() > 0 || all.of("v2") == 0 || all.of("v1") == 0 {
				t.Errorf("%v", all)
			}
		})
	}
}

// Why the arm is no composite cluster. An Envoy that survives this may have one again.
func TestACompositeClusterCrashesEnvoyWhenItChangesUnderLoad(t *testing.T) {
	if os.Getenv("AVIARY_LONG") == "" {
		t.Skip("AVIARY_LONG is not set")
	}
	s := newShop(t, newMesh(t, meshOptions{}), traffic.HTTP)
	n := 0
	s.change = func(g *given) {
		config, err := anypb.New(&compositev3.ClusterConfig{Clusters: []*compositev3.ClusterConfig_ClusterEntry{{Name: s.canary()}, {Name: s.stable()}}})
		if err != nil {
			t.Fatal(err)
		}
		custom := g.cluster(s.arm()).GetClusterType()
		custom.Name, custom.TypedConfig = "envoy.clusters.composite", config
		bump(g.cluster(s.arm()), n)
	}
	s.at(5000)
	end := s.background(20)
	defer end()
	for ; n < 3000 && s.m.envoy.Running(); n++ {
		s.send()
		until(t, "the change is in step, or nobody there", func() bool { return !s.m.envoy.Running() || s.behind(false) == "" })
	}
	t.Logf("it ran for %d changes; it ended with %v", n, s.m.envoy.Err())
	if s.m.envoy.Running() {
		t.Errorf("%d changes of a composite cluster under load, and no crash", n)
	}
}

// An Envoy gathers changes of health for a second after the first, unless it is told not to.
func TestEveryEjectionCountsAtOnce(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	bad := []*lab.Instance{instance(t, s.in.Service, "v2", traffic.HTTP), instance(t, s.in.Service, "v2", traffic.HTTP)}
	s.in.Canary = ptr(arm("v2", append(bad, s.v2)...))
	for _, i := range bad {
		s.set(i, lab.Errors(1, 500))
	}
	s.at(traffic.Whole)
	all := s.ask(ask{n: 300, users: 5})
	tries := lab.Total(bad...).Received
	t.Logf("two of three endpoints of the canary fail: they got %d of 300 tries; %d of 300 GETs failed", tries, all.failed())
	if tries < 10 || tries > 30 || all.failed() > 0 {
		t.Errorf("%d tries on them: %v", tries, all)
	}
}

// With endpoints of both versions out by their health checks.
func TestHealthChecksThatFailOnBothSides(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.Health = &traffic.Health{Path: lab.HealthPath, Interval: 50 * time.Millisecond, Timeout: time.Second, UnhealthyAfter: 1, HealthyAfter: 1}
	more := []*lab.Instance{instance(t, s.in.Service, "v1", traffic.HTTP), instance(t, s.in.Service, "v1", traffic.HTTP)}
	s.in.Stable = arm("v1", append(more, s.v1)...)
	// Changes of stable's health reach the workers within a second of the checks.
	settled := func(canary, stable uint64, seen func(answers) bool) {
		t.Helper()
		s.until("the checks are through", func() bool {
			return s.m.stat(t, "cluster."+s.canary()+".membership_healthy") == canary &&
				s.m.stat(t, "cluster."+s.stable()+".membership_healthy") == stable && seen(s.ask(ask{n: 60, users: 5}))
		})
	}
	for _, i := range append(more, s.v2) {
		s.set(i, lab.Behavior{Unhealthy: true})
	}
	s.at(traffic.Whole)
	settled(0, 1, func(all answers) bool { return all.of("v1") == len(all) })
	all := s.ask(ask{n: 200, users: 5})
	t.Logf("canary 0 of 1, stable 1 of 3: %d of 200 failed", all.failed())
	if all.of("v1") != 200 {
		t.Errorf("canary 0 of 1, stable 1 of 3: %v", all)
	}
	s.set(s.v1, lab.Behavior{Unhealthy: true})
	settled(0, 0, func(all answers) bool { return all.of("v2") > 0 })
	all = s.ask(ask{n: 200, users: 5})
	t.Logf("all out: %d of 200 failed: %v", all.failed(), all)
	if all.failed() > 0 {
		t.Errorf("all out: %v", all)
	}
}
