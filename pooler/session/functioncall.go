package session

import (
	"encoding/binary"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Drivers call the functions of large objects by messages (manual, 55.2.5), and no others by now. What such a call may do is what a statement with the
// same call may: it goes where that would go, and is refused where that would be. Of others only a number is known: they run where nothing has to be
// found out about a statement, and nobody else gets the backend.

// largeObjects are the statements that stand for calls, by the function's OID.
var largeObjects = map[uint32][]byte{
	715:  standsFor("lo_create(0)"),
	764:  standsFor("lo_import('')"),
	765:  standsFor("lo_export(0, '')"),
	767:  standsFor("lo_import('', 0)"),
	952:  standsFor("lo_open(0, 0)"),
	953:  standsFor("lo_close(0)"),
	954:  standsFor("loread(0, 0)"),
	955:  standsFor("lowrite(0, '')"),
	956:  standsFor("lo_lseek(0, 0, 0)"),
	957:  standsFor("lo_creat(0)"),
	958:  standsFor("lo_tell(0)"),
	964:  standsFor("lo_unlink(0)"),
	1004: standsFor("lo_truncate(0, 0)"),
	3170: standsFor("lo_lseek64(0, 0, 0)"),
	3171: standsFor("lo_tell64(0)"),
	3172: standsFor("lo_truncate64(0, 0)"),
}

// anyFunction is the Query that may do what any call may: it may leave anything, and change anything.
var anyFunction = []byte("LOAD ''\x00")

// standsFor is the body of a Query.
func standsFor(call string) []byte { return append([]byte("SELECT pg_catalog."+call), 0) }

// functionCall handles a FunctionCall. It returns false where it has to wait; it is called again then with the same bytes.
func (s *Session) functionCall(body, frame []byte) bool {
	if s.unit.waitsPlanned {
		return s.sendQuery(s.unit.message, s.unit.plan, frame)
	}
	if len(body) >= 4 {
		if sql := largeObjects[binary.BigEndian.Uint32(body)]; sql != nil {
			return s.queryOf(nil, sql, frame)
		}
	}
	s.start()
	if s.plain() {
		return s.queryOf(nil, anyFunction, frame)
	}
	if s.awaitsSoFar() {
		return false // as a Query
	}
	if s.tx == pgwire.TxFailed && !s.open {
		s.refuseUnit(errInFailedTransaction, true)
		return true
	}
	s.refuseUnit(pgwire.Errorf(pgwire.CodeFeatureNotSupported, "function call messages are not supported but for large objects").
		WithHint("Call the function by SELECT.").WithRoutine("function_call"), true)
	return true
}
