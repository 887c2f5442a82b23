// Package process runs tenants' instances as plain processes of this host: the driver that needs nothing but PostgreSQL's binaries.
//
// As root, each instance runs as a user of its own, which no passwd file has to know: a tenant's superuser reaches no other's files. What pgkennel itself reads
// or writes (configuration, log, image of the volume) is outside of the directories that such a user can write to. As an ordinary user, all instances run as
// that one, and no tenant may have a superuser.
//
// What there is of an instance, below Options.DataDir:
//
//	ID/            root's, the mount point of ID.img if the instance's disk is limited
//	ID/data        the data directory; data.new while it is being made
//	ID/socket      its unix socket
//	ID/spool       finished WAL segments, until the archive has them
//	ID/reserve     room for WAL, given back when a full volume keeps the instance from starting
//	ID.img         an ext4 volume, all of whose blocks are allocated
//	ID.conf/       postgresql.conf, pg_hba.conf, and copies of the first as the server has read it; its certificate, if other hosts reach it
//	ID.log         what the server writes; ID.log.1 what was cut off it
//
// and its directories in cgroups, where the host has them.
//
// An instance is a session of its own and outlives this process; the next one finds it by its postmaster.pid. Its children's ends are waited for by one goroutine
// each, which ends with the instance; Watch runs in its caller's.
//
// Locks: one of each instance, held while it is worked on; below it the Driver's mu, for looks only. Watch holds the confiner's mu while it looks who uses much
// CPU, and a guard's for the list of servers only; below both that and an instance's is groups.sets.
package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Options are what a Driver is made of. Only DataDir is needed.
type Options struct {
	// DataDir is where everything goes. It is made if it is not there.
	DataDir string
	// PortMin and PortMax bound the TCP ports that instances get; 0 = 20000 to 29999, below those that the kernel hands out by itself.
	PortMin, PortMax int
	// NoTCP has instances listen at their unix sockets only, which is where Endpoint points to. All users of a host reach a TCP port, programs of a tenant's
	// superuser too: they can keep another's port busy, or take it while that is down.
	NoTCP bool
	// UIDMin and UIDMax bound the users that instances run as under root; 0 = 200000 to 299999. Nobody else may have one of them.
	UIDMin, UIDMax int
	// MaxInstances is how many there may be; 0 = as many as there is room for.
	MaxInstances int
	// Bins are further directories with PostgreSQL's programs; of two with the same major version the first counts.
	Bins []string
	// Account is who runs initdb under root, which wants a user with a name; empty = postgres, or nobody. It owns a new data directory for that second.
	Account string
	// CgroupRoot is where cgroups are mounted; empty = /sys/fs/cgroup. Cgroup is the group, below the hierarchies' roots, that those of instances go into;
	// empty = pgkennel- and a hash of DataDir.
	CgroupRoot, Cgroup string
	// LogSize is from how many bytes on a log is cut; 0 = 16 MiB.
	LogSize int64
	// NoSync leaves out what makes data survive the machine's end. For tests.
	NoSync bool
	// Runner runs servers in place of this process; nil = none does.
	Runner Runner
	Log    *slog.Logger
}

// Driver runs instances as processes.
type Driver struct {
	o        Options
	root     bool
	log      *slog.Logger
	groups   limiter
	kernel   *groups    // what cgroups this host has, whoever makes those of instances
	confiner *confiner  // nil = nobody is confined
	enclosed Enclosed   // Options.Runner, if it is one
	account  *user.User // who runs initdb, under root
	unfit    error      // why no instance can be made here

	mu struct {
		sync.Mutex
		installs []install              // the newest first
		locks    map[string]*sync.Mutex // by ID
		children map[string]*child      // by ID: those that this process started
		ends     map[string]string      // by ID: how the last of those ended
		crashes  map[string]crashes     // by ID
		planned  map[string]plan        // by ID: chosen, and perhaps not on record yet
		wakes    map[*waker]bool        // Watch calls
	}
}

var _ provision.Driver = (*Driver)(nil)

