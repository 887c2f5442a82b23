package parser

import (
	pg_query "github.com/pganalyze/pg_query_go/v5"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Compiling an expression has two steps. Collecting walks the whole of it, whatever it is made of, and finds its sub-selects, calls and
// parameters: nothing is missed, also in constructs this package knows nothing of. Classifying (expr.go, cond.go) then says what the
// expression is as far as routing cares, and may give up anywhere.

// expr collects and classifies an expression.
func (b *block) expr(n *pg_query.Node) Expr {
	b.collect(n)
	return b.u.classify(n)
}

// filter collects and classifies a condition that rows must meet; nil where none is written.
func (b *block) filter(n *pg_query.Node) *Cond {
	if n == nil {
		return nil
	}
	b.collect(n)
	return b.u.cond(n, false)
}

func (b *block) collect(nodes ...*pg_query.Node) {
	for _, n := range nodes {
		b.visit(n)
	}
}

func (b *block) visit(n *pg_query.Node) {
	switch n.GetNode().(type) {
	case nil, *pg_query.Node_AConst, *pg_query.Node_String_, *pg_query.Node_Integer, *pg_query.Node_AStar, *pg_query.Node_List:
	default:
		b.u.s.Evaluates = true
	}
	switch x := n.GetNode().(type) {
	case nil:
	case *pg_query.Node_AConst, *pg_query.Node_ColumnRef, *pg_query.Node_String_, *pg_query.Node_Integer, *pg_query.Node_AStar:
	case *pg_query.Node_ParamRef:
		b.u.s.Params = max(b.u.s.Params, int(x.ParamRef.Number))
		b.u.stands(n, place{kind: placeOther})
	case *pg_query.Node_SelectStmt:
		b.subquery(x.SelectStmt)
	case *pg_query.Node_InsertStmt, *pg_query.Node_UpdateStmt, *pg_query.Node_DeleteStmt, *pg_query.Node_MergeStmt:
		b.q.Subqueries = append(b.q.Subqueries, b.u.query(n, b))
	case *pg_query.Node_AExpr:
		if schema, name := qualified(x.AExpr.Name); schema != "" && schema != "pg_catalog" {
			b.u.call(Function{Schema: schema, Name: name, Args: operands(x.AExpr)})
		}
		b.compares(x.AExpr)
		b.collect(x.AExpr.Lexpr, x.AExpr.Rexpr)
	case *pg_query.Node_BoolExpr:
		b.collect(x.BoolExpr.Args...)
	case *pg_query.Node_List:
		b.collect(x.List.Items...)
	case *pg_query.Node_TypeCast:
		b.u.casts(x.TypeCast)
		b.visit(x.TypeCast.Arg)
		b.collect(x.TypeCast.GetTypeName().GetTypmods()...)
	case *pg_query.Node_NullTest:
		b.u.stands(x.NullTest.Arg, place{})
		b.visit(x.NullTest.Arg)
	case *pg_query.Node_FuncCall:
		b.funcCall(x.FuncCall)
	case *pg_query.Node_JsonObjectAgg:
		b.jsonAggregate(x.JsonObjectAgg.Constructor)
		b.children(n)
	case *pg_query.Node_JsonArrayAgg:
		b.jsonAggregate(x.JsonArrayAgg.Constructor)
		b.children(n)
	case *pg_query.Node_SubLink:
		if schema, name := qualified(x.SubLink.OperName); schema != "" && schema != "pg_catalog" {
			b.u.call(Function{Schema: schema, Name: name, Args: 2})
		}
		b.children(n)
	case *pg_query.Node_SortBy:
		if schema, name := qualified(x.SortBy.UseOp); schema != "" && schema != "pg_catalog" {
			b.u.call(Function{Schema: schema, Name: name, Args: 2})
		}
		b.visit(x.SortBy.Node)
	default:
		b.children(n)
	}
}

func operands(e *pg_query.A_Expr) int {
	if e.Lexpr == nil {
		return 1
	}
	return 2
}

// subquery compiles a sub-select of the block, once.
func (b *block) subquery(s *pg_query.SelectStmt) {
	if _, known := b.u.subs[s]; known {
		return
	}
	if b.u.subs == nil {
		b.u.subs = make(map[*pg_query.SelectStmt]*Query)
	}
	q := b.u.selectStmt(s, b)
	b.u.subs[s] = q
	b.q.Subqueries = append(b.q.Subqueries, q)
}

// children visits the nodes below n, whatever n is.
func (b *block) children(n *pg_query.Node) { eachBelow(n, b.visit) }

// eachBelow calls f for the nearest nodes below n.
func eachBelow(n *pg_query.Node, f func(*pg_query.Node)) {
	// A Node holds one message; its fields are what is below.
	m := n.ProtoReflect()
	if fd := m.WhichOneof(nodeOneof); fd != nil {
		eachNode(m.Get(fd).Message(), f)
	}
}

var nodeOneof = (*pg_query.Node)(nil).ProtoReflect().Descriptor().Oneofs().ByName("node")

// eachNode calls f for the nearest nodes below m, which is no Node, in the order of m's fields. A SelectStmt without a Node around it counts as one.
func eachNode(m protoreflect.Message, f func(*pg_query.Node)) {
	below := func(m protoreflect.Message) {
		switch x := m.Interface().(type) {
		case *pg_query.Node:
			f(x)
		case *pg_query.SelectStmt:
			f(&pg_query.Node{Node: &pg_query.Node_SelectStmt{SelectStmt: x}})
		default:
			eachNode(m, f)
		}
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Kind() != protoreflect.MessageKind || !m.Has(fd) {
			continue
		}
		if !fd.IsList() {
			below(m.Get(fd).Message())
			continue
		}
		list := m.Get(fd).List()
		for j := range list.Len() {
			below(list.Get(j).Message())
		}
	}
}

// funcCall records a call and what it means to the block.
func (b *block) funcCall(call *pg_query.FuncCall) {
	f := function(call)
	b.u.call(f)
	switch {
	case call.Over != nil:
		b.q.Windows = true
	case call.AggStar || call.AggDistinct || call.AggFilter != nil || call.AggWithinGroup || len(call.AggOrder) > 0 || isAggregate(f):
		b.aggregate(call)
	case !IsBuiltin(f):
		if b.clause != inOther {
			b.q.MaybeGrouped = true
		}
		if len(call.Args) > 0 || call.FuncVariadic {
			b.mayBeOuters(call)
		}
	case b.clause == inOutput && isSetReturning(f):
		b.q.SetReturn = true
	}
	if isSetConfig(f) {
		b.u.setConfig(call)
	}
	b.collect(call.Args...)
	b.collect(call.AggOrder...)
	b.visit(call.AggFilter)
	b.window(call.Over)
}

func (b *block) window(w *pg_query.WindowDef) {
	if w != nil {
		b.collect(w.PartitionClause...)
		b.collect(w.OrderClause...)
		b.collect(w.StartOffset, w.EndOffset)
	}
}

func (b *block) jsonAggregate(c *pg_query.JsonAggConstructor) {
	if c.GetOver() != nil {
		b.q.Windows = true
		return
	}
	b.q.Grouped = true
	b.mayBeOuters(nil)
}

// aggregate notes an aggregate in the block. In a sub-select it may belong to an outer block: to the innermost one whose columns its
// arguments name (Value Expressions, 4.2.7).
func (b *block) aggregate(call *pg_query.FuncCall) {
	if b.clause != inOther || b.outer == nil {
		b.q.Grouped = true
	}
	b.mayBeOuters(call)
}

// mayBeOuters marks the outer blocks as possibly grouped by an aggregate here, unless its arguments name a table of this block or no column.
func (b *block) mayBeOuters(call *pg_query.FuncCall) {
	if b.outer == nil {
		return
	}
	local := false
	if call != nil && b.clause != inOther {
		refs := 0
		var look func(n *pg_query.Node)
		look = func(n *pg_query.Node) {
			ref := n.GetColumnRef()
			if ref == nil {
				eachBelow(n, look)
				return
			}
			refs++
			if len(ref.Fields) == 2 && b.q.names(ref.Fields[0].GetString_().GetSval()) {
				local = true
			}
		}
		for _, arg := range call.Args {
			look(arg)
		}
		local = local || refs == 0
	}
	if local {
		return
	}
	for o := b.outer; o != nil; o = o.outer {
		if o.clause != inOther { // elsewhere an aggregate of its own would be an error
			o.q.MaybeGrouped = true
		}
	}
}

// names reports that a table of the block goes by this name.
func (q *Query) names(name string) bool {
	for _, f := range q.From {
		if f.names(name) {
			return true
		}
	}
	return false
}

func (f *From) names(name string) bool {
	switch {
	case f == nil:
		return false
	case f.Alias != "":
		return f.Alias == name
	case f.Kind == FromTable:
		return f.Table.Name == name
	default:
		return f.Left.names(name) || f.Right.names(name)
	}
}

// qualified splits a possibly qualified name; what stands in front of the schema is left out.
func qualified(list []*pg_query.Node) (schema, name string) {
	if n := len(list); n > 0 {
		name = list[n-1].GetString_().GetSval()
		if n > 1 {
			schema = list[n-2].GetString_().GetSval()
		}
	}
	return schema, name
}

// function names what a call calls.
func function(call *pg_query.FuncCall) Function {
	schema, name := qualified(call.Funcname)
	return Function{Schema: schema, Name: name, Args: len(call.Args)}
}
