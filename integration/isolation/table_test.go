package isolation

import "strings"

// row is an attack of the suite.
type row struct {
	id, attack string
	in         string            // the modes that it is about, by name; empty = all
	steps      []step            // what is said by one client, in order
	run        func(x *exploit)  // what statements alone can't do
	gives      string            // what run gives
	but        map[string]string // by mode, instead of gives
	note       string            // for the document
}

// step is a statement and what it gives: a word of those below, or the whole outcome.
type step struct {
	sql, want string
	but       map[string]string // by mode
	part      bool              // of the attack; else it is what has to be said around it
}

// What an attack gives. The document has the words.
const (
	refused = "refused" // by pgkennel
	denied  = "denied"  // by PostgreSQL
	stopped = "stopped" // by either
	runs    = "runs"    // without an error, on what is the attacker's own
	nothing = "nothing" // whatever is answered, it is nothing of the victim's
	open    = "open"    // what the note says
)

// try is a step of an attack; the pairs are what it gives in other modes.
func try(sql, want string, pairs ...string) step {
	s := then(sql, want, pairs...)
	s.part = true
	return s
}

// then is a step around it.
func then(sql, want string, pairs ...string) step {
	s := step{sql: sql, want: want, but: make(map[string]string)}
	for i := 0; i < len(pairs); i += 2 {
		s.but[pairs[i]] = pairs[i+1]
	}
	return s
}

type by = map[string]string

// inMode is what is expected in a mode.
func inMode(m mode, want string, but map[string]string) string {
	for _, name := range m.like {
		if w, ok := but[name]; ok {
			return w
		}
	}
	return want
}

const (
	own  = "of 2; SELECT 1; I"
	ownT = "of 2; SELECT 1; T"
)

// group is a part of the suite.
type group struct {
	name string
	rows []row
}

var groups = []group{
	{"A. Roles, settings, the login", groupA},
	{"B. The context", groupB},
	{"C. What is left on a connection", groupC},
	{"D. Rows of shared tables", groupD},
	{"E. Catalogs, other sessions, the server", groupE},
	{"F. Protocol, parser, routing", groupF},
}

