package parser

import pg_query "github.com/pganalyze/pg_query_go/v5"

// compile fills in the statement from its tree. What it does not know becomes Utility with EffUnjudged.
func (u *unit) compile(n *pg_query.Node) {
	s := u.s
	s.Tag = commandTag(n)
	switch x := n.GetNode().(type) {
	case *pg_query.Node_SelectStmt:
		u.compileSelect(x.SelectStmt)
	case *pg_query.Node_InsertStmt:
		s.Kind, s.Query = Insert, u.insert(x.InsertStmt, nil)
	case *pg_query.Node_UpdateStmt:
		s.Kind, s.Query = Update, u.update(x.UpdateStmt, nil)
	case *pg_query.Node_DeleteStmt:
		s.Kind, s.Query = Delete, u.delete(x.DeleteStmt, nil)
	case *pg_query.Node_MergeStmt:
		s.Kind, s.Query = Merge, u.merge(x.MergeStmt, nil)
	case *pg_query.Node_CopyStmt:
		u.copy(x.CopyStmt)
	case *pg_query.Node_TransactionStmt:
		u.transaction(x.TransactionStmt)
	case *pg_query.Node_VariableSetStmt:
		u.variableSet(x.VariableSetStmt)
	case *pg_query.Node_VariableShowStmt:
		s.Kind, s.Set = Show, &Setting{Name: settingName(x.VariableShowStmt.Name)}
	case *pg_query.Node_ConstraintsSetStmt:
		s.Kind = SetConstraints
	case *pg_query.Node_DiscardStmt:
		s.Kind, s.Name = Discard, discardWord(x.DiscardStmt.Target)
	case *pg_query.Node_PrepareStmt:
		u.prepare(x.PrepareStmt)
	case *pg_query.Node_ExecuteStmt:
		s.Kind, s.Name = Execute, x.ExecuteStmt.Name
		b := u.block(SelectBlock, nil)
		for _, arg := range x.ExecuteStmt.Params {
			s.Args = append(s.Args, b.expr(arg))
		}
		u.keep(b)
	case *pg_query.Node_DeallocateStmt:
		s.Kind, s.Name = Deallocate, x.DeallocateStmt.Name
	case *pg_query.Node_ExplainStmt:
		s.Kind = Explain
		s.ExplainAnalyze = explainAnalyze(x.ExplainStmt.Options)
		u.inner(x.ExplainStmt.Query)
	case *pg_query.Node_DeclareCursorStmt:
		s.Kind, s.Name = Declare, x.DeclareCursorStmt.Portalname
		if x.DeclareCursorStmt.Options&cursorHold != 0 {
			s.Effects |= EffHoldCursor
		}
		u.inner(x.DeclareCursorStmt.Query)
	case *pg_query.Node_FetchStmt:
		s.Kind, s.Name = Fetch, x.FetchStmt.Portalname
	case *pg_query.Node_ClosePortalStmt:
		s.Kind, s.Name = ClosePortal, x.ClosePortalStmt.Portalname
	case *pg_query.Node_ListenStmt:
		s.Kind, s.Name, s.Effects = Listen, x.ListenStmt.Conditionname, EffListen
	case *pg_query.Node_UnlistenStmt:
		s.Kind, s.Name = Unlisten, x.UnlistenStmt.Conditionname
	case *pg_query.Node_NotifyStmt:
		s.Kind, s.Name = Notify, x.NotifyStmt.Conditionname
	case *pg_query.Node_CreateTableAsStmt:
		u.createTableAs(x.CreateTableAsStmt.Into, x.CreateTableAsStmt.Query)
	default:
		u.utility(n)
	}
}

// cursorHold is CURSOR_OPT_HOLD of parsenodes.h.
const cursorHold = 0x20

