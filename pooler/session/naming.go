package session

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// SQL's PREPARE, EXECUTE and DEALLOCATE name the same statements as the protocol does, and these are the client's, whatever backend it has. So in what is
// sent, a name of the client's is replaced by what the statement is called on the backend, which prepares it first where it has not got it; and in an error that
// comes back, it is the client's again.

// naming is a text of the client's with such names.
type naming struct {
	edits []edit
	acts  []act
	frame []byte // of a Query
}

// edit is a name that was replaced. Places are counted in characters.
type edit struct {
	at, was, is int // where it stands in the client's text, its length there, and that of what stands in its place
	theirs, own string
}

// act is what a statement of the text does to the names.
type act struct {
	st   *parser.Statement
	made *state.Prepared // by PREPARE
	has  *state.Prepared // what the backend has, or has not any more, when it has run
}

// nothingPrefix begins names of what does not exist.
const nothingPrefix = state.NamePrefix + "nothing"

// follows reports whether what st, which names a prepared statement, says of it holds on any backend. Else it is about what the backend at hand has by that name.
func (s *Session) follows(st *parser.Statement) bool {
	n := st.Naming()
	return s.acct.Statements && n != nil && st.NameEnd > 0 && (!beyondASCII(n.Name) || s.utf8() && !parser.EncodingMatters(n.Name)) && s.lexed()
}

// lexed reports whether the server reads statements as the parser does.
func (s *Session) lexed() bool {
	if !s.plain() {
		return true // all else is refused
	}
	for _, name := range lexingSettings {
		if value, ok := s.told.get(name); ok && checkLexing(name, value) != nil {
			return false
		}
	}
	return true
}

// renames reports whether the names in m are replaced.
func (s *Session) renames(m *parser.Message) bool {
	return m.Names && !slices.ContainsFunc(m.Statements, func(st *parser.Statement) bool { return st.Naming() != nil && !s.follows(st) })
}

// executing is m with what its EXECUTEs run. nil, nil: it waits for a parse.
func (s *Session) executing(m *parser.Message) (*parser.Message, *pgwire.Error) {
	var refusal *pgwire.Error
	waits := false
	x := m.Executing(func(name string) *parser.Statement {
		if waits || refusal != nil {
			return nil
		}
		var p *state.Prepared
		if name != "" {
			p = s.statement(parser.BytesOf(name))
		}
		made := s.sqlPrep[name].statement
		switch {
		case p == nil && made == nil && s.acct.Statements && !s.leftNames():
			if strings.HasPrefix(name, state.NamePrefix) && !s.lexed() { // so it is not replaced, and others have it there
				refusal = noStatement(name)
			}
			return nowhere // as the server says
		case p == nil:
			return made
		case p.Made != nil:
			return p.Made
		}
		own := p.Own()
		if own == nil {
			if own = s.parse(parser.BytesOf(p.SQL), nil, byItself); own == nil {
				waits = true
				return nil
			}
			p.SetOwn(own)
		}
		st := single(own)
		if !planned(st) {
			if s.acct.Statements {
				refusal = errNotExecuted
			}
			return nil
		}
		return &parser.Statement{Kind: parser.Prepare, Inner: st, ParamTypes: typeNames(p.Types), Calls: st.Calls, Effects: st.Effects, SetConfigs: st.SetConfigs, BuiltinCalls: st.BuiltinCalls}
	})
	if waits {
		return nil, nil
	}
	return x, refusal
}

// nowhere stands for what a name of nothing runs.
var nowhere = parser.Parse("SELECT").Statements[0]

var errNotExecuted = pgwire.Errorf(pgwire.CodeFeatureNotSupported, "EXECUTE of a prepared statement that is no query").WithRoutine("execute").
	WithDetail("EXECUTE runs SELECT, INSERT, UPDATE, DELETE, MERGE and VALUES.").WithHint("Bind it by the protocol, or send its text.")

// Types that the router reads.
const (
	oidInt2    = 21
	oidVarchar = 1043
	oidUUID    = 2950
)

// typeNames are the declared types of parameters as the router knows them.
func typeNames(oids string) (names []string) {
	for i := 0; i+4 <= len(oids); i += 4 {
		switch oid := uint32(oids[i])<<24 | uint32(oids[i+1])<<16 | uint32(oids[i+2])<<8 | uint32(oids[i+3]); oid {
		case 0:
			names = append(names, "")
		case pgwire.OIDText:
			names = append(names, "text")
		case oidVarchar:
			names = append(names, "varchar")
		case oidInt2:
			names = append(names, "int2")
		case pgwire.OIDInt4:
			names = append(names, "int4")
		case pgwire.OIDInt8:
			names = append(names, "int8")
		case oidUUID:
			names = append(names, "uuid")
		default:
			names = append(names, strconv.FormatUint(uint64(oid), 10)) // of which nobody knows anything
		}
	}
	return names
}

