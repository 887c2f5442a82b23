package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

const listenSchema = tableSchema + `
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('news', 'by trigger'); RETURN NEW; END $$;
CREATE TABLE told (x int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TRIGGER tell AFTER INSERT ON told FOR EACH ROW EXECUTE FUNCTION tell();
`

// ears plays who says what, "client: SQL", and returns what each client was answered, with what it heard of itself in its place, and what it heard
// of all in order. A client whose name begins with x speaks the extended protocol.
func ears(t *testing.T, connect func() *pgtest.Client, script []string) string {
	t.Helper()
	clients := make(map[string]*pgtest.Client)
	answers, heard := make(map[string][]string), make(map[string][]string)
	run := func(name, sql string) {
		c := clients[name]
		if c == nil {
			c = connect()
			clients[name] = c
		}
		p := protocols[0]
		if strings.HasPrefix(name, "x") {
			p = protocols[1]
		}
		var rest []pgproto3.BackendMessage
		own := ""
		for _, m := range p.run(c, sql) {
			if n, ok := m.(*pgproto3.NotificationResponse); ok {
				by := "another"
				if n.PID == c.PID {
					own, by = own+" +"+n.Payload, "itself"
				}
				heard[name] = append(heard[name], fmt.Sprintf("%s %q by %s", n.Channel, n.Payload, by))
				continue
			}
			rest = append(rest, m)
		}
		answers[name] = append(answers[name], sql+": "+outcome(rest)+own)
	}
	for _, step := range script {
		name, sql, _ := strings.Cut(step, ": ")
		run(name, sql)
	}
	list := make([]string, 0, len(clients))
	for name := range clients {
		list = append(list, name)
	}
	slices.Sort(list)
	var out strings.Builder
	for _, name := range list {
		for _, sql := range []string{"ROLLBACK", "LISTEN fin", "NOTIFY fin, 'end'"} {
			run(name, sql)
		}
		clients[name].Close()
		fmt.Fprintf(&out, "%s\n  %s\n  hears\n  %s\n", name, strings.Join(answers[name], "\n  "), strings.Join(heard[name], "\n  "))
	}
	return out.String()
}

