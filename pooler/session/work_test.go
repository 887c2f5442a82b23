package session

import (
	"reflect"
	"testing"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// TestWorkIsLentEmpty: nothing of a client is left in what is lent to the next one, whatever it had there; lists have their capacity only, and
// nothing in it.
func TestWorkIsLentEmpty(t *testing.T) {
	t.Parallel()
	w := &work{}
	w.in, w.out, w.rin.Text, w.capture.buf = []byte("x"), []byte("x"), []byte("x"), []byte("x")
	w.facts, w.quiet, w.cleanSequences, w.worked = facts{begun: true, fixed: true}, true, true, true
	w.portals, w.sqlPrep = map[string]portal{"x": {}}, map[string]sqlPrepared{"x": {}}
	w.bind.prep, w.job.sql, w.clock.txStart, w.count.Parses = &state.Prepared{}, "x", 1, 1
	w.prologue = append(w.prologue[:0], "SET secret TO 1")[:0]
	w.prologueLocal = append(w.prologueLocal[:0], state.Var{Name: "x"})[:0]
	w.track = state.Track{}
	w.track.Begin()
	w.track.Savepoint("s")
	w.track.Commit()
	w.unit = unit{
		message: &parser.Message{}, executed: []executed{{message: &parser.Message{}}, {message: &parser.Message{}}}[:1],
		items: []item{{name: "x"}, {name: "y"}}[:1], undo: []undo{{name: "x"}, {name: "y"}}[:1],
		held: held{how: endSync}, internal: &pgwire.Error{},
	}
	w.conn, w.hint = &backend.Conn{}, router.Hint{Shard: "1"}
	out := w.out
	w.clean()
	for _, list := range []any{w.prologue[:cap(w.prologue)], w.prologueLocal[:cap(w.prologueLocal)], w.unit.executed[:2], w.unit.items[:2], w.unit.undo[:2]} {
		v := reflect.ValueOf(list)
		for i := range v.Len() {
			if !v.Index(i).IsZero() {
				t.Errorf("%T: %v is left", list, v.Index(i))
			}
		}
	}
	if len(w.out) != 0 || cap(w.out) != cap(out) {
		t.Errorf("got a buffer of %d", cap(w.out))
	}
	if w.track.InTransaction() || w.track.Expected != nil {
		t.Error("settings are left")
	}
	w.out, w.prologue, w.prologueLocal, w.track = nil, nil, nil, state.Track{}
	w.unit.executed, w.unit.items, w.unit.undo = nil, nil, nil
	if v := reflect.ValueOf(w).Elem(); !v.IsZero() {
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				t.Errorf("%s is left", v.Type().Field(i).Name)
			}
		}
	}
}
