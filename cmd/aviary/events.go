package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func eventsCommand() *cobra.Command {
	var c client
	var o output
	var follow bool
	cmd := &cobra.Command{
		Use:   "events [ROLLOUT]",
		Short: "Show what happened to a rollout and why, or to all of them",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			if follow && !cmd.Flags().Changed("timeout") {
				c.timeout = 0
			}
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				if !follow {
					resp, err := api.ListEvents(ctx, &aviaryv1.ListEventsRequest{Rollout: name})
					if err != nil {
						return err
					}
					for _, e := range resp.GetEvents() {
						if err := o.event(cmd.OutOrStdout(), e); err != nil {
							return err
						}
					}
					return nil
				}
				stream, err := api.WatchEvents(ctx, &aviaryv1.WatchEventsRequest{Rollout: name})
				if err != nil {
					return err
				}
				for {
					resp, err := stream.Recv()
					if errors.Is(err, io.EOF) {
						return nil
					}
					if err != nil {
						return err
					}
					if err := o.event(cmd.OutOrStdout(), resp.GetEvent()); err != nil {
						return err
					}
				}
			})
		},
	}
	c.flags(cmd)
	o.flag(cmd, "text", "json")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new events until interrupted")
	return cmd
}

func (o *output) event(w io.Writer, e *aviaryv1.Event) error {
	if o.form == "json" {
		list, err := messages([]*aviaryv1.Event{e})
		if err != nil {
			return err
		}
		return writeJSON(w, list[0])
	}
	parts := []string{e.GetRollout()}
	if e.GetRegion() != "" {
		parts = append(parts, e.GetRegion())
	}
	what := []string{e.GetType()}
	for _, s := range []string{e.GetReason(), e.GetMessage()} {
		if s != "" {
			what = append(what, s)
		}
	}
	by := ""
	if e.GetBy() != "" {
		by = " (by " + e.GetBy() + ")"
	}
	_, err := fmt.Fprintf(w, "%s %s: %s%s\n", moment(e.GetAt()), strings.Join(parts, " "), strings.Join(what, ": "), by)
	return err
}
