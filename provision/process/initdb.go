package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Init implements provision.Driver. What is made becomes the data directory when it is whole, by a new name.
func (d *Driver) Init(ctx context.Context, in *provision.Instance) error {
	p, err := d.place(in)
	if err != nil {
		return err
	}
	defer d.lock(in.ID)()
	if b, err := readSmall(filepath.Join(p.data, "PG_VERSION")); err == nil {
		if v := strings.TrimSpace(string(b)); v != in.Version {
			return provision.Errorf(provision.KindFailed, "the data of instance %s are PostgreSQL %s's, and it is to be %s", in.ID, v, in.Version)
		}
		return nil
	}
	inst, err := d.install(in.Version)
	if err != nil {
		return err
	}
	if err := d.volume(ctx, p, in.Limits.Disk); err != nil {
		return err
	}
	// One that was begun may still be at it, if only who began it was killed.
	if err := d.killMembers(ctx, p); err != nil {
		return err
	}
	made := p.data + ".new"
	if err := os.RemoveAll(made); err != nil {
		return err
	}
	if err := os.RemoveAll(p.data); err != nil { // without PG_VERSION it is nothing
		return err
	}
	if in.Primary != nil {
		err = d.copyPrimary(ctx, p, in, inst, made)
	} else {
		err = d.initdb(ctx, p, in, inst, made)
	}
	if err == nil && ownVolume(in) && !d.o.NoSync {
		err = syncVolume(p.dir)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(made, p.data); err != nil {
		return err
	}
	return d.syncDir(p.dir)
}

// initdb makes a new data directory. It looks its user up by name, so it runs as one that has a name, and the result is handed over; nobody runs as the
// instance's user yet.
func (d *Driver) initdb(ctx context.Context, p *place, in *provision.Instance, inst install, made string) error {
	uid := p.uid
	attr := p.become()
	if d.root && d.account == nil {
		return d.unfit
	}
	if d.root {
		n, err := strconv.ParseUint(d.account.Uid, 10, 32)
		if err != nil {
			return err
		}
		uid, attr.Credential.Uid = int(n), uint32(n) // the group lets it pass
	}
	if err := d.give(made, 0o700, uid, p.gid); err != nil {
		return err
	}
	args := []string{"-D", made, "-U", provision.Superuser, "-A", "scram-sha-256", "--pwfile=/dev/stdin", "-E", "UTF8", "-k", "-T", "english"}
	if inst.major >= 17 {
		args = append(args, "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
	} else {
		args = append(args, "--locale=C.UTF-8")
	}
	if in.Limits.Disk > 0 && in.Limits.Disk < 1<<30 {
		args = append(args, "--wal-segsize=4")
	}
	if d.o.NoSync || ownVolume(in) {
		args = append(args, "-N")
	}
	// The password goes through a pipe: there is no file of it to be read, or left behind.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	if d.root {
		if err := r.Chown(uid, p.gid); err != nil { // it opens /dev/stdin, which asks for rights
			w.Close()
			return err
		}
	}
	_, err = w.WriteString(in.Password + "\n")
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := d.run(ctx, p, attr, r, nil, inst.path("initdb"), args...); err != nil {
		return err
	}
	if d.root {
		return chownAll(made, p.uid, p.gid)
	}
	return nil
}

// chownAll hands a tree over, links themselves and not what they point to. It does not leave the tree, whatever is made of it meanwhile.
func chownAll(dir string, uid, gid int) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(path, uid, gid)
	})
}

