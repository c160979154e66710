package spec

import (
	"fmt"
	"iter"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

const durationName = "google.protobuf.Duration"

// message decodes a mapping into m. A field that is wrong stays unset and has its error.
func (r *report) message(m protoreflect.Message, n *yaml.Node, path string) {
	r.places[path] = placeOf(n)
	fields := m.Descriptor().Fields()
	known := make([]string, fields.Len())
	for i := range known {
		known[i] = fields.Get(i).JSONName()
	}
	chosen := map[protoreflect.Name]string{}
	r.mapping(n, path, known, func(key string, value *yaml.Node) {
		fd, at := fields.ByJSONName(key), path+"."+key
		r.places[at] = placeOf(value)
		if one := fd.ContainingOneof(); one != nil && !one.IsSynthetic() {
			if other, ok := chosen[one.Name()]; ok {
				r.fault(at, "%s and %s exclude each other", other, key)
				return
			}
			chosen[one.Name()] = key
		}
		r.field(m, fd, value, at)
	})
}

func (r *report) field(m protoreflect.Message, fd protoreflect.FieldDescriptor, n *yaml.Node, path string) {
	switch {
	case fd.IsList():
		r.list(m, fd, n, path)
	case isMessage(fd):
		r.message(m.Mutable(fd).Message(), n, path)
	default:
		if v, ok := r.scalar(fd, n, path); ok {
			m.Set(fd, v)
		}
	}
}

func (r *report) list(m protoreflect.Message, fd protoreflect.FieldDescriptor, n *yaml.Node, path string) {
	if !r.plain(n, path) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.fault(path, "expected a list, found %s", describe(n))
		return
	}
	if len(n.Content) == 0 && emptyMeansDefault[fd.FullName()] {
		r.fault(path, "expected at least 1 %s, found an empty list; leave the field out for its default", noun(fd))
		return
	}
	list := m.Mutable(fd).List()
	for i, item := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		r.places[at] = placeOf(item)
		// A wrong item keeps its place in the list, so that the index of every other one holds.
		element := list.NewElement()
		if isMessage(fd) {
			r.message(element.Message(), item, at)
		} else if v, ok := r.scalar(fd, item, at); ok {
			element = v
		}
		list.Append(element)
	}
}

func isMessage(fd protoreflect.FieldDescriptor) bool {
	return fd.Kind() == protoreflect.MessageKind && fd.Message().FullName() != durationName
}

// mapping visits each known key of a mapping once and reports every other. It returns false when n is no mapping.
func (r *report) mapping(n *yaml.Node, path string, known []string, visit func(key string, value *yaml.Node)) bool {
	if !r.plain(n, path) {
		return false
	}
	if n.Kind != yaml.MappingNode {
		r.fault(path, "expected a mapping, found %s", describe(n))
		return false
	}
	seen := map[string]int{}
	for key, value := range pairs(n) {
		if r.full() {
			break
		}
		at := strings.TrimPrefix(path+"."+key.Value, ".")
		p := placeOf(key)
		switch {
		case key.Kind != yaml.ScalarNode || key.Anchor != "":
			r.add(p, path, "expected a field name, found %s", describe(key))
		case key.ShortTag() == "!!merge":
			r.add(p, path, "merge keys are not accepted: write the fields out")
		case seen[key.Value] > 0:
			r.add(p, at, "declared twice, first on line %d", seen[key.Value])
		case !slices.Contains(known, key.Value):
			if !tame.MatchString(key.Value) {
				at = path
			}
			r.add(p, at, "unknown field %s%s", quote(key.Value), instead(key.Value, known))
			if near := nearest(key.Value, known); near != "" {
				// The misspelt field is not missing as well.
				r.spoil(strings.TrimPrefix(path+"."+near, "."))
			}
		default:
			visit(key.Value, value)
		}
		if key.Kind == yaml.ScalarNode && seen[key.Value] == 0 {
			seen[key.Value] = p.line
		}
	}
	return true
}

// tame keys may stand in a path.
var tame = regexp.MustCompile(`^[-A-Za-z0-9_]{1,60}$`)

// pairs are the keys and values of a mapping; none for any other node.
func pairs(n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		if n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i], n.Content[i+1]) {
				return
			}
		}
	}
}

// plain refuses what makes a document mean more than it shows: anchors, aliases and tags.
func (r *report) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		r.fault(path, "aliases are not accepted: write the value out")
	case n.Anchor != "":
		r.fault(path, "anchors are not accepted: write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		r.fault(path, "tags are not accepted, found %s", quote(n.Tag))
	default:
		return true
	}
	return false
}

// scalar decodes one value that is neither a list nor a message of ours.
func (r *report) scalar(fd protoreflect.FieldDescriptor, n *yaml.Node, path string) (protoreflect.Value, bool) {
	if !r.plain(n, path) {
		return protoreflect.Value{}, false
	}
	tag := n.ShortTag()
	if n.Kind != yaml.ScalarNode {
		tag = ""
	}
	bad := func(hint string) (protoreflect.Value, bool) {
		r.fault(path, "expected %s, found %s%s", want(fd), describe(n), hint)
		return protoreflect.Value{}, false
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		switch {
		case tag == "!!int" && numberIsText[fd.FullName()]:
		case tag == "!!null" || tag == "":
			return bad("")
		case tag != "!!str" && percents[fd.FullName()]:
			return bad("; the unit is missing")
		case tag != "!!str":
			return bad("; put it in quotes")
		case percents[fd.FullName()]:
			short, err := shortPercent(n.Value)
			if err != nil {
				return bad("")
			}
			return protoreflect.ValueOfString(short), true
		}
		return protoreflect.ValueOfString(n.Value), true
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		for i := 1; i < values.Len(); i++ {
			if tag == "!!str" && n.Value == enumName(values.Get(i)) {
				return protoreflect.ValueOfEnum(values.Get(i).Number()), true
			}
		}
		if near := nearest(n.Value, enumNames(fd.Enum())); near != "" && tag == "!!str" {
			return bad(fmt.Sprintf("; did you mean %q?", near))
		}
		return bad("")
	case protoreflect.Uint32Kind:
		if tag != "!!int" || !digits(n.Value) || len(n.Value) > 1 && n.Value[0] == '0' {
			return bad("")
		}
		v, err := strconv.ParseUint(n.Value, 10, 32)
		if err != nil {
			return bad(fmt.Sprintf("; the largest is %d", uint32(math.MaxUint32)))
		}
		return protoreflect.ValueOfUint32(uint32(v)), true
	case protoreflect.DoubleKind:
		v, err := strconv.ParseFloat(n.Value, 64)
		if tag != "!!int" && tag != "!!float" || err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
			return bad("")
		}
		if v == 0 {
			v = 0 // not -0
		}
		return protoreflect.ValueOfFloat64(v), true
	case protoreflect.MessageKind:
		if tag == "!!int" || tag == "!!float" {
			return bad("; the unit is missing")
		}
		if tag != "!!str" {
			return bad("")
		}
		d, err := parseDuration(n.Value)
		if err != nil {
			return bad("")
		}
		return protoreflect.ValueOfMessage(durationpb.New(d).ProtoReflect()), true
	}
	panic(fmt.Sprintf("spec: %s has a type that no document has yet", fd.FullName()))
}

// describe says what a node is, shortly enough for a message.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	case "!!bool":
		return clip(n.Value)
	case "!!timestamp":
		return "the date " + clip(n.Value)
	}
	return quote(n.Value)
}

func quote(s string) string { return strconv.Quote(clip(s)) }

// clip keeps messages readable whatever the file holds.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
