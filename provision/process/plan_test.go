package process_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/provision/process"
	"github.com/pgkennel/pgkennel/tenant"
)

// An ordinary user runs the driver's test: what only root can do is refused there.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestDriver$/^(Life|Crash|CPU|Memory|Disk|IO|Refusals)$", "-test.timeout=2m",
		"-test.parallel="+strconv.Itoa(runtime.GOMAXPROCS(0)))
	cmd.Dir = "/tmp"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}
	if root {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}} // nobody has a name, which initdb wants
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS") || strings.Contains(string(out), "no tests") {
		t.Errorf("the driver's test as an ordinary user: %v\n%s", err, out)
	}
}

func instances(n int, change func(i int, in *provision.Instance)) []*provision.Instance {
	list := make([]*provision.Instance, n)
	for i := range list {
		list[i] = &provision.Instance{ID: tenant.NewID()}
		change(i, list[i])
	}
	return list
}

// A refusal names the number.
func TestDensity(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.MaxInstances = 3
	first := pgtest.FreePorts(t, 3)
	o.PortMin, o.PortMax = first, first+2
	d := openWith(t, o)
	port := func(i int) string { return strconv.Itoa(first + i) }
	ports := func(numbers ...int) []*provision.Instance {
		return instances(len(numbers), func(i int, in *provision.Instance) {
			in.Facts = map[string]string{tenant.PortFact: strconv.Itoa(numbers[i])}
		})
	}
	for _, row := range []struct {
		name   string
		others []*provision.Instance
		change func(*provision.Instance)
		want   string
	}{
		{"too many", ports(1, 2, 3), nil, "this host has 3 instances already, and may have 3"},
		{"memory", instances(2, func(_ int, in *provision.Instance) { in.Limits.Memory = 1 << 50 }), nil, "promised to others"},
		{"processes", nil, func(in *provision.Instance) { in.Limits.Connections = 10_000_000 }, "more than an instance may have, 10000"},
	} {
		in := &provision.Instance{ID: tenant.NewID()}
		if row.change != nil {
			row.change(in)
		}
		if err := d.Plan(t.Context(), in, row.others); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
	// The one port that nobody has: not on record, not listened at, not chosen for another just now.
	in := &provision.Instance{ID: tenant.NewID()}
	if err := d.Plan(t.Context(), in, ports(first, first+2)); err != nil || in.Facts[tenant.PortFact] != port(1) {
		t.Errorf("plan for the last port: %v, %v", err, in.Facts)
	}
	if err := d.Plan(t.Context(), in, ports(first, first+2)); err != nil || in.Facts[tenant.PortFact] != port(1) {
		t.Errorf("the same again: %v, %v", err, in.Facts)
	}
	other := &provision.Instance{ID: tenant.NewID()}
	if err := d.Plan(t.Context(), other, ports(first, first+2)); err == nil || !strings.Contains(err.Error(), "none of the 3 ports from "+port(0)+" to "+port(2)+" is free") {
		t.Errorf("plan without a port: %v", err)
	}
	// Somebody whose record shows it has the one chosen before.
	if err := d.Plan(t.Context(), in, ports(first+1)); err != nil || in.Facts[tenant.PortFact] == port(1) {
		t.Errorf("plan again after another took the port: %v, %v", err, in.Facts)
	}
	last := map[string]string{port(0): port(2), port(2): port(0)}[in.Facts[tenant.PortFact]]
	l, err := net.Listen("tcp", "127.0.0.1:"+last)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	third := &provision.Instance{ID: tenant.NewID()}
	if err := d.Plan(t.Context(), third, append(ports(first+1), in)); err == nil {
		t.Errorf("it has port %s; %s is listened at, and the two others are others'", third.Facts[tenant.PortFact], last)
	}
}

// Versions are found by what programs say that they are, and asked for by number.
func TestVersions(t *testing.T) {
	t.Parallel()
	o := options(t)
	for dir, version := range map[string]string{"a": "97.3 (Debian 97.3-1)", "b": "98beta1", "c": "97.1", "d": "nothing at all"} {
		bin := filepath.Join(t.TempDir(), dir)
		if err := os.Mkdir(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"postgres", "initdb"} {
			if err := os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) "+version+"'\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		o.Bins = append(o.Bins, bin)
	}
	d := openWith(t, o)
	in := &provision.Instance{ID: tenant.NewID()}
	if err := d.Plan(t.Context(), in, nil); err != nil || in.Version != "98" {
		t.Errorf("version by default: %q, %v; want the newest, 98", in.Version, err)
	}
	in.Version = "97"
	if err := d.Plan(t.Context(), in, nil); err != nil || in.Version != "97" {
		t.Errorf("version 97: %q, %v", in.Version, err)
	}
	in.Version = "96"
	e := explain(d.Plan(t.Context(), in, nil))
	if !strings.Contains(e, "PostgreSQL 96 is not installed") || !strings.Contains(e, "98, 97, ") {
		t.Errorf("version 96: %s; want those that are installed", e)
	}
	replica := &provision.Instance{ID: tenant.NewID(), Version: "98", Primary: &provision.Instance{ID: tenant.NewID(), Version: "97"}}
	if err := d.Plan(t.Context(), replica, nil); drivertest.Kind(err) != provision.KindInvalid {
		t.Errorf("a replica of another version: %v, want %s", err, provision.KindInvalid)
	}
}

func explain(err error) string {
	if e, ok := err.(*provision.Error); ok { //nolint:errorlint // as it is returned
		return e.Message + " " + e.Detail
	}
	return "no *provision.Error"
}

// Options that make no sense are told at once; what the host is not fit for, when an instance is asked for.
func TestBadOptions(t *testing.T) {
	t.Parallel()
	good := options(t)
	shut := filepath.Join(t.TempDir(), "shut")
	if err := os.Mkdir(shut, 0o700); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*process.Options){
		"data_dir is not set":        func(o *process.Options) { o.DataDir = "" },
		"bytes too long":             func(o *process.Options) { o.DataDir = filepath.Join(t.TempDir(), strings.Repeat("x", 70)) },
		"only letters":               func(o *process.Options) { o.DataDir = filepath.Join(t.TempDir(), "a b") },
		"2 to 1 is no range":         func(o *process.Options) { o.PortMin, o.PortMax = 2, 1 },
		"0 to 5 is no range":         func(o *process.Options) { o.UIDMin, o.UIDMax = 0, 5 },
		"not a directory":            func(o *process.Options) { o.DataDir = "/dev/null/x" },
		"no-such-user":               func(o *process.Options) { o.Account = "no-such-user" },
		"can't pass through " + shut: func(o *process.Options) { o.DataDir = filepath.Join(shut, "x") },
	} {
		o := good
		change(&o)
		d, err := process.New(o)
		if err == nil {
			err = d.Plan(t.Context(), &provision.Instance{ID: tenant.NewID()}, nil)
			if err != nil && drivertest.Kind(err) != provision.KindRefused {
				t.Errorf("plan: %v, want %s", err, provision.KindRefused)
			}
		}
		if !root && (want == "no-such-user" || strings.HasPrefix(want, "can't pass")) {
			if err != nil {
				t.Errorf("it needs nobody else's, and says %v", err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Records may be wrong, or somebody's who means harm: nothing is done as root, or elsewhere.
// What is in another directory is not said to be stopped, or gone.
func TestOtherDataDir(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.NoTCP = true
	d, in := openWith(t, o), &provision.Instance{ID: tenant.NewID()}
	if err := d.Plan(t.Context(), in, nil); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(context.Context, *provision.Instance) error{"stop": d.Stop, "destroy": d.Destroy} {
		if err := do(t.Context(), in); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.DataDir = t.TempDir()
	other := openWith(t, o)
	for name, do := range map[string]func(context.Context, *provision.Instance) error{"volume": other.Volume, "start": other.Start, "stop": other.Stop, "destroy": other.Destroy} {
		if err := do(t.Context(), in); err == nil || !strings.Contains(explain(err), "data_dir") {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

func TestBadRecords(t *testing.T) {
	t.Parallel()
	d := open(t)
	ctx := context.Background()
	ids := []string{"", "..", "../x", "a/b", "a.b", "A", "-a", strings.Repeat("x", 41)}
	list := instances(len(ids), func(i int, in *provision.Instance) { in.ID = ids[i] })
	if root {
		for _, uid := range []string{"0", "-1", "65534", "x", ""} {
			list = append(list, &provision.Instance{ID: tenant.NewID(), Facts: map[string]string{tenant.UIDFact: uid}})
		}
	}
	for _, in := range list {
		if err := d.Volume(ctx, in); err == nil {
			t.Errorf("a volume for %q of %v", in.ID, in.Facts)
		}
		if err := d.Start(ctx, in); err == nil {
			t.Errorf("start of %q of %v", in.ID, in.Facts)
		}
		if in.Facts[tenant.UIDFact] != "" || in.ID == "" {
			if err := d.Destroy(ctx, in); err == nil {
				t.Errorf("destroy of %q of %v", in.ID, in.Facts)
			}
		}
	}
}
