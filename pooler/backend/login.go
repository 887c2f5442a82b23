package backend

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Limits on what a server may send before its first ReadyForQuery.
const (
	maxLoginMessageBytes = 1 << 20
	maxLoginMessages     = 1000
	loginBufferBytes     = 4096
)

// Login is a connection that has just logged in and is idle. Whoever holds it owns Conn.
type Login struct {
	// Conn is a *net.TCPConn, a *net.UnixConn or a *tls.Conn, without deadlines.
	Conn net.Conn
	// Params are the server's ParameterStatus messages, in the order of their first report, each with its last value.
	Params []pgwire.Param
	// PID and Secret are for cancel requests; a server that gave none leaves Secret nil.
	PID    uint32
	Secret []byte
	// Start is when the server process began, in microseconds since 1970; 0 = it was not asked, or would not say.
	Start int64
	// Server is equal for connections to one running server, whatever its address leads to meanwhile; of a server that would not say, it is no other
	// connection's. Empty = it was not asked.
	Server string
	// Leftover is what the server sent behind ReadyForQuery, asynchronous messages at most; almost always empty. It comes before
	// everything that is read from Conn.
	Leftover []byte
	// Asked is whether the server answered DialOptions.Ask, Answers are the rows of it.
	Asked   bool
	Answers []string

	method pgwire.AuthType // the kind of proof that the server asked for, as in AuthenticationRequest; 0 = none
	from   string          // where it comes from for the server; empty = it was not asked, or does not know
}

