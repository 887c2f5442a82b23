package backend

import (
	"errors"
	"fmt"
	"sync"

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
	// Start is when the server process began, in microseconds since 1970; 0 = unknown.
	Start int64
	// Statements are the named prepared statements that the server has by the registry's names.
	Statements state.Statements
	// Unnamed is what the unnamed statement is on the server; nil = none of ours.
	Unnamed *state.Prepared
	// UnnamedKey is ParseKey of when it was.
	UnnamedKey uint64
	// Parses counts the statements that were prepared on the connection, Evictions those closed again to make room.
	Parses, Evictions uint64
	// Opened is when the connection was, by the driver's clock, in nanoseconds; 0 = not known.
	Opened int64
	// Shard that the server holds.
	Shard topology.ShardID
	// Promoted is called when the server, which was a standby, says that it is none any more, in the middle of the connection's messages; nil = it is of no
	// interest.
	Promoted func()
	// Hears tells whether notifications by a process of the server are for whoever has the connection, and as whose they are told; nil = all are,
	// as the process's own.
	Hears func(pid uint32) (teller uint32, heard bool)
	// Deaf: notifications are for nobody: whoever has the connection listens elsewhere.
	Deaf bool
	// Voice tells for whom the server's process speaks, Audience who heeds the tenant in it; nil = nobody.
	Voice    Voice
	Audience Audience
	// Have are the session-level settings on the server beyond those of its login.
	Have *state.Set

	// said is the epoch up to which a tenant may have notified, of which not all may have arrived; 0 = all has, speaking = it may still.
	said  uint64
	owner Owner // never nil
	steps []Step
	head  int
	done  Step // the step that Ready is called with
	doubt doubt
	// failed: an error was answered; what follows up to Sync is skipped (PostgreSQL manual, 55.2.3).
	failed bool
	// open: messages were answered that no Sync has ended: an implicit transaction may be under way.
	open     bool
	flushing bool  // an owner is being called for a step that is not popped yet
	err      error // what broke it

	in      []byte  // a message that is not complete yet
	lent    *[]byte // what in is made of
	held    []byte  // see Held
	stream  int     // bytes to come of a message whose head was relayed or dropped already
	relay   bool    // whether they are relayed
	tx      pgwire.TxStatus
	taint   Taint
	visits  visits
	params  Params
	maxSize int
	pipe    *pipe // nil = the machine is at work

	// Link is the driver's.
	Link any
}

// Errors that break a connection.
var (
	// ErrProtocol is the root of everything a server may not send.
	ErrProtocol = errors.New("server broke the protocol")
	// ErrServerClosed: the server closed the connection, or announced it by a FATAL error.
	ErrServerClosed = errors.New("server closed the connection")
	// ErrLead: the server refused what had to precede a statement.
	ErrLead = errors.New("server refused the beginning of a transaction")
)

// Bounds of what is kept when it is empty: of a buffer for others, and of a connection's own queue.
const (
	keepBytes = 128 << 10
	keepSteps = 32
)

// inputs are lent to connections while a message is not complete: an idle one has none.
var inputs = sync.Pool{New: func() any { return new([]byte) }}

// New returns the machine of a connection that has just logged in. maxMessage bounds messages that have to be held whole, in bytes.
func New(l *Login, maxMessage int) *Conn {
	c := &Conn{PID: l.PID, Secret: l.Secret, Start: l.Start, owner: nobody{}, tx: pgwire.TxIdle, maxSize: maxMessage}
	for _, p := range l.Params {
		c.params.set(p.Name, p.Value)
	}
	return c
}

// Own gives the connection to o; nil = to nobody (it idles in its pool, or is about to be closed).
func (c *Conn) Own(o Owner) {
	if o == nil {
		o = nobody{}
	}
	c.owner = o
}

// Tx is the transaction status of the last ReadyForQuery.
func (c *Conn) Tx() pgwire.TxStatus { return c.tx }

// Params are the values that the server reported.
func (c *Conn) Params() *Params { return &c.params }

// Owed are the steps whose answers are; they are the connection's.
func (c *Conn) Owed() []Step { return c.steps[c.head:] }

// Pending is the number of answers owed.
func (c *Conn) Pending() int { return len(c.steps) - c.head }

// Synced reports whether the answers owed, if any, end with a ReadyForQuery.
func (c *Conn) Synced() bool {
	for i := len(c.steps) - 1; i >= c.head; i-- {
		switch c.steps[i].Kind {
		case StepLocal:
		case StepSync, StepQuery:
			return true
		case StepParse, StepBind, StepClose, StepDescribeStatement, StepDescribePortal, StepExecute:
			return false
		}
	}
	return !c.open
}

