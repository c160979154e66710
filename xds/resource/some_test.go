package resource

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// Networks of the regions: 10.0.0.0/10 is the plan's own, 10.64.0.0/10 and 10.128.0.0/10 the neighbours'.
var networks = map[string]netip.Prefix{
	"eu-west":  netip.MustParsePrefix("10.0.0.0/10"),
	"eu-north": netip.MustParsePrefix("10.64.0.0/10"),
	"eu-south": netip.MustParsePrefix("10.128.0.0/10"),
}

// someDuration may be 0, which is "none" in an intent.
func someDuration(t *rapid.T, label string) time.Duration {
	return time.Duration(rapid.IntRange(0, 5000).Draw(t, label)) * time.Millisecond
}

func someOf(t *rapid.T, label string, all ...string) []string {
	if len(all) == 0 {
		return nil
	}
	picked := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, len(all), rapid.ID[string]).Draw(t, label)
	slices.Sort(picked)
	return picked
}

// someLocalities are in one region, with endpoints in its network.
func someLocalities(t *rapid.T, region string, priority uint32) []traffic.Locality {
	var all []traffic.Locality
	second := int(networks[region].Addr().As4()[1])
	for zone := range rapid.IntRange(0, 3).Draw(t, "zones") {
		l := traffic.Locality{Region: region, Zone: string(rune('a' + zone)), Priority: priority}
		l.Weight = rapid.SampledFrom([]uint32{0, 0, 1, 10_000}).Draw(t, "zone's weight")
		for n := range rapid.IntRange(0, 3).Draw(t, "endpoints") {
			l.Endpoints = append(l.Endpoints, traffic.Endpoint{Host: fmt.Sprintf("10.%d.%d.%d", second+int(priority), zone, n), Port: 80})
		}
		all = append(all, l)
	}
	return all
}

func someFailover(t *rapid.T) *traffic.Failover {
	if !rapid.Bool().Draw(t, "failover") {
		return nil
	}
	f := &traffic.Failover{
		Admit: 500 * rapid.Uint32Range(0, 20).Draw(t, "admit"),
		Shed:  rapid.Uint32Range(0, traffic.Whole).Draw(t, "shed"),
	}
	for i, region := range []string{"eu-north", "eu-south"}[:rapid.IntRange(0, 2).Draw(t, "neighbours")] {
		more := someLocalities(t, region, uint32(i)*rapid.Uint32Range(0, 2).Draw(t, "step"))
		version := rapid.SampledFrom([]string{"", "v0"}).Draw(t, "version there")
		for j := range more {
			more[j].Version = version
		}
		f.Localities = append(f.Localities, more...)
	}
	return f
}

func someIntent(t *rapid.T, service string) traffic.Intent {
	in := traffic.Intent{
		Service:      service,
		Hosts:        []string{service + ".example", "*." + service + ".example"}[:rapid.IntRange(1, 2).Draw(t, "hosts")],
		Protocol:     rapid.SampledFrom([]traffic.Protocol{traffic.HTTP, traffic.HTTP2, traffic.GRPC}).Draw(t, "protocol"),
		Stable:       traffic.Arm{Version: "v1", Localities: someLocalities(t, "eu-west", 0)},
		Failover:     someFailover(t),
		NearestZone:  rapid.Bool().Draw(t, "nearest zone"),
		Timeout:      someDuration(t, "timeout"),
		HangLimit:    someDuration(t, "hang limit"),
		RetryOn:      someOf(t, "retry on", "5xx", "reset", "unavailable"),
		RetryMethods: someOf(t, "methods", "GET", "HEAD", "POST"),
		TesterHeader: rapid.SampledFrom([]string{"", "x-version"}).Draw(t, "tester header"),
		Limits:       traffic.Limits{Retries: rapid.SampledFrom([]uint32{0, 1, 500}).Draw(t, "retries")},
	}
	switch rapid.IntRange(0, 2).Draw(t, "sticky") {
	case 1:
		in.StickyHeader = "x-user"
	case 2:
		in.StickyCookie, in.CookieTTL = "user", someDuration(t, "cookie ttl")
	}
	if rapid.Bool().Draw(t, "health") {
		in.Health = &traffic.Health{Interval: time.Second, Timeout: time.Second, UnhealthyAfter: 3, HealthyAfter: 2,
			Path: rapid.SampledFrom([]string{"", "/healthz"}).Draw(t, "path")}
	}
	if rapid.Bool().Draw(t, "canary") {
		in.Canary = &traffic.Arm{Version: "v2", Localities: someLocalities(t, "eu-west", 0)}
		in.Testers = rapid.Bool().Draw(t, "testers")
		in.Lease = time.Second + someDuration(t, "lease")
		in.ShadowMethods = someOf(t, "shadow methods", "GET", "POST")
		in.StripHeaders = []string{"authorization", "cookie"}
		someShares(t, &in)
	}
	return in
}

// someShares draws what the layer says anew, and nothing else.
func someShares(t *rapid.T, in *traffic.Intent) {
	in.Weight, in.Shadow = 0, 0
	if len(in.ShadowMethods) > 0 && rapid.Bool().Draw(t, "shadowing") {
		in.Shadow = rapid.Uint32Range(0, traffic.Whole).Draw(t, "shadow")
	} else {
		in.Weight = rapid.Uint32Range(0, traffic.Whole).Draw(t, "weight")
	}
}

func somePlan(t *rapid.T) traffic.Plan {
	services := someOf(t, "services", "cart", "shop", "mail.api")
	plan := traffic.Plan{
		Region: "eu-west", Callers: map[string][]string{"front": someOf(t, "calls", services...)}, Charter: traffic.Charter{},
	}
	for _, service := range services {
		plan.Intents = append(plan.Intents, someIntent(t, service))
		plan.Charter[service] = traffic.Bounds{
			Own:    []netip.Prefix{networks["eu-west"]},
			Others: map[string][]netip.Prefix{"eu-north": {networks["eu-north"]}, "eu-south": {networks["eu-south"]}},
		}
	}
	return plan
}

func someView(t *rapid.T) View {
	v := View{Service: "front", Zone: rapid.SampledFrom([]string{"", "a", "c"}).Draw(t, "zone")}
	if rapid.Bool().Draw(t, "grpc") {
		v.GRPC, v.Weights = true, InRoutes
		return v
	}
	v.Gateway = rapid.Bool().Draw(t, "gateway")
	v.Weights = rapid.SampledFrom([]WeightsIn{InLayer, InRoutes}).Draw(t, "weights in")
	v.Port = rapid.SampledFrom([]uint32{0, 9000}).Draw(t, "port")
	return v
}