var groupA = []row{
	{id: "A01", attack: "`RESET ROLE`, `SET ROLE NONE`", steps: []step{
		try("RESET ROLE", refused), try("SET ROLE NONE", refused), then(mine, own),
	}},
	{id: "A02", attack: "`SET ROLE b`: SESSION, LOCAL, quoted, `U&\"…\"`", steps: []step{
		try("SET ROLE {other}", refused), try("SET SESSION ROLE {other}", refused), try(`SET "role" = '{other}'`, refused), try(`SET U&"r\006fle" TO {other}`, refused),
		then("BEGIN", "BEGIN; T"), try("SET LOCAL ROLE {other}", refused), then("ROLLBACK", "ROLLBACK; I"),
	}},
	{id: "A03", attack: "`SET SESSION AUTHORIZATION`", steps: []step{
		try("SET SESSION AUTHORIZATION DEFAULT", refused), try("SET SESSION AUTHORIZATION {other}", refused), try("RESET SESSION AUTHORIZATION", refused),
		try("SET session_authorization = '{other}'", refused),
	}},
	{id: "A04", attack: "`set_config` of the role: by name, expression, CTE, parameter, named arguments, in PREPARE, EXECUTE, EXPLAIN, COPY, CALL and functions that run text, extensions' too", steps: []step{
		try("SELECT set_config('role', '{other}', false)", refused),
		try("SELECT pg_catalog.set_config('ROLE', '{other}', true)", refused),
		try("SELECT set_config('ro' || 'le', '{other}', false)", refused, "strict", denied),
		try("WITH x AS (SELECT set_config('role', '{other}', false)) SELECT * FROM x", refused),
		try("SELECT set_config(is_local => false, new_value => '{other}', setting_name => 'role')", refused),
		try("SELECT set_config(n, '{other}', false) FROM (VALUES ('role')) v(n)", refused, "strict", denied),
		try("EXPLAIN ANALYZE SELECT set_config('role', '{other}', false)", refused),
		try("PREPARE q AS SELECT set_config('role', '{other}', false)", refused),
		try("COPY (SELECT set_config('role', '{other}', false)) TO STDOUT", refused),
		try("SELECT query_to_xml('SELECT set_config(''role'', ''{other}'', false)', true, false, '')", refused, "strict", denied),
		try("SELECT * FROM ts_stat('SELECT to_tsvector(set_config(''role'', ''{other}'', false))')", refused, "strict", denied),
		try("SELECT * FROM crosstab('SELECT 1, 2, set_config(''role'', ''{other}'', false)') AS c(a int, b text)", refused, "strict", denied),
		try("SELECT * FROM connectby('(SELECT 1 AS a, set_config(''role'', ''{other}'', false) AS b) x', 'a', 'b', '1', 0) AS c(k int, p text, l int)", refused, "strict", denied),
		try("SELECT * FROM xpath_table('set_config(''role'', ''{other}'', false)', '''<a/>''', '(SELECT) x', '/a', 'true') AS x(k text, v text)", refused, "strict", denied),
		try("SELECT dblink_connect('x', 'host=127.0.0.1 user={other} password=x')", refused, "strict", denied),
		try("CALL counts(length(set_config('ro' || 'le', '{other}', false)))", refused, "strict", denied),
		then("PREPARE q(text) AS SELECT $1", "PREPARE; I"), try("EXECUTE q(set_config('ro' || 'le', '{other}', false))", refused, "strict", denied), then("DEALLOCATE q", "DEALLOCATE; I"),
		then(mine, own),
	}, run: func(x *exploit) {
		x.parameter("SELECT set_config($1, $2, false)", "role", x.roles[victim])
		x.parameter("SELECT set_config($1, $2, true)", "Role", x.roles[victim])
		x.parameter("SELECT $1::bpchar, set_config($1, $2, true)", "role  ", x.roles[victim])
	}, gives: refused, but: by{"strict": stopped}},
	{id: "A05", attack: "`DO $$ … EXECUTE 'SET ROLE b' $$`", steps: []step{
		try("DO $$ BEGIN EXECUTE 'SET ROLE {other}'; END $$", refused, "strict", denied), then(mine, own),
	}},
	{id: "A06", attack: "functions, views, triggers, aggregates, operators, domains, casts and rules of one's own that `SET ROLE`", steps: []step{
		then("BEGIN", "BEGIN; T"),
		try("CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET ROLE {other}'; RETURN current_user; END $$", refused, "strict", runs),
		try("SELECT pg_temp.f()", denied),
		then("ROLLBACK", "ROLLBACK; I"),
		try("CREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS 'SELECT 1'", denied, "shared", refused),
		then("BEGIN", "BEGIN; T"),
		then("CREATE TEMP VIEW v AS SELECT set_config('role', '{other}', false)", refused, "strict", nothing),
		try("SELECT * FROM pg_temp.v", denied),
		then("ROLLBACK", "ROLLBACK; I"),
		then("BEGIN", "BEGIN; T"),
		try("CREATE AGGREGATE pg_temp.a(text, boolean) (SFUNC = set_config, STYPE = text, INITCOND = 'role')", refused, "strict", runs),
		try("SELECT pg_temp.a('{other}', false)", denied),
		then("ROLLBACK", "ROLLBACK; I"),
		then("BEGIN", "BEGIN; T"),
		try("CREATE OPERATOR pg_temp.@! (FUNCTION = ts_stat, RIGHTARG = text)", refused, "strict", runs),
		try("SELECT OPERATOR(pg_temp.@!) 'SELECT to_tsvector(set_config(''role'', ''{other}'', false))'", denied),
		then("ROLLBACK", "ROLLBACK; I"),
		then("BEGIN", "BEGIN; T"),
		try("CREATE DOMAIN pg_temp.d AS text CHECK (set_config('role', VALUE, false) <> '')", refused, "strict", runs),
		try("SELECT '{other}'::pg_temp.d", denied),
		then("ROLLBACK", "ROLLBACK; I"),
		then("BEGIN", "BEGIN; T"),
		try("CREATE CAST (text AS pg_temp.d) WITH FUNCTION pg_temp.f", refused, "strict", stopped),
		then("ROLLBACK", "ROLLBACK; I"),
		then("BEGIN", "BEGIN; T"),
		try("CREATE RULE r AS ON INSERT TO pg_temp.t DO ALSO NOTIFY n", refused, "strict", stopped),
		then("ROLLBACK", "ROLLBACK; I"),
		then("BEGIN", "BEGIN; T"),
		try("CREATE TRIGGER r BEFORE INSERT ON pg_temp.t FOR EACH ROW EXECUTE FUNCTION check_primary_key('a', 'pg_prepared_statements', 'statement')", refused, "strict", stopped),
		then("ROLLBACK", "ROLLBACK; I"),
		then(mine, own),
	}, note: "In strict mode temporary functions work; they are the tenant's, as it is."},
	{id: "A07", attack: "`UPDATE pg_settings`", steps: []step{
		try("UPDATE pg_settings SET setting = 't_3' WHERE name = 'search_path'", refused, "strict", runs), then(mine, own, "apart", nothing),
		try("WITH x AS (UPDATE pg_catalog.pg_settings SET setting = '3' WHERE name = 'app.current_tenant') SELECT 1", refused, "strict", runs),
		try("RESET ALL", runs), then(mine, own),
	}, note: "In strict mode settings decide nothing: policies ask for the login."},
	{id: "A08", attack: "`RESET ALL`, outside and inside of a transaction", steps: []step{
		try("RESET ALL", runs), then(mine, own), then("BEGIN", "BEGIN; T"), try("RESET ALL", runs), then(mine, ownT), then("COMMIT", "COMMIT; I"), then(mine, own),
	}},
	{id: "A09", attack: "`DISCARD ALL`", steps: []step{try("DISCARD ALL", runs), then(mine, own)}},
	{
		id: "A10", attack: "role, `session_authorization`, the tenant's setting in the startup packet or its `options`", run: (*exploit).startups, gives: refused,
		note: "`search_path` there is the client's own, as SET is; privileges on the schema decide.",
	},
	{id: "A11", attack: "`ALTER ROLE pooler SET …`, `ALTER ROLE ALL`, `ALTER DATABASE`", steps: []step{
		try("ALTER ROLE app SET search_path = 't_3'", refused), try("ALTER ROLE CURRENT_USER SET app.current_tenant = '3'", refused),
		try("ALTER ROLE ALL SET app.current_tenant = '3'", refused), try("ALTER DATABASE {db} SET app.current_tenant = '3'", refused, "strict", denied), then(mine, own),
	}},
	{id: "A12", attack: "`ALTER ROLE CURRENT_USER PASSWORD 'x'`", steps: []step{
		try("ALTER ROLE CURRENT_USER PASSWORD 'x'", refused), try("ALTER USER CURRENT_USER PASSWORD 'x'", refused), try("ALTER ROLE SESSION_USER ENCRYPTED PASSWORD NULL", refused),
	}, note: "PostgreSQL alone allows it: with the role's password a tenant could lock pgkennel out, and nothing more."},
	{id: "A13", attack: "`ALTER ROLE CURRENT_USER SET statement_timeout = 0`", steps: []step{
		try("ALTER ROLE {own} SET statement_timeout = 0", refused), try("ALTER ROLE {own} IN DATABASE {db} SET app.current_tenant = '3'", refused), try("ALTER ROLE {own} RESET ALL", refused),
	}},
	{id: "A14", attack: "`SET SCHEMA`, `search_path`, and the tenant's setting in other spellings", steps: []step{
		try("SET app.current_tenant = '3'", refused), try(`SET "APP.Current_Tenant" = '3'`, refused), try(`SET U&"app.current\005ftenant" = '3'`, refused),
		try("SET SESSION app . current_tenant TO 3", refused), try(`SET "app"."current_tenant" TO '3'`, refused),
		try("SELECT set_config('app.current_tenant', '3', false)", refused), try("SELECT set_config('APP.current_tenant', '3', true)", refused),
		then("SELECT set_config('app.current_tenant', '2', false)", "2; SELECT 1; I"),
		try("SELECT set_config('app.current_tenant', '3', false), 1", refused), try("SELECT set_config('app.current_tenant', '02', false), 1", refused),
		try("SELECT set_config('app.current_tenant', '3', true), 1", refused),
		try("SET SCHEMA 't_3'", runs), try(mine, nothing), then("RESET search_path", "RESET; I"), then(mine, own),
	}, note: "`search_path` may name another tenant's schema; that it stays closed is up to PostgreSQL's privileges."},
	{id: "A15", attack: "a trigger that an administrator's session would fire", steps: []step{
		try("CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'RESET ROLE'; RETURN NEW; END $$", denied, "shared", refused),
		then("BEGIN", "BEGIN; T"),
		then("CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'RESET ROLE'; RETURN NEW; END $$", refused, "strict", runs),
		try("CREATE TRIGGER t AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION pg_temp.f()", stopped),
		then("ROLLBACK", "ROLLBACK; I"),
	}, note: "Tenants own no tables. Maintenance runs as the owner that `secure` makes, never as a tenant."},
}

