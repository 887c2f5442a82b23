package backend

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// message handles one message that is not merely passed on. It stands in run from index at; what is in front of it is to be relayed before.
func (c *Conn) message(typ byte, run []byte, at int) error {
	msg := run[at:]
	body := msg[pgwire.HeaderBytes:]
	s := c.current()
	switch typ {
	case pgwire.MsgParameterStatus, pgwire.MsgNotification:
	default:
		if s == nil {
			return c.unsolicited(typ, body)
		}
	}
	switch typ {
	case pgwire.MsgParseComplete:
		return c.finish(s, StepParse, run, msg, nil)
	case pgwire.MsgBindComplete:
		return c.finish(s, StepBind, run, msg, nil)
	case pgwire.MsgCloseComplete:
		return c.finish(s, StepClose, run, msg, nil)
	case pgwire.MsgNoData, pgwire.MsgRowDescription:
		s.learn(typ, body)
		if s.Kind == StepDescribePortal {
			return c.finish(s, StepDescribePortal, run, msg, nil)
		}
		return c.finish(s, StepDescribeStatement, run, msg, nil)
	case pgwire.MsgPortalSuspended:
		return c.finish(s, StepExecute, run, msg, nil)
	case pgwire.MsgEmptyQuery, pgwire.MsgCommandComplete:
		var tag []byte
		if typ == pgwire.MsgCommandComplete {
			var err error
			if tag, err = pgwire.DecodeCommandTag(body); err != nil {
				return fmt.Errorf("%w: %w", ErrProtocol, err)
			}
		}
		if s.Kind != StepQuery {
			return c.finish(s, StepExecute, run, msg, tag)
		}
		c.pass(s, run, msg)
		c.owner.Complete(s, tag)
		return nil
	}
	if at > 0 {
		c.owner.Relay(run[:at])
	}
	switch typ {
	case pgwire.MsgErrorResponse:
		return c.serverError(s, msg)
	case pgwire.MsgReadyForQuery:
		return c.ready(s, body)
	case pgwire.MsgParameterStatus:
		return c.parameter(body)
	case pgwire.MsgNotification:
		heard, err := c.hears(body) // which may change it
		if heard && !c.Deaf {
			c.owner.Relay(msg) // it belongs to no step
		}
		return err
	case pgwire.MsgCopyIn:
		return c.copyIn(s, msg)
	}
	return c.outOfTurn(typ)
}

// learn takes over what a Describe says of the rows.
func (s *Step) learn(typ byte, body []byte) {
	if s.Shape == nil || s.Kind != StepDescribeStatement && s.Kind != StepDescribePortal {
		return
	}
	switch {
	case s.Shape.Rows != 0: // it stays
	case typ == pgwire.MsgNoData:
		s.Shape.SetRows(nil)
	default:
		s.Shape.SetRows(body)
	}
	if s.Told != nil {
		s.Told.Rows, s.Told.Columns = s.Shape.Rows, s.Shape.Columns
	}
}

// learnParams takes over what a Describe says of the parameters.
func (s *Step) learnParams(body []byte) {
	if s.Shape.Params == 0 {
		s.Shape.SetParams(body)
	}
	if s.Told != nil {
		s.Told.TakeParams(s.Shape)
	}
}

// hears reports whether a notification is for the connection's owner, and makes it say by whom it is.
func (c *Conn) hears(body []byte) (bool, error) {
	if c.Hears == nil {
		return true, nil
	}
	if len(body) < 4 {
		return false, fmt.Errorf("%w: a notification that can't be read", ErrProtocol)
	}
	teller, heard := c.Hears(binary.BigEndian.Uint32(body))
	binary.BigEndian.PutUint32(body, teller)
	return heard, nil
}

// pass relays run, whose last message is msg; of an internal step only what is in front of it.
func (c *Conn) pass(s *Step, run, msg []byte) {
	if s.Internal {
		run = run[:len(run)-len(msg)]
	}
	if len(run) > 0 {
		c.owner.Relay(run)
	}
}

// finish ends s, which must be of the given kind, by msg.
func (c *Conn) finish(s *Step, kind StepKind, run, msg, tag []byte) error {
	switch {
	case s.Kind != kind:
		return c.outOfTurn(msg[0])
	case s.Refusal != nil:
		return fmt.Errorf("%w: message %q in answer to a statement that was refused", ErrProtocol, msg[0])
	}
	c.open = true
	c.pass(s, run, msg)
	c.owner.Complete(s, tag)
	c.pop()
	c.Flush()
	return nil
}

