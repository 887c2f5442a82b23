package isolation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
	"github.com/pgkennel/pgkennel/pooler"
)

// mode is a column of the table: an isolation, and what holds tenants there.
type mode struct {
	name, isolation, mode string
	shards                int
	// alone: PostgreSQL keeps a tenant from the others also where it has pgkennel's connection for itself.
	alone bool
	// like are the names by which expectations of the table mean it, the most exact one first.
	like []string
	doc  string // what it is, for the document
	// split: the victim lives on a shard of its own, and each shard has what looks like rows of all.
	split bool
}

// home is the shard where a tenant lives.
func (m mode) home(n int) int {
	switch {
	case m.shards == 1:
		return 0
	case m.split:
		return n / victim % 2
	}
	return n / 4
}

// note is what a tenant's rows have for a note on a shard: some are there to be found out.
func (m mode) note(n, shard int) string {
	if m.home(n) != shard {
		return fmt.Sprintf("wrong %d", n)
	}
	return fmt.Sprintf("of %d", n)
}

// A new mode is an entry here, and what it gives where that is not what the modes give that it is like.
var modes = []mode{
	{
		"row-strict", "row", "strict", 2, true,
		[]string{"row-strict", "strict", "row"},
		"Shared tables with policies on `session_user`. Server connections log in as the tenant's own role", false,
	},
	{
		"row-shared", "row", "shared", 1, false,
		[]string{"row-shared", "shared", "row"},
		"Shared tables with policies on the setting. All tenants on the pool's login", false,
	},
	{
		"row-sealed", "row", "sealed", 2, true,
		[]string{"row-sealed", "sealed", "row-shared", "shared", "row"},
		"Shared tables with policies on the setting and its seal. All tenants on the pool's login", false,
	},
	{
		"schema-strict", "schema", "strict", 1, true,
		[]string{"schema-strict", "strict", "schema", "apart"},
		"A schema for each tenant. Server connections log in as its own role", false,
	},
	{
		"schema-shared", "schema", "shared", 1, false,
		[]string{"schema-shared", "shared", "schema", "apart"},
		"A schema for each tenant. All on the pool's login, by `SET ROLE` and `search_path`", false,
	},
	{
		"database-strict", "database", "strict", 1, true,
		[]string{"database-strict", "strict", "database", "apart"},
		"A database for each tenant. Server connections log in as its own role", false,
	},
}

// is reports whether expectations under a name mean the mode.
func (m mode) is(name string) bool { return slices.Contains(m.like, name) }

// ownRole: statements run as the tenant's own role.
func (m mode) ownRole() bool { return m.mode == "strict" || m.isolation == "schema" }

// Tenant 2 attacks. Tenant 3 has what it is after, on the same connections where a mode shares them; tenant 4 lives on another shard where there are two, or
// tenant 3 does.
const (
	attacker, victim = 2, 3
	mine             = "SELECT DISTINCT note FROM orders"
)

const roleSecret = "0123456789abcdef0123456789abcdef"

// world is a pgkennel, its tenants, and what they have.
type world struct {
	*testbed.Stand
	mode
	passing bool // its watchers come and go: they would keep a connection, or outlive a test
	pooler  *pooler.Pooler
	ca      *pgtest.CA
	db      string
	roles   map[int]string
	watch   map[int]*pgtest.Client // clients of tenants, to see what became of them
}

const users = `[[users]]
pooler_mode = "transaction"
name = "app"
database = "saas"
password = "%[1]s"
tenant_switch = true

[[users]]
pooler_mode = "transaction"
name = "fixed"
database = "saas"
password = "%[1]s"
server_user = "app"
tenant = "2"
`

// tables are a tenant's, or all tenants'; %s stands for what is different.
const tables = `
CREATE TABLE %[1]sorders (tenant_id bigint NOT NULL%[2]s, id bigint, note text, PRIMARY KEY (tenant_id, id))%[3]s;
CREATE TABLE %[1]sitems (tenant_id bigint NOT NULL%[2]s, id bigint, order_id bigint, PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, order_id) REFERENCES %[1]sorders);
CREATE TABLE %[1]sslugs (tenant_id bigint NOT NULL%[2]s, slug text UNIQUE);
`

// rows are those of a tenant.
const rows = `
INSERT INTO %[1]sorders SELECT %[2]d, %[2]d * 10 + i, '%[3]s' FROM generate_series(1, 3) i;
INSERT INTO %[1]sslugs SELECT %[2]d, 'slug-%[2]d-' || i FROM generate_series(1, 3) i;
`

// shared is what is in each database besides: sequence, procedure, function.
const shared = `
SET check_function_bodies = off;
CREATE SEQUENCE public.ids; GRANT USAGE ON SEQUENCE public.ids TO PUBLIC;
CREATE PROCEDURE public.counts(INOUT n bigint) LANGUAGE plpgsql AS $$ BEGIN COMMIT; SELECT count(*) INTO n FROM orders; END $$;
CREATE FUNCTION public.newest() RETURNS text LANGUAGE plpgsql AS $$ DECLARE r orders%ROWTYPE; BEGIN SELECT * INTO r FROM orders ORDER BY id DESC LIMIT 1; RETURN r.note; END $$;
`

