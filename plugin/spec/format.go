package spec

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// Format writes a document as the YAML that Parse reads back to an equal document. It fails for a document without a kind
// and for a duration that no file can hold.
func Format(doc *aviaryv1.Document) ([]byte, error) {
	m := doc.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec"))
	if fd == nil {
		return nil, fmt.Errorf("%s: a document without a spec has no form", Key(doc))
	}
	metadata, err := messageNode(doc.GetMetadata().ProtoReflect())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Key(doc), err)
	}
	spec, err := messageNode(m.Get(fd).Message())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Key(doc), err)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	root := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{
		textNode("apiVersion"), textNode(APIVersion),
		textNode("kind"), textNode(kindName(fd)),
		textNode("metadata"), metadata,
		textNode("spec"), spec,
	}}
	if err := encoder.Encode(root); err != nil {
		return nil, fmt.Errorf("%s: %w", Key(doc), err)
	}
	return out.Bytes(), nil
}

// messageNode writes the fields that are set, in the order of the definition.
func messageNode(m protoreflect.Message) (*yaml.Node, error) {
	out := &yaml.Node{Kind: yaml.MappingNode}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		value, err := fieldNode(fd, m.Get(fd))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", fd.JSONName(), err)
		}
		out.Content = append(out.Content, textNode(fd.JSONName()), value)
	}
	if len(out.Content) == 0 {
		out.Style = yaml.FlowStyle // "{}"
	}
	return out, nil
}

func fieldNode(fd protoreflect.FieldDescriptor, v protoreflect.Value) (*yaml.Node, error) {
	if !fd.IsList() {
		return valueNode(fd, v)
	}
	out := &yaml.Node{Kind: yaml.SequenceNode}
	if !isMessage(fd) {
		out.Style = yaml.FlowStyle
	}
	for i := range v.List().Len() {
		item, err := valueNode(fd, v.List().Get(i))
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		out.Content = append(out.Content, item)
	}
	return out, nil
}

func valueNode(fd protoreflect.FieldDescriptor, v protoreflect.Value) (*yaml.Node, error) {
	switch x := v.Interface().(type) {
	case string:
		return textNode(x), nil
	case uint32:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatUint(uint64(x), 10)}, nil
	case float64:
		return numberNode(x)
	case protoreflect.EnumNumber:
		value := fd.Enum().Values().ByNumber(x)
		if value == nil || x == 0 {
			return nil, fmt.Errorf("unknown value %d", x)
		}
		return textNode(enumName(value)), nil
	case protoreflect.Message:
		if d, ok := x.Interface().(*durationpb.Duration); ok {
			return durationNode(d)
		}
		return messageNode(x)
	}
	return nil, fmt.Errorf("%s has a type that no document has yet", fd.FullName())
}

func numberNode(x float64) (*yaml.Node, error) {
	if math.IsInf(x, 0) || math.IsNaN(x) {
		return nil, fmt.Errorf("%v is no finite number", x)
	}
	// YAML takes 1e+06 for text unless it has a point.
	return &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatFloat(x, 'f', -1, 64)}, nil
}

func durationNode(d *durationpb.Duration) (*yaml.Node, error) {
	if err := d.CheckValid(); err != nil {
		return nil, err
	}
	if x := d.AsDuration(); x >= 0 && x < math.MaxInt64 {
		return textNode(formatDuration(x)), nil
	}
	return nil, fmt.Errorf("the duration %v is negative or too long", d.AsDuration())
}

// bare is text that YAML reads as itself wherever it stands, given that the encoder quotes numbers and other words.
var bare = regexp.MustCompile(`^[A-Za-z0-9/_.*%+][-A-Za-z0-9/_.*:%+=]*$`)

func textNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if !bare.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// Hash returns the content hash of a document as declared: 64 hex digits, equal for files that differ only in form.
func Hash(doc *aviaryv1.Document) string {
	sum := sha256.Sum256(canonical(nil, doc.ProtoReflect()))
	return hex.EncodeToString(sum[:])
}

// canonical appends the wire form of m with its fields in the order of the definition. The hash outlives this build, and
// protobuf's own deterministic form is promised within one build alone.
func canonical(b []byte, m protoreflect.Message) []byte {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		if !fd.IsList() {
			b = canonicalValue(b, fd, m.Get(fd))
			continue
		}
		for j := range m.Get(fd).List().Len() {
			b = canonicalValue(b, fd, m.Get(fd).List().Get(j))
		}
	}
	return append(b, m.GetUnknown()...)
}

func canonicalValue(b []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch x := v.Interface().(type) {
	case string:
		return protowire.AppendString(protowire.AppendTag(b, fd.Number(), protowire.BytesType), x)
	case uint32:
		return protowire.AppendVarint(protowire.AppendTag(b, fd.Number(), protowire.VarintType), uint64(x))
	case int32:
		return protowire.AppendVarint(protowire.AppendTag(b, fd.Number(), protowire.VarintType), uint64(x))
	case int64:
		return protowire.AppendVarint(protowire.AppendTag(b, fd.Number(), protowire.VarintType), uint64(x))
	case protoreflect.EnumNumber:
		return protowire.AppendVarint(protowire.AppendTag(b, fd.Number(), protowire.VarintType), uint64(x))
	case float64:
		return protowire.AppendFixed64(protowire.AppendTag(b, fd.Number(), protowire.Fixed64Type), math.Float64bits(x))
	case protoreflect.Message:
		return protowire.AppendBytes(protowire.AppendTag(b, fd.Number(), protowire.BytesType), canonical(nil, x))
	}
	panic(fmt.Sprintf("spec: %s has a type that no document has yet", fd.FullName()))
}
