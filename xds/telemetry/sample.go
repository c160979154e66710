package telemetry

import (
	"math"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// kind is what a counter counts.
type kind uint8

const (
	tries kind = iota + 1
	cutRequests
	overflows
	connectFailures
	ejections
	hangs
	timeouts
)

// key names one counter of a proxy.
type key struct {
	kind kind
	arm  armKey
	// from tells the series of an arm apart: the role of their cluster, or region and mark as the log has them.
	from string
	// class is that of tries, and has the flags of requests.
	class signal.Class
}

// armKey names an arm as signal.Arm does.
type armKey struct {
	service, version, region string
	shadow                   bool
}

// gauges of one arm.
type gauges struct {
	inProgress, pending, endpoints, healthy, ejected uint64
}

// sample is one message of a proxy as it says it: counters are totals.
type sample struct {
	// region is the proxy's own.
	region string
	// stamp is when the proxy took it, in its milliseconds; messages of one flush have the same. 0: it does not say.
	stamp int64
	// uptime of the proxy in seconds; -1: it does not say.
	uptime   int64
	counters map[key]uint64
	answered map[key]signal.Histogram
	cut      map[key]signal.Histogram
	gauges   map[armKey]*gauges
	// ignored counts what could not be read.
	ignored int
}

// names of statistics below "cluster", less the cluster's name, which is a label.
const clusterPrefix = "cluster."

// read makes a sample of the families of one message of a proxy in a region. It trusts nothing: names, labels and numbers
// that are not as the access logs and the bootstrap make them are passed over.
func read(families []*dto.MetricFamily, region string) sample {
	s := sample{
		region: region, uptime: -1, counters: map[key]uint64{},
		answered: map[key]signal.Histogram{}, cut: map[key]signal.Histogram{}, gauges: map[armKey]*gauges{},
	}
	for _, f := range families {
		name := f.GetName()
		for _, m := range f.GetMetric() {
			if s.stamp == 0 {
				s.stamp = m.GetTimestampMs()
			}
			if !s.add(name, m) {
				s.ignored++
			}
		}
	}
	return s
}

// add takes in one metric; false: it should have been readable and was not.
func (s *sample) add(name string, m *dto.Metric) bool {
	switch name {
	case "aviary.tries":
		k, ok := s.tryKey(m)
		n, whole := count(m.GetCounter().GetValue())
		if !ok || !whole || m.GetCounter() == nil {
			return false
		}
		return s.total(k, n)
	case "aviary.cut_requests":
		k, ok := s.logKey(cutRequests, m)
		k.class.Flags = label(m, "flags")
		n, whole := count(m.GetCounter().GetValue())
		if !ok || !whole || m.GetCounter() == nil || len(k.class.Flags) > maxFlags {
			return false
		}
		return s.total(k, n)
	case "aviary.try_us", "aviary.cut_ms":
		k, ok := s.tryKey(m)
		if !ok || m.GetHistogram() == nil {
			return false
		}
		into, unit := s.answered, 1.0
		if name == "aviary.cut_ms" {
			into, unit = s.cut, 1000
		}
		if len(into) >= maxSeries {
			return false
		}
		into[k] = histogram(m.GetHistogram(), unit)
		return true
	case "server.uptime":
		if n, ok := count(m.GetGauge().GetValue()); ok && m.GetGauge() != nil {
			s.uptime = int64(n)
		}
		return true
	}
	if rest, ok := strings.CutPrefix(name, clusterPrefix); ok {
		return s.addCluster(rest, m)
	}
	return true
}

func (s *sample) addCluster(stat string, m *dto.Metric) bool {
	arm, role, ours := splitCluster(label(m, "envoy.cluster_name"))
	if !ours {
		return true
	}
	var of kind
	switch stat {
	case "upstream_rq_pending_overflow":
		of = overflows
	case "upstream_rq_max_duration_reached":
		of = hangs
	case "upstream_rq_timeout":
		if !arm.shadow { // requests have logs
			return true
		}
		of = timeouts
	case "upstream_cx_connect_fail":
		of = connectFailures
	case "outlier_detection.ejections_enforced_total":
		of = ejections
	case "upstream_rq_active", "upstream_rq_pending_active", "membership_total", "membership_healthy", "outlier_detection.ejections_active":
		n, ok := count(m.GetGauge().GetValue())
		if !ok || m.GetGauge() == nil || len(s.gauges) >= maxSeries {
			return false
		}
		g := s.gauges[arm]
		if g == nil {
			g = &gauges{}
			s.gauges[arm] = g
		}
		g.add(stat, role, n)
		return true
	default:
		return true
	}
	n, ok := count(m.GetCounter().GetValue())
	if !ok || m.GetCounter() == nil {
		return false
	}
	if arm.region == signal.Elsewhere && (of == hangs || of == connectFailures) {
		return true // whose, only tries tell: those with the flags
	}
	return s.total(key{kind: of, arm: arm, from: role}, n)
}

// add joins the clusters of one version: while it is promoted it is in a stable and in a canary cluster, with the same
// endpoints. Aggregates are over such clusters and have the members of several versions.
func (g *gauges) add(stat, role string, n uint64) {
	switch {
	case stat == "upstream_rq_active":
		g.inProgress += n
	case stat == "upstream_rq_pending_active":
		g.pending += n
	case role == "arm" || role == "everywhere" || role == "shed":
	case stat == "membership_total":
		g.endpoints = max(g.endpoints, n)
	case stat == "membership_healthy":
		g.healthy = max(g.healthy, n)
	default:
		g.ejected = max(g.ejected, n)
	}
}

func (s *sample) total(k key, n uint64) bool {
	if _, twice := s.counters[k]; !twice && len(s.counters) >= maxSeries {
		return false
	}
	s.counters[k] = n
	return true
}

// splitCluster reads <service>/<role>/<version>; a version may hold more slashes and dots. Of a cluster of other regions
// the version is the one that is stable here, and so only a name.
func splitCluster(name string) (arm armKey, role string, ok bool) {
	service, rest, _ := strings.Cut(name, "/")
	role, version, _ := strings.Cut(rest, "/")
	if service == "" || version == "" || len(service) > maxName || len(version) > maxName {
		return armKey{}, "", false
	}
	arm = armKey{service: service, version: version}
	switch role {
	case "stable", "canary", "arm", "everywhere", "shed":
	case "remote":
		arm.region = signal.Elsewhere
	case "shadow":
		arm.shadow = true
	default:
		return armKey{}, "", false
	}
	return arm, role, true
}

func (s *sample) tryKey(m *dto.Metric) (key, bool) {
	k, ok := s.logKey(tries, m)
	if !ok {
		return key{}, false
	}
	mark := label(m, "shadow")
	k.arm.shadow = mark == "true"
	k.from += " " + mark
	if k.class.Status, ok = number(label(m, "status"), 0); !ok {
		return key{}, false
	}
	if k.class.GRPC, ok = number(label(m, "grpc"), -1); !ok {
		return key{}, false
	}
	if k.class.Flags = label(m, "flags"); k.class.Flags == "-" {
		k.class.Flags = ""
	}
	return k, len(k.class.Flags) <= maxFlags && len(mark) <= maxName
}

// logKey refuses what an endpoint without our metadata gives ("-" or ""), but takes one without a region for one of the
// proxy's own.
func (s *sample) logKey(of kind, m *dto.Metric) (key, bool) {
	k := key{kind: of, arm: armKey{service: label(m, "service"), version: label(m, "version")}, from: label(m, "region")}
	for _, name := range []string{k.arm.service, k.arm.version} {
		if name == "" || name == "-" || len(name) > maxName {
			return key{}, false
		}
	}
	if k.from != "-" && k.from != s.region {
		k.arm.region = k.from
	}
	return k, len(k.from) <= maxName && k.from != signal.Elsewhere
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// number reads a status; "" and "-" are none.
func number(s string, none int) (int, bool) {
	if s == "" || s == "-" {
		return none, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n <= math.MaxInt32
}

// hang is Envoy's flag for a try that reached its cluster's max_stream_duration, which the try's own log lacks.
const hang = "UMSDR"

// causes of an end that a try's own log does not show, as Envoy's flags: limits of time before callers that left.
var causes = []string{"UT", "SI", "DT", hang, "DC", "DR", "DPE"}

// cause is the flag that says why a request was cut; "" when none does.
func cause(flags string) string {
	for _, c := range causes {
		if hasFlag(flags, c) {
			return c
		}
	}
	return ""
}

func hasFlag(flags, flag string) bool {
	for rest := flags; rest != ""; {
		var f string
		if f, rest, _ = strings.Cut(rest, ","); f == flag {
			return true
		}
	}
	return false
}

// count is a float as the whole number that it should be.
func count(f float64) (uint64, bool) {
	if !(f >= 0) || f > 1<<53 {
		return 0, false
	}
	return uint64(f), true
}
