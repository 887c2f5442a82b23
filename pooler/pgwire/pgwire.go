// Package pgwire is the bytes of PostgreSQL's frontend/backend protocol, versions 3.0 and 3.2: framing, startup packets, the
// messages we act on in both directions, and errors with their SQLSTATE.
//
// It owns no socket, no buffer and no policy, starts no goroutine and reads no clock. Nothing on the way of a statement
// allocates: decoders return views into the body they are given (valid as long as the caller keeps those bytes), and
// encoders append to the caller's slice.
//
// Words: a message is one type byte, a length word and a body; the startup packets have no type byte. Decoders take the
// body alone, encoders append the whole message. Every length is checked before it is used. Decode errors are *Error with
// the SQLSTATE and, where PostgreSQL has one, the text that PostgreSQL answers to the same bytes.
//
// Encoders write strings NUL-terminated. A string that contains a NUL byte is cut there: PostgreSQL cannot represent it, and
// anything else would let the rest of the string be read as the next field.
package pgwire

import "encoding/binary"

// HeaderBytes is the length of a message's header: the type byte and the length word.
const HeaderBytes = 5

// MaxMessageBytes is the largest total (type byte and length word included) a message can claim. It is a limit of the
// format, not a policy: whoever buffers messages sets a smaller one.
const MaxMessageBytes = 1<<31 - 1

// Messages a client sends.
const (
	MsgBind         byte = 'B'
	MsgClose        byte = 'C'
	MsgDescribe     byte = 'D'
	MsgExecute      byte = 'E'
	MsgFunctionCall byte = 'F'
	MsgFlush        byte = 'H'
	MsgParse        byte = 'P'
	MsgPassword     byte = 'p' // PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse share the type
	MsgQuery        byte = 'Q'
	MsgSync         byte = 'S'
	MsgTerminate    byte = 'X'
	MsgCopyFail     byte = 'f'
)

// Messages both sides send.
const (
	MsgCopyDone byte = 'c'
	MsgCopyData byte = 'd'
)

// Messages a server sends.
const (
	MsgParseComplete            byte = '1'
	MsgBindComplete             byte = '2'
	MsgCloseComplete            byte = '3'
	MsgNotification             byte = 'A'
	MsgCommandComplete          byte = 'C'
	MsgDataRow                  byte = 'D'
	MsgErrorResponse            byte = 'E'
	MsgCopyIn                   byte = 'G'
	MsgCopyOut                  byte = 'H'
	MsgEmptyQuery               byte = 'I'
	MsgBackendKeyData           byte = 'K'
	MsgNoticeResponse           byte = 'N'
	MsgAuthentication           byte = 'R'
	MsgParameterStatus          byte = 'S'
	MsgRowDescription           byte = 'T'
	MsgFunctionCallResponse     byte = 'V'
	MsgCopyBoth                 byte = 'W'
	MsgReadyForQuery            byte = 'Z'
	MsgNoData                   byte = 'n'
	MsgPortalSuspended          byte = 's'
	MsgParameterDescription     byte = 't'
	MsgNegotiateProtocolVersion byte = 'v'
)

// Header reads the header of the first message in b: its type and its total length including type byte and length word. ok is
// false while b is too short to hold a header. total is -1 when the length word cannot be true (it counts itself, so less
// than 4 is malformed, and so is what PostgreSQL reads as negative); the connection cannot be resynchronised after that.
func Header(b []byte) (typ byte, total int, ok bool) {
	if len(b) < HeaderBytes {
		return 0, 0, false
	}
	n := binary.BigEndian.Uint32(b[1:HeaderBytes])
	if n-4 > MaxMessageBytes-HeaderBytes { // n < 4 wraps around to a huge value
		return b[0], -1, true
	}
	return b[0], int(n) + 1, true
}

// TxStatus is the transaction status that ReadyForQuery carries.
type TxStatus byte

// The three states PostgreSQL reports.
const (
	TxIdle   TxStatus = 'I' // not in a transaction block
	TxActive TxStatus = 'T' // in a transaction block
	TxFailed TxStatus = 'E' // in a failed transaction block: only its end is accepted
)

// Valid reports whether s is one of the three states.
func (s TxStatus) Valid() bool { return s == TxIdle || s == TxActive || s == TxFailed }

// String names the state as PostgreSQL's manual does.
func (s TxStatus) String() string {
	switch s {
	case TxIdle:
		return "idle"
	case TxActive:
		return "in transaction"
	case TxFailed:
		return "in failed transaction"
	default:
		return "unknown"
	}
}

// ClientMessageName names a message type a client sends, for logs and tests; "unknown" for any other byte.
func ClientMessageName(typ byte) string {
	if n := clientNames[typ]; n != "" {
		return n
	}
	return "unknown"
}

// ServerMessageName names a message type a server sends, for logs and tests; "unknown" for any other byte.
func ServerMessageName(typ byte) string {
	if n := serverNames[typ]; n != "" {
		return n
	}
	return "unknown"
}

var clientNames = [256]string{
	MsgBind: "Bind", MsgClose: "Close", MsgDescribe: "Describe", MsgExecute: "Execute", MsgFunctionCall: "FunctionCall",
	MsgFlush: "Flush", MsgParse: "Parse", MsgPassword: "Password", MsgQuery: "Query", MsgSync: "Sync",
	MsgTerminate: "Terminate", MsgCopyFail: "CopyFail", MsgCopyDone: "CopyDone", MsgCopyData: "CopyData",
}

var serverNames = [256]string{
	MsgParseComplete: "ParseComplete", MsgBindComplete: "BindComplete", MsgCloseComplete: "CloseComplete",
	MsgNotification: "NotificationResponse", MsgCommandComplete: "CommandComplete", MsgDataRow: "DataRow",
	MsgErrorResponse: "ErrorResponse", MsgCopyIn: "CopyInResponse", MsgCopyOut: "CopyOutResponse",
	MsgEmptyQuery: "EmptyQueryResponse", MsgBackendKeyData: "BackendKeyData", MsgNoticeResponse: "NoticeResponse",
	MsgAuthentication: "Authentication", MsgParameterStatus: "ParameterStatus", MsgRowDescription: "RowDescription",
	MsgFunctionCallResponse: "FunctionCallResponse", MsgCopyBoth: "CopyBothResponse", MsgReadyForQuery: "ReadyForQuery",
	MsgNoData: "NoData", MsgPortalSuspended: "PortalSuspended", MsgParameterDescription: "ParameterDescription",
	MsgNegotiateProtocolVersion: "NegotiateProtocolVersion", MsgCopyDone: "CopyDone", MsgCopyData: "CopyData",
}
