package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func historyCommand() *cobra.Command {
	var c client
	var o output
	cmd := &cobra.Command{
		Use:   "history KIND NAME",
		Short: "Show every revision of a document, newest first",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindOf(args[0])
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				resp, err := api.ListRevisions(ctx, &aviaryv1.ListRevisionsRequest{Kind: kind, Name: args[1]})
				if err != nil {
					return err
				}
				if o.form == "json" {
					list, err := messages(resp.GetRevisions())
					if err != nil {
						return err
					}
					return writeJSON(cmd.OutOrStdout(), list)
				}
				rows := [][]string{{"REVISION", "HASH", "CHANGED", "BY", "REASON"}}
				for _, r := range resp.GetRevisions() {
					hash := r.GetHash()
					if r.GetDeleted() {
						hash = "(deleted)"
					}
					rows = append(rows, []string{strconv.FormatInt(r.GetNumber(), 10), hash[:min(12, len(hash))], moment(r.GetAt()), r.GetAuthor(), r.GetReason()})
				}
				return table(cmd.OutOrStdout(), rows)
			})
		},
	}
	c.flags(cmd)
	o.flag(cmd, "table", "json")
	return cmd
}

func revertCommand() *cobra.Command {
	var c client
	var o output
	var revision int64
	cmd := &cobra.Command{
		Use:   "revert KIND NAME",
		Short: "Go back to an earlier content of a document, in a new revision",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindOf(args[0])
			if err != nil {
				return err
			}
			if revision < 0 || cmd.Flags().Changed("to") && revision == 0 {
				return &exitError{exitUsage, fmt.Errorf("--to %d: revisions count from 1", revision)}
			}
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				resp, err := api.Revert(ctx, &aviaryv1.RevertRequest{Kind: kind, Name: args[1], Revision: revision, Author: c.by(), Reason: c.reason})
				if err != nil {
					return err
				}
				return o.applied(cmd.OutOrStdout(), []*aviaryv1.Applied{resp.GetDocument()}, false)
			})
		},
	}
	c.actFlags(cmd)
	o.flag(cmd, "text", "json", "name")
	cmd.Flags().Int64Var(&revision, "to", 0, "the revision whose content is wanted (default the newest with another content)")
	return cmd
}

func deleteCommand() *cobra.Command {
	var c client
	var o output
	cmd := &cobra.Command{
		Use:   "delete KIND NAME",
		Short: "Take a document away that no other one names; its history stays",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindOf(args[0])
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				resp, err := api.DeleteDocument(ctx, &aviaryv1.DeleteDocumentRequest{Kind: kind, Name: args[1], Author: c.by(), Reason: c.reason})
				if err != nil {
					return err
				}
				return o.applied(cmd.OutOrStdout(), []*aviaryv1.Applied{resp.GetDocument()}, false)
			})
		},
	}
	c.actFlags(cmd)
	o.flag(cmd, "text", "json", "name")
	return cmd
}
