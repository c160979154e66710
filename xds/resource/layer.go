package resource

import (
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// weightsPrefix is the runtime_key_prefix of a service's split; the key of a cluster's weight is prefix.cluster. A split with
// failover has keys of its own: a layer is at a proxy before the routes, and stable's weight beside the part that goes
// elsewhere must not be read by routes that know stable and the canary alone. These would give the canary all.
func weightsPrefix(service string, failover bool) string {
	if failover {
		return "aviary." + service + ".failover"
	}
	return "aviary." + service
}

func weightKey(service string, failover bool, cluster string) string {
	return weightsPrefix(service, failover) + "." + cluster
}

// testersKey is the fraction of testers' requests that reach the canary: all or none.
func testersKey(service string) string { return "aviary." + service + ".testers" }

// shadowKey is the fraction of requests that are copied.
func shadowKey(service string) string { return "aviary." + service + ".shadow" }

// shedLease is how long requests go to other regions when nobody renews it and no canary says how long.
const shedLease = 10 * time.Second

// Layer returns the values of the runtime layer of a view: all keys of every split, which sum to traffic.Whole, for each
// canary whether testers reach it, and the part of requests that is copied. The lease is the shortest of the canaries that
// get anything, and without one there is still a lease while requests are shed; 0 is none.
func Layer(plan traffic.Plan, v View) (values *structpb.Struct, lease time.Duration) {
	values = &structpb.Struct{Fields: map[string]*structpb.Value{}}
	shed := false
	for _, in := range Intents(plan, v) {
		if !v.splits(in) {
			continue
		}
		for _, s := range shares(in, v, live) {
			values.Fields[weightKey(in.Service, v.failsOver(in), s.cluster)] = structpb.NewNumberValue(float64(s.weight))
		}
		if v.failsOver(in) && in.Canary != nil { // for routes from before there was failover
			plain := in
			plain.Failover = nil
			for _, s := range shares(plain, v, live) {
				values.Fields[weightKey(in.Service, false, s.cluster)] = structpb.NewNumberValue(float64(s.weight))
			}
		}
		shed = shed || v.failsOver(in) && in.Failover.Shed > 0
		if in.Canary == nil {
			continue
		}
		gets := in.Weight > 0
		if in.TesterHeader != "" {
			n := uint32(0)
			if in.Testers {
				n, gets = traffic.Whole, true
			}
			values.Fields[testersKey(in.Service)] = fraction(n)
		}
		if v.shadows(in) {
			values.Fields[shadowKey(in.Service)] = fraction(in.Shadow)
			gets = gets || in.Shadow > 0
		}
		if gets && (lease == 0 || in.Lease < lease) {
			lease = in.Lease
		}
	}
	if shed && lease == 0 {
		lease = shedLease
	}
	return values, lease
}

func fraction(n uint32) *structpb.Value {
	return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		"numerator": structpb.NewNumberValue(float64(n)), "denominator": structpb.NewStringValue("TEN_THOUSAND"),
	}})
}

// Weight returns the weight that a layer's values give the arm of a service's version; 0 when they do not name it, as then
// the routes' values hold.
func Weight(values *structpb.Struct, service, version string) uint32 {
	return uint32(values.GetFields()[weightKey(service, false, ArmCluster(service, version))].GetNumberValue())
}

// Shadow returns the part of a service's requests that a layer's values have copied; 0 when they do not say.
func Shadow(values *structpb.Struct, service string) uint32 {
	return uint32(values.GetFields()[shadowKey(service)].GetStructValue().GetFields()["numerator"].GetNumberValue())
}
