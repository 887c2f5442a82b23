package integration

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// refusal is a statement that is refused, and as what.
type refusal struct {
	name, sql string
	params    []string // extended protocol only
	code      string
	routine   string
}

// refusals of the router, on tableSchema under twoRanges.
var refusals = []refusal{
	{"no tenant", "SELECT * FROM orders", nil, "42501", "tenant_missing"},
	{"no tenant, another column", "SELECT * FROM orders WHERE id = 5", nil, "42501", "tenant_missing"},
	{"no tenant, alternatives", "SELECT * FROM orders WHERE tenant_id = 5 OR id = 5", nil, "42501", "tenant_missing"},
	{"no tenant, negation", "SELECT * FROM orders WHERE NOT tenant_id = 5", nil, "42501", "tenant_missing"},
	{"no tenant, range", "SELECT * FROM orders WHERE tenant_id < 10", nil, "42501", "tenant_missing"},
	{"no tenant, itself", "SELECT * FROM orders WHERE tenant_id = tenant_id", nil, "42501", "tenant_missing"},
	{"no tenant, join", "SELECT * FROM orders a, orders b WHERE a.tenant_id = 5", nil, "42501", "tenant_missing"},
	{"no tenant, subquery", "SELECT * FROM orders WHERE tenant_id = 5 AND id IN (SELECT id FROM orders)", nil, "42501", "tenant_missing"},
	{"no tenant, union", "SELECT id FROM orders WHERE tenant_id = 5 UNION SELECT id FROM orders", nil, "42501", "tenant_missing"},
	{"no tenant, with", "WITH o AS (SELECT * FROM orders) SELECT 1", nil, "42501", "tenant_missing"},
	{"no tenant, update", "UPDATE orders SET note = 'x'", nil, "42501", "tenant_missing"},
	{"no tenant, delete", "DELETE FROM orders", nil, "42501", "tenant_missing"},
	{"no tenant, insert", "INSERT INTO orders (id, note) VALUES (1, 'x')", nil, "42501", "tenant_missing"},
	{"no tenant, expression", "INSERT INTO orders VALUES (1 + length(current_user), 1, 'x')", nil, "42501", "tenant_missing"},
	{"no tenant, truncate", "TRUNCATE orders", nil, "42501", "tenant_missing"},
	{"no tenant, copy to", "COPY orders TO STDOUT", nil, "42501", "tenant_missing"},
	{"no tenant, explain", "EXPLAIN SELECT * FROM orders", nil, "42501", "tenant_missing"},
	{"unknown tenant", "SELECT * FROM orders WHERE tenant_id = 2000", nil, "42704", "tenant_unknown"},
	{"unknown tenant, insert", "INSERT INTO orders VALUES (2000, 1, 'x')", nil, "42704", "tenant_unknown"},
	{"unknown tenant, parameter", "INSERT INTO orders VALUES ($1, 1, 'x')", []string{"99999"}, "42704", "tenant_unknown"},
	{"two tenants", "SELECT * FROM orders WHERE tenant_id IN (1, 1001)", nil, "0A000", "cross_shard"},
	{"two tenants, alternatives", "SELECT * FROM orders WHERE tenant_id = 1 OR tenant_id = 1001", nil, "0A000", "cross_shard"},
	{"two tenants, rows", "INSERT INTO orders VALUES (1, 1, 'x'), (1001, 1, 'x')", nil, "0A000", "cross_shard"},
	{"two tenants, array", "DELETE FROM orders WHERE tenant_id = ANY ($1)", []string{"{1,1001}"}, "0A000", "cross_shard"},
	{"two tenants, parameters", "SELECT * FROM orders WHERE tenant_id IN ($1, $2)", []string{"1", "1001"}, "0A000", "cross_shard"},
	{"NULL", "INSERT INTO orders VALUES (NULL, 1, 'x')", nil, "22004", "tenant_null"},
	{"unsharded write", "DELETE FROM notes", nil, "0A000", "shard_missing"},
	{"DDL", "DROP TABLE orders", nil, "0A000", "shard_missing"},
	{"wrong hint", "/* pgdog_shard: 7 */ SELECT 1", nil, "22023", "hint_invalid"},
	{"contradicting hint", "/* pgdog_shard: 0 */ SELECT * FROM orders WHERE tenant_id = 1001", nil, "0A000", "cross_shard"},
	{"standard_conforming_strings", "SET standard_conforming_strings = off", nil, "0A000", "lexing"},
	{"client_encoding", "SET client_encoding = 'SJIS'", nil, "0A000", "lexing"},
	{"NAMES", "SET NAMES 'BIG5'", nil, "0A000", "lexing"},
}

