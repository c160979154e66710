package spec

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/reflect/protoreflect"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// rules evaluates the rules written beside the fields in documents.proto and says each violation in the file's words.
func (r *report) rules(doc *aviaryv1.Document) {
	err := protovalidate.Validate(doc)
	var invalid *protovalidate.ValidationError
	if errors.As(err, &invalid) {
		for _, v := range invalid.Violations {
			r.violation(v)
		}
	} else if err != nil {
		r.fault("", "rules could not be evaluated: %v", err)
	}
}

func (r *report) violation(v *protovalidate.Violation) {
	field, fd, group := fieldPath(v)
	if group != nil {
		var names []string
		for i := range group.Fields().Len() {
			names = append(names, group.Fields().Get(i).JSONName())
		}
		// The document's own oneof is what a file calls spec.
		r.fault(cmp.Or(field, "spec"), "missing: expected one of %s", strings.Join(names, ", "))
		return
	}
	rule := v.Proto.GetRuleId()
	missing := rule == "required" || !fd.IsList() && (fd.Kind() == protoreflect.StringKind && v.FieldValue.String() == "" ||
		fd.Kind() == protoreflect.Uint32Kind && !fd.HasPresence() && v.FieldValue.Uint() == 0)
	switch {
	case rule == "repeated.unique":
		r.repeats(field, v.FieldValue.List())
	case rule == "repeated.min_items":
		r.fault(field, "expected at least %s %s", v.RuleValue, noun(fd))
	case missing && !r.written(field):
		r.fault(field, "missing: expected %s", want(fd))
	default:
		r.fault(field, "expected %s, found %s", want(fd), display(fd, v.FieldValue))
	}
}

// repeats names every item of a list that was there before.
func (r *report) repeats(field string, list protoreflect.List) {
	first := map[any]int{}
	for i := range list.Len() {
		item := list.Get(i)
		if j, ok := first[item.Interface()]; ok {
			r.fault(field+"["+strconv.Itoa(i)+"]", "expected each item once, found the same as [%d]", j)
		} else {
			first[item.Interface()] = i
		}
	}
}

// fieldPath is where a rule was violated, as the file writes it, and the field that stands there; for a oneof, the
// message around it and the oneof.
func fieldPath(v *protovalidate.Violation) (_ string, fd protoreflect.FieldDescriptor, _ protoreflect.OneofDescriptor) {
	m := (&aviaryv1.Document{}).ProtoReflect().Descriptor()
	var path strings.Builder
	for i, e := range v.Proto.GetField().GetElements() {
		fd = m.Fields().ByNumber(protoreflect.FieldNumber(e.GetFieldNumber()))
		if fd == nil {
			return path.String(), nil, m.Oneofs().ByName(protoreflect.Name(e.GetFieldName()))
		}
		switch one := fd.ContainingOneof(); {
		case i == 0 && one != nil:
			path.WriteString("spec")
		case i == 0:
			path.WriteString(fd.JSONName())
		default:
			path.WriteString("." + fd.JSONName())
		}
		if e.HasIndex() {
			fmt.Fprintf(&path, "[%d]", e.GetIndex())
		}
		if fd.Kind() == protoreflect.MessageKind {
			m = fd.Message()
		}
	}
	return path.String(), fd, nil
}
