package session

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// A client that was told once what rows a statement returns reads them by that ever after. PostgreSQL therefore fails where that has changed. Here
// a statement is prepared on each server when it is first needed there, which may be after the change; so what the server says of it is compared
// with what the client was told before the first use, unless the client asks again in the same batch.

// routineChanged is in the routine field of PostgreSQL's error, by which drivers know it.
const routineChanged = "RevalidateCachedQuery"

var errChanged = pgwire.Errorf(pgwire.CodeFeatureNotSupported, "cached plan must not change result type").WithRoutine(routineChanged)

// changed reports whether e says that tables have changed under a prepared statement.
func changed(e *pgwire.Error) bool {
	return e.Code == pgwire.CodeFeatureNotSupported && e.Routine == routineChanged
}

// unsure is what a client was told that nobody remembers. It is not written to.
var unsure = state.Shape{Rows: state.UnsureRows}

// toldOf is what the client was told of the statement of a Bind or Describe; nil = nothing, or it is not kept.
func (s *Session) toldOf(it *item) *state.Shape {
	if it.name == "" {
		return s.unnamedTold
	}
	if n := s.namedOf(it); n != nil {
		return &n.told
	}
	return nil
}

// namedOf is the entry of the statement of a Bind or Describe; nil = it has none.
func (s *Session) namedOf(it *item) (n *named) {
	switch {
	case it.name == "":
		return nil
	case it.typ == pgwire.MsgBind:
		n = s.names[string(it.frame[pgwire.HeaderBytes+len(it.portal)+1:len(it.frame)-int(it.tail)-1])]
	default:
		n = s.names[it.name]
	}
	if n == nil || n.prep != it.prep {
		return nil
	}
	return n
}

// look compares what the server says of the batch's statements with what the client was told, where that is needed. It waits where the server has
// to be asked first.
func (s *Session) look() (refusal *pgwire.Error, wait bool) {
	if !s.acct.Statements {
		return nil, false
	}
	c := s.conn
	var out []byte
	var last *named
	for i := range s.unit.items {
		it := &s.unit.items[i]
		if it.typ != pgwire.MsgBind || it.local || it.fresh {
			continue
		}
		n := s.namedOf(it)
		if n == nil || n == last || n.told == (state.Shape{}) || !planned(single(n.prep.Message)) {
			continue
		}
		has, shape, stale := c.Statements.Instance(it.prep, c.ParseKey())
		if has == nil && s.unit.looked { // the connection has no room for all of them
			if shape = s.unit.shapes[it.prep]; shape == nil {
				continue
			}
		}
		if has != nil && !stale && *shape == n.told {
			last = n
			continue
		}
		need := needs(n.prep, &n.told, it.frame[pgwire.HeaderBytes:], s.describedBeside(i))
		need.rows = need.rows && n.told.Rows != state.NoRows // which its text decides
		switch known := shape != nil && !stale && need.known(shape); {
		case need == wants{}, known && need.agree(shape, &n.told):
		case known && s.unit.looked:
			s.misled(n.prep)
			return errChanged, false
		case s.unit.looked: // the server would not say
		default:
			if has != nil {
				c.Statements.Expire(has) // it may be older than the change
			}
			if out == nil {
				out = s.scratch()
			}
			out = exec.Look(out, c, it.prep, false, exec.RefPrepare, nil)
			last = n
			if s.unit.shapes == nil {
				s.unit.shapes = make(map[*state.Prepared]*state.Shape)
			}
			_, s.unit.shapes[it.prep], _ = c.Statements.Instance(it.prep, c.ParseKey())
		}
	}
	if out == nil {
		return nil, false
	}
	s.unit.looked = true
	s.open, s.quiet = true, false
	s.wait = waitInternal
	s.send(exec.SoFar(out, c))
	return nil, true
}

// planned reports whether PostgreSQL plans st, and so sees to it that what it returns stays the same. What a FETCH returns, say, its cursor decides.
func planned(st *parser.Statement) bool {
	if st == nil {
		return false
	}
	switch st.Kind {
	case parser.Select, parser.Insert, parser.Update, parser.Delete, parser.Merge:
		return true
	default:
		return false
	}
}

// describedBeside reports whether the client asks for a description beside the Bind at index i, before rows come.
func (s *Session) describedBeside(i int) bool {
	items := s.unit.items
	if i+1 < len(items) && items[i+1].typ == pgwire.MsgDescribe && items[i+1].target == pgwire.TargetPortal && items[i+1].portal == items[i].portal {
		return true
	}
	return i > 0 && items[i-1].typ == pgwire.MsgDescribe && items[i-1].target == pgwire.TargetStatement && s.namedOf(&items[i-1]) == s.namedOf(&items[i])
}

// wants says which parts of a shape matter.
type wants struct{ rows, params bool }

// needs returns what of the shape of p has to be as the client was told for a Bind with the given body to mean what it means to the client.
func needs(p *state.Prepared, told *state.Shape, body []byte, described bool) (w wants) {
	w.rows = told.Rows != 0 && !described
	if told.Params == 0 {
		return w
	}
	b, err := pgwire.DecodeBind(body)
	if err != nil {
		return w // checked before
	}
	for i := range b.NumParams() { // a text is read by whatever type there is, and what was declared stays
		w.params = w.params || b.Format(i) == pgwire.FormatBinary && p.ParamType(i) == 0
	}
	return w
}

func (w wants) known(s *state.Shape) bool {
	return (!w.rows || s.Rows != 0) && (!w.params || s.Params != 0)
}

func (w wants) agree(a, b *state.Shape) bool {
	return (!w.rows || a.Rows == b.Rows) && (!w.params || a.Params == b.Params)
}