// Each refusal has its SQLSTATE, name, message, detail and hint, and leaves the session as PostgreSQL would.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, p protocol) {
				if len(r.params) > 0 && p.name == "simple" {
					return
				}
				c := s.connect(t)
				refuse := func(status string) {
					t.Helper()
					var answer []pgproto3.BackendMessage
					if len(r.params) > 0 {
						answer = c.Extended(r.sql, r.params...)
					} else {
						answer = p.run(c, r.sql)
					}
					if got, want := outcome(answer), r.code+" "+r.routine+"; "+status; got != want {
						t.Errorf("%s\n got %s\nwant %s", r.sql, got, want)
					}
					if e := pgtest.Failure(answer); e == nil || e.Message == "" || e.Detail == "" || e.Hint == "" || e.Severity != "ERROR" {
						t.Errorf("%s: not complete: %+v", r.sql, e)
					}
				}
				refuse("I")
				p.play(t, c, "SELECT 1", "1; SELECT 1; I")

				p.play(t, c, "BEGIN", "BEGIN; T", "SAVEPOINT a", "SAVEPOINT; T") // queued
				refuse("E")
				p.play(t, c, "SELECT 1", "25P02; E", "ROLLBACK TO a", "ROLLBACK; T")
				refuse("E")
				p.play(t, c, "COMMIT", "ROLLBACK; I")

				p.play(t, c, "BEGIN", "BEGIN; T", "SELECT count(*) FROM orders WHERE tenant_id = 7", "0; SELECT 1; T", "SAVEPOINT a", "SAVEPOINT; T")
				refuse("E")
				p.play(t, c, "SELECT count(*) FROM orders WHERE tenant_id = 7", "25P02; E", "ROLLBACK TO a", "ROLLBACK; T",
					"SELECT count(*) FROM orders WHERE tenant_id = 8", "0; SELECT 1; T")
				refuse("E")
				p.play(t, c, "ROLLBACK", "ROLLBACK; I", "SELECT count(*) FROM orders WHERE tenant_id = 1008", "0; SELECT 1; I")
			})
		})
	}
}

// A parameter that is NULL is refused as the literal is; in comparisons it finds nothing, which may be answered, too.
func TestRefusalOfNullParameter(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	c := s.connect(t)
	c.Send(&pgproto3.Parse{Query: "INSERT INTO orders VALUES ($1, 1, 'x')"}, &pgproto3.Bind{Parameters: [][]byte{nil}}, &pgproto3.Execute{}, &pgproto3.Sync{})
	if got := outcome(c.UntilReady()); got != "22004 tenant_null; I" {
		t.Errorf("NULL: %s", got)
	}
}

// Syntax errors are PostgreSQL's own, in its words and with its position.
func TestRefusalOfBrokenSQL(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	each(t, func(t *testing.T, p protocol) {
		server := s.shards[0].Connect(t, pgtest.Login{User: user, Database: s.shards[0].db, Password: password})
		for _, sql := range []string{
			"SELEC 1", "SELECT * FROM orders WHERE tenant_id = ", "INSERT INTO orders VALUES (1", "SELECT 'abc", `SELECT "abc`,
			"SELECT $$abc", "/* never closed", "SELECT 1 FROM", "CREATE TABLE", "SELECT é FROM FROM", "SELECT 1; SELEC 2", "BEGIN; x",
			"SELECT E'\\xZZ' 'a' x y z w", "SELECT U&'\\zzzz'", "SELECT 1 + * 2", "SELECT * FROM orders ORDER",
		} {
			c := s.connect(t)
			ours, theirs := pgtest.Failure(p.run(c, sql)), pgtest.Failure(p.run(server, sql))
			if p.name == "extended" && strings.Contains(sql, ";") {
				continue // PostgreSQL parses before it counts, and so may we
			}
			switch {
			case ours == nil || theirs == nil:
				t.Errorf("%s: %v, PostgreSQL %v", sql, ours, theirs)
			case ours.Code != theirs.Code || ours.Message != theirs.Message || ours.Position != theirs.Position:
				t.Errorf("%s\n got %s %s at %d\nwant %s %s at %d", sql,
					ours.Code, ours.Message, ours.Position, theirs.Code, theirs.Message, theirs.Position)
			}
			p.play(t, c, "SELECT 1", "1; SELECT 1; I")
		}
	})
}

