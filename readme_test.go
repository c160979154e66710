package aviary

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/aviary-mesh/aviary/internal/app"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// page is one text that people read.
type page struct{ path, text string }

func pages(t *testing.T) []page {
	t.Helper()
	paths, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []page
	for _, path := range append(paths, "README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page{path, string(text)})
	}
	return all
}

var (
	fence  = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	inline = regexp.MustCompile("`([^`\n]+)`")
	here   = regexp.MustCompile(`(?ms)<<'(\w+)'.*?^(\w+)$`)
)

// commands of a page: whole ones from its sh blocks, without what they write into files, and those that its prose names.
func (p page) commands() (whole, named []string) {
	for _, block := range fence.FindAllStringSubmatch(p.text, -1) {
		if block[1] == "sh" {
			script := strings.ReplaceAll(here.ReplaceAllString(block[2], ""), "\\\n", " ")
			whole = append(whole, strings.Split(script, "\n")...)
		}
	}
	for _, code := range inline.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
		named = append(named, code[1])
	}
	return whole, named
}

// aviary gives the arguments of the calls of aviary in a line of shell.
func aviaryCalls(line string) [][]string {
	var calls [][]string
	for _, part := range regexp.MustCompile(`[|;&]+`).Split(line, -1) {
		words := regexp.MustCompile(`'[^']*'|\S+`).FindAllString(part, -1)
		at := slices.IndexFunc(words, func(w string) bool { return w == "aviary" || w == "bin/aviary" })
		if at < 0 {
			continue
		}
		var args []string
		for _, w := range words[at+1:] {
			if regexp.MustCompile(`^\d?[<>]`).MatchString(w) {
				break
			}
			args = append(args, strings.Trim(w, "'"))
		}
		calls = append(calls, args)
	}
	return calls
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "aviary-readme-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "aviary")
	if out, err := exec.Command("go", "build", "-o", path, "./cmd/aviary").CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := built(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// aviary runs the command where nobody listens and returns what it says with its exit code.
func aviary(t *testing.T, args ...string) (string, int) {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "AVIARY_ADDRESS=127.0.0.1:1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestDocsNameCommandsThatExist(t *testing.T) {
	verbs := regexp.MustCompile(`^[a-z]+$`)
	for _, p := range pages(t) {
		whole, named := p.commands()
		for _, line := range whole {
			for _, args := range aviaryCalls(line) {
				if args[0] == "serve" || args[0] == "rehearse" {
					args = append(args, "--help") // flags are looked at before it helps
				}
				// Arguments and flags are looked at before files and the control plane, which are not there.
				if out, code := aviary(t, args...); code == 2 && !strings.Contains(out, "no such file") {
					t.Errorf("%s: %q: %s", p.path, strings.TrimSpace(line), out)
				}
			}
		}
		for _, code := range named {
			for _, args := range aviaryCalls(code) {
				if len(args) == 0 || !strings.HasPrefix(code, "aviary ") {
					continue
				}
				// The prose names verbs and flags without what they need, so their help is asked.
				var flags []string
				for i, a := range args {
					if strings.HasPrefix(a, "-") {
						args, flags = args[:i], args[i:]
						break
					}
				}
				out, exit := aviary(t, append(slices.Clone(args), "--help")...)
				_, usage, _ := strings.Cut(out, "Usage:")
				if exit != 0 || len(args) > 0 && !strings.Contains(usage, "aviary "+args[0]) ||
					len(args) > 1 && verbs.MatchString(args[1]) && strings.Contains(usage, "[command]") {
					t.Errorf("%s: `%s`: there is no such verb: %s", p.path, code, out)
				}
				for _, f := range flags {
					if strings.HasPrefix(f, "-") && !regexp.MustCompile(regexp.QuoteMeta(f)+`\b`).MatchString(usage) {
						t.Errorf("%s: `%s`: there is no flag %s", p.path, code, f)
					}
				}
			}
		}
	}
}

func TestDocsNameTargetsThatExist(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`).FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	seen := 0
	for _, p := range pages(t) {
		whole, named := p.commands()
		for _, line := range append(whole, named...) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "make" {
				continue
			}
			for _, target := range words[1:] {
				if seen++; !targets[target] {
					t.Errorf("%s: `%s`: the Makefile has no target %s", p.path, line, target)
				}
			}
		}
	}
	if seen < 5 {
		t.Errorf("only %d targets are named", seen)
	}
}

func TestLinksOfDocsLeadSomewhere(t *testing.T) {
	for _, p := range pages(t) {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := filepath.Join(filepath.Dir(p.path), file)
			if file == "" {
				target = p.path
			}
			text, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: %s leads nowhere", p.path, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(string(text)), anchor) {
				t.Errorf("%s: %s has no heading #%s", p.path, target, anchor)
			}
		}
	}
}

// anchors of a page's headings, as they are shown on the web.
func anchors(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		slug := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(slug, " ", "-"))
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDocsHaveTheExitCodes(t *testing.T) {
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d) \| (.+) \|$`).FindAllStringSubmatch(read(t, "docs/operations.md"), -1) {
		documented = append(documented, m[1]+" "+m[2])
	}
	help, _ := aviary(t, "--help")
	_, codes, _ := strings.Cut(help, "Exit codes: ")
	codes, _, _ = strings.Cut(codes, ".\n")
	told := strings.Split(strings.Join(strings.Fields(codes), " "), "; ")
	if !slices.Equal(documented, told) {
		t.Errorf("docs/operations.md has %q, aviary --help %q", documented, told)
	}
	// Those of the source are a block that counts from 0.
	f, err := parser.ParseFile(token.NewFileSet(), "cmd/aviary/exit.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	block := f.Decls[slices.IndexFunc(f.Decls, func(d ast.Decl) bool { return d.(*ast.GenDecl).Tok == token.CONST })].(*ast.GenDecl)
	if len(block.Specs) != len(documented) {
		t.Errorf("cmd/aviary has %d exit codes, docs/operations.md %d", len(block.Specs), len(documented))
	}
}

// TestDocsHaveTheMetrics compares the table in docs/operations.md with what a process serves that has a rollout.
func TestDocsHaveTheMetrics(t *testing.T) {
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(aviary_\\w+)` \\| (\\w+) \\| (.*?) ?\\| (.+) \\|$").FindAllStringSubmatch(read(t, "docs/operations.md"), -1) {
		documented = append(documented, strings.Join([]string{m[1], m[2], strings.NewReplacer("`", "", ",", "").Replace(m[3]), m[4]}, "|"))
	}
	a, err := app.New(app.Config{
		DataDir: t.TempDir(), XDS: "127.0.0.1:0", Admin: "127.0.0.1:0", HTTP: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-a.Ready():
	case err := <-ended:
		ended <- err
		t.Fatal("it ended before it was ready")
	}
	_, admin, web := a.Addresses()
	conn, err := grpc.NewClient(admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, documents, _ := strings.Cut(read(t, "README.md"), "<<'YAML'\n")
	documents, _, _ = strings.Cut(documents, "\nYAML\n")
	if _, err := aviaryv1.NewAdminServiceClient(conn).Apply(ctx, &aviaryv1.ApplyRequest{
		Files: []*aviaryv1.File{{Name: "README.md", Content: []byte(documents)}}, Author: "test",
	}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		served := metrics(t, "http://"+web+"/metrics")
		if slices.Equal(documented, served) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("docs/operations.md has\n%s\nbut served are\n%s", strings.Join(documented, "\n"), strings.Join(served, "\n"))
		}
	}
}

// metrics that are served, as name|type|labels|help, sorted.
func metrics(t *testing.T, url string) []string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	help := regexp.MustCompile(`(?m)^# HELP (aviary_\w+) (.+)\n# TYPE \w+ (\w+)\n[^{\n]+(?:\{(.+)\})? `)
	for _, m := range help.FindAllStringSubmatch(string(body), -1) {
		var labels []string
		for _, l := range regexp.MustCompile(`(\w+)=`).FindAllStringSubmatch(m[4], -1) {
			if l[1] != "le" {
				labels = append(labels, l[1])
			}
		}
		all = append(all, strings.Join([]string{m[1], m[3], strings.Join(labels, " "), m[2]}, "|"))
	}
	return all
}

// TestTheReadmeSaysHowLong holds a time to each of the two commands.
func TestTheReadmeSaysHowLong(t *testing.T) {
	for _, command := range []string{"make demo", "make test"} {
		row := regexp.MustCompile("(?m)^\\| `" + command + "` \\|.*\\| (\\d+) (s|min) \\|$").FindStringSubmatch(read(t, "README.md"))
		if row == nil {
			t.Errorf("README.md does not say how long `%s` takes", command)
			continue
		}
		if n, err := strconv.Atoi(row[1]); err != nil || n == 0 {
			t.Errorf("`%s` takes %s %s", command, row[1], row[2])
		}
	}
}

// TestDocsHaveWhatClientsLack compares the words under LACKS with those of internal/app.
func TestDocsHaveWhatClientsLack(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "internal/app/views.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{}
	for _, d := range f.Decls {
		if lacks, ok := d.(*ast.FuncDecl); ok && lacks.Name.Name == "lacks" {
			ast.Inspect(lacks, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					words[strings.Trim(lit.Value, `"`)] = true
				}
				return true
			})
		}
	}
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^- \*\*([a-z-]+)\*\*: `).FindAllStringSubmatch(read(t, "docs/nets.md"), -1) {
		documented = append(documented, m[1])
	}
	slices.Sort(documented)
	if told := slices.Sorted(maps.Keys(words)); len(told) == 0 || !slices.Equal(documented, told) {
		t.Errorf("docs/nets.md explains %v, aviary proxies shows %v", documented, told)
	}
}
