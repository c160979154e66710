package resource

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// Listeners returns the listeners of a view: one, on loopback for a sidecar and on every address for a gateway, or one
// without an address for each host that a gRPC client may dial.
func Listeners(plan traffic.Plan, v View) []*listenerv3.Listener {
	if v.GRPC {
		var all []*listenerv3.Listener
		for _, in := range Intents(plan, v) {
			for _, host := range targets(in) {
				all = append(all, &listenerv3.Listener{Name: host, ApiListener: &listenerv3.ApiListener{
					ApiListener: packed(manager(host, &routerv3.Router{})),
				}})
			}
		}
		return all
	}
	address, port, direction := "127.0.0.1", v.Port, corev3.TrafficDirection_OUTBOUND
	if port == 0 {
		port = DefaultPort
	}
	if v.Gateway {
		address, direction = "0.0.0.0", corev3.TrafficDirection_INBOUND
		if v.Port == 0 {
			port = DefaultGatewayPort
		}
	}
	// Every try is counted where it was made, with the version that it met.
	m := manager(v.RouteName(), &routerv3.Router{UpstreamLog: TryLogs(), SuppressEnvoyHeaders: true})
	m.AccessLog = []*accesslogv3.AccessLog{RequestLog()}
	m.ServerHeaderTransformation = hcmv3.HttpConnectionManager_PASS_THROUGH
	m.NormalizePath = wrapperspb.Bool(v.Gateway)
	m.UseRemoteAddress = wrapperspb.Bool(v.Gateway)
	return []*listenerv3.Listener{{
		Name:             v.RouteName(),
		TrafficDirection: direction,
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}},
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(m)},
		}}}},
	}}
}

func manager(route string, router *routerv3.Router) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: route,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: overADS(), RouteConfigName: route,
		}},
		HttpFilters: []*hcmv3.HttpFilter{{
			Name:       "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(router)},
		}},
	}
}