var groupB = []row{
	{
		id: "B01", attack: "`SET app.current_tenant = 'b'; SELECT …`", steps: []step{try("SET app.current_tenant = '3'", refused), try(mine, own)},
		note: "With PostgreSQL alone, policies on `session_user` do not ask for the setting; those on the setting obey it.",
	},
	{id: "B02", attack: "`COMMIT; SELECT …` in one message", steps: []step{
		then("BEGIN", "BEGIN; T"), try("COMMIT; "+mine, nothing), then("ROLLBACK", "ROLLBACK; I"), then(mine, own),
	}},
	{id: "B03", attack: "`COMMIT AND CHAIN`, `ROLLBACK AND CHAIN`", steps: []step{
		then("BEGIN", "BEGIN; T"), then(mine, ownT), try("COMMIT AND CHAIN", runs), then(mine, ownT), try("ROLLBACK AND CHAIN", runs), then(mine, ownT),
		then("SELECT 1/0", "22012; E"), then("ROLLBACK AND CHAIN", "ROLLBACK; T"), then(mine, ownT), then("COMMIT", "COMMIT; I"),
	}},
	{id: "B04", attack: "a procedure that commits", steps: []step{try("CALL counts(0)", "3; CALL; I"), then(mine, own)}},
	{id: "B05", attack: "savepoints and rollback", steps: []step{
		then("BEGIN", "BEGIN; T"), then("SAVEPOINT s", "SAVEPOINT; T"), then(mine, ownT), then("SELECT 1/0", "22012; E"), try("ROLLBACK TO s", runs), then(mine, ownT),
		try("ROLLBACK", runs), then(mine, own),
	}},
	{id: "B06", attack: "a connection on which the setting was local once", steps: []step{
		then("BEGIN", "BEGIN; T"), try("SET LOCAL app.current_tenant = '2'", runs), then(mine, ownT), then("COMMIT", "COMMIT; I"), try(mine, own),
		try("SET app.current_tenant = ''", runs), then(mine, own),
	}},
	{id: "B07", attack: "reading a signature, using it again, making one", steps: []step{
		try("SELECT current_setting('pgkennel.seal', true)", nothing), try("SET pgkennel.seal = '00.00'", refused), try("SELECT set_config('pgkennel.seal', '00.00', false)", refused),
		then("RESET ALL", nothing), then(mine, own),
	}, note: "There are signatures in `sealed` mode only; of another connection, or tenant, they are refused by PostgreSQL."},
	{id: "B08", attack: "`RESET` of the setting", steps: []step{
		try("RESET app.current_tenant", runs), try("SET app.current_tenant TO DEFAULT", runs), try("SET app.current_tenant = ''", runs), then(mine, own),
		try("SET app.current_tenant FROM CURRENT", nothing), then(mine, own),
	}},
}