// copyPrimary makes a data directory as a copy of another instance's, which follows it. The slot keeps WAL for it on the primary, up to
// max_slot_wal_keep_size.
func (d *Driver) copyPrimary(ctx context.Context, p *place, in *provision.Instance, inst install, made string) error {
	if err := d.makeSlot(ctx, in); err != nil {
		return err
	}
	attr := p.become()
	d.befriend(attr, in)
	if err := d.give(made, 0o700, p.uid, p.gid); err != nil {
		return err
	}
	args := []string{"-D", made, "-X", "stream", "-c", "fast", "-S", slotName(in.ID), "-w"}
	if d.o.NoSync || ownVolume(in) {
		args = append(args, "-N")
	}
	if err := d.run(ctx, p, attr, nil, connectEnv(in.Primary), inst.path("pg_basebackup"), args...); err != nil {
		return err
	}
	signal, err := os.OpenFile(filepath.Join(made, "standby.signal"), os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer signal.Close()
	if d.root {
		return signal.Chown(p.uid, p.gid)
	}
	return nil
}

// befriend lets a replica pass to the socket of its primary on this host: the group of that is its own. They are one tenant's.
func (d *Driver) befriend(attr *syscall.SysProcAttr, in *provision.Instance) {
	if in.Primary == nil || attr.Credential == nil {
		return
	}
	uid, err := strconv.ParseUint(in.Primary.Facts[tenant.UIDFact], 10, 31)
	if err == nil && int(uid) >= d.o.UIDMin && int(uid) <= d.o.UIDMax && below(d.o.DataDir, in.Primary.Endpoint.Host) {
		attr.Credential.Groups = []uint32{uint32(uid)}
	}
}

// slotName is the replication slot of a replica on its primary.
func slotName(id string) string { return "r_" + strings.ReplaceAll(id, "-", "_") }

func (d *Driver) makeSlot(ctx context.Context, in *provision.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := provision.Ask(ctx, in.Primary)
	if err != nil {
		return fmt.Errorf("primary of %s: %w", in.ID, err)
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `SELECT pg_create_physical_replication_slot($1, true) WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`, slotName(in.ID))
	return err
}

// dropSlot takes a replica's slot away from its primary, if that can be reached; else the primary keeps no more WAL for it than it is bounded to.
func (d *Driver) dropSlot(ctx context.Context, in *provision.Instance) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := provision.Ask(ctx, in.Primary)
	if err == nil {
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, `SELECT pg_terminate_backend(active_pid, 2000) FROM pg_replication_slots WHERE slot_name = $1 AND active`, slotName(in.ID))
	}
	if err == nil {
		_, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, slotName(in.ID))
	}
	if err != nil {
		d.log.WarnContext(ctx, "replication slot stays on the primary", "instance", in.ID, "slot", slotName(in.ID), "error", err)
	}
}

// askTimeout is how long a server may take over a question: its tenant may have made it one that never answers, and who asks keeps the instance's lock.
const askTimeout = 15 * time.Second

// connectEnv tells libpq how to reach an instance as pgkennel's superuser. The environment of a process is for its own user's eyes only.
func connectEnv(in *provision.Instance) []string {
	return []string{
		"PGHOST=" + in.Endpoint.Host, "PGPORT=" + strconv.Itoa(in.Endpoint.Port), "PGUSER=" + provision.Superuser, "PGPASSWORD=" + in.Password,
		"PGSSLMODE=disable", "PGGSSENCMODE=disable", "PGCONNECT_TIMEOUT=10", "PGREQUIREAUTH=scram-sha-256",
	}
}

// environment is all that PostgreSQL's programs know of ours, which may hold secrets.
func environment(dir string) []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC", "HOME=" + dir}
}

// run runs one of PostgreSQL's programs to its end, in the instance's directory: so it is found if we do not live to see that.
func (d *Driver) run(ctx context.Context, p *place, attr *syscall.SysProcAttr, stdin *os.File, env []string, path string, args ...string) error {
	var out []byte
	var err error
	if d.enclosed != nil {
		out, err = d.runEnclosed(ctx, p, attr, stdin, env, append([]string{path}, args...))
	} else {
		cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // a program of PostgreSQL's
		cmd.Dir, cmd.SysProcAttr = p.dir, attr
		cmd.Env = append(environment(p.dir), env...)
		if stdin != nil {
			cmd.Stdin = stdin
		}
		cmd.WaitDelay = 5 * time.Second
		out, err = cmd.CombinedOutput()
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return provision.Errorf(provision.KindFailed, "%s for instance %s: %v", filepath.Base(path), p.id, err).WithDetail("%s", lastLines(string(out), 5))
}

// runEnclosed is run where the instance's server will be.
func (d *Driver) runEnclosed(ctx context.Context, p *place, attr *syscall.SysProcAttr, stdin *os.File, env, command []string) ([]byte, error) {
	s := Service{ID: p.id, Command: command, Env: append(environment(p.dir), env...), Dir: p.dir, UID: p.uid, GID: p.gid, Config: p.conf}
	if c := attr.Credential; c != nil {
		s.UID, s.GID, s.Groups = int(c.Uid), int(c.Gid), c.Groups
	}
	for _, e := range env {
		if host, is := strings.CutPrefix(e, "PGHOST="); is && below(d.o.DataDir, host) {
			s.Socket = host
		}
	}
	var input []byte
	if stdin != nil {
		var err error
		if input, err = io.ReadAll(stdin); err != nil {
			return nil, err
		}
	}
	out, err := d.enclosed.Run(ctx, s, input)
	return []byte(out), err
}

// lastLines shortens what a program wrote to what matters.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
