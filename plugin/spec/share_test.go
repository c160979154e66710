package spec_test

import (
	"encoding/json"
	"testing"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

func TestEveryShareIsReadBackFromItsText(t *testing.T) {
	for s := spec.Share(0); s <= spec.Whole; s++ {
		got, err := spec.ParseShare(s.String())
		if err != nil || got != s {
			t.Fatalf("ParseShare(%q) = %d, %v; want %d", s.String(), got, err, s)
		}
	}
}

func TestShareText(t *testing.T) {
	for _, c := range []struct {
		share spec.Share
		text  string
	}{{0, "0%"}, {1, "0.01%"}, {10, "0.1%"}, {100, "1%"}, {150, "1.5%"}, {1234, "12.34%"}, {spec.Whole, "100%"}} {
		if got := c.share.String(); got != c.text {
			t.Errorf("Share(%d).String() = %q, want %q", c.share, got, c.text)
		}
	}
}

func TestParseShare(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want spec.Share
		ok   bool
	}{
		"needless zeros":             {"001.500%", 150, true},
		"finer than 0.01%":           {"0.001%", 0, false},
		"over the whole":             {"100.01%", 0, false},
		"far over the whole":         {"99999999999999999999%", 0, false},
		"no unit":                    {"5", 0, false},
		"negative":                   {"-1%", 0, false},
		"a sign":                     {"+1%", 0, false},
		"an exponent":                {"1e1%", 0, false},
		"a space":                    {"1 %", 0, false},
		"no digit before the point":  {".5%", 0, false},
		"no digit after the point":   {"5.%", 0, false},
		"nothing":                    {"", 0, false},
		"only the unit":              {"%", 0, false},
		"digits of another alphabet": {"٣%", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := spec.ParseShare(c.text)
			if got != c.want || (err == nil) != c.ok {
				t.Errorf("ParseShare(%q) = %d, %v", c.text, got, err)
			}
		})
	}
}

func TestShareInJSON(t *testing.T) {
	in := map[string]spec.Share{"weight": 125}
	text, err := json.Marshal(in)
	if err != nil || string(text) != `{"weight":"1.25%"}` {
		t.Fatalf("Marshal = %s, %v", text, err)
	}
	var out map[string]spec.Share
	if err := json.Unmarshal(text, &out); err != nil || out["weight"] != 125 {
		t.Fatalf("Unmarshal = %v, %v", out, err)
	}
	if err := json.Unmarshal([]byte(`{"weight":"0.001%"}`), &out); err == nil {
		t.Error("a share finer than 0.01% was read")
	}
}
