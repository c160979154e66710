package aviary

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/aviary-mesh/aviary/"

// rooms says what each package may import of ours. A room that is not here may not exist: give it a line, and a reason in
// docs/architecture.md. "*" is everything; a trailing "/" takes the rooms below.
var rooms = map[string][]string{
	"proto/aviary/v1": {},
	"plugin/spec":     {"proto/aviary/v1"},
	"plugin/signal":   {},
	"plugin/budget":   {"plugin/signal"},
	"plugin/evidence": {"plugin/signal"},
	"plugin/policy":   {"plugin/spec", "plugin/signal"},
	"plugin/rollout":  {"plugin/spec", "plugin/signal", "plugin/budget", "plugin/evidence", "plugin/policy"},
	"plugin/relief":   {"plugin/spec"},
	"plugin/traffic":  {},
	"xds/resource":    {"plugin/traffic"},
	"xds/ads":         {},
	"xds/telemetry":   {"plugin/signal"},
	"xds/bootstrap":   {},

	"internal/store":     {"proto/aviary/v1"},
	"internal/control":   {"plugin/", "internal/store", "proto/aviary/v1"},
	"internal/admin":     {"plugin/", "internal/store", "proto/aviary/v1"},
	"internal/discovery": {},
	"internal/lab":       {"internal/lab/"},
	"internal/app":       {"*"},
	"cmd/aviary":         {"*"},
	"bench/":             {"*"},
	"e2e/":               {"*"},
}

type listed struct {
	ImportPath   string
	Dir          string
	Imports      []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles,TestGoFiles,XTestGoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func rule(room string) ([]string, bool) {
	if allowed, ok := rooms[room]; ok {
		return allowed, true
	}
	for name, allowed := range rooms {
		if strings.HasSuffix(name, "/") && strings.HasPrefix(room+"/", name) {
			return allowed, true
		}
	}
	if i := strings.LastIndex(room, "/"); i > 0 && strings.HasPrefix(room, "internal/lab/") {
		return rule(room[:i])
	}
	return nil, false
}

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	for _, p := range packages(t) {
		room, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok {
			continue // the tour itself
		}
		allowed, known := rule(room)
		if !known {
			t.Errorf("%s is not in the table of rooms", room)
			continue
		}
		for _, imported := range p.Imports {
			other, ours := strings.CutPrefix(imported, module)
			if !ours || slices.Contains(allowed, "*") || slices.Contains(allowed, other) {
				continue
			}
			if !slices.ContainsFunc(allowed, func(a string) bool {
				return strings.HasSuffix(a, "/") && strings.HasPrefix(other, a)
			}) {
				t.Errorf("%s imports %s; it may import %v: data goes one way round", room, other, allowed)
			}
		}
		if !strings.HasPrefix(room, "plugin/") {
			continue
		}
		for _, imported := range p.Imports {
			if imported == "os" || imported == "net" || imported == "net/http" || imported == "log/slog" || imported == "sync" {
				t.Errorf("%s imports %s: a room that decides does no I/O and starts nothing", room, imported)
			}
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	for _, p := range packages(t) {
		var with []string
		for _, f := range p.GoFiles {
			src, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			before, _, _ := strings.Cut("\n"+string(src), "\npackage ")
			last := before[strings.LastIndex(before, "\n")+1:]
			if strings.HasPrefix(last, "//") && !strings.HasPrefix(last, "//go:build") && !strings.HasPrefix(last, "// Code generated") {
				with = append(with, f)
			}
		}
		if strings.HasSuffix(p.ImportPath, "proto/aviary/v1") || len(p.GoFiles) == 0 {
			continue // the comment is in the .proto; or tests alone
		}
		if len(with) != 1 {
			t.Errorf("%s: package comments in %v, want exactly one", p.ImportPath, with)
		}
	}
}
