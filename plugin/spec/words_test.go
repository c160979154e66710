package spec

import (
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// A field that the definition gains must be explained here before a document can have it.
func TestEveryFieldIsExplained(t *testing.T) {
	explained := map[protoreflect.FullName]bool{}
	var walk func(m protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		for i := range m.Fields().Len() {
			fd := m.Fields().Get(i)
			explained[fd.FullName()] = true
			switch {
			case fd.IsMap():
				t.Errorf("%s: maps are not decoded", fd.FullName())
			case isMessage(fd):
				walk(fd.Message())
			case fd.Kind() == protoreflect.MessageKind, fd.Kind() == protoreflect.EnumKind,
				fd.Kind() == protoreflect.Uint32Kind, fd.Kind() == protoreflect.DoubleKind:
			case fd.Kind() != protoreflect.StringKind:
				t.Errorf("%s: %s is not decoded", fd.FullName(), fd.Kind())
			case texts[fd.FullName()] == "":
				t.Errorf("%s: nothing says what its text is", fd.FullName())
			}
		}
	}
	walk((&aviaryv1.Document{}).ProtoReflect().Descriptor())
	for _, names := range []map[protoreflect.FullName]bool{percents, numberIsText, emptyMeansDefault} {
		for name := range names {
			if !explained[name] {
				t.Errorf("%s is no field", name)
			}
		}
	}
	for name := range texts {
		if !explained[name] {
			t.Errorf("%s is no field", name)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want time.Duration
		ok   bool
	}{
		"a Go duration":              {"1h30m", 90 * time.Minute, true},
		"a fraction":                 {"1.5s", 1500 * time.Millisecond, true},
		"microseconds":               {"5µs", 5 * time.Microsecond, true},
		"days":                       {"30d", 720 * time.Hour, true},
		"days and more":              {"1d12h", 36 * time.Hour, true},
		"nothing":                    {"0s", 0, true},
		"no days":                    {"0d", 0, true},
		"no unit":                    {"5", 0, false},
		"zero without a unit":        {"0", 0, false},
		"zero after days":            {"1d0", 0, false},
		"days at the end":            {"12h1d", 0, false},
		"days twice":                 {"1d1d", 0, false},
		"a fraction of a day":        {"1.5d", 0, false},
		"only the unit of days":      {"d", 0, false},
		"negative":                   {"-5s", 0, false},
		"a sign":                     {"+5s", 0, false},
		"a sign after days":          {"1d-5s", 0, false},
		"negative days":              {"-1d", 0, false},
		"longer than a duration":     {"106752d", 0, false},
		"the longest whole days":     {"106751d", 106751 * day, true},
		"far longer than a duration": {"99999999999999999999d", 0, false},
		"empty":                      {"", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseDuration(c.text)
			if got != c.want || (err == nil) != c.ok {
				t.Fatalf("parseDuration(%q) = %v, %v", c.text, got, err)
			}
			if err != nil {
				return
			}
			if again, err := parseDuration(formatDuration(got)); err != nil || again != got {
				t.Errorf("%v is written %q and read as %v, %v", got, formatDuration(got), again, err)
			}
		})
	}
}

func TestPercentsAreTheNearestFloat(t *testing.T) {
	for text, want := range map[string]float64{"99.9%": 0.999, "99.99%": 0.9999, "0.01%": 0.0001, "100%": 1, "7%": 0.07} {
		if got, err := parsePercent(text); err != nil || got != want {
			t.Errorf("parsePercent(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"hangLimit", "hosts", "timeout", "stable"}
	for word, want := range map[string]string{
		"hang_limit": "hangLimit", "HangLimit": "hangLimit", "hangLimt": "hangLimit", "tiemout": "timeout",
		"host": "hosts", "x": "", "": "", "completely": "",
	} {
		if got := nearest(word, known); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestParentOfAPath(t *testing.T) {
	var got []string
	for path, more := "spec.steps[1].share", true; more; path, more = parent(path) {
		got = append(got, path)
	}
	want := []string{"spec.steps[1].share", "spec.steps[1]", "spec.steps", "spec", ""}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%q, want %q", got, want)
		}
	}
}
