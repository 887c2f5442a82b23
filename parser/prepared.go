package parser

import (
	"slices"
	"strings"
	"sync/atomic"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// Naming is the PREPARE, EXECUTE or DEALLOCATE by which s names a prepared statement, be it wrapped by EXPLAIN or CREATE TABLE AS; nil = it names none.
func (s *Statement) Naming() *Statement {
	for ; s != nil; s = s.Inner {
		switch s.Kind {
		case Execute, Prepare:
			return s
		case Deallocate:
			if s.Name == "" {
				return nil
			}
			return s
		case Explain, CreateTableAs:
		default: // wraps nothing that names one
			return nil
		}
	}
	return nil
}

// nameSpan finds the name of the prepared statement in text, the text of statement n. It gives false for names that PostgreSQL would cut off.
func nameSpan(text string, n *pg_query.Node) (start, end int, ok bool) {
	sc := Scan(text)
	var tok Token
	next := func() Token {
		for tok = sc.Next(); tok.Kind == TokenLineComment || tok.Kind == TokenBlockComment; tok = sc.Next() {
		}
		return tok
	}
	is := func(word string) bool {
		return tok.Kind == TokenWord && strings.EqualFold(text[tok.Start:tok.End], word)
	}
	// up reports whether tok opens a bracket, and goes to the one that closes it.
	up := func() bool {
		if tok.Kind != TokenPunct || text[tok.Start] != '(' {
			return false
		}
		for depth := 1; depth > 0 && next().Kind != TokenEnd; {
			switch {
			case tok.Kind != TokenPunct:
			case text[tok.Start] == '(':
				depth++
			case text[tok.Start] == ')':
				depth--
			}
		}
		return true
	}
	next()
	if x := n.GetExplainStmt(); x != nil {
		n = x.Query
		if next(); up() {
			next()
		} else {
			for is("analyze") || is("analyse") || is("verbose") {
				next()
			}
		}
	}
	if n.GetCreateTableAsStmt() != nil {
		for !is("as") { // a key word that nothing in front of it may be called
			if next(); tok.Kind == TokenEnd {
				return 0, 0, false
			}
			up()
		}
		next()
	}
	next()
	if n.GetDeallocateStmt() != nil && is("prepare") {
		at := tok
		if next().Kind == TokenEnd || tok.Kind == TokenPunct { // it is the name
			tok = at
			return at.Start, at.End, true
		}
	}
	name := tok
	switch name.Kind {
	case TokenWord, TokenQuotedIdent:
	case TokenUnicodeIdent:
		if next(); is("uescape") {
			name.End = next().End
		}
	default:
		return 0, 0, false
	}
	return name.Start, name.End, name.End-name.Start <= maxName
}

// NameIsQuoted reports whether the name of the prepared statement is quoted in sql, the message's text. What stands in its place has to be, too: there need be
// nothing between quotes and what is beside them.
func (s *Statement) NameIsQuoted(sql string) bool {
	return sql[s.NameEnd-1] == '"' || sql[s.NameEnd-1] == '\''
}

// names notes where the statement at hand names a prepared statement.
func (c *compiler) names(s *Statement, n *pg_query.Node, start, end int) {
	if s.Naming() == nil {
		return
	}
	if from, to, ok := nameSpan(c.text[start:end], n); ok {
		s.NameStart, s.NameEnd = c.origin.offset(start+from), c.origin.offset(start+to)
	}
}

// Executing is m with what its EXECUTEs run, which is their Inner then, and what that calls and does theirs. find finds a prepared statement by name: its
// PREPARE, or the statement itself; nil = there is none. What m prepares itself is found in front of that, and for what m has given up find is asked for the
// empty name. An EXECUTE of nothing stays as it is, and so does m where that is all.
func (m *Message) Executing(find func(name string) *Statement) *Message {
	if !m.Names {
		return m
	}
	var own map[string]*Statement // by m itself; nil = it is gone
	all := false                  // so are all others
	note := func(name string, s *Statement) {
		if own == nil {
			own = make(map[string]*Statement)
		}
		own[name] = s
	}
	var list []*Statement
	for i, s := range m.Statements {
		switch n := s.Naming(); {
		case s.Kind == Deallocate && s.Name == "", s.Kind == Discard && s.Name == "ALL":
			own, all = nil, true
		case n == nil:
		case n.Kind == Prepare:
			if own[n.Name] == nil {
				note(n.Name, n)
			}
		case n.Kind == Deallocate:
			note(n.Name, nil)
		default:
			run, known := own[n.Name]
			switch {
			case run != nil:
			case known || all:
				run = find("")
			default:
				run = find(n.Name)
			}
			if run != nil {
				if list == nil {
					list = append(list, m.Statements...)
				}
				list[i] = s.executing(run)
			}
		}
	}
	if list == nil {
		return m
	}
	return &Message{Statements: list, Hints: m.Hints, Names: true, Transcoded: m.Transcoded, Size: m.Size}
}

// executing is s, or what it wraps, as an EXECUTE of run.
func (s *Statement) executing(run *Statement) *Statement {
	x := *s
	x.Inner, x.Verdict = run, new(atomic.Pointer[any]) // which is judged by itself
	if s.Kind != Execute {
		x.Inner = s.Inner.executing(run)
	}
	u := unit{s: &x}
	x.Calls = nil
	for _, f := range s.Calls {
		u.call(f)
	}
	x.SetConfigs, x.Unseen = slices.Clone(s.SetConfigs), slices.Clone(s.Unseen)
	params, mixed, recast, rounds, beside := s.Params, s.Mixed, s.Recast, s.Rounds, s.Beside
	u.adopt(x.Inner)
	x.Params, x.Mixed, x.Recast, x.Rounds, x.Beside = params, mixed, recast, rounds, beside // those of what runs are given by EXECUTE
	x.Effects &^= EffSQLPrepare
	u.finish()
	return &x
}

// Prepared is the message of what a PREPARE prepares.
func (s *Statement) Prepared() *Message { return &Message{Statements: []*Statement{s.Inner}} }
