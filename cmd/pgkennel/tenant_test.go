package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// executor answers as it is told, and notes what was ordered.
type executor struct {
	orders   []provision.Order
	answer   func(o provision.Order) (*provision.Result, error)
	progress []provision.Progress
}

func (e *executor) Execute(_ context.Context, o provision.Order, report func(provision.Progress)) (*provision.Result, error) {
	e.orders = append(e.orders, o)
	for _, p := range e.progress {
		report(p)
	}
	if e.answer == nil {
		return &provision.Result{Changed: true}, nil
	}
	return e.answer(o)
}

// ran is what a command did.
type ran struct {
	code           int
	stdout, stderr string
	exec           []string // what psql was called with
	env            []string
	files          *files
}

func runTenant(t *testing.T, e *executor, stdin string, args ...string) (r ran) {
	t.Helper()
	var out, log bytes.Buffer
	r.files = &files{config: "pgdog.toml"}
	r.code = runRoot(func() *cobra.Command {
		root := newRootOf(r.files)
		for _, c := range root.Commands() {
			if c.Name() == "tenant" {
				root.RemoveCommand(c)
			}
		}
		tn := &tenants{
			files: r.files,
			open: func(context.Context, *cobra.Command, *tenants) (provision.Executor, func(), error) {
				if e == nil {
					return nil, nil, provision.Errorf(provision.KindFailed, "nobody is there").WithHint("start one")
				}
				return e, func() {}, nil
			},
			exec: func(path string, args, env []string) error {
				r.exec, r.env = args, env
				return nil
			},
		}
		root.AddCommand(tn.command())
		root.SetIn(strings.NewReader(stdin))
		return root
	}(), append([]string{"tenant"}, args...), &out, &log)
	r.stdout, r.stderr = out.String(), log.String()
	return r
}

