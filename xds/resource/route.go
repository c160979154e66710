package resource

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// RouteName is the route configuration of a view's listener; gRPC clients have one a host, of its name.
func (v View) RouteName() string {
	if v.Gateway {
		return "ingress"
	}
	return "egress"
}

// Routes returns the route configurations of a view.
func Routes(plan traffic.Plan, v View) []*routev3.RouteConfiguration {
	intents := Intents(plan, v)
	if v.GRPC {
		var all []*routev3.RouteConfiguration
		for _, in := range intents {
			for _, host := range targets(in) {
				all = append(all, &routev3.RouteConfiguration{
					Name:         host,
					VirtualHosts: []*routev3.VirtualHost{{Name: in.Service, Domains: []string{"*"}, Routes: routes(in, v)}},
				})
			}
		}
		return all
	}
	config := &routev3.RouteConfiguration{Name: v.RouteName(), IgnorePortInHostMatching: true}
	for _, in := range intents {
		config.VirtualHosts = append(config.VirtualHosts, &routev3.VirtualHost{
			Name: in.Service, Domains: in.Hosts, Routes: routes(in, v),
		})
	}
	return []*routev3.RouteConfiguration{config}
}

// targets are the hosts that a gRPC client can dial: it asks for a listener by its whole name.
func targets(in traffic.Intent) []string {
	return slices.DeleteFunc(slices.Clone(in.Hosts), func(host string) bool { return strings.HasPrefix(host, "*") })
}

// routes of one service, in the order in which they are tried: testers, users with a cookie, everybody.
func routes(in traffic.Intent, v View) []*routev3.Route {
	var all []*routev3.Route
	if in.TesterHeader != "" {
		all = testers(in, v)
	}
	if in.StickyCookie == "" || in.Canary == nil || v.GRPC { // gRPC clients split at random
		return append(all, mirrored(in, v, split(in, v))...)
	}
	known, fresh := split(in, v), split(in, v)
	known.Match.Headers = []*routev3.HeaderMatcher{{
		Name: "cookie",
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{
				Regex: `(.*;\s*)?` + regexp.QuoteMeta(in.StickyCookie) + `=[^;]+(;.*)?`,
			}},
		}},
	}}
	known.GetRoute().HashPolicy = []*routev3.RouteAction_HashPolicy{{
		PolicySpecifier: &routev3.RouteAction_HashPolicy_Cookie_{Cookie: &routev3.RouteAction_HashPolicy_Cookie{Name: in.StickyCookie}},
	}}
	// A new user is known by the request's id, which becomes the cookie: the version of the first answer is that of the next.
	fresh.GetRoute().HashPolicy = headerHash("x-request-id")
	fresh.ResponseHeadersToAdd = []*corev3.HeaderValueOption{{
		Header:       &corev3.HeaderValue{Key: "set-cookie", Value: cookie(in.StickyCookie, in.CookieTTL)},
		AppendAction: corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD,
	}}
	return append(append(all, mirrored(in, v, known)...), mirrored(in, v, fresh)...)
}

func cookie(name string, ttl time.Duration) string {
	c := name + "=%REQ(x-request-id)%; Path=/; HttpOnly; SameSite=Lax"
	if ttl > 0 {
		c += "; Max-Age=" + strconv.FormatInt(int64(ttl/time.Second), 10)
	}
	return c
}

// testers are the routes of requests that name a version. The canary's is there only as long as the layer, or for clients
// without one the plan, lets testers in; what it names is the arm, so that net and time limits hold for testers too.
func testers(in traffic.Intent, v View) []*routev3.Route {
	named := func(version, cluster string) *routev3.Route {
		action := action(in, v)
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: cluster}
		return &routev3.Route{
			Match: &routev3.RouteMatch{
				PathSpecifier: everyPath(),
				Headers: []*routev3.HeaderMatcher{{
					Name: in.TesterHeader,
					HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
						MatchPattern: &matcherv3.StringMatcher_Exact{Exact: version},
					}},
				}},
			},
			Action: &routev3.Route_Route{Route: action},
		}
	}
	stable := StableCluster(in.Service, in.Stable.Version)
	if v.failsOver(in) && in.Failover.Admit >= traffic.Whole { // one route has no part to admit: it is all or nothing
		stable = EverywhereCluster(in.Service, in.Stable.Version)
	}
	all := []*routev3.Route{named(in.Stable.Version, stable)}
	if in.Canary == nil || v.Weights == InRoutes && !in.Testers {
		return all
	}
	canary := named(in.Canary.Version, v.target(in))
	if v.Weights == InLayer {
		canary.Match.RuntimeFraction = &corev3.RuntimeFractionalPercent{
			DefaultValue: &typev3.FractionalPercent{Denominator: typev3.FractionalPercent_TEN_THOUSAND},
			RuntimeKey:   testersKey(in.Service),
		}
	}
	return append(all, canary)
}

func headerHash(name string) []*routev3.RouteAction_HashPolicy {
	return []*routev3.RouteAction_HashPolicy{{
		PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: name}},
	}}
}

func everyPath() *routev3.RouteMatch_Prefix { return &routev3.RouteMatch_Prefix{Prefix: "/"} }

// action is what the routes of a service have in common: its time limit, and while there is a canary the retry that takes
// a failed try of a retriable request to stable.
func action(in traffic.Intent, v View) *routev3.RouteAction {
	a := &routev3.RouteAction{Timeout: durationpb.New(in.Timeout)}
	if v.GRPC && in.Timeout > 0 {
		// gRPC clients know the limit by this field only.
		a.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(in.Timeout)}
	}
	if v.GRPC || in.Canary == nil || len(in.RetryOn) == 0 || len(in.RetryMethods) == 0 {
		return a
	}
	a.RetryPolicy = &routev3.RetryPolicy{
		RetryOn:    strings.Join(in.RetryOn, ","),
		NumRetries: wrapperspb.UInt32(tries - 1),
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(time.Millisecond), MaxInterval: durationpb.New(10 * time.Millisecond),
		},
		// The arm's priorities are the canary's and then stable's. Without this a try would be made again on the canary.
		RetryPriority: &routev3.RetryPolicy_RetryPriority{
			Name: "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{
				TypedConfig: packed(&previousv3.PreviousPrioritiesConfig{UpdateFrequency: 1}),
			},
		},
	}
	for _, method := range in.RetryMethods {
		a.RetryPolicy.RetriableRequestHeaders = append(a.RetryPolicy.RetriableRequestHeaders, &routev3.HeaderMatcher{
			Name: ":method",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Exact{Exact: method},
			}},
		})
	}
	return a
}
