package session

import (
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// consoleQuery runs a Query on the admin console.
func (s *Session) consoleQuery(sql []byte) bool {
	out, refusal, ok := s.consoleRun(string(sql), false)
	if !ok {
		return false
	}
	s.toClient(out)
	if refusal != nil {
		s.refuseUnit(refusal, true)
		return true
	}
	s.finish()
	return true
}

// consoleJob is the outcome of a console command.
type consoleJob struct {
	sql     string
	done    bool
	out     []byte
	refusal *pgwire.Error
}

// consoleRun runs sql off the loop; ok is false while that goes on.
func (s *Session) consoleRun(sql string, extended bool) (out []byte, refusal *pgwire.Error, ok bool) {
	j := &s.hs.console
	if !j.done {
		*j = consoleJob{sql: sql}
		console := s.acct.Console
		done := s.drv.Offload(func() {
			j.out, j.refusal = console.Run(nil, sql, extended)
			j.done = true
		}, true)
		if !done {
			s.wait = waitJob
			return nil, nil, false
		}
	}
	out, refusal = j.out, j.refusal
	*j = consoleJob{}
	return out, refusal, true
}

// consoleStatement is a prepared statement or portal of a console session: its text.
type consoleStatement struct{ sql string }

// consoleBatch answers an extended batch on the console, message by message. A batch holds at most one command that is executed; it waits
// for that one with its earlier answers held back, so that nothing is answered twice.
func (s *Session) consoleBatch(b []byte, how end) bool {
	var out []byte
	if s.hs.statements == nil {
		s.hs.statements = map[string]consoleStatement{}
		s.hs.portals = map[string]consoleStatement{}
	}
	var refusal *pgwire.Error
	executes := 0
	for pos := 0; pos < len(b) && refusal == nil; {
		typ, total, _ := pgwire.Header(b[pos:])
		if typ == pgwire.MsgExecute {
			if executes++; executes > 1 {
				refusal = pgwire.Errorf(pgwire.CodeFeatureNotSupported, "the console runs one command per Sync")
				break
			}
		}
		body := b[pos+pgwire.HeaderBytes : pos+total]
		pos += total
		var ok bool
		if out, refusal, ok = s.consoleMessage(out, typ, body); !ok {
			return false
		}
	}
	s.toClient(out)
	if refusal != nil {
		s.refuseUnit(refusal, how == endSync)
		return true
	}
	if how == endSync {
		s.sync()
	}
	return true
}

func (s *Session) consoleMessage(out []byte, typ byte, body []byte) (_ []byte, refusal *pgwire.Error, ok bool) {
	switch typ {
	case pgwire.MsgParse:
		p, err := pgwire.DecodeParse(body)
		if err != nil {
			return out, asError(err), true
		}
		s.hs.statements[string(p.Name)] = consoleStatement{string(p.SQL)}
		return pgwire.AppendParseComplete(out), nil, true
	case pgwire.MsgBind:
		bind, err := pgwire.DecodeBind(body)
		if err != nil {
			return out, asError(err), true
		}
		st, ok := s.hs.statements[string(bind.Statement)]
		if !ok {
			return out, noStatement(string(bind.Statement)), true
		}
		s.hs.portals[string(bind.Portal)] = st
		return pgwire.AppendBindComplete(out), nil, true
	case pgwire.MsgDescribe:
		t, err := pgwire.DecodeDescribe(body)
		if err != nil {
			return out, asError(err), true
		}
		of := s.hs.portals
		if t.Kind == pgwire.TargetStatement {
			of = s.hs.statements
			out = pgwire.AppendParameterDescription(out, nil)
		}
		columns, refusal := s.acct.Console.Columns(of[string(t.Name)].sql)
		if refusal != nil {
			return out, refusal, true
		}
		if columns == nil {
			return pgwire.AppendNoData(out), nil, true
		}
		return pgwire.AppendRowDescription(out, columns), nil, true
	case pgwire.MsgExecute:
		e, err := pgwire.DecodeExecute(body)
		if err != nil {
			return out, asError(err), true
		}
		st, ok := s.hs.portals[string(e.Portal)]
		if !ok {
			return out, pgwire.Errorf(pgwire.CodeInvalidCursorName, "portal %q does not exist", e.Portal), true
		}
		answer, refusal, ok := s.consoleRun(st.sql, true)
		return append(out, answer...), refusal, ok
	case pgwire.MsgClose:
		t, err := pgwire.DecodeClose(body)
		if err != nil {
			return out, asError(err), true
		}
		if t.Kind == pgwire.TargetStatement {
			delete(s.hs.statements, string(t.Name))
		} else {
			delete(s.hs.portals, string(t.Name))
		}
		return pgwire.AppendCloseComplete(out), nil, true
	}
	return out, nil, true
}
