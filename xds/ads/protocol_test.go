package ads

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type opener = func(r *rig, node *corev3.Node) *peer

func TestFirstAnswers(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{})
		r.Publish("v", snap("cds:a", "cds:b", "eds:a", "eds:b", "lds:l", "rds:r"), Routine)
		p := open(r, node("p"))
		p.subscribe(Cluster)
		p.accept("CDS +a,b")
		p.subscribe(Endpoint, "a", "b")
		p.accept("EDS +a,b")
		p.subscribe(Listener)
		p.accept("LDS +l")
		p.subscribe(Route, "r")
		p.accept("RDS +r")
		for _, s := range r.status("p").Types[:4] {
			if s.State != Synced || s.Acked == "" || s.Acked != s.Sent || s.Acked != s.Intended {
				t.Errorf("%+v", s)
			}
		}
	})
}

func TestStreamWaitsForTheFirstPublish(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{})
		p := open(r, node("p"))
		p.subscribe(Cluster)
		p.subscribe(Runtime, "aviary")
		p.expect()
		if s := r.status("p").Types[Cluster]; s.State != Waiting {
			t.Errorf("%+v", s)
		}
		r.Publish("v", snap("static:a"), Routine)
		p.accept("CDS +a")
		r.layer(layerOf(0, nil))
		p.accept("RTDS +aviary")
	})
}

func TestMissingNamesAreAnswered(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("eds:a"), Routine)
		p := open(r, node("p"))
		p.subscribe(Endpoint, "a", "none")
		p.accept(p.either("EDS +a -none", "EDS +a"))
		p.subscribe(Endpoint, "never") // the first EDS of a cluster is answered, even if with nothing
		p.accept(p.either("EDS + -never", "EDS +"))
		r.Publish("v", snap("eds:a", "eds:none"), Routine)
		p.accept("EDS +none")
		p.subscribe(Route, "r")
		p.accept(p.either("RDS + -r", "RDS +"))
		p.subscribe(Cluster, "c")
		p.accept(p.either("CDS + -c", "CDS +"))
	})
}

func TestAnEmptyWildcardIsAnswered(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{})
		r.Publish("v", snap(), Routine)
		p := open(r, node("p"))
		p.subscribe(Cluster)
		p.accept("CDS +")
	})
}

func TestFullSetsAndDifferences(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("static:a=1", "static:b=1", "eds:x=1", "eds:y=1"), Routine)
		p := open(r, node("p"))
		p.subscribe(Cluster)
		p.accept("CDS +a,b")
		p.subscribe(Endpoint, "x", "y")
		p.accept("EDS +x,y")
		r.Publish("v", snap("static:a=22", "static:b=1", "eds:x=22", "eds:y=1"), Routine)
		p.accept(p.either("CDS +a", "CDS +a,b"), "EDS +x")
		r.Publish("v", snap("static:a=22", "eds:x=22", "eds:y=1"), Routine)
		p.accept(p.either("CDS + -b", "CDS +a"))
		r.Publish("v", snap("static:a=22", "eds:x=22", "eds:y=1"), Routine)
		p.expect() // equal content is no news
	})
}

func TestResubscribingResends(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{})
		r.Publish("v", snap("eds:a", "eds:b"), Routine)
		p := open(r, node("p"))
		p.subscribe(Endpoint, "a", "b")
		p.accept("EDS +a,b")
		p.unsubscribe(Endpoint, "a")
		p.expect()
		p.subscribe(Endpoint, "a")
		p.accept("EDS +a")
		if p.transport == Delta {
			p.subscribe(Endpoint, "b") // while subscribed
			p.accept("EDS +b")
		}
	})
}

func TestUnsubscribedIsNotSent(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("eds:a=1", "eds:b=1"), Routine)
		p := open(r, node("p"))
		p.subscribe(Endpoint, "a", "b")
		p.accept("EDS +a,b")
		p.unsubscribe(Endpoint, "a", "b")
		p.expect()
		r.Publish("v", snap("eds:a=22"), Routine)
		p.expect()
	})
}

