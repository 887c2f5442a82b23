package isolation

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// What a random attacker says. Bytes choose among it: a way to say it, a wrapping, a statement.
var (
	looks = []string{
		mine, mine, "SELECT note FROM {theirs}", "TABLE {theirs}", "SELECT note FROM t_3.orders", "SELECT newest()", "SELECT note FROM orders WHERE tenant_id = 3",
		"SELECT note FROM orders WHERE tenant_id <> 2", "SELECT note FROM orders WHERE id = 31", "SELECT string_agg(slug, ',') FROM slugs", "SELECT note FROM seen", "SELECT * FROM all_notes()",
		"SELECT note FROM kept", "SELECT query FROM pg_stat_activity", "SELECT statement FROM pg_prepared_statements", "SELECT statement FROM pg_cursors",
		"SELECT most_common_vals::text FROM pg_stats WHERE tablename LIKE 'orders%'", "SELECT stxdmcv::text FROM pg_statistic_ext_data", "SELECT setting FROM pg_settings WHERE name LIKE 'app.%'",
		"SELECT table_to_xml('orders', true, false, '')", "SELECT table_to_xml('pg_prepared_statements', true, false, '')", "SELECT cursor_to_xml('c', 9, true, false, '')", "SELECT * FROM pg_temp.f()", "SELECT * FROM x",
		"SELECT note FROM orders FOR UPDATE", "SELECT o.note FROM orders o RIGHT JOIN orders p ON o.tenant_id = p.tenant_id", "UPDATE orders SET note = note RETURNING note",
		"UPDATE {theirs} SET note = note RETURNING note", "DELETE FROM {theirs} RETURNING note", "INSERT INTO orders (id, note) VALUES (9, 'new') RETURNING note",
		"INSERT INTO orders (tenant_id, id, note) VALUES (3, 31, 'new') ON CONFLICT (tenant_id, id) DO UPDATE SET id = 31 RETURNING orders.note",
		"DELETE FROM orders WHERE note = 'new' RETURNING note", "MERGE INTO orders o USING (SELECT 3 AS t) s ON o.tenant_id = s.t WHEN MATCHED THEN UPDATE SET note = 'new'",
	}
	escapes = []string{
		"SET app.current_tenant = '3'", "SET LOCAL app.current_tenant = '3'", `SET U&"app.current\005ftenant" = '3'`, "SET app.current_tenant = '2'", "RESET app.current_tenant", "SET app.current_tenant FROM CURRENT",
		"SET ROLE {other}", "SET LOCAL ROLE {other}", "RESET ROLE", "SET SESSION AUTHORIZATION {other}", "RESET SESSION AUTHORIZATION", "SET search_path = t_3, public", "SET LOCAL search_path = pg_temp, t_3",
		"SET row_security = off", "RESET ALL", "DISCARD ALL", "DISCARD PLANS", "DISCARD TEMP", "DISCARD SEQUENCES", "SET pgkennel.tenant = '3'", "SET pgdog.shard = '1'",
		"SELECT set_config('app.current_tenant', '3', false)", "SELECT set_config('app.current_' || 'tenant', '3', true)", "SELECT set_config('role', '{other}', false)", "SELECT set_config('app.current_tenant', '2', true), 1",
		"UPDATE pg_settings SET setting = '3' WHERE name = 'app.current_tenant'", "/* pgkennel_tenant: 3 */ SELECT 1", "/* pgdog_shard: 1 */ SELECT note FROM orders", "SET client_encoding = 'SJIS'", "SET standard_conforming_strings = off",
		"SET plan_cache_mode = force_generic_plan", "SET default_transaction_read_only = on", "ALTER ROLE CURRENT_USER SET app.current_tenant = '3'", "GRANT {other} TO {own}", "SET TRANSACTION READ ONLY",
	}
	turns = []string{
		"BEGIN", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "SELECT 1/0", "START TRANSACTION READ ONLY", "PREPARE TRANSACTION 'x'",
		"LISTEN n", "NOTIFY n, 'x'", "UNLISTEN *", "SELECT pg_notify('n', 'x')", "CREATE TEMP TABLE orders (tenant_id bigint, id bigint, note text)", "DROP TABLE IF EXISTS pg_temp.orders", "CALL counts(0)", "EXECUTE q", "DEALLOCATE ALL",
		"FETCH ALL FROM c", "CLOSE ALL", "SELECT nextval('public.ids')", "SELECT lastval()", "SELECT pg_advisory_lock(1)", "CREATE FUNCTION pg_temp.lower(text) RETURNS text LANGUAGE sql AS 'SELECT 1'", "DROP OWNED BY {other}", "LOCK TABLE slugs",
	}
	wraps = []string{
		"%s", "%s", "%s", "%s", "/* x */ %s -- y", "EXPLAIN %s", "EXPLAIN ANALYZE %s", "PREPARE q AS %s", "DECLARE c CURSOR FOR %s", "DECLARE c CURSOR WITH HOLD FOR %s", "COPY (%s) TO STDOUT", "CREATE TEMP TABLE x AS %s",
		"CREATE TEMP VIEW x AS %s", "WITH w AS MATERIALIZED (%s) SELECT * FROM w", "SELECT (%s)", "DO $x$ BEGIN EXECUTE $y$%s$y$; END $x$", "SELECT query_to_xml($x$%s$x$, true, false, '')",
		"CREATE FUNCTION pg_temp.f() RETURNS SETOF text LANGUAGE plpgsql AS $x$ BEGIN EXECUTE $y$%s$y$; RETURN QUERY SELECT note FROM orders; END $x$",
		"CREATE FUNCTION pg_temp.f() RETURNS SETOF text LANGUAGE sql AS $x$ %s $x$", "SELECT 1; %s", "BEGIN; %s; COMMIT", "%s; SELECT note FROM orders",
	}
)

