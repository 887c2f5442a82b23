package parser

import pg_query "github.com/pganalyze/pg_query_go/v5"

// cond compiles a condition, which must have been collected before. The result is true for at least all rows for which the condition is
// true or, with negated, for which it is false: never for fewer. So NOT vanishes: a row passes NOT c only if c is false, and what is
// needed for c to be false is known for AND, OR, NOT, <> and a few more. Where it is not known the result is CondOpaque.
func (u *unit) cond(n *pg_query.Node, negated bool) *Cond {
	switch x := n.GetNode().(type) {
	case *pg_query.Node_BoolExpr:
		return u.boolExpr(x.BoolExpr, negated)
	case *pg_query.Node_AExpr:
		return u.comparison(x.AExpr, negated)
	case *pg_query.Node_NullTest:
		// Not for NOT (c IS NOT NULL): of a composite value both tests may be false.
		if !negated && x.NullTest.Nulltesttype == pg_query.NullTestType_IS_NULL && x.NullTest.Arg.GetRowExpr() == nil {
			return &Cond{Op: CondIsNull, Left: u.classify(x.NullTest.Arg)}
		}
	case *pg_query.Node_BooleanTest:
		return u.booleanTest(x.BooleanTest, negated)
	case *pg_query.Node_SubLink:
		return u.subLink(x.SubLink, negated)
	case *pg_query.Node_AConst, *pg_query.Node_TypeCast:
		e := u.classify(n)
		if e.Kind != ExprValue {
			break
		}
		u.literals.pin(e.Value)
		if value, null, ok := boolean(e.Value); ok {
			if value != negated && !null {
				return &Cond{Op: CondTrue}
			}
			return &Cond{Op: CondFalse}
		}
	}
	return opaque()
}

func opaque() *Cond { return &Cond{Op: CondOpaque} }

func (u *unit) boolExpr(e *pg_query.BoolExpr, negated bool) *Cond {
	var op CondOp
	switch e.Boolop {
	case pg_query.BoolExprType_AND_EXPR:
		op = CondAnd
	case pg_query.BoolExprType_OR_EXPR:
		op = CondOr
	case pg_query.BoolExprType_NOT_EXPR:
		if len(e.Args) != 1 {
			return opaque()
		}
		return u.cond(e.Args[0], !negated)
	default:
		return opaque()
	}
	if negated { // De Morgan holds in three-valued logic
		op = CondAnd + CondOr - op
	}
	c := &Cond{Op: op, Args: make([]*Cond, len(e.Args))}
	for i, arg := range e.Args {
		c.Args[i] = u.cond(arg, negated)
	}
	return c
}

// booleanTest: c IS TRUE is true just where c is, but false also where c is null.
func (u *unit) booleanTest(t *pg_query.BooleanTest, negated bool) *Cond {
	switch t.Booltesttype {
	case pg_query.BoolTestType_IS_TRUE:
		if !negated {
			return u.cond(t.Arg, false)
		}
	case pg_query.BoolTestType_IS_FALSE:
		if !negated {
			return u.cond(t.Arg, true)
		}
	case pg_query.BoolTestType_IS_NOT_TRUE:
		if negated {
			return u.cond(t.Arg, false)
		}
	case pg_query.BoolTestType_IS_NOT_FALSE:
		if negated {
			return u.cond(t.Arg, true)
		}
	default:
	}
	return opaque()
}

// standardOperator gives the operator's name if it is PostgreSQL's own as far as its writing tells.
func standardOperator(name []*pg_query.Node) string {
	schema, op := qualified(name)
	if len(name) == 1 || len(name) == 2 && schema == "pg_catalog" {
		return op
	}
	return ""
}

func (u *unit) comparison(e *pg_query.A_Expr, negated bool) *Cond {
	op := standardOperator(e.Name)
	equals := op == "=" && !negated || op == "<>" && negated
	switch e.Kind {
	case pg_query.A_Expr_Kind_AEXPR_OP:
		if equals && e.Lexpr != nil {
			return u.equal(CondEqual, e.Lexpr, e.Rexpr)
		}
	case pg_query.A_Expr_Kind_AEXPR_NOT_DISTINCT:
		if !negated {
			return u.equal(CondNotDistinct, e.Lexpr, e.Rexpr)
		}
	case pg_query.A_Expr_Kind_AEXPR_DISTINCT:
		if negated {
			return u.equal(CondNotDistinct, e.Lexpr, e.Rexpr)
		}
	case pg_query.A_Expr_Kind_AEXPR_IN:
		if equals {
			return u.in(e.Lexpr, e.Rexpr.GetList().GetItems())
		}
	case pg_query.A_Expr_Kind_AEXPR_OP_ANY:
		if op == "=" && !negated {
			return u.anyOf(e.Lexpr, e.Rexpr)
		}
	case pg_query.A_Expr_Kind_AEXPR_OP_ALL:
		if op == "<>" && negated {
			return u.anyOf(e.Lexpr, e.Rexpr)
		}
	default:
	}
	return opaque()
}

