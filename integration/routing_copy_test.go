package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// "COPY FROM: answered with CopyInResponse from the loaded columns; the first row's key chooses the shard; a row of another
// shard: CopyFail to the server, 0A000 to the client, nothing stored."

// copyIn sends a COPY and its data in pieces, and returns the outcome.
func copyIn(c *pgtest.Client, extended bool, sql string, pieces ...string) string {
	if extended {
		c.Send(&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
	} else {
		c.Send(&pgproto3.Query{String: sql})
	}
	for {
		msg, err := c.Next()
		if err != nil {
			return err.Error()
		}
		switch m := msg.(type) {
		case *pgproto3.ErrorResponse:
			return outcome(append([]pgproto3.BackendMessage{m}, c.UntilReady()...))
		case *pgproto3.CopyInResponse:
			for _, p := range pieces {
				c.Send(&pgproto3.CopyData{Data: []byte(p)})
			}
			c.Send(&pgproto3.CopyDone{})
			if extended {
				c.Send(&pgproto3.Sync{})
			}
			return outcome(c.UntilReady())
		}
	}
}

func TestTableCopyFrom(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	for _, extended := range []bool{false, true} {
		mode := map[bool]string{false: "simple", true: "extended"}[extended]
		for _, c := range []struct {
			name, sql string
			pieces    []string
			want      string
			shard     int // where the rows are; -1 = nowhere
		}{
			{"text", "COPY orders FROM STDIN", []string{"5\t1\tNOTE\n", "6\t1\tNOTE\n"}, "COPY 2; I", 0},
			{"the other shard", "COPY orders FROM STDIN", []string{"1005\t1\tNOTE\n1006\t1\tNOTE\n"}, "COPY 2; I", 1},
			{"cut anywhere", "COPY orders FROM STDIN", []string{"1", "0", "07\t", "1\tNO", "TE\n\\", ".\n"}, "COPY 1; I", 1},
			{"columns in another order", "COPY orders (note, id, tenant_id) FROM STDIN", []string{"NOTE\t1\t1008\n"}, "COPY 1; I", 1},
			{"csv with a header", "COPY orders FROM STDIN (FORMAT csv, HEADER)", []string{"a,b,c\n1009,1,\"NOTE\"\n"}, "COPY 1; I", 1},
			{"csv with a quoted line break", "COPY orders (note, tenant_id, id) FROM STDIN CSV", []string{"\"NO\nTE\",7,1\n"}, "COPY 1; I", 0},
			{"another delimiter", "COPY orders FROM STDIN (DELIMITER '|')", []string{"8|1|NOTE\n"}, "COPY 1; I", 0},
			{"no rows", "COPY orders FROM STDIN", nil, "COPY 0; I", -1},
			{"rows of two shards", "COPY orders FROM STDIN", []string{"9\t1\tNOTE\n", "1009\t2\tNOTE\n"}, "0A000 cross_shard; I", -1},
			{"rows of two shards, much later", "COPY orders FROM STDIN", append(manyRows(3000), "1009\t2\tNOTE\n", "10\t2\tNOTE\n"), "0A000 cross_shard; I", -1},
			{"unknown tenant", "COPY orders FROM STDIN", []string{"2000\t1\tNOTE\n"}, "42704 tenant_unknown; I", -1},
			{"unknown tenant later", "COPY orders FROM STDIN", []string{"10\t1\tNOTE\n2000\t1\tNOTE\n"}, "42704 tenant_unknown; I", -1},
			{"NULL", "COPY orders FROM STDIN", []string{"\\N\t1\tNOTE\n"}, "22004 tenant_null; I", -1},
			{"without the key", "COPY orders (id, note) FROM STDIN", []string{"1\tNOTE\n"}, "42501 tenant_missing; I", -1},
			{"an error of the server", "COPY orders FROM STDIN", []string{"11\tx\tNOTE\n"}, "22P02; I", -1},
			{"an error of the server later", "COPY orders FROM STDIN", []string{"11\t1\tNOTE\n11\t1\tNOTE\n"}, "23505; I", -1},
		} {
			t.Run(mode+"/"+c.name, func(t *testing.T) {
				client := s.connect(t)
				note := strings.ReplaceAll(mode+" "+c.name, ",", "")
				pieces := make([]string, len(c.pieces))
				for i, p := range c.pieces {
					pieces[i] = strings.NewReplacer("NOTE", note, "NO\nTE", note).Replace(p)
				}
				if c.name == "cut anywhere" { // its note is cut, too
					note = "NOTE"
				}
				if got := copyIn(client, extended, c.sql, pieces...); got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
				for n, sh := range s.shards {
					if rows := sh.rows(t, "SELECT * FROM orders WHERE note = '"+note+"'"); len(rows) > 0 != (n == c.shard) {
						t.Errorf("shard %d holds %v", n, rows)
					}
				}
				protocols[0].play(t, client, "SELECT 1", "1; SELECT 1; I")
				for _, sh := range s.shards {
					sh.Exec(t, sh.db, "TRUNCATE orders")
				}
			})
		}
	}
}

// manyRows are more than one write's worth of rows of shard 0.
func manyRows(n int) []string {
	rows := make([]string, n)
	for i := range rows {
		rows[i] = fmt.Sprintf("%d\t%d\tNOTE\n", 1+i%999, i+100)
	}
	return rows
}

func TestTableCopyInsideTransaction(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	for _, extended := range []bool{false, true} {
		c := s.connect(t)
		play := func(steps ...string) {
			t.Helper()
			protocols[0].play(t, c, steps...)
		}
		copies := func(data, want string) {
			t.Helper()
			if got := copyIn(c, extended, "COPY orders FROM STDIN", data); got != want {
				t.Errorf("extended %v: COPY: %s, want %s", extended, got, want)
			}
		}
		play("BEGIN", "BEGIN; T", "SET LOCAL statement_timeout = '12s'", "SET; T")
		copies("1100\t1\ta\n", "COPY 1; T")
		play("SHOW statement_timeout", "12s; SHOW; T")
		copies("1101\t1\ta\n", "COPY 1; T")
		copies("1\t1\ta\n", "0A000 cross_shard; E")
		play("SELECT 1", "25P02; E", "COMMIT", "ROLLBACK; I")

		play("BEGIN", "BEGIN; T", "SAVEPOINT a", "SAVEPOINT; T")
		copies("1\t1\ta\n1000\t1\ta\n", "0A000 cross_shard; E")
		play("ROLLBACK TO a", "ROLLBACK; T")
		copies("2\t1\ta\n", "COPY 1; T")
		play("ROLLBACK", "ROLLBACK; I")
	}
	for n, sh := range s.shards {
		if rows := sh.rows(t, "SELECT * FROM orders"); len(rows) > 0 {
			t.Errorf("shard %d holds %v", n, rows)
		}
	}
}

// pgx copies in the binary format.
func TestTableCopyBinary(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	c := s.pgx(t, pgx.QueryExecModeCacheStatement)
	copies := func(rows ...[]any) error {
		_, err := c.CopyFrom(t.Context(), pgx.Identifier{"orders"}, []string{"note", "tenant_id", "id"}, pgx.CopyFromRows(rows))
		return err
	}
	if err := copies([]any{"b", int64(1200), int64(1)}, []any{nil, int64(1201), int64(1)}); err != nil {
		t.Error(err)
	}
	if code := sqlstate(copies([]any{"b", int64(1200), int64(2)}, []any{"b", int64(2), int64(1)})); code != "0A000" {
		t.Errorf("rows of two shards: %s", code)
	}
	if code := sqlstate(copies([]any{"b", nil, int64(2)})); code != "22004" {
		t.Errorf("NULL: %s", code)
	}
	if got := s.shards[1].rows(t, "SELECT tenant_id, note FROM orders ORDER BY 1"); fmt.Sprint(got) != "[1200|b 1201|∅]" {
		t.Errorf("shard 1 holds %v", got)
	}
	if got := s.shards[0].rows(t, "SELECT * FROM orders"); len(got) > 0 {
		t.Errorf("shard 0 holds %v", got)
	}
}

// A client that gives up, or dies, stores nothing.
func TestTableCopyGivenUp(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "default_pool_size = 1\ncheckout_timeout = 2_000")
	c := s.connect(t)
	for _, rows := range []string{"", "5\t1\tx\n"} {
		c.Send(&pgproto3.Query{String: "COPY orders FROM STDIN"})
		c.Receive()
		if rows != "" {
			c.Send(&pgproto3.CopyData{Data: []byte(rows)})
		}
		c.Send(&pgproto3.CopyFail{Message: "no more"})
		answer := c.UntilReady()
		if got := outcome(answer); got != "57014; I" {
			t.Errorf("CopyFail: %s", got)
		}
		if e := pgtest.Failure(answer); e != nil && e.Message != "COPY from stdin failed: no more" {
			t.Errorf("CopyFail: %s", e.Message)
		}
	}
	for _, rows := range []string{"", "5\t1\tx\n", "5\t1\tx"} {
		dying := s.connect(t)
		dying.Send(&pgproto3.Query{String: "COPY orders FROM STDIN"})
		dying.Receive()
		if rows != "" {
			dying.Send(&pgproto3.CopyData{Data: []byte(rows)})
		}
		dying.Close()
		protocols[0].play(t, c, "SELECT count(*) FROM orders WHERE tenant_id = 5", "0; SELECT 1; I")
	}
}