func TestWildcards(t *testing.T) {
	open := func(t *testing.T, transport Transport, agent string) (*rig, *peer) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("static:a", "static:b", "eds:a", "rds:r", "lds:l"), Routine)
		return r, r.dial(transport, &corev3.Node{Id: "p", UserAgentName: agent})
	}
	for _, transport := range []Transport{Delta, Sotw} {
		for name, run := range map[string]func(t *testing.T, r *rig, p *peer){
			"star": func(t *testing.T, r *rig, p *peer) {
				p.subscribe(Cluster, "*")
				p.accept("CDS +a,b")
				r.Publish("v", snap("static:a", "static:b", "static:c"), Routine)
				p.accept(p.either("CDS +c", "CDS +a,b,c"))
			},
			"star and names": func(t *testing.T, r *rig, p *peer) {
				p.subscribe(Cluster, "*", "a", "none")
				p.accept(p.either("CDS +a,b -none", "CDS +a,b"))
			},
			"a name, then the star": func(t *testing.T, r *rig, p *peer) {
				p.subscribe(Cluster, "a")
				p.accept("CDS +a")
				p.subscribe(Cluster, "*")
				p.accept("CDS +a,b")
				p.unsubscribe(Cluster, "*") // a stays subscribed
				p.expect()
				r.Publish("v", snap("static:a=22", "static:b=22"), Routine)
				p.accept("CDS +a")
			},
			"the legacy wildcard is for listeners and clusters only": func(t *testing.T, r *rig, p *peer) {
				p.subscribe(Listener)
				p.accept("LDS +l")
				p.subscribe(Endpoint)
				p.subscribe(Route)
				p.subscribe(Runtime)
				p.expect()
			},
		} {
			t.Run(string(transport)+"/"+name, func(t *testing.T) {
				in(t, func(t *testing.T) { r, p := open(t, transport, "envoy"); run(t, r, p) })
			})
		}
		t.Run(string(transport)+"/gRPC never means the legacy wildcard", func(t *testing.T) {
			in(t, func(t *testing.T) {
				_, p := open(t, transport, "gRPC Go")
				p.subscribe(Cluster)
				p.expect()
				p.subscribe(Cluster, "b")
				p.accept("CDS +b")
			})
		})
	}
	t.Run("sotw/naming nothing after naming something means nothing", func(t *testing.T) {
		in(t, func(t *testing.T) {
			r, p := open(t, Sotw, "envoy")
			p.subscribe(Cluster, "a")
			p.accept("CDS +a")
			p.unsubscribe(Cluster, "a")
			p.expect()
			r.Publish("v", snap("static:a=22"), Routine)
			p.expect()
		})
	})
	t.Run("delta/names after the legacy wildcard do not end it", func(t *testing.T) {
		in(t, func(t *testing.T) {
			r, p := open(t, Delta, "envoy")
			p.subscribe(Cluster)
			p.accept("CDS +a,b")
			p.subscribe(Cluster, "a", "none")
			p.accept("CDS +a -none")
			r.Publish("v", snap("static:a", "static:b=22"), Routine)
			p.accept("CDS +b")
		})
	})
	t.Run("delta/unsubscribing a name under the wildcard is answered", func(t *testing.T) {
		in(t, func(t *testing.T) {
			_, p := open(t, Delta, "envoy")
			p.subscribe(Cluster, "*", "a", "none")
			p.accept("CDS +a,b -none")
			p.unsubscribe(Cluster, "a", "none")
			p.accept("CDS +a -none")
		})
	})
	t.Run("delta/an old Envoy names what it has of a wildcard", func(t *testing.T) {
		in(t, func(t *testing.T) {
			r, _ := open(t, Delta, "envoy")
			p := r.dial(Delta, envoyOld("old"))
			p.request(Cluster, []string{"a"}, nil, map[string]string{"a": res("static:a").Version()})
			p.accept("CDS +b")
		})
	})
}

func TestReconnect(t *testing.T) {
	in(t, func(t *testing.T) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("cds:a", "cds:b=1", "eds:a", "eds:b", "lds:l", "rds:r"), Routine)
		p := r.dial(Delta, node("p"))
		has := func(specs ...string) map[string]string {
			m := map[string]string{}
			for _, s := range specs {
				m[res(s).Name()] = res(s).Version()
			}
			return m
		}
		// It has everything: silence. It has b of old, and something that is gone: b, b's endpoints, and the removal last.
		p.request(Endpoint, []string{"a", "b", "gone"}, nil, has("eds:a", "eds:b", "eds:gone"))
		p.request(Listener, nil, nil, has("lds:l"))
		p.request(Route, []string{"r"}, nil, has("rds:r"))
		p.accept("EDS + -gone")
		p.expect()
		p.request(Cluster, nil, nil, has("cds:a", "cds:b=old", "cds:gone"))
		p.accept("CDS +b", "EDS +b")
		p.accept("CDS + -gone")
		p.expect()
		if s := r.status("p").Types[Listener]; s.State != Synced {
			t.Errorf("%+v", s)
		}
	})
}

