package provision

import (
	"context"
	"io"
	"os/exec"
	"slices"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// Superuser is the bootstrap superuser of every instance, which is pgkennel's own. Its password is the record's Admin.
const Superuser = "pgkennel"

// Instance is what a driver has to know of one PostgreSQL.
type Instance struct {
	// ID names everything that the driver makes. It is the tenant's, or a replica's.
	ID      string
	Version string // PostgreSQL's major one
	// Facts are what Plan chose. They were recorded before anything was made, so that nothing is ever left behind that nobody knows of.
	Facts    map[string]string
	Endpoint tenant.Endpoint
	Limits   tenant.Limits
	Settings map[string]string // of postgresql.conf, the operator's
	Password string            // of Superuser
	// Authority signs its certificate if it listens for other hosts (Endpoint.Remote).
	Authority *tenant.Signer
	// Superuser: the tenant has a superuser of its own in it, and so the rights of the operating system's user that it runs as.
	Superuser bool
	// Archive: finished WAL segments are put into the spool (Driver.Spool).
	Archive bool
	// Primary is whose replica it is; nil = nobody's.
	Primary *Instance
}

// Driver makes and keeps instances on this host in one way. Its methods can be repeated: what is done already is not done again, and what was done by half
// is completed or begun anew. They return a *Error with the reason where the host can't give what is asked for; nothing asked for is ever left out silently.
// It is safe for concurrent use with different instances.
type Driver interface {
	// Name is the driver's, such as process.
	Name() string
	// Plan finds out whether the instance can be had here (version, limits, room: memory, disk, descriptors, ports), and chooses what it needs: it fills in
	// Version if that is empty, Facts and Endpoint. others are all instances of this host, with their Facts. It makes nothing.
	Plan(ctx context.Context, in *Instance, others []*Instance) error
	// Volume makes the place where its data go, limited in size if the instance is.
	Volume(ctx context.Context, in *Instance) error
	// Init makes its data directory: by initdb, or as a copy of its Primary.
	Init(ctx context.Context, in *Instance) error
	// Configure writes its configuration and limits, and says what a running instance needs for them to count.
	Configure(ctx context.Context, in *Instance) (Need, error)
	// Reload has a running instance read its configuration.
	Reload(ctx context.Context, in *Instance) error
	// Start starts it and returns when it accepts connections. It outlives this process.
	Start(ctx context.Context, in *Instance) error
	// Stop stops it and returns when all its processes have ended. After ctx's deadline, or when fast is not enough, it is made to.
	Stop(ctx context.Context, in *Instance) error
	// Destroy takes away everything there is of it.
	Destroy(ctx context.Context, in *Instance) error
	// State says what there is of it now.
	State(ctx context.Context, in *Instance) (State, error)
	// Usage is what it uses now.
	Usage(ctx context.Context, in *Instance) (Usage, error)
	// Logs returns the last lines of its log; with follow, it goes on until ctx is done.
	Logs(ctx context.Context, in *Instance, lines int, follow bool) (io.ReadCloser, error)
	// Tool is a command of PostgreSQL's of the instance's version, such as pg_dump, that runs where it can reach the instance, and reads and writes this
	// process's streams.
	Tool(ctx context.Context, in *Instance, name string, args ...string) (*exec.Cmd, error)
	// Spool is the directory on this host where an instance with Archive leaves its WAL segments; empty = the driver has none.
	Spool(in *Instance) string
	// DataDir is the data directory on this host while the instance is down, and who owns it; for restores. Empty = it is not on this host.
	DataDir(in *Instance) (dir string, uid, gid int)
	// Found are the IDs of all of which there is something on this host, whatever it is: a process, a directory, a mount, a port.
	Found(ctx context.Context) ([]string, error)
	// Watch calls changed when an instance ended or appeared, until ctx is done.
	Watch(ctx context.Context, changed func(id string)) error
}

// Need is what a running instance needs for its configuration to count.
type Need uint8

// The needs.
const (
	NeedNothing Need = iota
	NeedReload
	NeedRestart
)

// State is what there is of an instance.
type State struct {
	Data    bool // an initialized data directory
	Running bool
	Ready   bool // it accepts connections
	PID     int
	Since   time.Time
	// Ended is how its last server ended, in a few words; empty = it runs, or that is not known.
	Ended string
	// Renew: it is time for another certificate, by Configure and Reload.
	Renew bool
	// OOMKills is how many of its processes the kernel has ended because its memory was used up, since it counts: at least since the server's start. Below
	// zero = that is not known.
	OOMKills int64
	// Crashes is how many of its processes ended by another signal than the kernel's, and were missed by its server, since the driver's Watch began; Crashed is how
	// the last of them did.
	Crashes int64
	Crashed string
}

// Usage is what an instance uses.
type Usage struct {
	Memory    int64         `json:"memory"` // bytes, proportional share of what is shared
	CPU       time.Duration `json:"cpu"`    // nanoseconds since its start
	Disk      int64         `json:"disk"`   // bytes
	DiskSize  int64         `json:"disk_size,omitempty"`
	Processes int           `json:"processes"`
}

// Changed are the names of settings that two configurations differ in.
func Changed(a, b map[string]string) []string {
	var names []string
	for name, value := range a {
		if other, is := b[name]; !is || other != value {
			names = append(names, name)
		}
	}
	for name := range b {
		if _, is := a[name]; !is {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
