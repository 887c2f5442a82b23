package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pgkennel/pgkennel/sharding/topology"

	"github.com/pgkennel/pgkennel/tenant"
)

// mustParse parses what must be right.
func mustParse(t *testing.T, config, users string, environ ...string) (*Config, Warnings) {
	t.Helper()
	c, warnings, err := Parse(File{Name: "pgdog.toml", Text: config}, File{Name: "users.toml", Text: users}, environ)
	if err != nil {
		t.Fatalf("got %v, want no error", err)
	}
	return c, warnings
}

func goodFile(t *testing.T, name string) (*Config, Warnings) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	config, users, _ := splitTestFile(string(raw))
	return mustParse(t, config, users)
}

// TestDefaults lists PgDog's defaults once more, by hand.
func TestDefaults(t *testing.T) {
	t.Parallel()
	c, warnings := mustParse(t, "", "")
	if len(warnings) > 0 {
		t.Errorf("got warnings %s, want none", warnings)
	}
	want := &Config{
		Listen:   Listen{Host: "0.0.0.0", Port: 6432, UnixSocketMode: 0o777},
		Clients:  Clients{LoginTimeout: time.Minute},
		Auth:     AuthSCRAM,
		TLS:      TLS{Verify: TLSPrefer},
		Connect:  Connect{Timeout: 5 * time.Second, Attempts: 1, LocalSockets: true},
		Timeouts: Timeouts{Checkout: 5 * time.Second, Rollback: 5 * time.Second},
		Health:   Health{IdleInterval: 30 * time.Second, Timeout: 5 * time.Second},
		Prepared: Prepared{Enabled: true, Limit: 1000},
		Metrics:  Metrics{Host: "0.0.0.0"},
		Log:      Log{Level: slog.LevelInfo, Connections: true, Disconnections: true},
		Shutdown: Shutdown{Timeout: time.Minute},
		TCP:      TCP{KeepAlive: true},
		Admin:    Admin{Name: "admin", User: "admin", APIHost: "127.0.0.1"},
		Provision: Provision{
			Driver: "process", DataDir: "instances", Templates: "templates", Backups: "backups", PortMin: 15432, PortMax: 19431,
			UIDMin: 200_000, UIDMax: 265_535, LogSize: 16 << 20, UnitDir: "/run/systemd/system", DockerImage: "postgres:{version}", Grace: 7 * 24 * time.Hour,
			Kubernetes: Kubernetes{Disk: "10GB", Image: "ghcr.io/cloudnative-pg/postgresql:{version}", Version: "17", Address: "{service}.{namespace}.svc"},
		},
		MaxMessageBytes: 1 << 30,
		LoadSchema:      LoadSchemaAuto,
		StatsPeriod:     15 * time.Second,
	}
	if d := cmp.Diff(want, c, cmpopts.IgnoreUnexported(Config{})); d != "" {
		t.Errorf("defaults differ (-want +got):\n%s", d)
	}
	p := c.Pool(&User{Name: "u", t: emptyTable(usersSection)}, &Endpoint{Role: topology.Primary, t: emptyTable(databasesSection)})
	if d := cmp.Diff(Pool{MinSize: 1, MaxSize: 10, IdleTimeout: time.Minute, Lifetime: 24 * time.Hour, User: "u"}, p); d != "" {
		t.Errorf("pool's defaults differ (-want +got):\n%s", d)
	}
}