// Text keys beyond ASCII are understood in UTF8 only.
func TestRefusalOfForeignEncodings(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, schema: "CREATE TABLE pages (tenant text, id int)", rest: `
[multi_tenant]
column = "tenant"
[[sharded_tables]]
database = "saas"
column = "tenant"
data_type = "varchar"
mapping = [{ values = ["müller", "plain"], shard = 0 }, { values = ["é"], shard = 1 }]
`})
	utf8 := s.connect(t)
	protocols[0].play(t, utf8, "INSERT INTO pages VALUES ('müller', 1)", "INSERT 0 1; I", "INSERT INTO pages VALUES ('é', 1)", "INSERT 0 1; I")
	if got := s.shards[1].rows(t, "SELECT tenant FROM pages"); len(got) != 1 || got[0] != "é" {
		t.Errorf("shard 1 holds %v", got)
	}
	latin1 := s.with(t, map[string]string{"client_encoding": "LATIN1"})
	protocols[0].play(t, latin1,
		"SELECT count(*) FROM pages WHERE tenant = 'm\xfcller'", "0A000 encoding; I",
		"SELECT count(*) FROM pages WHERE tenant = 'plain'", "0; SELECT 1; I",
		"SET client_encoding = UTF8", "SET; I",
		"SELECT count(*) FROM pages WHERE tenant = 'müller'", "1; SELECT 1; I",
	)
	if got := outcome(latin1.Extended("SELECT count(*) FROM pages WHERE tenant = $1", "é")); got != "1; SELECT 1; I" {
		t.Errorf("parameter: %s", got)
	}
	latin1.Query("SET client_encoding = LATIN1")
	if got := outcome(latin1.Extended("SELECT count(*) FROM pages WHERE tenant = $1", "\xe9")); got != "0A000 encoding; I" {
		t.Errorf("parameter: %s", got)
	}
	for _, params := range []map[string]string{
		{"client_encoding": "SJIS"},
		{"client_encoding": "GBK"},
		{"standard_conforming_strings": "off"},
		{"options": "-c standard_conforming_strings=off"},
		{"options": "--client-encoding=BIG5"},
	} {
		l := s.login()
		l.Params = params
		err := pgtest.Dial(t, s.addr).Login(l)
		if err == nil || !strings.Contains(err.Error(), "FATAL 0A000") {
			t.Errorf("startup with %v: %v", params, err)
		}
	}
	for _, sql := range []string{
		"SELECT set_config('standard_conforming_strings', 'off', false)", "SELECT set_config('client_encoding', 'SJIS', true)",
		"SET LOCAL standard_conforming_strings TO 'off'",
	} {
		answer := utf8.Query(sql)
		if e := pgtest.Failure(answer); e == nil {
			t.Errorf("%s: %s", sql, outcome(answer))
		}
	}
	// What the parser can't see is noticed by what the server reports.
	protocols[0].play(t, utf8,
		"BEGIN", "BEGIN; T", "SELECT set_config('standard_' || 'conforming_strings', 'off', false)", "off; SELECT 1; T",
		"SELECT 1", "0A000 lexing; E", "SELECT 1", "25P02; E", "ROLLBACK", "ROLLBACK; I",
		"SELECT set_config('standard_' || 'conforming_strings', 'off', false)", "off; SELECT 1; I",
	)
	protocols[0].play(t, utf8, "SHOW standard_conforming_strings", "on; SHOW; I", "SHOW client_encoding", "UTF8; SHOW; I")
}

