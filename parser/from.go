package parser

import pg_query "github.com/pganalyze/pg_query_go/v5"

// from compiles a FROM list.
func (b *block) from(list []*pg_query.Node) {
	for _, n := range list {
		b.q.From = append(b.q.From, b.fromItem(n))
	}
}

func (b *block) fromItem(n *pg_query.Node) *From {
	switch x := n.GetNode().(type) {
	case *pg_query.Node_RangeVar:
		return tableItem(x.RangeVar)
	case *pg_query.Node_RangeSubselect:
		sub := x.RangeSubselect
		outer := b.outer
		if sub.Lateral {
			outer = b
		}
		f := &From{Kind: FromSubquery, Lateral: sub.Lateral, Sub: b.u.query(sub.Subquery, outer)}
		f.alias(sub.Alias)
		return f
	case *pg_query.Node_RangeFunction:
		return b.fromFunction(x.RangeFunction)
	case *pg_query.Node_RangeTableSample:
		b.collect(x.RangeTableSample.Args...)
		b.collect(x.RangeTableSample.Repeatable)
		return b.fromItem(x.RangeTableSample.Relation)
	case *pg_query.Node_JoinExpr:
		return b.join(x.JoinExpr)
	case *pg_query.Node_RangeTableFunc:
		f := &From{Kind: FromOther, Lateral: true}
		f.alias(x.RangeTableFunc.Alias)
		b.collect(n)
		return f
	default:
		b.collect(n)
		return &From{Kind: FromOther}
	}
}

func (b *block) join(j *pg_query.JoinExpr) *From {
	f := &From{Kind: FromJoin, Natural: j.IsNatural, Using: names(j.UsingClause)}
	switch j.Jointype {
	case pg_query.JoinType_JOIN_LEFT:
		f.Join = LeftJoin
	case pg_query.JoinType_JOIN_RIGHT:
		f.Join = RightJoin
	case pg_query.JoinType_JOIN_FULL:
		f.Join = FullJoin
	default: // the other types are the planner's
		f.Join = InnerJoin
	}
	f.alias(j.Alias)
	f.Left, f.Right = b.fromItem(j.Larg), b.fromItem(j.Rarg)
	f.On = b.filter(j.Quals)
	return f
}

func (b *block) fromFunction(r *pg_query.RangeFunction) *From {
	f := &From{Kind: FromFunction, Lateral: r.Lateral}
	f.alias(r.Alias)
	for _, n := range r.Functions {
		items := n.GetList().GetItems()
		if len(items) == 0 {
			b.collect(n)
			continue
		}
		b.collect(items...)
		f.Functions = append(f.Functions, functionOf(items[0]))
	}
	b.collect(r.Coldeflist...)
	return f
}

// functionOf names what stands as a function in FROM; constructs of the grammar's own count as pg_catalog's by the name of their column.
func functionOf(n *pg_query.Node) Function {
	if call := n.GetFuncCall(); call != nil {
		return function(call)
	}
	return Function{Schema: "pg_catalog", Name: outputName(n)}
}

func (f *From) alias(a *pg_query.Alias) {
	if a != nil {
		f.Alias, f.Columns = a.Aliasname, names(a.Colnames)
	}
}

func tableItem(rv *pg_query.RangeVar) *From {
	t := table(rv)
	f := &From{Kind: FromTable, Table: &t}
	f.alias(rv.GetAlias())
	return f
}

func table(rv *pg_query.RangeVar) Table {
	return Table{
		Catalog: rv.GetCatalogname(),
		Schema:  rv.GetSchemaname(),
		Name:    rv.GetRelname(),
		Only:    !rv.GetInh(),
		Temp:    rv.GetRelpersistence() == "t",
	}
}

// names gives the strings of a list of String nodes.
func names(list []*pg_query.Node) []string {
	var out []string
	for _, n := range list {
		out = append(out, n.GetString_().GetSval())
	}
	return out
}
