package spec_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// The generators make documents that are right by themselves; half of the optional fields are set.

func anyDocument(t *rapid.T) *aviaryv1.Document {
	doc := &aviaryv1.Document{Metadata: &aviaryv1.Metadata{Name: name.Draw(t, "name")}}
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		doc.Spec = &aviaryv1.Document_Region{Region: anyRegion(t, doc.Metadata.Name)}
	case 1:
		doc.Spec = &aviaryv1.Document_Service{Service: anyService(t)}
	case 2:
		doc.Spec = &aviaryv1.Document_Policy{Policy: anyPolicy(t)}
	case 3:
		doc.Spec = &aviaryv1.Document_Rollout{Rollout: &aviaryv1.RolloutSpec{
			Service: text.Draw(t, "service"), Version: text.Draw(t, "version"), Policy: text.Draw(t, "policy"),
			Regions: names(0).Draw(t, "regions"), Fallbacks: names(0).Draw(t, "fallbacks"),
		}}
	}
	return doc
}

var (
	// Words that YAML would take for something else are names too.
	name = rapid.OneOf(rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?`),
		rapid.SampledFrom([]string{"true", "null", "on", "yes", "1", "007", "1e3", "0x1f", "2024-01-02", "0", "1-2"}))
	// References are any text, for only Build knows what they may be.
	text = rapid.OneOf(name, rapid.StringN(1, 20, -1).Filter(func(s string) bool {
		return !strings.ContainsRune(s, 0xFFFD)
	}))
	count = rapid.Uint32Range(1, math.MaxUint32)
)

func names(least int) *rapid.Generator[[]string] {
	return rapid.SliceOfNDistinct(name, least, 3, rapid.ID[string])
}

func maybe[T any](t *rapid.T, label string, make func() *T) *T {
	if rapid.Bool().Draw(t, label+" set") {
		return make()
	}
	return nil
}

func between(t *rapid.T, label string, low, high time.Duration) func() *durationpb.Duration {
	return func() *durationpb.Duration {
		return durationpb.New(time.Duration(rapid.Int64Range(int64(low), int64(high)).Draw(t, label)))
	}
}

func number(t *rapid.T, label string) func() *uint32 {
	return func() *uint32 { return proto.Uint32(count.Draw(t, label)) }
}

func share(low spec.Share) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return spec.Share(rapid.Uint32Range(uint32(low), uint32(spec.Whole)).Draw(t, "share")).String()
	})
}

// unset is a text that is not there half of the time.
func unset(text *rapid.Generator[string]) *rapid.Generator[string] {
	return rapid.OneOf(rapid.Just(""), text)
}

var methods = rapid.SliceOfNDistinct(rapid.StringMatching(`[A-Z]{1,6}`), 0, 3, rapid.ID[string])

func anyRegion(t *rapid.T, own string) *aviaryv1.RegionSpec {
	network := rapid.Custom(func(t *rapid.T) string {
		bytes := rapid.SampledFrom([]int{4, 16}).Draw(t, "bytes")
		ip, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), bytes, bytes).Draw(t, "ip"))
		network, err := ip.Unmap().Prefix(rapid.IntRange(0, 32).Draw(t, "bits"))
		if err != nil {
			t.Fatal(err)
		}
		return network.String()
	})
	return &aviaryv1.RegionSpec{
		Zones:        names(1).Draw(t, "zones"),
		Jurisdiction: unset(rapid.OneOf(rapid.Just("EU"), name)).Draw(t, "jurisdiction"),
		Failover:     slices.DeleteFunc(names(0).Draw(t, "failover"), func(other string) bool { return other == own }),
		Networks:     rapid.SliceOfNDistinct(network, 0, 3, rapid.ID[string]).Draw(t, "networks"),
	}
}

func anyPlacement(t *rapid.T, region string, taken map[string]bool) *aviaryv1.Placement {
	p := &aviaryv1.Placement{Region: region, Capacity: rapid.Float64Range(0, math.MaxFloat64).Draw(t, "capacity")}
	for _, zone := range names(0).Draw(t, "zones") {
		host := rapid.OneOf(
			rapid.StringMatching(`10\.[1-9]\.[1-9]\.[1-9]`), rapid.StringMatching(`\[fd00::[1-9a-f]{1,4}\]`),
			rapid.StringMatching(`([a-z0-9]([-a-z0-9]{0,4}[a-z0-9])?\.){0,2}[a-z]([-a-z0-9]{0,4}[a-z0-9])?`),
		).Draw(t, "host")
		address := fmt.Sprintf("%s:%d", host, rapid.IntRange(1, 65535).Draw(t, "port"))
		if taken[address] {
			continue
		}
		taken[address] = true
		p.Endpoints = append(p.Endpoints, &aviaryv1.Endpoint{Zone: zone, Address: address})
		if rapid.Bool().Draw(t, "weighs") {
			p.Weights = append(p.Weights, &aviaryv1.ZoneWeight{Zone: zone, Weight: rapid.Uint32Range(1, 10_000).Draw(t, "weight")})
		}
	}
	return p
}

func anyRelief(t *rapid.T) *aviaryv1.Relief {
	r := &aviaryv1.Relief{
		Pending:    maybe(t, "pending", number(t, "pending")),
		InProgress: maybe(t, "in progress", number(t, "in progress")),
		Overflows: maybe(t, "overflows", func() *float64 {
			return proto.Float64(rapid.Float64Range(math.SmallestNonzeroFloat64, math.MaxFloat64).Draw(t, "overflows"))
		}),
		After:   maybe(t, "after", between(t, "after", 0, time.Hour)),
		Until:   maybe(t, "until", between(t, "until", 1, time.Hour)),
		Tighten: unset(share(1)).Draw(t, "tighten"),
		Shed:    unset(share(0)).Draw(t, "shed"),
	}
	if r.Pending == nil && r.InProgress == nil && r.Overflows == nil {
		r.Pending = proto.Uint32(1)
	}
	return r
}

func anyService(t *rapid.T) *aviaryv1.ServiceSpec {
	const hour = time.Hour
	s := &aviaryv1.ServiceSpec{
		Hosts:        names(1).Draw(t, "hosts"),
		Protocol:     aviaryv1.Protocol(rapid.IntRange(0, 3).Draw(t, "protocol")),
		TesterHeader: rapid.SampledFrom([]string{"", "x-version"}).Draw(t, "header"),
		Calls:        names(0).Draw(t, "calls"),
		Timeout:      maybe(t, "timeout", between(t, "timeout", 2, hour)),
	}
	if s.Timeout != nil {
		s.HangLimit = maybe(t, "hang limit", between(t, "hang limit", 0, s.Timeout.AsDuration()-1))
	}
	for _, v := range names(1).Draw(t, "versions") {
		version := &aviaryv1.Version{Name: v, Digest: rapid.StringMatching(`[a-z0-9+._-]{1,8}:[A-Za-z0-9=_-]{1,8}`).Draw(t, "digest")}
		taken := map[string]bool{}
		for _, region := range names(0).Draw(t, "regions") {
			version.Regions = append(version.Regions, anyPlacement(t, region, taken))
		}
		s.Versions = append(s.Versions, version)
	}
	s.Stable = s.Versions[0].Name
	s.Limits = maybe(t, "limits", func() *aviaryv1.Limits {
		return &aviaryv1.Limits{
			Connections: maybe(t, "connections", number(t, "connections")),
			Retries:     maybe(t, "retries", number(t, "retries")),
		}
	})
	s.Stickiness = maybe(t, "stickiness", func() *aviaryv1.Stickiness {
		if rapid.Bool().Draw(t, "cookie") {
			return &aviaryv1.Stickiness{By: &aviaryv1.Stickiness_Cookie{Cookie: &aviaryv1.Cookie{
				Name: name.Draw(t, "cookie"), Ttl: maybe(t, "ttl", between(t, "ttl", 1, math.MaxInt64-1)),
			}}}
		}
		return &aviaryv1.Stickiness{By: &aviaryv1.Stickiness_Header{Header: name.Draw(t, "by")}}
	})
	s.HealthCheck = maybe(t, "health check", func() *aviaryv1.HealthCheck {
		return &aviaryv1.HealthCheck{
			Path:     rapid.StringMatching(`(/[^\n]{0,8})?`).Draw(t, "path"),
			Interval: maybe(t, "interval", between(t, "interval", 10*time.Millisecond, hour)),
		}
	})
	if s.Protocol != aviaryv1.Protocol_PROTOCOL_GRPC {
		s.Retries = maybe(t, "retries", func() *aviaryv1.Retries {
			return &aviaryv1.Retries{
				On: rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) aviaryv1.RetryClass {
					return aviaryv1.RetryClass(rapid.IntRange(1, 5).Draw(t, "class"))
				}), 0, 5, rapid.ID[aviaryv1.RetryClass]).Draw(t, "on"),
				Methods: methods.Draw(t, "methods"),
			}
		})
	}
	s.Residency = names(0).Draw(t, "residency")
	s.Zones = aviaryv1.Zones(rapid.IntRange(0, 2).Draw(t, "zones"))
	s.Relief = maybe(t, "relief", func() *aviaryv1.Relief { return anyRelief(t) })
	s.Mirror = maybe(t, "mirror", func() *aviaryv1.Mirror {
		m := &aviaryv1.Mirror{StripHeaders: names(0).Draw(t, "headers")}
		if s.Protocol != aviaryv1.Protocol_PROTOCOL_GRPC {
			m.Methods = methods.Draw(t, "copied")
		}
		return m
	})
	return s
}

func anyPolicy(t *rapid.T) *aviaryv1.PolicySpec {
	p := &aviaryv1.PolicySpec{
		Availability: &aviaryv1.Availability{
			Target: rapid.SampledFrom([]string{"99.9%", "0.5%", "99.9999%"}).Draw(t, "target"),
			Window: maybe(t, "window", between(t, "window", time.Minute, 365*24*time.Hour)),
		},
		BudgetShare: rapid.SampledFrom([]string{"", "10%", "100%", "0.00001%"}).Draw(t, "budget share"),
		Errors: maybe(t, "errors", func() *aviaryv1.ErrorClasses {
			return &aviaryv1.ErrorClasses{
				Http: rapid.SliceOfNDistinct(rapid.StringMatching(`[1-5]([0-9][0-9]|xx)`), 0, 4, rapid.ID[string]).Draw(t, "http"),
				Grpc: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"INTERNAL", "UNKNOWN"}), 0, 2, rapid.ID[string]).Draw(t, "grpc"),
			}
		}),
		Analysis: maybe(t, "analysis", func() *aviaryv1.Analysis {
			return &aviaryv1.Analysis{
				Alpha: maybe(t, "alpha", func() *float64 {
					return proto.Float64(rapid.Float64Range(math.SmallestNonzeroFloat64, 0.5).Draw(t, "alpha"))
				}),
				ToleratedDifference: rapid.SampledFrom([]string{"", "0%", "0.01%"}).Draw(t, "difference"),
			}
		}),
		Lease: maybe(t, "lease", func() *aviaryv1.Lease {
			return &aviaryv1.Lease{Ttl: maybe(t, "ttl", between(t, "ttl", time.Second, 5*time.Minute))}
		}),
	}
	const month = 30 * 24 * time.Hour
	p.Steps = anySteps(t)
	p.Shadow = maybe(t, "shadow", func() *aviaryv1.Shadow {
		return &aviaryv1.Shadow{
			Share: share(1).Draw(t, "copies"), Hold: between(t, "hold", 1, month)(), MinTries: maybe(t, "tries", number(t, "tries")),
		}
	})
	p.OnHalt = aviaryv1.OnHalt(rapid.IntRange(0, 3).Draw(t, "on halt"))
	p.Rollback = maybe(t, "rollback", func() *aviaryv1.Rollback {
		return &aviaryv1.Rollback{Within: maybe(t, "within", between(t, "within", 1, time.Hour))}
	})
	p.MinAvailability = maybe(t, "availability", func() *aviaryv1.MinAvailability {
		return &aviaryv1.MinAvailability{
			Endpoints: unset(share(0)).Draw(t, "endpoints"), Regions: rapid.Uint32().Draw(t, "least regions"),
		}
	})
	for _, regions := range parts(t, "waves") {
		p.Waves = append(p.Waves, &aviaryv1.Wave{
			Regions: regions, Parallel: maybe(t, "parallel", number(t, "parallel")), Require: unset(share(1)).Draw(t, "require"),
			Bake: maybe(t, "bake", between(t, "bake", 0, month)),
		})
	}
	for _, regions := range parts(t, "paces") {
		if len(regions) > 0 {
			p.Paces = append(p.Paces, &aviaryv1.Pace{Regions: regions, Steps: anySteps(t)})
		}
	}
	return p
}

// parts are distinct names in groups, of which one at most is empty.
func parts(t *rapid.T, label string) [][]string {
	var out [][]string
	for _, name := range rapid.SliceOfNDistinct(name, 0, 5, rapid.ID[string]).Draw(t, label) {
		if n := len(out); n > 0 && rapid.Bool().Draw(t, "together") {
			out[n-1] = append(out[n-1], name)
		} else {
			out = append(out, []string{name})
		}
	}
	if rapid.Bool().Draw(t, "rest") {
		out = append(out, nil)
	}
	return out
}

func anySteps(t *rapid.T) []*aviaryv1.Step {
	var out []*aviaryv1.Step
	share := spec.Share(0)
	for range rapid.IntRange(1, 4).Draw(t, "steps") {
		share += spec.Share(rapid.Uint32Range(1, 2500).Draw(t, "share"))
		out = append(out, &aviaryv1.Step{
			Share: share.String(), Hold: between(t, "hold", 1, 30*24*time.Hour)(), MinTries: maybe(t, "tries", number(t, "tries")),
		})
	}
	return out
}
