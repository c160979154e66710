package lab

import "syscall"

// dieWithParent has the kernel kill the child when the thread that started it ends.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// guardGroup has nothing to do where the kernel guards.
func guardGroup(int) (release func()) { return func() {} }