// extensions have functions that run SQL, or read tables, that are named in strings.
const extensions = "CREATE EXTENSION tablefunc; CREATE EXTENSION xml2; CREATE EXTENSION dblink; CREATE EXTENSION pgrowlocks; CREATE EXTENSION pg_trgm;"

// planted is what an operator adds to shared tables: none of it widens what a tenant sees.
const planted = `
CREATE VIEW public.seen AS SELECT * FROM orders; GRANT SELECT ON public.seen TO PUBLIC;
CREATE FUNCTION public.all_notes() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT note FROM public.orders';
CREATE POLICY extra ON orders USING (true);
`

// build makes a world.
func build(t testing.TB, m mode) *world {
	t.Helper()
	ca := pgtest.NewCA(t)
	cert, key := ca.Issue("localhost", "*.tenants.test", "localhost")
	i := pgtest.Shared(t)
	if m.mode == "sealed" { // it is not served with a login that others' worlds make a member of roles
		i = pgtest.Start(t)
	}
	w := &world{mode: m, ca: ca, roles: make(map[int]string), watch: make(map[int]*pgtest.Client)}
	w.Stand = testbed.Prepare(t, testbed.Spec{
		Instances: slices.Repeat([]*pgtest.Instance{i}, m.shards), Users: fmt.Sprintf(users, testbed.Password),
		General: fmt.Sprintf("default_pool_size = 1\nauth_type = \"plain\"\ntls_certificate = %q\ntls_private_key = %q\n", cert, key),
	})
	w.db = w.Shards[0].DB
	w.Write("role.secret", roleSecret)
	var rest strings.Builder
	fmt.Fprintf(&rest, "[multi_tenant]\nisolation = %q\nmode = %q\nrole_secret_file = %q\nsni_suffix = \".tenants.test\"\n", m.isolation, m.mode, w.Path("role.secret"))
	for n := 1; n <= 4; n++ {
		w.roles[n] = fmt.Sprintf("%s_r%d", w.db, n)
	}
	if m.ownRole() {
		fmt.Fprintf(&rest, "role = \"%s_r{key}\"\n", w.db)
	}
	keys := []string{"2", "3", "4"}
	switch m.isolation {
	case "row":
		rest.WriteString("column = \"tenant_id\"\n")
		for n, s := range w.Shards {
			s.Exec(t, s.DB, "SET ROLE app;"+fmt.Sprintf(tables, "", "", " PARTITION BY LIST (tenant_id)")+
				"CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2); CREATE TABLE orders_x PARTITION OF orders DEFAULT;"+shared)
			for k := 1; k <= 4; k++ {
				if m.split || n == m.home(k) {
					s.Exec(t, s.DB, fmt.Sprintf(rows, "", k, m.note(k, n)))
				}
			}
		}
	case "schema":
		rest.WriteString("schema = \"t_{key}\"\n")
		for n, s := range w.Shards {
			sql := "SET ROLE app;" + shared
			for k := 1; k <= 4; k++ {
				sql += fmt.Sprintf("CREATE SCHEMA t_%d;", k) + fmt.Sprintf(tables, fmt.Sprintf("t_%d.", k), fmt.Sprintf(" DEFAULT %d", k), "") +
					fmt.Sprintf(rows, fmt.Sprintf("t_%d.", k), k, m.note(k, n))
			}
			s.Exec(t, s.DB, sql)
		}
	case "database":
		fmt.Fprintf(&rest, "database_name = \"%s_d{key}\"\n", w.db)
	}
	rest.WriteString("[[tenants]]\nname = \"gone\"\nkey = 1\nstate = \"suspended\"\nshard = 0\n")
	if m.split {
		for _, key := range keys {
			n, _ := strconv.Atoi(key)
			fmt.Fprintf(&rest, "[[tenants]]\nname = %q\nkey = %[1]s\nshard = %d\n", key, m.home(n))
		}
	}
	if m.shards > 1 && m.isolation == "row" {
		rest.WriteString("[[sharded_tables]]\ndatabase = \"saas\"\ncolumn = \"tenant_id\"\ndata_type = \"bigint\"\n")
		for n := 1; n <= 4; n++ {
			fmt.Fprintf(&rest, "[[sharded_mappings]]\ndatabase = \"saas\"\ncolumn = \"tenant_id\"\nkind = \"list\"\nvalues = [%d]\nshard = %d\n", n, m.home(n))
		}
	}
	for _, s := range w.Shards {
		s.Exec(t, s.DB, extensions)
	}
	w.Edit("pgdog.toml", "[admin]", rest.String()+"[admin]")
	w.Secure(t, keys...)
	switch m.isolation {
	case "row":
		for _, s := range w.Shards {
			s.Exec(t, s.DB, "SET ROLE pgkennel_owner_"+s.DB+";"+planted)
			s.Exec(t, s.DB, "CREATE MATERIALIZED VIEW kept AS SELECT * FROM orders")
		}
	case "database":
		for k := 1; k <= 4; k++ {
			db := fmt.Sprintf("%s_d%d", w.db, k)
			i.Exec(t, db, extensions+shared+"SET ROLE pgkennel_owner_"+db+";"+fmt.Sprintf(tables, "public.", fmt.Sprintf(" DEFAULT %d", k), "")+fmt.Sprintf(rows, "public.", k, m.note(k, 0)))
		}
	}
	for _, s := range w.Shards {
		s.Exec(t, s.DB, "ANALYZE")
	}
	w.pooler = w.Start()
	return w
}

