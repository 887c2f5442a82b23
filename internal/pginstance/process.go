package pginstance

import (
	"os"
	"os/exec"
	"runtime"
)

// outputOf runs cmd and returns what it wrote. It has the thread for itself meanwhile: the kernel takes the end of the thread that started a child for its parent's, and
// that may be any that a test's goroutine was locked to.
func outputOf(cmd *exec.Cmd) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.CombinedOutput()
}

// Process is a running child that does not outlive this process: the kernel sends it SIGINT when this process dies
// (on Linux). Safe for concurrent use.
type Process struct {
	child *os.Process
	done  chan struct{} // closed when the child was reaped
	err   error         // how it ended; read it after done
}

// Spawn starts cmd, in a process group of its own unless cmd says otherwise, and waits for its end on a goroutine.
func Spawn(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = account{}.sysProcAttr()
	}
	p := &Process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel takes the end of the thread that started the child for its parent's
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.child = cmd.Process
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// PID is the child's process id.
func (p *Process) PID() int { return p.child.Pid }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how the child ended, as exec.Cmd.Wait does. It waits for the end.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Signal sends a signal; os.ErrProcessDone means that the child has ended.
func (p *Process) Signal(sig os.Signal) error { return p.child.Signal(sig) }
