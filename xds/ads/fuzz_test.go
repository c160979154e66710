package ads

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// fuzzStream is a stream without gRPC whose pushers are the test itself: what is due is sent before the next request.
func fuzzStream(s *Server, transport Transport) *stream {
	st := &stream{srv: s, transport: transport, delta: transport == Delta, cancel: func() {}, send: func(*frame) error { return nil }}
	if err := s.identify(context.Background(), st, &corev3.Node{Id: "p"}); err != nil {
		panic(err)
	}
	return st
}

// drive feeds requests and checks that each answer decodes, and that no type has more unanswered responses than allowed.
func drive[M proto.Message](t *testing.T, transport Transport, data []byte, blank func() M, request func(*stream, M) error, answer func() proto.Message) {
	s := newServer(Config{Identify: byNode, Debounce: -1})
	defer s.Close()
	s.Publish("v", snap("cds:a", "cds:b", "eds:a", "lds:l", "rds:r"), Routine)
	if err := s.PublishLayer("v", layerOf(time.Second, map[string]any{"k": 1})); err != nil {
		t.Fatal(err)
	}
	st := fuzzStream(s, transport)
	st.send = func(f *frame) error {
		m := answer()
		if err := proto.Unmarshal(f.bufs.Materialize(), m); err != nil {
			t.Errorf("sent what does not decode: %v", err)
		}
		return nil
	}
	defer s.disconnect(st)
	defer st.retire()
	// The bytes are a sequence of requests, each after its length.
	for n := 0; len(data) > 0; n++ {
		size := min(int(data[0]), len(data)-1)
		req := blank()
		if proto.Unmarshal(data[1:1+size], req) == nil {
			if request(st, req) != nil {
				return
			}
		}
		data = data[1+size:]
		if n%3 == 1 {
			s.Publish("v", snap("cds:a="+fmt.Sprint(n), "eds:a", "eds:b", "lds:l="+fmt.Sprint(n)), Urgency(n%2))
			s.Renew("p")
		}
		st.turn(kill)
		st.turn(routine)
		st.mu.Lock()
		for i := range st.watches {
			if len(st.watches[i].flight) > urgentRoom {
				t.Errorf("%d unanswered %s responses", len(st.watches[i].flight), Type(i))
			}
		}
		st.mu.Unlock()
		st.status(time.Now())
	}
}

func seeds(f *testing.F, messages ...proto.Message) {
	var all []byte
	for _, m := range messages {
		b := must(proto.Marshal(m))
		all = append(append(all, byte(len(b))), b...)
	}
	f.Add(all)
	f.Add([]byte{})
	f.Add([]byte{3, 0xff, 0xff, 0xff})
}

func FuzzDelta(f *testing.F) {
	var all []proto.Message
	for _, typ := range Types() {
		all = append(all,
			&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ.URL(), InitialResourceVersions: map[string]string{"a": "1"}},
			&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ.URL(), ResourceNamesSubscribe: []string{"*", "a", "aviary"}, ResponseNonce: "1"},
			&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ.URL(), ResourceNamesUnsubscribe: []string{"*", "a"}, ResponseNonce: "2"})
	}
	seeds(f, all...)
	f.Fuzz(func(t *testing.T, data []byte) {
		drive(t, Delta, data, func() *discoveryv3.DeltaDiscoveryRequest { return new(discoveryv3.DeltaDiscoveryRequest) },
			func(st *stream, r *discoveryv3.DeltaDiscoveryRequest) error { return st.deltaRequest(r, time.Now()) },
			func() proto.Message { return new(discoveryv3.DeltaDiscoveryResponse) })
	})
}

func FuzzSotw(f *testing.F) {
	var all []proto.Message
	for _, typ := range Types() {
		all = append(all,
			&discoveryv3.DiscoveryRequest{TypeUrl: typ.URL()},
			&discoveryv3.DiscoveryRequest{TypeUrl: typ.URL(), ResourceNames: []string{"*", "a", "aviary"}, ResponseNonce: "1"},
			&discoveryv3.DiscoveryRequest{TypeUrl: typ.URL(), ResourceNames: []string{"b"}, ResponseNonce: "2"})
	}
	seeds(f, all...)
	f.Fuzz(func(t *testing.T, data []byte) {
		drive(t, Sotw, data, func() *discoveryv3.DiscoveryRequest { return new(discoveryv3.DiscoveryRequest) },
			func(st *stream, r *discoveryv3.DiscoveryRequest) error { return st.sotwRequest(r, time.Now()) },
			func() proto.Message { return new(discoveryv3.DiscoveryResponse) })
	})
}
