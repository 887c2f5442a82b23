package process

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/provision"
)

// install is one PostgreSQL on this host.
type install struct {
	major int
	bin   string
}

func (i install) path(program string) string { return filepath.Join(i.bin, program) }

// oldest is the first version that bounds what replicas make it keep (max_slot_wal_keep_size).
const oldest = 13

var versionLine = regexp.MustCompile(`\(PostgreSQL\) ([0-9]+)`)

// discover finds PostgreSQL's programs: the directories told of first, then where distributions put them, then that of pg_config.
func discover(dirs []string) []install {
	dirs = slices.Clone(dirs)
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin"} {
		found, _ := filepath.Glob(pattern) // fails for a bad pattern only
		dirs = append(dirs, found...)
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	var list []install
	for _, dir := range dirs {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
			continue
		}
		out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output() //nolint:gosec // where the operator says
		if err != nil {
			continue
		}
		m := versionLine.FindSubmatch(out)
		if m == nil {
			continue
		}
		major, _ := strconv.Atoi(string(m[1]))
		if major >= oldest && !slices.ContainsFunc(list, func(i install) bool { return i.major == major }) {
			list = append(list, install{major: major, bin: dir})
		}
	}
	slices.SortFunc(list, func(a, b install) int { return cmp.Compare(b.major, a.major) })
	return list
}

// discover finds those that servers are started of.
func (d *Driver) discover() []install {
	if d.enclosed == nil {
		return discover(d.o.Bins)
	}
	majors, err := d.enclosed.Versions()
	if err != nil {
		d.log.Warn("versions of PostgreSQL are not known", "error", err)
	}
	var list []install
	for _, major := range majors {
		list = append(list, install{major: major, bin: strconv.Itoa(major)})
	}
	slices.SortFunc(list, func(a, b install) int { return cmp.Compare(b.major, a.major) })
	return list
}

// installs returns all that there are; afresh if again.
func (d *Driver) installs(again bool) []install {
	d.mu.Lock()
	list := d.mu.installs
	d.mu.Unlock()
	if len(list) == 0 || again {
		list = d.discover()
		d.mu.Lock()
		d.mu.installs = list
		d.mu.Unlock()
	}
	return list
}

// install returns that of a major version, the newest for an empty one. It looks again before it says that there is none.
func (d *Driver) install(version string) (install, error) {
	var list []install
	for _, again := range []bool{false, true} {
		list = d.installs(again)
		if len(list) > 0 && version == "" {
			return list[0], nil
		}
		for _, i := range list {
			if strconv.Itoa(i.major) == version {
				return i, nil
			}
		}
	}
	if d.enclosed != nil {
		return install{}, d.enclosed.Missing(version)
	}
	if len(list) == 0 {
		return install{}, provision.Errorf(provision.KindRefused, "no PostgreSQL is installed on this host").
			WithHint("Install it, such as with `apt-get install postgresql`, or name the directory of its programs.")
	}
	majors := make([]string, len(list))
	for i, in := range list {
		majors[i] = strconv.Itoa(in.major)
	}
	return install{}, provision.Errorf(provision.KindRefused, "PostgreSQL %s is not installed on this host", version).
		WithDetail("Installed: %s.", strings.Join(majors, ", "))
}
