package parser

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	pg_query "github.com/pganalyze/pg_query_go/v5"
	pgparser "github.com/pganalyze/pg_query_go/v5/parser"
)

// Parse parses sql, which may hold any number of statements. It never returns nil and never panics: a text that can't be parsed
// gives a Message with Unparsable set. It costs tens of microseconds and more; see Cache.
func Parse(sql string) (m *Message) {
	m = &Message{}
	defer func() {
		// Only a mistake of ours or of pg_query's can cause a panic; one odd statement must not end the process.
		if r := recover(); r != nil {
			m.Statements = nil
			m.Unparsable = &SyntaxError{Code: codeInternal, Message: fmt.Sprintf("internal error of the parser: %v", r)}
			m.Size = len(sql)
		}
	}()
	m.Hints = findHints(sql)
	if strings.IndexByte(sql, 0) >= 0 {
		m.Unparsable = &SyntaxError{Code: codeBadCharacter, Message: `invalid byte sequence for encoding "UTF8": 0x00`}
	} else {
		text, origin := transcode(sql)
		m.Transcoded = origin != nil
		m.Statements, m.Unparsable = parseText(text, origin, nil)
		m.Newer = m.Unparsable != nil && mayBeNewer(text, m.Unparsable)
	}
	m.Names = slices.ContainsFunc(m.Statements, func(s *Statement) bool { return s.Naming() != nil })
	m.Size = sizeOf(m)
	return m
}

// SQLSTATEs of texts that can't be parsed.
const (
	codeSyntax       = "42601"
	codeTooComplex   = "54001" // statement_too_complex, as PostgreSQL's stack depth check
	codeBadCharacter = "22021" // character_not_in_repertoire
	codeBadEscape    = "22025" // invalid_escape_sequence
	codeUnsupported  = "0A000" // feature_not_supported: what the grammar knows only to refuse
	codeInternal     = "XX000"
)

// parseText parses text, valid UTF-8 without NUL.
func parseText(text string, origin *origin, literals *literals) ([]*Statement, *SyntaxError) {
	if tooDeep(text) {
		return nil, tooComplex()
	}
	code := blankComments(text)
	tree, err := treeOf(code)
	if err != nil {
		if e, ok := errors.AsType[*pgparser.Error](err); ok {
			return nil, &SyntaxError{Code: errorCode(e), Message: e.Message, Position: position(text, code, e.Cursorpos)}
		}
		// protobuf's own limit of nesting; nothing else can be wrong with what pg_query gives.
		return nil, tooComplex()
	}
	c := &compiler{text: text, origin: origin, literals: literals}
	var statements []*Statement
	for _, raw := range tree.Stmts {
		statements = append(statements, c.statement(raw))
	}
	return statements, nil
}

// errorCode gives PostgreSQL's SQLSTATE for an error of pg_query, which does not keep it. The texts are those of PostgreSQL's gram.y and scan.l.
func errorCode(e *pgparser.Error) string {
	switch {
	case e.Message == "invalid Unicode escape" && e.Filename == "scan.l":
		return codeBadEscape
	case strings.HasPrefix(e.Message, "invalid byte sequence for encoding"):
		return codeBadCharacter
	case strings.HasSuffix(e.Message, " not yet implemented"), strings.HasSuffix(e.Message, " not implemented"), e.Message == "current database cannot be changed":
		return codeUnsupported
	default:
		return codeSyntax
	}
}

func tooComplex() *SyntaxError {
	return &SyntaxError{Code: codeTooComplex, Message: "stack depth limit exceeded"}
}

// compiler turns pg_query's trees of one text into Statements.
type compiler struct {
	text     string
	origin   *origin
	literals *literals // of the text's shape; nil = it stands for itself
}

// statement compiles one raw statement.
func (c *compiler) statement(raw *pg_query.RawStmt) *Statement {
	start := int(raw.StmtLocation)
	end := start + int(raw.StmtLen)
	if raw.StmtLen == 0 {
		end = len(c.text)
	}
	for start < end && class[c.text[start]]&classSpace != 0 {
		start++
	}
	for end > start && class[c.text[end-1]]&classSpace != 0 {
		end--
	}
	u := c.unit(raw.Stmt)
	u.s.Start, u.s.End = c.origin.offset(start), c.origin.offset(end)
	c.names(u.s, raw.Stmt, start, end)
	return u.s
}

