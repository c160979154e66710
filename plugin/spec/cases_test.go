package spec_test

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files and drop those without an input")

// good returns the documents of testdata/good: one complete batch.
func good(t testing.TB) []*aviaryv1.Document {
	t.Helper()
	return whole(t, "good")
}

// whole returns the documents of a directory of testdata that is one batch.
func whole(t testing.TB, name string) []*aviaryv1.Document {
	t.Helper()
	var files []spec.Source
	for _, path := range glob(t, "testdata/"+name+"/*.yaml") {
		files = append(files, spec.Source{File: path, Content: read(t, path)})
	}
	batch, _, err := spec.Load(nil, files)
	if err != nil {
		t.Fatal(err)
	}
	return documents(batch)
}

func documents(batch []*spec.Parsed) []*aviaryv1.Document {
	var docs []*aviaryv1.Document
	for _, p := range batch {
		docs = append(docs, p.Document)
	}
	return docs
}

// Each testdata/cases/NAME.yaml is loaded as a batch of one file; NAME.txt says what comes of it: every error, or the
// documents as they are understood. A first line "# over: good" stores the batch of testdata/good before.
func TestCases(t *testing.T) {
	inputs := glob(t, "testdata/cases/*.yaml")
	for _, input := range inputs {
		golden := strings.TrimSuffix(input, ".yaml") + ".txt"
		t.Run(strings.TrimSuffix(filepath.Base(input), ".yaml"), func(t *testing.T) {
			content := read(t, input)
			var stored []*aviaryv1.Document
			first, _, _ := strings.Cut(string(content), "\n")
			if name, ok := strings.CutPrefix(first, "# over: "); ok {
				stored = whole(t, name)
			}
			got := outcome(t, stored, filepath.Base(input), content)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(read(t, golden)), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	for _, golden := range glob(t, "testdata/cases/*.txt") {
		if slices.Contains(inputs, strings.TrimSuffix(golden, ".txt")+".yaml") {
			continue
		}
		if !*update {
			t.Errorf("%s has no input", golden)
		} else if err := os.Remove(golden); err != nil {
			t.Error(err)
		}
	}
}

func outcome(t *testing.T, stored []*aviaryv1.Document, file string, content []byte) string {
	t.Helper()
	batch, _, err := spec.Load(stored, []spec.Source{{File: file, Content: content}})
	if err != nil {
		return "refused\n" + err.Error() + "\n"
	}
	out := "accepted\n"
	for _, doc := range documents(batch) {
		text, err := spec.Format(doc)
		if err != nil {
			t.Fatal(err)
		}
		out += "---\n" + string(text)
	}
	return out
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	return paths
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
