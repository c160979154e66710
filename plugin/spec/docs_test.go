package spec_test

import (
	"strings"
	"testing"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

// The examples of docs/documents.md are one batch that builds.
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
	_, set, err := spec.Load(nil, files)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Regions) == 0 || len(set.Services) == 0 || len(set.Policies) == 0 || len(set.Rollouts) == 0 {
		t.Errorf("%d examples do not show every kind", len(files))
	}
}
