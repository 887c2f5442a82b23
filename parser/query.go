package parser

import pg_query "github.com/pganalyze/pg_query_go/v5"

// clause is the part of a block that is being collected.
type clause uint8

const (
	inOther clause = iota
	inOutput
	inHaving
	inOrder
)

// block is one query block being compiled.
type block struct {
	u *unit
	q *Query
	// outer is the block whose names this one sees as outer ones; nil = none.
	outer  *block
	clause clause
}

func (u *unit) block(kind QueryKind, outer *block) *block {
	return &block{u: u, q: &Query{Kind: kind}, outer: outer}
}

// query compiles a SELECT, VALUES, set operation or data-changing statement.
func (u *unit) query(n *pg_query.Node, outer *block) *Query {
	switch x := n.GetNode().(type) {
	case *pg_query.Node_SelectStmt:
		return u.selectStmt(x.SelectStmt, outer)
	case *pg_query.Node_InsertStmt:
		return u.insert(x.InsertStmt, outer)
	case *pg_query.Node_UpdateStmt:
		return u.update(x.UpdateStmt, outer)
	case *pg_query.Node_DeleteStmt:
		return u.delete(x.DeleteStmt, outer)
	case *pg_query.Node_MergeStmt:
		return u.merge(x.MergeStmt, outer)
	default:
		return nil
	}
}

func (u *unit) selectStmt(s *pg_query.SelectStmt, outer *block) *Query {
	kind := SelectBlock
	switch {
	case s.Op != pg_query.SetOperation_SETOP_NONE && s.Larg != nil:
		kind = SetBlock
	case len(s.ValuesLists) > 0:
		kind = ValuesBlock
	}
	b := u.block(kind, outer)
	q := b.q
	b.with(s.WithClause)
	if into := s.IntoClause; into != nil {
		// Legal only at the top, where CreateTableAs has taken it away; PostgreSQL refuses it elsewhere.
		u.s.Tables = append(u.s.Tables, table(into.Rel))
	}
	switch kind {
	case SetBlock:
		switch s.Op {
		case pg_query.SetOperation_SETOP_UNION:
			q.SetOp = Union
		case pg_query.SetOperation_SETOP_INTERSECT:
			q.SetOp = Intersect
		case pg_query.SetOperation_SETOP_EXCEPT:
			q.SetOp = Except
		case pg_query.SetOperation_SET_OPERATION_UNDEFINED, pg_query.SetOperation_SETOP_NONE:
		}
		u.joins(s.Larg, s.Rarg)
		q.Left, q.Right = u.selectStmt(s.Larg, outer), u.selectStmt(s.Rarg, outer)
	case ValuesBlock:
		for _, list := range s.ValuesLists {
			items := list.GetList().GetItems()
			row := make([]Expr, len(items))
			for i, item := range items {
				row[i] = b.expr(item)
			}
			q.Rows = append(q.Rows, row)
		}
	case SelectBlock:
		b.from(s.FromClause)
		q.Where = b.filter(s.WhereClause)
		b.output(s.TargetList)
		q.Distinct = len(s.DistinctClause) > 0
		q.DistinctOn = q.Distinct && s.DistinctClause[0].GetNode() != nil
		b.collect(s.DistinctClause...)
		b.groupBy(s.GroupClause)
		b.clause = inHaving
		b.collect(s.HavingClause)
		b.clause = inOther
		q.Grouped = q.Grouped || len(s.GroupClause) > 0 || s.HavingClause != nil
		b.collect(s.WindowClause...)
	case InsertBlock, UpdateBlock, DeleteBlock, MergeBlock:
	}
	b.clause = inOrder
	b.collect(s.SortClause...)
	b.clause = inOther
	b.collect(s.LimitCount, s.LimitOffset)
	q.Ordered = len(s.SortClause) > 0
	q.Limited = s.LimitCount != nil && !s.LimitCount.GetAConst().GetIsnull() || s.LimitOffset != nil
	q.Locking = len(s.LockingClause) > 0
	return q
}

