package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func statusCommand() *cobra.Command {
	var c client
	var o output
	var regions []string
	var watch bool
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show where a rollout stands, or every rollout",
		Long: "Show where a rollout stands, or every rollout.\n\n" +
			"With --watch, tell each change until every region is promoted (exit code 0) or one was halted, aborted or rolled\n" +
			"back (5). --timeout bounds the wait then (4), and has no default.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				if watch || len(regions) > 0 {
					return &exitError{exitUsage, errors.New("--watch and --region are of one rollout: give its name")}
				}
				return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
					resp, err := api.ListRollouts(ctx, &aviaryv1.ListRolloutsRequest{})
					if err != nil {
						return err
					}
					return o.rollouts(cmd.OutOrStdout(), cmd.ErrOrStderr(), resp.GetRollouts())
				})
			}
			if watch {
				w := &watcher{client: &c, output: &o, name: args[0], regions: regions, out: cmd.OutOrStdout(), talk: cmd.ErrOrStderr()}
				if cmd.Flags().Changed("timeout") {
					w.within = c.timeout
				}
				return w.run(cmd.Context())
			}
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				resp, err := api.GetRollout(ctx, &aviaryv1.GetRolloutRequest{Rollout: args[0]})
				if err != nil {
					return err
				}
				if err := known(resp.GetRollout(), regions); err != nil {
					return err
				}
				return o.status(cmd.OutOrStdout(), resp.GetRollout(), regions)
			})
		},
	}
	c.flags(cmd)
	o.flag(cmd, "table", "json")
	cmd.Flags().StringSliceVar(&regions, "region", nil, "look at these regions alone; may be repeated (default every region)")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "tell each change until the rollout has ended")
	return cmd
}

// watcher follows one rollout to its end.
type watcher struct {
	*client
	*output
	name      string
	regions   []string
	within    time.Duration // 0: no bound
	out, talk io.Writer

	seen map[string]string // the line told last, by region
	last *aviaryv1.RolloutStatus
}

// run watches, and goes on watching when a control plane that had answered goes away: its successor answers soon.
func (w *watcher) run(ctx context.Context) error {
	w.client.timeout = 0
	if w.within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.within)
		defer cancel()
	}
	w.seen = map[string]string{}
	for {
		err := w.with(ctx, w.follow)
		var exit *exitError
		lost := errors.As(err, &exit) && exit.code == exitUnreachable
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			if w.last == nil {
				return &exitError{exitUnreachable, fmt.Errorf("no answer from the control plane at %s within %v", w.address, w.within)}
			}
			return &exitError{exitTimeout, fmt.Errorf("%s is not promoted after %v: %s", w.name, w.within, summary(w.last, w.regions))}
		case !lost || w.last == nil:
			return err
		}
		fmt.Fprintf(w.talk, "aviary: %v; waiting for it\n", strings.SplitN(err.Error(), "\n", 2)[0])
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (w *watcher) follow(ctx context.Context, api aviaryv1.AdminServiceClient) error {
	stream, err := api.WatchRollout(ctx, &aviaryv1.WatchRolloutRequest{Rollout: w.name})
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Unavailable, "the watch ended")
		}
		if err != nil {
			return err
		}
		w.last = resp.GetRollout()
		if err := known(w.last, w.regions); err != nil {
			return err
		}
		if err := w.tell(w.last); err != nil {
			return err
		}
		if done, err := ended(w.last, w.regions); done {
			return err
		}
	}
}

// tell writes a line for each region that changed.
func (w *watcher) tell(st *aviaryv1.RolloutStatus) error {
	if w.form == "json" {
		list, err := messages([]*aviaryv1.RolloutStatus{st})
		if err != nil {
			return err
		}
		compact, err := json.Marshal(list[0])
		if err == nil {
			_, err = fmt.Fprintf(w.out, "%s\n", compact)
		}
		return err
	}
	for _, r := range pick(st, w.regions) {
		line := fmt.Sprintf("%s: %s: %s, step %d of %d, %s intended, %s: %s", st.GetName(), r.GetRegion(), phase(r.GetPhase()),
			r.GetStep(), r.GetSteps(), intended(r), has(r), because(r))
		if w.seen[r.GetRegion()] != line {
			w.seen[r.GetRegion()] = line
			fmt.Fprintln(w.out, line)
		}
	}
	return nil
}

// ended is whether nothing is left to wait for; the error says when that is not good.
func ended(st *aviaryv1.RolloutStatus, regions []string) (bool, error) {
	promoted := true
	for _, r := range pick(st, regions) {
		switch r.GetPhase() {
		case aviaryv1.Phase_PHASE_HALTED, aviaryv1.Phase_PHASE_ABORTED, aviaryv1.Phase_PHASE_ROLLED_BACK:
			return true, &exitError{exitEnded, fmt.Errorf("%s will not be promoted in %s: %s: %s", st.GetName(), r.GetRegion(), phase(r.GetPhase()), because(r))}
		case aviaryv1.Phase_PHASE_PROMOTED:
		default:
			promoted = false
		}
	}
	return promoted, nil
}