// unit compiles the statement of node n.
func (c *compiler) unit(n *pg_query.Node) *unit {
	u := &unit{compiler: c, s: &Statement{Verdict: new(atomic.Pointer[any])}, root: n}
	u.compile(n)
	u.finish()
	return u
}

// unit is one statement being compiled.
type unit struct {
	*compiler
	s    *Statement
	root *pg_query.Node
	// subs holds the compiled sub-selects by their trees, so that collecting and classifying agree on one Query.
	subs map[*pg_query.SelectStmt]*Query
	// calls are Statement.Calls as a set.
	calls map[Function]struct{}
	// once is the set_config call that certainly runs exactly once.
	once map[*pg_query.FuncCall]bool
	// typed is what gives parameters their types, by their number; placed are the locations of those that were looked at.
	typed  map[int32]place
	placed map[int32]bool
	only   *pg_query.ResTarget // the column of a SELECT with one column, beside which there is nothing
}

// inner compiles a statement wrapped by this one, and takes over what it calls and does.
func (u *unit) inner(n *pg_query.Node) {
	in := u.unit(n)
	u.adopt(in.s)
	u.s.Inner = in.s
}

// adopt adds what a wrapped statement calls and does to this one's.
func (u *unit) adopt(in *Statement) {
	for _, f := range in.Calls {
		u.call(f)
	}
	u.s.Effects |= in.Effects
	for _, set := range in.SetConfigs {
		if !set.Local {
			u.unseen(set.Name) // whether and when the wrapped statement runs is open
		}
	}
	for _, name := range in.Unseen {
		u.unseen(name)
	}
	u.s.SetConfigs = append(u.s.SetConfigs, in.SetConfigs...)
	u.s.Params = max(u.s.Params, in.Params)
	u.s.Mixed |= in.Mixed
	u.s.Recast |= in.Recast
	u.s.Rounds |= in.Rounds
	u.s.Beside = append(u.s.Beside, in.Beside...)
	u.s.Evaluates = u.s.Evaluates || in.Evaluates
}

// call records a function call.
func (u *unit) call(f Function) {
	if _, known := u.calls[f]; known {
		return
	}
	if u.calls == nil {
		u.calls = make(map[Function]struct{})
	}
	u.calls[f] = struct{}{}
	u.s.Calls = append(u.s.Calls, f)
	u.s.Effects |= callEffects(f)
}

// finish fills in what follows from the rest.
func (u *unit) finish() {
	s := u.s
	switch s.Kind { //nolint:exhaustive // the few kinds that matter here
	case Select, CopyTo:
		s.ReadOnly = readOnly(s.Query)
	case Show:
		s.ReadOnly = true
	case Explain:
		s.ReadOnly = !s.ExplainAnalyze || s.Inner.ReadOnly
	}
	s.BuiltinCalls = !slices.ContainsFunc(s.Calls, func(f Function) bool { return !IsBuiltin(f) })
	switch s.Kind { //nolint:exhaustive // all others are about more than rows
	case Select, Insert, Update, Delete, Merge:
		s.Inert = s.BuiltinCalls && s.Effects == 0 && len(s.SetConfigs) == 0 && !slices.ContainsFunc(s.Calls, Notifies)
	}
}

// readOnly reports that a query holds no locking clause and changes no data.
func readOnly(q *Query) bool {
	if q == nil {
		return true
	}
	switch q.Kind {
	case InsertBlock, UpdateBlock, DeleteBlock, MergeBlock:
		return false
	case SelectBlock, ValuesBlock, SetBlock:
	}
	if q.Locking || !readOnly(q.Left) || !readOnly(q.Right) {
		return false
	}
	for i := range q.With {
		if !readOnly(q.With[i].Query) {
			return false
		}
	}
	for _, sub := range q.Subqueries {
		if !readOnly(sub) {
			return false
		}
	}
	for _, f := range q.From {
		if !readOnlyFrom(f) {
			return false
		}
	}
	return true
}

func readOnlyFrom(f *From) bool {
	return f == nil || readOnly(f.Sub) && readOnlyFrom(f.Left) && readOnlyFrom(f.Right)
}
