package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Prepared statements whose tables have changed: "cached plan must not change result type".

const changedPlan = "ErrorResponse(ERROR, 0A000, cached plan must not change result type)"

// ask sends messages and a Sync and returns what comes.
func ask(c *pgtest.Client, msgs ...pgproto3.FrontendMessage) string {
	c.Send(append(msgs, syncs)...)
	return pgtest.Format(c.UntilReady()...)
}

// healing is a stand with one backend, and a table.
type healing struct {
	*stand
	t     *testing.T
	table string
}

var execution = run("", 0)

// change runs DDL where pgkennel does not see it.
func (h healing) change(ddl string) {
	h.t.Helper()
	h.shards[0].rows(h.t, "ALTER TABLE "+h.table+" "+ddl)
}

func (h healing) all() string { return "SELECT * FROM " + h.table }

func (h healing) is(got, want string) {
	h.t.Helper()
	if got != want {
		h.t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The row as it was, and with another column.
const (
	oldRow = "DataRow(1, a)"
	newRow = "DataRow(1, a, ∅)"
)

func TestHeal(t *testing.T) {
	t.Parallel()
	cases := map[string]func(h healing){
		// What somebody else prepared hurts nobody.
		"anothers": func(h healing) {
			a, b := h.connect(h.t), h.connect(h.t)
			h.is(ask(a, parse("s", h.all()), describe('S', "s"), bind("", "s"), run("", 0)), "ParseComplete ParameterDescription() RowDescription(id, text) BindComplete "+oldRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			h.change("ADD COLUMN more int")
			h.is(ask(b, parse("s", h.all()), bind("", "s"), run("", 0)), "ParseComplete BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		"anothers, described before": func(h healing) {
			a, b := h.connect(h.t), h.connect(h.t)
			ask(a, parse("s", h.all()), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			h.is(ask(b, parse("s", h.all()), describe('S', "s")), "ParseComplete ParameterDescription() RowDescription(id, text, more) ReadyForQuery(I)")
			h.is(ask(b, bind("", "s"), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		// The client's own, of which it was told nothing.
		"untold": func(h healing) {
			c, before := h.connect(h.t), h.metric(h.t, "session_prepared_healed_total")
			ask(c, parse("s", h.all()), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			h.is(ask(c, bind("", "s"), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			if n := h.metric(h.t, "session_prepared_healed_total") - before; n != 1 {
				h.t.Errorf("%v were healed", n)
			}
		},
		// It asks again.
		"portal described": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("s", h.all()), describe('S', "s"))
			ask(c, bind("", "s"), describe('P', ""), run("", 0))
			h.change("ADD COLUMN more int")
			h.is(ask(c, bind("", "s"), describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text, more) "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			h.change("ALTER COLUMN id TYPE text")
			h.is(ask(c, bind("", "s"), describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text, more) "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		"statement described": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("s", h.all()), describe('S', "s"), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			h.is(ask(c, describe('S', "s")), "ParameterDescription() RowDescription(id, text, more) ReadyForQuery(I)")
			h.is(ask(c, bind("", "s"), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			h.change("DROP COLUMN more")
			h.is(ask(c, describe('S', "s"), bind("", "s"), run("", 0)), "ParameterDescription() RowDescription(id, text) BindComplete "+oldRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		// It was told, and does not ask: it would take the rows for others.
		"told": func(h healing) {
			c, twin := h.connect(h.t), h.direct(h.t, nil)
			for _, told := range []string{"statement", "portal"} {
				for _, c := range []*pgtest.Client{c, twin} {
					ask(c, &pgproto3.Close{ObjectType: 'S', Name: "s"})
					if told == "statement" {
						ask(c, parse("s", h.all()), describe('S', "s"))
					} else {
						ask(c, parse("s", h.all()), bind("", "s"), describe('P', ""), run("", 0))
					}
					ask(c, bind("", "s"), run("", 0))
				}
				h.change("ADD COLUMN more int")
				for range 2 {
					h.is(ask(c, bind("", "s"), run("", 0)), changedPlan+" ReadyForQuery(I)")
					h.is(ask(twin, bind("", "s"), run("", 0)), changedPlan+" ReadyForQuery(I)")
				}
				for _, c := range []*pgtest.Client{c, twin} {
					h.is(ask(c, &pgproto3.Close{ObjectType: 'S', Name: "s"}, parse("s", h.all()), describe('S', "s")), "CloseComplete ParseComplete ParameterDescription() RowDescription(id, text, more) ReadyForQuery(I)")
					h.is(ask(c, bind("", "s"), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
				}
				h.change("DROP COLUMN more")
			}
		},
		// So it would where somebody else has had it prepared anew, or where it was not prepared before.
		"told, and fresh": func(h healing) {
			a, b := h.connect(h.t), h.connect(h.t)
			ask(a, parse("s", h.all()), describe('S', "s"), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			h.is(ask(b, parse("s", h.all()), bind("", "s"), run("", 0)), "ParseComplete BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			for range 2 {
				h.is(ask(a, bind("", "s"), run("", 0)), changedPlan+" ReadyForQuery(I)")
			}
			h.is(ask(a, bind("", "s"), describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text, more) "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			h.is(ask(a, bind("", "s"), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		// What the server has is older than what the client was told.
		"told the new": func(h healing) {
			a, b, holder := h.connect(h.t), h.connect(h.t), h.connect(h.t)
			ask(a, parse("s", h.all()), describe('S', "s"), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			holder.Query("BEGIN")
			holder.Query("SELECT 1") // holds the backend with the statement
			h.is(ask(b, parse("s", h.all()), describe('S', "s")), "ParseComplete ParameterDescription() RowDescription(id, text, more) ReadyForQuery(I)")
			b.Query("BEGIN")
			b.Query("SELECT 1") // holds the other one
			holder.Query("COMMIT")
			c := h.connect(h.t)
			h.is(ask(c, parse("s", h.all()), bind("", "s"), run("", 0)), "ParseComplete BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			b.Query("COMMIT")
			for range 3 {
				h.is(ask(b, bind("", "s"), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			}
		},
		// Two names, one text: who asks of one is not told of the other.
		"told, by another name": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("s", h.all()), parse("o", h.all()), describe('S', "o"), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			h.is(ask(c, describe('S', "s"), bind("", "s"), run("", 0), bind("", "o"), run("", 0)), "ParameterDescription() "+changedPlan+" ReadyForQuery(I)")
			h.is(ask(c, describe('S', "s"), bind("", "s"), run("", 0)), "ParameterDescription() RowDescription(id, text, more) BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			h.is(ask(c, bind("", "o"), run("", 0)), changedPlan+" ReadyForQuery(I)")
		},
		// What the unit prepares behind the one that failed, it is told of as if nothing had happened.
		"told in the unit": func(h healing) {
			for name, describe := range map[string][]pgproto3.FrontendMessage{
				"p": {bind("q", "p"), describe('P', "q")}, "d": {describe('S', "d"), bind("q", "d")},
			} {
				c := h.connect(h.t)
				ask(c, parse("s", h.all()), bind("", "s"), run("", 0))
				h.change("ADD COLUMN more int")
				unit := append([]pgproto3.FrontendMessage{bind("", "s"), run("", 0), parse(name, h.all()+" WHERE '"+name+"' <> ''")}, describe...)
				got := ask(c, append(unit, run("q", 0))...)
				if !strings.Contains(got, "RowDescription(id, text, more)") || !strings.HasSuffix(got, newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)") {
					h.t.Error(got)
				}
				h.change("DROP COLUMN more")
				for range 2 {
					h.is(ask(c, bind("", name), run("", 0)), changedPlan+" ReadyForQuery(I)")
				}
				c.Terminate()
			}
		},
		// What is not healed.
		"behind BEGIN": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("s", h.all()), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			c.Query("BEGIN")
			h.is(ask(c, bind("", "s"), run("", 0)), changedPlan+" ReadyForQuery(E)")
			c.Query("ROLLBACK")
			h.is(ask(c, bind("", "s"), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		"before Flush": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("s", h.all()), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			c.Send(bind("", "s"), run("", 0), &pgproto3.Flush{})
			h.is(pgtest.Format(c.Receive()), changedPlan)
			h.is(ask(c), "ReadyForQuery(I)")
			h.is(ask(c, bind("", "s"), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		"unnamed, on another server": func(h healing) {
			c, holder := h.connect(h.t), h.connect(h.t)
			h.is(ask(c, parse("", h.all()), describe('S', "")), "ParseComplete ParameterDescription() RowDescription(id, text) ReadyForQuery(I)")
			h.change("ADD COLUMN more int")
			holder.Query("BEGIN")
			holder.Query("SELECT 1") // holds the backend that described it
			h.is(ask(c, bind("", ""), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			holder.Query("COMMIT")
		},
		// The server keeps one statement at a time.
		"told, without room": func(h healing) {
			c := h.connect(h.t)
			other := "SELECT text FROM " + h.table
			both := []pgproto3.FrontendMessage{bind("", "s"), run("", 0), bind("", "o"), run("", 0)}
			ask(c, parse("s", h.all()), describe('S', "s"), parse("o", other), describe('S', "o"))
			const rows = "BindComplete " + oldRow + " CommandComplete(SELECT 1) BindComplete DataRow(a) CommandComplete(SELECT 1) ReadyForQuery(I)"
			for range 2 {
				h.is(ask(c, both...), rows)
			}
			h.change("ADD COLUMN more int")
			for range 2 {
				h.is(ask(c, both...), changedPlan+" ReadyForQuery(I)")
				h.is(ask(c, bind("", "o"), run("", 0), bind("", "s"), run("", 0)), changedPlan+" ReadyForQuery(I)")
			}
			h.change("DROP COLUMN more")
			h.is(ask(c, both...), rows)
		},
		"unnamed": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("", h.all()))
			ask(c, bind("", ""), run("", 0))
			h.change("ADD COLUMN more int")
			h.is(ask(c, bind("", ""), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			h.is(ask(c, bind("", ""), describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text, more) "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			h.change("DROP COLUMN more")
			h.is(ask(c, bind("", ""), run("", 0)), changedPlan+" ReadyForQuery(I)")
			h.is(ask(c, parse("", h.all()), bind("", ""), run("", 0)), "ParseComplete BindComplete "+oldRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		// Formats that the client has for columns that there were.
		"formats": func(h healing) {
			c := h.connect(h.t)
			b := &pgproto3.Bind{PreparedStatement: "s", ResultFormatCodes: []int16{0, 0}}
			ask(c, parse("s", h.all()), b, describe('P', ""), run("", 0))
			h.change("ADD COLUMN more int")
			h.is(ask(c, b, describe('P', ""), run("", 0)), changedPlan+" ReadyForQuery(I)")
			b.ResultFormatCodes = []int16{0}
			h.is(ask(c, b, describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text, more) "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		// What is remembered of a description does not mislead for longer than it has to.
		"remembered": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("", h.all()), describe('S', ""))
			h.change("ADD COLUMN more int")
			b := &pgproto3.Bind{ResultFormatCodes: []int16{0, 0}}
			h.is(ask(c, parse("", h.all()), b, run("", 0)), "ParseComplete ErrorResponse(ERROR, 08P01, bind message has 2 result formats but query has 3 columns) ReadyForQuery(I)")
			h.is(ask(c, parse("", h.all()), describe('S', "")), "ParseComplete ParameterDescription() RowDescription(id, text, more) ReadyForQuery(I)")
		},
		// Parameters that were of another type when the client asked.
		"parameters": func(h healing) {
			c := h.connect(h.t)
			sql := h.all() + " WHERE id = $1"
			binary := &pgproto3.Bind{PreparedStatement: "s", ParameterFormatCodes: []int16{1}, Parameters: [][]byte{{0, 0, 0, 1}}}
			h.is(ask(c, parse("s", sql), describe('S', "s")), "ParseComplete ParameterDescription(23) RowDescription(id, text) ReadyForQuery(I)")
			h.is(ask(c, binary, describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text) "+oldRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
			h.change("ALTER COLUMN id TYPE bigint")
			h.is(ask(c, binary, describe('P', ""), run("", 0)), changedPlan+" ReadyForQuery(I)")
			h.is(ask(c, binary, describe('P', ""), run("", 0)), changedPlan+" ReadyForQuery(I)") // where PostgreSQL has prepared it anew
			h.is(ask(c, bind("", "s", "1"), describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text) "+oldRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		"pipeline": func(h healing) {
			c := h.connect(h.t)
			other := "SELECT text, * FROM " + h.table
			ask(c, parse("s", h.all()), bind("", "s"), run("", 0), parse("o", other), bind("", "o"), run("", 0))
			h.change("ADD COLUMN more int")
			// Both have to be prepared anew, before any of them runs.
			h.is(ask(c, bind("", "s"), describe('P', ""), run("", 0), parse("", "SELECT 7"), bind("p", ""), bind("", "o"), run("", 0), run("p", 0)),
				"BindComplete RowDescription(id, text, more) "+newRow+" CommandComplete(SELECT 1) ParseComplete BindComplete BindComplete DataRow(a, 1, a, ∅) CommandComplete(SELECT 1) DataRow(7) CommandComplete(SELECT 1) ReadyForQuery(I)")
			h.change("DROP COLUMN more")
			// Something was answered of the very transaction that failed: it is not run again.
			insert := "INSERT INTO " + h.table + " VALUES (2, 'b')"
			h.is(ask(c, parse("", insert), bind("", ""), run("", 0), bind("", "s"), run("", 0)), "ParseComplete BindComplete CommandComplete(INSERT 0 1) "+changedPlan+" ReadyForQuery(I)")
			h.is(ask(c, bind("", "s"), describe('P', ""), run("", 0), bind("", "o"), run("", 0)), "BindComplete RowDescription(id, text) "+oldRow+" CommandComplete(SELECT 1) BindComplete DataRow(a, 1, a) CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		"names": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("s", h.all()), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			// What is behind the one that failed is done once, and done.
			h.is(ask(c, bind("", "s"), run("", 0), &pgproto3.Close{ObjectType: 'S', Name: "s"}, parse("n", "SELECT 5"), parse("s", "SELECT 6"), bind("", "n"), run("", 0)),
				"BindComplete "+newRow+" CommandComplete(SELECT 1) CloseComplete ParseComplete ParseComplete BindComplete DataRow(5) CommandComplete(SELECT 1) ReadyForQuery(I)")
			h.is(ask(c, bind("", "s"), run("", 0)), "BindComplete DataRow(6) CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		"names where it fails": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("s", h.all()), bind("", "s"), describe('P', ""), run("", 0))
			h.change("ADD COLUMN more int")
			h.is(ask(c, bind("", "s"), run("", 0), &pgproto3.Close{ObjectType: 'S', Name: "s"}, parse("n", "SELECT 5")), changedPlan+" ReadyForQuery(I)")
			h.is(ask(c, bind("", "n"), run("", 0)), `ErrorResponse(ERROR, 26000, prepared statement "n" does not exist) ReadyForQuery(I)`)
			h.is(ask(c, bind("", "s"), describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text, more) "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		"dropped": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("s", h.all()), bind("", "s"), run("", 0))
			h.change("RENAME TO " + h.table + "_away")
			h.is(ask(c, bind("", "s"), run("", 0)), fmt.Sprintf("ErrorResponse(ERROR, 42P01, relation %q does not exist) ReadyForQuery(I)", h.table))
			h.shards[0].rows(h.t, "ALTER TABLE "+h.table+"_away RENAME TO "+h.table)
			h.is(ask(c, bind("", "s"), run("", 0)), "BindComplete "+oldRow+" CommandComplete(SELECT 1) ReadyForQuery(I)")
		},
		// Who parses a text means the tables of now, also where an older statement of the text is on the server: in a transaction nothing could be healed.
		"parsed anew in a transaction": func(h healing) {
			changes := []struct {
				how    string
				change func(c, other *pgtest.Client)
			}{
				{"its own", func(c, _ *pgtest.Client) {
					h.is(outcome(c.Query("BEGIN")), "BEGIN; T")
					h.changeIn(c, "ADD COLUMN more int")
				}},
				{"its own, rolled back", func(c, _ *pgtest.Client) {
					c.Query("BEGIN")
					h.changeIn(c, "ADD COLUMN more int")
					h.is(ask(c, parse("", h.all()), bind("", ""), run("", 0)), "ParseComplete BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(T)")
					h.is(ask(c, parse("inner", h.all()), bind("", "inner"), run("", 0)), "ParseComplete BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(T)")
					c.Query("ROLLBACK")
					c.Query("BEGIN")
				}},
				{"another's", func(c, other *pgtest.Client) {
					h.is(outcome(other.Query("ALTER TABLE "+h.table+" ADD COLUMN more int")), "ALTER TABLE; I")
					c.Query("BEGIN")
				}},
				{"by code", func(c, other *pgtest.Client) {
					h.is(outcome(other.Query("DO $$ BEGIN ALTER TABLE "+h.table+" ADD COLUMN more int; END $$")), "DO; I")
					c.Query("BEGIN")
				}},
				{"in the same message", func(c, other *pgtest.Client) {
					h.is(outcome(c.Query("BEGIN; ALTER TABLE "+h.table+" ADD COLUMN more int")), "BEGIN; ALTER TABLE; T")
				}},
				{"in the same unit", func(c, other *pgtest.Client) {
					c.Query("BEGIN")
					h.is(ask(c, parse("", "ALTER TABLE "+h.table+" ADD COLUMN more int"), bind("", ""), run("", 0),
						parse("inner", h.all()), describe('S', "inner"), bind("", "inner"), run("", 0)),
						"ParseComplete BindComplete CommandComplete(ALTER TABLE) ParseComplete ParameterDescription() RowDescription(id, text, more) BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(T)")
				}},
			}
			for _, x := range changes {
				c, other := h.connect(h.t), h.connect(h.t)
				ask(other, parse("s", h.all()), describe('S', "s"), bind("", "s"), run("", 0))
				x.change(c, other)
				columns, row := "(id, text, more)", newRow
				if x.how == "its own, rolled back" {
					columns, row = "(id, text)", oldRow
				}
				h.is(x.how+": "+ask(c, parse("s", h.all()), describe('S', "s")), x.how+": ParseComplete ParameterDescription() RowDescription"+columns+" ReadyForQuery(T)")
				h.is(ask(c, bind("", "s"), run("", 0)), "BindComplete "+row+" CommandComplete(SELECT 1) ReadyForQuery(T)")
				h.is(outcome(c.Query("COMMIT")), "COMMIT; I")
				if x.how != "its own, rolled back" { // the other was told something else
					h.is(ask(other, bind("", "s"), run("", 0)), changedPlan+" ReadyForQuery(I)")
				}
				h.is(ask(other, bind("", "s"), describe('P', ""), run("", 0)), "BindComplete RowDescription"+columns+" "+row+" CommandComplete(SELECT 1) ReadyForQuery(I)")
				c.Terminate()
				other.Terminate()
				if x.how != "its own, rolled back" {
					h.change("DROP COLUMN more")
				}
			}
		},
		"in a transaction": func(h healing) {
			c, twin := h.connect(h.t), h.direct(h.t, nil)
			for _, c := range []*pgtest.Client{c, twin} {
				ask(c, parse("s", h.all()), bind("", "s"), run("", 0))
				c.Query("BEGIN")
				c.Query("SELECT 1")
			}
			h.change("ADD COLUMN more int")
			for _, c := range []*pgtest.Client{c, twin} {
				h.is(ask(c, bind("", "s"), describe('P', ""), run("", 0)), changedPlan+" ReadyForQuery(E)")
				h.is(ask(c, bind("", "s"), run("", 0)), "ErrorResponse(ERROR, 25P02, current transaction is aborted, commands ignored until end of transaction block) ReadyForQuery(E)")
				c.Query("ROLLBACK")
			}
			c.Query("BEGIN")
			h.is(ask(c, bind("", "s"), describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text, more) "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(T)")
			c.Query("SAVEPOINT a")
			h.changeIn(c, "DROP COLUMN more")
			h.is(ask(c, bind("", "s"), describe('P', ""), run("", 0)), changedPlan+" ReadyForQuery(E)")
			c.Query("ROLLBACK TO a")
			h.is(ask(c, bind("", "s"), describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text, more) "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(T)")
			c.Query("COMMIT")
		},
		"described in a transaction": func(h healing) {
			c, twin := h.connect(h.t), h.direct(h.t, nil)
			for _, c := range []*pgtest.Client{c, twin} {
				ask(c, parse("s", h.all()+" WHERE id = $1"), bind("", "s", "1"), run("", 0))
				c.Query("BEGIN")
				c.Query("SELECT 1")
			}
			h.change("ADD COLUMN more int")
			for _, c := range []*pgtest.Client{c, twin} {
				h.is(ask(c, describe('S', "s")), "ParameterDescription(23) "+changedPlan+" ReadyForQuery(E)")
				c.Query("ROLLBACK")
			}
			h.is(ask(c, describe('S', "s")), "ParameterDescription(23) RowDescription(id, text, more) ReadyForQuery(I)")
		},
		"told, in a transaction": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("s", h.all()), describe('S', "s"), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			for range 2 {
				c.Query("BEGIN")
				h.is(ask(c, bind("", "s"), run("", 0)), changedPlan+" ReadyForQuery(E)")
				c.Query("ROLLBACK")
			}
			c.Query("BEGIN")
			h.is(ask(c, bind("", "s"), describe('P', ""), run("", 0)), "BindComplete RowDescription(id, text, more) "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(T)")
			h.is(ask(c, bind("", "s"), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(T)")
			c.Query("COMMIT")
		},
		// It is described where the beginning of its transaction waits.
		"described outside": func(h healing) {
			c := h.connect(h.t)
			ask(c, parse("s", h.all()), bind("", "s"), run("", 0))
			h.change("ADD COLUMN more int")
			c.Query("BEGIN")
			h.is(ask(c, describe('S', "s")), "ParameterDescription() RowDescription(id, text, more) ReadyForQuery(T)")
			h.is(ask(c, bind("", "s"), run("", 0)), "BindComplete "+newRow+" CommandComplete(SELECT 1) ReadyForQuery(T)")
			c.Query("COMMIT")
		},
		// By SQL, it is the client's own, and PostgreSQL's answer.
		"sql": func(h healing) {
			c, twin := h.connect(h.t), h.direct(h.t, nil)
			for _, c := range []*pgtest.Client{c, twin} {
				c.Query("BEGIN")
				c.Query("PREPARE s AS " + h.all())
				h.is(outcome(c.Query("EXECUTE s")), "1|a; SELECT 1; T")
				c.Query("SAVEPOINT a")
				h.changeIn(c, "ADD COLUMN more int")
				h.is(outcome(c.Query("EXECUTE s")), "0A000; E")
				c.Query("ROLLBACK")
			}
		},
		"returning": func(h healing) {
			c := h.connect(h.t)
			sql := "INSERT INTO " + h.table + " (id, text) VALUES ($1, 'x') RETURNING *"
			ask(c, parse("s", sql), bind("", "s", "5"), run("", 0))
			h.change("ADD COLUMN more int")
			h.is(ask(c, bind("", "s", "6"), run("", 0)), "BindComplete DataRow(6, x, ∅) CommandComplete(INSERT 0 1) ReadyForQuery(I)")
			h.is(strings.Join(h.shards[0].rows(h.t, "SELECT id FROM "+h.table+" ORDER BY id"), " "), "1 5 6")
		},
	}
	var schema strings.Builder
	number := make(map[string]int)
	for name := range cases {
		number[name] = len(number)
		fmt.Fprintf(&schema, "CREATE TABLE t%d (id int, text text); INSERT INTO t%[1]d VALUES (1, 'a');\n", number[name])
	}
	one := start(t, spec{schema: schema.String(), general: "default_pool_size = 1"})
	few := start(t, spec{schema: schema.String(), general: "default_pool_size = 1\nprepared_statements_limit = 1"})
	two := start(t, spec{schema: schema.String(), general: "default_pool_size = 2"})
	t.Run("case", func(t *testing.T) {
		for name, f := range cases {
			t.Run(name, func(t *testing.T) {
				s := one
				switch name {
				case "told the new", "unnamed, on another server":
					s = two
				case "told, without room":
					s = few
				}
				f(healing{s, t, fmt.Sprint("t", number[name])})
			})
		}
	})
}

// changeIn runs DDL in a client's own transaction.
func (h healing) changeIn(c *pgtest.Client, ddl string) {
	h.t.Helper()
	if got := outcome(c.Query("ALTER TABLE " + h.table + " " + ddl)); got != "ALTER TABLE; T" {
		h.t.Error(got)
	}
}

// TestHealDrivers: pgx in each of its modes, beside PostgreSQL itself. By default it caches what it is told and does not ask again; then
// the error is the sign for it to do so.
func TestHealDrivers(t *testing.T) {
	t.Parallel()
	modes := []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	}
	var schema strings.Builder
	for i := range modes {
		for j := range 2 {
			fmt.Fprintf(&schema, "CREATE TABLE d%d_%d (id int, text text); INSERT INTO d%[1]d_%[2]d VALUES (1, 'a');\n", i, j)
		}
	}
	s := start(t, spec{schema: schema.String(), general: "default_pool_size = 2"})
	for i, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			twin, err := pgx.Connect(t.Context(), s.shards[0].DSN(s.shards[0].db, user, password))
			if err != nil {
				t.Fatal(err)
			}
			defer twin.Close(context.Background())
			var got [2][]string
			changing := s.connect(t)
			for j, c := range []*pgx.Conn{s.pgx(t, mode), twin} {
				change := func(ddl string) {
					if got := outcome(changing.Query("ALTER TABLE " + fmt.Sprintf("d%d_%d ", i, j) + ddl)); got != "ALTER TABLE; I" {
						t.Fatal(got)
					}
				}
				table := fmt.Sprintf("d%d_%d", i, j)
				read := func() {
					rows, err := c.Query(t.Context(), "SELECT * FROM "+table+" WHERE id = $1", mode, 1)
					if err == nil {
						for rows.Next() {
							values, _ := rows.Values()
							got[j] = append(got[j], fmt.Sprint(values))
						}
						err = rows.Err()
					}
					if err != nil {
						got[j] = append(got[j], err.Error())
					}
				}
				read()
				for _, ddl := range []string{"ADD COLUMN more int", "ALTER COLUMN text TYPE varchar(10)", "ALTER COLUMN more TYPE text", "DROP COLUMN text"} {
					change(ddl)
					for range 3 {
						read()
					}
				}
				tx, err := c.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				read()
				if err := tx.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
				change("ADD COLUMN last text")
				if tx, err = c.Begin(t.Context()); err != nil {
					t.Fatal(err)
				}
				read()
				if err := tx.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
				read()
			}
			if len(got[0]) != len(got[1]) {
				t.Fatalf("got %q, PostgreSQL has %q", got[0], got[1])
			}
			for k := range got[0] {
				if got[0][k] != got[1][k] {
					t.Errorf("%d: got %s, PostgreSQL has %s", k, got[0][k], got[1][k])
				}
			}
		})
	}
}

// TestHealManyClients on several backends, in transactions and outside, while the table changes: who asks what it gets is told what it gets,
// and outside of transactions nobody hears of the change.
func TestHealManyClients(t *testing.T) {
	t.Parallel()
	const clients, rounds, changes = 12, 60, 20
	s := start(t, spec{schema: "CREATE TABLE many (id int); INSERT INTO many VALUES (1)", general: "default_pool_size = 4"})
	stop := make(chan struct{})
	var all, changing sync.WaitGroup
	changing.Go(func() {
		for i := range changes {
			s.shards[0].rows(t, fmt.Sprintf("ALTER TABLE many ADD COLUMN c%d int DEFAULT %[1]d", i))
			s.shards[0].rows(t, "SELECT pg_sleep(0.005)")
		}
		close(stop)
	})
	for n := range clients {
		c := s.connect(t)
		all.Go(func() {
			if got := prepareAs(c, "m", "SELECT * FROM many"); got != "I" {
				t.Error(got)
				return
			}
			asks := n%3 != 0
			told := 0 // columns
			for round := 0; ; round++ {
				select {
				case <-stop:
					if round >= rounds {
						return
					}
				default:
				}
				inside := round%4 == 3
				if inside {
					c.Query("BEGIN")
				}
				batch := []pgproto3.FrontendMessage{bind("", "m"), describe('P', ""), run("", 0), syncs}
				if !asks && round > 0 {
					batch = slices.Delete(batch, 1, 2)
				}
				c.Send(batch...)
				failed := false
				rows := 0
				for _, msg := range c.UntilReady() {
					switch m := msg.(type) {
					case *pgproto3.RowDescription:
						told = len(m.Fields)
					case *pgproto3.DataRow:
						rows++
						if len(m.Values) != told {
							t.Errorf("client %d: a row of %d columns, told of %d", n, len(m.Values), told)
							return
						}
					case *pgproto3.ErrorResponse:
						failed = true
						if m.Code != "0A000" || m.Routine != "RevalidateCachedQuery" || asks && !inside {
							t.Errorf("client %d: %s", n, pgtest.Format(m))
							return
						}
					}
				}
				if !failed && rows != 1 {
					t.Errorf("client %d: %d rows", n, rows)
				}
				if inside {
					c.Query("ROLLBACK")
				}
				if failed && !asks {
					if got := ask(c, &pgproto3.Close{ObjectType: 'S', Name: "m"}, parse("m", "SELECT * FROM many")); got != "CloseComplete ParseComplete ReadyForQuery(I)" {
						t.Error(got)
					}
					c.Send(bind("", "m"), describe('P', ""), syncs)
					for _, msg := range c.UntilReady() {
						if m, ok := msg.(*pgproto3.RowDescription); ok {
							told = len(m.Fields)
						}
					}
				}
			}
		})
	}
	all.Wait()
	changing.Wait()
	if n := s.metric(t, "backend_closed_total"); n > 0 {
		t.Errorf("%v backends were closed", n)
	}
}

// TestHealTenants: one text, prepared for each tenant on the same backends. The change of one tenant's table is nothing to the others, and what
// runs anew runs for the tenant that it ran for.
func TestHealTenants(t *testing.T) {
	t.Parallel()
	told := func(t *testing.T, c *pgtest.Client, want string) {
		t.Helper()
		if got := pgtest.Format(c.UntilReady()...); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	for _, mode := range []string{"shared", "strict"} {
		t.Run("schemas, "+mode, func(t *testing.T) {
			t.Parallel()
			s := schemasOnOneBackend(t, mode)
			db := s.shards[0].db
			var clients []*pgtest.Client
			for i := range 3 {
				clients = append(clients, s.as(t, fmt.Sprintf("app@%d", i), nil))
			}
			anyone := s.as(t, "app", nil)
			anyone.Query("SET pgkennel.tenant = '2'")
			if got := prepareAs(anyone, "s", "SELECT * FROM orders"); got != "I" {
				t.Error(got)
			}
			send := func(c *pgtest.Client, msgs ...pgproto3.FrontendMessage) { c.Send(append(msgs, syncs)...) }
			row := func(i int, more string) string {
				return fmt.Sprintf("BindComplete DataRow(1, of %d%s) CommandComplete(SELECT 1) ReadyForQuery(I)", i, more)
			}
			for i, c := range clients {
				send(c, parse("s", "SELECT * FROM orders"), bind("", "s"), execution)
				told(t, c, "ParseComplete "+row(i, ""))
			}
			send(anyone, bind("", "s"), execution)
			told(t, anyone, row(2, ""))
			s.shards[0].Exec(t, db, "ALTER TABLE t_1.orders ADD COLUMN more int DEFAULT 8")
			for range 2 {
				for i, c := range clients {
					send(c, bind("", "s"), execution)
					told(t, c, row(i, map[bool]string{true: ", 8"}[i == 1]))
				}
				for i := range 3 {
					anyone.Query(fmt.Sprintf("SET pgkennel.tenant = '%d'", i))
					send(anyone, bind("", "s"), describe('P', ""), execution)
					told(t, anyone, "BindComplete RowDescription(id, note"+map[bool]string{true: ", more) ", false: ") "}[i == 1]+strings.TrimPrefix(row(i, map[bool]string{true: ", 8"}[i == 1]), "BindComplete "))
				}
				// It was told of a table of one column last, and is about to read one of two.
				anyone.Query("SET pgkennel.tenant = '1'")
				send(anyone, bind("", "s"), execution)
				told(t, anyone, changedPlan+" ReadyForQuery(I)")
			}
		})
	}
	t.Run("rows", func(t *testing.T) {
		t.Parallel()
		s := start(t, spec{schema: rowsSchema, users: switching, general: "default_pool_size = 1\n", rest: twoTenants})
		two, four := s.as(t, "app@two", nil), s.as(t, "app@four", nil)
		row := func(key int, more string) string {
			return fmt.Sprintf("DataRow(%d, 1, of %[1]d%s) CommandComplete(SELECT 1) ReadyForQuery(I)", key, more)
		}
		two.Send(parse("s", "SELECT * FROM orders WHERE id = 1"), bind("", "s"), execution, syncs)
		told(t, two, "ParseComplete BindComplete "+row(2, ""))
		four.Send(parse("s", "SELECT * FROM orders WHERE id = 1"), bind("", "s"), execution, syncs)
		told(t, four, "ParseComplete BindComplete "+row(4, ""))
		for i, more := range []string{", ∅", ", ∅, ∅", ", ∅, ∅, ∅"} {
			s.shards[0].Exec(t, s.shards[0].db, fmt.Sprintf("ALTER TABLE orders ADD COLUMN more%d int", i))
			for j := range 4 {
				c, key := two, 2
				if (i+j)%2 == 0 {
					c, key = four, 4
				}
				c.Send(bind("", "s"), execution, syncs)
				told(t, c, "BindComplete "+row(key, more))
			}
		}
		if n := s.metric(t, "session_prepared_healed_total"); n < 3 {
			t.Errorf("%v were healed", n)
		}
	})
}

// TestHealShards: one type has another number on each shard, and is the same; a table that has other columns there is another.
func TestHealShards(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{shards: 2, schema: ordersSchema, rest: twoRanges, general: "default_pool_size = 1\n"})
	for i, sh := range s.shards {
		if i == 1 {
			sh.Exec(t, sh.db, "CREATE TYPE another AS ENUM ('x'); CREATE TYPE third AS ENUM ('x')")
		}
		sh.Exec(t, sh.db, "CREATE TYPE mood AS ENUM ('fine'); ALTER TABLE orders ADD COLUMN mood mood DEFAULT 'fine'")
	}
	s.startInside()
	c := s.connect(t)
	keys := []string{"1", "1001"}
	const moods, all = "SELECT mood FROM orders WHERE tenant_id = $1 LIMIT 0", "SELECT * FROM orders WHERE tenant_id = $1 LIMIT 0"
	for name, sql := range map[string]string{"m": moods, "a": all} {
		if got := ask(c, parse(name, sql), describe('S', name)); !strings.HasPrefix(got, "ParseComplete ParameterDescription(20) RowDescription(") {
			t.Error(got)
		}
	}
	empty := "BindComplete CommandComplete(SELECT 0) ReadyForQuery(I)"
	for range 2 {
		for _, key := range keys {
			for _, name := range []string{"m", "a"} {
				if got := ask(c, bind("", name, key), execution); got != empty {
					t.Errorf("%s, %s: %s", name, key, got)
				}
			}
		}
	}
	s.shards[1].Exec(t, s.shards[1].db, "ALTER TABLE orders ADD COLUMN more int")
	for range 2 {
		for i, want := range []string{empty, changedPlan + " ReadyForQuery(I)"} {
			if got := ask(c, bind("", "a", keys[i]), execution); got != want {
				t.Errorf("%s: %s", keys[i], got)
			}
			if got := ask(c, bind("", "m", keys[i]), execution); got != empty {
				t.Errorf("%s: %s", keys[i], got)
			}
		}
	}
}

// schemasOnOneBackend is a stand with three tenants, each with a schema and a role, in a pool of one connection.
func schemasOnOneBackend(t *testing.T, mode string) *stand {
	t.Helper()
	s := prepare(t, spec{schema: schemasSchema(3), users: switching, general: "default_pool_size = 1\n"})
	db := s.shards[0].db
	s.write("role.secret", "0123456789abcdef0123456789abcdef")
	for i := range 3 {
		role := fmt.Sprintf("%s_t%d", db, i)
		s.shards[0].Exec(t, db, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD '%s'; GRANT USAGE ON SCHEMA t_%d TO %[1]s; GRANT ALL ON ALL TABLES IN SCHEMA t_%[3]d TO %[1]s; GRANT %[1]s TO app`,
			role, rolePassword(t, role), i))
	}
	s.edit("pgdog.toml", "[admin]", fmt.Sprintf("[multi_tenant]\nisolation = \"schema\"\nmode = %q\nrole = \"%s_t{key}\"\nschema = \"t_{key}\"\nrole_secret_file = %q\n[admin]", mode, db, s.path("role.secret")))
	s.startInside()
	return s
}
