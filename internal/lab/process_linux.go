package lab

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dieWithParent has the kernel kill the child when the thread that started it ends.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// guardGroup has nothing to do where the kernel guards.
func guardGroup(int) (release func()) { return func() {} }

// awaitStopped returns when all threads of a child have stopped, when it has ended, or, should another let it go on in the
// meantime, after a second.
func awaitStopped(pid int) {
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WNOWAIT|unix.WNOHANG, nil)
		if info.Signo != 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