var groupC = []row{
	{id: "C01", attack: "a temporary table by the name of one that others write to", steps: []step{
		try("CREATE TEMP TABLE orders (tenant_id bigint, id bigint, note text)", runs, "shared", denied), try("DISCARD ALL", runs), then(mine, own),
		try("CREATE TEMP TABLE orders AS SELECT 'of 3' AS note", runs, "shared", denied), try("DISCARD ALL", runs), then(mine, own),
		try("CREATE TEMP TABLE orders AS SELECT 'left behind' AS note", runs, "shared", denied),
	}, note: "The session keeps its connection, and alone sees the table; when it leaves, the connection is closed."},
	{
		id: "C02", attack: "`PREPARE`, and the next client's `EXECUTE`; others' statements in `pg_prepared_statements`", steps: []step{try("PREPARE q AS SELECT note FROM orders", runs)},
		run: (*exploit).statements, gives: refused, but: by{"strict": runs},
	},
	{id: "C03", attack: "one name and text of a prepared statement, tables of other columns", run: (*exploit).columns, gives: runs},
	{id: "C04", attack: "a cursor WITH HOLD, and the next client's `FETCH`", steps: []step{try("DECLARE c CURSOR WITH HOLD FOR SELECT note FROM orders", runs)}},
	{
		id: "C05", attack: "an advisory lock that is kept", steps: []step{try("SELECT 1 FROM (SELECT pg_advisory_lock(1)) x", runs, "shared", denied)},
		note: "The session keeps its connection for as long as it holds the lock. While it lasts, tenants of a database can block each other by locks of one number: use `pg_advisory_xact_lock` with keys of the tenant's own.",
	},
	{
		id: "C06", attack: "`LISTEN` to others' `NOTIFY`; `NOTIFY` to others who `LISTEN`", run: (*exploit).listens, gives: nothing,
		note: "Channels are the database's; who hears whom is [pgkennel's to see to](tenancy.md#listen-and-notify).",
	},
	{id: "C07", attack: "leaving in the middle of a transaction, open or failed", run: (*exploit).leaves, gives: runs},
	{id: "C08", attack: "`default_transaction_read_only`, `lock_timeout`, `plan_cache_mode`, `DateStyle`; `idle_session_timeout`, by which the server would close the connection that is others' next", steps: []step{
		try("SET default_transaction_read_only = on", runs), try("SET lock_timeout = 1", runs), try("SET plan_cache_mode = force_generic_plan", runs), try("SET DateStyle = 'German'", runs), then(mine, own),
	}, run: (*exploit).idles, gives: runs},
	{id: "C09", attack: "functions of one's own by the names of those that clean up", steps: []step{
		try("CREATE FUNCTION public.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT 1'", denied, "shared", refused),
		try("CREATE FUNCTION public.pg_advisory_unlock_all() RETURNS void LANGUAGE sql AS 'SELECT 1'", denied, "shared", refused),
		try("CREATE SCHEMA mine", denied, "row-shared", refused), try("SET search_path = pg_temp, public, pg_catalog", runs),
	}},
	{id: "C10", attack: "a shared function with `orders%ROWTYPE`", run: (*exploit).rowTypes, gives: runs},
	{id: "C11", attack: "a policy by an IMMUTABLE function, and a generic plan", in: "row", steps: []step{
		try("SELECT count(*) FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid WHERE d.classid = 'pg_policy'::regclass AND p.provolatile = 'i' AND p.oid > 16383", "0; SELECT 1; I"),
	}, note: "`doctor` reports policies on IMMUTABLE functions."},
	{id: "C12", attack: "statements planned under one tenant and run under another: CTE, sub-select, generic plan", run: (*exploit).plans, gives: runs},
	{
		id: "C13", attack: "`lastval()`, `currval()` after others used the sequence, in views and defaults of one's own, too", steps: []step{
			try("SELECT nextval('public.ids') > 0", "t; SELECT 1; I"),
			try("CREATE OR REPLACE TEMP VIEW l AS SELECT lastval()", refused, "strict", runs), try("CREATE TEMP TABLE l (a bigint DEFAULT currval('public.ids'))", refused, "strict", denied),
		},
		note: "The value of a sequence that tenants share tells how much it is used.",
	},
	{id: "C14", attack: "leaving in the middle of a result, a COPY, a pipeline", run: (*exploit).leavesOutput, gives: runs},
	{id: "C15", attack: "cancel requests by one's own key, a stale one, a forged one", run: (*exploit).cancels, gives: nothing},
}

