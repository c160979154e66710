package bootstrap

import (
	"path/filepath"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The names of the secrets, and of the files in TLS.SecretsDir that hold them.
const (
	certificateSecret = "aviary-certificate"
	authoritySecret   = "aviary-authority"
)

// KeepAlive is how often a proxy pings its control plane; after KeepAlive + KeepAliveTimeout without an answer it takes it
// for dead. A gRPC server must allow it (keepalive.EnforcementPolicy, MinTime below KeepAlive): grpc-go's default closes the
// connection of a client that pings more often than every five minutes, again and again.
const (
	KeepAlive        = 3 * time.Second
	KeepAliveTimeout = 2 * time.Second
)

// controlPlanes is one cluster with a priority for each server. One failure of a server (refused, reset, no answer to a
// keep-alive) moves the streams to the next one; it is tried again after some seconds.
func controlPlanes(servers []server, t *TLS) ([]*clusterv3.Cluster, error) {
	discovery := clusterv3.Cluster_STATIC
	load := &endpointv3.ClusterLoadAssignment{ClusterName: cluster}
	for i, s := range servers {
		if !s.ip {
			discovery = clusterv3.Cluster_STRICT_DNS
		}
		load.Endpoints = append(load.Endpoints, &endpointv3.LocalityLbEndpoints{
			Priority: uint32(i),
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: socket(s)},
			}}},
		})
	}
	protocol, err := packed(&upstreamhttpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{ConnectionKeepalive: &corev3.KeepaliveSettings{
						Interval: durationpb.New(KeepAlive), Timeout: durationpb.New(KeepAliveTimeout),
					}},
				},
			},
		},
	})
	if err != nil {
		return nil, err
	}
	c := &clusterv3.Cluster{
		Name:                          cluster,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: discovery},
		ConnectTimeout:                durationpb.New(time.Second),
		LoadAssignment:                load,
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
		OutlierDetection: &clusterv3.OutlierDetection{
			// Connections that fail or break and UNAVAILABLE; a server that refuses this proxy is no dead one.
			ConsecutiveGatewayFailure:          wrapperspb.UInt32(1),
			EnforcingConsecutiveGatewayFailure: wrapperspb.UInt32(100),
			EnforcingConsecutive_5Xx:           wrapperspb.UInt32(0),
			EnforcingSuccessRate:               wrapperspb.UInt32(0),
			Interval:                           durationpb.New(time.Second),
			BaseEjectionTime:                   durationpb.New(5 * time.Second),
			MaxEjectionTime:                    durationpb.New(30 * time.Second),
			MaxEjectionPercent:                 wrapperspb.UInt32(100),
		},
	}
	if t != nil {
		if c.TransportSocket, err = transportSocket(t); err != nil {
			return nil, err
		}
	}
	return []*clusterv3.Cluster{c}, nil
}

func transportSocket(t *TLS) (*corev3.TransportSocket, error) {
	common := &tlsv3.CommonTlsContext{
		AlpnProtocols: []string{"h2"},
		TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
	}
	match := t.serverMatch()
	if t.SecretsDir == "" {
		common.TlsCertificates = []*tlsv3.TlsCertificate{t.certificate()}
		validation := t.authority()
		validation.MatchTypedSubjectAltNames = match
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: validation}
	} else {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{t.secret(certificateSecret)}
		common.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: match},
				ValidationContextSdsSecretConfig: t.secret(authoritySecret),
			},
		}
	}
	context := &tlsv3.UpstreamTlsContext{CommonTlsContext: common}
	if !strings.Contains(t.Server, "://") {
		context.Sni = t.Server
	}
	config, err := packed(context)
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config},
	}, nil
}

// Secrets are the files that TLS.SecretsDir must hold before Envoy starts, by name. None when it is "".
func Secrets(o Options) (map[string][]byte, error) {
	if _, err := o.check(); err != nil {
		return nil, err
	}
	if o.TLS == nil || o.TLS.SecretsDir == "" {
		return nil, nil
	}
	certificate, authority := o.TLS.certificate(), o.TLS.authority()
	certificate.WatchedDirectory = &corev3.WatchedDirectory{Path: filepath.Dir(o.TLS.Certificate)}
	authority.WatchedDirectory = &corev3.WatchedDirectory{Path: filepath.Dir(o.TLS.Authority)}
	out := map[string][]byte{}
	for _, secret := range []*tlsv3.Secret{
		{Name: certificateSecret, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: certificate}},
		{Name: authoritySecret, Type: &tlsv3.Secret_ValidationContext{ValidationContext: authority}},
	} {
		resource, err := packed(secret)
		if err != nil {
			return nil, err
		}
		if out[secret.Name+".json"], err = encode(&discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{resource}}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (t *TLS) secret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ResourceApiVersion: corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{
			PathConfigSource: &corev3.PathConfigSource{Path: filepath.Join(t.SecretsDir, name+".json")},
		},
	}}
}

func (t *TLS) certificate() *tlsv3.TlsCertificate {
	return &tlsv3.TlsCertificate{CertificateChain: file(t.Certificate), PrivateKey: file(t.Key)}
}

func (t *TLS) authority() *tlsv3.CertificateValidationContext {
	return &tlsv3.CertificateValidationContext{TrustedCa: file(t.Authority)}
}

func (t *TLS) serverMatch() []*tlsv3.SubjectAltNameMatcher {
	kind := tlsv3.SubjectAltNameMatcher_DNS
	if strings.Contains(t.Server, "://") {
		kind = tlsv3.SubjectAltNameMatcher_URI
	}
	return []*tlsv3.SubjectAltNameMatcher{{SanType: kind, Matcher: &matcherv3.StringMatcher{
		MatchPattern: &matcherv3.StringMatcher_Exact{Exact: t.Server},
	}}}
}

func file(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}