func pick(st *aviaryv1.RolloutStatus, regions []string) []*aviaryv1.RegionStatus {
	var out []*aviaryv1.RegionStatus
	for _, r := range st.GetRegions() {
		if len(regions) == 0 || slices.Contains(regions, r.GetRegion()) {
			out = append(out, r)
		}
	}
	return out
}

// known says which of the regions that were asked for the rollout does not have.
func known(st *aviaryv1.RolloutStatus, regions []string) error {
	var has []string
	for _, r := range st.GetRegions() {
		has = append(has, r.GetRegion())
	}
	for _, r := range regions {
		if !slices.Contains(has, r) {
			return fmt.Errorf("%s has no region %q: it has %s", st.GetName(), r, strings.Join(has, ", "))
		}
	}
	return nil
}

func summary(st *aviaryv1.RolloutStatus, regions []string) string {
	var out []string
	for _, r := range pick(st, regions) {
		out = append(out, fmt.Sprintf("%s %s at %s (%s)", r.GetRegion(), phase(r.GetPhase()), intended(r), because(r)))
	}
	return strings.Join(out, ", ")
}

func phase(p aviaryv1.Phase) string { return word(p.String(), "PHASE_") }

func because(r *aviaryv1.RegionStatus) string {
	if r.GetMessage() == "" {
		return r.GetReason()
	}
	return r.GetReason() + ", " + r.GetMessage()
}

// intended is what the version should get: a share of the requests, or copies of them.
func intended(r *aviaryv1.RegionStatus) string {
	if r.GetPhase() == aviaryv1.Phase_PHASE_SHADOWING {
		return "shadow " + share(r.GetShadow())
	}
	return share(r.GetWeight())
}

func effective(r *aviaryv1.RegionStatus) string {
	switch {
	case r.GetProxies() == 0:
		return "no proxy"
	case r.GetEffectiveMin() == r.GetEffectiveMax():
		return share(r.GetEffectiveMin())
	}
	return share(r.GetEffectiveMin()) + " to " + share(r.GetEffectiveMax())
}

func has(r *aviaryv1.RegionStatus) string {
	if r.GetProxies() == 0 {
		return "no proxy to have it"
	}
	return effective(r) + " effective" + overdue(r)
}

// overdue is whether proxies still send to a version that they were to give up long ago.
func overdue(r *aviaryv1.RegionStatus) string {
	if r.GetOverdue() {
		return ", overdue"
	}
	return ""
}

// status writes one rollout.
func (o *output) status(w io.Writer, st *aviaryv1.RolloutStatus, regions []string) error {
	if o.form == "json" {
		list, err := messages([]*aviaryv1.RolloutStatus{st})
		if err != nil {
			return err
		}
		return writeJSON(w, list[0])
	}
	fmt.Fprintf(w, "%s: %s %s under %s: %s\n", st.GetName(), st.GetService(), st.GetVersion(), st.GetPolicy(), phase(st.GetPhase()))
	waves := slices.ContainsFunc(st.GetRegions(), func(r *aviaryv1.RegionStatus) bool { return r.GetWaves() > 1 })
	rows := [][]string{{"REGION", "PHASE", "STEP", "WEIGHT", "EFFECTIVE", "ACKED", "HELD", "TRIES", "STABLE", "REASON"}}
	if waves {
		rows[0] = slices.Insert(rows[0], 1, "WAVE")
	}
	for _, r := range pick(st, regions) {
		step := fmt.Sprintf("%d/%d", r.GetStep(), r.GetSteps())
		held, tries := "", ""
		if r.GetHold() != nil {
			held = short(r.GetHeld().AsDuration()) + "/" + short(r.GetHold().AsDuration())
			tries = fmt.Sprintf("%d/%d", r.GetTries(), r.GetMinTries())
		}
		row := []string{
			r.GetRegion(), phase(r.GetPhase()), step, intended(r), effective(r),
			fmt.Sprintf("%d/%d", r.GetProxiesAcked(), r.GetProxies()) + overdue(r), held, tries, r.GetStable(), because(r),
		}
		if waves {
			row = slices.Insert(row, 1, fmt.Sprintf("%d/%d", r.GetWave(), r.GetWaves()))
		}
		rows = append(rows, row)
	}
	return table(w, rows)
}

// rollouts writes a line for each.
func (o *output) rollouts(w, talk io.Writer, all []*aviaryv1.RolloutStatus) error {
	if o.form == "json" {
		list, err := messages(all)
		if err != nil {
			return err
		}
		return writeJSON(w, list)
	}
	if len(all) == 0 {
		fmt.Fprintln(talk, "there are none")
		return nil
	}
	rows := [][]string{{"ROLLOUT", "SERVICE", "VERSION", "PHASE", "REGIONS"}}
	for _, st := range all {
		var regions []string
		for _, r := range st.GetRegions() {
			regions = append(regions, r.GetRegion()+"="+intended(r))
		}
		rows = append(rows, []string{st.GetName(), st.GetService(), st.GetVersion(), phase(st.GetPhase()), strings.Join(regions, ",")})
	}
	return table(w, rows)
}
