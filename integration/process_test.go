package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/testbed"
)

// program is cmd/pgkennel, built once.
var program struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func build(t testing.TB) string {
	t.Helper()
	program.once.Do(func() {
		if program.dir, program.err = os.MkdirTemp("", "pgkennel-integration-"); program.err != nil {
			return
		}
		program.path = filepath.Join(program.dir, "pgkennel")
		args := []string{"build", "-o", program.path}
		if raceEnabled {
			args = append(args, "-race")
		}
		out, err := exec.Command("go", append(args, "github.com/pgkennel/pgkennel/cmd/pgkennel")...).CombinedOutput()
		if err != nil {
			program.err = errors.New(err.Error() + "\n" + string(out))
		}
	})
	if program.err != nil {
		t.Fatalf("build: %v", program.err)
	}
	return program.path
}

// process is a running program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed at its end
	err  error         // of Wait
}

// run starts the program; it is killed when t ends.
func (s *stand) run(env []string, args ...string) *process {
	s.t.Helper()
	p := &process{cmd: exec.Command(build(s.t), args...), done: make(chan struct{})}
	p.cmd.Dir = s.dir
	p.cmd.Stdout, p.cmd.Stderr = s.log, s.log
	p.cmd.Env = append(append(os.Environ(), "GORACE=halt_on_error=1 exitcode=66", "PGKENNEL_DRIVER="+testbed.DriverOf(s.t)), env...)
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	s.t.Cleanup(func() {
		p.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-p.done
	})
	return p
}

// wait returns the exit code.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("the program does not end")
		return 0
	}
}

func (p *process) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// ended says whether the program has.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// startProgram runs the program with the stand's configuration and stops it, in order, when the test ends.
func (s *stand) startProgram(env []string) {
	s.t.Helper()
	s.process = s.run(env, "--config", s.path("pgdog.toml"), "--users", s.path("users.toml"))
	eventually(s.t, "the program is ready\n"+s.log.String(), func() bool {
		if s.process.ended() {
			s.t.Fatalf("the program ended: %v\n%s", s.process.err, s.log.String())
		}
		return strings.Contains(s.log.String(), "msg=ready") || strings.Contains(s.log.String(), `"msg":"ready"`)
	})
	s.t.Cleanup(func() {
		if s.process.ended() {
			return
		}
		s.process.signal(s.t, syscall.SIGTERM)
		if code := s.process.wait(s.t); code != 0 {
			s.t.Errorf("the program's exit code is %d\n%s", code, tail(s.log.String(), 30))
		}
	})
}
