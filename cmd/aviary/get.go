package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// kindOf reads a kind as people write it: service, Services, all of them "" .
func kindOf(arg string) (string, error) {
	for kind, names := range map[string][]string{
		"Region": {"region", "regions"}, "Service": {"service", "services"},
		"Policy": {"policy", "policies"}, "Rollout": {"rollout", "rollouts"},
	} {
		for _, n := range names {
			if strings.EqualFold(arg, n) {
				return kind, nil
			}
		}
	}
	return "", &exitError{exitUsage, fmt.Errorf("there is no kind %q: it is one of region, service, policy, rollout", arg)}
}

func getCommand() *cobra.Command {
	var c client
	var o output
	var revision int64
	cmd := &cobra.Command{
		Use:     "get [KIND [NAME]]",
		Short:   "Show documents: all, those of a kind, or one",
		Example: "  aviary get\n  aviary get services\n  aviary get service checkout -o yaml --revision 3",
		Args:    cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind := ""
			if len(args) > 0 {
				var err error
				if kind, err = kindOf(args[0]); err != nil {
					return err
				}
			}
			if len(args) < 2 && cmd.Flags().Changed("revision") {
				return &exitError{exitUsage, fmt.Errorf("--revision is of one document: give its kind and name")}
			}
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				if len(args) == 2 {
					resp, err := api.GetDocument(ctx, &aviaryv1.GetDocumentRequest{Kind: kind, Name: args[1], Revision: revision})
					if err != nil {
						return err
					}
					return o.documents(cmd.OutOrStdout(), []*aviaryv1.Revision{resp.GetDocument()}, true)
				}
				resp, err := api.ListDocuments(ctx, &aviaryv1.ListDocumentsRequest{Kind: kind})
				if err != nil {
					return err
				}
				if len(resp.GetDocuments()) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "there are none")
				}
				return o.documents(cmd.OutOrStdout(), resp.GetDocuments(), false)
			})
		},
	}
	c.flags(cmd)
	o.flag(cmd, "table", "json", "yaml", "name")
	cmd.Flags().Int64Var(&revision, "revision", 0, "an old revision of one document; 0 is the newest")
	return cmd
}

func (o *output) documents(w io.Writer, docs []*aviaryv1.Revision, one bool) error {
	switch o.form {
	case "json":
		list := []any{}
		for _, d := range docs {
			var v any
			if err := yaml.Unmarshal([]byte(d.GetYaml()), &v); err != nil {
				return fmt.Errorf("%s/%s: %w", d.GetKind(), d.GetName(), err)
			}
			list = append(list, v)
		}
		if one {
			return writeJSON(w, list[0])
		}
		return writeJSON(w, list)
	case "yaml":
		for i, d := range docs {
			if i > 0 {
				fmt.Fprintln(w, "---")
			}
			fmt.Fprint(w, d.GetYaml())
		}
		return nil
	case "name":
		for _, d := range docs {
			fmt.Fprintf(w, "%s/%s\n", d.GetKind(), d.GetName())
		}
		return nil
	}
	if len(docs) == 0 {
		return nil
	}
	rows := [][]string{{"DOCUMENT", "REVISION", "CHANGED", "BY", "REASON"}}
	for _, d := range docs {
		rows = append(rows, []string{d.GetKind() + "/" + d.GetName(), strconv.FormatInt(d.GetNumber(), 10), moment(d.GetAt()), d.GetAuthor(), d.GetReason()})
	}
	return table(w, rows)
}