// dice are the bytes that choose.
type dice struct{ data []byte }

func (d *dice) roll(n int) int {
	if len(d.data) == 0 {
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return int(b) % n
}

// statement makes one.
func (d *dice) statement() string {
	lists := [][]string{looks, escapes, turns}
	list := lists[d.roll(len(lists))]
	return fmt.Sprintf(wraps[d.roll(len(wraps))], list[d.roll(len(list))])
}

var chosen = flag.String("mode", modes[0].name, "where the random attacker of FuzzIsolation is")

// FuzzIsolation: an attacker that says what the bytes choose never sees anything of the victim's, who finds everything as it was.
func FuzzIsolation(f *testing.F) {
	w := build(f, modes[slices.IndexFunc(modes, func(m mode) bool { return m.name == *chosen })])
	w.passing = true
	for seed := range uint64(3) {
		f.Add(seeded(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		w.random(t, &dice{data[:min(len(data), 80)]})
	})
}

func seeded(seed uint64) []byte {
	rnd, data := rand.New(rand.NewPCG(7, seed)), make([]byte, 40)
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	return data
}

// random plays one attacker.
func (w *world) random(t *testing.T, d *dice) {
	t.Helper()
	c := w.tenant(t, attacker)
	var said []string
	for alive := true; alive && len(d.data) > 0; {
		var messages []pgproto3.FrontendMessage
		how := d.roll(6)
		said = append(said, fmt.Sprintf("-- %d", how))
		switch how {
		case 0, 1: // a Query
			sql := w.fill(d.statement())
			said, messages = append(said, sql), append(messages, testbed.Simple(sql))
		case 2: // Parse to Execute, and Sync
			sql := w.fill(d.statement())
			said, messages = append(said, sql), append(testbed.Statements(sql), testbed.Sync)
		case 3: // a COPY from the client, wanted or not
			sql := []string{"COPY slugs (slug) FROM STDIN", "COPY orders (tenant_id, id, note) FROM STDIN", "COPY {theirs} FROM STDIN"}[d.roll(3)]
			said, messages = append(said, sql), append(messages, testbed.Simple(w.fill(sql)), &pgproto3.CopyData{Data: []byte("3\t39\tnew\n")}, &pgproto3.CopyDone{})
		default: // a pipeline, with a Query in it at times
			for range 1 + d.roll(4) {
				sql := w.fill(d.statement())
				said, messages = append(said, sql), append(messages, testbed.Statements(sql)...)
				switch d.roll(8) {
				case 0:
					messages = append(messages, testbed.Flush)
				case 1:
					messages = append(messages, testbed.Sync)
				case 2:
					messages = append(messages, testbed.Simple(mine))
				}
			}
			messages = append(messages, testbed.Sync)
		}
		// An empty Query ends the round: it is answered also where a transaction has failed, and a Query behind an error in a pipeline is not.
		c.Send(append(messages, testbed.Sync, testbed.Simple(""))...)
		var all []pgproto3.BackendMessage
		for last := false; ; {
			m, err := c.Next()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s: no answer:\n%s", w.mode.name, strings.Join(said, "\n"))
			}
			if alive = err == nil; !alive {
				break
			}
			all = append(all, m)
			if _, ready := m.(*pgproto3.ReadyForQuery); ready && last {
				break
			}
			_, empty := m.(*pgproto3.EmptyQueryResponse)
			last = last || empty
		}
		if canary := leak(all); canary != "" {
			t.Fatalf("%s: shows %q:\n%s\n%s", w.mode.name, canary, strings.Join(said, "\n"), pgtest.Format(all...))
		}
	}
	c.Close()
	w.unharmed(t, w.mode.name+": "+strings.Join(said, "\n"))
}
