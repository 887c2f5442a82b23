package backend

import (
	"encoding/binary"
	"fmt"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// pipe is what is known of a conversation whose bytes are passed on as they are: where the server's messages begin, and whether it owes anything.
type pipe struct {
	head    [pgwire.HeaderBytes]byte
	have    int   // bytes of head
	rest    int64 // bytes to come of a message
	asked   bool  // something was sent to it since its last ReadyForQuery
	streams bool  // it streams in both directions: it will not stop by itself
}

// msgCopyBoth is CopyBothResponse.
const msgCopyBoth = 'W'

// Pipe has everything that the server sends from now on relayed to the owner as it is, of whatever kind and in whatever order, for good: for walsenders,
// whose commands and streams are not the pooler's business. The connection can be used by nobody else afterwards.
func (c *Conn) Pipe() {
	c.pipe = &pipe{}
	c.taint |= TaintProtocol
}

// Piped reports whether Pipe was called.
func (c *Conn) Piped() bool { return c.pipe != nil }

// PipeAsked notes that something was sent to the server of a piped connection.
func (c *Conn) PipeAsked() { c.pipe.asked = true }

// PipeIdle reports whether the server of a piped connection has nothing to end: it awaits a command, or streams for as long as somebody listens.
func (c *Conn) PipeIdle() bool { return c.pipe.streams || !c.pipe.asked && !c.pipe.mid() }

// PipeStreams reports whether it streams in both directions.
func (c *Conn) PipeStreams() bool { return c.pipe.streams }

func (p *pipe) mid() bool { return p.have > 0 || p.rest > 0 }

// feed follows the messages in b.
func (p *pipe) feed(b []byte) error {
	for len(b) > 0 {
		if p.rest > 0 {
			n := min(p.rest, int64(len(b)))
			p.rest -= n
			b = b[n:]
			continue
		}
		n := copy(p.head[p.have:], b)
		p.have += n
		b = b[n:]
		if p.have < len(p.head) {
			return nil
		}
		p.have = 0
		size := int64(int32(binary.BigEndian.Uint32(p.head[1:]))) //nolint:gosec // a negative one is found out
		if size < 4 {
			return fmt.Errorf("%w: message %q of invalid length", ErrProtocol, p.head[0])
		}
		p.rest = size - 4
		switch p.head[0] {
		case msgCopyBoth:
			p.streams = true
		case pgwire.MsgCopyDone:
			p.streams = false
		case pgwire.MsgReadyForQuery:
			p.streams, p.asked = false, false
		}
	}
	return nil
}
