package resource

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

var update = flag.Bool("update", false, "write the golden files anew, and drop those whose input is gone")

// rendered is all that a view is given, as it stands in a golden file.
type rendered struct {
	Listeners, Routes, Clusters, Assignments []any
	Layer                                    map[string]any
	Lease                                    string
}

func render(t *testing.T, plan traffic.Plan, v View) rendered {
	t.Helper()
	var r rendered
	for _, l := range Listeners(plan, v) {
		r.Listeners = append(r.Listeners, plain(t, l))
	}
	for _, c := range Routes(plan, v) {
		r.Routes = append(r.Routes, plain(t, c))
	}
	for _, in := range Intents(plan, v) {
		for _, c := range Clusters(in, v) {
			r.Clusters = append(r.Clusters, plain(t, c))
		}
		for _, a := range Assignments(in, v) {
			r.Assignments = append(r.Assignments, plain(t, a))
		}
	}
	layer, lease := Layer(plan, v)
	r.Layer, r.Lease = layer.AsMap(), lease.String()
	return r
}

func plain(t *testing.T, m proto.Message) any {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal(inputs, err)
	}
	wanted := map[string]bool{}
	for _, path := range inputs {
		golden := strings.TrimSuffix(path, ".in.yaml") + ".out.yaml"
		wanted[golden] = true
		t.Run(strings.TrimSuffix(filepath.Base(path), ".in.yaml"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var in struct {
				View View
				Plan traffic.Plan
			}
			dec := yaml.NewDecoder(bytes.NewReader(text))
			dec.KnownFields(true)
			if err := dec.Decode(&in); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			enc := yaml.NewEncoder(&out)
			enc.SetIndent(1)
			if err := enc.Encode(render(t, in.Plan, in.View)); err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Errorf("it is not what %s says (-update writes it anew):\n%s", golden, diff)
			}
		})
	}
	outputs, err := filepath.Glob("testdata/*.out.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range outputs {
		switch {
		case wanted[path]:
		case *update:
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		default:
			t.Errorf("%s has no input", path)
		}
	}
}