// FunctionCall is refused where nobody knows what it would read, and the connection goes on.
func TestRefusalOfFunctionCall(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	c := s.connect(t)
	call := &pgproto3.FunctionCall{Function: 1598, ResultFormatCode: 0}
	c.Send(call)
	if got := outcome(c.UntilReady()); got != "0A000 function_call; I" {
		t.Errorf("got %s", got)
	}
	protocols[0].play(t, c, "BEGIN", "BEGIN; T")
	c.Send(call)
	if got := outcome(c.UntilReady()); got != "0A000 function_call; E" {
		t.Errorf("in a transaction: %s", got)
	}
	protocols[0].play(t, c, "ROLLBACK", "ROLLBACK; I", "SELECT 1", "1; SELECT 1; I")
}

// A client that waits for a connection longer than checkout_timeout is refused, and others are served meanwhile.
func TestRefusalOfExhaustedPool(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "default_pool_size = 1\ncheckout_timeout = 150")
	each(t, func(t *testing.T, p protocol) {
		tenant := map[string]string{"simple": "1", "extended": "1001"}[p.name]
		query := "SELECT count(*) FROM orders WHERE tenant_id = " + tenant
		holder, c := s.connect(t), s.connect(t)
		p.play(t, holder, "BEGIN", "BEGIN; T", query, "0; SELECT 1; T")
		p.play(t, c,
			query, "53300 pool_exhausted; I",
			"BEGIN", "BEGIN; T", query, "53300 pool_exhausted; E", "SELECT 1", "25P02; E", "ROLLBACK", "ROLLBACK; I",
		)
		if e := pgtest.Failure(p.run(c, query)); e == nil || e.Detail == "" || e.Hint == "" {
			t.Errorf("not complete: %+v", e)
		}
		p.play(t, holder, "COMMIT", "COMMIT; I")
		p.play(t, c, query, "0; SELECT 1; I")
	})
	if s.metric(t, "pool_checkout_timeouts_total") != 6 {
		t.Errorf("%v checkouts timed out, not 6", s.metric(t, "pool_checkout_timeouts_total"))
	}
}

// A shard whose server is too old is as one whose server does not answer; the log and the console tell why.
func TestRefusalOfOldServers(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{shards: 2, schema: tableSchema, rest: twoRanges, general: "checkout_timeout = 300\nload_schema = \"off\""})
	old := pgtest.NewFakeServer(t, func(f *pgtest.FakeConn) error {
		for { // until pgkennel goes, which is all that it should do
			msg, err := f.Receive()
			if err != nil {
				return err
			}
			if _, ok := msg.(*pgproto3.Terminate); !ok {
				t.Errorf("the old server got %T", msg)
			}
		}
	}, pgtest.FakeParam("server_version", "14.13"))
	_, port, err := net.SplitHostPort(old.Addr)
	if err != nil {
		t.Fatal(err)
	}
	s.edit("pgdog.toml", fmt.Sprintf("port = %d\nshard = 1\n", s.shards[1].Port), "port = "+port+"\nshard = 1\n")
	s.startInside()
	p, c := protocols[0], s.connect(t)
	p.play(t, c,
		"SELECT count(*) FROM orders WHERE tenant_id = 1001", "08006 shard_unavailable; I",
		"SELECT count(*) FROM orders WHERE tenant_id = 1", "0; SELECT 1; I",
	)
	if log := s.log.String(); !strings.Contains(log, "endpoint is down") || !strings.Contains(log, "14.13") {
		t.Errorf("the log does not tell:\n%s", log)
	}
	if got := s.console(t, "SHOW SHARDS")[1]["last_error"]; !strings.Contains(got, "14.13") || !strings.Contains(got, "15 or later") {
		t.Errorf("the console tells %q", got)
	}
}

