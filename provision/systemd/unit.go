package systemd

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/provision/process"
	"github.com/pgkennel/pgkennel/tenant"
)

const (
	prefix = "pgkennel-"
	suffix = ".service"
	// marker names the data directory that a unit belongs to: a host may have several. systemd passes over sections that begin with X-.
	marker = "[X-pgkennel]\nDataDir="
)

func unitName(id string) string           { return prefix + id + suffix }
func (u *units) path(id string) string    { return filepath.Join(u.dir, unitName(id)) }
func (u *units) dropIns(id string) string { return u.path(id) + ".d" }

// control is where systemd keeps properties that were set at run time.
func control(id string) string { return "/run/systemd/system.control/" + unitName(id) + ".d" }

// text is an instance's unit. What PostgreSQL and its tools may write to is the instance's own directory; what is left open is what extensions and a
// superuser's programs may rightly want: other programs, the network, memory that is code (JIT).
func (u *units) text(s process.Service) string {
	groups := []string{"--clear-groups"}
	if len(s.Groups) > 0 {
		words := make([]string, len(s.Groups))
		for i, g := range s.Groups {
			words[i] = strconv.FormatUint(uint64(g), 10)
		}
		groups = []string{"--groups=" + strings.Join(words, ",")}
	}
	command := append([]string{u.setpriv, "--reuid=" + strconv.Itoa(s.UID), "--regid=" + strconv.Itoa(s.GID)}, groups...)
	command = append(command, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--")
	command = append(command, s.Command...)
	kind := "exec"
	if notifies(s.Command[0]) {
		kind = "notify"
	}
	backOff := "" // the same time always
	if u.version >= 254 {
		backOff = "RestartSteps=6\nRestartMaxDelaySec=1min\n"
	}
	dataLimit := ""
	if s.Data > 0 { // the soft one: it can be raised while the unit runs
		dataLimit = fmt.Sprintf("LimitDATA=%d:infinity\n", s.Data)
	}
	env := make([]string, len(s.Env))
	for i, e := range s.Env {
		env[i] = quote(e, false)
	}
	args := make([]string, len(command))
	for i, a := range command {
		args[i] = quote(a, true)
	}
	return fmt.Sprintf(`# Written by pgkennel, which writes it anew at each start. For changes to all instances' units: %[1]s/pgkennel-.service.d/*.conf.
[Unit]
Description=PostgreSQL of tenant %[2]s (pgkennel)
RequiresMountsFor=%[3]s
After=network.target
StartLimitIntervalSec=5min
StartLimitBurst=10

[Service]
Type=%[4]s
NotifyAccess=main
ExecStart=%[5]s
Environment=%[6]s
WorkingDirectory=%[3]s
StandardInput=null
StandardOutput=append:%[7]s
StandardError=inherit
TimeoutStartSec=infinity
KillMode=mixed
KillSignal=SIGINT
TimeoutStopSec=3min
Restart=on-failure
RestartSec=1s
%[12]sOOMPolicy=continue
OOMScoreAdjust=-900
LimitNOFILE=%[8]d
LimitNPROC=%[9]d
LimitCORE=0
%[13]sUMask=0077
CPUAccounting=yes
MemoryAccounting=yes
TasksAccounting=yes

CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_SETPCAP
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths=%[3]s
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

%[10]s%[11]s
`, u.dir, s.ID, s.Dir, kind, strings.Join(args, " "), strings.Join(env, " "), s.Log, s.Files, s.Processes, marker, u.dataDir, backOff, dataLimit)
}

// notifies reports whether a PostgreSQL tells systemd when it is ready: distributions build it so, others do not. It is the library that shows it.
func notifies(program string) bool {
	f, err := elf.Open(program)
	if err != nil {
		return false
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	return err == nil && slices.ContainsFunc(libraries, func(l string) bool { return strings.HasPrefix(l, "libsystemd.so") })
}

// quote writes a word of a unit file: systemd reads quotes, backslashes and percent signs in all, and dollar signs in commands.
func quote(s string, command bool) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "%", "%%").Replace(s)
	if command {
		s = strings.ReplaceAll(s, "$", "$$")
	}
	return `"` + s + `"`
}

// limits are the drop-in of an instance's limits.
func (u *units) limits(id string, l tenant.Limits, processes int) string {
	cpu, high, most, swap := "", "infinity", "infinity", "infinity"
	if l.CPU > 0 {
		cpu = fmt.Sprintf("%d.%d%%", l.CPU/10, l.CPU%10)
	}
	if l.Memory > 0 {
		// Slowed down a little below the limit, it gives back cache and does not lose a process.
		high, most, swap = strconv.FormatInt(highOf(l.Memory), 10), strconv.FormatInt(l.Memory, 10), "0"
	}
	inout := "" // systemd finds the disk of the directory when the unit starts
	if l.IO > 0 {
		dir := filepath.Join(u.dataDir, id)
		inout = fmt.Sprintf("IOReadBandwidthMax=%[1]s %[2]d\nIOWriteBandwidthMax=%[1]s %[2]d\n", dir, l.IO)
	}
	return fmt.Sprintf("# Written by pgkennel.\n[Service]\nCPUQuota=%s\nMemoryHigh=%s\nMemoryMax=%s\nMemorySwapMax=%s\n%sTasksMax=%d\n\n%s%s\n",
		cpu, high, most, swap, inout, processes, marker, u.dataDir)
}

func highOf(memory int64) int64 { return memory - memory/16 }

// write has a file hold a text, at once or not at all. One that holds it already stays as it is: systemd asks for a reload when it is a new one.
func write(path, text string) error {
	if now, err := os.ReadFile(path); err == nil && string(now) == text {
		return nil
	}
	part := path + ".new"                                           // systemd passes over names that do not end in .service or .conf
	if err := os.WriteFile(part, []byte(text), 0o644); err != nil { //nolint:gosec // units are for all to read, and hold no secret
		return err
	}
	return os.Rename(part, path)
}

// ours reports whether a unit file or drop-in is that of an instance of this data directory.
func (u *units) ours(path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && strings.HasSuffix(string(b), "\n"+marker+u.dataDir+"\n")
}

const limitsFile = "50-limits.conf"

// List implements process.Runner.
func (u *units) List() []string {
	entries, err := os.ReadDir(u.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		u.log.Warn("units can't be listed", "error", err)
	}
	var ids []string
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".d")
		id, isUnit := strings.CutSuffix(strings.TrimPrefix(name, prefix), suffix)
		if !strings.HasPrefix(name, prefix) || !isUnit || id == "" || slices.Contains(ids, id) {
			continue
		}
		if u.ours(u.path(id)) || u.ours(filepath.Join(u.dropIns(id), limitsFile)) {
			ids = append(ids, id)
		}
	}
	return ids
}