func TestStaleNonces(t *testing.T) {
	t.Run("sotw drops them", func(t *testing.T) {
		in(t, func(t *testing.T) {
			r := newRig(t, Config{Debounce: -1})
			r.Publish("v", snap("eds:a=1", "eds:b"), Routine)
			p := r.dial(Sotw, node("p"))
			p.subscribe(Endpoint, "a")
			first := p.accept("EDS +a")[0]
			r.Publish("v", snap("eds:a=22", "eds:b"), Routine)
			second := p.expect("EDS +a")[0]
			p.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: Endpoint.URL(), ResourceNames: []string{"a", "b"}, ResponseNonce: first.Nonce})
			p.expect()
			if s := r.status("p").Types[Endpoint]; s.Names != 1 || s.State != Stale {
				t.Errorf("%+v", s)
			}
			p.names[Endpoint] = []string{"a", "b"}
			p.ack(second)
			p.accept("EDS +b")
		})
	})
	t.Run("delta counts their subscriptions", func(t *testing.T) {
		in(t, func(t *testing.T) {
			r := newRig(t, Config{})
			r.Publish("v", snap("eds:a", "eds:b"), Routine)
			p := r.dial(Delta, node("p"))
			p.subscribe(Endpoint, "a")
			p.accept("EDS +a")
			p.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Endpoint.URL(), ResponseNonce: "stale", ResourceNamesSubscribe: []string{"b"}})
			p.accept("EDS +b")
		})
	})
}

func TestStateOfTheWorldStartsOver(t *testing.T) {
	in(t, func(t *testing.T) {
		r := newRig(t, Config{})
		r.Publish("v", snap("eds:a"), Routine)
		p := r.dial(Sotw, node("p"))
		p.subscribe(Endpoint, "a")
		p.accept("EDS +a")
		p.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: Endpoint.URL(), ResourceNames: []string{"a"}})
		p.accept("EDS +a")
	})
}

func TestIdentity(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{})
		p := open(r, node("stranger"))
		p.subscribe(Cluster)
		if s := status.Convert(p.ended()); s.Code() != codes.PermissionDenied || s.Message() != "region of the certificate is eu, claimed is us" {
			t.Error(s)
		}
		p = open(r, node("")) // identified as nobody
		p.subscribe(Cluster)
		if s := status.Convert(p.ended()); s.Code() != codes.PermissionDenied {
			t.Error(s)
		}
		if n := r.Stats().Refused; n != 2 {
			t.Error(n)
		}
	})
}

func TestViewsAreSeparate(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("static:a"), Routine)
		r.Publish("w", snap("static:b"), Routine)
		p, q := open(r, node("p")), open(r, &corev3.Node{Id: "q", Cluster: "w"})
		p.subscribe(Cluster)
		q.subscribe(Cluster)
		p.accept("CDS +a")
		q.accept("CDS +b")
		r.Publish("w", snap("static:c"), Urgent)
		p.expect()
	})
}

func TestMalformedRequests(t *testing.T) {
	for name, req := range map[string]struct {
		delta *discoveryv3.DeltaDiscoveryRequest
		sotw  *discoveryv3.DiscoveryRequest
		want  string
	}{
		"no type": {
			&discoveryv3.DeltaDiscoveryRequest{}, &discoveryv3.DiscoveryRequest{}, "ads: a request has no type_url"},
		"empty name": {
			&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Route.URL(), ResourceNamesSubscribe: []string{""}},
			&discoveryv3.DiscoveryRequest{TypeUrl: Route.URL(), ResourceNames: []string{""}},
			"ads: a RDS request names a resource with an empty name"},
		"locators": {
			&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Route.URL(), ResourceLocatorsSubscribe: []*discoveryv3.ResourceLocator{{}}},
			&discoveryv3.DiscoveryRequest{TypeUrl: Route.URL(), ResourceLocators: []*discoveryv3.ResourceLocator{{}}},
			"ads: resource locators are not served"},
	} {
		t.Run(name, func(t *testing.T) {
			inBoth(t, func(t *testing.T, open opener) {
				r := newRig(t, Config{})
				p := open(r, node("p"))
				if p.transport == Delta {
					p.sendDelta(req.delta)
				} else {
					p.sendSotw(req.sotw)
				}
				if s := status.Convert(p.ended()); s.Code() != codes.InvalidArgument || s.Message() != req.want {
					t.Error(s)
				}
			})
		})
	}
}

