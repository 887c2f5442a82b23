package integration

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// PostgreSQL is the oracle: what it answers to a sequence of messages, pgkennel answers too.

// Short names for messages.
var (
	parse, bind, run = testbed.Parse, testbed.Bind, testbed.Run
	simple, describe = testbed.Simple, testbed.Describe
)

func shut(kind byte, name string) pgproto3.FrontendMessage {
	return &pgproto3.Close{ObjectType: kind, Name: name}
}

var (
	syncs  = testbed.Sync
	flush  = testbed.Flush
	copied = func(s string) pgproto3.FrontendMessage { return &pgproto3.CopyData{Data: []byte(s)} }
	done   = &pgproto3.CopyDone{}
)

// conversations are sequences of messages; each goes out in one write.
var conversations = map[string][]pgproto3.FrontendMessage{
	"nothing":                       {syncs, syncs, simple(""), simple(";"), simple(" ; /* */ ; "), syncs},
	"empty statement":               {parse("", ""), bind("", ""), describe('P', ""), run("", 0), syncs},
	"several statements":            {simple("SELECT 1; SELECT 2; SELECT 3")},
	"error among statements":        {simple("SELECT 1; SELECT 1/0; SELECT 3"), simple("SELECT 4")},
	"block among statements":        {simple("SELECT 1; BEGIN; SELECT 2"), simple("SELECT 3; COMMIT; SELECT 4"), simple("SELECT 5")},
	"failed block":                  {simple("BEGIN"), simple("SELECT 1/0"), simple("SELECT 1"), simple("COMMIT"), simple("SELECT 2")},
	"warnings":                      {simple("COMMIT"), simple("ROLLBACK"), simple("BEGIN; BEGIN"), simple("COMMIT")},
	"rows by portal":                {parse("", "SELECT generate_series(1, 5)"), bind("", ""), describe('P', ""), run("", 2), run("", 2), run("", 2), run("", 2), syncs},
	"named portals":                 {simple("BEGIN"), parse("s", "SELECT generate_series(1, 4)"), bind("p", "s"), bind("q", "s"), run("p", 1), run("q", 2), run("p", 2), syncs, run("q", 0), run("p", 0), shut('P', "p"), run("p", 0), syncs, simple("ROLLBACK"), simple("DEALLOCATE s")},
	"portal after its transaction":  {parse("", "SELECT generate_series(1, 4)"), bind("p", ""), run("p", 1), syncs, run("p", 1), syncs},
	"portal name taken":             {simple("BEGIN"), parse("", "SELECT 1"), bind("p", ""), bind("p", ""), syncs, simple("ROLLBACK")},
	"cursor by SQL, FETCH as such":  {simple("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 3)"), parse("", "FETCH 2 FROM c"), bind("", ""), describe('P', ""), run("", 0), syncs, simple("CLOSE c; COMMIT")},
	"describe":                      {parse("d", "SELECT $1::int AS a, $2::text AS b"), describe('S', "d"), bind("", "d", "1", "x"), describe('P', ""), syncs, shut('S', "d"), syncs},
	"describe what is not there":    {describe('S', "nobody"), syncs, describe('P', "nobody"), syncs, bind("", "nobody"), syncs, run("nobody", 0), syncs},
	"close what is not there":       {shut('S', "nobody"), shut('P', "nobody"), syncs},
	"error until Sync":              {parse("", "SELECT 1/0"), bind("", ""), run("", 0), parse("", "SELECT 1"), bind("", ""), run("", 0), syncs, parse("", "SELECT 2"), bind("", ""), run("", 0), syncs},
	"error in Parse until Sync":     {parse("", "SELECT nonsense"), bind("", ""), run("", 0), flush, syncs},
	"Parse of two":                  {parse("", "SELECT 1; SELECT 2"), syncs},
	"wrong number of parameters":    {parse("", "SELECT $1::int"), bind("", ""), syncs, parse("", "SELECT 1"), bind("", "", "1"), syncs},
	"implicit transaction":          {parse("", "INSERT INTO notes VALUES (1, 'a')"), bind("", ""), run("", 0), parse("", "SELECT 1/0"), bind("", ""), run("", 0), syncs, simple("SELECT * FROM notes")},
	"pipeline":                      {parse("i", "INSERT INTO notes VALUES ($1::bigint, $2) RETURNING id"), bind("", "i", "1", "a"), run("", 0), bind("", "i", "2", "b"), run("", 0), bind("", "i", "3", "c"), run("", 0), syncs, simple("DELETE FROM notes"), simple("DEALLOCATE i")},
	"pipeline of blocks":            {parse("", "BEGIN"), bind("", ""), run("", 0), parse("", "INSERT INTO notes VALUES (1, 'a')"), bind("", ""), run("", 0), parse("", "COMMIT"), bind("", ""), run("", 0), syncs, simple("DELETE FROM notes")},
	"pipeline of many Syncs":        {parse("", "SELECT 1"), bind("", ""), run("", 0), syncs, parse("", "SELECT 2"), bind("", ""), run("", 0), syncs, parse("", "SELECT 1/0"), bind("", ""), run("", 0), syncs, parse("", "SELECT 3"), bind("", ""), run("", 0), syncs},
	"simple behind extended":        {parse("", "SELECT 1"), bind("", ""), run("", 0), syncs, simple("SELECT 2"), parse("", "SELECT 3"), bind("", ""), run("", 0), syncs},
	"Flush":                         {parse("", "SELECT 1"), flush, bind("", ""), flush, run("", 0), flush, syncs},
	"COPY in":                       {simple("COPY notes FROM STDIN"), copied("1\ta\n2\tb\n"), copied("3\tc\n"), done, simple("SELECT * FROM notes; DELETE FROM notes")},
	"COPY in, failed by the client": {simple("COPY notes FROM STDIN"), copied("1\ta\n"), &pgproto3.CopyFail{Message: "no"}, simple("SELECT * FROM notes")},
	"COPY in, failed by the server": {simple("COPY notes FROM STDIN"), copied("x\ta\n"), copied("1\ta\n"), done, simple("SELECT * FROM notes")},
	"COPY in among statements":      {simple("SELECT 1; COPY notes FROM STDIN; SELECT 2"), copied("1\ta\n"), done, simple("DELETE FROM notes")},
	"COPY in, extended":             {parse("", "COPY notes FROM STDIN"), bind("", ""), run("", 0), syncs, copied("1\ta\n"), done, syncs, simple("DELETE FROM notes")},
	"COPY data without COPY":        {copied("1\ta\n"), done, simple("SELECT 1")},
	"COPY out":                      {simple("COPY (SELECT generate_series(1, 3)) TO STDOUT"), simple("COPY (SELECT 1/(3 - g) FROM generate_series(1, 3) g) TO STDOUT"), simple("SELECT 1")},
	"COPY out, extended":            {parse("", "COPY (SELECT generate_series(1, 3)) TO STDOUT"), bind("", ""), run("", 0), syncs},
	"SQL PREPARE":                   {simple("BEGIN; PREPARE p AS SELECT $1::int"), simple("EXECUTE p(1)"), parse("", "EXECUTE p(2)"), bind("", ""), describe('P', ""), run("", 0), syncs, simple("DEALLOCATE p; COMMIT")},
	"FunctionCall apart":            {simple("SELECT abs(-1)")},
	"notices":                       {simple("SET client_min_messages = debug1; DROP TABLE IF EXISTS nothing"), simple("RESET client_min_messages")},
	"NOTIFY to oneself":             {simple("BEGIN; LISTEN news; NOTIFY news, 'x'; COMMIT"), simple("UNLISTEN *")},
	"chains":                        {simple("BEGIN ISOLATION LEVEL SERIALIZABLE"), simple("COMMIT AND CHAIN"), simple("SHOW transaction_isolation"), simple("ROLLBACK AND CHAIN"), simple("SHOW transaction_isolation"), simple("ROLLBACK"), simple("SHOW transaction_isolation")},
	"savepoints":                    {simple("BEGIN"), simple("SAVEPOINT a"), simple("SELECT 1/0"), simple("ROLLBACK TO a"), simple("SELECT 1"), simple("RELEASE a"), simple("ROLLBACK TO a"), simple("ROLLBACK")},
}