// groupBy compiles GROUP BY, grouping sets flattened.
func (b *block) groupBy(list []*pg_query.Node) {
	for _, n := range list {
		if set := n.GetGroupingSet(); set != nil {
			b.q.Grouping = true
			b.groupBy(set.Content)
			continue
		}
		if row := n.GetRowExpr(); row != nil && row.RowFormat == pg_query.CoercionForm_COERCE_IMPLICIT_CAST {
			b.groupBy(row.Args) // GROUP BY (a, b), ROLLUP ((a, b), c)
			continue
		}
		e := b.expr(n)
		b.u.literals.pin(e.Value) // an ordinal
		b.q.GroupBy = append(b.q.GroupBy, e)
	}
}

// with compiles the WITH clause, whose queries see what the block sees, but not the block's own tables.
func (b *block) with(w *pg_query.WithClause) {
	if w == nil {
		return
	}
	b.q.Recursive = w.Recursive
	for _, n := range w.Ctes {
		cte := n.GetCommonTableExpr()
		if cte == nil {
			b.collect(n)
			continue
		}
		b.q.With = append(b.q.With, CTE{Name: cte.Ctename, Columns: names(cte.Aliascolnames), Query: b.u.query(cte.Ctequery, b.outer)})
		if cycle := cte.CycleClause; cycle != nil {
			b.collect(cycle.CycleMarkValue, cycle.CycleMarkDefault)
		}
	}
}

// output compiles a select list or RETURNING.
func (b *block) output(list []*pg_query.Node) {
	b.clause = inOutput
	for _, n := range list {
		target := n.GetResTarget()
		if target == nil {
			b.collect(n)
			b.q.Output = append(b.q.Output, Output{})
			continue
		}
		out := Output{Name: target.Name}
		if ind := target.Val.GetAIndirection().GetIndirection(); len(ind) > 0 && ind[len(ind)-1].GetAStar() != nil {
			b.collect(target.Val)
			out.Star, out.Qualifier = true, OfExpression
		} else if ref := target.Val.GetColumnRef(); ref != nil && len(ref.Fields) > 0 && ref.Fields[len(ref.Fields)-1].GetAStar() != nil {
			out.Star = true
			if n := len(ref.Fields); n > 1 {
				out.Qualifier = ref.Fields[n-2].GetString_().GetSval()
			}
		} else {
			b.u.stands(target.Val, place{}) // what it is, the rest of the statement says, or it is a text
			out.Expr = b.expr(target.Val)
			if out.Name == "" {
				out.Name = outputName(target.Val)
			}
		}
		b.q.Output = append(b.q.Output, out)
	}
	b.clause = inOther
}

func (u *unit) insert(s *pg_query.InsertStmt, outer *block) *Query {
	b := u.block(InsertBlock, outer)
	q := b.q
	b.with(s.WithClause)
	b.target(s.Relation)
	partial := map[int]bool{} // columns of which only a field or an element is given
	for i, n := range s.Cols {
		col := n.GetResTarget()
		q.Columns = append(q.Columns, col.GetName())
		if ind := col.GetIndirection(); len(ind) > 0 {
			partial[i] = true
			b.collect(ind...)
		}
	}
	if s.SelectStmt != nil {
		b.assigns(s.SelectStmt.GetSelectStmt())
		q.Source = u.query(s.SelectStmt, outer)
		for i := range partial {
			for _, row := range q.Source.Rows {
				if i < len(row) {
					row[i] = Expr{}
				}
			}
			if i < len(q.Source.Output) {
				q.Source.Output[i].Expr = Expr{}
			}
		}
	}
	if oc := s.OnConflictClause; oc != nil {
		if oc.Infer != nil {
			b.collect(oc.Infer.IndexElems...)
			b.collect(oc.Infer.WhereClause)
		}
		q.ConflictUpdate = oc.Action == pg_query.OnConflictAction_ONCONFLICT_UPDATE
		q.Sets = b.assignments(oc.TargetList)
		q.ConflictWhere = b.filter(oc.WhereClause)
	}
	b.output(s.ReturningList)
	return q
}

