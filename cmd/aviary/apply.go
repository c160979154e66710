package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func applyCommand() *cobra.Command {
	var c client
	var o output
	var paths []string
	var dry bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIRECTORY|-",
		Short: "Declare documents: all of them or, when one has a problem, none",
		Long: "Declare documents, in YAML or JSON. All of them are applied or, when one has a problem, none; every problem is\n" +
			"told with its file, line and field. The same content applied again changes nothing.",
		Example: "  aviary apply -f mesh/ --reason 'checkout v42'\n  aviary get services -o yaml | aviary apply -f - --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := read(cmd.InOrStdin(), paths)
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				resp, err := api.Apply(ctx, &aviaryv1.ApplyRequest{Files: files, DryRun: dry, Author: c.by(), Reason: c.reason})
				if err != nil {
					return err
				}
				return o.applied(cmd.OutOrStdout(), resp.GetDocuments(), dry)
			})
		},
	}
	c.actFlags(cmd)
	o.flag(cmd, "text", "json", "name")
	cmd.Flags().StringArrayVarP(&paths, "file", "f", nil, "a file, a directory (its .yaml, .yml and .json files) or - for standard input; may be repeated")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would happen and change nothing")
	_ = cmd.MarkFlagRequired("file")
	return cmd
}

// read takes the content of files, of the files of directories in the order of their names, and of standard input.
func read(in io.Reader, paths []string) ([]*aviaryv1.File, error) {
	var files []*aviaryv1.File
	for _, path := range paths {
		if path == "-" {
			content, err := io.ReadAll(in)
			if err != nil {
				return nil, fmt.Errorf("standard input: %w", err)
			}
			files = append(files, &aviaryv1.File{Name: "<stdin>", Content: content})
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		names := []string{path}
		if info.IsDir() {
			if names, err = documentsIn(path); err != nil {
				return nil, err
			}
		}
		for _, name := range names {
			content, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			files = append(files, &aviaryv1.File{Name: name, Content: content})
		}
	}
	return files, nil
}

func documentsIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no .yaml, .yml or .json file", dir)
	}
	return names, nil
}

// applied tells what became of documents.
func (o *output) applied(w io.Writer, docs []*aviaryv1.Applied, dry bool) error {
	if o.form == "json" {
		list, err := messages(docs)
		if err != nil {
			return err
		}
		return writeJSON(w, list)
	}
	note := ""
	if dry {
		note = " (dry run: nothing was changed)"
	}
	for _, d := range docs {
		if o.form == "name" {
			fmt.Fprintf(w, "%s/%s\n", d.GetKind(), d.GetName())
			continue
		}
		fmt.Fprintf(w, "%s/%s %s, revision %d%s\n", d.GetKind(), d.GetName(),
			strings.ToLower(word(d.GetOutcome().String(), "OUTCOME_")), d.GetRevision(), note)
	}
	return nil
}
