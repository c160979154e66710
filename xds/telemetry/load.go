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
	inProgress := map[string]uint64{}
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

// load hands one report on. inProgress is what was under way at the report before, by cluster; it returns the same of this.
func (p *proxy) load(s *Server, stats []*endpointv3.ClusterStats, inProgress map[string]uint64, first bool, now time.Time, span time.Duration) map[string]uint64 {
	arms, next := newArms(), map[string]uint64{}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.counted.IsZero() && now.Sub(p.counted) < forgetAfter {
		return next // this proxy reports our access logs too, and is counted by these alone
	}
	for _, c := range stats {
		service, _, version, ok := splitCluster(c.GetClusterName())
		if !ok || len(next) >= maxSeries {
			continue
		}
		_, twice := next[c.GetClusterName()]
		if twice {
			continue
		}
		var good, bad, issued, under uint64
		for _, l := range c.GetUpstreamLocalityStats() {
			good += bounded(l.GetTotalSuccessfulRequests())
			bad += bounded(l.GetTotalErrorRequests())
			issued += bounded(l.GetTotalIssuedRequests())
			under += bounded(l.GetTotalRequestsInProgress())
		}
		next[c.GetClusterName()] = under
		// What ended and was never issued: ended + under - under before = issued + refused.
		var refused uint64
		if before := inProgress[c.GetClusterName()]; !first && good+bad+under > issued+before {
			refused = min(bad, good+bad+under-issued-before)
		}
		k := key{service: service, version: version}
		for _, o := range []struct {
			class signal.Class
			n     uint64
		}{{LoadOK, good}, {LoadError, bad - refused}, {LoadRefused, refused}} {
			if k.class = o.class; o.n > 0 {
				arms.outcome(k, o.n, nil, nil)
			}
		}
		arms.get(k.arm()).InProgress += under
		arms.add(key{kind: overflows, service: service, version: version}, bounded(c.GetTotalDroppedRequests()))
	}
	s.config.Sink(signal.Flush{
		Proxy: p.who.ID, Region: p.who.Region, Service: p.who.Service, At: now, Span: span, Arms: arms.sorted(),
	})
	return next
}

// bounded keeps a client that invents numbers from making sums wrap.
func bounded(n uint64) uint64 { return min(n, 1<<40) }
