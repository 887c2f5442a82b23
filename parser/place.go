package parser

import (
	"strconv"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// A parameter without a declared type has the one that PostgreSQL infers where it first meets it, whatever stands beside it elsewhere; and which place comes
// first is PostgreSQL's own affair. So the type is certain only where all places give the same.

// place is what gives a parameter its type in one place.
type place struct {
	kind  placeKind
	block *block // placeColumn: whose names the column is one of
	table string // placeColumn, as written
	name  string // of the column, or of the type
}

type placeKind uint8

const (
	placeSilent placeKind = iota // nothing: $1 IS NULL
	placeWhole                   // integers or texts, which a column of either takes as they are
	placeColumn                  // a column
	placeCast                    // a cast to another type
	placeOther                   // anything else
)

// stands notes what gives a parameter its type at its location; what is told first of a location counts.
func (u *unit) stands(n *pg_query.Node, by place) {
	p := n.GetParamRef()
	if p == nil || u.placed[p.Location] {
		return
	}
	if u.typed == nil {
		u.typed, u.placed = make(map[int32]place), make(map[int32]bool)
	}
	u.placed[p.Location] = true
	switch first := u.typed[p.Number]; {
	case by == first && by.kind != placeOther, by.kind == placeSilent, by.kind == placeWhole && first.kind == placeColumn:
	case first.kind == placeSilent && by.kind != placeOther, first.kind == placeWhole && by.kind == placeColumn:
		u.typed[p.Number] = by
	default:
		u.s.Mixed |= mixedBit(int(p.Number))
		if by.kind == placeCast || first.kind == placeCast {
			u.s.Recast |= mixedBit(int(p.Number))
		}
		switch {
		case by.rounds() || first.rounds():
			u.s.Rounds |= mixedBit(int(p.Number))
		case by.kind == placeColumn && first.kind == placeColumn && by.name != first.name: // columns of one name are taken to have one type
			u.s.Beside = append(u.s.Beside, Beside{int(p.Number), [2]string{first.name, by.name}})
		}
		if first.kind == placeSilent {
			u.typed[p.Number] = by
		}
	}
}

// rounds reports whether the place may give a parameter a type in which digits of integers are lost.
func (p place) rounds() bool {
	switch p.name {
	case modified, "numeric", "uuid", "date", "timestamp", "timestamptz", "time", "timetz", "interval", "bool", "json", "jsonb", "bytea", "inet", "cidr":
		return false
	default:
		return p.kind == placeCast
	}
}

// compares notes what the operands of an operator give each other.
func (b *block) compares(e *pg_query.A_Expr) {
	switch e.Kind {
	case pg_query.A_Expr_Kind_AEXPR_OP, pg_query.A_Expr_Kind_AEXPR_DISTINCT, pg_query.A_Expr_Kind_AEXPR_NOT_DISTINCT:
		switch standardOperator(e.Name) {
		case "=", "<>", "<", ">", "<=", ">=":
			b.pair(e.Lexpr, e.Rexpr)
		}
	case pg_query.A_Expr_Kind_AEXPR_OP_ANY, pg_query.A_Expr_Kind_AEXPR_OP_ALL:
		if array := e.Rexpr.GetAArrayExpr(); array != nil {
			b.among(e.Lexpr, array.Elements)
		} else {
			b.u.stands(e.Rexpr, b.gives(e.Lexpr))
		}
	case pg_query.A_Expr_Kind_AEXPR_IN:
		b.among(e.Lexpr, e.Rexpr.GetList().GetItems())
	case pg_query.A_Expr_Kind_AEXPR_BETWEEN, pg_query.A_Expr_Kind_AEXPR_NOT_BETWEEN:
		for _, bound := range e.Rexpr.GetList().GetItems() {
			b.pair(e.Lexpr, bound)
		}
	default:
	}
}

// pair notes what two operands, or the fields of two rows, give each other.
func (b *block) pair(left, right *pg_query.Node) {
	l, r := left.GetRowExpr().GetArgs(), right.GetRowExpr().GetArgs()
	if len(l) != len(r) {
		return
	}
	for i := range l {
		b.pair(l[i], r[i])
	}
	b.u.stands(left, b.gives(right))
	b.u.stands(right, b.gives(left))
}

// among notes what a list gives to its parameters: all its members have one type, and left has a say in that.
func (b *block) among(left *pg_query.Node, items []*pg_query.Node) {
	if left.GetRowExpr() != nil {
		for _, item := range items {
			b.pair(left, item)
		}
		return
	}
	by := b.gives(left)
	for _, item := range items {
		switch {
		case item.GetParamRef() != nil, item.GetAConst().GetSval() != nil, item.GetAConst().GetIsnull(), b.gives(item).kind == placeWhole:
		default:
			by = place{kind: placeOther}
		}
	}
	for _, item := range items {
		b.u.stands(item, by)
	}
}

// assigns notes that what is written goes to a column of the block's target: VALUES of INSERT, and the SELECT of one, which hands its parameters on.
func (b *block) assigns(source *pg_query.SelectStmt) {
	if source.GetOp() != pg_query.SetOperation_SETOP_NONE {
		return
	}
	column := func(i int) string {
		if len(b.q.Columns) == 0 {
			return strconv.Itoa(i)
		} else if i < len(b.q.Columns) {
			return b.q.Columns[i]
		}
		return ""
	}
	for _, row := range source.GetValuesLists() {
		for i, item := range row.GetList().GetItems() {
			b.u.stands(item, b.column(column(i)))
		}
	}
	for i, n := range source.GetTargetList() {
		b.u.stands(n.GetResTarget().GetVal(), b.column(column(i)))
	}
}

// joins notes that the columns of the arms of a set operation have one type.
func (u *unit) joins(arms ...*pg_query.SelectStmt) {
	for _, arm := range arms {
		for _, n := range arm.GetTargetList() {
			u.stands(n.GetResTarget().GetVal(), place{kind: placeOther})
		}
	}
}

func (b *block) column(name string) place { return place{kind: placeColumn, block: b, name: name} }

// gives is what an operand gives to a parameter beside it.
func (b *block) gives(n *pg_query.Node) place {
	switch x := n.GetNode().(type) {
	case *pg_query.Node_ColumnRef:
		if e := columnRef(x.ColumnRef); e.Kind == ExprColumn && e.Column.Schema == "" {
			return place{kind: placeColumn, block: b, table: e.Column.Table, name: e.Column.Name}
		}
	case *pg_query.Node_TypeCast:
		if by := castTo(x.TypeCast.TypeName); by.kind == placeWhole {
			return by
		}
	case *pg_query.Node_AConst:
		if x.AConst.GetIval() != nil {
			return place{kind: placeWhole}
		}
	}
	return place{kind: placeOther}
}

// modified is for types with modifiers; no float has one.
const modified = "a type with a modifier"

// castTo is what a cast gives. Integers, texts, and arrays of them say in binary format what they are.
func castTo(t *pg_query.TypeName) place {
	name, ok := typeName(t)
	if !ok {
		return place{kind: placeCast, name: modified}
	}
	switch strings.TrimSuffix(name, "[]") {
	case "int2", "int4", "int8", "text", "varchar":
		return place{kind: placeWhole}
	default:
		return place{kind: placeCast, name: name}
	}
}

// casts notes what a cast gives to what it is applied to.
func (u *unit) casts(c *pg_query.TypeCast) {
	by := castTo(c.TypeName)
	u.stands(c.Arg, by)
	for _, n := range c.Arg.GetAArrayExpr().GetElements() {
		by.name = strings.TrimSuffix(by.name, "[]")
		u.stands(n, by)
	}
}

func mixedBit(param int) uint64 { return 1 << min(max(param, 1)-1, 63) }

// IsMixed reports whether parameter n, from 1, is one of Mixed.
func (s *Statement) IsMixed(n int) bool { return s.Mixed&mixedBit(n) != 0 }

// IsRecast reports whether parameter n, from 1, is one of Recast.
func (s *Statement) IsRecast(n int) bool { return s.Recast&mixedBit(n) != 0 }

// IsRounded reports whether parameter n, from 1, is one of Rounds.
func (s *Statement) IsRounded(n int) bool { return s.Rounds&mixedBit(n) != 0 }
