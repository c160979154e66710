//go:build !linux

package lab

import (
	"os/exec"
	"strconv"
	"syscall"
)

// dieWithParent has no counterpart in the kernel here; guardGroup does it.
func dieWithParent(*syscall.SysProcAttr) {}

// guardGroup starts a shell that waits for the end of its input, which comes when this process ends however it ends, and
// then kills the process group.
func guardGroup(group int) (release func()) {
	shell := exec.Command("/bin/sh", "-c", "trap '' INT TERM HUP; read _; kill -9 -"+strconv.Itoa(group))
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	input, err := shell.StdinPipe()
	if err != nil {
		return func() {}
	}
	if err := shell.Start(); err != nil {
		return func() {}
	}
	return func() {
		_ = shell.Process.Kill()
		_ = shell.Wait()
		_ = input.Close()
	}
}

// awaitStopped cannot be told here: the signal stops the process soon.
func awaitStopped(int) {}