// What is on the command line is what is ordered, wherever flags stand.
func TestTenantOrders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret, sql := file("secret", "pass word\r\nsecond line\n"), file("init.sql", "CREATE TABLE t ();\n")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	mb := int64(1 << 20)
	for _, x := range []struct {
		args string
		want []provision.Order
	}{
		{"create acme", []provision.Order{{Verb: "create", Tenant: "acme"}}},
		{"create --enable acme --cpu 0.5 --memory=256MB --disk 2GB --io 64MB --connections 9", []provision.Order{{
			Verb: "create", Tenant: "acme", Enable: true, Limits: &tenant.Limits{CPU: 500, Memory: 256 * mb, Disk: 2048 * mb, IO: 64 * mb, Connections: 9},
		}}},
		{"create acme --isolation schema --mode strict --key 42 --database saas --shard 0 --template base.sql --version 15 --driver process --host db1", []provision.Order{{
			Verb: "create", Tenant: "acme", Isolation: "schema", Mode: "strict", Key: "42", Cluster: "saas", Shard: new(0), Template: "base.sql", Version: "15", Driver: "process", Host: "db1",
		}}},
		{"create acme --config work_mem=8MB --setting jit= -c x.y='a=b' --extension a,b --extension c --superuser --dry-run", []provision.Order{{
			Verb: "create", Tenant: "acme", Settings: map[string]string{"work_mem": "8MB", "jit": "", "x.y": "'a=b'"}, Extensions: []string{"a", "b", "c"}, Superuser: true, DryRun: true,
		}}},
		{"create acme --password-file " + secret + " --init " + sql + " --suspend-after 15m --archive --backup-every 1d --backup-keep 7 --cidr 10.1.2.3/8,::1", []provision.Order{{
			Verb: "create", Tenant: "acme", Password: "pass word", Init: "CREATE TABLE t ();\n", SuspendAfter: new(15 * time.Minute), Archive: new(true), Every: new(24 * time.Hour), Keep: new(7),
			Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		}}},
		{"create acme --password-file - --suspend-after 0 --archive=false", []provision.Order{{Verb: "create", Tenant: "acme", Password: "from stdin", SuspendAfter: new(time.Duration(0)), Archive: new(false)}}},
		{"clone acme other --memory 1GB --enable", []provision.Order{{Verb: "clone", Tenant: "acme", Name: "other", Enable: true, Limits: &tenant.Limits{Memory: 1024 * mb}}}},
		{"list", []provision.Order{{Verb: "list"}}},
		{"ls --removed", []provision.Order{{Verb: "list", Removed: true}}},
		{"show a b", []provision.Order{{Verb: "show", Tenant: "a"}, {Verb: "show", Tenant: "b"}}},
		{"start a b c", []provision.Order{{Verb: "start", Tenant: "a"}, {Verb: "start", Tenant: "b"}, {Verb: "start", Tenant: "c"}}},
		{"stop a --now", []provision.Order{{Verb: "stop", Tenant: "a", Now: true}}},
		{"restart --now a", []provision.Order{{Verb: "restart", Tenant: "a", Now: true}}},
		{"suspend a", []provision.Order{{Verb: "suspend", Tenant: "a"}}},
		{"resume a", []provision.Order{{Verb: "resume", Tenant: "a"}}},
		{"enable-access a --cidr 192.0.2.7", []provision.Order{{Verb: "enable-access", Tenant: "a", Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}}}},
		{"disable-access a --now", []provision.Order{{Verb: "disable-access", Tenant: "a", Now: true}}},
		{"read-only a", []provision.Order{{Verb: "read-only", Tenant: "a", On: new(true)}}},
		{"read-only a --off", []provision.Order{{Verb: "read-only", Tenant: "a", On: new(false)}}},
		{"rename a b", []provision.Order{{Verb: "rename", Tenant: "a", Name: "b"}}},
		{"set a b --suspend-after 1h --now", []provision.Order{{Verb: "set", Tenant: "a", SuspendAfter: new(time.Hour), Now: true}, {Verb: "set", Tenant: "b", SuspendAfter: new(time.Hour), Now: true}}},
		{"password a --login reports", []provision.Order{{Verb: "password", Tenant: "a", Login: "reports"}}},
		{"logs a -f -n 5", []provision.Order{{Verb: "logs", Tenant: "a", Follow: true, Lines: 5}}},
		{"stats", []provision.Order{{Verb: "stats"}}},
		{"backup a --kind physical", []provision.Order{{Verb: "backup", Tenant: "a", Kind: "physical"}}},
		{"backup a --verify --id x", []provision.Order{{Verb: "verify", Tenant: "a", Backup: "x"}}},
		{"backups a", []provision.Order{{Verb: "backups", Tenant: "a"}}},
		{"restore a --backup x --as b --to-time 2026-01-31T23:59:00Z --enable", []provision.Order{{
			Verb: "restore", Tenant: "a", Backup: "x", Name: "b", ToTime: time.Date(2026, 1, 31, 23, 59, 0, 0, time.UTC), Enable: true,
		}}},
		{"remove a b --now", []provision.Order{{Verb: "remove", Tenant: "a", Now: true}, {Verb: "remove", Tenant: "b", Now: true}}},
		{"remove a --keep-backups", []provision.Order{{Verb: "remove", Tenant: "a", Keep: new(0)}}},
		{"repair", []provision.Order{{Verb: "repair"}}},
		{"rekey", []provision.Order{{Verb: "rekey"}}},
		{"rekey a", []provision.Order{{Verb: "rekey", Tenant: "a"}}},
		{"drop-record x", []provision.Order{{Verb: "drop", Tenant: "x"}}},
		{"repair a", []provision.Order{{Verb: "repair", Tenant: "a"}}},
		{"import a dump --passphrase-file " + secret + " --enable", []provision.Order{{Verb: "import", Tenant: "a", File: filepath.Join(here, "dump"), Passphrase: "pass word", Enable: true}}},
		{"repair --force", []provision.Order{{Verb: "repair", Force: true}}},
		{"export a /tmp/dump --backup x", []provision.Order{{Verb: "export", Tenant: "a", File: "/tmp/dump", Backup: "x"}}},
		{"export a dump --api https://x --token-file " + secret, []provision.Order{{Verb: "export", Tenant: "a", File: "dump"}}},
		{"user create a reports --read-only --connections 3", []provision.Order{{Verb: "user", Action: "create", Tenant: "a", Login: "reports", ReadOnly: new(true), Limits: &tenant.Limits{Connections: 3}}}},
		{"user set a reports --read-only=false --disabled", []provision.Order{{Verb: "user", Action: "set", Tenant: "a", Login: "reports", ReadOnly: new(false), On: new(false)}}},
		{"user password a reports --password-file -", []provision.Order{{Verb: "user", Action: "password", Tenant: "a", Login: "reports", Password: "from stdin"}}},
		{"user remove a reports", []provision.Order{{Verb: "user", Action: "remove", Tenant: "a", Login: "reports"}}},
		{"user list a", []provision.Order{{Verb: "user", Action: "list", Tenant: "a"}}},
		{"replica create a --host db2 --force", []provision.Order{{Verb: "replica", Action: "create", Tenant: "a", Host: "db2", Force: true}}},
		{"replica remove a x", []provision.Order{{Verb: "replica", Action: "remove", Tenant: "a", Replica: "x"}}},
		{"replica list a", []provision.Order{{Verb: "replica", Action: "list", Tenant: "a"}}},
		{"audit -n 3", []provision.Order{{Verb: "audit", Limit: 3}}},
		{"audit a", []provision.Order{{Verb: "audit", Tenant: "a", Limit: 50}}},
	} {
		e := &executor{}
		r := runTenant(t, e, "from stdin", strings.Fields(x.args)...)
		if diff := cmp.Diff(x.want, e.orders, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || r.code != 0 {
			t.Errorf("%s: exit code %d, %s%s", x.args, r.code, r.stderr, diff)
		}
	}
}

