package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aviary-mesh/aviary/internal/app"
)

func serveCommand() *cobra.Command {
	cfg := app.Config{Version: version}
	var tls app.TLS
	var level, format, dns string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a control plane",
		Long: "Run a control plane: xDS for the proxies, the admin API, metrics and health, until SIGINT or SIGTERM.\n\n" +
			"A stop in good order hands the leases of running canaries over to the next process, if that starts before they end.",
		Example: "  aviary serve --data-dir /var/lib/aviary\n" +
			"  aviary serve --data-dir /var/lib/aviary --xds 0.0.0.0:18000 --tls-cert cert.pem --tls-key key.pem --tls-ca ca.pem",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Log, err = logger(cmd, level, format); err != nil {
				return &exitError{exitUsage, err}
			}
			if dns != "" {
				if cfg.DNS, err = netip.ParseAddrPort(dns); err != nil {
					return &exitError{exitUsage, fmt.Errorf("--dns-server %q: expected IP:port, such as 10.0.0.2:53", dns)}
				}
			}
			if tls != (app.TLS{}) {
				cfg.TLS = &tls
			}
			a, err := app.New(cfg)
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "", "directory of the embedded store; one process at a time")
	f.StringVar(&cfg.XDS, "xds", app.DefaultXDS, "address that proxies connect to")
	f.StringVar(&cfg.Admin, "admin", app.DefaultAdmin, "address of the admin API")
	f.StringVar(&cfg.HTTP, "http", app.DefaultHTTP, "address of /metrics, /healthz and /readyz")
	f.StringVar(&dns, "dns-server", "", "IP:port of the DNS server that looks up names of endpoints (default the machine's)")
	f.StringVar(&tls.Certificate, "tls-cert", "", "file with the server's certificate")
	f.StringVar(&tls.Key, "tls-key", "", "file with the certificate's key")
	f.StringVar(&tls.Authority, "tls-ca", "", "file with the authority that signs the clients' certificates")
	f.BoolVar(&cfg.Plaintext, "plaintext", false, "serve without TLS on addresses that others can reach")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "text or json")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key", "tls-ca")
	_ = cmd.MarkFlagRequired("data-dir")
	return cmd
}

func logger(cmd *cobra.Command, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, fmt.Errorf("--log-level %s: want debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), o)), nil
	}
	return nil, fmt.Errorf("--log-format %s: want text or json", format)
}