// A shard whose server does not answer is 08006; the others go on.
func TestRefusalOfUnreachableShard(t *testing.T) {
	t.Parallel()
	down := pgtest.Start(t)
	s := start(t, spec{
		instances: []*pgtest.Instance{pgtest.Shared(t), down}, schema: tableSchema, rest: twoRanges,
		general: "checkout_timeout = 300\nconnect_timeout = 300\nidle_healthcheck_interval = 100",
	})
	protocols[0].play(t, s.connect(t), "SELECT count(*) FROM orders WHERE tenant_id = 1001", "0; SELECT 1; I")
	down.Stop(t, pgtest.Immediate)
	each(t, func(t *testing.T, p protocol) {
		c := s.connect(t)
		p.run(c, "SELECT count(*) FROM orders WHERE tenant_id = 1001") // this one may still find a connection that is about to break
		for range 3 {
			answer := p.run(c, "SELECT count(*) FROM orders WHERE tenant_id = 1001")
			if got := outcome(answer); got != "08006 shard_unavailable; I" {
				t.Errorf("got %s", got)
			}
			if e := pgtest.Failure(answer); e == nil || e.Detail == "" || e.Hint == "" || strings.Contains(e.Message+e.Detail+e.Hint, "127.0.0.1") {
				t.Errorf("not complete, or tells too much: %+v", e)
			}
			p.play(t, c,
				"SELECT count(*) FROM orders WHERE tenant_id = 1", "0; SELECT 1; I",
				"SELECT 1", "1; SELECT 1; I",
				"BEGIN", "BEGIN; T", "SELECT count(*) FROM orders WHERE tenant_id = 1001", "08006 shard_unavailable; E",
				"SELECT 1", "25P02; E", "ROLLBACK", "ROLLBACK; I",
			)
		}
	})
}

// TestFunctionCalls: drivers' large objects work, by messages, in transaction mode too. So do others where there is one shard and no tenants, and what they leave is gone.
func TestFunctionCalls(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	c, other := s.connect(t), s.connect(t)
	number := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	call := func(function uint32, args ...[]byte) string {
		c.Send(&pgproto3.FunctionCall{Function: function, ArgFormatCodes: []uint16{1}, Arguments: args, ResultFormatCode: 1})
		for {
			switch m := c.Receive().(type) {
			case *pgproto3.FunctionCallResponse:
				c.UntilReady()
				return fmt.Sprintf("%x", m.Result)
			case *pgproto3.ErrorResponse:
				c.UntilReady()
				return m.Code
			}
		}
	}
	const write = 0x20000
	protocols[0].play(t, c, "BEGIN", "BEGIN; T")
	if got := call(715, number(4711)); got != "00001267" {
		t.Errorf("lo_create: %s", got)
	}
	protocols[0].play(t, other, "SELECT 1", "1; SELECT 1; I")
	for _, x := range []struct {
		function uint32
		args     [][]byte
		want     string
	}{
		{952, [][]byte{number(4711), number(write)}, "00000000"},
		{955, [][]byte{number(0), []byte("some bytes")}, "0000000a"},
		{953, [][]byte{number(0)}, "00000000"},
		{953, [][]byte{number(0)}, "42704"},
	} {
		if got := call(x.function, x.args...); got != x.want {
			t.Errorf("function %d: %s, want %s", x.function, got, x.want)
		}
	}
	protocols[0].play(t, c, "SELECT 1", "25P02; E", "ROLLBACK", "ROLLBACK; I")
	if got := call(715, number(4711)); got != "00001267" {
		t.Errorf("lo_create outside of a transaction: %s", got)
	}
	if got := call(957); got != "08P01" { // too few arguments
		t.Errorf("lo_creat without arguments: %s", got)
	}
	protocols[0].play(t, other, "SELECT count(*) FROM pg_largeobject_metadata", "1; SELECT 1; I")
	if got := call(964, number(4711)); got != "00000001" {
		t.Errorf("lo_unlink: %s", got)
	}
	const concat, pi, setConfig = 1258, 1610, 2078
	for range 2 {
		if got := call(concat, []byte("a"), []byte("b")); got != "6162" {
			t.Errorf("textcat: %s", got)
		}
		if got := call(setConfig, []byte("app.left"), []byte("behind"), []byte{0}); got != "626568696e64" {
			t.Errorf("set_config: %s", got)
		}
		protocols[0].play(t, c, "SELECT current_setting('app.left', true)", "∅; SELECT 1; I")
		if got := call(1 << 30); got != "42883" {
			t.Errorf("no function: %s", got)
		}
		if got := call(pi, []byte("x")); got != "08P01" {
			t.Errorf("pi of something: %s", got)
		}
	}
	protocols[0].play(t, c, "BEGIN", "BEGIN; T")
	if got := call(pi); got != "400921fb54442d18" {
		t.Errorf("pi: %s", got)
	}
	if got := call(1 << 30); got != "42883" {
		t.Errorf("no function: %s", got)
	}
	if got := call(pi); got != "25P02" {
		t.Errorf("in a failed transaction: %s", got)
	}
	protocols[0].play(t, c, "ROLLBACK", "ROLLBACK; I")
}