// Clean reports whether the connection may serve somebody else: nothing owed, no transaction, not even an implicit one, no leftovers.
func (c *Conn) Clean() bool { return c.taint == 0 && c.quiet() }

// Calmable reports whether nothing is in the way of that but that the server was asked to cancel: see NewCalmer.
func (c *Conn) Calmable() bool { return c.taint == TaintCancelled && c.quiet() }

func (c *Conn) quiet() bool {
	return c.Pending() == 0 && c.tx == pgwire.TxIdle && !c.open && !c.failed && c.stream == 0 && len(c.in) == 0 && c.err == nil
}

// MidMessage reports whether a part of a message was relayed and its rest is missing: the client's stream is beyond repair then.
func (c *Conn) MidMessage() bool {
	if c.pipe != nil {
		return c.pipe.mid()
	}
	return c.stream > 0 && c.relay
}

// Deallocated notes that the server has dropped its named prepared statements (DEALLOCATE ALL, DISCARD ALL) by the step that is being
// answered. Those that were asked for behind it stay.
func (c *Conn) Deallocated() {
	c.Statements.Clear()
	for i := c.head; i < len(c.steps); i++ {
		switch s := &c.steps[i]; {
		case s.Prepared == nil || s.Unnamed:
		case s.prepares():
			c.Statements.Add(s.Prepared)
		case s.Kind == StepClose:
			c.Statements.Remove(s.Prepared)
		}
	}
}

// Ask notes that the messages for s are about to be sent, in this order.
func (c *Conn) Ask(s Step) {
	if c.head == len(c.steps) && c.head > 0 {
		c.steps, c.head = c.steps[:0], 0
	}
	switch {
	case s.Kind == StepParse:
		c.Parses++
	case s.Kind == StepClose && s.Internal && !s.Stale && s.Prepared != nil:
		c.Evictions++
	}
	c.steps = append(c.steps, s)
}