var groupD = []row{
	{id: "D01", attack: "the owner of tables, whom policies do not bind", in: "row", steps: []step{
		try("SET ROLE pgkennel_owner_{db}", refused),
		try("SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.relname IN ('orders', 'orders_x', 'items', 'slugs') AND (rolcanlogin OR NOT relforcerowsecurity)", "0; SELECT 1; I"),
	}, note: "The owner can't log in, and policies are forced."},
	{id: "D02", attack: "attributes of one's login", steps: []step{
		try("SELECT rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication FROM pg_roles WHERE rolname = session_user", "f; SELECT 1; I"),
	}, note: "`doctor` reports logins that are more."},
	{id: "D03", attack: "a view without `security_invoker`", in: "row", steps: []step{try("SELECT DISTINCT note FROM seen", own)}, note: "of the tables' owner; `doctor` reports others"},
	{
		id: "D04", attack: "a materialised view", in: "row", steps: []step{try("SELECT note FROM kept", denied), try("CREATE MATERIALIZED VIEW public.k AS SELECT * FROM orders", denied, "row-shared", refused)},
		note: "It has everybody's rows: `doctor` reports those that tenants may read.",
	},
	{id: "D05", attack: "a SECURITY DEFINER function", in: "row", steps: []step{try("SELECT DISTINCT n FROM all_notes() n", own)}, note: "of the tables' owner; `doctor` reports all that tenants may run"},
	{id: "D06", attack: "another tenant's partition, schema, or database, by its name", steps: []step{
		try("SELECT note FROM {theirs}", denied, "schema", refused), try("TABLE {theirs}", nothing),
		try("UPDATE {theirs} SET note = 'stolen'", nothing), try("DELETE FROM {theirs}", nothing), try("SELECT count(*) FROM {theirs}", denied, "schema", refused),
	}},
	{id: "D07", attack: "a permissive policy added beside ours", in: "row", steps: []step{try(mine, own)}, note: "Ours is restrictive."},
	{id: "D08", attack: "rows for another tenant: INSERT, UPDATE, MERGE", steps: []step{
		then("BEGIN", "BEGIN; T"),
		try("UPDATE orders SET tenant_id = 3", refused, "apart", runs), then("ROLLBACK", "ROLLBACK; I"),
		then("BEGIN", "BEGIN; T"),
		try("INSERT INTO orders VALUES (3, 9, 'new')", refused, "apart", runs), then("ROLLBACK", "ROLLBACK; I"),
		then("BEGIN", "BEGIN; T"),
		try("INSERT INTO orders SELECT n + 1, 9, 'new' FROM (VALUES (2)) v(n)", denied, "apart", runs), then("ROLLBACK", "ROLLBACK; I"),
		try("MERGE INTO orders o USING (VALUES (1)) v(i) ON o.tenant_id = 3 WHEN MATCHED THEN UPDATE SET note = 'new' WHEN NOT MATCHED THEN DO NOTHING", nothing),
	}, note: "Where tables are a tenant's own, the column is no more than a number."},
	{id: "D09", attack: "INSERT of an id that another tenant has", steps: []step{
		then("BEGIN", "BEGIN; T"), try("INSERT INTO orders (id, note) VALUES (31, 'new')", runs), then("ROLLBACK", "ROLLBACK; I"),
		try("INSERT INTO slugs (slug) VALUES ('slug-3-1')", open+" 23505", "apart", runs), then("DELETE FROM slugs WHERE slug = 'slug-3-1'", nothing),
	}, note: "A unique key without the tenant column tells that a value is taken; `doctor` reports it."},
	{id: "D10", attack: "a child row of another tenant's parent", steps: []step{try("INSERT INTO items (id, order_id) VALUES (1, 31)", denied)}, note: "by a foreign key with the tenant column in it; `doctor` reports others"},
	{id: "D11", attack: "`INSERT … ON CONFLICT DO UPDATE` on another's row", steps: []step{
		then("BEGIN", "BEGIN; T"), try("INSERT INTO orders (id, note) VALUES (31, 'new') ON CONFLICT (tenant_id, id) DO UPDATE SET note = 'stolen'", runs), then("ROLLBACK", "ROLLBACK; I"),
		then("BEGIN", "BEGIN; T"), try("INSERT INTO slugs (slug) VALUES ('slug-3-1') ON CONFLICT (slug) DO UPDATE SET slug = 'stolen'", denied, "apart", runs), then("ROLLBACK", "ROLLBACK; I"),
	}, note: "as D09"},
	{id: "D12", attack: "`TRUNCATE`", steps: []step{try("TRUNCATE orders", refused, "apart", denied), try("TRUNCATE slugs, items", refused, "apart", denied), try("TRUNCATE {theirs}", stopped)}},
	{
		id: "D13", attack: "COPY TO and COPY FROM", steps: []step{try("COPY (SELECT DISTINCT note FROM orders) TO STDOUT", runs), try("COPY slugs TO STDOUT", runs), try("COPY {theirs} TO STDOUT", nothing)},
		run: (*exploit).copies, gives: denied, but: by{"apart": runs},
		note: "PostgreSQL has no COPY FROM into tables with policies (0A000): use INSERT there.",
	},
	{id: "D14", attack: "`SET row_security = off`", steps: []step{try("SET row_security = off", runs), try(mine, denied, "apart", runs)}},
	{id: "D15", attack: "leaky functions and operators, division by zero", steps: []step{
		try("SELECT DISTINCT note FROM orders WHERE 1 / (id - 31) < 1", own),
		then("BEGIN", "BEGIN; T"),
		then("CREATE FUNCTION pg_temp.take(text) RETURNS bool COST 0.00001 LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', $1; RETURN $1::int = 1; EXCEPTION WHEN OTHERS THEN RETURN 1 / (CASE WHEN $1 = 'of 2' THEN 1 ELSE 0 END) = 1; END $$", refused, "strict", runs),
		try("SELECT DISTINCT note FROM orders WHERE pg_temp.take(note)", denied, "strict", runs),
		then("ROLLBACK", "ROLLBACK; I"),
	}},
	{id: "D16", attack: "`EXPLAIN ANALYZE`", steps: []step{
		try("EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT * FROM slugs", refused, "apart", runs), try("EXPLAIN ANALYZE EXECUTE q", stopped),
		then("EXPLAIN SELECT * FROM slugs", runs),
	}, note: "It counts rows that a policy hid. EXPLAIN works; its estimates come from the statistics of the whole table."},
	{id: "D17", attack: "a table without policy", in: "row", run: (*exploit).newTables, gives: denied, note: "refused by an event trigger when it is made; `doctor` reports others"},
	{id: "D18", attack: "`DROP OWNED`, `REASSIGN OWNED`", steps: []step{
		try("DROP OWNED BY CURRENT_USER", refused), try("DROP OWNED BY {other}", refused), try("REASSIGN OWNED BY CURRENT_USER TO {other}", refused), then(mine, own),
	}},
	{id: "D19", attack: "locks: `LOCK TABLE`, `FOR UPDATE`, and `pg_sleep`", steps: []step{
		then("BEGIN", "BEGIN; T"), try("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE", refused, "apart", runs), then("ROLLBACK", "ROLLBACK; I"),
		try("SELECT note FROM orders FOR UPDATE", runs), try("LOCK TABLE {theirs}", stopped),
	}, note: "How long statements and transactions may take is a matter of timeouts."},
	{id: "D20", attack: "`ALTER TABLE … DISABLE ROW LEVEL SECURITY`, `CREATE POLICY`, `GRANT`", steps: []step{
		try("ALTER TABLE orders DISABLE ROW LEVEL SECURITY", denied, "row-shared", refused), try("CREATE POLICY open ON orders USING (true)", denied, "row-shared", refused), try("DROP POLICY pgkennel_base ON orders", stopped),
		try("GRANT ALL ON orders TO PUBLIC", nothing), try("ALTER TABLE orders OWNER TO CURRENT_USER", denied, "row-shared", refused),
	}},
}

