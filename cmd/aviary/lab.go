package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aviary-mesh/aviary/internal/app"
	"github.com/aviary-mesh/aviary/internal/lab"
)

func labCommand() *cobra.Command {
	var logs string
	cmd := &cobra.Command{
		Use:   "lab SCENARIO | FILE",
		Short: "Play a scenario with real Envoys on this machine",
		Long: "Play a scenario on this machine, on loopback alone: a control plane of its own, real Envoys, sample services that\n" +
			"fail on command and users at a fixed rate. What the scenario expects is checked; nothing is left running.\n\n" +
			"Scenarios: " + strings.Join(lab.Scenarios(), ", ") + ".",
		Example:   "  aviary lab demo\n  aviary lab ./mine.yaml --logs ./logs",
		Args:      cobra.ExactArgs(1),
		ValidArgs: lab.Scenarios(),
		RunE: func(cmd *cobra.Command, args []string) error {
			scenario, err := lab.LoadScenario(args[0])
			if err != nil {
				return &exitError{exitUsage, err}
			}
			binary, err := os.Executable()
			if err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "aviary-lab-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			log := io.Discard
			if logs != "" {
				if err := os.MkdirAll(logs, 0o755); err != nil {
					return err
				}
				f, err := os.Create(filepath.Join(logs, "control-plane.log"))
				if err != nil {
					return err
				}
				defer f.Close()
				log = f
			}
			plane, err := app.NewChild(binary, dir, log)
			if err != nil {
				return err
			}
			defer plane.Close()
			result, err := lab.Run(cmd.Context(), scenario, plane, cmd.OutOrStdout())
			if err != nil {
				return err
			}
			if !result.OK() {
				return errors.New("the scenario did not go as it expects")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&logs, "logs", "", "directory for the control plane's log")
	return cmd
}
