package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// orphanHelper is the parent in TestChildDiesWithItsParent: it starts a child, prints the child's pid and waits.
func orphanHelper() bool {
	if os.Getenv("LAB_ORPHAN_HELPER") == "" {
		return false
	}
	p, err := StartProcess(context.Background(), Command{Path: "/bin/sleep", Args: []string{"60"}})
	if err != nil {
		fmt.Println(err)
		return true
	}
	fmt.Println(p.Pid())
	switch os.Getenv("LAB_ORPHAN_HELPER") {
	case "panic":
		panic("as asked")
	case "exit":
		os.Exit(3)
	}
	<-p.Done()
	return true
}

func gone(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH || zombie(pid) }

// zombie: ended, and nobody in this container has waited for it yet.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestChildDiesWithItsParent(t *testing.T) {
	for _, how := range []string{"kill", "panic", "exit"} {
		t.Run(how, func(t *testing.T) {
			parent := exec.Command(os.Args[0], "-test.run=^$")
			parent.Env = append(os.Environ(), "LAB_ORPHAN_HELPER="+how)
			out, err := parent.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := parent.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			child, convErr := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || convErr != nil {
				t.Fatalf("the helper said %q, %v", line, err)
			}
			if how == "kill" {
				if gone(child) {
					t.Fatal("the child ended before its parent")
				}
				if err := parent.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			_ = parent.Wait()
			eventually(t, "the child is gone", func() bool { return gone(child) })
		})
	}
}

func TestChildOutlivesTheCallersThread(t *testing.T) {
	p := make(chan *Process)
	go func() {
		// A goroutine that ends while it is locked takes its thread with it.
		runtime.LockOSThread()
		child, err := StartProcess(t.Context(), Command{Path: "/bin/sleep", Args: []string{"60"}})
		if err != nil {
			t.Error(err)
		}
		p <- child
	}()
	child := <-p
	if child == nil {
		t.FailNow()
	}
	select {
	case <-child.Done():
		t.Errorf("the child died with the thread: %v", child.Err())
	case <-time.After(200 * time.Millisecond):
	}
	child.Kill()
	if err := child.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("after a kill: %v", err)
	}
}

func TestStopAndGroup(t *testing.T) {
	p, err := StartProcess(t.Context(), Command{
		Name: "stubborn", Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; echo $$; sleep 60 & echo $!; echo ready; wait; wait"},
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is ready", func() bool { return strings.Contains(strings.Join(p.Log(), " "), "ready") })
	grandchild, err := strconv.Atoi(p.Log()[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "stubborn") || !strings.Contains(err.Error(), "ready") {
		t.Errorf("stop of a process that ignores SIGTERM: %v", err)
	}
	eventually(t, "the grandchild is gone", func() bool { return gone(grandchild) })
	if err := p.Signal(syscall.SIGTERM); err == nil {
		t.Error("a signal to nobody is no error")
	}

	calm, err := StartProcess(t.Context(), Command{Path: "/bin/sleep", Args: []string{"60"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := calm.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := calm.Stop(5 * time.Second); err != nil {
		t.Errorf("stop of a paused process: %v", err)
	}
}

func TestContextEndsTheChild(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := StartProcess(ctx, Command{Path: "/bin/sleep", Args: []string{"60"}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-p.Done()
	if _, err := StartProcess(ctx, Command{Path: "/bin/sleep"}); err == nil {
		t.Error("started under an ended context")
	}
	if _, err := StartProcess(t.Context(), Command{Path: "/no/such/binary"}); err == nil || !strings.Contains(err.Error(), "binary") {
		t.Errorf("start of nothing: %v", err)
	}
}

func TestTailKeepsTheLastLines(t *testing.T) {
	var all strings.Builder
	log := &tail{to: &all}
	for n := range 100 {
		fmt.Fprintf(log, "line %d\nhalf of", n)
		fmt.Fprint(log, " a line\n")
	}
	fmt.Fprint(log, strings.Repeat("x", 10*keptWidth))
	lines := log.lines()
	if len(lines) != kept+1 || lines[kept-1] != "half of a line" || lines[kept-2] != "line 99" || len(lines[kept]) != keptWidth {
		t.Errorf("kept %d lines: %q", len(lines), lines)
	}
	if got := strings.Count(all.String(), "\n"); got != 200 {
		t.Errorf("%d lines passed on", got)
	}
}
