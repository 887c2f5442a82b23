package admin

import (
	"context"
	"errors"
	"sync"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// maxNamed is how many prepared statements and how many portals one client may have.
const maxNamed = 256

// Conn is one client's conversation with the console, in both protocols. Handle takes its messages one by one; only Cancel may
// be called beside it.
type Conn struct {
	console *Console
	user    User

	status     pgwire.TxStatus
	skipping   bool // an extended message failed: everything up to Sync is passed over
	statements map[string]*command
	portals    map[string]*portal

	mu struct {
		sync.Mutex
		cancel context.CancelFunc // of the command that runs; nil = none
	}
}

// portal is a bound statement, and how far it was read.
type portal struct {
	command *command // nil: empty text
	formats []pgwire.Format
	result  *Statement // nil: not run yet
	next    int        // row
	over    bool       // CommandComplete was sent
}

// NewConn starts a conversation with a client that has logged in.
func (c *Console) NewConn(u User) *Conn {
	return &Conn{console: c, user: u, status: pgwire.TxIdle, statements: make(map[string]*command), portals: make(map[string]*portal)}
}

// Status is the transaction status that the client was told last.
func (n *Conn) Status() pgwire.TxStatus { return n.status }

// Cancel ends the command that runs now, if there is one, with 57014. It is for CancelRequest and safe for concurrent use.
func (n *Conn) Cancel() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.cancel != nil {
		n.mu.cancel()
	}
}

// Handle answers one message of the client's: its type and body. The answer is appended to dst; the body is not kept. It may
// block as long as the message's command takes, or until ctx ends. done reports that the conversation is over; dst then holds
// the last words.
func (n *Conn) Handle(ctx context.Context, dst []byte, typ byte, body []byte) (out []byte, done bool) {
	if n.skipping && typ != pgwire.MsgSync && typ != pgwire.MsgTerminate {
		return dst, false
	}
	var err error
	switch typ {
	case pgwire.MsgQuery:
		return n.query(ctx, dst, body), false
	case pgwire.MsgParse:
		dst, err = n.parse(dst, body)
	case pgwire.MsgBind:
		dst, err = n.bind(dst, body)
	case pgwire.MsgDescribe:
		dst, err = n.describe(dst, body)
	case pgwire.MsgExecute:
		dst, err = n.execute(ctx, dst, body)
	case pgwire.MsgClose:
		dst, err = n.close(dst, body)
	case pgwire.MsgFlush, pgwire.MsgCopyData, pgwire.MsgCopyDone, pgwire.MsgCopyFail: // no COPY: PostgreSQL passes over them too
	case pgwire.MsgSync:
		n.skipping = false
		if n.status == pgwire.TxIdle {
			clear(n.portals)
		}
		dst = pgwire.AppendReadyForQuery(dst, n.status)
	case pgwire.MsgFunctionCall:
		dst = pgwire.AppendErrorResponse(dst, n.failed(pgwire.Errorf(pgwire.CodeFeatureNotSupported, "the admin console has no functions to call")))
		dst = pgwire.AppendReadyForQuery(dst, n.status)
	case pgwire.MsgTerminate:
		return dst, true
	default:
		return pgwire.AppendErrorResponse(dst, pgwire.Fatalf(pgwire.CodeProtocolViolation, "invalid frontend message type %d", typ)), true
	}
	if err != nil {
		e, ok := errors.AsType[*pgwire.Error](err)
		if !ok {
			e = pgwire.Errorf(pgwire.CodeInternalError, "%s", err)
		}
		n.skipping = true
		dst = pgwire.AppendErrorResponse(dst, n.failed(e))
	}
	return dst, false
}

// failed marks the transaction block, if there is one.
func (n *Conn) failed(err *pgwire.Error) *pgwire.Error {
	if n.status == pgwire.TxActive {
		n.status = pgwire.TxFailed
	}
	return err
}

