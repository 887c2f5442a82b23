package backend

import (
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// maxAnswers bounds what is kept of the rows that Ask gives.
const maxAnswers = 100

// ask runs DialOptions.Ask, by which nothing of the session changes, and keeps the rows in Login.Answers.
func (l *login) ask(sql string) error {
	// Names in it mean what they do in the catalogs, whatever search_path the server gives to the login.
	if err := l.write(pgwire.AppendQuery(nil, "BEGIN READ ONLY; SET LOCAL search_path TO pg_catalog; SET LOCAL standard_conforming_strings TO on; "+sql+"; COMMIT")); err != nil {
		return err
	}
	var refused error
	for {
		typ, body, err := l.next()
		if err != nil {
			return err
		}
		switch typ {
		case pgwire.MsgErrorResponse:
			e, err := pgwire.DecodeError(body)
			if err != nil {
				return broken(typ, err)
			}
			if refused == nil {
				refused = failed(FailureAsk, "the server does not answer what was asked of the login: %w", e)
			}
		case pgwire.MsgDataRow:
			row, err := pgwire.DecodeDataRow(nil, body)
			if err != nil || len(row) != 1 {
				return failed(FailureProtocol, "%w: an answer to another question during login", ErrProtocol)
			}
			if len(l.result.Answers) < maxAnswers {
				l.result.Answers = append(l.result.Answers, string(row[0]))
			}
		case pgwire.MsgParameterStatus:
			name, value, err := pgwire.DecodeParameterStatus(body)
			if err != nil {
				return broken(typ, err)
			}
			l.param(string(name), string(value))
		case pgwire.MsgReadyForQuery:
			tx, err := pgwire.DecodeReadyForQuery(body)
			switch {
			case err != nil:
				return broken(typ, err)
			case refused != nil:
				return refused
			case tx != pgwire.TxIdle:
				return failed(FailureProtocol, "%w: ready after login, but %v", ErrProtocol, tx)
			}
			l.result.Asked = true
			return nil
		case pgwire.MsgCommandComplete, pgwire.MsgRowDescription, pgwire.MsgNoticeResponse, pgwire.MsgEmptyQuery:
		default:
			return unexpected(typ)
		}
	}
}
