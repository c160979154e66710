// Package telemetry turns what proxies report into signal values: differences by proxy, version and outcome. It serves
// Envoy's MetricsService and load reporting service (LRS) and hands each report on as one signal.Flush.
//
// Where a number comes from:
//
//	Outcome.Tries          aviary.tries, a counter of the router's access log (xds/resource TryLogs), by class
//	Outcome.Latency        aviary.try_us (answers read to their end, µs) and aviary.cut_ms (all other tries, whole ms)
//	its flags UT, SI, DT,  aviary.cut_requests of the request's log (RequestLog), given to tries that have neither an
//	DC, DR, DPE            answer to its end nor a flag of their own
//	UMSDR                  upstream_rq_max_duration_reached of the version's cluster, likewise: a hang
//	and UT of a copy       upstream_rq_timeout of the shadow's cluster, likewise
//	Arm.Region             the tag region of both logs, from the endpoint; "" when it is the proxy's own, or there is none
//	Arm.Shadow             the tag shadow of the router's log, from the endpoint
//	InProgress, Pending    cluster.<service>/<role>/<version>.upstream_rq_active, .upstream_rq_pending_active
//	Endpoints, Healthy     membership_total, membership_healthy of the same clusters, but never of an aggregate
//	Ejected, Ejections     outlier_detection.ejections_active, .ejections_enforced_total
//	Overflows              upstream_rq_pending_overflow: such a try has no endpoint, and so no version in its log. One
//	                       over the limit of requests (upstream_rq_active_overflow) has: it is an outcome with flag UO
//	ConnectFailures        upstream_cx_connect_fail beyond the tries with the flag UF, a flush later; not of other regions
//
// Whose a cluster's gauges and counters are, by its role:
//
//	stable, canary         the version's
//	arm, everywhere, shed  the version's; aggregates, which have none but for what never reached a cluster in them
//	remote                 signal.Elsewhere's: its endpoints are in several regions. Its tries say in which one
//	shadow                 the version's shadow's
//
// A copy of a request is a try as any other to the router's log, whose counts are of what the shadow's endpoints met:
//
//	the shadow             class of the copy (HTTP/1; over HTTP/2 and gRPC the same, but for what is in brackets)
//	answers 500, 503       that status [and its gRPC status]
//	is slow                that of its answer, with the time that it took
//	hangs                  0 UMSDR, by the cluster's limit of a try; 0 UT, by the route's limit of a request
//	refuses                0 UF
//	resets                 0 UC [0 UR]
//	breaks mid-body        200 UPE [200 UR]
//	is over its limits     an overflow [0 UO]
//	has no endpoint        none: it met no version
//	has a caller who left  0 DR: the copy of a body ends with it. Nothing else leaves a copy unexplained
//
// What the cluster itself counts by status misleads: a 503 that Envoy made is among it, and an answer that broke is a 200.
//
// For proxies without our listeners (proxyless gRPC) LRS gives tries that went well, tries that failed and tries in
// progress, by the region of the locality, and no more: see LoadOK, LoadError and LoadRefused. A proxy that has our access
// logs is never counted by both.
//
// Counters are totals since the proxy started, so that what was lost on the way is in the next report; histograms are those
// of one flush and what is lost of them stays lost. Nothing here decides, stores or knows a document.
package telemetry
