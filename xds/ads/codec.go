package ads

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

const wildcard = "*"

// Field numbers of envoy.service.discovery.v3 and google.protobuf.Any. Resources are field 2 of both responses, and the
// Any is field 2 of the wrapper Resource: that is why one encoding serves both variants.
const (
	fieldResources = 2

	fieldTypeURL     = 4
	fieldNonce       = 5
	fieldVersion     = 1 // version_info, system_version_info, Resource.version
	fieldRemoved     = 6
	fieldWrapped     = 2 // Resource.resource
	fieldWrappedName = 3
	fieldWrappedTTL  = 6

	fieldAnyURL   = 1
	fieldAnyValue = 2

	wrapperURL = urlPrefix + "envoy.service.discovery.v3.Resource"
)

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendAny(b []byte, url string, value []byte) []byte {
	return appendBytes(appendString(b, fieldAnyURL, url), fieldAnyValue, value)
}

func (r *Resource) encode(value []byte) {
	any := appendAny(nil, r.typ.URL(), value)
	wrapped := appendBytes(nil, fieldWrapped, any)
	sotw := len(wrapped)
	head := appendString(appendString(nil, fieldWrappedName, r.name), fieldVersion, r.version)
	all := protowire.AppendTag(make([]byte, 0, len(head)+sotw+8), fieldResources, protowire.BytesType)
	all = protowire.AppendVarint(all, uint64(len(head)+sotw))
	all = append(append(all, head...), wrapped...)
	r.delta = mem.SliceBuffer(all)
	r.sotw = mem.SliceBuffer(all[len(all)-sotw:])
}

// frame is an encoded response: shared bytes, and a small tail of the stream's own.
type frame struct {
	bufs mem.BufferSlice
}

// codec passes frames through and leaves every other message to gRPC's own codec, so that other services may share the
// server.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal hands the shared buffers over: a mem.SliceBuffer counts no references, so nobody can free or recycle them.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return f.bufs, nil
	}
	return c.CodecV2.Marshal(v)
}

// deltaFrame is a DeltaDiscoveryResponse.
func deltaFrame(t Type, list []*Resource, removed []string, version, nonce string) frame {
	tail := appendString(nil, fieldVersion, version)
	tail = appendString(tail, fieldTypeURL, t.URL())
	for _, name := range removed {
		tail = appendString(tail, fieldRemoved, name)
	}
	tail = appendString(tail, fieldNonce, nonce)
	bufs := make(mem.BufferSlice, 0, len(list)+1)
	for _, r := range list {
		bufs = append(bufs, r.delta)
	}
	return frame{append(bufs, mem.SliceBuffer(tail))}
}

// sotwFrame is a DiscoveryResponse.
func sotwFrame(t Type, list []*Resource, version, nonce string) frame {
	tail := appendString(nil, fieldVersion, version)
	tail = appendString(tail, fieldTypeURL, t.URL())
	tail = appendString(tail, fieldNonce, nonce)
	bufs := make(mem.BufferSlice, 0, len(list)+1)
	for _, r := range list {
		bufs = append(bufs, r.sotw)
	}
	return frame{append(bufs, mem.SliceBuffer(tail))}
}