var groupE = []row{
	{id: "E01", attack: "others' SQL in `pg_stat_activity`", steps: []step{try("SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()", runs, "row-shared", refused, "schema-shared", denied)}},
	{id: "E02", attack: "`pg_terminate_backend`, `pg_cancel_backend`", steps: []step{
		try("SELECT pg_terminate_backend({pid})", denied, "row-shared", refused), try("SELECT pg_cancel_backend({pid})", denied, "row-shared", refused),
	}},
	{id: "E03", attack: "names in `pg_namespace`, `pg_roles`, `pg_database`; sources in `pg_proc`", steps: []step{
		try("SELECT count(*) FROM pg_roles WHERE rolname = '{other}'", open+" 1;", "row-shared", "0; SELECT 1; I"),
	}, note: "Give roles, schemas and databases names that say nothing, and keep secrets out of functions and comments."},
	{id: "E04", attack: "sizes and statistics: `pg_total_relation_size`, `pg_stat_all_tables`", steps: []step{
		try("SELECT count(pg_total_relation_size(c.oid)) > 0 FROM pg_class c WHERE c.relname IN ('orders', 'orders_x')", open+" t;", "database", runs),
		try("SELECT pg_database_size('{db}_d3')", nothing),
	}, note: "of tables in the same database"},
	{id: "E05", attack: "telling schemas that are there from those that are not", in: "schema", steps: []step{
		try("SELECT * FROM t_3.orders", refused), try("SELECT * FROM t_99.orders", refused), try("SELECT * FROM nowhere.orders", denied),
	}},
	{id: "E06", attack: "`pg_locks`, prepared transactions, large objects", steps: []step{
		try("SELECT count(*) > 0 FROM pg_locks", open+" t;"), then("BEGIN", "BEGIN; T"), try("PREPARE TRANSACTION 'x'", refused, "strict", nothing), then("ROLLBACK", nothing),
		try("SELECT lo_get(1)", denied, "row-shared", refused), try("SELECT lo_create(4711)", nothing, "row-shared", refused), try("SELECT lo_unlink(4711)", nothing, "row-shared", refused),
	}, note: "Locks tell numbers of tables and processes."},
	{id: "E07", attack: "files and programs of the server, extensions", steps: []step{
		try("COPY orders TO PROGRAM 'true'", stopped), try("COPY slugs TO '/tmp/pgkennel-x'", stopped), try("SELECT pg_read_file('PG_VERSION')", stopped), try("CREATE EXTENSION dblink", stopped),
		try("SELECT lo_import('/etc/passwd')", stopped),
	}},
	{id: "E08", attack: "logins as tenants that are unknown or suspended, or with a wrong password", run: (*exploit).strangers, gives: refused, note: "One message for all, in similar time; the log tells them apart."},
	{id: "E09", attack: "replication: startup parameter, slots", steps: []step{try("SELECT pg_create_logical_replication_slot('s', 'pgoutput')", denied)}, run: (*exploit).replication, gives: refused},
}

