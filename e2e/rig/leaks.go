package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.uber.org/goleak"
)

// leftovers are the processes, the files in dir and the goroutines that the tests of a package left behind.
func leftovers(dir string) []string {
	var left []string
	// The kernel takes a killed child's children a moment after it.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if left = children(); len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		left = append(left, err.Error())
	}
	for _, f := range files {
		left = append(left, filepath.Join(dir, f.Name()))
	}
	if err := goleak.Find(); err != nil {
		left = append(left, err.Error())
	}
	return left
}

// children of this process, with their command lines.
func children() []string {
	var out []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// pid (name) state parent …; the name may hold anything.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		out = append(out, fmt.Sprintf("%s: %s", filepath.Dir(path), strings.ReplaceAll(string(command), "\x00", " ")))
	}
	return out
}
