package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
)

func bootstrapCommand() *cobra.Command {
	var o bootstrap.Options
	var tls bootstrap.TLS
	cmd := &cobra.Command{
		Use:   "bootstrap --region REGION --service SERVICE",
		Short: "Print the configuration that a sidecar or gateway starts with",
		Example: "  aviary bootstrap --region eu-west --service checkout --zone a > envoy.json && envoy -c envoy.json\n" +
			"  aviary bootstrap --region eu-west --service edge --gateway --control-plane aviary.eu-west:18000 --control-plane aviary.us-east:18000 \\\n" +
			"    --ca ca.pem --cert cert.pem --key key.pem --server-name spiffe://mesh.example/aviary",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if tls != (bootstrap.TLS{}) {
				o.TLS = &tls
			}
			if o.ID == "" {
				host, err := os.Hostname()
				if err != nil {
					return fmt.Errorf("--id: the host has no name to make one from: %w", err)
				}
				o.ID = o.Service + "@" + host
			}
			o.Edges = signal.Edges
			out, err := bootstrap.Render(o)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if err := writeSecrets(o); err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Region, "region", "", "region of the proxy (with TLS, as its certificate says)")
	f.StringVar(&o.Service, "service", "", "service whose calls the proxy carries (with TLS, as its certificate says)")
	f.StringVar(&o.Zone, "zone", "", "zone of the proxy within its region")
	f.BoolVar(&o.Gateway, "gateway", false, "an edge proxy with a public listener, in place of a sidecar's on loopback")
	f.StringVar(&o.ID, "id", "", "name of the proxy; no two that run may share it (default SERVICE@HOSTNAME)")
	f.StringSliceVar(&o.Servers, "control-plane", []string{"127.0.0.1:18000"}, "host:port of a control plane's xDS; repeat it for every replica, then those of another region")
	f.BoolVar(&o.Plaintext, "plaintext", false, "talk without TLS to control planes that are not on this machine")
	f.StringVar(&tls.Authority, "ca", "", "file with the authority of the control planes' certificates, as the proxy sees it")
	f.StringVar(&tls.Certificate, "cert", "", "file with the proxy's certificate")
	f.StringVar(&tls.Key, "key", "", "file with the certificate's key")
	f.StringVar(&tls.Server, "server-name", "", "who the control plane must be: a URI (spiffe://…) or a DNS name in its certificate")
	f.StringVar(&tls.SecretsDir, "secrets-dir", "", "directory to write the proxy's secrets to, so that it follows renewed certificates without a restart")
	f.IntVar(&o.Port, "port", 0, "port of the listener that applications send to (default 15001, a gateway's 8080)")
	f.DurationVar(&o.Flush, "flush", 0, "time between two reports of telemetry, from 100ms to 5m (default 1s)")
	f.StringVar(&o.Admin, "envoy-admin", "", "address of Envoy's own admin interface: a loopback host:port or the path of a socket (default none)")
	_ = cmd.MarkFlagRequired("region")
	_ = cmd.MarkFlagRequired("service")
	return cmd
}

func writeSecrets(o bootstrap.Options) error {
	secrets, err := bootstrap.Secrets(o)
	if err != nil || len(secrets) == 0 {
		return err
	}
	err = os.MkdirAll(o.TLS.SecretsDir, 0o755)
	for name, content := range secrets {
		err = errors.Join(err, os.WriteFile(filepath.Join(o.TLS.SecretsDir, name), content, 0o644))
	}
	if err != nil {
		return fmt.Errorf("--secrets-dir %s: %w", cmp.Or(o.TLS.SecretsDir, "."), err)
	}
	return nil
}
