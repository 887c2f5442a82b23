package isolation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// choices are what a session that chooses its tenants says, in random order.
var choices = []string{
	mine, mine, mine, mine,
	"SET app.current_tenant = '2'", "SET app.current_tenant = '3'", "SET LOCAL app.current_tenant = '2'", "SET LOCAL app.current_tenant = '3'",
	"SELECT set_config('app.current_tenant', '2', false)", "SELECT set_config('app.current_tenant', '3', true)",
	"RESET app.current_tenant",
	"BEGIN", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "ROLLBACK TO s", "RELEASE s", "ROLLBACK AND CHAIN",
	"COMMIT AND CHAIN", "SAVEPOINT t", "ROLLBACK TO t", "RELEASE t", "SET app.current_tenant TO DEFAULT", "SET app.current_tenant = ''", "SET SESSION app.current_tenant = '2'",
	"DECLARE c CURSOR FOR " + mine, "FETCH ALL FROM c", "COPY (" + mine + ") TO STDOUT", "PREPARE q AS " + mine, "EXECUTE q", "SELECT set_config('app.current_tenant', '', true)",
	"SELECT 1/0", "SELECT 7", "SET search_path = public", "CREATE TEMP TABLE IF NOT EXISTS x ()", "SELECT nextval('ids') > 0",
}

// byHand is an application's database with row-level security on the setting: what PostgreSQL itself shows to a session that sets it.
const byHand = `
CREATE TABLE orders (tenant_id bigint NOT NULL, id bigint, note text);
INSERT INTO orders SELECT t, t * 10 + i, 'of ' || t FROM generate_series(1, 4) t, generate_series(1, 3) i;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY; ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON orders USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::bigint);
CREATE SEQUENCE ids;
`

// randomChoices: what a session reads that chooses its tenants at random, in both protocols and in pipelines, is what PostgreSQL itself shows it, or it is
// refused. PostgreSQL shows nothing where no tenant was chosen, which is refused here.
func randomChoices(t *testing.T, w *world) {
	i := w.Shards[0].Instance
	oracle := testbed.Shard{Instance: i, DB: i.CreateDatabase(t)}
	i.Exec(t, oracle.DB, "GRANT CREATE ON SCHEMA public TO app; SET ROLE app;"+byHand)
	w.Shards[0].Exec(t, w.db, "GRANT TEMP ON DATABASE "+w.db+" TO PUBLIC; GRANT EXECUTE ON FUNCTION set_config TO PUBLIC")
	trials := 30
	if testing.Short() {
		trials = 20
	}
	for seed := range trials {
		if w.choose(t, oracle, uint64(seed)); t.Failed() {
			return
		}
	}
	w.unharmed(t, "random choices")
}

// choose runs one session.
func (w *world) choose(t *testing.T, oracle testbed.Shard, seed uint64) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(11, seed))
	here := w.As(t, "app", nil)
	there := oracle.Connect(t, pgtest.Login{User: testbed.User, Database: oracle.DB, Password: testbed.Password})
	defer here.Terminate()
	defer there.Terminate()
	there.Query("SET app.current_tenant = ''") // that it is there
	var said, prepared []string
	names := 0
	pick := func(n int) (list []string) {
		for range 1 + rnd.IntN(n) {
			list = append(list, choices[rnd.IntN(len(choices))])
		}
		return list
	}
	for range 1 + rnd.IntN(8) {
		var messages []pgproto3.FrontendMessage
		switch rnd.IntN(4) {
		case 0:
			messages = []pgproto3.FrontendMessage{testbed.Simple(strings.Join(pick(3), "; "))}
		case 1:
			messages = []pgproto3.FrontendMessage{testbed.Simple(pick(1)[0])}
		default:
			for _, sql := range pick(5) {
				switch rnd.IntN(8) {
				case 0: // by a name, now or in a later unit
					names++
					name := fmt.Sprint("n", names)
					messages = append(messages, testbed.Parse(name, sql))
					prepared = append(prepared, name)
				case 1:
					if len(prepared) > 0 {
						messages = append(messages, testbed.Bind("", prepared[rnd.IntN(len(prepared))]), testbed.Run("", 0))
					}
				case 2:
					names++
					messages = append(messages, testbed.Parse("", sql), testbed.Bind(fmt.Sprint("p", names), ""))
				case 3:
					messages = append(messages, testbed.Run(fmt.Sprint("p", names), 0))
				case 4:
					messages = append(messages, testbed.Parse("", sql), testbed.Describe('S', ""), testbed.Bind("", ""), testbed.Describe('P', ""), testbed.Run("", 0))
				default:
					messages = append(messages, testbed.Statements(sql)...)
				}
				if rnd.IntN(5) == 0 {
					messages = append(messages, testbed.Flush)
				}
			}
			messages = append(messages, testbed.Sync)
		}
		for _, m := range messages {
			switch m := m.(type) {
			case *pgproto3.Query:
				said = append(said, m.String+" (Query)")
			case *pgproto3.Parse:
				said = append(said, fmt.Sprintf("%s (Parse %q)", m.Query, m.Name))
			case *pgproto3.Sync:
				said = append(said, "Sync")
			case *pgproto3.Flush:
				said = append(said, "Flush")
			case *pgproto3.Bind:
				said = append(said, fmt.Sprintf("\tBind %q to %q", m.DestinationPortal, m.PreparedStatement))
			case *pgproto3.Execute:
				said = append(said, fmt.Sprintf("\tExecute %q %d", m.Portal, m.MaxRows))
			case *pgproto3.Describe:
				said = append(said, fmt.Sprintf("\tDescribe %c%q", m.ObjectType, m.Name))
			}
		}
		here.Send(messages...)
		there.Send(messages...)
		got, want := here.UntilReady(), there.UntilReady()
		if testbed.Outcome(got) == testbed.Outcome(want) {
			continue
		}
		// It may be refused, and then has shown no more than PostgreSQL has.
		if f := pgtest.Failure(want); f != nil && f.Code == "25001" {
			return // DISCARD ALL and the like behind what is answered here
		}
		e := pgtest.Failure(got)
		rows, all := pgtest.Rows(got), pgtest.Rows(want)
		isNote := func(row string) bool { return !strings.HasPrefix(row, "of ") }
		rows, all = slices.DeleteFunc(rows, isNote), slices.DeleteFunc(all, isNote)
		if (e != nil && (e.File == "" || e.Code == "42P01") || pgtest.Failure(want) != nil) && len(rows) <= len(all) && slices.Equal(rows, all[:len(rows)]) {
			return
		}
		t.Errorf("seed %d: %s\n got %s\nwant %s", seed, strings.Join(said, "\n\t"), testbed.Outcome(got), testbed.Outcome(want))
		return
	}
}
