package store_test

import (
	"os"
	"testing"
)

func shortDir(t *testing.T) string {
	t.Helper()
	// A socket's path is bounded; that of a test's own directory may be too long.
	dir, err := os.MkdirTemp("", "av")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
