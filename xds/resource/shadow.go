package resource

import (
	"regexp"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// ShadowHeader marks a copy of a request; its value is the version that the copy is for.
const ShadowHeader = "x-aviary-shadow"

// shadows is whether a view may have requests copied. That is a value of the layer, so that it ends with the lease: clients
// without the layer copy nothing. The way for copies is there as long as the canary, not only while there are some.
func (v View) shadows(in traffic.Intent) bool {
	return in.Canary != nil && len(in.ShadowMethods) > 0 && !v.GRPC && v.Weights == InLayer
}

// shadowCluster is apart from the canary's, so that copies have limits and statistics of their own. Nothing is ejected from
// it: it answers nobody, and an endpoint that fails is to be seen.
func shadowCluster(in traffic.Intent, v View) *clusterv3.Cluster {
	c := endpointsCluster(in, ShadowCluster(in.Service, in.Canary.Version), v, in.Canary.Localities)
	hanging(c, in, v)
	return c
}

// mirrored are the routes that a route of the split becomes: one that copies requests with methods that may be copied, and
// itself for all others.
func mirrored(in traffic.Intent, v View, r *routev3.Route) []*routev3.Route {
	if !v.shadows(in) {
		return []*routev3.Route{r}
	}
	var methods []string
	for _, method := range in.ShadowMethods {
		methods = append(methods, regexp.QuoteMeta(method))
	}
	copies := proto.CloneOf(r)
	copies.Match.Headers = append(copies.Match.Headers, &routev3.HeaderMatcher{
		Name: ":method",
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: strings.Join(methods, "|")}},
		}},
	})
	mirror := &routev3.RouteAction_RequestMirrorPolicy{
		Cluster: ShadowCluster(in.Service, in.Canary.Version),
		RuntimeFraction: &corev3.RuntimeFractionalPercent{
			DefaultValue: &typev3.FractionalPercent{Denominator: typev3.FractionalPercent_TEN_THOUSAND},
			RuntimeKey:   shadowKey(in.Service),
		},
		// A server that knows its hosts would answer 404 to host-shadow.
		DisableShadowHostSuffixAppend: true,
	}
	for _, name := range in.StripHeaders {
		mirror.RequestHeadersMutations = append(mirror.RequestHeadersMutations, &mutationv3.HeaderMutation{
			Action: &mutationv3.HeaderMutation_Remove{Remove: name},
		})
	}
	mirror.RequestHeadersMutations = append(mirror.RequestHeadersMutations, &mutationv3.HeaderMutation{
		Action: &mutationv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: ShadowHeader, Value: in.Canary.Version},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}},
	})
	copies.GetRoute().RequestMirrorPolicies = []*routev3.RouteAction_RequestMirrorPolicy{mirror}
	return []*routev3.Route{copies, r}
}
