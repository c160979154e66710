package bootstrap

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Statistics of the access logs of the routers: microseconds of tries that were answered to their end, milliseconds of
// all others.
const (
	tryMicroseconds = "aviary.try_us"
	cutMilliseconds = "aviary.cut_ms"
)

// clusterStats are the statistics of a service's cluster that telemetry reads (see the table in xds/telemetry), and the
// overflows that tell an operator which limit is too low.
var clusterStats = []string{
	"upstream_rq_active",
	"upstream_rq_pending_active",
	"upstream_rq_pending_overflow",
	"upstream_rq_active_overflow",
	"upstream_rq_max_duration_reached",
	"upstream_rq_retry_overflow",
	"upstream_cx_overflow",
	"upstream_cx_connect_fail",
	"membership_total",
	"membership_healthy",
	"outlier_detection.ejections_active",
	"outlier_detection.ejections_enforced_total",
}

// shadowTimeouts is read of clusters for copies of requests alone: a copy has no log of its request, which would tell.
const shadowTimeouts = "upstream_rq_timeout"

// operatorStats are few, and enough to see at the sidecar whether it is served and what it refused.
var operatorStats = []string{
	"cluster." + cluster + ".upstream_cx_active",
	"cluster." + cluster + ".upstream_cx_connect_fail",
	"cluster_manager.cds.update_rejected",
	"control_plane.connected_state",
	"listener_manager.lds.update_rejected",
	"listener_manager.total_listeners_active",
	"runtime.load_error",
	"runtime.num_keys",
	"server.live",
	"server.memory_allocated",
	"server.uptime",
}

// statsSink sends every flush whole, in one message: counters as totals, so that a lost message loses nothing.
func statsSink() ([]*metricsv3.StatsSink, error) {
	config, err := packed(&metricsv3.MetricsServiceConfig{
		GrpcService:            grpcService(),
		TransportApiVersion:    corev3.ApiVersion_V3,
		ReportCountersAsDeltas: wrapperspb.Bool(false),
		EmitTagsAsLabels:       true,
		HistogramEmitMode:      metricsv3.HistogramEmitMode_HISTOGRAM,
	})
	if err != nil {
		return nil, err
	}
	return []*metricsv3.StatsSink{{
		Name:       "envoy.stat_sinks.metrics_service",
		ConfigType: &metricsv3.StatsSink_TypedConfig{TypedConfig: config},
	}}, nil
}

func statsConfig(edges []float64) *metricsv3.StatsConfig {
	milliseconds := make([]float64, 0, len(edges))
	for _, e := range edges {
		if e >= 1000 {
			milliseconds = append(milliseconds, e/1000)
		}
	}
	if len(milliseconds) == 0 {
		milliseconds = []float64{1}
	}
	var patterns []*matcherv3.StringMatcher
	prefix := func(s string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
	}
	patterns = append(patterns, prefix("aviary."))
	// A regular expression for all of them costs one look at a name; a list of suffixes costs ten.
	patterns = append(patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
		SafeRegex: &matcherv3.RegexMatcher{Regex: `cluster\.(.+/.+\.(` + alternatives() + `)|.+/shadow/.+\.` + shadowTimeouts + `)`},
	}})
	for _, s := range operatorStats {
		patterns = append(patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}})
	}
	return &metricsv3.StatsConfig{
		StatsMatcher: &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_InclusionList{
			InclusionList: &matcherv3.ListStringMatcher{Patterns: patterns},
		}},
		HistogramBucketSettings: []*metricsv3.HistogramBucketSettings{
			{Match: prefix(tryMicroseconds), Buckets: edges},
			{Match: prefix(cutMilliseconds), Buckets: milliseconds},
		},
		// Envoy's own rule ends a cluster's name at its first dot, which may be part of a version.
		StatsTags: []*metricsv3.TagSpecifier{{
			TagName:  "envoy.cluster_name",
			TagValue: &metricsv3.TagSpecifier_Regex{Regex: `^cluster\.((.+)\.)(?:` + alternatives() + `|` + shadowTimeouts + `)$`},
		}},
		AllowDefaultTagOverrides: wrapperspb.Bool(true),
	}
}

func alternatives() string {
	return strings.ReplaceAll(strings.Join(clusterStats, "|"), ".", `\.`)
}