func (u *unit) update(s *pg_query.UpdateStmt, outer *block) *Query {
	b := u.block(UpdateBlock, outer)
	b.with(s.WithClause)
	b.target(s.Relation)
	b.from(s.FromClause)
	b.q.Sets = b.assignments(s.TargetList)
	b.changeFilter(s.WhereClause)
	b.output(s.ReturningList)
	return b.q
}

func (u *unit) delete(s *pg_query.DeleteStmt, outer *block) *Query {
	b := u.block(DeleteBlock, outer)
	b.with(s.WithClause)
	b.target(s.Relation)
	b.from(s.UsingClause)
	b.changeFilter(s.WhereClause)
	b.output(s.ReturningList)
	return b.q
}

// changeFilter compiles the WHERE of UPDATE and DELETE, which may name a cursor instead.
func (b *block) changeFilter(n *pg_query.Node) {
	if cur := n.GetCurrentOfExpr(); cur != nil {
		b.q.CurrentOf = cur.CursorName
	}
	b.q.Where = b.filter(n)
}

func (u *unit) merge(s *pg_query.MergeStmt, outer *block) *Query {
	b := u.block(MergeBlock, outer)
	b.with(s.WithClause)
	b.target(s.Relation)
	b.from([]*pg_query.Node{s.SourceRelation})
	b.q.Where = b.filter(s.JoinCondition)
	for _, n := range s.MergeWhenClauses {
		when := n.GetMergeWhenClause()
		if when == nil {
			b.collect(n)
			continue
		}
		action := MergeAction{Matched: when.Matched, Cond: b.filter(when.Condition)}
		switch when.CommandType {
		case pg_query.CmdType_CMD_INSERT:
			action.Kind = InsertBlock
			for _, n := range when.TargetList {
				col := n.GetResTarget()
				action.Columns = append(action.Columns, col.GetName())
				b.collect(col.GetIndirection()...)
			}
			for i, n := range when.Values {
				if i < len(action.Columns) {
					b.u.stands(n, b.column(action.Columns[i]))
				}
				value := b.expr(n)
				if i < len(when.TargetList) && len(when.TargetList[i].GetResTarget().GetIndirection()) > 0 {
					value = Expr{}
				}
				action.Values = append(action.Values, value)
			}
		case pg_query.CmdType_CMD_UPDATE:
			action.Kind = UpdateBlock
			action.Sets = b.assignments(when.TargetList)
		case pg_query.CmdType_CMD_DELETE:
			action.Kind = DeleteBlock
		default: // DO NOTHING
		}
		b.q.Actions = append(b.q.Actions, action)
	}
	return b.q
}

// target sets the relation that the block changes.
func (b *block) target(rv *pg_query.RangeVar) {
	b.q.Target = tableItem(rv)
	if t := b.q.Target.Table; t.Name == "pg_settings" && (t.Schema == "" || t.Schema == "pg_catalog") {
		b.u.s.Effects |= EffUnjudged
	}
}

// assignments compiles the SET list of UPDATE.
func (b *block) assignments(list []*pg_query.Node) []Assignment {
	var sets []Assignment
	for _, n := range list {
		target := n.GetResTarget()
		if target == nil {
			b.collect(n)
			continue
		}
		set := Assignment{Column: target.Name}
		b.collect(target.Indirection...)
		if multi := target.Val.GetMultiAssignRef(); multi != nil {
			// Each column of (a, b) = ... carries the whole source.
			row := multi.Source.GetRowExpr()
			switch {
			case row != nil && int(multi.Ncolumns) == len(row.Args) && 1 <= multi.Colno && multi.Colno <= multi.Ncolumns:
				b.u.stands(row.Args[multi.Colno-1], b.column(target.Name))
				set.Expr = b.expr(row.Args[multi.Colno-1])
			case multi.Colno == 1:
				b.collect(multi.Source)
			}
		} else {
			b.u.stands(target.Val, b.column(target.Name))
			set.Expr = b.expr(target.Val)
		}
		if len(target.Indirection) > 0 {
			set.Expr = Expr{}
		}
		sets = append(sets, set)
	}
	return sets
}
