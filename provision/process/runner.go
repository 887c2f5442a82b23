package process

import (
	"context"
	"syscall"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// Runner runs servers in place of this process, such as an init system does. All else of an instance stays as it is without one. Its methods can be repeated.
type Runner interface {
	// Name is that of the driver with it.
	Name() string
	// Limit has limits be in force from an instance's next start on, and of one that runs at once.
	Limit(id string, l tenant.Limits, processes int) error
	// Start has a server begin, and returns when it is a process, which need not accept connections yet.
	Start(ctx context.Context, s Service) (pid int, err error)
	// Stop tells an instance's server to end and not to come back, if there is one. It does not wait; Stopped does.
	Stop(ctx context.Context, id string) error
	Stopped(ctx context.Context, id string) error
	// CPU is the time that an instance's processes had, those that have ended too, and Processes those that there are; not ok and nil = it can't tell.
	CPU(id string) (used time.Duration, ok bool)
	Processes(id string) []int
	// Remove forgets an instance, and List says which are known.
	Remove(id string) error
	List() []string
	// Watch calls wake when any server may have begun or ended, until ctx is done.
	Watch(ctx context.Context, wake func())
}

// Enclosed is a Runner whose servers have programs and numbers of processes of their own, as in containers. They see the instance's directories where this
// process does.
type Enclosed interface {
	Runner
	// Can reports why it has nothing to enforce a limit with: of memory or cpu.
	Can(controller string) error
	// Versions are PostgreSQL's major ones that it has; Missing is the error for another.
	Versions() ([]int, error)
	Missing(version string) error
	// Run runs a program to its end and returns what it wrote. Where its arguments say /dev/stdin, it reads input.
	Run(ctx context.Context, s Service, input []byte) (output string, err error)
	// Outer is the number that the server with a number of its own has on this host; 0 = it does not run.
	Outer(id string, pid int) int
	// Tail is the end of what a server wrote.
	Tail(id string, lines int) string
}

// Service is a server, or another program for an instance, as a Runner has to know it.
type Service struct {
	ID string
	// Command is the program, and what it is told. Of an Enclosed, the program is VERSION/NAME.
	Command []string
	Env     []string
	Dir     string // where it runs, and all that it may write to
	Log     string // what it writes is appended to it
	// UID and GID are whom it runs as, with Groups beside.
	UID, GID int
	Groups   []uint32
	Config   string // the directory of its configuration
	Socket   string // that of another instance's socket which it connects to; empty = none
	Limits   tenant.Limits
	// Files and Processes are how many it may have.
	Files, Processes int
	// Data is how many bytes of private memory each process of it may have, as the soft limit; 0 = as many as it likes.
	Data int64
}

// limiter is what keeps instances within their limits: cgroups of this process's own, or a Runner.
type limiter interface {
	can(controller string) error
	setup(id string, l tenant.Limits, processes int) error
	has(id string) bool
	join(id string, attr *syscall.SysProcAttr) (done func(), err error)
	adopt(id string, pids []int) error
	cpu(id string) (time.Duration, bool)
	oomKills(id string) (int64, bool)
	pids(id string) []int
	remove(id string) error
	list() []string
}

var (
	_ limiter = (*groups)(nil)
	_ limiter = runnerLimits{}
)

// runnerLimits leaves cgroups to a Runner. Which controllers there are is the kernel's to say.
type runnerLimits struct {
	kernel *groups
	runner Runner
}

func (r runnerLimits) can(controller string) error {
	if e, is := r.runner.(Enclosed); is {
		return e.Can(controller)
	}
	return r.kernel.can(controller)
}

func (r runnerLimits) setup(id string, l tenant.Limits, processes int) error {
	return r.runner.Limit(id, l, processes)
}
func (runnerLimits) has(string) bool { return true }

func (runnerLimits) join(string, *syscall.SysProcAttr) (func(), error) { return func() {}, nil }

func (runnerLimits) adopt(string, []int) error             { return nil }
func (r runnerLimits) cpu(id string) (time.Duration, bool) { return r.runner.CPU(id) }
func (r runnerLimits) pids(id string) []int                { return r.runner.Processes(id) }
func (r runnerLimits) remove(id string) error              { return r.runner.Remove(id) }
func (r runnerLimits) list() []string                      { return r.runner.List() }
