package backend

import (
	"strconv"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// startQuery asks for what pg_stat_activity has of the own process, by a function that pgkennel secure makes: tenants may not look there themselves.
const startQuery = "SELECT pgkennel.backend_start()"

// askStart finds out when the server process began. A database that can't say has not been prepared for sealed tenants. The login goes on without: who is
// none may work there, and seals can't be made.
func (l *login) askStart() error {
	if err := l.write(pgwire.AppendQuery(nil, startQuery)); err != nil {
		return err
	}
	for {
		typ, body, err := l.next()
		if err != nil {
			return err
		}
		switch typ {
		case pgwire.MsgDataRow:
			row, err := pgwire.DecodeDataRow(nil, body)
			if err != nil {
				return broken(typ, err)
			}
			if len(row) != 1 {
				return unexpected(typ)
			}
			if l.result.Start, err = strconv.ParseInt(string(row[0]), 10, 64); err != nil {
				l.result.Start = 0
			}
		case pgwire.MsgRowDescription, pgwire.MsgCommandComplete, pgwire.MsgNoticeResponse:
		case pgwire.MsgErrorResponse:
			l.result.Start = 0
		case pgwire.MsgParameterStatus:
			if _, err := l.handle(typ, body); err != nil {
				return err
			}
		case pgwire.MsgReadyForQuery:
			_, err := l.handle(typ, body)
			return err
		default:
			return unexpected(typ)
		}
	}
}