// tenant is a client of a tenant, bound by its login.
func (w *world) tenant(t testing.TB, n int) *pgtest.Client {
	t.Helper()
	return w.As(t, fmt.Sprintf("app@%d", n), nil)
}

// watcher is a client of a tenant that looks what became of it.
func (w *world) watcher(t testing.TB, n int) *pgtest.Client {
	t.Helper()
	if w.passing {
		return w.tenant(t, n)
	}
	if w.watch[n] == nil {
		w.watch[n] = w.As(w.T, fmt.Sprintf("app@%d", n), nil)
	}
	return w.watch[n]
}

// state is what a checkout of a tenant has to show; its text has the canary in it, for those who look at others' statements.
const state = `/* canary: of %d */ SELECT current_user, current_setting('app.current_tenant'), current_setting('search_path'), current_setting('default_transaction_read_only'),
(SELECT string_agg(DISTINCT note, ',' ORDER BY note) FROM orders WHERE note <> 'new'), (SELECT count(*) FROM orders WHERE note <> 'new'),
(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())`

// unharmed checks that each tenant's next checkouts show its own rows, settings and role, and that the victim's rows are as they were.
func (w *world) unharmed(t testing.TB, after string) {
	t.Helper()
	for _, n := range []int{victim, attacker} {
		c := w.watcher(t, n)
		role, path := testbed.User, `"$user", public`
		if w.ownRole() {
			role = w.roles[n]
		}
		if w.isolation == "schema" {
			path = map[bool]string{true: `"t_%d", public`, false: `t_%d, public`}[w.mode.mode == "strict"]
			path = fmt.Sprintf(path, n)
		}
		c.Send(testbed.Simple(fmt.Sprintf(state, n)), testbed.Simple("EXECUTE q"), testbed.Simple("FETCH ALL FROM c"), testbed.Simple("SELECT lastval()"))
		for _, want := range []string{
			fmt.Sprintf("%s|%d|%s|off|of %[2]d|3|0; SELECT 1; I", role, n, path), "26000; I", "34000; I", "55000; I",
		} {
			got := testbed.Outcome(c.UntilReady())
			if want == "26000; I" && strings.HasPrefix(got, "26000") {
				continue
			}
			if strings.ReplaceAll(got, `"`, "") != strings.ReplaceAll(want, `"`, "") {
				t.Errorf("after %s, tenant %d: got %s, want %s", after, n, got, want)
			}
		}
		if w.passing {
			c.Terminate()
		}
	}
}

// untouched checks the rows of the victim, in the database itself.
func (w *world) untouched(t testing.TB, after string) {
	t.Helper()
	table, db := "orders", w.Shards[w.home(victim)].DB
	switch w.isolation {
	case "schema":
		table = fmt.Sprintf("t_%d.orders", victim)
	case "database":
		db = fmt.Sprintf("%s_d%d", w.db, victim)
	}
	got := w.Shards[w.home(victim)].Query(t, db, fmt.Sprintf("SELECT string_agg(note, ',') FROM %s WHERE tenant_id = %d", table, victim))
	if want := strings.Repeat(fmt.Sprintf(",of %d", victim), 3)[1:]; got[0] != want {
		t.Errorf("after %s, the victim has %s", after, got[0])
	}
}

// fill puts this world's names into a statement.
func (w *world) fill(sql string) string {
	theirs := "orders_x"
	switch w.isolation {
	case "schema":
		theirs = fmt.Sprintf("t_%d.orders", victim)
	case "database":
		theirs = fmt.Sprintf("%s_d%d.public.orders", w.db, victim)
	}
	if strings.Contains(sql, "{pid}") { // of a connection that is the victim's, or was
		sql = strings.ReplaceAll(sql, "{pid}", pgtest.Rows(w.watcher(w.T, victim).Query("SELECT pg_backend_pid()"))[0])
	}
	return strings.NewReplacer("{own}", w.roles[attacker], "{other}", w.roles[victim], "{db}", w.db, "{theirs}", theirs).Replace(sql)
}
