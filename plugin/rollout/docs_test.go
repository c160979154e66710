package rollout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestDocsNameEveryPhaseReasonAndVerb reads the constants from the source, so that a new one is not forgotten.
func TestDocsNameEveryPhaseReasonAndVerb(t *testing.T) {
	text, err := os.ReadFile("../../docs/rollout.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range []string{"state.go", "reason.go", "act.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.CONST {
				continue
			}
			for _, spec := range gen.Specs {
				c := spec.(*ast.ValueSpec)
				value, err := strconv.Unquote(c.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				found++
				if !strings.Contains(string(text), "| `"+value+"` |") {
					t.Errorf("docs/rollout.md has no row for %s", value)
				}
				if c.Doc == nil || !strings.HasPrefix(c.Doc.Text(), c.Names[0].Name) {
					t.Errorf("%s has no doc comment", c.Names[0].Name)
				}
			}
		}
	}
	if found < 40 {
		t.Errorf("found only %d constants", found)
	}
}
