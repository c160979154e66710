// Package rehearsal plays scenarios by the command, as a person and a CI do.
package rehearsal

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
)

func TestMain(m *testing.M) { rig.Main(m) }

// rehearse plays a scenario and returns what it wrote for programs and for people, and its exit code.
func rehearse(t *testing.T, args ...string) (lab.Record, string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), rig.Binary(t), append([]string{"rehearse", "-o", "json"}, args...)...)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	var records []lab.Record
	if jsonErr := json.Unmarshal(out.Bytes(), &records); jsonErr != nil || len(records) != 1 {
		t.Fatalf("%v, %d records, %v\n%s\n%s", jsonErr, len(records), err, out.String(), talk.String())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(talk.String())
		}
	})
	return records[0], talk.String(), cmd.ProcessState.ExitCode()
}

// TestScenarios plays every scenario in the long runs, else the demo and one of each kind.
func TestScenarios(t *testing.T) {
	names := []string{"demo", "halt-stop", "bad-dependency", "failover-part", "shadow", "rollback"}
	if os.Getenv("AVIARY_LONG") != "" {
		names = lab.Scenarios()
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			if r, _, code := rehearse(t, name); code != 0 || !r.OK || r.Scenario != name || r.Requests == 0 {
				t.Errorf("exit code %d, ok %v, %d requests", code, r.OK, r.Requests)
			}
		})
	}
}

// TestOwnPolicy rehearses a policy that is patient, sixty times faster, and one whose limit nothing can keep.
func TestOwnPolicy(t *testing.T) {
	const policy = `apiVersion: aviary.dev/v1
kind: Policy
metadata: {name: ours}
spec:
  availability: {target: "99.9%", window: 1h}
  steps:
  - {share: "25%", hold: 3m}
  - {share: "75%", hold: 2m}
  lease: {ttl: 5s}
`
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	r, _, code := rehearse(t, "three-regions", "--speed", "60", "--policy", file(policy+"  rollback: {within: 5s}\n"))
	if code != 0 || !r.OK {
		t.Errorf("exit code %d: %+v", code, r)
	}
	fell := slices.IndexFunc(r.Falls, func(f lab.RecordFall) bool { return f.Region == "us" && f.Version == "v2" })
	if fell < 0 || r.Falls[fell].Limit != 5 || r.Falls[fell].Broken || !r.Falls[fell].Ended || !strings.Contains(r.Falls[fell].Cause, "500") {
		t.Errorf("falls %+v", r.Falls)
	}
	for share, hold := range map[float64]float64{.25: 3, .75: 2} {
		if !slices.ContainsFunc(r.Holds, func(h lab.RecordHold) bool {
			return h.Region == "eu" && h.Share == share && h.Declared == hold && h.Held >= hold-.1 && h.Held < hold+5 && !h.Broken
		}) {
			t.Errorf("no hold of %v in eu for %v s: %+v", share, hold, r.Holds)
		}
	}
	r, talk, code := rehearse(t, "three-regions", "--speed", "60", "--policy", file(policy+"  rollback: {within: 1ms}\n"))
	if code != 1 || r.OK || !strings.Contains(talk, "BROKEN") || !strings.Contains(talk, "an expectation or a limit was broken") {
		t.Errorf("a limit of 1ms: exit code %d, ok %v", code, r.OK)
	}
}
