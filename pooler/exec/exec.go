// Package exec puts what a session wants on a server connection: it appends the messages to a buffer and notes in the
// connection's queue which answers are owed. What the connection lacks (settings, the transaction's beginning, prepared
// statements) goes in front, in the same write, and its answers stay internal.
//
// It is pure: the caller sends the buffer, whole and in order.
package exec

import (
	"encoding/binary"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// Refs of internal steps, by which the session tells their answers apart.
const (
	RefContext  int32 = -1 - iota // settings
	RefPrologue                   // the queued beginning of a transaction
	RefRollback                   // ROLLBACK of a transaction that is given up
	RefReset                      // DISCARD ALL
	RefDiscard                    // DISCARD SEQUENCES
	RefPrepare                    // a statement prepared or closed on the side
	RefSettle                     // a Sync of ours, after which the connection is let go
	RefSync                       // a Sync of ours, after which it is kept
	RefSoFar                      // the end of the answers to what was sent so far
	RefRenew                      // a statement prepared anew because tables have changed
	RefUnlisten                   // UNLISTEN *, after which the connection is let go
	RefInspect                    // the question what a session has left: see Inspect
	RefNames                      // what a Query names by EXECUTE or DEALLOCATE, prepared in front of it
)

// Query notes a client's simple Query.
func Query(c *backend.Conn, ref int32) {
	c.Unnamed = nil
	c.Ask(backend.Step{Kind: backend.StepQuery, Ref: ref})
}

// Call notes a client's FunctionCall, likewise.
func Call(c *backend.Conn, ref int32) {
	c.Ask(backend.Step{Kind: backend.StepQuery, Call: true, Ref: ref})
}

// Prepare appends a Parse of p under its own name on the connection (or as the unnamed statement), unless the connection has it already:
// then a client's Parse (internal false) is answered here. Statements that must go to keep within the connection's limits are closed first, and
// so is p if tables have changed under it, or may have since, and the client parses it.
func Prepare(dst []byte, c *backend.Conn, p *state.Prepared, unnamed, internal bool, ref int32) []byte {
	dst, _ = prepare(dst, c, p, unnamed, internal, ref)
	return dst
}

// instance is a statement on a connection.
type instance struct {
	name  string
	shape *state.Shape // nil of the unnamed one
}

// prepare is Prepare; it returns what the connection has of the statement, under the settings that this has.
func prepare(dst []byte, c *backend.Conn, p *state.Prepared, unnamed, internal bool, ref int32) (out []byte, has instance) {
	key := c.ParseKey()
	if unnamed {
		if internal && c.Unnamed != nil && c.Unnamed.Same(p) && c.UnnamedKey == key {
			return dst, instance{}
		}
		c.Unnamed, c.UnnamedKey = p, key
		c.Ask(backend.Step{Kind: backend.StepParse, Internal: internal, Ref: ref, Prepared: p, Unnamed: true})
		return appendParse(dst, "", p), instance{}
	}
	if has, shape, stale := c.Statements.Instance(p, key); has != nil {
		if !stale && (internal || !c.Statements.Outdated(has)) {
			if !internal {
				c.Ask(backend.Step{Kind: backend.StepLocal, Ref: ref, Answer: parseComplete})
			}
			return dst, instance{has.Name, shape}
		}
		dst = closeStatement(dst, c, has, true)
	}
	p = p.Under(key)
	dst = room(dst, c, p)
	return create(dst, c, p, internal, ref), instance{p.Name, c.Statements.Add(p)}
}

// room closes what has to go before the connection gets p.
func room(dst []byte, c *backend.Conn, p *state.Prepared) []byte {
	for {
		old := c.Statements.Evict(p.Bytes(), p)
		if old == nil {
			return dst
		}
		dst = closeStatement(dst, c, old, false)
	}
}

// create appends what makes p on the connection.
func create(dst []byte, c *backend.Conn, p *state.Prepared, internal bool, ref int32) []byte {
	if p.Head == "" {
		c.Ask(backend.Step{Kind: backend.StepParse, Internal: internal, Ref: ref, Prepared: p})
		return appendParse(dst, p.Name, p)
	}
	// By a portal of its own: the client's unnamed one may be in use. The unnamed statement is not: whoever uses it prepares it.
	dst = pgwire.AppendParse(dst, "", p.Command(p.Name), nil)
	dst = pgwire.AppendBind(dst, preparePortal, "", pgwire.FormatText, nil, pgwire.FormatText)
	dst = pgwire.AppendExecute(dst, preparePortal, 0)
	dst = pgwire.AppendClose(dst, pgwire.TargetPortal, preparePortal)
	c.Unnamed = nil
	c.Ask(backend.Step{Kind: backend.StepParse, Internal: true, Ref: ref, Unnamed: true})
	c.Ask(backend.Step{Kind: backend.StepBind, Internal: true, Ref: ref})
	c.Ask(backend.Step{Kind: backend.StepExecute, Internal: true, Ref: ref, Prepared: p})
	c.Ask(backend.Step{Kind: backend.StepClose, Internal: true, Ref: ref})
	return dst
}

// preparePortal runs the PREPARE of a statement that was made by SQL.
const preparePortal = state.NamePrefix + "prepare"

// Ready prepares p unless the connection has it, and returns it as it is there. With keep nothing is closed to make room: what follows names several.
func Ready(dst []byte, c *backend.Conn, p *state.Prepared, ref int32, keep bool) ([]byte, *state.Prepared) {
	has, _, stale := c.Statements.Instance(p, c.ParseKey())
	if has != nil && !stale {
		return dst, has
	}
	if has != nil {
		dst = closeStatement(dst, c, has, true)
	}
	p = p.Under(c.ParseKey())
	if !keep {
		dst = room(dst, c, p)
	}
	c.Statements.Add(p)
	return create(dst, c, p, true, ref), p
}

// Vacate closes p if the connection has it, for the client is about to make it, and returns what it is to make. keep is as for Ready.
func Vacate(dst []byte, c *backend.Conn, p *state.Prepared, keep bool) ([]byte, *state.Prepared) {
	if has := c.Statements.Find(p, c.ParseKey()); has != nil {
		dst = closeStatement(dst, c, has, true)
	}
	p = p.Under(c.ParseKey())
	if !keep {
		dst = room(dst, c, p)
	}
	return dst, p
}

// closeStatement appends a Close of what the connection has.
func closeStatement(dst []byte, c *backend.Conn, has *state.Prepared, stale bool) []byte {
	c.Statements.Remove(has)
	c.Ask(backend.Step{Kind: backend.StepClose, Internal: true, Ref: RefPrepare, Prepared: has, Stale: stale})
	return pgwire.AppendClose(dst, pgwire.TargetStatement, has.Name)
}

var parseComplete = pgwire.AppendParseComplete(nil)

// appendParse appends a Parse of p, whose types are in the form of the message already.
func appendParse(dst []byte, name string, p *state.Prepared) []byte {
	start := len(dst)
	dst = append(dst, pgwire.MsgParse, 0, 0, 0, 0)
	dst = append(append(dst, name...), 0)
	dst = append(append(dst, p.SQL...), 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(p.Types)/4)) //nolint:gosec // as the client's message had it
	return finish(append(dst, p.Types...), start)
}