// New makes a Driver. It fails if its options make no sense. That the host is not fit for instances is for Plan to say: a pgkennel may have other tenants.
func New(o Options) (*Driver, error) {
	if o.DataDir == "" {
		return nil, errors.New("provision.data_dir is not set")
	}
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return nil, err
	}
	o.DataDir = dir
	defaults(&o)
	if o.PortMin < 1 || o.PortMax > 65535 || o.PortMin > o.PortMax {
		return nil, fmt.Errorf("ports of instances: %d to %d is no range", o.PortMin, o.PortMax)
	}
	if o.UIDMin < 1 || o.UIDMin > o.UIDMax {
		return nil, fmt.Errorf("users of instances: %d to %d is no range", o.UIDMin, o.UIDMax)
	}
	d := &Driver{o: o, root: os.Geteuid() == 0, log: o.Log}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.unfit = d.prepare()
	found := findGroups(d.o)
	d.groups = found
	d.kernel = found
	if o.Runner != nil {
		d.groups = runnerLimits{found, o.Runner}
		d.enclosed, _ = o.Runner.(Enclosed)
	} else if found.can("cpu") == nil {
		d.confiner = &confiner{groups: found, log: d.log}
	}
	d.mu.locks, d.mu.children = map[string]*sync.Mutex{}, map[string]*child{}
	d.mu.crashes = map[string]crashes{}
	d.mu.ends, d.mu.planned, d.mu.wakes = map[string]string{}, map[string]plan{}, map[*waker]bool{}
	return d, nil
}

// prepare makes the data directory, and says why no instance can be made here.
func (d *Driver) prepare() error {
	dir, mode := d.o.DataDir, os.FileMode(0o700)
	if d.root {
		mode = 0o711 // instances pass through, and see nothing
	}
	if err := errors.Join(os.MkdirAll(dir, mode), os.Chmod(dir, mode)); err != nil {
		return err
	}
	// Processes are known by their directories, as the kernel writes them.
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	d.o.DataDir = dir
	if !goodDir.MatchString(dir) {
		return fmt.Errorf("%q: only letters, digits and /_.,+@:=- may be in its path", dir)
	}
	if n := len(filepath.Join(dir, tenant.NewID(), "socket", ".s.PGSQL.65535")); n > maxSocket {
		return fmt.Errorf("%s: its path is %d bytes too long for the unix sockets in it", dir, n-maxSocket)
	}
	if !d.root {
		return nil
	}
	if d.account, err = account(d.o.Account); err != nil {
		return err
	}
	return passable(dir)
}

// passable reports a directory above dir that keeps everybody out, the users of instances too.
func passable(dir string) error {
	for up := filepath.Dir(dir); ; up = filepath.Dir(up) {
		st, err := os.Stat(up)
		if err != nil {
			return err
		}
		if st.Mode()&0o001 == 0 {
			return fmt.Errorf("%s: the users that instances run as can't pass through %s (mode %04o); choose another place, or allow that with chmod o+x",
				dir, up, st.Mode().Perm())
		}
		if up == filepath.Dir(up) {
			return nil
		}
	}
}

// maxSocket is the length of a unix socket's path, without the zero at its end.
const maxSocket = 107

var (
	// goodDir leaves out what a shell, postgresql.conf or a connection string would have to be told apart.
	goodDir = regexp.MustCompile(`^[A-Za-z0-9/_.,+@:=-]+$`)
	goodID  = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)
)

func defaults(o *Options) {
	if o.PortMin == 0 && o.PortMax == 0 {
		o.PortMin, o.PortMax = 20000, 29999
	}
	if o.UIDMin == 0 && o.UIDMax == 0 {
		o.UIDMin, o.UIDMax = 200000, 299999
	}
	if o.LogSize == 0 {
		o.LogSize = 16 << 20
	}
	if o.CgroupRoot == "" {
		o.CgroupRoot = "/sys/fs/cgroup"
	}
}

func account(name string) (*user.User, error) {
	names := []string{"postgres", "nobody"}
	if name != "" {
		names = []string{name}
	}
	for _, n := range names {
		if u, err := user.Lookup(n); err == nil && u.Uid != "0" {
			return u, nil
		}
	}
	return nil, fmt.Errorf("none of the users %s is there to run initdb, which refuses to run as root", strings.Join(names, ", "))
}

// Name implements provision.Driver.
func (d *Driver) Name() string {
	if d.o.Runner != nil {
		return d.o.Runner.Name()
	}
	return "process"
}

// place is where an instance's things are, and whose.
type place struct {
	id                  string
	dir                 string // ID/
	data, socket, spool string
	reserve             string
	image               string
	conf, config, hba   string
	started, loaded     string // what of config counts
	certificate         string // of the server, with its key behind it; at once, or not at all
	authority           string // whose certificates it takes
	log                 string
	uid, gid            int
	ownUID              bool // nobody else has uid
	uidMin, uidMax      int  // those of all instances
	// outer translates numbers of processes that the server writes; nil = they are this host's.
	outer func(pid int) int
}

