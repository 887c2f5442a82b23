package process

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/provision"
)

// Configure implements provision.Driver.
func (d *Driver) Configure(ctx context.Context, in *provision.Instance) (provision.Need, error) {
	p, err := d.place(in)
	if err != nil {
		return 0, err
	}
	if err := d.checkLimits(in); err != nil {
		return 0, err
	}
	if err := CheckSettings(in.Settings); err != nil {
		return 0, err
	}
	inst, err := d.install(in.Version)
	if err != nil {
		return 0, err
	}
	defer d.lock(in.ID)()
	var least provision.Need
	if exists(p.dir) {
		if least, err = d.grow(ctx, p, in.Limits.Disk); err != nil {
			return 0, err
		}
	}
	if err := d.own(p.conf, 0o750, 0o700, p.gid); err != nil {
		return 0, err
	}
	text := render(d.settings(p, in))
	hbaBefore, _ := os.ReadFile(p.hba) // none before the first time
	if err := d.put(p, p.hba, rules(in)); err != nil {
		return 0, err
	}
	certified, err := d.certify(p, in)
	if err != nil {
		return 0, err
	}
	if err := d.put(p, p.config+".new", text); err != nil {
		return 0, err
	}
	if exists(p.data) {
		if err := d.checkConfig(ctx, p, inst); err != nil {
			return 0, errors.Join(err, os.Remove(p.config+".new"))
		}
	}
	if err := os.Rename(p.config+".new", p.config); err != nil {
		return 0, err
	}
	if err := errors.Join(decertify(p, in), d.syncDir(p.conf)); err != nil {
		return 0, err
	}
	had := d.groups.has(p.id)
	if err := d.groups.setup(p.id, in.Limits, maxProcesses(in)); err != nil {
		return 0, err
	}
	pm, running := findPostmaster(p)
	if !running {
		return provision.NeedNothing, nil
	}
	if !had {
		// It was started without; those that are made meanwhile are where their makers are.
		for range 2 {
			if err := d.groups.adopt(p.id, p.members()); err != nil {
				return 0, err
			}
		}
	}
	bound(pm.pid, in)
	d.bindData(ctx, p, pm.pid, dataLimit(in.Limits.Memory, parse(text)))
	need, err := d.need(ctx, p, in, parse(text))
	if err == nil && need == provision.NeedNothing && (certified || string(hbaBefore) != rules(in)) {
		need = provision.NeedReload
	}
	return max(need, least), err
}

// put writes a file that the instance may read, and only pgkennel may write; at once, or not at all.
func (d *Driver) put(p *place, path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if d.root {
		if err := errors.Join(f.Chown(0, p.gid), f.Chmod(0o640)); err != nil {
			return err
		}
	}
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if !d.o.NoSync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return os.Rename(f.Name(), path)
}

// position is where PostgreSQL found an error, which says nothing to who did not write the file.
var position = regexp.MustCompile(` in file "[^"]*" line [0-9]+`)

// checkConfig has PostgreSQL read the new file and say what it makes of it.
func (d *Driver) checkConfig(ctx context.Context, p *place, inst install) error {
	err := d.run(ctx, p, p.become(), nil, nil, inst.path("postgres"), "-D", p.data, "-c", "config_file="+p.config+".new", "-C", "port")
	var failed *provision.Error
	if !errors.As(err, &failed) || context.Cause(ctx) != nil {
		return err
	}
	var reasons []string
	for line := range strings.Lines(failed.Detail) {
		_, text, ok := strings.Cut(strings.TrimSpace(line), ":  ")
		text = position.ReplaceAllString(text, "")
		if ok && !strings.Contains(text, p.conf) { // the last line says that there were others
			reasons = append(reasons, text)
		}
	}
	if len(reasons) == 0 {
		return failed
	}
	return provision.Errorf(provision.KindInvalid, "PostgreSQL refuses the settings").WithDetail("%s", strings.Join(reasons, "; "))
}

// need finds out what a running server needs for its configuration to count: its contexts of settings are known to itself only.
func (d *Driver) need(ctx context.Context, p *place, in *provision.Instance, now map[string]string) (provision.Need, error) {
	started, err1 := os.ReadFile(p.started)
	loaded, err2 := os.ReadFile(p.loaded)
	if err1 != nil || err2 != nil {
		if err := errors.Join(err1, err2); !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		return provision.NeedRestart, nil
	}
	since := provision.Changed(parse(string(started)), now)
	if len(since) == 0 && string(loaded) == string(started) {
		return provision.NeedNothing, nil
	}
	need := provision.NeedNothing
	if len(provision.Changed(parse(string(loaded)), now)) > 0 {
		need = provision.NeedReload
	}
	if slices.ContainsFunc(since, func(name string) bool { return slices.Contains(held, name) }) {
		return provision.NeedRestart, nil
	}
	n, err := askContext(ctx, in, since)
	if err != nil && context.Cause(ctx) != nil {
		return 0, err
	}
	if err != nil || n > 0 {
		return provision.NeedRestart, nil //nolint:nilerr // it sets right one that can't be asked, too
	}
	return need, nil
}

// startedWith is the configuration that an instance's server was started with, as far as it is known.
func (d *Driver) startedWith(id string) map[string]string {
	p, err := d.at(id)
	if err != nil {
		return nil
	}
	text, _ := os.ReadFile(p.started) // none without it
	return parse(string(text))
}

// askContext asks a server how many of the settings count from its start on only.
func askContext(ctx context.Context, in *provision.Instance, names []string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := provision.Ask(ctx, in)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT count(*) FROM pg_settings WHERE context IN ('postmaster', 'internal') AND name = ANY ($1)`, names)
	if err != nil {
		return 0, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
}

// Reload implements provision.Driver. It returns when the server has read its configuration, if it can be asked.
func (d *Driver) Reload(ctx context.Context, in *provision.Instance) error {
	p, err := d.place(in)
	if err != nil {
		return err
	}
	defer d.lock(in.ID)()
	pm, running := findPostmaster(p)
	if !running {
		return provision.Errorf(provision.KindState, "instance %s does not run", in.ID)
	}
	text, err := os.ReadFile(p.config)
	if err != nil {
		return err
	}
	before, known := loadTime(ctx, in)
	if err := signal(pm.pid, unix.SIGHUP, func(pid int) bool { return isServer(p, pid) }); err != nil {
		return err
	}
	for deadline := time.Now().Add(3 * time.Second); known && time.Now().Before(deadline); {
		if after, ok := loadTime(ctx, in); !ok || after.After(before) {
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return d.put(p, p.loaded, string(text))
}

// loadTime is when the server read its configuration last, as a new session sees it.
func loadTime(ctx context.Context, in *provision.Instance) (time.Time, bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := provision.Ask(ctx, in)
	if err != nil {
		return time.Time{}, false
	}
	defer conn.Close(ctx)
	var at time.Time
	err = conn.QueryRow(ctx, `SELECT pg_conf_load_time()`).Scan(&at)
	return at, err == nil
}
