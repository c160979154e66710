package ads

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

var fanoutStreams = flag.Int("fanout.streams", 1000, "streams of BenchmarkFanout, each on a connection of its own")

// BenchmarkFanout measures one change of a view with many loopback streams: from its publish until the last client has it.
// The clients run in the same process, and their work is in the figures.
func BenchmarkFanout(b *testing.B) {
	const resources = 1000
	for _, c := range []struct {
		name  string
		names int // subscribed endpoints; 0: all clusters by wildcard
		layer bool
	}{{name: "wildcard"}, {name: "50names", names: 50}, {name: "kill", layer: true}} {
		b.Run(fmt.Sprintf("%s/streams=%d", c.name, *fanoutStreams), func(b *testing.B) {
			fanout(b, *fanoutStreams, resources, c.names, c.layer)
		})
	}
}

func fanout(b *testing.B, streams, resources, names int, asLayer bool) {
	s := New(Config{Identify: byNode, Debounce: -1})
	gs := grpc.NewServer(s.Options()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(gs, s)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = gs.Serve(lis) }()
	base := make([]*Resource, resources)
	kind := "static"
	if names > 0 {
		kind = "eds"
	}
	for i := range base {
		base[i] = res(fmt.Sprintf("%s:c%04d=1", kind, i))
	}
	s.Publish("v", must(NewSnapshot(base...)), Routine)
	if err := s.PublishLayer("v", layerOf(0, map[string]any{"k": 0})); err != nil {
		b.Fatal(err)
	}
	var have atomic.Int64
	var clients sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{}, streams)
	before := heap()
	for i := range streams {
		conn, err := grpc.NewClient("passthrough:///"+lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithReadBufferSize(2<<10), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(nonceCodec{encoding.GetCodecV2("proto")})))
		if err != nil {
			b.Fatal(err)
		}
		clients.Go(func() {
			defer conn.Close()
			req := &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: fmt.Sprint(i), UserAgentName: "envoy"}, TypeUrl: Cluster.URL()}
			switch {
			case asLayer:
				req.TypeUrl, req.ResourceNamesSubscribe = Runtime.URL(), []string{"aviary"}
			case names > 0:
				req.TypeUrl = Endpoint.URL()
				for j := range names {
					req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, base[j].Name())
				}
			}
			st, err := conn.NewStream(ctx, &discoveryv3.AggregatedDiscoveryService_ServiceDesc.Streams[1],
				discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName)
			if err == nil {
				err = st.SendMsg(req)
			}
			for n := 0; err == nil; n++ {
				var nonce string
				if err = st.RecvMsg(&nonce); err != nil {
					break
				}
				if n == 0 {
					ready <- struct{}{}
				} else {
					have.Add(1)
				}
				err = st.SendMsg(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: req.TypeUrl, ResponseNonce: nonce})
			}
			if ctx.Err() == nil && !errors.Is(err, io.EOF) {
				b.Error(err)
			}
		})
	}
	for range streams {
		<-ready
	}
	resident := float64(heap()-before) / float64(streams)
	settled := func() bool {
		for _, p := range s.Proxies() {
			for _, t := range p.Types {
				if t.State != Unasked && t.State != Synced {
					return false
				}
			}
		}
		return true
	}
	var blocked time.Duration
	have.Store(0)
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		b.StopTimer()
		for !settled() {
			time.Sleep(time.Millisecond)
		}
		base[0] = res(fmt.Sprintf("%s:c0000=%0*d", kind, n+2, 7))
		next := must(NewSnapshot(base...))
		b.StartTimer()
		start := time.Now()
		if asLayer {
			if err := s.PublishLayer("v", layerOf(0, map[string]any{"k": n + 1})); err != nil {
				b.Fatal(err)
			}
		} else {
			s.Publish("v", next, Routine)
		}
		blocked += time.Since(start)
		for have.Load() < int64(streams)*int64(n+1) {
			time.Sleep(100 * time.Microsecond)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(blocked.Microseconds())/float64(b.N), "publisher-µs/op")
	b.ReportMetric(resident/1024, "KB/stream(both-ends)")
	if asLayer {
		k := s.Stats().Kill
		b.ReportMetric(float64(k.Quantile(.5).Microseconds())/1000, "ACK-p50-ms")
		b.ReportMetric(float64(k.Quantile(.99).Microseconds())/1000, "ACK-p99-ms")
		b.ReportMetric(float64(k.Max.Microseconds())/1000, "ACK-max-ms")
	}
	cancel()
	clients.Wait()
	gs.Stop()
	s.Close()
	<-served
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// nonceCodec reads nothing but the nonce of a response, so that the clients weigh little in the figures.
type nonceCodec struct{ encoding.CodecV2 }

func (nonceCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b := data.Materialize()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if num == fieldNonce && typ == protowire.BytesType {
			nonce, _ := protowire.ConsumeString(b)
			*v.(*string) = nonce
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
	}
	return nil
}
