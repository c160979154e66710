package resource

import (
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// weightsPrefix is the runtime_key_prefix of a service's split; the key of a cluster's weight is prefix.cluster.
func weightsPrefix(service string) string { return "aviary." + service }

func weightKey(service, cluster string) string { return weightsPrefix(service) + "." + cluster }

// testersKey is the fraction of testers' requests that reach the canary: all or none.
func testersKey(service string) string { return "aviary." + service + ".testers" }

// Layer returns the values of the runtime layer of a view: all keys of every split, which sum to traffic.Whole, and for
// each canary whether testers reach it. The lease is the shortest of the canaries that get anything; 0 when none does.
func Layer(plan traffic.Plan, v View) (values *structpb.Struct, lease time.Duration) {
	values = &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, in := range Intents(plan, v) {
		if in.Canary == nil {
			continue
		}
		testers := in.Testers && in.TesterHeader != ""
		values.Fields[weightKey(in.Service, StableCluster(in.Service, in.Stable.Version))] = structpb.NewNumberValue(float64(traffic.Whole - in.Weight))
		values.Fields[weightKey(in.Service, v.target(in))] = structpb.NewNumberValue(float64(in.Weight))
		if in.TesterHeader != "" {
			values.Fields[testersKey(in.Service)] = fraction(testers)
		}
		if (in.Weight > 0 || testers) && (lease == 0 || in.Lease < lease) {
			lease = in.Lease
		}
	}
	return values, lease
}

func fraction(all bool) *structpb.Value {
	n := 0.0
	if all {
		n = traffic.Whole
	}
	return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		"numerator": structpb.NewNumberValue(n), "denominator": structpb.NewStringValue("TEN_THOUSAND"),
	}})
}

// Weight returns the weight that a layer's values give the arm of a service's version; 0 when they do not name it, as then
// the routes' values hold.
func Weight(values *structpb.Struct, service, version string) uint32 {
	return uint32(values.GetFields()[weightKey(service, ArmCluster(service, version))].GetNumberValue())
}