// answers reads as many ReadyForQuery as there are messages that end with one.
func answers(c *pgtest.Client, messages []pgproto3.FrontendMessage) string {
	n := 0
	copying := false
	for _, m := range messages {
		switch m := m.(type) {
		case *pgproto3.Query:
			n++
			copying = strings.Contains(m.String, "FROM STDIN")
		case *pgproto3.Parse:
			copying = strings.Contains(m.Query, "FROM STDIN")
		case *pgproto3.Sync:
			if !copying {
				n++
			}
			copying = false
		}
	}
	var parts []string
	for range n {
		parts = append(parts, pgtest.Format(c.UntilReady()...))
	}
	return strings.NewReplacer("NotificationResponse", "Notification").Replace(strings.Join(parts, "\n"))
}

func TestAnswersAsPostgreSQL(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: tableSchema, general: "default_pool_size = 2"})
	for name, messages := range conversations {
		t.Run(name, func(t *testing.T) {
			c, twin := s.connect(t), s.direct(t, nil)
			for _, send := range []func(c *pgtest.Client){
				func(c *pgtest.Client) { c.Send(messages...) },
				func(c *pgtest.Client) { dribble(c, messages) },
			} {
				send(twin)
				want := answers(twin, messages)
				send(c)
				if got := answers(c, messages); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
			}
		})
	}
}