// Flush answers local steps that have come to the head of the queue. Whoever asks only for local steps must call it; Feed does so itself.
func (c *Conn) Flush() {
	if c.flushing { // further up the stack, which goes on with what was asked for meanwhile
		return
	}
	if c.failed {
		c.skip(c.head)
	}
	c.flushing = true
	for c.head < len(c.steps) && c.steps[c.head].Kind == StepLocal {
		s := &c.steps[c.head]
		if !s.Internal {
			c.owner.Relay(s.Answer)
		}
		c.owner.Complete(s, nil)
		c.pop()
	}
	c.flushing = false
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

// Held is, while an owner is called by Failed for a Describe, the ParameterDescription in front of the error, which was not relayed; nil = none.
func (c *Conn) Held() []byte { return c.held }

// Changed notes that tables have changed under the prepared statements: each is prepared anew at its next use.
func (c *Conn) Changed() {
	c.Statements.Change()
	c.Unnamed = nil
}

// Feed takes bytes from the server. An error breaks the connection: it must be closed.
func (c *Conn) Feed(b []byte) error {
	if c.err != nil {
		return c.err
	}
	if c.pipe != nil {
		c.err = c.pipe.feed(b)
		c.owner.Relay(b)
		return c.err
	}
	c.Flush()
	if c.stream > 0 {
		n := min(c.stream, len(b))
		if c.relay && n > 0 {
			c.owner.Relay(b[:n])
		}
		c.stream -= n
		b = b[n:]
	}
	if c.err = c.feed(b); c.err != nil {
		c.in = nil
	}
	c.shrink()
	return c.err
}

func (c *Conn) feed(b []byte) error {
	if len(c.in) > 0 {
		whole := append(c.in, b...)
		c.in = whole[:0] // for the owner, who may let go of the connection, nothing is left
		n, err := c.consume(whole)
		if err != nil {
			return err
		}
		c.in = whole[:copy(whole, whole[n:])]
		return nil
	}
	n, err := c.consume(b)
	if err != nil {
		return err
	}
	if n < len(b) {
		c.lent = inputs.Get().(*[]byte) //nolint:forcetypeassert // it holds nothing else
		c.in = append((*c.lent)[:0], b[n:]...)
	}
	return nil
}

// shrink gives back what a large message or a long pipeline took.
func (c *Conn) shrink() {
	if c.lent != nil && len(c.in) == 0 {
		if cap(c.in) <= keepBytes {
			*c.lent = c.in[:0]
			inputs.Put(c.lent)
		}
		c.in, c.lent = nil, nil
	}
	switch {
	case c.head == len(c.steps):
		c.steps, c.head = c.steps[:0], 0
		if cap(c.steps) > keepSteps {
			c.steps = nil
		}
	case c.head >= keepSteps && 2*c.head >= len(c.steps):
		n := copy(c.steps, c.steps[c.head:])
		clear(c.steps[n:])
		c.steps, c.head = c.steps[:n], 0
	}
}

// consume handles the messages in b and returns how many bytes it has done with. Runs of messages that are relayed as they are go out in one piece.
func (c *Conn) consume(b []byte) (int, error) {
	start, pos := 0, 0 // b[start:pos] is to be relayed
	for {
		typ, total, ok := pgwire.Header(b[pos:])
		if !ok {
			break
		}
		if total < 0 {
			return 0, fmt.Errorf("%w: message %q of invalid length", ErrProtocol, typ)
		}
		cur := c.current()
		if typ == pgwire.MsgDataRow && cur != nil && !cur.Internal && cur.carries(typ) && total > 0 && pos+total <= len(b) {
			pos += total // most messages are such
			continue
		}
		plain := false // it ends no step
		switch typ {
		case pgwire.MsgParameterDescription:
			if cur == nil || !cur.carries(typ) {
				return 0, c.outOfTurn(typ)
			}
			plain = true
			if total > len(b)-pos {
				break
			}
			next, n, ok := pgwire.Header(b[pos+total:])
			if !ok || next == pgwire.MsgErrorResponse && n > len(b)-pos-total {
				// What follows at once may be an error, whose owner decides on both. (A message that is too long is found out below.)
				if total <= c.maxSize && n <= c.maxSize {
					if start < pos {
						c.owner.Relay(b[start:pos])
					}
					return pos, nil
				}
			}
			if next == pgwire.MsgErrorResponse && !cur.Internal {
				if start < pos {
					c.owner.Relay(b[start:pos])
				}
				c.held = b[pos : pos+total]
				pos += total
				start = pos
				continue
			}
			if cur.Shape != nil {
				cur.learnParams(b[pos+pgwire.HeaderBytes : pos+total])
			}
		case pgwire.MsgDataRow, pgwire.MsgCopyData, pgwire.MsgCopyOut, pgwire.MsgRowDescription, pgwire.MsgFunctionCallResponse:
			if cur == nil || !cur.carries(typ) {
				return 0, c.outOfTurn(typ)
			}
			plain = typ != pgwire.MsgRowDescription || cur.Kind == StepQuery
		case pgwire.MsgNoticeResponse, pgwire.MsgCopyDone:
			if typ == pgwire.MsgCopyDone && (cur == nil || !cur.carries(typ)) {
				return 0, c.outOfTurn(typ)
			}
			plain = true
		}
		if !streams(typ) {
			if total > c.maxSize {
				return 0, fmt.Errorf("%w: message %q of %d bytes is too long", ErrProtocol, typ, total)
			}
			if pos+total > len(b) {
				break
			}
		}
		if plain {
			forward := c.forwards(cur)
			if !forward && start < pos {
				c.owner.Relay(b[start:pos])
			}
			pos += total
			if !forward {
				start = pos
			}
			if pos <= len(b) {
				continue
			}
			// A large message is passed on as it comes.
			c.stream, c.relay = pos-len(b), forward
			pos = len(b)
			break
		}
		// Everything else may end a step or is not for the client: what came before goes out first, in order.
		err := c.message(typ, b[start:pos+total], pos-start)
		c.held = nil
		if err != nil {
			return 0, err
		}
		pos += total
		start = pos
	}
	if start < pos {
		c.owner.Relay(b[start:pos])
	}
	return pos, nil
}

// streams reports whether messages of the given type are passed on, or dropped, without being held whole.
func streams(typ byte) bool {
	return typ == pgwire.MsgDataRow || typ == pgwire.MsgCopyData || typ == pgwire.MsgNoticeResponse || typ == pgwire.MsgFunctionCallResponse
}

// forwards reports whether a message that ends no step is for the client: it belongs to a step of the client's, or comes
// between the client's steps.
func (c *Conn) forwards(cur *Step) bool {
	if cur == nil {
		return c.open || c.tx != pgwire.TxIdle
	}
	return !cur.Internal || cur.Tells
}

func (c *Conn) outOfTurn(typ byte) error {
	if s := c.current(); s != nil {
		return fmt.Errorf("%w: message %q in answer to %v", ErrProtocol, typ, s.Kind)
	}
	return fmt.Errorf("%w: message %q that nobody asked for", ErrProtocol, typ)
}
