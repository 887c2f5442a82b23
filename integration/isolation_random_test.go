package integration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
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

// What a session reads that chooses its tenants at random, in both protocols and in pipelines, is what PostgreSQL itself shows it, or it is refused. PostgreSQL
// shows nothing where no tenant was chosen, which is refused here.
func TestRandomChoicesOfTenants(t *testing.T) {
	t.Parallel()
	oracle := isolate(t, "shared", "row").shards[0]
	for _, pooling := range []string{"transaction", "session", "shards"} {
		shards, users := 1, `pooler_mode = "`+pooling+`"`
		if pooling == "shards" {
			shards, users = 2, `pooler_mode = "transaction"`
		}
		for _, mode := range []string{"shared", "strict", "sealed"} {
			for _, isolation := range []string{"row", "schema"} {
				if mode == "sealed" && isolation != "row" {
					continue
				}
				t.Run(pooling+"/"+mode+"/"+isolation, func(t *testing.T) {
					t.Parallel()
					s := isolateOn(t, shards, mode, isolation, users)
					trials := 60
					if testing.Short() {
						trials = 20
					}
					for seed := range trials {
						if s.choose(t, oracle, uint64(seed)); t.Failed() {
							return
						}
					}
					s.unharmed(t, "random choices")
				})
			}
		}
	}
}

// choose runs one session.
func (s *isolated) choose(t *testing.T, oracle shard, seed uint64) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(11, seed))
	here := s.as(t, "app", nil)
	there := oracle.Connect(t, pgtest.Login{User: user, Database: oracle.db, Password: password})
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
			messages = []pgproto3.FrontendMessage{simple(strings.Join(pick(3), "; "))}
		case 1:
			messages = []pgproto3.FrontendMessage{simple(pick(1)[0])}
		default:
			for _, sql := range pick(5) {
				switch rnd.IntN(8) {
				case 0: // by a name, now or in a later unit
					names++
					name := fmt.Sprint("n", names)
					messages = append(messages, parse(name, sql))
					prepared = append(prepared, name)
				case 1:
					if len(prepared) > 0 {
						messages = append(messages, bind("", prepared[rnd.IntN(len(prepared))]), run("", 0))
					}
				case 2:
					names++
					messages = append(messages, parse("", sql), bind(fmt.Sprint("p", names), ""))
				case 3:
					messages = append(messages, run(fmt.Sprint("p", names), 0))
				case 4:
					messages = append(messages, parse("", sql), describe('S', ""), bind("", ""), describe('P', ""), run("", 0))
				default:
					messages = append(messages, statements(sql)...)
				}
				if rnd.IntN(5) == 0 {
					messages = append(messages, flush)
				}
			}
			messages = append(messages, syncs)
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
		if outcome(got) == outcome(want) {
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
		t.Errorf("seed %d: %s\n got %s\nwant %s", seed, strings.Join(said, "\n\t"), outcome(got), outcome(want))
		return
	}
}