// rename appends what the backend lacks of what m, whose text is sql, names, and returns the text with the backend's names; ref is that of what it appends.
func (s *Session) rename(out []byte, sql string, m *parser.Message, ref int32) ([]byte, string, *naming) {
	c, n := s.conn, new(naming)
	several := len(m.Statements) > 1
	here := make(map[string]*state.Prepared) // what m itself makes; nil = it is gone
	all := false                             // so are all others
	find := func(name string) *state.Prepared {
		p, known := here[name]
		if !known && !all {
			if p = s.prepared(name); p != nil {
				out, p = exec.Ready(out, c, p, ref, several)
			}
		}
		return p
	}
	nothing := func() (is *state.Prepared) { // stands for what is only to be there: others may have the same on the backend
		out, is = exec.Ready(out, c, s.sh.Registry.Once("PREPARE ", " AS SELECT", ""), ref, several)
		return is
	}
	var text strings.Builder
	from, chars := 0, 0 // of sql: what is in text, and counted
	for i, st := range m.Statements {
		name := st.Naming()
		if st.Kind == parser.Deallocate && name == nil || st.Kind == parser.Discard && st.Name == "ALL" {
			clear(here)
			all = true
		}
		if name == nil {
			continue
		}
		var is *state.Prepared
		switch {
		case name.Kind == parser.Execute:
			is = find(name.Name)
		case name.Kind == parser.Prepare:
			if is = here[name.Name]; is == nil && !all && s.prepared(name.Name) != nil && !gone(here, name.Name) {
				is = nothing()
			}
			if is != nil {
				break // which the server refuses
			}
			at := state.Place{Before: int32(s.chars(sql[:st.Start])), Name: int32(s.chars(sql[st.NameStart:st.NameEnd]))} //nolint:gosec // a message's length is an int32
			head, rest := sql[st.Start:st.NameStart], sql[st.NameEnd:st.End]
			if st.NameIsQuoted(sql) {
				head, rest = head+`"`, `"`+rest
				at.Name -= 2 // which are of head and rest now
			}
			p := s.sh.Registry.Make(st, head, rest, at)
			s.unit.late = append(s.unit.late, p)
			if several { // the settings may be others by then, and the statement be in use by another name
				is = p.Under(c.Moment())
			} else {
				out, is = exec.Vacate(out, c, p, several)
			}
			here[name.Name] = is
			n.acts = append(n.acts, act{st, p, is})
		case here[name.Name] != nil:
			is = here[name.Name]
			n.acts = append(n.acts, act{st, nil, is})
			here[name.Name] = nil
		case !all && !gone(here, name.Name) && s.prepared(name.Name) != nil:
			is = nothing()
			n.acts = append(n.acts, act{st, nil, is})
			here[name.Name] = nil
		}
		own := nothingPrefix + strconv.Itoa(i)
		switch {
		case is != nil:
			own = is.Name
		case s.leftNames() && !strings.HasPrefix(name.Name, state.NamePrefix):
			continue // code that nobody can judge may have made it
		}
		text.WriteString(sql[from:st.NameStart])
		stands := own
		if st.NameIsQuoted(sql) {
			stands = `"` + own + `"`
		}
		text.WriteString(stands)
		chars += s.chars(sql[from:st.NameStart])
		was := s.chars(sql[st.NameStart:st.NameEnd])
		n.edits = append(n.edits, edit{at: chars, was: was, is: len(stands), theirs: name.Name, own: own})
		from, chars = st.NameEnd, chars+was
	}
	text.WriteString(sql[from:])
	return out, text.String(), n
}

func gone(here map[string]*state.Prepared, name string) bool {
	p, known := here[name]
	return known && p == nil
}

// renameQuery is the Query with the backend's names; what it lacks is sent in front. It returns false where that is refused, or has to be awaited.
func (s *Session) renameQuery(m *parser.Message, frame []byte) (renamed []byte, goes bool) {
	n := s.unit.naming
	switch e := s.unit.internal; {
	case n == nil:
	case e != nil && s.open: // the server waits for a Sync
		s.unit.internal = nil
		s.unit.failed, s.unit.answered = true, true
		s.errors++
		s.toClient(pgwire.AppendErrorResponse(nil, e))
		s.sync()
		return nil, false
	default:
		return n.frame, true
	}
	if s.begun && s.tx == pgwire.TxFailed && s.lacks(m) {
		s.refuseUnit(errLacksNames, true)
		return nil, false
	}
	sql, _ := pgwire.DecodeQuery(frame[pgwire.HeaderBytes:])
	if !s.acct.Statements {
		s.unit.naming = s.noted(string(sql), m)
		s.unit.naming.frame = frame
		return frame, true
	}
	out, text, n := s.rename(s.scratch(), string(sql), m, exec.RefNames)
	n.frame = pgwire.AppendQuery(nil, text)
	s.unit.naming = n
	if len(out) > 0 && s.open { // which a Sync would commit
		s.wait = waitInternal
		s.send(exec.SoFar(out, s.conn))
		return nil, false
	}
	if len(out) > 0 {
		out = exec.Sync(out, s.conn, true, exec.RefNames)
	}
	s.send(out)
	return n.frame, true
}

