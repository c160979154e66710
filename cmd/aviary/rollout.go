package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// act is one verb on a rollout, as the API has it.
type act func(ctx context.Context, api aviaryv1.AdminServiceClient, name string, regions []string, author, reason string) (*aviaryv1.RolloutStatus, error)

func rolloutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Act on a rollout, or see where it stands",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("expected a verb")
			}
			return fmt.Errorf("there is no verb %q", args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		statusCommand(),
		actCommand("start", "Begin the climb", func(ctx context.Context, api aviaryv1.AdminServiceClient, name string, regions []string, author, reason string) (*aviaryv1.RolloutStatus, error) {
			r, err := api.StartRollout(ctx, &aviaryv1.StartRolloutRequest{Rollout: name, Regions: regions, Author: author, Reason: reason})
			return r.GetRollout(), err
		}),
		actCommand("pause", "Stop the clock; the share stays while evidence is fresh", func(ctx context.Context, api aviaryv1.AdminServiceClient, name string, regions []string, author, reason string) (*aviaryv1.RolloutStatus, error) {
			r, err := api.PauseRollout(ctx, &aviaryv1.PauseRolloutRequest{Rollout: name, Regions: regions, Author: author, Reason: reason})
			return r.GetRollout(), err
		}),
		actCommand("resume", "Let a paused rollout go on", func(ctx context.Context, api aviaryv1.AdminServiceClient, name string, regions []string, author, reason string) (*aviaryv1.RolloutStatus, error) {
			r, err := api.ResumeRollout(ctx, &aviaryv1.ResumeRolloutRequest{Rollout: name, Regions: regions, Author: author, Reason: reason})
			return r.GetRollout(), err
		}),
		actCommand("abort", "Take the canary to zero, to stay there until a retry", func(ctx context.Context, api aviaryv1.AdminServiceClient, name string, regions []string, author, reason string) (*aviaryv1.RolloutStatus, error) {
			r, err := api.AbortRollout(ctx, &aviaryv1.AbortRolloutRequest{Rollout: name, Regions: regions, Author: author, Reason: reason})
			return r.GetRollout(), err
		}),
		actCommand("promote", "Make the canary the stable version now, without the steps that are left", func(ctx context.Context, api aviaryv1.AdminServiceClient, name string, regions []string, author, reason string) (*aviaryv1.RolloutStatus, error) {
			r, err := api.PromoteRollout(ctx, &aviaryv1.PromoteRolloutRequest{Rollout: name, Regions: regions, Author: author, Reason: reason})
			return r.GetRollout(), err
		}),
		actCommand("rollback", "Take the traffic back to the last known-good version", func(ctx context.Context, api aviaryv1.AdminServiceClient, name string, regions []string, author, reason string) (*aviaryv1.RolloutStatus, error) {
			r, err := api.RollbackRollout(ctx, &aviaryv1.RollbackRolloutRequest{Rollout: name, Regions: regions, Author: author, Reason: reason})
			return r.GetRollout(), err
		}),
		actCommand("retry", "Start what was halted, aborted or rolled back again, from the first step", func(ctx context.Context, api aviaryv1.AdminServiceClient, name string, regions []string, author, reason string) (*aviaryv1.RolloutStatus, error) {
			r, err := api.RetryRollout(ctx, &aviaryv1.RetryRolloutRequest{Rollout: name, Regions: regions, Author: author, Reason: reason})
			return r.GetRollout(), err
		}),
	)
	return cmd
}

func actCommand(verb, short string, do act) *cobra.Command {
	var c client
	var o output
	var regions []string
	cmd := &cobra.Command{
		Use:   verb + " NAME",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				st, err := do(ctx, api, args[0], regions, c.by(), c.reason)
				if err != nil {
					return err
				}
				return o.status(cmd.OutOrStdout(), st, regions)
			})
		},
	}
	c.actFlags(cmd)
	o.flag(cmd, "table", "json")
	cmd.Flags().StringSliceVar(&regions, "region", nil, "act in these regions alone; may be repeated (default every region)")
	return cmd
}
