package quickstart

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
)

func TestMain(m *testing.M) { rig.Main(m) }

// step is one block of commands and what the README shows after it, "" if nothing.
type step struct{ commands, shown string }

func steps(t *testing.T) []step {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Quick start")
	if !ok {
		t.Fatal("README.md has no quick start")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var all []step
	for _, block := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		switch {
		case block[1] == "sh":
			all = append(all, step{commands: block[2]})
		case len(all) > 0 && all[len(all)-1].shown == "":
			all[len(all)-1].shown = block[2]
		default:
			t.Fatalf("what is this block of the quick start: %q", block[2])
		}
	}
	return all
}

// elsewhere moves what the README puts on fixed ports to free ones: the commands name them by flags, which the README
// leaves to their defaults.
func elsewhere(t *testing.T) *strings.Replacer {
	t.Helper()
	ports := map[string]string{}
	for _, port := range []string{"18000", "18001", "18002", "15001", "9001", "9002"} {
		p, err := lab.NewPort()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		ports[port] = strconv.Itoa(p.Number())
	}
	t.Setenv("AVIARY_ADDRESS", "127.0.0.1:"+ports["18001"])
	pairs := []string{
		"aviary serve", fmt.Sprintf("aviary serve --xds 127.0.0.1:%s --admin 127.0.0.1:%s --http 127.0.0.1:%s", ports["18000"], ports["18001"], ports["18002"]),
		"aviary bootstrap", fmt.Sprintf("aviary bootstrap --control-plane 127.0.0.1:%s --port %s", ports["18000"], ports["15001"]),
	}
	for old, new := range ports {
		pairs = append(pairs, old, new)
	}
	return strings.NewReplacer(pairs...)
}

// clone is a directory that looks like a fresh one of the repository after `make build envoy`; its make does nothing.
func clone(t *testing.T) string {
	t.Helper()
	envoy, err := lab.FindEnvoy()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, target := range map[string]string{"bin/aviary": rig.Binary(t), ".tools/envoy/envoy": envoy} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "make"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// play runs the steps in one shell, as a person pastes them, and returns what each wrote.
func play(t *testing.T, all []step) []string {
	t.Helper()
	dir, move := clone(t), elsewhere(t)
	const end = "-- end of a step --"
	var script strings.Builder
	fmt.Fprintf(&script, "PATH=%q:$PATH\n", filepath.Join(dir, "bin")) // for make; what the README does to the path comes after
	for _, s := range all {
		fmt.Fprintf(&script, "%s\necho '%s'\n", move.Replace(s.commands), end)
	}
	out, err := os.CreateTemp(t.TempDir(), "seen")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	// A file and not a pipe: what the script leaves running must not keep it open.
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	group := cmd.Process.Pid
	cmd.Cancel = func() error { return syscall.Kill(-group, syscall.SIGKILL) }
	err = cmd.Wait()
	seen, readErr := os.ReadFile(out.Name())
	if err != nil || readErr != nil {
		_ = syscall.Kill(-group, syscall.SIGKILL)
		t.Fatalf("%v\n%s", errors.Join(err, ctx.Err(), readErr), seen)
	}
	// The last step stops everything; what a process left to its group takes a moment.
	for deadline := time.Now().Add(5 * time.Second); syscall.Kill(-group, 0) == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			left, _ := exec.Command("ps", "-o", "pid,args", "-g", strconv.Itoa(group)).CombinedOutput()
			_ = syscall.Kill(-group, syscall.SIGKILL)
			t.Errorf("the last step leaves running:\n%s", left)
			break
		}
	}
	t.Logf("%s", seen)
	return strings.Split(strings.TrimSuffix(string(seen), end+"\n"), end+"\n")
}

// varies is what may differ from run to run in what the README shows: times, hosts, counts, and which finding comes first,
// as that depends on which tries the canary had. Versions, shares, revisions and statuses may not.
var varies = []struct{ shown, stands, pattern string }{
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`, "<time>", `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`},
	{`front@\S+`, "<proxy>", `front@\S+`},
	{`^\d+ (v\d \d+)$`, "<count> $1", ``},
	{`\d+s/10m \d+/1`, "<held>/10m <count>/1", ``},
	{`(CanaryWorse|OverBudget|CanaryEjected).*`, "<finding>", `(CanaryWorse|OverBudget|CanaryEjected).*`},
	{``, "<count>", `\d+`},
	{``, "<held>", `[0-9.]+s`},
}

// shape is a pattern for a line that the README shows.
func shape(line string) *regexp.Regexp {
	line = strings.Join(strings.Fields(line), " ")
	for _, v := range varies {
		if v.shown != "" {
			line = regexp.MustCompile(v.shown).ReplaceAllString(line, v.stands)
		}
	}
	line = regexp.QuoteMeta(line)
	for _, v := range varies {
		if v.pattern != "" {
			line = strings.ReplaceAll(line, v.stands, v.pattern)
		}
	}
	return regexp.MustCompile("^" + line + "$")
}

func TestQuickStart(t *testing.T) {
	all := steps(t)
	seen := play(t, all)
	if len(seen) != len(all) {
		t.Fatalf("%d steps, %d ended", len(all), len(seen))
	}
	shown := 0
	for i, s := range all {
		var lines []string
		for line := range strings.Lines(seen[i]) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		for line := range strings.Lines(s.shown) {
			shown++
			if want := shape(line); !slices.ContainsFunc(lines, want.MatchString) {
				t.Errorf("after\n%s\nthe README shows\n%s\nbut seen was (want %s)\n%s", s.commands, line, want, seen[i])
			}
		}
		for _, line := range lines {
			if strings.Contains(line, "command not found") || regexp.MustCompile(`^\d+ (v1|v2)? ?(000|[345]\d\d)$`).MatchString(line) {
				t.Errorf("after\n%s\na user saw: %s", s.commands, line)
			}
		}
	}
	if shown < 15 {
		t.Errorf("the quick start shows %d lines only", shown)
	}
}