func TestUnservedTypesAreShown(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{})
		r.Publish("v", snap("static:a"), Routine)
		p := open(r, node("p"))
		const url = urlPrefix + "envoy.extensions.transport_sockets.tls.v3.Secret"
		if p.transport == Delta {
			p.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: []string{"s"}})
		} else {
			p.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: url, ResourceNames: []string{"s"}})
		}
		p.subscribe(Cluster)
		p.accept("CDS +a")
		if s := r.status("p"); len(s.Unserved) != 1 || s.Unserved[0] != url {
			t.Error(s.Unserved)
		}
	})
}

func TestXdstpNamesAreNormalised(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{})
		const name = "xdstp://a/t/x?b=2&a=1#f"
		r.Publish("v", must(NewSnapshot(must(NewResource(name, &endpointv3.ClusterLoadAssignment{ClusterName: name})))), Routine)
		p := open(r, node("p"))
		p.subscribe(Endpoint, "xdstp://a/t/x?a=1&b=2#f")
		synced := p.drain()
		if len(synced) != 1 || len(synced[0].Names) != 1 || synced[0].Names[0] != "xdstp://a/t/x?b=2&a=1#f" {
			t.Fatal(synced)
		}
	})
}

func TestGRPCServerWithoutOptionsSaysSo(t *testing.T) {
	s := New(Config{Identify: byNode})
	defer s.Close()
	err := s.serve(bareStream{}, Delta, nil, nil)
	if status.Code(err) != codes.Internal {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{})
		r.Publish("v", snap("static:a"), Routine)
		p, silent := open(r, node("p")), open(r, node("q")) // q never says who it is
		p.subscribe(Cluster)
		p.accept("CDS +a")
		r.Publish("v", snap("static:b"), Routine) // still in its debounce
		r.Close()
		r.Close()
		for _, p := range []*peer{p, silent} {
			if s := status.Convert(p.ended()); s.Code() != codes.Canceled {
				t.Error(s)
			}
		}
		late := open(r, node("late"))
		late.subscribe(Cluster)
		if s := status.Convert(late.ended()); s.Code() != codes.Unavailable {
			t.Error(s)
		}
		r.Publish("v", snap("static:c"), Urgent)
		r.Publish("new", snap("static:c"), Routine)
		r.Renew("p")
	})
}

func TestTwoStreamsOfOneProxy(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("static:a=1"), Routine)
		old := open(r, node("p"))
		old.subscribe(Cluster)
		old.accept("CDS +a")
		time.Sleep(time.Second)
		young := open(r, node("p"))
		young.subscribe(Cluster)
		young.expect("CDS +a")
		r.Publish("v", snap("static:a=22"), Routine)
		old.accept("CDS +a")
		s := r.status("p")
		if s.Streams != 2 || s.Types[Cluster].State != Stale || len(r.Proxies()) != 1 {
			t.Errorf("%+v", s) // the newest stream has not answered yet
		}
		young.cancel()
		if s := r.status("p"); s.Streams != 1 || s.Types[Cluster].State != Synced {
			t.Errorf("%+v", s)
		}
	})
}

func TestNamesAreBounded(t *testing.T) {
	in(t, func(t *testing.T) {
		r := newRig(t, Config{})
		p := r.dial(Delta, node("p"))
		for i := range 3 {
			names := make([]string, maxNames/2)
			for j := range names {
				names[j] = fmt.Sprint(i, ".", j)
			}
			p.subscribe(Endpoint, names...)
		}
		if s := status.Convert(p.ended()); s.Code() != codes.ResourceExhausted {
			t.Error(s)
		}
	})
}

// bareStream is a gRPC stream of a server that was built without Options.
type bareStream struct {
	discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
}

func (bareStream) Context() context.Context { return context.Background() }
