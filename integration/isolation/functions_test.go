package isolation

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// sqlCallable lists the functions that a tenant may call and that can find something by what they are given: a text, a name, a number of a relation, or nothing.
// Those that read the text of a value, or tell about privileges, do not.
const sqlCallable = `SELECT DISTINCT quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '|' || array_to_string(ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t), ',')
|| CASE WHEN p.prorettype = 'record'::regtype AND p.proargmodes IS NULL THEN '| AS x(a text, b text)' ELSE '|' END
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.prokind = 'f' AND p.provolatile <> 'i' AND n.nspname <> 'pgkennel' AND p.proname !~ '^has_|^txid|^inet_|^reg.*in$|^to_|_visible$|^binary_upgrade|^pg_stat_get_|^json|size|description|^pg_get_|acl|^pg_sleep|clock|now|statement_timestamp'
AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
AND (p.pronargs = 0 OR p.proargtypes::oid[] && ARRAY['text', 'regclass', 'refcursor']::regtype[]::oid[])
AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) t WHERE t NOT IN ('text'::regtype, 'name'::regtype, 'oid'::regtype, 'regclass'::regtype, 'integer'::regtype, 'bigint'::regtype,
'smallint'::regtype, 'boolean'::regtype, 'refcursor'::regtype, 'anyelement'::regtype))
ORDER BY 1`

// texts lead to the victim, by the place of the argument, in one attempt after the other: as a statement, a relation, as what xpath_table and connectby want.
var texts = [][]string{
	{"SELECT '1'::text, '2'::text, string_agg(statement, ' ') FROM pg_prepared_statements"},
	{"pg_prepared_statements"},
	{"{theirs}"},
	{"name", "'<a>' || statement || '</a>'", "pg_prepared_statements", "/a", "true"},
	{"pg_prepared_statements", "statement", "name", "canary"},
}

// argument is what a function is given for its i-th argument, the n-th time.
func argument(typ string, i, n int) string {
	switch typ {
	case "regclass", "oid":
		return []string{"'pg_prepared_statements'::regclass", "'{theirs}'::regclass", "'public.ids'::regclass"}[n%3]
	case "boolean":
		return "true"
	case "integer", "bigint", "smallint":
		return "1"
	case "refcursor":
		return "'c'"
	}
	return "'" + strings.ReplaceAll(texts[n][i%len(texts[n])], "'", "''") + "'::text"
}

// says has the victim say, on the connection that is anybody's next, what must not be found there.
func (w *world) says(t *testing.T) {
	v := w.watcher(t, victim)
	v.Send(testbed.Simple("SET application_name = 'slug-3-2'"), testbed.Simple("SET app.secret = 'slug-3-2'"), testbed.Simple("SELECT nextval('public.ids')"),
		&pgproto3.Close{ObjectType: 'S', Name: "canary"}, testbed.Parse("canary", "SELECT 'slug-3-2' AS secret"), testbed.Bind("", "canary"), testbed.Run("", 0), testbed.Sync)
	for range 4 {
		v.UntilReady()
	}
}

// functions calls each function.
func (w *world) functions(t *testing.T) {
	c := w.tenant(t, attacker)
	w.says(t)
	for _, row := range w.Shards[0].Query(t, w.db, sqlCallable) {
		parts := strings.Split(row, "|")
		types, times := strings.Split(parts[1], ","), len(texts)
		if parts[1] == "" {
			types, times = nil, 1
		}
		if !strings.HasPrefix(row, "pg_catalog.") { // behind a function of an extension the connection is another
			w.says(t)
		}
		var sent []string
		var messages []pgproto3.FrontendMessage
		for n := range times {
			args := make([]string, len(types))
			for i, typ := range types {
				args[i] = argument(typ, i, n)
			}
			sent = append(sent, w.fill(fmt.Sprintf("SELECT * FROM %s(%s)%s", parts[0], strings.Join(args, ", "), parts[2])))
			messages = append(messages, testbed.Simple(sent[n]))
		}
		c.Send(messages...)
		for _, sql := range sent {
			w.expect(t, sql, c.UntilReady(), nothing)
		}
	}
	c.Terminate()
	w.unharmed(t, "functions")
}

// catalogs looks through what PostgreSQL shows of what goes on; tables of the system have names and definitions.
func (w *world) catalogs(t *testing.T) {
	c := w.tenant(t, attacker)
	w.says(t)
	list := w.Shards[0].Query(t, w.db, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'v' AND relnamespace = 'pg_catalog'::regnamespace AND relname !~ 'timezone|^pg_(views|rules|indexes)' ORDER BY 1")
	for _, name := range list {
		c.Send(testbed.Simple("SELECT * FROM " + name + " x WHERE x::text LIKE '%slug-3' || '-2%'"))
	}
	for _, name := range list {
		shown := len(pgtest.Rows(c.UntilReady())) > 0
		if open := w.mode.mode == "strict" && name == "pg_stat_activity"; shown != open { // application_name, which PostgreSQL shows to everybody
			t.Errorf("%s shows what is the victim's: %v, want %v", name, shown, open)
		}
	}
	c.Terminate()
	w.unharmed(t, "catalogs")
}
