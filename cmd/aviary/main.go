package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal kills, as it would without us.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, talk io.Writer) int {
	root := newRoot()
	started := false
	note(root, &started)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(talk)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !started {
		err = &exitError{exitUsage, fmt.Errorf("%w\nsee: %s --help", err, cmd.CommandPath())}
	}
	fmt.Fprintf(talk, "aviary: %v\n", err)
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitFailed
}

// note sets started when a verb begins: what fails before that is the command line.
func note(cmd *cobra.Command, started *bool) {
	if verb := cmd.RunE; verb != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return verb(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		note(sub, started)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "aviary",
		Short:         "A multi-region canary control plane for Envoy meshes",
		Long:          "A multi-region canary control plane for Envoy meshes.\n\n" + exitCodes,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		applyCommand(), getCommand(), historyCommand(), revertCommand(), deleteCommand(),
		serveCommand(), rehearseCommand(), rolloutCommand(), eventsCommand(), regionsCommand(), proxiesCommand(), bootstrapCommand(), versionCommand(),
	)
	return root
}
