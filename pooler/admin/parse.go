package admin

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// command is one statement of the console's grammar.
type command struct {
	verb verb
	tag  string // of CommandComplete

	view   *view           // verbShow
	limit  int             // verbShow: rows at most; 0 = the view's own
	name   string          // a database as given, a parameter in lower case, DEALLOCATE's statement; empty = none or all
	values []string        // verbSet
	id     uint64          // verbKillClient
	mode   ShutdownMode    // verbShutdown
	tx     pgwire.TxStatus // verbTransaction: the status after it
	list   []expr          // verbSelect

	order   TenantOrder // verbTenant
	secrets bool        // likewise: the answer has passwords
}

// columns describes the command's result set; nil if it has none.
func (k *command) columns() []pgwire.Column {
	if k.verb == verbShow {
		return k.view.columns
	}
	if k.secrets {
		return secretColumns
	}
	if k.verb == verbShowParameter {
		return []pgwire.Column{pgwire.TextColumn(parameterTitle(k.name), pgwire.OIDText)}
	}
	var columns []pgwire.Column
	for _, e := range k.list {
		columns = append(columns, pgwire.TextColumn(e.title, e.oid))
	}
	return columns
}

// maxStatements is how many statements one text may have: each is answered from memory.
const maxStatements = 100

// parser reads statements, one token ahead.
type parser struct {
	lexer
	tok token
}

// parse reads a text of any number of statements.
func parse(text string) ([]command, *pgwire.Error) {
	if !utf8.ValidString(text) {
		return nil, pgwire.Errorf(pgwire.CodeCharacterNotInRepertoire, `invalid byte sequence for encoding "UTF8"`)
	}
	p := &parser{lexer: lexer{text: text}}
	if err := p.advance(); err != nil {
		return nil, err
	}
	var commands []command
	for {
		for p.tok.is(";") {
			if err := p.advance(); err != nil {
				return nil, err
			}
		}
		if p.tok.kind == tokenEnd {
			return commands, nil
		}
		if len(commands) == maxStatements {
			return nil, pgwire.Errorf(pgwire.CodeStatementTooComplex, "more than %d statements in one text", maxStatements)
		}
		k, err := p.statement()
		if err != nil {
			return nil, err
		}
		if p.tok.kind != tokenEnd && !p.tok.is(";") {
			return nil, syntaxError(p.text, p.tok)
		}
		commands = append(commands, k)
	}
}

// parseOne reads a text of at most one statement; nil if it has none.
func parseOne(text string) (*command, *pgwire.Error) {
	commands, err := parse(text)
	switch {
	case err != nil || len(commands) == 0:
		return nil, err
	case len(commands) > 1:
		return nil, pgwire.Errorf(pgwire.CodeSyntaxError, "cannot insert multiple commands into a prepared statement")
	}
	return &commands[0], nil
}

func (p *parser) advance() (err *pgwire.Error) {
	p.tok, err = p.next()
	return err
}

// accept passes the token if it is one of the keywords.
func (p *parser) accept(keywords ...string) (found bool, err *pgwire.Error) {
	if !slices.ContainsFunc(keywords, p.tok.is) {
		return false, nil
	}
	return true, p.advance()
}

// expect passes the token, which must be that keyword.
func (p *parser) expect(keyword string) *pgwire.Error {
	if !p.tok.is(keyword) {
		return syntaxError(p.text, p.tok)
	}
	return p.advance()
}

// ended reports whether the statement is over.
func (p *parser) ended() bool { return p.tok.kind == tokenEnd || p.tok.is(";") }