// TestListen: who listens in transaction pooling hears what it would hear of PostgreSQL, from when on it would, in the same order, once, and of whom.
func TestListen(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: listenSchema, general: "default_pool_size = 2"})
	direct := func() *pgtest.Client {
		return s.shards[0].Connect(t, pgtest.Login{User: "postgres", Database: s.shards[0].db})
	}
	scripts := map[string][]string{
		"plain": {"a: LISTEN news", "b: NOTIFY news, 'one'", "b: NOTIFY other, 'no'", "a: NOTIFY news, 'self'", "a: UNLISTEN news", "b: NOTIFY news, 'late'"},
		"extended": {
			"xa: LISTEN news", "xb: NOTIFY news, 'one'", "xa: SELECT pg_notify('news', 'self')", "xa: INSERT INTO told VALUES (1)",
			"xa: UNLISTEN *", "xb: NOTIFY news, 'late'",
		},
		"transactions": {
			"a: BEGIN", "a: LISTEN news", "b: NOTIFY news, 'early'", "a: NOTIFY news, 'of itself'", "a: COMMIT", "b: NOTIFY news, 'one'",
			"a: BEGIN", "a: UNLISTEN news", "b: NOTIFY news, 'two'", "a: ROLLBACK", "b: NOTIFY news, 'three'",
			"a: BEGIN", "a: UNLISTEN news", "b: NOTIFY news, 'four'", "a: COMMIT", "b: NOTIFY news, 'five'",
		},
		"rolled back": {
			"a: BEGIN", "a: LISTEN news", "a: NOTIFY news, 'never'", "a: ROLLBACK", "b: NOTIFY news, 'no'",
			"a: BEGIN", "a: LISTEN news", "a: SELECT 1/0", "a: COMMIT", "b: NOTIFY news, 'no'", "a: LISTEN news; SELECT 1/0", "b: NOTIFY news, 'no'",
			"a: BEGIN; LISTEN news", "a: INSERT INTO told VALUES (1), (1)", "a: COMMIT", "b: NOTIFY news, 'no'",
		},
		"savepoints": {
			"a: BEGIN", "a: SAVEPOINT s", "a: LISTEN gone", "a: SAVEPOINT s", "a: LISTEN gone", "a: ROLLBACK TO s", "a: RELEASE s", "a: ROLLBACK TO s",
			"a: LISTEN kept", "a: SAVEPOINT t", "a: LISTEN gone", "a: SELECT 1/0", "a: ROLLBACK TO t", "a: SAVEPOINT u", "a: LISTEN also", "a: RELEASE t",
			"a: COMMIT", "b: NOTIFY gone, '1'", "b: NOTIFY kept, '2'", "b: NOTIFY also, '3'",
		},
		"several": {
			"a: LISTEN one; LISTEN two; NOTIFY one, '1'; NOTIFY two, '2'", "a: LISTEN three; COMMIT; LISTEN four; NOTIFY four, '4'; SELECT 1/0",
			"b: NOTIFY three, '3'", "b: NOTIFY four, 'no'", "a: BEGIN; LISTEN five; COMMIT; LISTEN six", "b: NOTIFY five, '5'; NOTIFY six, '6'",
			"a: UNLISTEN *; LISTEN two", "b: NOTIFY one, 'no'; NOTIFY two, '7'",
		},
		"names": {
			`a: LISTEN "News of the ""world"""`, "a: LISTEN NEWS", `b: NOTIFY "News of the ""world""", 'quoted'`, "b: NOTIFY News, 'folded'", `b: NOTIFY "NEWS", 'no'`,
			"a: LISTEN " + strings.Repeat("long", 20), "b: NOTIFY " + strings.Repeat("long", 20) + ", 'cut'", `a: LISTEN ""`, "a: LISTEN", `a: LISTEN "grün"`, `b: NOTIFY "grün", 'weiß'`,
		},
		"in transaction": {"a: LISTEN news", "a: BEGIN", "b: NOTIFY news, 'one'", "a: SELECT 1", "b: NOTIFY news, 'two'", "a: NOTIFY news, 'mine'", "b: NOTIFY news, 'three'", "a: COMMIT"},
		"the same twice": {"a: LISTEN news", "a: LISTEN news", "b: BEGIN", "b: NOTIFY news, 'x'", "b: NOTIFY news, 'y'", "b: NOTIFY news, 'x'", "b: COMMIT", "b: NOTIFY news, 'x'"},
		"discard":        {"a: LISTEN news", "a: DISCARD ALL", "b: NOTIFY news, 'no'", "a: LISTEN more", "b: NOTIFY more, 'yes'", "xa: LISTEN news", "xa: DISCARD ALL", "b: NOTIFY news, 'no'"},
		"old":            {"b: NOTIFY news, 'old'", "a: LISTEN news", "c: NOTIFY news, 'new'", "d: LISTEN news", "c: NOTIFY news, 'newer'"},
		"prepare":        {"a: BEGIN", "a: LISTEN news", "a: PREPARE TRANSACTION 'x'", "b: NOTIFY news, 'no'", "a: BEGIN READ ONLY", "a: LISTEN news", "a: COMMIT", "b: NOTIFY news, 'yes'"},
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			want := ears(t, direct, script)
			s.shards[0].Exec(t, s.shards[0].db, "TRUNCATE told")
			if got := ears(t, func() *pgtest.Client { return s.connect(t) }, script); got != want {
				t.Errorf("pgkennel:\n%s\nPostgreSQL:\n%s", got, want)
			}
			s.shards[0].Exec(t, s.shards[0].db, "TRUNCATE told")
		})
	}
	execute := func(sql string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{}}
	}
	pipelines := map[string][]pgproto3.FrontendMessage{
		"all of it":     slices.Concat(execute("LISTEN a"), execute("NOTIFY a, '1'"), execute("LISTEN b"), execute("NOTIFY b, '2'"), []pgproto3.FrontendMessage{&pgproto3.Sync{}}),
		"an error":      slices.Concat(execute("LISTEN a"), execute("SELECT 1/0"), execute("LISTEN b"), []pgproto3.FrontendMessage{&pgproto3.Sync{}}),
		"an error soon": slices.Concat(execute("SELECT 1/0"), []pgproto3.FrontendMessage{&pgproto3.Flush{}}, execute("LISTEN a"), []pgproto3.FrontendMessage{&pgproto3.Sync{}}),
		"in turns": slices.Concat(execute("BEGIN"), execute("SELECT 1"), []pgproto3.FrontendMessage{&pgproto3.Flush{}}, execute("LISTEN a"), execute("COMMIT"), execute("LISTEN b"),
			execute("UNLISTEN a"), []pgproto3.FrontendMessage{&pgproto3.Sync{}, &pgproto3.Query{String: "NOTIFY b, '3'"}}),
		"a name": {
			&pgproto3.Parse{Name: "l", Query: "LISTEN a"}, &pgproto3.Sync{}, &pgproto3.Bind{PreparedStatement: "l"}, &pgproto3.Execute{}, &pgproto3.Sync{},
			&pgproto3.Bind{PreparedStatement: "l"}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{}, &pgproto3.Query{String: "NOTIFY a, '4'"},
		},
		"only described": {&pgproto3.Parse{Query: "LISTEN a"}, &pgproto3.Bind{}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Sync{}},
	}
	for name, messages := range pipelines {
		t.Run(name, func(t *testing.T) {
			play := func(c *pgtest.Client) string {
				var own []string
				all := func(messages ...pgproto3.FrontendMessage) (out []string) {
					c.Send(messages...)
					for _, m := range messages {
						switch m.(type) {
						case *pgproto3.Sync, *pgproto3.Query:
						default:
							continue
						}
						var rest []pgproto3.BackendMessage
						for _, m := range c.UntilReady() {
							if n, ok := m.(*pgproto3.NotificationResponse); ok {
								own = append(own, fmt.Sprint(n.Channel, n.Payload, n.PID == c.PID))
								continue
							}
							rest = append(rest, m)
						}
						out = append(out, outcome(rest))
					}
					return out
				}
				answers := all(messages...)
				answers = append(answers, all(&pgproto3.Query{String: "NOTIFY a, 'x'; NOTIFY b, 'y'"}, &pgproto3.Query{String: "LISTEN a; LISTEN b; NOTIFY a, 'z'"})...)
				return fmt.Sprint(answers, own)
			}
			want := play(direct())
			if got := play(s.connect(t)); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
	if n := s.metric(t, "backend_closed_total", `reason="listen"`); n != 0 {
		t.Errorf("%v connections were closed because of LISTEN", n)
	}
}
