package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func versionCommand() *cobra.Command {
	var c client
	var server bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program, and with --server that of the control plane",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "aviary %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			if !server {
				return nil
			}
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				v, err := api.GetVersion(ctx, &aviaryv1.GetVersionRequest{})
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "control plane at %s: %s %s\n", c.address, v.GetVersion(), v.GetGoVersion())
				}
				return err
			})
		},
	}
	c.flags(cmd)
	cmd.Flags().BoolVar(&server, "server", false, "ask the control plane too")
	return cmd
}
