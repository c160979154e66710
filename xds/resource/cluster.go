package resource

import (
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	aggregatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

const (
	// connectTimeout is below signal.ConnectLimit, as the counting of connect failures needs it.
	connectTimeout = 2 * time.Second
	// tries of a request on the arm: the canary, then stable.
	tries = 2
	// defaultRetries is how many rescues may be under way at once when limits do not say.
	defaultRetries = 10_000
)

// Clusters returns the clusters of a service for a view: stable, with failover those that reach other regions, and with a
// canary its own cluster, the arm and the shadow. They depend on the view's kind alone: GRPC and Weights.
func Clusters(in traffic.Intent, v View) []*clusterv3.Cluster {
	all := []*clusterv3.Cluster{stableCluster(in, v)}
	if v.failsOver(in) {
		all = append(all, remoteCluster(in, v), everywhereCluster(in), shedCluster(in))
	}
	if in.Canary == nil {
		return all
	}
	all = append(all, canaryCluster(in, v))
	if !v.GRPC {
		all = append(all, armCluster(in))
	}
	if v.shadows(in) {
		all = append(all, shadowCluster(in, v))
	}
	return all
}

func stableCluster(in traffic.Intent, v View) *clusterv3.Cluster {
	c := endpointsCluster(in, StableCluster(in.Service, in.Stable.Version), v, in.Stable.Localities)
	tighten(c, in, v)
	// Never more than half is ejected, and never the only one. Envoy counts the endpoint to be ejected: under 50 % two would
	// never lose one.
	c.OutlierDetection = ejectDown(50)
	if v.failsOver(in) {
		failOverFrom(c)
	} else if v.grpcFailsOver(in) {
		c.OutlierDetection = ejectDown(100)
	}
	return c
}

// ejectDown is what stable's endpoints are ejected for: being down (unreachable, 502, 503, 504), not for their errors.
func ejectDown(percent uint32) *clusterv3.OutlierDetection {
	return &clusterv3.OutlierDetection{
		EnforcingConsecutive_5Xx: wrapperspb.UInt32(0), EnforcingSuccessRate: wrapperspb.UInt32(0),
		ConsecutiveGatewayFailure: wrapperspb.UInt32(5), EnforcingConsecutiveGatewayFailure: wrapperspb.UInt32(100),
		MaxEjectionPercent: wrapperspb.UInt32(percent), BaseEjectionTime: durationpb.New(10 * time.Second),
	}
}

func canaryCluster(in traffic.Intent, v View) *clusterv3.Cluster {
	c := endpointsCluster(in, CanaryCluster(in.Service, in.Canary.Version), v, in.Canary.Localities)
	c.OutlierDetection = &clusterv3.OutlierDetection{
		Consecutive_5Xx: wrapperspb.UInt32(5), EnforcingConsecutive_5Xx: wrapperspb.UInt32(100), EnforcingSuccessRate: wrapperspb.UInt32(0),
		Interval: durationpb.New(time.Second), BaseEjectionTime: durationpb.New(30 * time.Second),
		MaxEjectionPercent: wrapperspb.UInt32(100),
		// What answers its health check and fails its users stays out.
		SuccessfulActiveHealthCheckUnejectHost: wrapperspb.Bool(false),
	}
	ejectionsCount(c)
	hanging(c, in, v)
	return c
}

// hanging bounds a try on the canary. It does so on the canary's cluster, so that a slow healthy stable is not cut.
func hanging(c *clusterv3.Cluster, in traffic.Intent, v View) {
	if in.HangLimit > 0 && !v.GRPC {
		options(c, in.Protocol, &corev3.HttpProtocolOptions{MaxStreamDuration: durationpb.New(in.HangLimit)})
	}
}

// balancing is the part of a cluster that says how it spreads requests.
func balancing(c *clusterv3.Cluster) *clusterv3.Cluster_CommonLbConfig {
	if c.CommonLbConfig == nil {
		c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{}
	}
	return c.CommonLbConfig
}

// ejectionsCount has every endpoint that is out count at once: Envoy takes the first change of health at once and gathers
// those of the next second.
func ejectionsCount(c *clusterv3.Cluster) {
	hardlyPanic(c)
	balancing(c).UpdateMergeWindow = durationpb.New(0)
}

// hardlyPanic has endpoints that are out left alone as long as one is in. When all are out any may still be tried.
func hardlyPanic(c *clusterv3.Cluster) {
	balancing(c).HealthyPanicThreshold = &typev3.Percent{Value: 1}
}

func endpointsCluster(in traffic.Intent, name string, v View, localities []traffic.Locality) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: overADS()},
		ConnectTimeout:       durationpb.New(connectTimeout),
		CircuitBreakers:      breakers(in.Limits, v),
	}
	if v.GRPC {
		c.LrsServer = &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Self{Self: &corev3.SelfConfigSource{}}}
		return c
	}
	c.HealthChecks = healthChecks(in)
	// An endpoint that is declared no longer gets no more requests, even if it still answers its health check.
	c.IgnoreHealthOnHostRemoval = true
	options(c, in.Protocol, nil)
	if weighs(in, localities) {
		balancing(c).LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
		}
	}
	return c
}