func (u *unit) compileSelect(sel *pg_query.SelectStmt) {
	// INTO stands in the leftmost arm of a set operation.
	first := sel
	for first.Larg != nil {
		first = first.Larg
	}
	if into := first.IntoClause; into != nil {
		first.IntoClause = nil
		u.s.Tag = "SELECT INTO"
		u.createTableAs(into, u.root)
		first.IntoClause = into
		return
	}
	u.s.Kind = Select
	u.judgeOnce(sel)
	u.s.Query = u.selectStmt(sel, nil)
}

// createTableAs compiles CREATE TABLE AS, CREATE MATERIALIZED VIEW and SELECT INTO.
func (u *unit) createTableAs(into *pg_query.IntoClause, query *pg_query.Node) {
	s := u.s
	s.Kind = CreateTableAs
	target := table(into.GetRel())
	s.Tables = append(s.Tables, target)
	s.Effects |= EffSchemaChange
	if target.Temp || temporary(target.Schema) {
		s.Effects |= EffTemp
		if into.GetOnCommit() == pg_query.OnCommitAction_ONCOMMIT_DROP {
			s.Effects |= EffTempDropped
		}
	}
	u.inner(query)
	b := u.block(SelectBlock, nil)
	b.collect(into.GetOptions()...)
	u.keep(b)
}

func (u *unit) prepare(p *pg_query.PrepareStmt) {
	s := u.s
	s.Kind, s.Name, s.Effects = Prepare, p.Name, EffSQLPrepare
	for _, n := range p.Argtypes {
		name, ok := typeName(n.GetTypeName())
		if !ok {
			name = "" // with a modifier, which PostgreSQL ignores here, or of a column
			if t := n.GetTypeName(); t != nil {
				name, _ = typeName(&pg_query.TypeName{Names: t.Names, ArrayBounds: t.ArrayBounds})
			}
		}
		s.ParamTypes = append(s.ParamTypes, name)
	}
	u.inner(p.Query)
}

// keep makes the sub-selects of a statement without a query of its own reachable.
func (u *unit) keep(b *block) {
	if len(b.q.Subqueries) > 0 {
		u.s.Query = b.q
	}
}

// explainAnalyze finds the last ANALYZE among the options; a value that PostgreSQL would refuse counts as true.
func explainAnalyze(options []*pg_query.Node) bool {
	analyze := false
	for _, n := range options {
		if d := n.GetDefElem(); d.GetDefname() == "analyze" {
			analyze = optionBool(d, true)
		}
	}
	return analyze
}

// optionBool reads an option as PostgreSQL's defGetBoolean does; otherwise is for values that it refuses.
func optionBool(d *pg_query.DefElem, otherwise bool) bool {
	switch arg := d.GetArg(); {
	case arg == nil:
		return true
	case arg.GetBoolean() != nil:
		return arg.GetBoolean().Boolval
	case arg.GetInteger() != nil:
		return arg.GetInteger().Ival != 0
	default:
		switch lower(optionString(d)) {
		case "true", "on":
			return true
		case "false", "off":
			return false
		default:
			return otherwise
		}
	}
}

func optionString(d *pg_query.DefElem) string {
	arg := d.GetArg()
	switch {
	case arg.GetString_() != nil:
		return arg.GetString_().Sval
	case arg.GetTypeName() != nil:
		_, name := qualified(arg.GetTypeName().Names)
		return name
	default:
		return ""
	}
}

func discardWord(mode pg_query.DiscardMode) string {
	switch mode {
	case pg_query.DiscardMode_DISCARD_PLANS:
		return "PLANS"
	case pg_query.DiscardMode_DISCARD_SEQUENCES:
		return "SEQUENCES"
	case pg_query.DiscardMode_DISCARD_TEMP:
		return "TEMP"
	default:
		return "ALL"
	}
}

// temporary reports that a schema of this name is the session's own.
func temporary(schema string) bool {
	const name = "pg_temp"
	return schema == name || len(schema) > len(name) && schema[:len(name)+1] == name+"_"
}

// lower folds A to Z, as PostgreSQL folds identifiers and setting names; other letters stay.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
