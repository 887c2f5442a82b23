package session

import "github.com/pgkennel/pgkennel/pooler/pgwire"

// smallMessage is the length of messages that hold a name or two, at most; PostgreSQL's PQ_SMALL_MESSAGE_LIMIT and the type's byte.
const smallMessage = 10_000 + 1

// admits ends the session if the header of its client's next message is none of the protocol's, or announces more than such a message may
// have: before a byte of it is waited for.
func (s *Session) admits(typ byte, total int) bool {
	longest := s.sh.MaxMessage
	switch typ {
	case pgwire.MsgQuery, pgwire.MsgParse, pgwire.MsgBind, pgwire.MsgFunctionCall, pgwire.MsgCopyData:
	case pgwire.MsgDescribe, pgwire.MsgExecute, pgwire.MsgClose, pgwire.MsgFlush, pgwire.MsgSync, pgwire.MsgTerminate, pgwire.MsgCopyDone, pgwire.MsgCopyFail:
		longest = min(longest, smallMessage)
	default:
		s.fatal(pgwire.Fatalf(pgwire.CodeProtocolViolation, "invalid frontend message type %d", typ), CloseProtocol)
		return false
	}
	if total < 0 || total > longest {
		s.fatal(pgwire.Fatalf(pgwire.CodeProtocolViolation, "invalid message length"), CloseProtocol)
		return false
	}
	return true
}
