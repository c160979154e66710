package spec

import (
	"fmt"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	aName   = `a name of lower-case letters, digits and "-", 63 at most`
	aMethod = "an HTTP method in capitals, such as GET"
	aShare  = `a share from "0.01%" to "100%"`
	aPart   = `a share from "0%" to "100%"`
)

// texts says what each field that holds text expects; for a list, each item of it.
var texts = map[protoreflect.FullName]string{
	"aviary.v1.Metadata.name":                 aName,
	"aviary.v1.RegionSpec.zones":              aName,
	"aviary.v1.RegionSpec.jurisdiction":       `the name of a jurisdiction, of letters, digits and "-", such as EU`,
	"aviary.v1.RegionSpec.failover":           "the name of another region",
	"aviary.v1.RegionSpec.networks":           "an address range such as 10.1.0.0/16 or fd00::/8",
	"aviary.v1.ServiceSpec.hosts":             "a host name in lower case without a port, such as shop.example or *.shop.example",
	"aviary.v1.ServiceSpec.stable":            "the name of a version",
	"aviary.v1.ServiceSpec.tester_header":     "the name of a header in lower case, such as x-version",
	"aviary.v1.ServiceSpec.calls":             "the name of a service",
	"aviary.v1.ServiceSpec.residency":         "the jurisdiction of a region",
	"aviary.v1.Mirror.methods":                aMethod,
	"aviary.v1.Mirror.strip_headers":          "the name of a header in lower case, such as x-user",
	"aviary.v1.Relief.tighten":                aShare,
	"aviary.v1.Relief.shed":                   aPart,
	"aviary.v1.Version.name":                  aName,
	"aviary.v1.Version.digest":                "algorithm:value, such as sha256:0c2f",
	"aviary.v1.Placement.region":              "the name of a region",
	"aviary.v1.ZoneWeight.zone":               "the name of a zone of the region",
	"aviary.v1.Endpoint.zone":                 "the name of a zone of the region",
	"aviary.v1.Endpoint.address":              "an IP address or a DNS name, and a port, such as 10.1.2.3:8080, [::1]:8080 or shop.example:8080",
	"aviary.v1.Retries.methods":               aMethod,
	"aviary.v1.Stickiness.header":             "the name of a header in lower case, such as x-user",
	"aviary.v1.Cookie.name":                   `a cookie name of letters, digits, "_" and "-"`,
	"aviary.v1.HealthCheck.path":              `a path that begins with "/"`,
	"aviary.v1.PolicySpec.budget_share":       `a percentage such as "10%"`,
	"aviary.v1.Availability.target":           `a percentage such as "99.9%"`,
	"aviary.v1.ErrorClasses.http":             "a status such as 503 or a class such as 5xx",
	"aviary.v1.ErrorClasses.grpc":             "a gRPC status in capitals, such as UNAVAILABLE",
	"aviary.v1.ErrorClasses.flags":            "a response flag of Envoy, such as UF",
	"aviary.v1.Step.share":                    aShare,
	"aviary.v1.Shadow.share":                  aShare,
	"aviary.v1.Wave.regions":                  "the name of a region",
	"aviary.v1.Wave.require":                  aShare,
	"aviary.v1.Pace.regions":                  "the name of a region",
	"aviary.v1.MinAvailability.endpoints":     aPart,
	"aviary.v1.Analysis.tolerated_difference": `a percentage such as "0.01%"`,
	"aviary.v1.RolloutSpec.service":           "the name of a service",
	"aviary.v1.RolloutSpec.version":           "the name of a version",
	"aviary.v1.RolloutSpec.policy":            "the name of a policy",
	"aviary.v1.RolloutSpec.regions":           "the name of a region",
	"aviary.v1.RolloutSpec.fallbacks":         "the name of a version",
}

// percents are the fields whose text is a percentage.
var percents = map[protoreflect.FullName]bool{
	"aviary.v1.PolicySpec.budget_share":       true,
	"aviary.v1.Availability.target":           true,
	"aviary.v1.Step.share":                    true,
	"aviary.v1.Shadow.share":                  true,
	"aviary.v1.Wave.require":                  true,
	"aviary.v1.MinAvailability.endpoints":     true,
	"aviary.v1.Relief.tighten":                true,
	"aviary.v1.Relief.shed":                   true,
	"aviary.v1.Analysis.tolerated_difference": true,
}

