package state

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// server is one connection to a real PostgreSQL, as superuser.
type server struct {
	t testing.TB
	c *pgtest.Client
}

func connect(t testing.TB, db string) *server {
	t.Helper()
	return &server{t, pgtest.Shared(t).Connect(t, pgtest.Login{User: pgtest.Superuser, Database: db})}
}

// try runs one Query and returns its rows' first columns, its last command tag, the SQLSTATE of its error and the transaction status.
func (s *server) try(sql string) (rows []string, tag, code string, tx byte) {
	s.t.Helper()
	for _, m := range s.c.Query(sql) {
		switch m := m.(type) {
		case *pgproto3.DataRow:
			rows = append(rows, string(m.Values[0]))
		case *pgproto3.CommandComplete:
			tag = string(m.CommandTag)
		case *pgproto3.ErrorResponse:
			code = m.Code
			s.t.Logf("%s: %s %s", sql, m.Code, m.Message)
		case *pgproto3.ReadyForQuery:
			tx = m.TxStatus
		}
	}
	return rows, tag, code, tx
}

// run is try for what must succeed.
func (s *server) run(sql string) []string {
	s.t.Helper()
	rows, _, code, _ := s.try(sql)
	if code != "" {
		s.t.Fatalf("%q failed: %s", sql, code)
	}
	return rows
}

// values returns what the settings are; one that does not exist is "".
func (s *server) values(names ...string) map[string]string {
	s.t.Helper()
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = "coalesce(pg_catalog.current_setting(" + string(AppendLiteral(nil, n)) + ", true), '')"
	}
	rows := s.run("SELECT * FROM unnest(ARRAY[" + strings.Join(q, ",") + "])")
	if len(rows) != len(names) {
		s.t.Fatalf("%d values for %d settings", len(rows), len(names))
	}
	m := make(map[string]string, len(names))
	for i, n := range names {
		m[n] = rows[i]
	}
	return m
}

// seeded returns a generator whose seed a failure names.
func seeded(t testing.TB, seed uint64) *rand.Rand {
	t.Helper()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// text is a string of anything that may need quoting.
func text(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(8) {
		b.WriteString(pick(r, "'", `\`, `"`, "''", `\'`, "a", "Z", " ", "\n", "\t", ";", "--", "/*", "*/", "$$", "$1", "%", "é", "日本", "😀",
			"\x01", ",", ".", "E'", "U&'", "COMMIT;", "\\u0041", "\\000"))
	}
	return b.String()
}