// dribble sends the messages in pieces that have nothing to do with where one ends.
func dribble(c *pgtest.Client, messages []pgproto3.FrontendMessage) {
	var all []byte
	for _, m := range messages {
		all, _ = m.Encode(all)
	}
	rnd := rand.New(rand.NewPCG(uint64(len(all)), 3))
	for len(all) > 0 {
		n := min(len(all), 1+rnd.IntN(20))
		c.Write(all[:n])
		all = all[n:]
	}
}

// Rows, columns, formats and notices of some size come as they are.
func TestAnswersOfAnySize(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: tableSchema})
	c, twin := s.connect(t), s.direct(t, nil)
	for _, sql := range []string{
		"SELECT repeat('x', 1000000)", "SELECT repeat('y', n) FROM generate_series(0, 3000) n", "SELECT " + strings.Repeat("1, ", 1600) + "2",
		"SELECT n, NULL, '' FROM generate_series(1, 10000) n", "COPY (SELECT repeat('z', n) FROM generate_series(1, 3000) n) TO STDOUT",
		"SELECT 1 /* " + strings.Repeat("long ", 100000) + "*/",
	} {
		for _, p := range protocols {
			if pgtest.Format(p.run(c, sql)...) != pgtest.Format(p.run(twin, sql)...) {
				t.Errorf("%s: %.60s: another answer", p.name, sql)
			}
		}
	}
	binary := func(c *pgtest.Client) string {
		c.Send(parse("", "SELECT $1::int8, $2::bytea, now() IS NULL"),
			&pgproto3.Bind{ParameterFormatCodes: []int16{1}, ResultFormatCodes: []int16{1}, Parameters: [][]byte{{0, 0, 0, 0, 0, 0, 1, 0}, {0, 255, 1}}},
			describe('P', ""), run("", 0), syncs)
		return pgtest.Format(c.UntilReady()...)
	}
	if got, want := binary(c), binary(twin); got != want {
		t.Errorf("binary: got %q, want %q", got, want)
	}
}