// What depends on what a tenant is now is asked first.
func TestTenantOrdersAdjusted(t *testing.T) {
	t.Parallel()
	view := &provision.View{Name: "a", Limits: tenant.Limits{CPU: 500, Memory: 7, Connections: 3}, Access: tenant.Access{
		Enabled: true, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")},
	}}
	for _, x := range []struct {
		args string
		want provision.Order
		code int
	}{
		{"set a --memory 8MB --cpu 0", provision.Order{Verb: "set", Tenant: "a", Limits: &tenant.Limits{Memory: 8 << 20, Connections: 3}}, 0},
		{"set a --io 2MB", provision.Order{Verb: "set", Tenant: "a", Limits: &tenant.Limits{CPU: 500, Memory: 7, IO: 2 << 20, Connections: 3}}, 0},
		{"disable-access a --cidr 10.0.0.0/8", provision.Order{Verb: "enable-access", Tenant: "a", Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, 0},
		{"disable-access a --cidr 10.0.0.0/8,192.0.2.0/24", provision.Order{Verb: "disable-access", Tenant: "a"}, 0},
		{"disable-access a --cidr 10.1.0.0/16", provision.Order{Verb: "show", Tenant: "a"}, 2},
	} {
		e := &executor{answer: func(provision.Order) (*provision.Result, error) {
			return &provision.Result{Tenants: []*provision.View{view}}, nil
		}}
		r := runTenant(t, e, "", strings.Fields(x.args)...)
		if last := e.orders[len(e.orders)-1]; r.code != x.code || e.orders[0].Verb != "show" || !cmp.Equal(last, x.want, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })) {
			t.Errorf("%s: exit code %d, ordered %+v; %s", x.args, r.code, e.orders, r.stderr)
		}
	}
}

// Mistakes on the command line are told before anything is ordered.
func TestTenantUsage(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"": "tenant needs a command", "nonsense": `unknown command "nonsense"`, "create": "usage: pgkennel tenant create NAME [flags]", "create a b": "usage:",
		"start": "usage:", "rename a": "usage:", "logs a b": "usage:", "list x": "usage:",
		"create a --memory lots": "no size such as", "create a --cpu x": "no number of cores", "create a --suspend-after soon": "no time such as",
		"create a --setting work_mem": "no setting such as", "create a --config =x": "no setting such as", "create a --cidr x": "no network such as",
		"create a --init /nonexistent": "no such file", "create a --password-file /nonexistent": "no such file", "create a --password-file " + empty: "the first line is empty",
		"create a --colour red": "unknown flag", "restore a --to-time yesterday": "no time such as", "disable-access a --now --cidr 10.0.0.0/8": "give one of them",
		"backup a --id x": "--verify", "backup a --verify --kind logical": "--kind", "user": "user needs a command", "user nonsense": "unknown command", "user create a": "usage:",
		"replica": "replica needs a command", "restore a --backup=": "--backup is empty", "restore a --to-time=": "--to-time is empty", "restore a --backup x --as=": "--as is empty",
	} {
		e := &executor{}
		r := runTenant(t, e, "", strings.Fields(args)...)
		if r.code != exitUsage || !strings.Contains(r.stderr, want) || r.stdout != "" || len(e.orders) > 0 {
			t.Errorf("%q: got exit code %d, %s%s, ordered %v; want %s", args, r.code, r.stdout, r.stderr, e.orders, want)
		}
	}
}

