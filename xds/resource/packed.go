package resource

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// packed is a message as an extension's configuration, the same bytes for the same message. It panics when a string of m is
// not UTF-8, which no document and so no plan may have.
func packed(m proto.Message) *anypb.Any {
	out := &anypb.Any{}
	if err := anypb.MarshalFrom(out, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		panic(fmt.Sprintf("resource: %T: %v", m, err))
	}
	return out
}
