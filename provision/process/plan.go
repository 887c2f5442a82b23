package process

import (
	"bufio"
	"context"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// plan is what was chosen for an instance.
type plan struct {
	port, uid int
	at        time.Time
}

// planTime is for how long what was chosen for one is kept from others whose records do not show it yet.
const planTime = 10 * time.Minute

// What an instance without a limit is counted as, and what cannot be gone below.
const (
	defaultConnections = 100
	maxConnections     = 10000
	ownConnections     = 5        // for pgkennel itself, above the tenant's
	unlimitedMemory    = 64 << 20 // its shared buffers
	unlimitedDisk      = 256 << 20
	leastMemory        = 64 << 20
	leastDisk          = 128 << 20 // half of which a new instance has use for
	leastCPU           = 10
	leastIO            = 1 << 20 // with less, a start takes minutes
)

// Plan implements provision.Driver.
func (d *Driver) Plan(_ context.Context, in *provision.Instance, others []*provision.Instance) error {
	p, err := d.at(in.ID)
	if err != nil {
		return err
	}
	if d.unfit != nil {
		return provision.Errorf(provision.KindRefused, "the data directory of instances can't be used: %v", d.unfit)
	}
	version := in.Version
	if version == "" && in.Primary != nil {
		version = in.Primary.Version
	}
	inst, err := d.install(version)
	if err != nil {
		return err
	}
	if in.Primary != nil && in.Primary.Version != "" && in.Primary.Version != strconv.Itoa(inst.major) {
		return provision.Errorf(provision.KindInvalid, "a replica has its primary's version of PostgreSQL, %s", in.Primary.Version)
	}
	if in.Superuser && !d.root {
		return provision.Errorf(provision.KindRefused, "a superuser of its own needs an instance that runs as a user of its own").
			WithDetail("A superuser may run programs as the user that PostgreSQL runs as; pgkennel is not root here, so that is its own.").
			WithHint("Run pgkennel as root, or use another driver.")
	}
	if err := d.checkLimits(in); err != nil {
		return err
	}
	if err := CheckSettings(in.Settings); err != nil {
		return err
	}
	rest := make([]*provision.Instance, 0, len(others))
	for _, o := range others {
		if o.ID != in.ID {
			rest = append(rest, o)
		}
	}
	if err := d.checkRoom(p, in, rest); err != nil {
		return err
	}
	chosen, err := d.choose(p, in, rest)
	if err != nil {
		return err
	}
	facts := map[string]string{}
	maps.Copy(facts, in.Facts)
	facts[tenant.PortFact] = strconv.Itoa(chosen.port)
	if d.root {
		facts[tenant.UIDFact] = strconv.Itoa(chosen.uid)
	}
	in.Version, in.Facts = strconv.Itoa(inst.major), facts
	in.Endpoint = tenant.Endpoint{Host: p.socket, Port: chosen.port}
	return nil
}

// checkLimits refuses limits that this host has nothing to enforce with.
func (d *Driver) checkLimits(in *provision.Instance) error {
	l := in.Limits
	bad := func(format string, args ...any) error {
		return provision.Errorf(provision.KindInvalid, format, args...)
	}
	switch {
	case l.CPU < 0 || l.Memory < 0 || l.Disk < 0 || l.IO < 0 || l.Connections < 0:
		return bad("a limit is below zero")
	case l.CPU != 0 && l.CPU < leastCPU:
		return bad("a CPU limit of %d thousandths is below the least, %d", l.CPU, leastCPU)
	case l.Memory != 0 && l.Memory < leastMemory:
		return bad("a memory limit of %s is below the least, %s", size(l.Memory), size(leastMemory))
	case l.Disk != 0 && l.Disk < leastDisk:
		return bad("a disk limit of %s is below the least, %s", size(l.Disk), size(leastDisk))
	case l.IO != 0 && l.IO < leastIO:
		return bad("an I/O limit of %d bytes a second is below the least, %s", l.IO, size(leastIO))
	case l.Connections > maxConnections:
		return bad("%d connections are more than an instance may have, %d", l.Connections, maxConnections)
	}
	if cores := runtime.NumCPU(); l.CPU > cores*1000 {
		return provision.Errorf(provision.KindRefused, "a CPU limit of %g cores is more than this host has, %d", float64(l.CPU)/1000, cores)
	}
	if l.Memory != 0 {
		if err := d.groups.can("memory"); err != nil {
			return provision.Errorf(provision.KindRefused, "memory can't be limited on this host").WithDetail("%v.", err)
		}
	}
	if l.CPU != 0 {
		if err := d.groups.can("cpu"); err != nil {
			return provision.Errorf(provision.KindRefused, "CPU can't be limited on this host").WithDetail("%v.", err)
		}
	}
	if l.IO != 0 {
		err := d.groups.can("io")
		if err == nil && l.Disk == 0 { // else it has a device of its own
			_, err = DiskOf(d.o.DataDir)
		}
		if err != nil {
			return provision.Errorf(provision.KindRefused, "reading and writing can't be limited on this host").WithDetail("%v.", err)
		}
	}
	if l.Disk != 0 {
		if err := d.canMount(); err != nil {
			return provision.Errorf(provision.KindRefused, "disk space can't be limited on this host").WithDetail("%v.", err)
		}
	}
	return nil
}

// canMount reports whether volumes can be made and mounted here.
func (d *Driver) canMount() error {
	if !d.root {
		return fmt.Errorf("Volumes are files that root mounts, and pgkennel is not root") //nolint:staticcheck // it is the detail of an error
	}
	if !hasCapability(21) {
		return fmt.Errorf("The right to mount (CAP_SYS_ADMIN) was taken from this process") //nolint:staticcheck // it is the detail of an error
	}
	if err := unix.Access("/dev/loop-control", unix.W_OK); err != nil {
		return fmt.Errorf("There are no loop devices (/dev/loop-control: %w)", err) //nolint:staticcheck // it is the detail of an error
	}
	for _, name := range []string{"mkfs.ext4", "e2fsck", "resize2fs"} {
		if _, err := sbin(name); err != nil {
			return fmt.Errorf("The program %s is missing", name) //nolint:staticcheck // it is the detail of an error
		}
	}
	return nil
}

// sbin finds a program that is in directories that services do not always have in their PATH.
func sbin(name string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path := filepath.Join(dir, name); unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return exec.LookPath(name)
}

// hasCapability looks at this process's effective ones.
func hasCapability(bit uint) bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(status), "CapEff:\t")
	word, _, _ := strings.Cut(rest, "\n")
	caps, err := strconv.ParseUint(word, 16, 64)
	return err == nil && caps&(1<<bit) != 0
}

