package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func proxiesCommand() *cobra.Command {
	var c client
	var o output
	var region, service string
	cmd := &cobra.Command{
		Use:   "proxies",
		Short: "Show the connected proxies: what they acknowledged, refused and lack",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				resp, err := api.ListProxies(ctx, &aviaryv1.ListProxiesRequest{Region: region, Service: service})
				if err != nil {
					return err
				}
				if len(resp.GetProxies()) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "none is connected")
				}
				return o.proxies(cmd.OutOrStdout(), resp.GetProxies())
			})
		},
	}
	c.flags(cmd)
	o.flag(cmd, "table", "json", "name")
	cmd.Flags().StringVar(&region, "region", "", "those of one region")
	cmd.Flags().StringVar(&service, "service", "", "those of one service")
	return cmd
}

func (o *output) proxies(w io.Writer, all []*aviaryv1.ProxyStatus) error {
	switch {
	case o.form == "json":
		list, err := messages(all)
		if err != nil {
			return err
		}
		return writeJSON(w, list)
	case o.form == "name":
		for _, p := range all {
			fmt.Fprintln(w, p.GetName())
		}
		return nil
	case len(all) == 0:
		return nil
	}
	rows := [][]string{{"PROXY", "REGION", "SERVICE", "AGENT", "TRANSPORT", "STATE", "LEASE UNTIL", "LACKS"}}
	var refused []string
	for _, p := range all {
		for _, t := range p.GetTypes() {
			if t.GetNack() != "" {
				refused = append(refused, fmt.Sprintf("%s refused %s %s at %s: %s", p.GetName(), t.GetType(), t.GetSentVersion(), moment(t.GetNacked()), t.GetNack()))
			}
		}
		rows = append(rows, []string{
			p.GetName(), p.GetRegion(), p.GetService(), p.GetAgent(), p.GetTransport(), states(p.GetTypes()),
			moment(p.GetLeaseUntil()), strings.Join(p.GetLacks(), ","),
		})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for _, line := range refused {
		fmt.Fprintln(w, line)
	}
	return nil
}

// states is "SYNCED" when all types are, else what each one that is not is.
func states(types []*aviaryv1.TypeStatus) string {
	var out []string
	for _, t := range types {
		if t.GetState() != aviaryv1.SyncState_SYNC_STATE_SYNCED {
			out = append(out, t.GetType()+"="+strings.TrimPrefix(t.GetState().String(), "SYNC_STATE_"))
		}
	}
	switch {
	case len(types) == 0:
		return ""
	case len(out) == 0:
		return "SYNCED"
	}
	return strings.Join(out, ",")
}