// Bind appends a client's Bind for p; tail is what follows the names in it, told what the client was told of the statement. It returns the
// statement's shape on the connection; nil of the unnamed one.
func Bind(dst []byte, c *backend.Conn, portal []byte, p *state.Prepared, unnamed bool, tail []byte, internal bool, ref int32, told *state.Shape) ([]byte, *state.Shape) {
	dst, has := prepare(dst, c, p, unnamed, true, RefPrepare)
	c.Ask(backend.Step{Kind: backend.StepBind, Internal: internal, Ref: ref, Shape: has.shape, Told: told})
	return pgwire.AppendBindTail(dst, portal, has.name, tail), has.shape
}

// DescribeStatement appends a Describe of p; told is what the client was told of the statement, and will be by this.
func DescribeStatement(dst []byte, c *backend.Conn, p *state.Prepared, unnamed, internal bool, ref int32, told *state.Shape) []byte {
	dst, has := prepare(dst, c, p, unnamed, true, RefPrepare)
	if unnamed {
		has.shape = told // nobody else keeps it
	}
	c.Ask(backend.Step{Kind: backend.StepDescribeStatement, Internal: internal, Ref: ref, Shape: has.shape, Told: told})
	return pgwire.AppendDescribe(dst, pgwire.TargetStatement, has.name)
}

// Look appends what finds out about p's shape on the connection, where it is prepared for that if need be. Of the unnamed statement it goes to
// shape, of others to where the connection keeps it.
func Look(dst []byte, c *backend.Conn, p *state.Prepared, unnamed bool, ref int32, shape *state.Shape) []byte {
	dst, has := prepare(dst, c, p, unnamed, true, ref)
	if !unnamed {
		shape = has.shape
	}
	c.Ask(backend.Step{Kind: backend.StepDescribeStatement, Internal: true, Ref: ref, Shape: shape})
	return pgwire.AppendDescribe(dst, pgwire.TargetStatement, has.name)
}

// Local notes an answer that is given here, in its turn.
func Local(c *backend.Conn, answer []byte, ref int32) {
	c.Ask(backend.Step{Kind: backend.StepLocal, Answer: answer, Ref: ref})
}

// SoFar asks for what was sent to be answered, and for a word when it is.
func SoFar(dst []byte, c *backend.Conn) []byte {
	c.Ask(backend.Step{Kind: backend.StepLocal, Internal: true, Ref: RefSoFar})
	return pgwire.AppendFlush(dst)
}

// abortPortal is a portal that never exists; its name is what the server's log shows.
const abortPortal = "pgkennel refused the statement"

// Abort appends what makes the server fail the current transaction (or implicit transaction) at this point of the
// pipeline: an Execute of a portal that does not exist. The client gets refusal instead of the server's error.
func Abort(dst []byte, c *backend.Conn, refusal *pgwire.Error, ref int32) []byte {
	c.Ask(backend.Step{Kind: backend.StepExecute, Refusal: refusal, Ref: ref})
	return pgwire.AppendExecute(dst, abortPortal, 0)
}

// Sync appends a Sync.
func Sync(dst []byte, c *backend.Conn, internal bool, ref int32) []byte {
	c.Ask(backend.Step{Kind: backend.StepSync, Internal: internal, Ref: ref})
	return pgwire.AppendSync(dst)
}