// checkRoom refuses an instance for which there is no room, and says by how much.
func (d *Driver) checkRoom(p *place, in *provision.Instance, others []*provision.Instance) error {
	full := func(format string, args ...any) *provision.Error {
		return provision.Errorf(provision.KindRefused, format, args...)
	}
	if limit := d.o.MaxInstances; limit > 0 && len(others) >= limit {
		return full("this host has %d instances already, and may have %d", len(others), limit)
	}
	memory, err := meminfo()
	if err != nil {
		return err
	}
	need, promised := memoryOf(in), int64(0)
	for _, o := range others {
		promised += memoryOf(o)
	}
	if _, running := findPostmaster(p); !running && memory["MemAvailable"] < need {
		return full("the instance needs %s of memory, and %s are available on this host", size(need), size(memory["MemAvailable"]))
	}
	if total := memory["MemTotal"]; promised+need > total {
		return full("the instance needs %s of memory; %s of this host's %s are promised to others", size(need), size(promised), size(total))
	}
	if err := d.checkDisk(p, in); err != nil {
		return err
	}
	procs, err := processCount()
	if err != nil {
		return err
	}
	if limit := readNumber("/proc/sys/kernel/pid_max"); limit > 0 && procs+processesOf(in) > limit {
		return full("the instance may have %d processes; %d of the %d that this host can have (pid_max) are there", processesOf(in), procs, limit)
	}
	open, limit := fileCount()
	if files := processesOf(in) * 64; limit > 0 && open+files > limit { // 64: what a backend of an idle instance has open, and some
		return full("the instance needs %d file descriptors; %d of the %d that this host can have (fs.file-max) are in use", files, open, limit)
	}
	return nil
}