func TestManualRangeConfiguration(t *testing.T) {
	t.Parallel()
	c, warnings := goodFile(t, "manual_range.good.toml")
	if len(warnings) > 0 {
		t.Errorf("got warnings %s, want none", warnings)
	}
	cl := c.Cluster("prod")
	if cl == nil || len(cl.Shards) != 3 || len(cl.ShardedTables) != 1 || cl.TenantColumn != "tenant_id" {
		t.Fatalf("got cluster %+v, want 3 shards, one sharded table and a tenant column", cl)
	}
	want := &Mapping{
		Ints:    &Rules[int64]{Starts: []int64{1, 100}, Ends: []int64{100, 1000}, RangeShards: []topology.ShardID{0, 1}},
		Default: 2, HasDefault: true,
	}
	if d := cmp.Diff(want, cl.ShardedTables[0].Mapping, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("mapping differs (-want +got):\n%s", d)
	}
	e := cl.Shards[1][0]
	if e.Host != "10.0.0.2" || e.Port != 5432 || e.DatabaseName != "prod" || e.Role != topology.Primary || e.UnixSocket() || e.Pos.String() != "pgdog.toml:11:1" {
		t.Errorf("got endpoint %+v", e)
	}
	u := c.User("app", "prod")
	if u == nil || u.PoolerMode != ModeTransaction || c.User("app", "other") != nil || c.User("nobody", "prod") != nil {
		t.Fatalf("got user %+v, want app of prod only", u)
	}
	if p := c.Pool(u, e); p.User != "app" || p.Password.Reveal() != "hunter2" || p.MaxSize != 10 || p.MinSize != 1 {
		t.Errorf("got pool %+v", p)
	}
}