// leftNames reports whether the backend may have prepared statements that the session made there by code.
func (s *Session) leftNames() bool {
	return s.conn != nil && s.conn.Tainted()&(backend.TaintSQLPrepare|backend.TaintUnjudged) != 0
}

// noted is what a text does to the names where they are the backend's own.
func (s *Session) noted(sql string, m *parser.Message) *naming {
	n := new(naming)
	for _, st := range m.Statements {
		if st.Kind != parser.Prepare || st.NameEnd == 0 {
			continue
		}
		p := s.sh.Registry.Make(st, sql[st.Start:st.NameStart], sql[st.NameEnd:st.End], state.Place{})
		s.unit.late = append(s.unit.late, p)
		n.acts = append(n.acts, act{st: st, made: p})
	}
	return n
}

// lacks reports whether something has to be prepared or closed on the backend before m can run there.
func (s *Session) lacks(m *parser.Message) bool {
	return slices.ContainsFunc(m.Statements, func(st *parser.Statement) bool {
		name := st.Naming()
		if name == nil {
			return false
		}
		p := s.prepared(name.Name)
		if p == nil || name.Kind != parser.Execute {
			return p != nil || name.Kind == parser.Prepare && len(m.Statements) == 1
		}
		has, _, stale := s.conn.Statements.Instance(p, s.conn.ParseKey())
		return has == nil || stale
	})
}

var errLacksNames = pgwire.Errorf(pgwire.CodeFeatureNotSupported, "prepared statements can't stand beside the end of a failed transaction in one message").WithRoutine("mixed_message").
	WithDetail("The server connection does not have them yet, and prepares nothing in a failed transaction.").
	WithHint("Send what ends the transaction as a message of its own.")

// chars is the number of characters of a text.
func (s *Session) chars(text string) int {
	if s.utf8() {
		return utf8.RuneCountInString(text)
	}
	return len(text)
}

// acted follows a statement of the text. It returns the Ref of the change of a name; 0 = there is none.
func (n *naming) acted(s *Session, st *parser.Statement) (ref int32) {
	for i := range n.acts {
		a := &n.acts[i]
		switch {
		case a.st != st:
		case st.Kind == parser.Prepare:
			if a.has != nil {
				s.conn.Statements.Add(a.has)
			}
			ref = s.setName(st.Name, s.sh.Registry.Make(st, a.made.Head, a.made.SQL, a.made.At)) // another reference, or what there was once more
		default:
			s.conn.Statements.Remove(a.has)
			if s.prepared(st.Name) != nil {
				ref = s.setName(st.Name, nil)
			}
		}
	}
	return ref
}

// makes is what the backend has when the statement of the text has run; nil = nothing new.
func (n *naming) makes() *state.Prepared {
	if n != nil && len(n.acts) == 1 && n.acts[0].made != nil {
		return n.acts[0].has
	}
	return nil
}

// theirs is an error about the text as the client's text has it.
func (n *naming) theirs(e *pgwire.Error) *pgwire.Error {
	x := *e
	shift := 0
	for _, d := range n.edits {
		x.Message = strings.ReplaceAll(x.Message, `"`+d.own+`"`, `"`+d.theirs+`"`)
		switch at := d.at + shift; {
		case e.Position <= at:
		case e.Position <= at+d.is:
			x.Position = d.at + 1
			return &x
		default:
			shift += d.is - d.was
			x.Position = e.Position - shift
		}
	}
	return &x
}

// asWritten is an error about what prepares p as it is about the PREPARE that the client wrote.
func (s *Session) asWritten(p *state.Prepared, e *pgwire.Error) *pgwire.Error {
	if p == nil || p.Head == "" {
		return e
	}
	for name, n := range s.names {
		if n.prep.ID != p.ID {
			continue
		}
		x := (&naming{edits: []edit{{at: s.chars(p.Head), was: int(p.At.Name), is: len(p.Name), theirs: name, own: p.Name}}}).theirs(e)
		if x.Position > 0 {
			x.Position += int(p.At.Before)
		}
		return x
	}
	return e
}
