package pgtest

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Step is one turn of a scripted conversation.
type Step = Handler

// Script runs the steps in order, then reads on until the client leaves. A client that leaves before the last step
// fails the test. Steps are made by the functions below or written in place: any func(*FakeConn) error.
func Script(steps ...Step) Handler {
	return func(c *FakeConn) error {
		for i, step := range steps {
			if err := step(c); err != nil {
				return fmt.Errorf("step %d of %d: %v", i+1, len(steps), err) //nolint:errorlint // a client that left is an error here, hence not wrapped
			}
		}
		return c.Drain()
	}
}

// PerConnection gives the first connection the first handler, and so on; the last one serves all later connections.
func PerConnection(handlers ...Handler) Handler {
	return func(c *FakeConn) error {
		return handlers[min(c.Number, len(handlers))-1](c)
	}
}

// Expect waits for messages of these kinds, such as "Parse", "Sync".
func Expect(names ...string) Step { return func(c *FakeConn) error { return c.Expect(names...) } }

// ExpectQuery waits for a Query with this text.
func ExpectQuery(sql string) Step { return func(c *FakeConn) error { return c.ExpectQuery(sql) } }

// Reply sends messages in one write.
func Reply(msgs ...pgproto3.BackendMessage) Step {
	return func(c *FakeConn) error { return c.Send(msgs...) }
}

// Cut sends the first n bytes of the messages and closes.
func Cut(n int, msgs ...pgproto3.BackendMessage) Step {
	return func(c *FakeConn) error { return c.Cut(n, msgs...) }
}

// Raw sends bytes.
func Raw(data []byte) Step { return func(c *FakeConn) error { return c.SendRaw(data) } }

// Stall goes silent until the server closes.
func Stall() Step { return (*FakeConn).Stall }

// HangUp closes the connection in order.
func HangUp() Step { return func(c *FakeConn) error { return c.Conn.Close() } }

// Reset closes the connection with a TCP reset.
func Reset() Step { return (*FakeConn).Reset }

// Ready is ReadyForQuery with a transaction status: 'I', 'T' or 'E'.
func Ready(status byte) *pgproto3.ReadyForQuery { return &pgproto3.ReadyForQuery{TxStatus: status} }

// Columns is a RowDescription of text columns.
func Columns(names ...string) *pgproto3.RowDescription {
	d := &pgproto3.RowDescription{}
	for _, name := range names {
		d.Fields = append(d.Fields, pgproto3.FieldDescription{
			Name: []byte(name), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1,
		})
	}
	return d
}

// Row is a DataRow of text values.
func Row(values ...string) *pgproto3.DataRow {
	r := &pgproto3.DataRow{}
	for _, v := range values {
		r.Values = append(r.Values, []byte(v))
	}
	return r
}

// Done is CommandComplete with a tag.
func Done(tag string) *pgproto3.CommandComplete {
	return &pgproto3.CommandComplete{CommandTag: []byte(tag)}
}

// Error is an ErrorResponse.
func Error(severity, code, message string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{
		Severity: severity, SeverityUnlocalized: severity, Code: code, Message: message, Routine: "fake",
	}
}

// Echo is a handler that answers every statement, simple or extended, with one row: the connection's number and the
// statement's text. BEGIN, COMMIT and ROLLBACK move the transaction status. It is enough of a server for tests of
// pooling that do not care about SQL.
func Echo() Handler {
	return func(c *FakeConn) error {
		e := echo{conn: c, status: 'I', statements: map[string]string{}, portals: map[string]string{}}
		for {
			msg, err := c.Receive()
			if err != nil {
				return err
			}
			done, err := e.answer(msg)
			if done || err != nil {
				return err
			}
		}
	}
}

type echo struct {
	conn       *FakeConn
	status     byte
	statements map[string]string // name → text
	portals    map[string]string
	out        []pgproto3.BackendMessage // sent at Sync, Flush or the end of a Query
}

func (e *echo) answer(msg pgproto3.FrontendMessage) (done bool, err error) {
	switch m := msg.(type) {
	case *pgproto3.Query:
		e.out = append(e.out, Columns("connection", "statement"))
		e.run(m.String)
		e.out = append(e.out, Ready(e.status))
		return false, e.flush()
	case *pgproto3.Parse:
		e.statements[m.Name] = m.Query
		e.out = append(e.out, &pgproto3.ParseComplete{})
	case *pgproto3.Bind:
		e.portals[m.DestinationPortal] = e.statements[m.PreparedStatement]
		e.out = append(e.out, &pgproto3.BindComplete{})
	case *pgproto3.Describe:
		if m.ObjectType == 'S' {
			e.out = append(e.out, &pgproto3.ParameterDescription{})
		}
		e.out = append(e.out, Columns("connection", "statement"))
	case *pgproto3.Execute:
		e.run(e.portals[m.Portal])
	case *pgproto3.Close:
		e.out = append(e.out, &pgproto3.CloseComplete{})
	case *pgproto3.Flush:
		return false, e.flush()
	case *pgproto3.Sync:
		e.out = append(e.out, Ready(e.status))
		return false, e.flush()
	case *pgproto3.Terminate:
		return true, nil
	default:
		return true, fmt.Errorf("echo: unexpected %T", msg)
	}
	return false, nil
}

func (e *echo) run(sql string) {
	tag := "SELECT 1"
	switch sql {
	case "BEGIN":
		e.status, tag = 'T', sql
	case "COMMIT", "ROLLBACK":
		e.status, tag = 'I', sql
	}
	e.out = append(e.out, Row(fmt.Sprint(e.conn.Number), sql), Done(tag))
}

func (e *echo) flush() error {
	err := e.conn.Send(e.out...)
	e.out = e.out[:0]
	return err
}
