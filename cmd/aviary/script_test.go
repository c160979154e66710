package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/aviary-mesh/aviary/internal/store"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"aviary": main})
}

// TestScripts runs testdata/*.txtar, each against a control plane of its own. Beside testscript's own commands:
//
//	exits CODE ARG…       run aviary, which exits with that code
//	status FILE           the status of a rollout, as JSON, is this from now on
//	proxies FILE          these proxies are connected
//	regions FILE          these are the regions
//	refuse TEXT           acts are refused from now on
//	event ROLLOUT REASON MESSAGE
//	once FILE TEXT        wait until the file holds the text
//	stop                  the control plane goes away
func TestScripts(t *testing.T) {
	var planes sync.Map // by the script's directory
	of := func(ts *testscript.TestScript) *plane {
		p, ok := planes.Load(ts.Getenv("WORK"))
		if !ok {
			ts.Fatalf("this script has no control plane")
		}
		return p.(*plane)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			p, err := servePlane(filepath.Join(env.WorkDir, ".store"))
			if err != nil {
				return err
			}
			env.Defer(p.stop)
			planes.Store(env.WorkDir, p)
			env.Setenv("AVIARY_ADDRESS", p.address)
			env.Setenv("AVIARY_AUTHOR", "ann")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				code := 0
				var exit interface{ ExitCode() int }
				if err := ts.Exec("aviary", args[1:]...); errors.As(err, &exit) {
					code = exit.ExitCode()
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if fmt.Sprint(code) != args[0] {
					ts.Fatalf("exit code %d, want %s", code, args[0])
				}
			},
			"status": func(ts *testscript.TestScript, _ bool, args []string) {
				st := &aviaryv1.RolloutStatus{}
				ts.Check(protojson.Unmarshal([]byte(ts.ReadFile(args[0])), st))
				p := of(ts)
				p.change(func() { p.statuses[st.GetName()] = st })
			},
			"proxies": func(ts *testscript.TestScript, _ bool, args []string) {
				list := &aviaryv1.ListProxiesResponse{}
				ts.Check(protojson.Unmarshal([]byte(ts.ReadFile(args[0])), list))
				p := of(ts)
				p.change(func() { p.proxies = list.GetProxies() })
			},
			"regions": func(ts *testscript.TestScript, _ bool, args []string) {
				list := &aviaryv1.ListRegionsResponse{}
				ts.Check(protojson.Unmarshal([]byte(ts.ReadFile(args[0])), list))
				p := of(ts)
				p.change(func() { p.regions = list.GetRegions() })
			},
			"refuse": func(ts *testscript.TestScript, _ bool, args []string) {
				p := of(ts)
				p.change(func() { p.refusal = args[0] })
			},
			"event": func(ts *testscript.TestScript, _ bool, args []string) {
				_, err := of(ts).store.Append(context.Background(), args[0], store.Event{
					At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Region: "eu", Type: "Halted", Reason: args[1], Message: args[2],
				})
				ts.Check(err)
			},
			"once": func(ts *testscript.TestScript, _ bool, args []string) {
				for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
					b, err := os.ReadFile(ts.MkAbs(args[0]))
					if strings.Contains(string(b), args[1]) {
						return
					}
					if time.Now().After(deadline) {
						ts.Fatalf("%s holds %q (%v), want %q", args[0], b, err, args[1])
					}
				}
			},
			"stop": func(ts *testscript.TestScript, _ bool, _ []string) { of(ts).stop() },
		},
	})
}
