package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// APIVersion is what every document in a file declares.
const APIVersion = "aviary.dev/v1"

// MaxBytes is the longest content that Parse takes.
const MaxBytes = 4 << 20

// Parsed is one document, checked by itself, with the places of its fields in its file.
type Parsed struct {
	// Document is as declared: no defaults set, percentages in their short form.
	Document *aviaryv1.Document
	// File as the caller named it, and the Line where the document begins; "" and 0 for a stored document.
	File string
	Line int

	report *report
	// One of these is the document as a value with its defaults; it is not sound when the report has errors.
	region  *Region
	service *Service
	policy  *Policy
	rollout *Rollout
}

// Parse reads the documents of one file, YAML or JSON, at most MaxBytes long, and checks each by itself. The error is
// Errors with all that is wrong in the file, and then there are no documents.
func Parse(file string, content []byte) ([]*Parsed, error) {
	docs, loose := parse(file, content)
	errs := loose
	for _, p := range docs {
		errs = append(errs, p.report.errs...)
	}
	if len(errs) > 0 {
		return nil, errs.sorted()
	}
	return docs, nil
}

// parse returns the documents that have a kind and a name, broken ones too with their errors in their reports, and the
// errors that belong to none of them. With loose errors it is not known what else the file declares.
func parse(file string, content []byte) (docs []*Parsed, loose Errors) {
	lost := func(line int, format string, args ...any) ([]*Parsed, Errors) {
		return docs, append(loose, &Error{File: file, Line: max(line, 1), Column: 1, Message: fmt.Sprintf(format, args...)})
	}
	if len(content) > MaxBytes {
		return lost(1, "expected at most %d bytes, found %d", MaxBytes, len(content))
	}
	if i := firstInvalid(content); i >= 0 {
		return lost(1+bytes.Count(content[:i], []byte("\n")), "expected text in UTF-8, found the byte 0x%02x", content[i])
	}
	last, faults := 1, 0
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for i := 0; ; i++ {
		var n yaml.Node
		err := decoder.Decode(&n)
		if errors.Is(err, io.EOF) && i == 0 {
			return lost(1, "expected at least one document, found nothing")
		}
		if errors.Is(err, io.EOF) {
			return docs, loose
		}
		if err != nil {
			line, problem := syntax(err)
			if m := unknownAnchor.FindStringSubmatch(problem); m != nil {
				line = lineOf(content, last, "*"+m[1])
			}
			return lost(max(min(line, lines(content)), last), "not YAML: %s", problem)
		}
		p := parseDocument(file, i, &n)
		last = p.Line
		if faults += len(p.report.errs); faults > 2*maxFaults {
			return lost(last, "more than %d errors: the rest of the file was not read", 2*maxFaults)
		}
		if p.Document == nil {
			loose = append(loose, p.report.errs...)
		} else {
			docs = append(docs, p)
		}
	}
}

// parseDocument reads one document; its Document is nil when its kind or name cannot be told.
func parseDocument(file string, index int, n *yaml.Node) *Parsed {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	r := newReport(file)
	r.places[""] = placeOf(n)
	p := &Parsed{File: file, Line: r.places[""].line, report: r}

	kind, name := label(n)
	r.document = fmt.Sprintf("document %d", index+1)
	if kind != nil {
		r.document = kindName(kind)
		if name != "" {
			r.document += "/" + name
		}
	}

	parts := map[string]*yaml.Node{}
	if !r.mapping(n, "", []string{"apiVersion", "kind", "metadata", "spec"}, func(key string, value *yaml.Node) {
		parts[key] = value
		r.places[key] = placeOf(value)
	}) {
		return p
	}
	r.constant(parts["apiVersion"], "apiVersion", []string{APIVersion})
	r.constant(parts["kind"], "kind", kindNames())
	doc := &aviaryv1.Document{Metadata: &aviaryv1.Metadata{}}
	r.part(parts["metadata"], "metadata", doc.Metadata.ProtoReflect())
	if kind == nil {
		return p
	}
	r.part(parts["spec"], "spec", doc.ProtoReflect().Mutable(kind).Message())

	r.rules(doc)
	if name != "" && !r.wrong("metadata") {
		p.Document = doc
		p.convert()
	}
	return p
}