// equal compiles left = right, or that with IS NOT DISTINCT FROM; rows are compared field by field.
func (u *unit) equal(op CondOp, left, right *pg_query.Node) *Cond {
	l, r := left.GetRowExpr(), right.GetRowExpr()
	if l == nil && r == nil {
		return u.equalScalar(op, left, right)
	}
	if l == nil || r == nil || len(l.Args) != len(r.Args) || len(l.Args) == 0 {
		return opaque()
	}
	c := &Cond{Op: CondAnd}
	for i := range l.Args {
		if l.Args[i].GetRowExpr() != nil || r.Args[i].GetRowExpr() != nil {
			c.Args = append(c.Args, opaque()) // rows in rows compare as records, by other rules
			continue
		}
		c.Args = append(c.Args, u.equalScalar(op, l.Args[i], r.Args[i]))
	}
	return c
}

// equalScalar puts a column on the left where there is one.
func (u *unit) equalScalar(op CondOp, left, right *pg_query.Node) *Cond {
	l, r := u.classify(left), u.classify(right)
	if l.Kind != ExprColumn && r.Kind == ExprColumn {
		l, r = r, l
	}
	u.pinBoth(l, r)
	return &Cond{Op: op, Left: l, Right: []Expr{r}}
}

func (u *unit) in(left *pg_query.Node, items []*pg_query.Node) *Cond {
	if left.GetRowExpr() != nil {
		c := &Cond{Op: CondOr}
		for _, item := range items {
			c.Args = append(c.Args, u.equal(CondEqual, left, item))
		}
		return c
	}
	c := &Cond{Op: CondIn, Left: u.classify(left), Right: make([]Expr, len(items))}
	for i, item := range items {
		c.Right[i] = u.classify(item)
		u.pinBoth(c.Left, c.Right[i])
	}
	return c
}

// anyOf compiles left = ANY (array).
func (u *unit) anyOf(left, right *pg_query.Node) *Cond {
	if left.GetRowExpr() != nil {
		return opaque()
	}
	element := ""
	if cast := right.GetTypeCast(); cast != nil && cast.Arg.GetAArrayExpr() != nil {
		name, plain := typeName(cast.TypeName)
		of, array := elementCast(name)
		if !plain || !array {
			return opaque()
		}
		element = of
		right = cast.Arg
	}
	if array := right.GetAArrayExpr(); array != nil {
		c := &Cond{Op: CondIn, Left: u.classify(left), Right: make([]Expr, 0, len(array.Elements))}
		for _, n := range array.Elements {
			e, ok := u.element(n, element)
			if !ok {
				return opaque()
			}
			u.pinBoth(c.Left, e)
			c.Right = append(c.Right, e)
		}
		if len(c.Right) == 0 {
			return &Cond{Op: CondFalse}
		}
		return c
	}
	e := u.classify(right)
	if e.Kind == ExprValue {
		return &Cond{Op: CondAnyArray, Left: u.classify(left), Right: []Expr{e}}
	}
	return opaque()
}

// element compiles an element of ARRAY[...], cast to the array's element type if that is given. Elements that are arrays
// themselves make the array multidimensional, and ANY looks at what is in them.
func (u *unit) element(n *pg_query.Node, cast string) (Expr, bool) {
	if n.GetAArrayExpr() != nil {
		return Expr{}, false
	}
	e := u.classify(n)
	casts := &e.Casts
	if e.Kind == ExprValue {
		casts = &e.Value.Casts
	}
	if k := len(*casts); k > 0 {
		if _, array := elementCast((*casts)[k-1]); array {
			return Expr{}, false
		}
	}
	if cast != "" && e.Kind != ExprOpaque {
		*casts = append(*casts, cast)
	}
	return e, true
}

// subLink compiles left IN (SELECT ...), left = ANY (SELECT ...) and what means the same.
func (u *unit) subLink(s *pg_query.SubLink, negated bool) *Cond {
	op := standardOperator(s.OperName)
	isIn := false
	switch s.SubLinkType {
	case pg_query.SubLinkType_ANY_SUBLINK:
		isIn = !negated && (len(s.OperName) == 0 || op == "=")
	case pg_query.SubLinkType_ALL_SUBLINK:
		isIn = negated && op == "<>"
	default:
	}
	sub := u.subs[s.GetSubselect().GetSelectStmt()]
	if !isIn || sub == nil || s.Testexpr.GetRowExpr() != nil {
		return opaque()
	}
	return &Cond{Op: CondIn, Left: u.classify(s.Testexpr), Right: []Expr{{Kind: ExprSubquery, Sub: sub}}}
}