// query answers a Query.
func (n *Conn) query(ctx context.Context, dst, body []byte) []byte {
	delete(n.statements, "")
	delete(n.portals, "")
	result, err := n.simple(ctx, body)
	if err != nil {
		_ = n.failed(err)
	}
	dst = AppendResult(dst, &result, err)
	if n.status == pgwire.TxIdle {
		clear(n.portals)
	}
	return pgwire.AppendReadyForQuery(dst, n.status)
}

func (n *Conn) simple(ctx context.Context, body []byte) (Result, *pgwire.Error) {
	var r Result
	text, err := pgwire.DecodeQuery(body)
	if err != nil {
		return r, protocolError(err)
	}
	commands, perr := parse(string(text))
	if perr == nil {
		perr = n.console.allow(commands, n.user)
	}
	if perr != nil {
		return r, perr
	}
	for i := range commands {
		s, err := n.run(ctx, &commands[i])
		if err != nil {
			return r, err
		}
		r.Statements = append(r.Statements, s)
	}
	return r, nil
}

// run runs one command inside the transaction block that the client believes in.
func (n *Conn) run(ctx context.Context, k *command) (Statement, *pgwire.Error) {
	if n.status == pgwire.TxFailed && (k.verb != verbTransaction || k.tx != pgwire.TxIdle) {
		return Statement{}, pgwire.Errorf(pgwire.CodeInFailedTransaction, "current transaction is aborted, commands ignored until end of transaction block")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n.setCancel(cancel)
	defer n.setCancel(nil)
	s, err := n.console.run(ctx, k, n.user)
	if err != nil {
		return s, err
	}
	switch {
	case k.verb == verbTransaction && k.tx == pgwire.TxActive:
		if n.status == pgwire.TxActive {
			s.Notices = append(s.Notices, pgwire.Warningf(pgwire.CodeActiveTransaction, "there is already a transaction in progress"))
		}
		n.status = pgwire.TxActive
	case k.verb == verbTransaction:
		switch n.status {
		case pgwire.TxIdle:
			s.Notices = append(s.Notices, pgwire.Warningf(pgwire.CodeNoActiveTransaction, "there is no transaction in progress"))
		case pgwire.TxFailed:
			s.Tag = "ROLLBACK"
		case pgwire.TxActive:
		}
		n.status = pgwire.TxIdle
	case k.verb == verbDiscard && k.name == "all":
		clear(n.statements)
	}
	return s, nil
}

func (n *Conn) setCancel(cancel context.CancelFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.cancel = cancel
}

func (n *Conn) parse(dst, body []byte) ([]byte, error) {
	m, err := pgwire.DecodeParse(body)
	if err != nil {
		return dst, err
	}
	name := string(m.Name)
	if name == "" {
		delete(n.statements, name) // gone even if the new one is wrong
	}
	k, perr := parseOne(string(m.SQL))
	if perr != nil {
		return dst, perr
	}
	if name != "" {
		if _, taken := n.statements[name]; taken {
			return dst, pgwire.Errorf(pgwire.CodeDuplicatePreparedStatement, `prepared statement "%s" already exists`, shorten(name))
		}
		if len(n.statements) >= maxNamed {
			return dst, pgwire.Errorf(pgwire.CodeProgramLimitExceeded, "more than %d prepared statements on the admin console", maxNamed)
		}
	}
	n.statements[name] = k
	return pgwire.AppendParseComplete(dst), nil
}

func (n *Conn) statement(name []byte) (*command, *pgwire.Error) {
	k, ok := n.statements[string(name)]
	if !ok {
		if len(name) == 0 {
			return nil, pgwire.Errorf(pgwire.CodeInvalidStatementName, "unnamed prepared statement does not exist")
		}
		return nil, pgwire.Errorf(pgwire.CodeInvalidStatementName, `prepared statement "%s" does not exist`, shorten(string(name)))
	}
	return k, nil
}

func (n *Conn) bind(dst, body []byte) ([]byte, error) {
	m, err := pgwire.DecodeBind(body)
	if err != nil {
		return dst, err
	}
	k, perr := n.statement(m.Statement)
	if perr != nil {
		return dst, perr
	}
	if got := m.NumParams(); got != 0 {
		return dst, pgwire.Errorf(pgwire.CodeProtocolViolation, `bind message supplies %d parameters, but prepared statement "%s" requires 0`, got, shorten(string(m.Statement)))
	}
	var columns []pgwire.Column
	if k != nil {
		columns = k.columns()
	}
	formats, perr := checkFormats(&m, columns)
	if perr != nil {
		return dst, perr
	}
	name := string(m.Portal)
	if name != "" {
		if _, taken := n.portals[name]; taken {
			return dst, pgwire.Errorf(pgwire.CodeDuplicateCursor, `cursor "%s" already exists`, shorten(name))
		}
		if len(n.portals) >= maxNamed {
			return dst, pgwire.Errorf(pgwire.CodeProgramLimitExceeded, "more than %d portals on the admin console", maxNamed)
		}
	}
	n.portals[name] = &portal{command: k, formats: formats}
	return pgwire.AppendBindComplete(dst), nil
}

func (n *Conn) portal(name []byte) (*portal, *pgwire.Error) {
	p, ok := n.portals[string(name)]
	if !ok {
		return nil, pgwire.Errorf(pgwire.CodeInvalidCursorName, `portal "%s" does not exist`, shorten(string(name)))
	}
	return p, nil
}

func (n *Conn) describe(dst, body []byte) ([]byte, error) {
	m, err := pgwire.DecodeDescribe(body)
	if err != nil {
		return dst, err
	}
	var k *command
	var formats []pgwire.Format
	if m.Kind == pgwire.TargetStatement {
		var perr *pgwire.Error
		if k, perr = n.statement(m.Name); perr != nil {
			return dst, perr
		}
		dst = pgwire.AppendParameterDescription(dst, nil)
	} else {
		p, perr := n.portal(m.Name)
		if perr != nil {
			return dst, perr
		}
		k, formats = p.command, p.formats
	}
	if k == nil {
		return pgwire.AppendNoData(dst), nil
	}
	return AppendDescription(dst, k.columns(), formats), nil
}

func (n *Conn) execute(ctx context.Context, dst, body []byte) ([]byte, error) {
	m, err := pgwire.DecodeExecute(body)
	if err != nil {
		return dst, err
	}
	p, perr := n.portal(m.Portal)
	if perr != nil {
		return dst, perr
	}
	if p.command == nil {
		return pgwire.AppendEmptyQuery(dst), nil
	}
	if p.over { // a command runs once
		return dst, pgwire.Errorf(pgwire.CodeObjectNotInPrerequisiteState, `portal "%s" cannot be run`, shorten(string(m.Portal)))
	}
	if p.result == nil {
		if err := n.console.allow([]command{*p.command}, n.user); err != nil {
			return dst, err
		}
		s, err := n.run(ctx, p.command)
		if err != nil {
			return dst, err
		}
		p.result = &s
	}
	limit := int(max(m.MaxRows, 0))
	before := p.next
	dst, p.next = AppendRows(dst, p.result, p.formats, p.next, limit)
	p.over = limit == 0 || p.next-before < limit
	return dst, nil
}

func (n *Conn) close(dst, body []byte) ([]byte, error) {
	m, err := pgwire.DecodeClose(body)
	if err != nil {
		return dst, err
	}
	if m.Kind == pgwire.TargetStatement {
		delete(n.statements, string(m.Name))
	} else {
		delete(n.portals, string(m.Name))
	}
	return pgwire.AppendCloseComplete(dst), nil
}

func protocolError(err error) *pgwire.Error {
	if e, ok := errors.AsType[*pgwire.Error](err); ok {
		return e
	}
	return pgwire.Errorf(pgwire.CodeProtocolViolation, "%s", err)
}
