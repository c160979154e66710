package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/aviary-mesh/aviary/internal/app"
	"github.com/aviary-mesh/aviary/internal/lab"
)

func rehearseCommand() *cobra.Command {
	r := &rehearsal{}
	cmd := &cobra.Command{
		Use:     "rehearse [SCENARIO | all | FILE]",
		Aliases: []string{"lab"},
		Short:   "Play a rollout and its faults with real Envoys on this machine",
		Long: "Play a scenario on this machine, on loopback alone: a control plane of its own, real Envoys, sample services that\n" +
			"fail on command and users at a fixed rate. What the scenario expects is checked, and what the policy promises:\n" +
			"how soon a version is given up (rollback.within, lease.ttl), and how long a share is held before it rises. The exit\n" +
			"code is 1 when an expectation or a limit was broken. Nothing is left running.\n\n" +
			"Without a name it lists the scenarios. FILE is a scenario of your own (.yaml).",
		Example: "  aviary rehearse three-regions\n  aviary rehearse bad-everywhere --policy canary.yaml --speed 60\n" +
			"  aviary rehearse all -o json > rehearsal.json",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: append(lab.Scenarios(), "all"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listScenarios(cmd.OutOrStdout())
			}
			return r.run(cmd.Context(), args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	r.output.flag(cmd, "text", "json")
	cmd.Flags().Float64Var(&r.speed, "speed", 0, "divide the policy's times of patience by this: holds of steps and shadows, bakes of waves (default the scenario's)")
	cmd.Flags().StringVar(&r.policy, "policy", "", "file with a policy of yours, in place of the scenario's: the one of the same name, or the only one")
	cmd.Flags().StringVar(&r.logs, "logs", "", "directory for the control plane's log, a file for each scenario")
	return cmd
}

// listScenarios writes the name and the first sentence of each.
func listScenarios(out io.Writer) error {
	rows := [][]string{{"SCENARIO", "WHAT HAPPENS"}}
	for _, name := range lab.Scenarios() {
		s, err := lab.LoadScenario(name)
		if err != nil {
			return err
		}
		rows = append(rows, []string{name, s.Short()})
	}
	return table(out, rows)
}

// rehearsal is the flags of the verb.
type rehearsal struct {
	output
	speed        float64
	policy, logs string
}

func (r *rehearsal) run(ctx context.Context, name string, out, talk io.Writer) error {
	names := []string{name}
	if name == "all" {
		names = lab.Scenarios()
	}
	scenarios, err := r.load(names)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	story := out
	if r.form == "json" {
		story = talk
	}
	var reports []lab.Record
	for _, s := range scenarios {
		result, err := r.play(ctx, s, story)
		if err != nil {
			return err
		}
		reports = append(reports, result.Record())
	}
	if r.form == "json" {
		if err := writeJSON(out, reports); err != nil {
			return err
		}
	} else if len(reports) > 1 {
		if err := tableOf(reports, out); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(reports, func(r lab.Record) bool { return !r.OK }) {
		return errors.New("an expectation or a limit was broken")
	}
	return nil
}

// load reads the scenarios, with the speed and the policy that they are to have.
func (r *rehearsal) load(names []string) ([]*lab.Scenario, error) {
	var policy []byte
	var err error
	if r.policy != "" {
		if policy, err = os.ReadFile(r.policy); err != nil {
			return nil, fmt.Errorf("--policy: %w", err)
		}
	}
	if r.speed < 0 {
		return nil, fmt.Errorf("--speed %g: expected more than 0", r.speed)
	}
	var all []*lab.Scenario
	for _, name := range names {
		s, err := lab.LoadScenario(name)
		if err != nil {
			return nil, err
		}
		if r.speed > 0 {
			s.Speed = r.speed
		}
		if policy != nil {
			if err := s.UsePolicy(policy); err != nil {
				return nil, fmt.Errorf("--policy %s: %w", r.policy, err)
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// play runs one scenario against a control plane of its own.
func (r *rehearsal) play(ctx context.Context, s *lab.Scenario, story io.Writer) (lab.Result, error) {
	binary, err := os.Executable()
	if err != nil {
		return lab.Result{}, err
	}
	dir, err := os.MkdirTemp("", "aviary-rehearse-")
	if err != nil {
		return lab.Result{}, err
	}
	defer os.RemoveAll(dir)
	log := io.Discard
	if r.logs != "" {
		if err := os.MkdirAll(r.logs, 0o755); err != nil {
			return lab.Result{}, err
		}
		f, err := os.Create(filepath.Join(r.logs, s.Name+".log"))
		if err != nil {
			return lab.Result{}, err
		}
		defer f.Close()
		log = f
	}
	plane, err := app.NewChild(binary, dir, log)
	if err != nil {
		return lab.Result{}, err
	}
	defer plane.Close()
	return lab.Run(ctx, s, plane, story)
}

// tableOf writes one line a scenario.
func tableOf(reports []lab.Record, out io.Writer) error {
	rows := [][]string{{"SCENARIO", "TOOK", "REQUESTS", "FAILED", "EXPECTATIONS", "LIMITS", ""}}
	for _, r := range reports {
		held, broken, verdict := 0, 0, "ok"
		for _, c := range r.Expectations {
			if c.OK {
				held++
			}
		}
		for _, f := range r.Falls {
			if f.Broken {
				broken++
			}
		}
		for _, h := range r.Holds {
			if h.Broken {
				broken++
			}
		}
		if !r.OK {
			verdict = "BROKEN"
		}
		rows = append(rows, []string{
			r.Scenario, (time.Duration(r.Seconds * float64(time.Second))).Round(time.Second).String(), fmt.Sprint(r.Requests),
			fmt.Sprint(r.Failed), fmt.Sprintf("%d of %d", held, len(r.Expectations)),
			fmt.Sprintf("%d of %d", len(r.Falls)+len(r.Holds)-broken, len(r.Falls)+len(r.Holds)), verdict,
		})
	}
	fmt.Fprintln(out)
	return table(out, rows)
}