func (d *Driver) checkDisk(p *place, in *provision.Instance) error {
	need := in.Limits.Disk
	if need == 0 {
		need = unlimitedDisk
	}
	if _, err := os.Stat(p.dir); err == nil && in.Limits.Disk == 0 {
		return nil // it has its room
	}
	if st, err := os.Stat(p.image); err == nil {
		need -= st.Size()
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(d.o.DataDir, &fsys); err != nil {
		return &fs.PathError{Op: "statfs", Path: d.o.DataDir, Err: err}
	}
	free := int64(fsys.Bavail) * fsys.Bsize //nolint:gosec // a disk has fewer bytes
	if free < need {
		return provision.Errorf(provision.KindRefused, "the instance needs %s of disk space, and %s are free in the data directory of instances", size(need), size(free))
	}
	return nil
}

// memoryOf is what an instance is counted as.
func memoryOf(in *provision.Instance) int64 {
	if in.Limits.Memory > 0 {
		return in.Limits.Memory
	}
	return unlimitedMemory
}

// processesOf is how many processes an instance may need: a backend each, and those that are always there.
func processesOf(in *provision.Instance) int { return connectionsOf(in) + ownConnections + 24 }

func connectionsOf(in *provision.Instance) int { return Connections(in.Limits) }

// Connections is how many a tenant may have.
func Connections(l tenant.Limits) int {
	if l.Connections > 0 {
		return l.Connections
	}
	return defaultConnections
}

// choose takes a port and a user that nobody has. Where it begins to look depends on the ID, so that what one leaves is not the next one's at once.
func (d *Driver) choose(p *place, in *provision.Instance, others []*provision.Instance) (plan, error) {
	listening, err := listeners()
	if err != nil {
		return plan{}, err
	}
	ports, uids := map[int]bool{}, map[int]bool{}
	take := func(facts map[string]string) {
		if n, err := strconv.Atoi(facts[tenant.PortFact]); err == nil {
			ports[n] = true
		}
		if n, err := strconv.Atoi(facts[tenant.UIDFact]); err == nil {
			uids[n] = true
		}
	}
	for _, o := range others {
		take(o.Facts)
	}
	if d.root {
		for _, uid := range d.owners(p) {
			uids[uid] = true
		}
	}
	h := fnv.New32a()
	h.Write([]byte(in.ID))
	seed := int(h.Sum32())
	made := exists(p.dir) || exists(p.conf)
	goodPort := func(n int) bool {
		had := in.Facts[tenant.PortFact] == strconv.Itoa(n)
		return !ports[n] && (!listening[n] || made && had)
	}
	goodUID := func(n int) bool {
		if uids[n] {
			return false
		}
		_, err := user.LookupId(strconv.Itoa(n))
		return err != nil
	}
	for {
		d.addPlanned(in.ID, ports, uids)
		c := plan{at: time.Now(), port: pick(d.o.PortMin, d.o.PortMax, in.Facts[tenant.PortFact], seed, goodPort)}
		if c.port == 0 {
			return plan{}, provision.Errorf(provision.KindRefused, "none of the %d ports from %d to %d is free", d.o.PortMax-d.o.PortMin+1, d.o.PortMin, d.o.PortMax)
		}
		if d.root {
			c.uid = pick(d.o.UIDMin, d.o.UIDMax, in.Facts[tenant.UIDFact], seed, goodUID)
			if c.uid == 0 {
				return plan{}, provision.Errorf(provision.KindRefused, "none of the %d users from %d to %d is free", d.o.UIDMax-d.o.UIDMin+1, d.o.UIDMin, d.o.UIDMax)
			}
		}
		if d.keepPlanned(in.ID, c) {
			return c, nil
		}
	}
}

// addPlanned adds what was chosen for others.
func (d *Driver) addPlanned(id string, ports, uids map[int]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for other, c := range d.mu.planned {
		switch {
		case time.Since(c.at) > planTime:
			delete(d.mu.planned, other)
		case other != id:
			ports[c.port], uids[c.uid] = true, true
		}
	}
}

// keepPlanned notes what was chosen, unless another has it meanwhile.
func (d *Driver) keepPlanned(id string, c plan) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for other, o := range d.mu.planned {
		if other != id && (o.port == c.port || d.root && o.uid == c.uid) {
			return false
		}
	}
	d.mu.planned[id] = c
	return true
}