// copyIn handles CopyInResponse to s.
func (c *Conn) copyIn(s *Step, msg []byte) error {
	if s.Internal || !s.carries(msg[0]) {
		return c.outOfTurn(msg[0])
	}
	// PostgreSQL ignores Syncs that are between the command and its data (manual, 55.2.6).
	kept, behind := c.head+1, !s.DataFollows
	for i := kept; i < len(c.steps); i++ {
		switch k := c.steps[i].Kind; {
		case k == StepSync && behind:
			continue
		case k != StepLocal:
			behind = false
		}
		c.steps[kept] = c.steps[i]
		kept++
	}
	clear(c.steps[kept:])
	c.steps = c.steps[:kept]
	c.owner.CopyIn(s, msg)
	return nil
}

// serverError handles an ErrorResponse to s.
func (c *Conn) serverError(s *Step, msg []byte) error {
	kind, must, first := s.Kind, s.Must, c.head
	if !readable(msg[pgwire.HeaderBytes:]) {
		return fmt.Errorf("%w: an error that can't be read", ErrProtocol)
	}
	c.owner.Failed(s, msg)
	switch {
	case must:
		e, err := pgwire.DecodeError(msg[pgwire.HeaderBytes:])
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if e.IsFatal() {
			return fmt.Errorf("%w: %w", ErrServerClosed, e)
		}
		return fmt.Errorf("%w: %w", ErrLead, e)
	case kind == StepSync: // between the answers and ReadyForQuery: the implicit transaction could not be committed
		return nil
	case kind == StepQuery: // its ReadyForQuery follows
		return nil
	}
	c.failed = true
	c.forget(first)
	c.head++
	c.skip(first)
	return nil
}

// readable reports whether b has the form of an error: fields up to a zero at its very end.
func readable(b []byte) bool {
	for len(b) > 1 && b[0] != 0 {
		end := bytes.IndexByte(b[1:], 0)
		if end < 0 {
			return false
		}
		b = b[1+end+1:]
	}
	return len(b) == 1 && b[0] == 0
}

// skip drops the steps that PostgreSQL skips after an error: all up to Sync. The first of those that the error did away with is at index first.
func (c *Conn) skip(first int) {
	c.flushing = true
	for c.head < len(c.steps) && c.steps[c.head].Kind != StepSync {
		c.owner.Skipped(&c.steps[c.head])
		c.forget(first)
		c.head++
	}
	clear(c.steps[first:c.head])
	c.flushing = false
}

// forget takes back what was assumed of a Parse or Close at the head of the queue that did not happen; the run of such steps began at index
// first. What the server has is what it had before the run, which the run's first step about a statement tells.
func (c *Conn) forget(first int) {
	s := &c.steps[c.head]
	if s.Prepared == nil {
		return
	}
	if s.Unnamed {
		c.Unnamed = nil
		return
	}
	for i := first; i < c.head; i++ {
		if f := &c.steps[i]; f.Prepared != nil && f.Prepared.Same(s.Prepared) && !f.Unnamed {
			return
		}
	}
	switch s.Kind {
	case StepParse, StepExecute:
		c.Statements.Remove(s.Prepared)
	case StepClose:
		if s.Stale {
			c.Statements.Remove(s.Prepared) // what was prepared behind it
		}
		c.Statements.Add(s.Prepared)
		if s.Stale {
			c.Statements.Expire(s.Prepared)
		}
	default: // the others prepare nothing
	}
}

func (c *Conn) ready(s *Step, body []byte) error {
	tx, err := pgwire.DecodeReadyForQuery(body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if s.Kind != StepSync && s.Kind != StepQuery {
		return c.outOfTurn(pgwire.MsgReadyForQuery)
	}
	c.failed, c.open = false, false
	c.tx = tx
	c.done = *s
	c.pop()
	if tx == pgwire.TxIdle && c.Pending() == 0 { // else a transaction may have begun behind it, and what is in doubt be its
		c.doubt.key, c.doubt.local = 0, false
	}
	c.owner.Ready(&c.done, tx)
	c.Flush()
	return nil
}

func (c *Conn) parameter(body []byte) error {
	name, value, err := pgwire.DecodeParameterStatus(body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	n, v, ok := c.params.intern(name, value)
	if !ok {
		return fmt.Errorf("%w: more parameters than any server has", ErrProtocol)
	}
	if c.Promoted != nil && n == "in_hot_standby" && v != "on" {
		c.Promoted()
	}
	c.owner.Parameter(n, v)
	return nil
}

// unsolicited handles a message that answers nothing.
func (c *Conn) unsolicited(typ byte, body []byte) error {
	if typ != pgwire.MsgErrorResponse {
		return c.outOfTurn(typ)
	}
	e, err := pgwire.DecodeError(body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return fmt.Errorf("%w: %w", ErrServerClosed, e)
}