// The exit code says what kind of error it was; what else was ordered is done all the same.
func TestTenantErrors(t *testing.T) {
	t.Parallel()
	for kind, code := range map[provision.ErrorKind]int{
		provision.KindInvalid: 2, provision.KindNotFound: 3, provision.KindTaken: 4, provision.KindState: 4, provision.KindBusy: 4, provision.KindRefused: 5, provision.KindFailed: 1,
	} {
		e := &executor{answer: func(o provision.Order) (*provision.Result, error) {
			if o.Tenant == "b" {
				return nil, provision.Errorf(kind, "no").WithDetail("because").WithHint("try")
			}
			return &provision.Result{Changed: true}, nil
		}}
		r := runTenant(t, e, "", "start", "a", "b", "c")
		if want := "pgkennel: tenant b: no\ndetail: because\nhint: try\n"; r.code != code || r.stdout != "a: started\nc: started\n" || r.stderr != want {
			t.Errorf("%s: got exit code %d, %s, %s", kind, r.code, r.stdout, r.stderr)
		}
		r = runTenant(t, e, "", "start", "a", "b", "c", "--json")
		var j jsonResult
		if err := json.Unmarshal([]byte(r.stdout), &j); err != nil || r.code != code || !j.Changed || len(j.Errors) != 1 || j.Errors[0].Kind != kind || j.Errors[0].Tenant != "b" {
			t.Errorf("%s: got exit code %d, %s, %v", kind, r.code, r.stdout, err)
		}
	}
	r := runTenant(t, nil, "", "list")
	if r.code != 1 || r.stdout != "" || r.stderr != "pgkennel: nobody is there\nhint: start one\n" {
		t.Errorf("got exit code %d, %s, %s", r.code, r.stdout, r.stderr)
	}
	r = runTenant(t, &executor{answer: func(provision.Order) (*provision.Result, error) { return nil, errors.New("bang") }}, "", "list")
	if r.code != 1 || r.stderr != "pgkennel: bang\n" {
		t.Errorf("got exit code %d, %s", r.code, r.stderr)
	}
	file := filepath.Join(t.TempDir(), "pgdog.toml")
	if err := os.WriteFile(file, []byte("[general]\nhots = 'x'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	if code := run([]string{"-c", file, "tenant", "list"}, &out, &said); code != 1 || out.Len() > 0 || !strings.Contains(said.String(), `unknown key "hots"`) || strings.Contains(said.String(), "pgkennel:") {
		t.Errorf("a mistake in the configuration: got exit code %d, %s, %s", code, &out, &said)
	}
}

func at(s string) time.Time {
	t, err := time.ParseInLocation("2006-01-02 15:04:05", s, time.Local)
	if err != nil {
		panic(err)
	}
	return t
}

// What is printed for people.
func TestTenantPrints(t *testing.T) {
	t.Parallel()
	acme := &provision.View{
		ID: "abc", Name: "acme", Isolation: "instance", Phase: "ready", Access: tenant.Access{Enabled: true}, Driver: "process", Host: "db1", Version: "15",
		Limits: tenant.Limits{CPU: 500, Memory: 256 << 20, IO: 64 << 20, Connections: 20}, Usage: &provision.Usage{Memory: 13 << 20, Disk: 39<<20 + 300<<10, Processes: 7, CPU: 1234 * time.Millisecond},
		Created: time.Now().Add(-3 * time.Hour), Logins: []provision.LoginView{{Name: "acme"}, {Name: "reports", ReadOnly: true, Connections: 3}},
		Settings: map[string]string{"work_mem": "8MB"}, SuspendAfter: 15 * time.Minute, Endpoint: tenant.Endpoint{Host: "127.0.0.1", Port: 15432},
		Stats: map[string]int64{"clients": 3, "transactions_total": 7},
		Ends:  tenant.Ends{Count: 2, OOMKills: 3, Last: at("2026-01-02 03:04:05"), Reason: "the server ended: signal 9 (killed)", Down: at("2026-01-02 03:04:05")},
	}
	globex := &provision.View{
		ID: "def", Name: "globex", Isolation: "schema", Mode: "strict", Phase: "failed", Reason: "disk is full", Cluster: "saas", Shard: new(1), Created: time.Now().Add(-72 * time.Hour),
		Operation: &provision.OperationView{Verb: "set", By: "root", Step: "configure", Error: "no room", Started: time.Now().Add(-5 * time.Second)},
	}
	for _, x := range []struct {
		args, stdout, stderr string
		result               provision.Result
	}{
		{"list", "" +
			"NAME    STATE         ACCESS  ISOLATION  PLACE        VERSION  CPU  MEMORY         DISK  IO      CONNECTIONS  AGE\n" +
			"acme    ready (down)  on      instance   process@db1  15       0.5  13MB of 256MB  39MB  64MB/s  20           3h\n" +
			"globex  failed (set)  off     schema     saas/1       -        -    -              -     -       -            3d\n", "", provision.Result{Tenants: []*provision.View{acme, globex}}},
		{"list", "", "there are no tenants\n", provision.Result{}},
		{"stats", "" +
			"NAME  STATE         MEMORY         DISK  CPU TIME  PROCESSES  ENDED  OOM KILLS  CLIENTS  TRANSACTIONS TOTAL\n" +
			"acme  ready (down)  13MB of 256MB  39MB  1.23s     7          2      3          3        7\n", "", provision.Result{Tenants: []*provision.View{acme}}},
		{"create acme", "acme: created\nLOGIN  PASSWORD\nacme   x y\n", "" +
			"note: a password is shown this once, and kept nowhere\nnote: it is small\nnote: no client may log in yet: pgkennel tenant enable-access globex\n", provision.Result{
			Changed: true, Secrets: []provision.Secret{{Login: "acme", Password: "x y"}}, Notes: []string{"it is small"}, Tenants: []*provision.View{globex},
		}},
		{"create acme", "acme: nothing to do\n", "", provision.Result{}},
		{"create acme --dry-run", "plan: port 15432\ninit: 39MB\n", "", provision.Result{Plan: []string{"plan: port 15432", "init: 39MB"}}},
		{"repair", "acme: repaired, it is ready\n", "", provision.Result{Changed: true, Tenants: []*provision.View{acme}}},
		{"repair", "nothing to do\n", "", provision.Result{}},
		{"backup acme", "acme: backup x1, logical, 1.5MB\n", "", provision.Result{Changed: true, Backups: []provision.Backup{{ID: "x1", Kind: "logical", Bytes: 3 << 19}}}},
		{"backups acme", "" +
			"ID  KIND      MADE                 TOOK  SIZE  VERSION  VERIFIED  RESTORES TO                                NOTE\n" +
			"x1  physical  2026-01-02 03:04:05  5s    30MB  15       -         2026-01-02 03:04:05 – 2026-01-03 00:00:00  final\n", "", provision.Result{Backups: []provision.Backup{{
			ID: "x1", Kind: "physical", Started: at("2026-01-02 03:04:00"), Finished: at("2026-01-02 03:04:05"), Bytes: 30 << 20, Version: "15",
			From: at("2026-01-02 03:04:05"), Until: at("2026-01-03 00:00:00"), Note: "final",
		}}}},
		{"audit", "" +
			"TIME                 WHO   TENANT  WHAT  DETAIL\n" +
			"2026-01-02 03:04:05  anna  acme    stop  one line\n", "", provision.Result{Audit: []tenant.Entry{{Time: at("2026-01-02 03:04:05"), Who: "anna", Name: "acme", What: "stop", Detail: "one\nline"}}}},
		{"user list acme", "" +
			"TENANT  LOGIN    MAY\n" +
			"acme    acme     -\n" +
			"acme    reports  reads only, 3 connections\n", "", provision.Result{Tenants: []*provision.View{acme}}},
		{"user create acme reports", "acme: reports may log in\nLOGIN    PASSWORD\nreports  z\n", "note: a password is shown this once, and kept nowhere\n", provision.Result{
			Changed: true, Secrets: []provision.Secret{{Login: "reports", Password: "z"}},
		}},
	} {
		e := &executor{answer: func(provision.Order) (*provision.Result, error) { return &x.result, nil }}
		r := runTenant(t, e, "", strings.Fields(x.args)...)
		if diff := cmp.Diff(x.stdout, r.stdout); diff != "" || r.stderr != x.stderr || r.code != 0 {
			t.Errorf("%s: exit code %d\n%s\nstderr: %s", x.args, r.code, diff, r.stderr)
		}
	}
	e := &executor{answer: func(o provision.Order) (*provision.Result, error) {
		return &provision.Result{Tenants: []*provision.View{map[string]*provision.View{"acme": acme, "globex": globex}[o.Tenant]}}, nil
	}}
	r := runTenant(t, e, "", "show", "acme", "globex")
	text := regexp.MustCompile(` {2,}`).ReplaceAllString(r.stdout, "  ")
	for _, want := range []string{
		"name  acme\n", "state  ready\n", "access  on\n", "endpoint  127.0.0.1:15432\n", "memory  13MB of 256MB\n", "io  64MB/s\n", "processes  7, 1.23s of CPU time\n",
		"ended by itself  2 times, 3 processes for want of memory; last at 2026-01-02 03:04:05, the server ended: signal 9 (killed)\n",
		"down since  2026-01-02 03:04:05; it is started again, with a growing pause between tries\n",
		"setting  work_mem = 8MB\n", "suspend after  15m0s\n", "login  reports (reads only, 3 connections)\n", "\nname  globex\n", "reason  disk is full\n",
		"operation  set, at configure: no room (by root, for 5s)\n", "isolation  schema, strict\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("show: no line %q in\n%s", want, text)
		}
	}
}