// pick returns the number of a fact if it is good, else the first good one of a range from a place in it on; 0 = there is none.
func pick(low, high int, fact string, seed int, good func(int) bool) int {
	if had, err := strconv.Atoi(fact); err == nil && had >= low && had <= high && good(had) {
		return had
	}
	width := high - low + 1
	for i := range width {
		if n := low + (seed+i)%width; good(n) {
			return n
		}
	}
	return 0
}

// owners are the users that have something in the data directory, but of one instance's own.
func (d *Driver) owners(p *place) []int {
	var uids []int
	entries, _ := os.ReadDir(d.o.DataDir) // the data directory is there
	for _, e := range entries {
		id, _, _ := strings.Cut(e.Name(), ".")
		if id == p.id {
			continue
		}
		if st, err := os.Lstat(filepath.Join(d.o.DataDir, id)); err == nil {
			_, gid := ownerOf(st) // Volume made it root's, and the instance's group has the number of its user
			uids = append(uids, gid)
		}
	}
	return uids
}

// size writes a number of bytes for people.
func size(n int64) string {
	const mib = 1 << 20
	if n < 10<<30 {
		return fmt.Sprintf("%d MiB", n/mib)
	}
	return fmt.Sprintf("%d GiB", n>>30)
}

// meminfo reads /proc/meminfo, in bytes.
func meminfo() (map[string]int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := map[string]int64{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		if fields := strings.Fields(rest); ok && len(fields) > 0 {
			n, _ := strconv.ParseInt(fields[0], 10, 64)
			m[name] = n << 10
		}
	}
	return m, nil
}

// processCount is how many processes and threads there are: each has a number below pid_max.
func processCount() (int, error) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 4 {
		return 0, fmt.Errorf("/proc/loadavg: %q", b)
	}
	_, total, _ := strings.Cut(fields[3], "/")
	return strconv.Atoi(total)
}

func fileCount() (open, limit int) {
	b, _ := os.ReadFile("/proc/sys/fs/file-nr") // 0, 0 = unknown
	if fields := strings.Fields(string(b)); len(fields) == 3 {
		open, _ = strconv.Atoi(fields[0])
		limit, err := strconv.Atoi(fields[2])
		if err == nil { // it may be larger than any int
			return open, limit
		}
	}
	return 0, 0
}

func readNumber(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// listeners are the TCP ports at which somebody listens. To look is better than to bind: that could be in the way of another's start.
func listeners() (map[int]bool, error) {
	ports := map[int]bool{}
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			fields := strings.Fields(line)
			if len(fields) < 4 || fields[3] != "0A" {
				continue
			}
			_, port, _ := strings.Cut(fields[1], ":")
			if n, err := strconv.ParseUint(port, 16, 16); err == nil {
				ports[int(n)] = true
			}
		}
	}
	return ports, nil
}
