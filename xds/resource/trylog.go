package resource

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	statslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxTrySeries bounds the outcomes that one sidecar keeps apart: a version that invents status codes must not fill it.
// What is over the bound is not counted by Envoy; eight outcomes of each of five hundred versions fit.
const maxTrySeries = 4096

// ended is true of a try whose answer was read to its end; Envoy knows its end to the microsecond. One that was refused,
// reset, cut or given up has no such point in time, only a duration in whole milliseconds.
const ended = "has(response.backend_latency)"

// TryLogs are the access logs of the router filter (upstream_log). Each try adds one to the counter "aviary.tries" and
// one value to one of the histograms "aviary.try_us" (answers read to their end, from the start of the try, in
// microseconds) and "aviary.cut_ms" (all others, in milliseconds, rounded down). All three have the tags service, version,
// region, shadow ("true": a copy; these from the metadata of the endpoint), status ("0": no answer), grpc ("": none) and
// flags ("-": none). A copy of a request is a try as any other; it has no log of its request.
func TryLogs() []*accesslogv3.AccessLog {
	return []*accesslogv3.AccessLog{
		statsLog(nil, &statslogv3.Config{Counters: []*statslogv3.Config_Counter{{
			Stat:       &statslogv3.Config_Stat{Name: "tries", Tags: tryTags()},
			ValueFixed: wrapperspb.UInt64(1),
		}}}),
		statsLog(filterCEL(ended), &statslogv3.Config{Histograms: []*statslogv3.Config_Histogram{{
			Stat:        &statslogv3.Config_Stat{Name: "try_us", Tags: tryTags()},
			Unit:        statslogv3.Config_Histogram_Microseconds,
			ValueFormat: "%COMMON_DURATION(DS_RX_BEG:US_RX_END:us)%",
		}}}),
		statsLog(filterCEL("!"+ended), &statslogv3.Config{Histograms: []*statslogv3.Config_Histogram{{
			Stat:        &statslogv3.Config_Stat{Name: "cut_ms", Tags: tryTags()},
			Unit:        statslogv3.Config_Histogram_Milliseconds,
			ValueFormat: "%DURATION%",
		}}}),
	}
}

// RequestLog is an access log of the connection manager (access_log): the counter "aviary.cut_requests" of requests that
// ended before their answer did through no doing of the last try: by a timeout (UT, SI, DT) or by the caller (DC, DR, DPE).
// It has the tags service, version and region of that try, and flags. The log of the try itself cannot tell them apart: it has
// neither status nor flags of such an end.
func RequestLog() *accesslogv3.AccessLog {
	filter := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"UT", "SI", "DT", "DC", "DR", "DPE"}},
	}}
	return statsLog(filter, &statslogv3.Config{Counters: []*statslogv3.Config_Counter{{
		Stat: &statslogv3.Config_Stat{Name: "cut_requests", Tags: append(armTags(),
			&statslogv3.Config_Tag{Name: "flags", ValueFormat: "%RESPONSE_FLAGS%"})},
		ValueFixed: wrapperspb.UInt64(1),
	}}})
}

func armTags() []*statslogv3.Config_Tag {
	return []*statslogv3.Config_Tag{
		{Name: "service", ValueFormat: "%UPSTREAM_METADATA(aviary:service)%"},
		{Name: "version", ValueFormat: "%UPSTREAM_METADATA(aviary:version)%"},
		{Name: "region", ValueFormat: "%UPSTREAM_METADATA(aviary:region)%"},
	}
}

func tryTags() []*statslogv3.Config_Tag {
	return append(armTags(),
		&statslogv3.Config_Tag{Name: "shadow", ValueFormat: "%UPSTREAM_METADATA(aviary:shadow)%"},
		&statslogv3.Config_Tag{Name: "status", ValueFormat: "%RESPONSE_CODE%"},
		&statslogv3.Config_Tag{Name: "grpc", ValueFormat: "%GRPC_STATUS_NUMBER%"},
		&statslogv3.Config_Tag{Name: "flags", ValueFormat: "%RESPONSE_FLAGS%"},
	)
}

// statsLog puts every log into one shared scope, so that its counters outlive the listener that made them. Its series
// are dropped by Envoy after they lay idle for the bootstrap's stats_eviction_interval.
func statsLog(filter *accesslogv3.AccessLogFilter, config *statslogv3.Config) *accesslogv3.AccessLog {
	config.StatsScope = &typev3.Scope{
		Prefix: "aviary", SharingName: "aviary", EnableEviction: true,
		MaxCounters: wrapperspb.UInt32(maxTrySeries), MaxHistograms: wrapperspb.UInt32(maxTrySeries),
	}
	return &accesslogv3.AccessLog{
		Name:       "envoy.access_loggers.stats",
		Filter:     filter,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: packed(config)},
	}
}

func filterCEL(expression string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
		ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name: "envoy.access_loggers.extension_filters.cel",
			ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{
				TypedConfig: packed(&celv3.ExpressionFilter{Expression: expression}),
			},
		},
	}}
}