// psql gets what it needs by its environment: others see arguments.
func TestTenantPsql(t *testing.T) {
	t.Setenv("PGUSER", "postgres") // an administrator's, elsewhere
	t.Setenv("PGSERVICE", "elsewhere")
	e := &executor{answer: func(provision.Order) (*provision.Result, error) {
		return &provision.Result{Connect: &provision.Connect{Host: "/run/x", Port: 15432, User: "pgkennel", Password: "canary", Database: "t_abc", Options: "-c role=x"}}, nil
	}}
	r := runTenant(t, e, "", "psql", "acme", "--", "-c", "SELECT 1")
	if slices.ContainsFunc(r.env, func(v string) bool { return v == "PGUSER=postgres" || strings.HasPrefix(v, "PGSERVICE=") }) {
		t.Error("psql is led elsewhere by the operator's environment")
	}
	if want := []string{"psql", "-c", "SELECT 1"}; !slices.Equal(r.exec, want) {
		t.Errorf("psql was called with %q, want %q", r.exec, want)
	}
	for _, want := range []string{"PGHOST=/run/x", "PGPORT=15432", "PGUSER=pgkennel", "PGPASSWORD=canary", "PGDATABASE=t_abc", "PGOPTIONS=-c role=x"} {
		if !slices.Contains(r.env, want) {
			t.Errorf("psql has no %s", want)
		}
	}
	if slices.Contains(r.env, "PGUSER=postgres") {
		t.Error("psql is told of another user")
	}
	if strings.Contains(r.stdout+r.stderr, "canary") {
		t.Errorf("the password is shown: %s%s", r.stdout, r.stderr)
	}
	e.answer = func(provision.Order) (*provision.Result, error) {
		return nil, provision.Errorf(provision.KindNotFound, "no")
	}
	if r := runTenant(t, e, "", "psql", "acme"); r.code != 3 || r.exec != nil {
		t.Errorf("exit code %d, called %v", r.code, r.exec)
	}
}