var groupF = []row{
	{id: "F01", attack: "several statements in one message", steps: []step{
		try("SELECT 1; RESET ROLE; SELECT note FROM {theirs}", stopped), try("SELECT 1; SET app.current_tenant = '3'; SELECT note FROM orders", stopped),
		try("SET app.current_tenant = '3'; SELECT note FROM orders", stopped), try("SET app.current_tenant = ''; SELECT note FROM orders", nothing), then(mine, own),
		try("SET app.current_tenant = '02'; SELECT 1", nothing), try("RESET ALL; SELECT note FROM orders", nothing), try("RESET app.current_tenant; SELECT note FROM orders", nothing), then(mine, own),
	}, note: "None runs if one is refused."},
	{id: "F02", attack: "comments, Unicode escapes, dollar quotes, byte order marks, deep nesting", steps: []step{
		try("/* /* */ */ RESET ROLE", refused), try("-- x\nRESET/**/ROLE", refused), try("\ufeffRESET ROLE", stopped),
		try(`SELECT U&"\006eote" FROM orders WHERE U&"tenant_id" = 3`, refused, "apart", runs),
		try("SELECT $x$; RESET ROLE; $x$", "; RESET ROLE; ; SELECT 1; I"), try("RESET ROLE;;", refused),
		try("SELECT "+strings.Repeat("(", 20000)+"1"+strings.Repeat(")", 20000)+"; RESET ROLE", stopped),
	}},
	{id: "F03", attack: "`standard_conforming_strings = off`", steps: []step{
		try("SET standard_conforming_strings = off", refused), try("SELECT set_config('standard_conforming_strings', 'off', false)", refused),
		try(`SELECT '\', '; RESET ROLE; SELECT note FROM t_3.orders; --'`, `\|; RESET ROLE; SELECT note FROM t_3.orders; --; SELECT 1; I`),
	}},
	{id: "F04", attack: "client encodings in which a quote hides; bytes that are no UTF-8", steps: []step{
		try("SET client_encoding = 'SJIS'", refused), try("SET NAMES 'GBK'", refused), try("SET client_encoding = 'BIG5'", refused), try("SELECT '\xff'", stopped),
	}},
	{id: "F05", attack: "the FunctionCall message", run: (*exploit).functionCall, gives: refused},
	{id: "F06", attack: "the key as a parameter: text, binary, other types, several Binds, portals, behind Describe", run: (*exploit).parameters, gives: refused, but: by{"apart": runs}},
	{id: "F07", attack: "hints in comments and SET: another tenant, another shard", steps: []step{
		try("/* pgkennel_tenant: 3 */ SELECT note FROM orders", refused), then("/* pgkennel_tenant: 2 */ "+mine, own), try("/* pgdog_shard: 7 */ SELECT note FROM orders", refused),
		try("/* pgdog_shard: 1 */ SELECT note FROM orders", refused), try("SET pgkennel.tenant = '3'", refused), then("SET pgdog.shard = '0'", "SET; I"), then(mine, own),
	}},
	{id: "F08", attack: "keys in other forms: `'7'`, `007`, `7.0`, blanks, signs", steps: []step{
		try("SELECT note FROM orders WHERE tenant_id = 03", refused, "apart", "SELECT 0; I"), try("SELECT note FROM orders WHERE tenant_id = '3'", refused, "apart", "SELECT 0; I"),
		try("SELECT note FROM orders WHERE tenant_id = 3.0", nothing), try("SELECT note FROM orders WHERE tenant_id = ' 3 '", nothing), try("SELECT note FROM orders WHERE tenant_id = 3e0", nothing),
		then("SELECT DISTINCT note FROM orders WHERE tenant_id = 002", own), try("SET app.current_tenant = ' 2'", nothing), try("SET app.current_tenant = '+2'", nothing), then(mine, own),
	}},
	{id: "F09", attack: "OR, IN, joins, UNION, CTE, BETWEEN, MERGE and the like with tables that nothing filters", steps: []step{
		try("SELECT note FROM orders WHERE tenant_id = 2 OR tenant_id = 3", refused, "apart", nothing), try("SELECT note FROM orders WHERE tenant_id IN (2, 3)", refused, "apart", nothing),
		try("SELECT o.note FROM orders o, orders p WHERE p.tenant_id = 2", nothing), try("SELECT DISTINCT note FROM orders WHERE tenant_id = 2 UNION SELECT note FROM orders", own),
		try("SELECT DISTINCT note FROM orders WHERE tenant_id = tenant_id", own), try("SELECT DISTINCT note FROM orders WHERE tenant_id BETWEEN 1 AND 9", own),
		try("SELECT DISTINCT note FROM orders WHERE tenant_id = ANY ('{2,3}')", nothing), try("WITH x AS (SELECT * FROM orders) SELECT DISTINCT note FROM x WHERE tenant_id > 0", own),
		try("SELECT note FROM orders WHERE tenant_id IS NULL", nothing), try("SELECT DISTINCT p.note FROM orders o LEFT JOIN orders p ON p.tenant_id = 2", own),
		try("DELETE FROM orders o USING orders p WHERE p.tenant_id = 2 AND o.tenant_id > 2", nothing),
	}},
	{id: "F10", attack: "views, functions and procedures that hide tables", steps: []step{
		try("SELECT newest()", own), then("CALL counts(0)", "3; CALL; I"), then(mine, own),
	}},
	{id: "F11", attack: "DDL: `ALTER … SET SCHEMA`, `DROP SCHEMA b`", steps: []step{
		try("ALTER TABLE orders SET SCHEMA pg_temp", stopped), try("ALTER TABLE orders RENAME TO mine", denied, "row-shared", refused), try("DROP SCHEMA t_3 CASCADE", denied, "row-shared", refused), try("ALTER TABLE {theirs} RENAME TO x", stopped),
		try("DROP TABLE {theirs}", stopped), try("ALTER SYSTEM SET app.current_tenant = '3'", refused, "strict", denied), try("DROP DATABASE {db}_d3", denied, "row-shared", refused),
	}},
	{id: "F12", attack: "CREATE in public: a function that others' calls would find", steps: []step{
		try("CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT 1'", denied, "shared", refused), try("CREATE TABLE public.countries (x int)", denied, "row-shared", refused),
		try("CREATE OPERATOR public.= (FUNCTION = int84eq, LEFTARG = bigint, RIGHTARG = int)", denied, "shared", refused),
	}},
	{id: "F13", attack: "TLS server name, `user@tenant` and options that disagree", run: (*exploit).names, gives: refused},
}
