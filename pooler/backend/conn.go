package backend

import (
	"errors"
	"fmt"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Conn is the state machine of one connection to PostgreSQL, from the end of its login. Bytes from the server go in by
// Feed; what they mean for whoever asked comes out as calls of Owner. It knows no socket, clock or goroutine and belongs to one owner at a time.
//
// What was asked stands in a queue of steps, one for every answer that PostgreSQL owes; the queue is the proof of what an answer belongs to.
type Conn struct {
	// PID and Secret are the server's, for cancel requests.
	PID    uint32
	Secret []byte
	// Statements are the named prepared statements that the server has by the registry's names.
	Statements state.Statements
	// Unnamed is what the unnamed statement is on the server; nil = none of ours.
	Unnamed *state.Prepared
	// Shard that the server holds.
	Shard topology.ShardID
	// Have are the session-level settings on the server beyond those of its login.
	Have *state.Set

	owner Owner
	steps []Step
	head  int
	// failed: an error was answered; what follows up to Sync is skipped (PostgreSQL manual, 55.2.3).
	failed bool

	in      []byte // a message that is not complete yet
	stream  int    // bytes to come of a message whose head was relayed or dropped already
	relay   bool   // whether they are relayed
	tx      pgwire.TxStatus
	taint   Taint
	params  Params
	maxSize int

	// Link is the driver's.
	Link any
}

// Owner is the session that has a connection, as far as the connection's machine is concerned. The bytes that it gets are valid only during the call.
type Owner interface {
	// Relay passes whole messages, or pieces of a large one, on to the client as they are.
	Relay(b []byte)
	// Complete reports that step is answered by a CommandComplete with tag, or, tag being nil, by its own completion message.
	// A Query step completes once per statement. The message itself is relayed.
	Complete(step *Step, tag []byte)
	// Failed reports an ErrorResponse to step; msg is the whole message, which the owner relays or replaces.
	Failed(step *Step, msg []byte)
	// Skipped reports a step that PostgreSQL skipped because of an error before it.
	Skipped(step *Step)
	// CopyIn reports CopyInResponse for step; msg is the whole message, which the owner relays or not.
	CopyIn(step *Step, msg []byte)
	// Parameter reports a ParameterStatus.
	Parameter(name, value string)
	// Ready reports ReadyForQuery at the end of step (Sync, Query or Internal). Nothing is relayed.
	Ready(step *Step, tx pgwire.TxStatus)
}

// StepKind is what PostgreSQL was asked for.
type StepKind uint8

// The kinds of steps.
const (
	StepParse StepKind = iota + 1
	StepBind
	StepClose
	StepDescribeStatement
	StepDescribePortal
	StepExecute
	StepSync
	StepQuery // a simple Query; ends with its ReadyForQuery
	StepLocal // answered here: Answer is relayed in its turn
)

// Step is one answer owed.
type Step struct {
	Kind StepKind
	// Internal: nobody but us asked; nothing of the answer is relayed.
	Internal bool
	// Ref is the owner's.
	Ref int32
	// Prepared is what a Parse or Close is about; Unnamed: as the unnamed statement.
	Prepared *state.Prepared
	Unnamed  bool
	// Refusal replaces the error that the step is bound to bring.
	Refusal *pgwire.Error
	// Answer of StepLocal.
	Answer []byte
}

// Errors that break a connection.
var (
	// ErrProtocol is the root of everything a server may not send.
	ErrProtocol = errors.New("server broke the protocol")
	// ErrServerClosed: the server closed the connection, or announced it by a FATAL error.
	ErrServerClosed = errors.New("server closed the connection")
)

// New returns the machine of a connection that has just logged in. maxMessage bounds messages that have to be held whole, in bytes.
func New(l *Login, maxMessage int) *Conn {
	c := &Conn{PID: l.PID, Secret: l.Secret, tx: pgwire.TxIdle, maxSize: maxMessage}
	for _, p := range l.Params {
		c.params.set(p.Name, p.Value)
	}
	return c
}

// Own gives the connection to o; nil = to nobody (it idles in its pool).
func (c *Conn) Own(o Owner) { c.owner = o }

// Tx is the transaction status of the last ReadyForQuery.
func (c *Conn) Tx() pgwire.TxStatus { return c.tx }

// Params are the values that the server reported.
func (c *Conn) Params() *Params { return &c.params }

// Pending is the number of answers owed.
func (c *Conn) Pending() int { return len(c.steps) - c.head }

// Clean reports whether the connection may serve somebody else: nothing owed, no transaction, no leftovers.
func (c *Conn) Clean() bool {
	return c.Pending() == 0 && c.tx == pgwire.TxIdle && c.taint == 0 && c.stream == 0 && len(c.in) == 0
}

// Ask notes that the messages for s are about to be sent, in this order.
func (c *Conn) Ask(s Step) {
	if c.head == len(c.steps) && c.head > 0 {
		clear(c.steps)
		c.steps, c.head = c.steps[:0], 0
	}
	c.steps = append(c.steps, s)
}

// Flush answers local steps that have come to the head of the queue. Whoever asks only for local steps must call it; Feed does so itself.
func (c *Conn) Flush() {
	for c.head < len(c.steps) && c.steps[c.head].Kind == StepLocal {
		s := &c.steps[c.head]
		if c.failed {
			c.owner.Skipped(s)
		} else {
			c.owner.Relay(s.Answer)
			c.owner.Complete(s, nil)
		}
		c.pop()
	}
}

func (c *Conn) pop() {
	c.steps[c.head] = Step{}
	c.head++
}

func (c *Conn) current() *Step {
	if c.head < len(c.steps) {
		return &c.steps[c.head]
	}
	return nil
}

// Feed takes bytes from the server. An error breaks the connection: it must be closed.
func (c *Conn) Feed(b []byte) error {
	if c.stream > 0 {
		n := min(c.stream, len(b))
		if c.relay && c.owner != nil {
			c.owner.Relay(b[:n])
		}
		c.stream -= n
		b = b[n:]
	}
	if len(c.in) > 0 {
		c.in = append(c.in, b...)
		n, err := c.consume(c.in)
		if err != nil {
			return err
		}
		rest := copy(c.in, c.in[n:])
		c.in = c.in[:rest]
		if rest == 0 && cap(c.in) > 64<<10 {
			c.in = nil
		}
		return nil
	}
	n, err := c.consume(b)
	if err != nil {
		return err
	}
	c.in = append(c.in, b[n:]...)
	return nil
}

// MidMessage reports whether a part of a message was relayed and its rest is missing: the client's stream is beyond repair then.
func (c *Conn) MidMessage() bool { return c.stream > 0 && c.relay }

// consume handles the messages in b and returns how many bytes it has done with. Runs of messages that are relayed as they are go out in one piece.
func (c *Conn) consume(b []byte) (int, error) {
	start, pos := 0, 0 // b[start:pos] is to be relayed
	for {
		typ, total, ok := pgwire.Header(b[pos:])
		if !ok {
			break
		}
		if total < 0 || total > c.maxSize && typ != pgwire.MsgDataRow && typ != pgwire.MsgCopyData {
			return 0, fmt.Errorf("%w: message %q of invalid length", ErrProtocol, typ)
		}
		cur := c.current()
		forward := cur != nil && !cur.Internal
		if pos+total > len(b) {
			if typ != pgwire.MsgDataRow && typ != pgwire.MsgCopyData {
				break
			}
			if cur == nil {
				return 0, fmt.Errorf("%w: message %q that nobody asked for", ErrProtocol, typ)
			}
			// A large row is passed on as it comes.
			if forward {
				c.owner.Relay(b[start:])
			} else if start < pos {
				c.owner.Relay(b[start:pos])
			}
			c.stream, c.relay = pos+total-len(b), forward
			return len(b), nil
		}
		switch typ {
		case pgwire.MsgDataRow, pgwire.MsgCopyData, pgwire.MsgRowDescription, pgwire.MsgParameterDescription, pgwire.MsgCopyOut:
			if cur == nil {
				return 0, fmt.Errorf("%w: message %q that nobody asked for", ErrProtocol, typ)
			}
			if forward && !(typ == pgwire.MsgRowDescription && c.describes(cur)) {
				pos += total
				continue
			}
		}
		// Everything else may end a step or is not for the client: what came before goes out first, in order.
		keep, err := c.message(typ, b[pos:pos+total], b[start:pos])
		if err != nil {
			return 0, err
		}
		if keep {
			pos += total
			continue
		}
		pos += total
		start = pos
	}
	if start < pos {
		c.owner.Relay(b[start:pos])
	}
	return pos, nil
}

// describes reports whether a RowDescription ends s.
func (c *Conn) describes(s *Step) bool {
	return s.Kind == StepDescribeStatement || s.Kind == StepDescribePortal
}

// message handles one message that is not merely passed on; before is what has to be relayed in front of it.
// It returns true if it relayed nothing and msg simply joins what is before it.
func (c *Conn) message(typ byte, msg, before []byte) (keep bool, err error) {
	body := msg[pgwire.HeaderBytes:]
	s := c.current()
	if s == nil {
		return false, c.unsolicited(typ, body)
	}
	flush := func() {
		if len(before) > 0 {
			c.owner.Relay(before)
		}
	}
	switch typ {
	case pgwire.MsgParseComplete:
		return c.completed(s, StepParse, before, msg)
	case pgwire.MsgBindComplete:
		return c.completed(s, StepBind, before, msg)
	case pgwire.MsgCloseComplete:
		return c.completed(s, StepClose, before, msg)
	case pgwire.MsgNoData, pgwire.MsgRowDescription:
		if s.Kind == StepDescribePortal {
			return c.completed(s, StepDescribePortal, before, msg)
		}
		if s.Kind == StepQuery { // a swallowed RowDescription
			return false, nil
		}
		return c.completed(s, StepDescribeStatement, before, msg)
	case pgwire.MsgPortalSuspended, pgwire.MsgEmptyQuery, pgwire.MsgCommandComplete:
		if s.Kind != StepExecute && s.Kind != StepQuery {
			return false, fmt.Errorf("%w: message %q out of turn", ErrProtocol, typ)
		}
		var tag []byte
		if typ == pgwire.MsgCommandComplete {
			if tag, err = pgwire.DecodeCommandTag(body); err != nil {
				return false, fmt.Errorf("%w: %w", ErrProtocol, err)
			}
		}
		if s.Kind == StepExecute {
			return c.finish(s, before, msg, tag)
		}
		flush()
		if !s.Internal {
			c.owner.Relay(msg)
		}
		c.owner.Complete(s, tag)
		return false, nil
	case pgwire.MsgErrorResponse:
		flush()
		return false, c.serverError(s, msg)
	case pgwire.MsgReadyForQuery:
		flush()
		return false, c.ready(s, body)
	case pgwire.MsgParameterStatus:
		flush()
		return false, c.parameter(body)
	case pgwire.MsgNoticeResponse, pgwire.MsgNotification:
		if s.Internal {
			flush()
			return false, nil
		}
		return true, nil
	case pgwire.MsgCopyIn:
		flush()
		c.owner.CopyIn(s, msg)
		// PostgreSQL ignores Syncs that came behind the Execute while it copies in (manual, 55.2.6).
		if s.Kind == StepExecute {
			for c.head+1 < len(c.steps) && c.steps[c.head+1].Kind == StepSync {
				copy(c.steps[c.head+1:], c.steps[c.head:c.head+1])
				c.pop()
			}
		}
		return false, nil
	case pgwire.MsgCopyDone:
		if s.Internal {
			flush()
			return false, nil
		}
		return true, nil
	case pgwire.MsgDataRow, pgwire.MsgCopyData, pgwire.MsgParameterDescription, pgwire.MsgCopyOut: // swallowed
		flush()
		return false, nil
	default:
		return false, fmt.Errorf("%w: unexpected message %q", ErrProtocol, typ)
	}
}

// completed ends s, which must be of the given kind.
func (c *Conn) completed(s *Step, kind StepKind, before, msg []byte) (keep bool, err error) {
	if s.Kind != kind {
		return false, fmt.Errorf("%w: message %q out of turn", ErrProtocol, msg[0])
	}
	return c.finish(s, before, msg, nil)
}

// finish ends s by msg.
func (c *Conn) finish(s *Step, before, msg, tag []byte) (keep bool, err error) {
	if c.failed {
		return false, fmt.Errorf("%w: message %q after an error", ErrProtocol, msg[0])
	}
	if len(before) > 0 {
		c.owner.Relay(before)
	}
	if !s.Internal {
		c.owner.Relay(msg)
	}
	c.owner.Complete(s, tag)
	c.pop()
	c.Flush()
	return false, nil
}

// serverError handles an ErrorResponse to s.
func (c *Conn) serverError(s *Step, msg []byte) error {
	if s.Kind == StepSync {
		// An error between the answers and ReadyForQuery: the implicit transaction's commit failed.
		c.owner.Failed(s, msg)
		return nil
	}
	c.owner.Failed(s, msg)
	if s.Kind == StepQuery {
		return nil
	}
	first := c.head
	c.forget(s, first)
	c.head++
	for {
		next := c.current()
		if next == nil || next.Kind == StepSync {
			break
		}
		c.owner.Skipped(next)
		c.forget(next, first)
		c.head++
	}
	clear(c.steps[first:c.head])
	c.failed = true
	return nil
}

// forget takes back what was assumed of a Parse or Close that did not happen, an error being answered to the step at index first.
func (c *Conn) forget(s *Step, first int) {
	switch {
	case s.Prepared == nil:
	case s.Kind == StepParse && s.Unnamed:
		c.Unnamed = nil
	case s.Kind == StepParse:
		c.Statements.Remove(s.Prepared)
	case s.Kind == StepClose:
		for _, f := range c.steps[first:c.head] {
			if f.Kind == StepParse && f.Prepared == s.Prepared {
				return // it was never there
			}
		}
		c.Statements.Add(s.Prepared)
	}
}

func (c *Conn) ready(s *Step, body []byte) error {
	tx, err := pgwire.DecodeReadyForQuery(body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if s.Kind != StepSync && s.Kind != StepQuery {
		return fmt.Errorf("%w: ReadyForQuery out of turn", ErrProtocol)
	}
	c.failed = false
	c.tx = tx
	done := *s
	c.pop()
	c.owner.Ready(&done, tx)
	if c.owner != nil {
		c.Flush()
	}
	return nil
}

func (c *Conn) parameter(body []byte) error {
	name, value, err := pgwire.DecodeParameterStatus(body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	n, v := c.params.intern(name, value)
	if c.owner != nil {
		c.owner.Parameter(n, v)
	}
	return nil
}

// unsolicited handles a message that answers nothing.
func (c *Conn) unsolicited(typ byte, body []byte) error {
	switch typ {
	case pgwire.MsgParameterStatus:
		return c.parameter(body)
	case pgwire.MsgNoticeResponse:
		return nil
	case pgwire.MsgNotification:
		if c.owner != nil {
			c.owner.Relay(rebuild(typ, body))
		}
		return nil
	case pgwire.MsgErrorResponse:
		e, err := pgwire.DecodeError(body)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		return fmt.Errorf("%w: %w", ErrServerClosed, e)
	}
	return fmt.Errorf("%w: message %q that nobody asked for", ErrProtocol, typ)
}

func rebuild(typ byte, body []byte) []byte {
	n := len(body) + 4
	return append([]byte{typ, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}
