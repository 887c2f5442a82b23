package backend

import (
	"crypto/rand"
	"strconv"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// maxAnswers bounds what is kept of the rows that Ask gives.
const maxAnswers = 100

// ask runs DialOptions.Ask, by which nothing of the session changes, and keeps the rows in Login.Answers.
func (l *login) ask(sql string) error {
	// Names in it mean what they do in the catalogs, whatever search_path the server gives to the login.
	refused, err := l.query("SET TRANSACTION READ ONLY; SET LOCAL search_path TO pg_catalog; SET LOCAL standard_conforming_strings TO on; "+sql, func(value []byte) {
		if len(l.result.Answers) < maxAnswers {
			l.result.Answers = append(l.result.Answers, string(value))
		}
	})
	switch {
	case err != nil:
		return err
	case refused != nil:
		return failed(FailureAsk, "the server does not answer what was asked of the login: %w", refused)
	}
	l.result.Asked = true
	return nil
}

// startQuery asks for what pg_stat_activity has of the own process, by a function that pgkennel secure makes: tenants may not look there themselves.
const startQuery = "SELECT pgkennel.backend_start()"

// askStart finds out when the server process began. A database that can't say has not been prepared for sealed tenants. The login goes on without: who is
// none may work there, and seals can't be made.
func (l *login) askStart() error {
	refused, err := l.query(startQuery, func(value []byte) {
		l.result.Start, _ = strconv.ParseInt(string(value), 10, 64) // 0: it is none
	})
	if refused != nil {
		l.result.Start = 0
	}
	return err
}

// serverQuery asks for what no two servers have in common: the system identifier, which copies of one share, and when it was started, in microseconds. Every
// role may ask, and no setting changes how it is written.
const serverQuery = "SELECT pg_catalog.concat(system_identifier, ' ', pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.pg_postmaster_start_time()), 'YYYYMMDDHH24MISSUS')) " +
	"FROM pg_catalog.pg_control_system()"

// askServer finds out which server it is. The login goes on without.
func (l *login) askServer() error {
	refused, err := l.query(serverQuery, func(value []byte) { l.result.Server = string(value) })
	if refused != nil || l.result.Server == "" {
		l.result.Server = rand.Text()
	}
	return err
}

// fromQuery asks where the connection comes from. It has no row of a unix socket.
const fromQuery = "SELECT pg_catalog.concat(CASE WHEN pg_catalog.family(a) OPERATOR(pg_catalog.=) 6 THEN '[' END, pg_catalog.host(a), CASE WHEN pg_catalog.family(a) OPERATOR(pg_catalog.=) 6 THEN ']' END, " +
	"':', pg_catalog.inet_client_port()) FROM pg_catalog.inet_client_addr() a WHERE a IS NOT NULL"

// askFrom finds that out. The login goes on without.
func (l *login) askFrom() error {
	refused, err := l.query(fromQuery, func(value []byte) { l.result.from = string(value) })
	if refused != nil {
		l.result.from = ""
	}
	return err
}

// query runs SQL, in one transaction, whose rows have one column, and calls row for each. refused is what the server has against it; the login may go on.
func (l *login) query(sql string, row func(value []byte)) (refused, err error) {
	if err := l.write(pgwire.AppendQuery(nil, sql)); err != nil {
		return nil, err
	}
	for {
		typ, body, err := l.next()
		if err != nil {
			return nil, err
		}
		switch typ {
		case pgwire.MsgErrorResponse:
			e, err := pgwire.DecodeError(body)
			if err != nil {
				return nil, broken(typ, err)
			}
			if refused == nil {
				refused = e
			}
		case pgwire.MsgDataRow:
			values, err := pgwire.DecodeDataRow(nil, body)
			if err != nil || len(values) != 1 {
				return nil, failed(FailureProtocol, "%w: an answer to another question during login", ErrProtocol)
			}
			row(values[0])
		case pgwire.MsgReadyForQuery:
			_, err := l.handle(typ, body)
			return refused, err
		case pgwire.MsgParameterStatus, pgwire.MsgNoticeResponse:
			if _, err := l.handle(typ, body); err != nil {
				return nil, err
			}
		case pgwire.MsgCommandComplete, pgwire.MsgRowDescription, pgwire.MsgEmptyQuery:
		default:
			return nil, unexpected(typ)
		}
	}
}
