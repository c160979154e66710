// Package telemetry turns what proxies report into signal values: differences by proxy, version and outcome. It serves
// Envoy's MetricsService and load reporting service (LRS) and hands each report on as one signal.Flush.
//
// Where a number comes from:
//
//	Outcome.Tries          aviary.tries, a counter of the router's access log (xds/resource TryLogs), by class
//	Outcome.Latency        aviary.try_us (answers read to their end, µs) and aviary.cut_ms (all other tries, whole ms)
//	its flags UT, SI, DT,  aviary.cut_requests of the request's log (RequestLog), given to tries that have neither an
//	DC, DR, DPE            answer to its end nor a flag of their own
//	and UMSDR              upstream_rq_max_duration_reached of the version's cluster, likewise: a hang
//	InProgress             cluster.<service>/{stable,canary,arm}/<version>.upstream_rq_active
//	Endpoints, Healthy     membership_total, membership_healthy of the same clusters, but never of an arm
//	Ejected, Ejections     outlier_detection.ejections_active, .ejections_enforced_total
//	Overflows              upstream_rq_pending_overflow: such a try has no endpoint, and so no version in its log. One
//	                       over the limit of requests (upstream_rq_active_overflow) has: it is an outcome with flag UO
//	ConnectFailures        upstream_cx_connect_fail beyond the tries with the flag UF, a flush later
//
// For proxies without our listeners (proxyless gRPC) LRS gives tries that went well, tries that failed and tries in
// progress, and no more: see LoadOK, LoadError and LoadRefused. A proxy that has our access logs is never counted by both.
//
// Counters are totals since the proxy started, so that what was lost on the way is in the next report; histograms are those
// of one flush and what is lost of them stays lost. Nothing here decides, stores or knows a document.
package telemetry