// at returns the place of an ID, for what needs no user.
func (d *Driver) at(id string) (*place, error) {
	if !goodID.MatchString(id) {
		return nil, provision.Errorf(provision.KindInvalid, "%q can't be the ID of an instance", id)
	}
	in := func(name string) string { return filepath.Join(d.o.DataDir, name) }
	dir, conf := in(id), in(id+".conf")
	p := &place{
		id: id, dir: dir, data: filepath.Join(dir, "data"), socket: filepath.Join(dir, "socket"), spool: filepath.Join(dir, "spool"),
		reserve: filepath.Join(dir, "reserve"), image: in(id + ".img"), conf: conf, config: filepath.Join(conf, "postgresql.conf"),
		hba: filepath.Join(conf, "pg_hba.conf"), started: filepath.Join(conf, "started.conf"), loaded: filepath.Join(conf, "loaded.conf"),
		certificate: filepath.Join(conf, "server.pem"), authority: filepath.Join(conf, "authority.pem"),
		log: in(id + ".log"), uid: os.Geteuid(), gid: os.Getegid(), uidMin: d.o.UIDMin, uidMax: d.o.UIDMax,
	}
	if d.enclosed != nil {
		p.outer = func(pid int) int { return d.enclosed.Outer(id, pid) }
	}
	return p, nil
}

// place returns that of an instance that Plan has seen.
func (d *Driver) place(in *provision.Instance) (*place, error) {
	p, err := d.at(in.ID)
	if err != nil {
		return nil, err
	}
	// Else it would be said of an instance that goes on elsewhere that it is stopped, or destroyed.
	if h := in.Endpoint.Host; filepath.IsAbs(h) && h != p.socket {
		return nil, provision.Errorf(provision.KindState, "instance %s is in %s, and data_dir is %s", in.ID, filepath.Dir(filepath.Dir(h)), d.o.DataDir).
			WithHint("set data_dir of [provision] to what it was when the instance was made, or make that a link to where the instances are now")
	}
	if !d.root {
		return p, nil
	}
	uid, err := strconv.Atoi(in.Facts[tenant.UIDFact])
	if err != nil {
		return nil, provision.Errorf(provision.KindFailed, "instance %s has no user to run as: it was not planned by this driver under root", in.ID)
	}
	if uid < d.o.UIDMin || uid > d.o.UIDMax {
		return nil, provision.Errorf(provision.KindFailed, "instance %s would run as user %d, which is not between %d and %d", in.ID, uid, d.o.UIDMin, d.o.UIDMax)
	}
	p.uid, p.gid, p.ownUID = uid, uid, true
	return p, nil
}

// lock keeps others away from an instance.
func (d *Driver) lock(id string) (unlock func()) {
	d.mu.Lock()
	l := d.mu.locks[id]
	if l == nil {
		l = new(sync.Mutex)
		d.mu.locks[id] = l
	}
	d.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// Spool implements provision.Driver.
func (d *Driver) Spool(in *provision.Instance) string {
	p, err := d.at(in.ID)
	if err != nil {
		return ""
	}
	return p.spool
}

// DataDir implements provision.Driver. After the host was started anew, Volume has to mount it first.
func (d *Driver) DataDir(in *provision.Instance) (dir string, uid, gid int) {
	p, err := d.place(in)
	if err != nil {
		return "", 0, 0
	}
	return p.data, p.uid, p.gid
}

// State implements provision.Driver. It mounts a volume that is not, as after the host was started anew, to see what is in it.
func (d *Driver) State(ctx context.Context, in *provision.Instance) (provision.State, error) {
	p, err := d.at(in.ID)
	if err != nil {
		return provision.State{}, err
	}
	if !d.root || in.Facts[tenant.UIDFact] != "" {
		if p, err = d.place(in); err != nil {
			return provision.State{}, err
		}
	}
	if d.root && exists(p.image) {
		if is, err := mounted(p.dir); err != nil {
			return provision.State{}, err
		} else if !is {
			unlock := d.lock(in.ID)
			err := d.mount(ctx, p)
			unlock()
			if err != nil {
				return provision.State{}, err
			}
		}
	}
	var st provision.State
	if _, err := os.Lstat(filepath.Join(p.data, "PG_VERSION")); err == nil {
		st.Data = true
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return st, err
	}
	pm, ok := findPostmaster(p)
	if ok {
		st.Running, st.PID, st.Ready, st.Since = true, pm.pid, pm.ready, time.Unix(pm.since, 0)
		st.Renew = in.Endpoint.Remote != "" && in.Authority != nil && !certified(p, in)
	} else {
		st.Ended = d.end(ctx, in.ID)
	}
	d.mu.Lock()
	c := d.mu.crashes[in.ID]
	d.mu.Unlock()
	st.Crashes, st.Crashed = c.count, c.last
	st.OOMKills = -1
	if n, ok := d.groups.oomKills(in.ID); ok {
		st.OOMKills = n
	}
	return st, nil
}