// Dial connects to a server, over TLS if the options say so, and logs in with protocol 3.0. It blocks, and is heavy where the server wants
// SCRAM of a password (see auth.Client): not for the loop. Every error is a *DialError.
func Dial(ctx context.Context, o DialOptions) (*Login, error) {
	startup, err := o.startup()
	if err != nil {
		return nil, &DialError{Failure: FailureOptions, Address: o.Address, Err: err}
	}
	var l *login
	a, err := connect(ctx, o, func(a *attempt) error {
		l = &login{attempt: a, client: auth.NewClient(o.User, o.Credential, o.Auth)}
		if err := a.write(startup); err != nil {
			return err
		}
		if err := l.run(); err != nil {
			return err
		}
		if err := l.supported(); err != nil {
			return err
		}
		if o.Ask != "" {
			if err := l.ask(o.Ask); err != nil {
				return err
			}
		}
		if o.finds {
			if err := l.askFrom(); err != nil {
				return err
			}
		}
		if o.Sealed {
			if err := l.askStart(); err != nil {
				return err
			}
		}
		if o.Identified {
			if err := l.askServer(); err != nil {
				return err
			}
		}
		l.result.Leftover = append([]byte(nil), l.buf...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	done := l.result // apart from the buffers
	done.Conn = a.conn
	return &done, nil
}

// startup builds the startup packet.
func (o *DialOptions) startup() ([]byte, error) {
	if o.User == "" {
		return nil, errors.New("no user to log in")
	}
	params := []pgwire.Param{{Name: "user", Value: o.User}}
	if o.Database != "" {
		params = append(params, pgwire.Param{Name: "database", Value: o.Database})
	}
	for _, p := range o.Params {
		if p.Name == "user" || p.Name == "database" {
			return nil, errors.New("startup parameter " + p.Name + " is not a parameter but the identity")
		}
		params = append(params, p)
	}
	for _, p := range params {
		if strings.IndexByte(p.Name, 0) >= 0 || strings.IndexByte(p.Value, 0) >= 0 {
			return nil, errors.New("startup parameter with a zero byte") // a name cut short could be another one's
		}
	}
	packet := pgwire.AppendStartupMessage(nil, pgwire.Version30, params)
	if len(packet) > pgwire.MaxStartupBytes {
		return nil, errors.New("startup parameters are longer than PostgreSQL accepts")
	}
	return packet, nil
}

// login is the conversation from the startup packet to ReadyForQuery.
type login struct {
	*attempt
	client        *auth.Client
	authenticated bool
	authenticates bool // the server has said how

	chunk    [loginBufferBytes]byte
	buf      []byte // read and not handled yet
	messages int
	result   Login
}

func (l *login) run() error {
	for {
		typ, body, err := l.next()
		if err != nil {
			return err
		}
		ready, err := l.handle(typ, body)
		if err != nil {
			return err
		}
		if ready {
			l.result.Leftover = append([]byte(nil), l.buf...)
			return nil
		}
	}
}

// next reads one message; its body is valid until the following call.
func (l *login) next() (typ byte, body []byte, err error) {
	l.messages++
	if l.messages > maxLoginMessages {
		return 0, nil, failed(FailureProtocol, "%w: more than %d messages during login", ErrProtocol, maxLoginMessages)
	}
	for {
		typ, total, ok := pgwire.Header(l.buf)
		if ok && (total < 0 || total > maxLoginMessageBytes) {
			return 0, nil, failed(FailureProtocol, "%w: message of type %q and invalid length during login", ErrProtocol, typ)
		}
		if ok && total <= len(l.buf) {
			body = l.buf[pgwire.HeaderBytes:total:total]
			l.buf = l.buf[total:]
			return typ, body, nil
		}
		// The buffer grows with what has arrived, not with what a length word promises.
		n, err := l.conn.Read(l.chunk[:])
		l.buf = append(l.buf, l.chunk[:n]...)
		switch {
		case n > 0:
		case errors.Is(err, io.EOF):
			return 0, nil, failed(FailureUnreachable, "login: %w", ErrServerClosed)
		case err != nil:
			return 0, nil, failed(FailureUnreachable, "login: %w", err)
		}
	}
}

// handle acts on one message; ready = the login is complete.
func (l *login) handle(typ byte, body []byte) (ready bool, err error) {
	switch typ {
	case pgwire.MsgErrorResponse:
		return false, serverSays(body)
	case pgwire.MsgNoticeResponse:
		return false, nil
	}
	if !l.authenticated {
		if typ != pgwire.MsgAuthentication {
			return false, unexpected(typ)
		}
		return false, l.authenticate(body)
	}
	switch typ {
	case pgwire.MsgParameterStatus:
		name, value, err := pgwire.DecodeParameterStatus(body)
		if err != nil {
			return false, broken(typ, err)
		}
		l.param(string(name), string(value))
		return false, nil
	case pgwire.MsgBackendKeyData:
		pid, secret, err := pgwire.DecodeBackendKeyData(body)
		if err != nil {
			return false, broken(typ, err)
		}
		if l.result.Secret != nil {
			return false, unexpected(typ)
		}
		l.result.PID, l.result.Secret = pid, append([]byte(nil), secret...)
		return false, nil
	case pgwire.MsgReadyForQuery:
		tx, err := pgwire.DecodeReadyForQuery(body)
		if err != nil {
			return false, broken(typ, err)
		}
		if tx != pgwire.TxIdle {
			return false, failed(FailureProtocol, "%w: ready after login, but %v", ErrProtocol, tx)
		}
		return true, nil
	default:
		return false, unexpected(typ)
	}
}

func (l *login) authenticate(body []byte) error {
	if !l.authenticates && len(body) >= 4 {
		l.authenticates, l.result.method = true, pgwire.AuthType(binary.BigEndian.Uint32(body))
		if by := l.opts.by; by != nil && by.method != l.result.method {
			return failed(FailureAuth, "%w: another method of authentication there", errNoWay)
		}
	}
	out, done, err := l.client.Step(nil, body)
	switch {
	case errors.Is(err, auth.ErrProtocol):
		return failed(FailureProtocol, "%w", err)
	case err != nil:
		return failed(FailureAuth, "%w", err)
	}
	l.authenticated = done
	if len(out) == 0 {
		return nil
	}
	return l.write(out)
}

// OldestServer is the oldest major version of PostgreSQL that statements are sent to. Older ones read the same text otherwise than our
// parser: to them 0x7D0 is 0 AS x7d0, and a row would be looked for, or written, where it does not belong.
const OldestServer = 15

// supported tells whether the server reads SQL as our parser does.
func (l *login) supported() error {
	for _, p := range l.result.Params {
		if p.Name != "server_version" {
			continue
		}
		digits := strings.IndexFunc(p.Value+".", func(r rune) bool { return r < '0' || r > '9' })
		if major, err := strconv.Atoi(p.Value[:digits]); err != nil || major < OldestServer {
			return failed(FailureVersion, "the server is PostgreSQL %q; version %d or later is needed", p.Value, OldestServer)
		}
		return nil
	}
	return failed(FailureVersion, "the server does not tell its version; PostgreSQL %d or later is needed", OldestServer)
}

func (l *login) param(name, value string) {
	for i := range l.result.Params {
		if p := &l.result.Params[i]; p.Name == name {
			p.Value = value
			return
		}
	}
	l.result.Params = append(l.result.Params, pgwire.Param{Name: name, Value: value})
}

// serverSays classifies the error with which a server ends a login.
func serverSays(body []byte) error {
	e, err := pgwire.DecodeError(body)
	if err != nil {
		return broken(pgwire.MsgErrorResponse, err)
	}
	if strings.HasPrefix(e.Code, "28") {
		return failed(FailureAuth, "server refuses the login: %w", e)
	}
	return failed(FailureServer, "server refuses the connection: %w", e)
}

func unexpected(typ byte) error {
	return failed(FailureProtocol, "%w: unexpected message of type %q during login", ErrProtocol, typ)
}

func broken(typ byte, err error) error {
	return failed(FailureProtocol, "%w: message of type %q during login: %w", ErrProtocol, typ, err)
}