// armCluster sends the first try to the canary and, with the route's retries, the next to stable.
func armCluster(in traffic.Intent) *clusterv3.Cluster {
	retries := in.Limits.Retries
	if retries == 0 {
		retries = defaultRetries
	}
	c := aggregate(ArmCluster(in.Service, in.Canary.Version),
		CanaryCluster(in.Service, in.Canary.Version), StableCluster(in.Service, in.Stable.Version))
	// Retries are charged to the arm, whose default of three at once would save next to nothing.
	c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		RetryBudget: &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
			BudgetPercent: &typev3.Percent{Value: 100}, MinRetryConcurrency: wrapperspb.UInt32(retries),
		},
	}}}
	return c
}

// aggregate is a cluster of the endpoints of others, the first one's first.
//
// Envoy has a composite cluster for just what the arm does, but of 1.40 it crashes when one is changed or removed under
// load: its workers read a cluster that the main thread has freed.
func aggregate(name string, of ...string) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name: name,
		ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name:        "envoy.clusters.aggregate",
			TypedConfig: packed(&aggregatev3.ClusterConfig{Clusters: of}),
		}},
		LbPolicy:       clusterv3.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout: durationpb.New(connectTimeout),
	}
	hardlyPanic(c)
	return c
}

// breakers are the service's limits. No retry is charged to a version's own cluster: what fails on stable is not tried
// again, and what fails on the canary is charged to the arm.
func breakers(l traffic.Limits, v View) *clusterv3.CircuitBreakers {
	t := &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections: limit(l.Connections), MaxPendingRequests: limit(l.Pending), MaxRequests: limit(l.Requests),
	}
	if !v.GRPC {
		t.MaxRetries = wrapperspb.UInt32(0)
	}
	high := proto.CloneOf(t)
	high.Priority = corev3.RoutingPriority_HIGH
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t, high}}
}

// tighten gives one of stable's clusters the limits of a region that is relieved. The canary's are left alone: a cluster that
// is edited forgets what it ejected.
func tighten(c *clusterv3.Cluster, in traffic.Intent, v View) {
	if in.Tight != nil {
		c.CircuitBreakers = breakers(*in.Tight, v)
	}
}

func limit(n uint32) *wrapperspb.UInt32Value {
	if n == 0 {
		return nil
	}
	return wrapperspb.UInt32(n)
}

func healthChecks(in traffic.Intent) []*corev3.HealthCheck {
	h := in.Health
	if h == nil {
		return nil
	}
	check := &corev3.HealthCheck{
		Interval: durationpb.New(h.Interval), Timeout: durationpb.New(h.Timeout),
		// A canary at zero has no traffic, and must be known before it gets some.
		NoTrafficInterval:  durationpb.New(h.Interval),
		UnhealthyThreshold: wrapperspb.UInt32(h.UnhealthyAfter), HealthyThreshold: wrapperspb.UInt32(h.HealthyAfter),
	}
	switch {
	case h.Path != "":
		http := &corev3.HealthCheck_HttpHealthCheck{Path: h.Path, Host: authority(in)}
		if in.Protocol != traffic.HTTP {
			http.CodecClientType = typev3.CodecClientType_HTTP2
		}
		check.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: http}
	case in.Protocol == traffic.GRPC:
		check.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{
			Authority: authority(in),
		}}
	default:
		check.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}
	}
	return []*corev3.HealthCheck{check}
}

// authority is what health checks ask for. Envoy would send the cluster's name, which is not a host name: servers answer
// 400 to it.
func authority(in traffic.Intent) string {
	for _, host := range in.Hosts {
		if !strings.HasPrefix(host, "*") {
			return host
		}
	}
	return in.Service
}

// options say how a cluster's endpoints speak.
func options(c *clusterv3.Cluster, p traffic.Protocol, common *corev3.HttpProtocolOptions) {
	explicit := &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{},
	}
	if p != traffic.HTTP {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
		}
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(&httpv3.HttpProtocolOptions{
			CommonHttpProtocolOptions: common,
			UpstreamProtocolOptions:   &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit},
		}),
	}
}

func overADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}
