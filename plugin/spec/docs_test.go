package spec_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// The examples of docs/documents.md are one batch that builds and shows every field.
func TestExamplesOfTheDocumentation(t *testing.T) {
	const page = "../../docs/documents.md"
	var files []spec.Source
	var block *strings.Builder
	line := 0
	for text := range strings.Lines(string(read(t, page))) {
		line++
		switch fence := strings.TrimSpace(text); {
		case fence == "```yaml":
			// Empty lines in place of what is above: an error names the line of the page.
			block = &strings.Builder{}
			block.WriteString(strings.Repeat("\n", line))
		case fence == "```" && block != nil:
			files = append(files, spec.Source{File: page, Content: []byte(block.String())})
			block = nil
		case block != nil:
			block.WriteString(text)
		}
	}
	batch, _, err := spec.Load(nil, files)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[protoreflect.FullName]bool{}
	for _, p := range batch {
		show(p.Document.ProtoReflect(), shown)
	}
	// A cookie is the other way to be sticky.
	shown["aviary.v1.Stickiness.header"] = true
	for _, field := range fields((&aviaryv1.Document{}).ProtoReflect().Descriptor()) {
		if !shown[field] {
			t.Errorf("no example has %s", field)
		}
	}
}

// show adds the fields that are set in a message and below.
func show(m protoreflect.Message, shown map[protoreflect.FullName]bool) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		shown[fd.FullName()] = true
		switch {
		case fd.Message() == nil || fd.Message().FullName() == "google.protobuf.Duration":
		case fd.IsList():
			for i := range v.List().Len() {
				show(v.List().Get(i).Message(), shown)
			}
		default:
			show(v.Message(), shown)
		}
		return true
	})
}

// fields of a message and of those below.
func fields(m protoreflect.MessageDescriptor) []protoreflect.FullName {
	var names []protoreflect.FullName
	for i := range m.Fields().Len() {
		fd := m.Fields().Get(i)
		names = append(names, fd.FullName())
		if below := fd.Message(); below != nil && below.FullName() != "google.protobuf.Duration" {
			names = append(names, fields(below)...)
		}
	}
	return names
}