// statements are the parsers by first keyword.
var statements = map[string]func(p *parser, k *command) *pgwire.Error{
	"show":        (*parser).show,
	"select":      (*parser).selectList,
	"set":         (*parser).set,
	"reset":       (*parser).reset,
	"begin":       (*parser).begin,
	"start":       (*parser).begin,
	"commit":      (*parser).commit,
	"end":         (*parser).commit,
	"rollback":    (*parser).rollback,
	"abort":       (*parser).rollback,
	"discard":     (*parser).discard,
	"deallocate":  (*parser).deallocate,
	"close":       (*parser).closeAll,
	"unlisten":    (*parser).unlisten,
	"reload":      (*parser).bare,
	"pause":       (*parser).maybeDatabase,
	"resume":      (*parser).maybeDatabase,
	"reconnect":   (*parser).maybeDatabase,
	"kill":        (*parser).maybeDatabase,
	"wait_close":  (*parser).maybeDatabase,
	"disable":     (*parser).database,
	"enable":      (*parser).database,
	"kill_client": (*parser).killClient,
	"shutdown":    (*parser).shutdown,
	"create":      (*parser).createTenant,
	"alter":       (*parser).alterTenant,
	"drop":        (*parser).dropTenant,
}

// acting are the verbs of commands that act.
var acting = map[string]verb{
	"reload": verbReload, "pause": verbPause, "resume": verbResume, "reconnect": verbReconnect, "kill": verbKill,
	"wait_close": verbWaitClose, "disable": verbDisable, "enable": verbEnable, "kill_client": verbKillClient, "shutdown": verbShutdown,
}

// elsewhere are commands of PgBouncer's and PgDog's consoles that this one does not have, and why.
var elsewhere = map[string]string{
	"suspend":     "there is no hand-over of sockets to another process; use PAUSE",
	"ban":         "an endpoint is out of rotation while it does not answer, no longer",
	"unban":       "an endpoint is out of rotation while it does not answer, no longer",
	"healthcheck": "health checks run by themselves; see SHOW SHARDS",
	"maintenance": "use PAUSE and RESUME",
	"probe":       "",
	"setup":       "",
	"reshard":     "",
	"schema_sync": "",
	"copy_data":   "",
	"replicate":   "",
	"cutover":     "",
	"stop_task":   "",
}

func (p *parser) statement() (command, *pgwire.Error) {
	if p.tok.kind != tokenWord {
		return command{}, syntaxError(p.text, p.tok)
	}
	first, at := strings.ToLower(p.tok.text), p.tok
	run, ok := statements[first]
	if !ok {
		if why, known := elsewhere[first]; known {
			return command{}, unsupported(strings.ToUpper(first), why)
		}
		return command{}, pgwire.Errorf(pgwire.CodeSyntaxError, `unknown command "%s"`, shorten(at.text)).
			WithHint("The console has SHOW, RELOAD, PAUSE, RESUME, RECONNECT, WAIT_CLOSE, KILL, KILL_CLIENT, DISABLE, ENABLE, SHUTDOWN, and CREATE, ALTER and DROP TENANT; SHOW HELP explains them.").
			WithPosition(position(p.text, at.pos))
	}
	if err := p.advance(); err != nil {
		return command{}, err
	}
	k := command{verb: acting[first], tag: strings.ToUpper(first)}
	err := run(p, &k)
	return k, err
}

func unsupported(what, why string) *pgwire.Error {
	err := pgwire.Errorf(pgwire.CodeFeatureNotSupported, "%s is not supported by pgkennel", what)
	if why != "" {
		err = err.WithDetail("%s.", strings.ToUpper(why[:1])+why[1:])
	}
	return err
}

// show reads SHOW's object.
func (p *parser) show(k *command) *pgwire.Error {
	if p.tok.kind != tokenWord && p.tok.kind != tokenQuoted {
		return syntaxError(p.text, p.tok)
	}
	at := p.tok
	name, err := p.dotted()
	if err != nil {
		return err
	}
	if v := views[name]; v != nil {
		k.verb, k.view = verbShow, v
		return p.limit(k)
	}
	if why, ok := viewsElsewhere[name]; ok {
		return unsupported("SHOW "+strings.ToUpper(name), why)
	}
	switch name { // PostgreSQL's parameters with names of several words
	case "time":
		name, err = "timezone", p.expect("zone")
	case "transaction":
		name, err = "transaction_isolation", p.sequence("isolation", "level")
	case "session":
		name, err = "session_authorization", p.expect("authorization")
	}
	if err != nil {
		return err
	}
	if _, ok := parameters[name]; !ok {
		return pgwire.Errorf(pgwire.CodeSyntaxError, `unknown SHOW command "%s"`, shorten(at.text)).
			WithHint("SHOW has %s.", strings.ToUpper(strings.Join(viewNames, ", "))).WithPosition(position(p.text, at.pos))
	}
	k.verb, k.name = verbShowParameter, name
	return nil
}