// numberIsText are the fields whose text may be written as a bare number.
var numberIsText = map[protoreflect.FullName]bool{"aviary.v1.ErrorClasses.http": true}

// emptyMeansDefault are the lists that would be filled with their default if an empty one were accepted.
var emptyMeansDefault = map[protoreflect.FullName]bool{
	"aviary.v1.RegionSpec.networks":   true,
	"aviary.v1.ServiceSpec.residency": true,
	"aviary.v1.Mirror.methods":        true,
	"aviary.v1.PolicySpec.waves":      true,
	"aviary.v1.Wave.regions":          true,
	"aviary.v1.Retries.on":            true,
	"aviary.v1.Retries.methods":       true,
	"aviary.v1.ErrorClasses.http":     true,
	"aviary.v1.ErrorClasses.grpc":     true,
	"aviary.v1.ErrorClasses.flags":    true,
	"aviary.v1.RolloutSpec.regions":   true,
}

// want says what a field (or an item of a list) expects.
func want(fd protoreflect.FieldDescriptor) string {
	switch fd.Kind() {
	case protoreflect.EnumKind:
		return "one of " + strings.Join(enumNames(fd.Enum()), ", ")
	case protoreflect.Uint32Kind:
		return "a whole number" + bounds(fd)
	case protoreflect.DoubleKind:
		return "a number" + bounds(fd)
	case protoreflect.MessageKind:
		if isMessage(fd) {
			return "a mapping"
		}
		return "a duration such as \"10s\"" + bounds(fd)
	}
	return texts[fd.FullName()]
}

// noun is what one item of a list is called.
func noun(fd protoreflect.FieldDescriptor) string {
	switch name := fd.JSONName(); name {
	case "on":
		return "retry class"
	case "http", "grpc":
		return "status"
	case "residency":
		return "jurisdiction"
	default:
		return strings.TrimSuffix(name, "s")
	}
}

// bounds says the range that a field's rules allow: " of at least 1s and at most 5m"; "" when there is none.
func bounds(fd protoreflect.FieldDescriptor) string {
	rules, err := protovalidate.ResolveFieldRules(fd)
	if err != nil || rules == nil {
		return ""
	}
	m := rules.ProtoReflect()
	typed := m.WhichOneof(m.Descriptor().Oneofs().ByName("type"))
	if typed == nil || typed.Kind() != protoreflect.MessageKind {
		return ""
	}
	var parts []string
	limits := m.Get(typed).Message()
	for _, l := range []struct{ rule, words string }{
		{"gt", "more than "}, {"gte", "at least "}, {"lt", "less than "}, {"lte", "at most "},
	} {
		if rule := limits.Descriptor().Fields().ByName(protoreflect.Name(l.rule)); rule != nil && limits.Has(rule) {
			parts = append(parts, l.words+display(rule, limits.Get(rule)))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	if from, ok := strings.CutPrefix(parts[0], "at least "); ok && len(parts) == 2 {
		if to, ok := strings.CutPrefix(parts[1], "at most "); ok {
			return " from " + from + " to " + to
		}
	}
	return " of " + strings.Join(parts, " and ")
}

// display writes a number, a text, an enum or a duration as a document would.
func display(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		return quote(x)
	case protoreflect.EnumNumber:
		if value := fd.Enum().Values().ByNumber(x); value != nil {
			return enumName(value)
		}
	case protoreflect.Message:
		if d, ok := x.Interface().(*durationpb.Duration); ok {
			return formatDuration(d.AsDuration())
		}
	}
	return fmt.Sprint(v.Interface())
}

// enumName is how a document writes an enum's value: PROTOCOL_HTTP2 is "http2".
func enumName(v protoreflect.EnumValueDescriptor) string {
	values := v.Parent().(protoreflect.EnumDescriptor).Values()
	prefix := strings.TrimSuffix(string(values.Get(0).Name()), "UNSPECIFIED")
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix)), "_", "-")
}

// enumNames are the values that a document may write, without the unspecified one.
func enumNames(e protoreflect.EnumDescriptor) []string {
	var names []string
	for i := 1; i < e.Values().Len(); i++ {
		names = append(names, enumName(e.Values().Get(i)))
	}
	return names
}

// seconds is the duration of a field, or its default when it is unset.
func seconds(d *durationpb.Duration, unset time.Duration) time.Duration {
	if d == nil {
		return unset
	}
	return d.AsDuration()
}