func TestManualListConfiguration(t *testing.T) {
	t.Parallel()
	c, warnings := goodFile(t, "manual_list.good.toml")
	if len(warnings) > 0 {
		t.Errorf("got warnings %s, want none", warnings)
	}
	cl := c.Clusters[0]
	uuid := func(s string) [16]byte { u, _ := decodeUUID(`"` + s + `"`); return u }
	want := []*ShardedTable{
		{Column: "tenant_id", DataType: Bigint, Mapping: &Mapping{Ints: &Rules[int64]{
			Values: []int64{1, 2, 3, 4, 5, 1000, 2000}, ValueShards: []topology.ShardID{0, 1, 1, 1, 0, 0, 1},
		}}},
		{Name: "documents", Column: "org_id", DataType: UUID, Mapping: &Mapping{HasDefault: true, Default: 1, UUIDs: &Rules[[16]byte]{
			Values:      [][16]byte{uuid("01234567-89ab-cdef-0123-456789abcdef"), uuid("ffffffff-89ab-cdef-0123-456789abcdef")},
			ValueShards: []topology.ShardID{0, 0},
		}}},
		{Schema: "crm", Name: "accounts", Column: "slug", DataType: Text, Mapping: &Mapping{Texts: &Rules[string]{
			Values: []string{"acme", `o"brien`, "zürich"}, ValueShards: []topology.ShardID{0, 0, 0},
			Starts: []string{"", "m"}, Ends: []string{"m", ""}, RangeShards: []topology.ShardID{0, 1}, OpenStart: true, OpenEnd: true,
		}}},
	}
	if d := cmp.Diff(want, cl.ShardedTables, cmpopts.EquateEmpty(), cmpopts.IgnoreTypes(Pos{})); d != "" {
		t.Errorf("sharded tables differ (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]TableName{{Name: "countries"}, {"crm", "currencies"}}, cl.Omnisharded); d != "" {
		t.Errorf("omnisharded tables differ (-want +got):\n%s", d)
	}
	if u := c.Users[0]; len(u.Passwords) != 2 || u.Passwords[1].Reveal() != "hunter3" {
		t.Errorf("got %d passwords, want 2", len(u.Passwords))
	}
}

// TestMappingForms checks that the same mapping written in four ways is the same.
func TestMappingForms(t *testing.T) {
	t.Parallel()
	head := "[[databases]]\nname = 'p'\nhost = 'h'\n[[databases]]\nname = 'p'\nhost = 'h'\nshard = 1\n"
	forms := []string{
		head + "[[sharded_tables]]\ndatabase = 'p'\ncolumn = 't'\n[[sharded_tables.mapping]]\nvalues = [1, 2]\nshard = 0\n[[sharded_tables.mapping]]\nstart = 10\nend = 20\nshard = 1\n[[sharded_tables.mapping]]\nshard = 1\n",
		head + "[[sharded_tables]]\ndatabase = 'p'\ncolumn = 't'\nmapping = [{values = [2, 1], shard = 0}, {end = 20, shard = 1, start = 10}, {shard = 1}]\n",
		"sharded_tables = [{mapping = [\n{ values = [1,\n2], shard = 0 },\n{ start = 10, end = 20, shard = 1 }, { shard = 1 },\n], database = 'p', column = 't'}]\n" + head,
		"[[sharded_mappings]]\nshard = 1\nkind = 'default'\ncolumn = 't'\ndatabase = 'p'\n" + head + "[[sharded_tables]]\ndatabase = 'p'\ncolumn = 't'\n" +
			"[[sharded_mappings]]\ndatabase = 'p'\ncolumn = 't'\nkind = 'range'\nstart = 10\nend = 20\nshard = 1\n[[sharded_mappings]]\ndatabase = 'p'\ncolumn = 't'\nkind = 'list'\nvalues = [1, 2]\nshard = 0\n",
		"sharded_mappings = [{database = 'p', column = 't', kind = 'list', values = [1, 2], shard = 0}, {database = 'p', column = 't', kind = 'range', start = 10, end = 20, shard = 1}, {database = 'p', column = 't', kind = 'default', shard = 1}]\n" +
			head + "[[sharded_tables]]\ndatabase = 'p'\ncolumn = 't'\n",
	}
	first, _ := mustParse(t, forms[0], "")
	if n := len(first.Clusters[0].ShardedTables[0].Mapping.Ints.Values); n != 2 {
		t.Fatalf("got %d values, want 2", n)
	}
	for i, form := range forms[1:] {
		c, _ := mustParse(t, form, "")
		if d := cmp.Diff(first.Clusters[0].ShardedTables, c.Clusters[0].ShardedTables, cmpopts.IgnoreTypes(Pos{})); d != "" {
			t.Errorf("form %d differs from the first:\n%s", i+2, d)
		}
	}
}

// TestMappingForWhichTable checks which tables an entry of [[sharded_mappings]] is for.
func TestMappingForWhichTable(t *testing.T) {
	t.Parallel()
	const head = "[[databases]]\nname = 'p'\nhost = 'h'\n[[databases]]\nname = 'p'\nhost = 'h'\nshard = 1\n"
	table := func(more string) string {
		return "[[sharded_tables]]\ndatabase = 'p'\ncolumn = 't'\n" + more
	}
	mapping := func(shard int, more string) string {
		return fmt.Sprintf("[[sharded_mappings]]\ndatabase = 'p'\ncolumn = 't'\nkind = 'default'\nshard = %d\n%s", shard, more)
	}
	c, _ := mustParse(t, head+table("name = 'a'\n")+table("name = 'b'\n")+table("name = 'b'\nschema = 's'\n")+table("name = 'own'\nmapping = [{shard = 0}]\n")+
		mapping(0, "")+mapping(1, "table = 'b'\n")+mapping(0, "table = 'b'\nschema = 's'\n"), "")
	tables := c.Clusters[0].ShardedTables
	var got []string
	for _, st := range tables {
		got = append(got, fmt.Sprintf("%s.%s=%d", st.Schema, st.Name, st.Mapping.Default))
	}
	if d := cmp.Diff([]string{".a=0", ".b=1", "s.b=0", ".own=0"}, got); d != "" {
		t.Errorf("mappings differ (-want +got):\n%s", d)
	}
	c, _ = mustParse(t, head+table("name = 'a'\n")+table("name = 'b'\n")+mapping(0, ""), "")
	if ts := c.Clusters[0].ShardedTables; ts[0].Mapping != ts[1].Mapping {
		t.Error("got two copies of a mapping for two tables, want one")
	}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	c, _ := goodFile(t, "everything.good.toml")
	pool := func(user, database string, shard, n int) Pool {
		return c.Pool(c.User(user, database), c.Cluster(database).Shards[shard][n])
	}
	ms := func(n int) *time.Duration { d := time.Duration(n) * time.Millisecond; return &d }
	for _, tc := range []struct {
		what      string
		got, want Pool
	}{
		{
			"the role's key before the plain one, the database's login before the user's", pool("app", "one", 0, 0),
			Pool{MinSize: 1, MaxSize: 6, IdleTimeout: time.Minute, Lifetime: 24 * time.Hour, User: "service", Password: "hunter2", StatementTimeout: ms(0), LockTimeout: ms(250)},
		},
		{
			"the user's size before the database's", pool("batch", "one", 0, 0),
			Pool{MinSize: 2, MaxSize: 4, IdleTimeout: 5 * time.Second, Lifetime: time.Second, User: "service", Password: "hunter2", StatementTimeout: ms(0)},
		},
		{
			"[general] last", pool("app", "two", 0, 0),
			Pool{MinSize: 1, MaxSize: 20, IdleTimeout: time.Minute, Lifetime: 24 * time.Hour, User: "app", Password: "hunter2", LockTimeout: ms(250)},
		},
		{
			"a replica's own size", pool("app", "two", 1, 1),
			Pool{MinSize: 1, MaxSize: 3, IdleTimeout: time.Minute, Lifetime: 24 * time.Hour, User: "app", Password: "hunter2", LockTimeout: ms(250)},
		},
		{
			"server_user and server_password", pool("batch", "two", 1, 1),
			Pool{MinSize: 2, MaxSize: 4, IdleTimeout: time.Minute, Lifetime: time.Second, User: "batch_login", Password: "hunter2"},
		},
	} {
		if d := cmp.Diff(tc.want, tc.got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.what, d)
		}
	}
	if m := c.User("app", "two").PoolerMode; m != ModeTransaction {
		t.Errorf("got mode %s, want the user's", m)
	}
	if m := c.User("batch", "two").PoolerMode; m != ModeSession {
		t.Errorf("got mode %s, want the database's", m)
	}
	if c.Clients.IdleTimeout < 50*365*24*time.Hour {
		t.Errorf("got client_idle_timeout %s, want practically never", c.Clients.IdleTimeout)
	}
	if c.Listen.UnixSocketMode != 0o770 || !c.Cluster("one").Shards[0][0].UnixSocket() {
		t.Errorf("got listen %+v", c.Listen)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	c, warnings := mustParse(t, "[general]\nport = 7000\nhost = 'a'\n", "",
		"PGDOG_PORT=7001", "PGKENNEL_PORT=7002", "PGDOG_HOST=b", "PGDOG_LOG_CONNECTIONS=off", "PGDOG_TLS_VERIFY=DISABLED", "PGKENNEL_UNIX_SOCKET_DIR=/tmp/x",
		"PGDOG_QUERY_TIMEOUT=18446744073709551615", "PGDOG_MAX_POOL_SIZE=33", "PGDOG_CLIENT_LOG_TIMEOUT=1000", "PGDOG_MIRROR_QUEUE=128", "PGDOG_DRY_RUN=yes",
		"PGDOG_CHECKOUT_TIMEOUT=", "PGDOG_NODE_ID=x", "PGKENNEL_WORKRES=3", "PGDOG_HEALTHCHECK_PORT=tcp://10.0.0.1:80", "HOME=/root", "nonsense")
	want := Listen{Host: "b", Port: 7002, UnixSocketDir: "/tmp/x", UnixSocketMode: 0o777}
	if c.Listen != want {
		t.Errorf("got %+v, want %+v", c.Listen, want)
	}
	if c.Log.Connections || c.TLS.Verify != TLSDisabled || c.Clients.LoginTimeout != time.Second || c.general.int("default_pool_size") != 33 || c.Metrics.HealthPort != 0 || c.Timeouts.Checkout != 5*time.Second {
		t.Errorf("the environment is not obeyed: %+v", c)
	}
	wantWarnings := []string{
		`environment: key "dry_run" is PgDog's and not yet supported by pgkennel; it is ignored`,
		`environment: PGDOG_HEALTHCHECK_PORT was set by Kubernetes for a service of that name and is ignored; set enableServiceLinks: false, or name the service differently`,
		`environment: PGDOG_HOST overrides host of pgdog.toml:3; PgDog itself would let the file win`,
		`environment: PGDOG_PORT overrides port of pgdog.toml:2; PgDog itself would let the file win`,
		`environment: PGKENNEL_WORKRES is not a key of [general] and is ignored; did you mean PGKENNEL_WORKERS?`,
	}
	if d := cmp.Diff(strings.Join(wantWarnings, "\n"), warnings.String()); d != "" {
		t.Errorf("warnings differ (-want +got):\n%s", d)
	}

	_, _, err := Parse(File{Name: "a"}, File{Name: "b"}, []string{"PGDOG_PORT=abc", "PGDOG_LOG_CONNECTIONS=maybe", "PGKENNEL_POOLER_MODE=statement", "PGDOG_AUTH_TYPE=x"})
	wantErr := []string{
		`environment: PGDOG_AUTH_TYPE: "x" is no value of auth_type; it is one of scram, md5, plain, trust`,
		`environment: PGDOG_LOG_CONNECTIONS: log_connections must be true or false, not a text`,
		`environment: PGDOG_PORT: port must be a number, not a text`,
		`environment: PGKENNEL_POOLER_MODE: pooler_mode = "statement" is PgDog's and not supported by pgkennel; it is one of transaction, session`,
	}
	if err == nil {
		t.Fatal("got no error for a wrong environment")
	}
	if d := cmp.Diff(strings.Join(wantErr, "\n"), err.Error()); d != "" {
		t.Errorf("errors differ (-want +got):\n%s", d)
	}
}

// TestNotYet checks that what PgDog has and pgkennel ignores is warned about when it is set, and not when it is set to
// what PgDog would do anyway.
func TestNotYet(t *testing.T) {
	t.Parallel()
	_, warnings := mustParse(t, `
[general]
mirror_queue = 128
load_balancing_strategy = "random"
ban_replica_lag = 9223372036854775807
two_phase_commit = false
dns_ttl = 5000
passthrough_auth = "enabled"
prepared_statements = "full"
query_parser = "off"
log_format = "json_flattened"
log_level = "pgdog=debug,warn"
cross_shard_disabled = false
workers = 8
query_log_stdout = true
healthcheck_interval = 0
ban_timeout = 100
idle_healthcheck_delay = 5000
query_size_limit = 1000

[memory]
net_buffer = 4096
stack_size = 1

[rewrite]
shard_key = "ignore"

[[mirroring]]
source_db = "a"
destination_db = "b"

[otel]
headers = { a = "b" }

[control]
anything = "goes"

[[databases]]
name = "p"
host = "h"
role = "auto"
read_only = true
lb_weight = 255

[[databases]]
name = "p"
host = "h2"
role = "replica"

[[sharded_tables]]
database = "p"
column = "v"
data_type = "vector"
centroids = [[1, 2], [3, 4]]
primary = true
`, "[admin]\npassword = 'x'\n[[users]]\nname = 'u'\ndatabase = 'p'\npassword = '***'\nschema_admin = true\nserver_auth = 'password'\n")
	want := `pgdog.toml:7:1: key "dns_ttl" is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:8:1: key "passthrough_auth" is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:9:1: prepared_statements = "full" is PgDog's and not yet supported by pgkennel; it is taken for "extended"
pgdog.toml:10:1: key "query_parser" is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:11:1: log_format = "json_flattened" is PgDog's and not yet supported by pgkennel; it is taken for "json"
pgdog.toml:12:1: log_level "pgdog=debug,warn" is a filter of PgDog's, which pgkennel does not have; it is taken for "warn"
pgdog.toml:13:1: statements that touch several shards are always refused by pgkennel, cross_shard_disabled = false is ignored; it is taken for true
pgdog.toml:15:1: key "query_log_stdout" is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:16:1: key "healthcheck_interval" is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:17:1: key "ban_timeout" is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:23:1: key "stack_size" is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:26:1: key "shard_key" is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:28:1: section [[mirroring]] is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:32:1: section [otel] is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:35:1: section [control] is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:41:1: role = "auto" is PgDog's and not yet supported by pgkennel; it is taken for "primary"
pgdog.toml:42:1: key "read_only" is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:48:1: reads are not yet sent to replicas by pgkennel; everything goes to the primary
pgdog.toml:53:1: data_type "vector" is PgDog's and not yet supported by pgkennel; the table counts as not sharded
pgdog.toml:54:1: key "centroids" is PgDog's and not yet supported by pgkennel; it is ignored
pgdog.toml:55:1: key "primary" is PgDog's and not yet supported by pgkennel; it is ignored
users.toml:6:12: password is ***, which pgkennel prints in place of a secret; put the real one there
users.toml:7:1: key "schema_admin" is PgDog's and not yet supported by pgkennel; it is ignored`
	if d := cmp.Diff(want, warnings.String()); d != "" {
		t.Errorf("warnings differ (-want +got):\n%s", d)
	}
}

func TestAdminOfUsersWins(t *testing.T) {
	t.Parallel()
	c, warnings := mustParse(t, "[admin]\nname = 'a'\npassword = 'one'\n", "[admin]\nuser = 'b'\npassword = 'two'\n")
	if want := (Admin{Name: "admin", User: "b", Password: "two", APIHost: "127.0.0.1"}); c.Admin != want {
		t.Errorf("got %#v, want %#v", c.Admin, want)
	}
	if len(warnings) != 1 {
		t.Errorf("got warnings %s, want one", warnings)
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	s := Secret("hunter2")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "u", struct{ P Secret }{s})
	asJSON, err := json.Marshal(map[string]any{"p": s, "l": []Secret{s}})
	if err != nil {
		t.Fatal(err)
	}
	asTOML, err := toml.Marshal(struct{ P Secret }{s})
	if err != nil {
		t.Fatal(err)
	}
	u := &User{Passwords: []Secret{s}}
	for _, out := range []string{
		s.String(), fmt.Sprint(s), fmt.Sprintf("%s %v %q %+v %#v %x", s, s, s, s, s, s), fmt.Sprintf("%+v %#v", u.Passwords, u), log.String(), string(asJSON), string(asTOML),
	} {
		if strings.Contains(out, "hunter2") || strings.Contains(out, "68756e74657232") {
			t.Errorf("the secret is in %q", out)
		}
	}
	if s.Reveal() != "hunter2" || Secret("").String() != "" {
		t.Error("a secret lost its text, or an empty one looks like one")
	}
}

// TestEffectiveIsReadAgain prints every good configuration, parses what was printed, and compares.
func TestEffectiveIsReadAgain(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.good.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, name := range files {
		c, _ := goodFile(t, filepath.Base(name))
		var out, config, users bytes.Buffer
		for _, err := range []error{c.Effective(&out), c.EffectiveConfig(&config), c.EffectiveUsers(&users)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(out.String(), "hunter") || strings.Contains(out.String(), "SCRAM") {
			t.Errorf("%s: a secret is printed:\n%s", name, out.String())
		}
		if _, err := toml.Decode(out.String(), new(map[string]any)); err != nil {
			t.Errorf("%s: what is printed is not TOML: %v\n%s", name, err, out.String())
		}
		again, _, err := Parse(File{Name: "printed", Text: config.String()}, File{Name: "users", Text: users.String()}, nil)
		if err != nil {
			t.Errorf("%s: what is printed is not read again: %v\n%s", name, err, out.String())
			continue
		}
		redact := cmp.Transformer("redact", func(s Secret) string { return s.String() })
		if d := cmp.Diff(c, again, cmpopts.IgnoreUnexported(Config{}, Cluster{}, Endpoint{}, User{}), cmpopts.IgnoreTypes(Pos{}), cmp.Comparer(sameTenants), redact); d != "" {
			t.Errorf("%s: what is read again differs (-want +got):\n%s", name, d)
		}
		for _, change := range Diff(c, again) {
			if !strings.Contains(change.String(), "password") && !strings.HasPrefix(change.What, "user") && !strings.HasPrefix(change.What, "endpoints") {
				t.Errorf("%s: what is read again differs: %s", name, change)
			}
		}
	}
}

func TestEffectiveSaysWhereFrom(t *testing.T) {
	t.Parallel()
	raw, _ := os.ReadFile("testdata/everything.good.toml")
	config, users, _ := splitTestFile(string(raw))
	c, _ := mustParse(t, config, users, "PGKENNEL_LOG_LEVEL=warn", "PGDOG_MIRROR_QUEUE=5")
	var out bytes.Buffer
	if err := c.Effective(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"port = 7432 # pgdog.toml:4", "log_level = \"warn\" # PGKENNEL_LOG_LEVEL", "connect_timeout = 5000 # default", "# healthcheck_port is not set",
		"# mirror_queue = 5 # PGDOG_MIRROR_QUEUE, not yet supported", "default_pool_size = 20 # pgdog.toml:8", "password = \"***\" # users.toml:4",
		"# in force: transaction mode, 1 to 6 connections to each primary, as user \"service\"", "# no mapping: by hash over 2 shards", "name = \"con\\\"so\\\"le\\u0009\" # pgdog.toml:20",
		"role = \"replica\" # pgdog.toml:56", "shard = 0 # default",
	} {
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("%q is not printed", want)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	raw, _ := os.ReadFile("testdata/everything.good.toml")
	config, users, _ := splitTestFile(string(raw))
	old, _ := mustParse(t, config, users)
	if got := Diff(old, old); len(got) > 0 {
		t.Errorf("got %v, want no change", got)
	}
	moved, _ := mustParse(t, "\n\n# moved\n"+config, "\n"+users)
	if got := Diff(old, moved); len(got) > 0 {
		t.Errorf("got %v, want no change for other lines", got)
	}
	replaced := strings.NewReplacer("port = 7432", "port = 7433", "query_timeout = 30_000\n", "", `log_level = "debug"`, `log_level = "info"`,
		`password = "hunter2"`, `password = "hunter4"`, `name = "one"`, `name = "three"`, "db2.internal", "db3.internal", "[-6]", "[-6, -7]", "retries = 3", "retries = 4").Replace(config)
	replacedUsers := strings.NewReplacer(`["one", "two"]`, `["three"]`, "hunter3", "hunter5").Replace(users)
	next, _ := mustParse(t, replaced, replacedUsers)
	var got []string
	for _, c := range Diff(old, next) {
		got = append(got, c.String())
	}
	want := []string{
		"general.port: 7432 -> 7433 (needs a restart)",
		"general.query_timeout: 30000 -> not set",
		`general.log_level: "debug" -> "info"`,
		`admin.password: "***" -> "***"`,
		"tcp.retries: 3 -> 4",
		`database "one": removed`,
		`endpoints of database "two": changed`,
		`sharding of database "two": changed`,
		`database "three": added`,
		`user "app" of database "one": removed`,
		`user "app" of database "two": changed`,
		`user "batch" of database "one": removed`,
		`user "batch" of database "two": removed`,
		`user "app" of database "three": added`,
		`user "batch" of database "three": added`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("changes differ (-want +got):\n%s", d)
	}
}

// TestSorting checks the sort that moves several slices along.
func TestSorting(t *testing.T) {
	t.Parallel()
	for seed := range 200 {
		n := seed % 40
		keys, vals := make([]int, n), make([]int, n)
		for i := range keys {
			keys[i] = (i*7919 + seed*104729) % (n + 3)
			vals[i] = keys[i] * 10
		}
		want := slices.Sorted(slices.Values(keys))
		sortBy(keys, func(a, b int) int { return a - b }, func(i, j int) { vals[i], vals[j] = vals[j], vals[i] })
		if !slices.Equal(keys, want) {
			t.Fatalf("seed %d: got %v, want %v", seed, keys, want)
		}
		for i := range keys {
			if vals[i] != keys[i]*10 {
				t.Fatalf("seed %d: value %d went astray", seed, i)
			}
		}
	}
}

func TestItemsShowValuesAndHideSecrets(t *testing.T) {
	t.Parallel()
	c, _ := mustParse(t, "[general]\ndefault_pool_size = 25\nhost = \"127.0.0.1\"\n[admin]\npassword = \"hunter2\"\n[[databases]]\nname = \"x\"\nhost = \"h\"\n",
		"[[users]]\nname = \"a\"\ndatabase = \"x\"\npassword = \"p\"\npool_size = 3\n[[users]]\nname = \"b\"\ndatabase = \"x\"\npassword = \"p\"\n")
	if a, b := c.User("a", "x").PoolSize(), c.User("b", "x").PoolSize(); a != 3 || b != 0 {
		t.Errorf("got pool sizes %d and %d, want 3 and 0", a, b)
	}
	got := map[string]Item{}
	for _, i := range c.Items() {
		got[i.Key] = i
	}
	for _, want := range []Item{
		{"general.default_pool_size", "25", "10", false},
		{"general.host", "127.0.0.1", "0.0.0.0", true},
		{"general.healthcheck_port", "", "", true},
		{"admin.password", "***", "", false},
	} {
		if got[want.Key] != want {
			t.Errorf("got %+v, want %+v", got[want.Key], want)
		}
	}
	if _, ok := got["general.broadcast_port"]; ok {
		t.Error("a key that is not obeyed is among them")
	}
}

// sameTenants compares registries by what they hold.
func sameTenants(a, b *tenant.Registry) bool {
	if a == nil || b == nil {
		return a == b
	}
	list := func(r *tenant.Registry) (out []tenant.Tenant) {
		r.All(func(t *tenant.Tenant) bool { out = append(out, *t); return true })
		return out
	}
	return a.Setting() == b.Setting() && slices.EqualFunc(list(a), list(b), func(t, u tenant.Tenant) bool { return t.Equal(&u) })
}

// TestNoTenants checks that where no login can be a tenant's, that is said.
func TestNoTenants(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ section, want string }{
		{`role = "x"`, `role "x" is not made of a tenant's key alone`},
		{``, `role "t_{tenant}" is not made of a tenant's key alone`},
		{"isolation = \"schema\"\nmode = \"shared\"\nrole = \"t_{key}\"\nschema = \"all\"", `schema "all" is not made of a tenant's key alone`},
		{"isolation = \"database\"\nrole = \"t_{key}\"", `database_name "t_{tenant}" is not made of a tenant's key alone`},
		{"isolation = \"database\"\nmode = \"shared\"", "database isolation needs strict mode: the shared login has one database for all"},
		{`role = "t_{key}"`, ""},
		{`mode = "shared"`, ""},
		{"role = \"x\"\n[[tenants]]\nname = \"acme\"\nkey = 7", ""},
	} {
		_, warnings := mustParse(t, "[[databases]]\nname = \"prod\"\nhost = \"h\"\n[multi_tenant]\ncolumn = \"tenant_id\"\nsetting = \"app.current_tenant\"\n"+x.section, "")
		want := ""
		if x.want != "" {
			want = "pgdog.toml:4:1: no tenant can log in: " + x.want + "; tenants without an entry in [[tenants]] need names with {key} in them"
		}
		if got := warnings.String(); got != want {
			t.Errorf("%s:\n got %s\nwant %s", x.section, got, want)
		}
	}
}
