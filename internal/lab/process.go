package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command says what to start.
type Command struct {
	// Name is what errors call the process; default: the last element of Path.
	Name string
	Path string
	Args []string
	// Env is added to the environment of this process.
	Env []string
	Dir string
	// Log gets everything that the process writes to stdout and stderr; nil: nothing. The last lines are kept anyway.
	Log io.Writer
}

// Process is a running child. It ends no later than the process that started it, however that one ends.
type Process struct {
	name    string
	pid     int
	tail    *tail
	done    chan struct{}
	waitErr error // valid after done is closed
}

// StartProcess starts a child in a process group of its own. The child and its group are killed when ctx ends; where the
// system can do it (Linux), the kernel kills the child when this process dies.
func StartProcess(ctx context.Context, c Command) (*Process, error) {
	if c.Name == "" {
		c.Name = c.Path[strings.LastIndexByte(c.Path, os.PathSeparator)+1:]
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("lab: start %s: %w", c.Name, err)
	}
	p := &Process{name: c.Name, tail: &tail{to: c.Log}, done: make(chan struct{})}
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir = c.Dir
	cmd.Stdout, cmd.Stderr = p.tail, p.tail
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	// A grandchild that keeps the pipes open must not keep Wait from returning.
	cmd.WaitDelay = time.Second

	started := make(chan error)
	go func() {
		// The kernel's death signal is sent when the thread that forked ends, so this thread stays until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		guard := guardGroup(cmd.Process.Pid)
		started <- nil
		err := cmd.Wait()
		guard()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what is left of its group
		p.waitErr = err
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("lab: start %s: %w", c.Name, err)
	}
	p.pid = cmd.Process.Pid
	if ctx.Done() != nil {
		go func() {
			select {
			case <-ctx.Done():
				p.Kill()
			case <-p.done:
			}
		}()
	}
	return p, nil
}

// Pid is the process id.
func (p *Process) Pid() int { return p.pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running says whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Err is nil while the process runs and after an exit with code 0; else how it ended, with its last lines.
func (p *Process) Err() error {
	if p.Running() || p.waitErr == nil {
		return nil
	}
	return p.failure(p.waitErr)
}

// Log returns the last lines that the process wrote, oldest first.
func (p *Process) Log() []string { return p.tail.lines() }

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) error {
	if !p.Running() {
		return fmt.Errorf("lab: signal %s: %w", p.name, os.ErrProcessDone)
	}
	if err := syscall.Kill(p.pid, s); err != nil {
		return fmt.Errorf("lab: signal %s: %w", p.name, err)
	}
	return nil
}

// Pause stops the process where it stands (SIGSTOP) and returns when every thread of it has stopped.
func (p *Process) Pause() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	awaitStopped(p.pid)
	return nil
}

// Continue lets a paused process go on.
func (p *Process) Continue() error { return p.Signal(syscall.SIGCONT) }

// Kill ends the process and its group at once (SIGKILL) and waits until it is gone. A process that has ended is left alone.
func (p *Process) Kill() {
	if p.Running() {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	<-p.done
}

// Stop asks the process to end (SIGTERM) and waits; after grace it is killed, which is an error. How a process ended that
// obeyed is not looked at.
func (p *Process) Stop(grace time.Duration) error {
	if !p.Running() {
		return nil
	}
	_ = p.Signal(syscall.SIGTERM)
	_ = p.Signal(syscall.SIGCONT) // a paused process would never see the first
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		p.Kill()
		return p.failure(fmt.Errorf("did not end within %v of SIGTERM", grace))
	}
}

func (p *Process) failure(err error) error {
	if lines := p.Log(); len(lines) > 0 {
		return fmt.Errorf("lab: %s: %w; its last lines:\n\t%s", p.name, err, strings.Join(lines, "\n\t"))
	}
	return fmt.Errorf("lab: %s: %w", p.name, err)
}

// await polls ok until it holds, the process ends or ctx ends.
func (p *Process) await(ctx context.Context, what string, ok func() error) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		last := ok()
		if last == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.failure(errors.Join(fmt.Errorf("ended before it was %s", what), p.waitErr))
		case <-ctx.Done():
			return p.failure(fmt.Errorf("not %s: %w (%w)", what, last, ctx.Err()))
		case <-ticker.C:
		}
	}
}

// kept is how many lines, of at most how many bytes, of a process are remembered.
const kept, keptWidth = 40, 400

// tail passes on what it is given and remembers the last lines.
type tail struct {
	to   io.Writer
	mu   sync.Mutex
	ring []string
	next int
	part []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.to != nil {
		_, _ = t.to.Write(b) // a log that cannot be written must not stop the process
	}
	for rest := b; ; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		if room := keptWidth - len(t.part); room > 0 {
			t.part = append(t.part, line[:min(room, len(line))]...)
		}
		if !whole {
			return len(b), nil
		}
		t.keep(string(t.part))
		t.part, rest = t.part[:0], after
	}
}

func (t *tail) keep(line string) {
	if len(t.ring) < kept {
		t.ring = append(t.ring, line)
		return
	}
	t.ring[t.next] = line
	t.next = (t.next + 1) % kept
}

func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := append(append([]string{}, t.ring[t.next:]...), t.ring[:t.next]...)
	if len(t.part) > 0 {
		lines = append(lines, string(t.part))
	}
	return lines
}
