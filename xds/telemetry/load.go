package telemetry

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// LRS says only that a try went well, failed, or never left. These are the classes that stand for it; a policy that counts
// 5xx answers, the gRPC status UNKNOWN or the flag UF as errors counts them.
var (
	LoadOK      = signal.Class{Status: 200, GRPC: -1}
	LoadError   = signal.Class{Status: 500, GRPC: 2, Flags: "LRS"}
	LoadRefused = signal.Class{GRPC: -1, Flags: "UF"}
)

type loadServer struct {
	loadv3.UnimplementedLoadReportingServiceServer
	s *Server
}

// StreamLoadStats asks a client for the load of all its clusters and reads its reports. A sidecar with our bootstrap is
// asked for nothing: its access logs say more.
func (l loadServer) StreamLoadStats(stream grpc.BidiStreamingServer[loadv3.LoadStatsRequest, loadv3.LoadStatsResponse]) error {
	s := l.s
	request, err := stream.Recv()
	if err != nil {
		return ended(err)
	}
	node := request.GetNode()
	p, _, err := s.join(stream.Context(), node)
	if err != nil {
		return err
	}
	defer s.leave(p)
	wanted := !hasOurLogs(node)
	answer := &loadv3.LoadStatsResponse{SendAllClusters: wanted, LoadReportingInterval: durationpb.New(s.config.LoadInterval)}
	if !wanted {
		answer.LoadReportingInterval = durationpb.New(time.Hour)
	}
	if err := stream.Send(answer); err != nil {
		return err
	}
	last := s.config.Now()
	inProgress := map[placed]uint64{}
	for first := true; ; first = false {
		if request, err = stream.Recv(); err != nil {
			return ended(err)
		}
		if other := request.GetNode(); other.GetId() != "" && other.GetId() != node.GetId() {
			return status.Errorf(codes.InvalidArgument, "node %q on the stream of node %q", other.GetId(), node.GetId())
		}
		if !wanted {
			continue
		}
		now := s.config.Now()
		inProgress = p.load(s, request.GetClusterStats(), inProgress, first, now, max(now.Sub(last), 1))
		last = now
	}
}

// hasOurLogs is whether a node says that it runs with our bootstrap, and so with our listeners.
func hasOurLogs(node *corev3.Node) bool {
	return node.GetMetadata().GetFields()["aviary"].GetStructValue().GetFields()["lease"].GetBoolValue()
}

// load hands one report on. inProgress is what was under way at the report before; it returns the same of this.
func (p *proxy) load(s *Server, stats []*endpointv3.ClusterStats, inProgress map[placed]uint64, first bool, now time.Time, span time.Duration) map[placed]uint64 {
	arms, next := newArms(), map[placed]uint64{}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.counted.IsZero() && now.Sub(p.counted) < forgetAfter {
		return next // this proxy reports our access logs too, and is counted by these alone
	}
	seen := map[string]bool{}
	for _, c := range stats {
		arm, role, ok := splitCluster(c.GetClusterName())
		if !ok || seen[c.GetClusterName()] || len(next) >= maxSeries {
			continue
		}
		seen[c.GetClusterName()] = true
		arms.get(arm).Overflows += bounded(c.GetTotalDroppedRequests())
		for region, l := range p.byRegion(c.GetUpstreamLocalityStats()) {
			if role == "remote" && region == "" {
				continue // an endpoint of nobody knows where is not one of here
			}
			in, at := arm, placed{c.GetClusterName(), region}
			in.region = region
			next[at] = l.under
			// What ended and was never issued: ended + under - under before = issued + refused.
			var refused uint64
			if before := inProgress[at]; !first && l.good+l.bad+l.under > l.issued+before {
				refused = min(l.bad, l.good+l.bad+l.under-l.issued-before)
			}
			for _, o := range []struct {
				class signal.Class
				n     uint64
			}{{LoadOK, l.good}, {LoadError, l.bad - refused}, {LoadRefused, refused}} {
				if o.n > 0 {
					arms.outcome(in, o.class, o.n, nil, nil)
				}
			}
			arms.get(in).InProgress += l.under
		}
	}
	s.config.Sink(signal.Flush{
		Proxy: p.who.ID, Region: p.who.Region, Service: p.who.Service, At: now, Span: span, Arms: arms.sorted(),
	})
	return next
}

// placed is what a client's load is counted by: a cluster may have endpoints of several regions.
type placed struct{ cluster, region string }

// ran is how requests went in a report, and how many were under way.
type ran struct{ good, bad, issued, under uint64 }

// byRegion sums the load of a cluster's localities by region, "" for the client's own and for those that name none.
func (p *proxy) byRegion(stats []*endpointv3.UpstreamLocalityStats) map[string]ran {
	sum := map[string]ran{}
	for _, l := range stats {
		region := l.GetLocality().GetRegion()
		if region == p.who.Region || region == signal.Elsewhere || len(region) > maxName {
			region = ""
		}
		to := sum[region]
		to.good += bounded(l.GetTotalSuccessfulRequests())
		to.bad += bounded(l.GetTotalErrorRequests())
		to.issued += bounded(l.GetTotalIssuedRequests())
		to.under += bounded(l.GetTotalRequestsInProgress())
		sum[region] = to
	}
	return sum
}

// bounded keeps a client that invents numbers from making sums wrap.
func bounded(n uint64) uint64 { return min(n, 1<<40) }