// Where there is no terminal, each step has a line, on stderr; lines of a log are the result.
func TestTenantProgress(t *testing.T) {
	t.Parallel()
	e := &executor{progress: []provision.Progress{
		{Tenant: "acme", Step: "volume", Total: 3},
		{Tenant: "acme", Step: "init", Done: 1, Total: 3},
		{Tenant: "acme", Step: "init", Done: 1, Total: 3},
		{Step: "dump", Done: 2048, Total: 4096, Bytes: true},
		{Step: "dump", Done: 3000, Total: 4096, Bytes: true},
		{Line: "LOG:  ready"},
	}}
	r := runTenant(t, e, "", "start", "acme")
	if want := "start acme: 1 of 3, volume\nstart acme: 2 of 3, init\nstart acme: dump 2kB of 4kB\n"; r.stderr != want || r.stdout != "LOG:  ready\nacme: started\n" {
		t.Errorf("got %s, %s, want %s", r.stdout, r.stderr, want)
	}
	if r := runTenant(t, e, "", "start", "acme", "-q"); r.stderr != "" {
		t.Errorf("quiet, and said %s", r.stderr)
	}
}

// What a tenant says is not what a terminal obeys.
func TestTenantHarmless(t *testing.T) {
	t.Parallel()
	var out, log bytes.Buffer
	p := newProgress(&out, &log, "acme", "logs", false)
	p.report(provision.Progress{Line: "ERROR:  \x1b]52;c;eA==\x07 \u009b2J\tä\xff�\r"})
	complain(&log, "acme", provision.Errorf(provision.KindFailed, "no\x1b[2J").WithDetail("two\nlines\x08"))
	if got, want := out.String(), `ERROR:  \x1b]52;c;eA==\x07 \x9b2J`+"\tä"+`\xff`+"�\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := log.String(), "pgkennel: tenant acme: no\\x1b[2J\ndetail: two\nlines\\x08\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A bar is there after a while, follows what is reported, and goes.
func TestTenantBar(t *testing.T) {
	t.Parallel()
	var out, log bytes.Buffer
	p := newProgress(&out, &log, "acme", "backup", false)
	p.show()
	p.report(provision.Progress{Step: "dump", Done: 1 << 20, Total: 4 << 20, Bytes: true})
	p.mu.bar.SetTotal(4<<20, false)
	p.end()
	p.report(provision.Progress{Step: "late"})
	if s := log.String(); !strings.Contains(s, "backup acme") || !strings.Contains(s, "dump 1MB of 4MB") || strings.Contains(s, "late") {
		t.Errorf("the bar was %q", s)
	}
}

// --config is the configuration, and with k=v a setting; the one does not keep the other from being given.
func TestTenantConfigOrSetting(t *testing.T) {
	t.Parallel()
	e := &executor{}
	r := runTenant(t, e, "", "create", "acme", "--config", "work_mem=1MB", "--config", "/etc/other.toml")
	if r.files.config != "/etc/other.toml" || !r.files.configGiven || e.orders[0].Settings["work_mem"] != "1MB" {
		t.Errorf("got %+v, %+v", r.files, e.orders)
	}
	r = runTenant(t, e, "", "create", "acme", "--config", "work_mem=1MB")
	if r.files.config != "pgdog.toml" || r.files.configGiven {
		t.Errorf("got %+v", r.files)
	}
	r = runTenant(t, e, "", "list", "--config", "a=b.toml")
	if r.files.config != "a=b.toml" {
		t.Errorf("got %+v", r.files)
	}
}

// Each command says what it is for, by an example too, and the page of commands has it.
func TestTenantHelp(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || !strings.Contains(c.Example, strings.TrimPrefix(c.CommandPath(), " ")) {
			t.Errorf("%s: no example", c.CommandPath())
		}
		if !c.HasSubCommands() && !strings.Contains(string(page), "`"+strings.TrimPrefix(c.CommandPath(), "pgkennel ")) {
			t.Errorf("docs/cli.md: no word of %s", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	for _, c := range newRoot().Commands() {
		if c.Name() == "tenant" {
			walk(c)
		}
	}
}