// part decodes metadata or spec, which every document has.
func (r *report) part(n *yaml.Node, field string, into protoreflect.Message) {
	if n == nil {
		r.fault(field, "missing: expected a mapping")
		return
	}
	r.message(into, n, field)
}

// constant checks a string that is one of a few.
func (r *report) constant(n *yaml.Node, field string, known []string) {
	want := strings.Join(known, ", ")
	if len(known) > 1 {
		want = "one of " + want
	}
	switch {
	case n == nil:
		r.fault(field, "missing: expected %s", want)
	case !r.plain(n, field):
	case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str":
		r.fault(field, "expected %s, found %s", want, describe(n))
	default:
		for _, k := range known {
			if n.Value == k {
				return
			}
		}
		hint := ""
		if near := nearest(n.Value, known); near != "" && len(known) > 1 {
			hint = fmt.Sprintf("; did you mean %q?", near)
		}
		r.fault(field, "expected %s, found %s%s", want, describe(n), hint)
	}
}

// label peeks at the kind and the name, so that every error of the document can say whose it is.
func label(n *yaml.Node) (kind protoreflect.FieldDescriptor, name string) {
	for key, value := range pairs(n) {
		switch key.Value {
		case "kind":
			if value.ShortTag() == "!!str" {
				kind = kindNamed(value.Value)
			}
		case "metadata":
			for k, v := range pairs(value) {
				if k.Value == "name" && v.ShortTag() == "!!str" && nameRE.MatchString(v.Value) {
					name = v.Value
				}
			}
		}
	}
	return kind, name
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// The kinds are the cases of the document's oneof.
var kinds = (&aviaryv1.Document{}).ProtoReflect().Descriptor().Oneofs().ByName("spec").Fields()

func kindName(fd protoreflect.FieldDescriptor) string {
	name := fd.JSONName()
	return strings.ToUpper(name[:1]) + name[1:]
}

func kindNames() []string {
	names := make([]string, kinds.Len())
	for i := range names {
		names[i] = kindName(kinds.Get(i))
	}
	return names
}

func kindNamed(name string) protoreflect.FieldDescriptor {
	for i := range kinds.Len() {
		if kindName(kinds.Get(i)) == name {
			return kinds.Get(i)
		}
	}
	return nil
}

// Kind returns the kind of a document: "Region", "Service", "Policy", "Rollout"; "" when it has no spec.
func Kind(doc *aviaryv1.Document) string {
	m := doc.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec")); fd != nil {
		return kindName(fd)
	}
	return ""
}

// Key returns what identifies a document in a set: "Service/shop".
func Key(doc *aviaryv1.Document) string {
	return Kind(doc) + "/" + doc.GetMetadata().GetName()
}

func placeOf(n *yaml.Node) place { return place{max(n.Line, 1), max(n.Column, 1)} }

// firstInvalid is the index of the first byte that is not UTF-8, -1 when all is.
func firstInvalid(content []byte) int {
	if utf8.Valid(content) {
		return -1
	}
	for i := 0; i < len(content); {
		r, size := utf8.DecodeRune(content[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// grammar begins what the YAML parser, unlike its scanner, complains of; it counts lines from 0.
var grammar = regexp.MustCompile(`^did not find expected (<|node content|'-' indicator|key|',' or )`)

// lines of a file; the end of its last line is not one more.
func lines(content []byte) int {
	return bytes.Count(bytes.TrimSuffix(content, []byte("\n")), []byte("\n")) + 1
}

var unknownAnchor = regexp.MustCompile(`^unknown anchor '(.+)' referenced$`)

// lineOf is the first line from one on that has the text, 0 when none has.
func lineOf(content []byte, from int, text string) int {
	line := 0
	for l := range bytes.Lines(content) {
		if line++; line >= from && bytes.Contains(l, []byte(text)) {
			return line
		}
	}
	return 0
}

// syntax splits an error of the YAML library into its line (0 when it has none) and its problem.
func syntax(err error) (line int, problem string) {
	m := yamlError.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, err.Error()
	}
	line, _ = strconv.Atoi(m[1])
	if line > 0 && grammar.MatchString(m[2]) {
		line++
	}
	return line, m[2]
}
