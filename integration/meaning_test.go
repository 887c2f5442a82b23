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

// TestPreparedStatementsMeanWhatTheirClientSays: clients with settings of their own prepare the same text on one backend. Each gets what it would get
// from PostgreSQL, whose literals and names mean what the settings of the moment say.
func TestPreparedStatementsMeanWhatTheirClientSays(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 1, general: "default_pool_size = 1", schema: `CREATE SCHEMA s1; CREATE TABLE s1.t AS SELECT 'one' AS v;
		CREATE SCHEMA s2; CREATE TABLE s2.t AS SELECT 2 AS v; GRANT USAGE ON SCHEMA s1, s2 TO PUBLIC; GRANT SELECT ON s1.t, s2.t TO PUBLIC`})
	const text = `SELECT '01/02/2020'::date AS d, extract(epoch from '2020-01-01 00:00'::timestamptz) AS e, v FROM t`
	type pair struct{ pooled, direct *pgtest.Client }
	var pairs []pair
	for _, p := range []map[string]string{
		{"search_path": "s1"},
		{"search_path": "s2"},
		{"search_path": "s1", "datestyle": "ISO, DMY"},
		{"search_path": "s1", "timezone": "Asia/Tokyo"},
	} {
		pairs = append(pairs, pair{s.with(t, p), s.direct(t, p)})
	}
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 8))
		var history []string
		both := func(p pair, msgs ...pgproto3.FrontendMessage) {
			t.Helper()
			p.direct.Send(msgs...)
			p.pooled.Send(msgs...)
			want, got := answered(p.direct.UntilReady()), answered(p.pooled.UntilReady())
			if got != want {
				t.Fatalf("seed %d: got\n%s\nwant\n%s\nafter\n%s", seed, got, want, strings.Join(history, "\n"))
			}
		}
		use := []pgproto3.FrontendMessage{
			&pgproto3.Parse{Name: "q", Query: text}, &pgproto3.Bind{PreparedStatement: "q"}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{},
			&pgproto3.Close{ObjectType: 'S', Name: "q"}, &pgproto3.Sync{},
		}
		for _, p := range pairs { // whoever has the statement shares it with all others
			both(p, &pgproto3.Parse{Name: fmt.Sprint("kept", seed), Query: text}, &pgproto3.Sync{})
		}
		for range 40 {
			n := r.IntN(len(pairs))
			p := pairs[n]
			inTransaction := r.IntN(3) > 0
			if inTransaction {
				history = append(history, fmt.Sprintf("client %d: BEGIN", n))
				both(p, &pgproto3.Query{String: "BEGIN"})
			}
			for range 1 + r.IntN(5) {
				sql := []string{
					"SET timezone TO 'Asia/Tokyo'", "SET timezone TO 'America/New_York'", "RESET timezone", "SET datestyle TO 'ISO, DMY'",
					"RESET datestyle", "SELECT set_config('timezone', 'CET', false)", "RESET ALL", "SET search_path TO s1", "SET search_path TO s2", "RESET search_path",
					"SET LOCAL timezone TO 'Asia/Tokyo'", "SET LOCAL datestyle TO 'ISO, DMY'", "SET LOCAL search_path TO s2", "SAVEPOINT a", "ROLLBACK TO a",
					"SELECT set_config('timezone', 'CET', true)", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "SELECT 1",
				}[r.IntN(map[bool]int{false: 10, true: 19}[inTransaction])]
				first := history
				if sql == "ROLLBACK TO a" && !strings.Contains(strings.Join(first[max(0, len(first)-3):], ""), "SAVEPOINT a") {
					continue // most would fail, and nothing could be seen
				}
				history = append(history, fmt.Sprintf("client %d: %s", n, sql))
				if r.IntN(3) > 0 || strings.HasPrefix(sql, "RESET") { // which takes its full effect at the end of its pipeline: see docs/differences.md
					both(p, &pgproto3.Query{String: sql})
				} else { // in one pipeline with the statement
					history = append(history, "  and the statement behind it")
					both(p, append([]pgproto3.FrontendMessage{&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{}}, use...)...)
				}
				if r.IntN(2) == 0 {
					history = append(history, "  the statement")
					both(p, use...)
				}
			}
			if inTransaction {
				end := []string{"COMMIT", "ROLLBACK"}[r.IntN(2)]
				history = append(history, fmt.Sprintf("client %d: %s", n, end))
				both(p, &pgproto3.Query{String: end})
			}
			both(p, use...)
		}
		for _, p := range pairs {
			both(p, &pgproto3.Query{String: "RESET ALL"})
		}
	}
}

// answered renders what a client got but for reports of parameters, whose place among the answers is free.
func answered(msgs []pgproto3.BackendMessage) string {
	return pgtest.Format(slices.DeleteFunc(msgs, func(m pgproto3.BackendMessage) bool {
		_, ok := m.(*pgproto3.ParameterStatus)
		return ok
	})...)
}