// limit reads LIMIT n, where the view takes it.
func (p *parser) limit(k *command) *pgwire.Error {
	if k.view.limit == 0 {
		return nil
	}
	k.limit = k.view.limit
	if found, err := p.accept("limit"); !found || err != nil {
		return err
	}
	n, err := strconv.Atoi(p.tok.text)
	if err != nil || p.tok.kind != tokenWord || n > maxLimit {
		return pgwire.Errorf(pgwire.CodeInvalidParameterValue, "LIMIT takes a number up to %d", maxLimit).WithPosition(position(p.text, p.tok.pos))
	}
	k.limit = n
	return p.advance()
}

// dotted reads a name of one or more parts, in lower case.
func (p *parser) dotted() (string, *pgwire.Error) {
	var name strings.Builder
	for {
		if p.tok.kind != tokenWord && p.tok.kind != tokenQuoted {
			return "", syntaxError(p.text, p.tok)
		}
		name.WriteString(strings.ToLower(p.tok.text))
		if err := p.advance(); err != nil {
			return "", err
		}
		if !p.tok.is(".") {
			return name.String(), nil
		}
		name.WriteByte('.')
		if err := p.advance(); err != nil {
			return "", err
		}
	}
}

func (p *parser) sequence(keywords ...string) *pgwire.Error {
	for _, k := range keywords {
		if err := p.expect(k); err != nil {
			return err
		}
	}
	return nil
}

// skipWords passes words and commas to the end of the statement: transaction modes, which have no meaning here.
func (p *parser) skipWords() *pgwire.Error {
	for !p.ended() {
		if p.tok.kind != tokenWord && !p.tok.is(",") {
			return syntaxError(p.text, p.tok)
		}
		if err := p.advance(); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) bare(*command) *pgwire.Error { return nil }

func (p *parser) maybeDatabase(k *command) *pgwire.Error {
	if p.ended() {
		return nil
	}
	return p.database(k)
}

// database reads a database's name. Unquoted it counts as written, not folded, as in PgBouncer.
func (p *parser) database(k *command) *pgwire.Error {
	if p.ended() {
		return pgwire.Errorf(pgwire.CodeSyntaxError, "%s needs the name of a database", k.verb)
	}
	if p.tok.kind == tokenSymbol {
		return syntaxError(p.text, p.tok)
	}
	if p.tok.text == "" { // an empty string would mean all of them
		return pgwire.Errorf(pgwire.CodeInvalidName, "the name of a database is empty").WithPosition(position(p.text, p.tok.pos))
	}
	k.name = p.tok.text
	return p.advance()
}

func (p *parser) killClient(k *command) *pgwire.Error {
	id, err := strconv.ParseUint(p.tok.text, 10, 64)
	if err != nil || p.tok.kind != tokenWord && p.tok.kind != tokenString {
		return pgwire.Errorf(pgwire.CodeSyntaxError, "KILL_CLIENT needs the id of a client").
			WithHint("SHOW CLIENTS has it in its column id.").WithPosition(position(p.text, p.tok.pos))
	}
	k.id = id
	return p.advance()
}

var shutdownModes = map[string]ShutdownMode{
	"wait_for_clients": ShutdownWaitForClients, "wait_for_servers": ShutdownWaitForServers, "immediate": ShutdownImmediate,
}

func (p *parser) shutdown(k *command) *pgwire.Error {
	k.mode = ShutdownDrain
	if p.ended() {
		return nil
	}
	mode, ok := shutdownModes[strings.ToLower(p.tok.text)]
	if !ok || p.tok.kind != tokenWord {
		return syntaxError(p.text, p.tok).WithHint("SHUTDOWN takes WAIT_FOR_CLIENTS, WAIT_FOR_SERVERS or IMMEDIATE, or nothing to drain as SIGTERM does.")
	}
	k.mode = mode
	return p.advance()
}
