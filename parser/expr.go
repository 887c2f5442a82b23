package parser

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// classify says what an expression is; it must have been collected before.
func (u *unit) classify(n *pg_query.Node) Expr {
	switch x := n.GetNode().(type) {
	case *pg_query.Node_ColumnRef:
		return columnRef(x.ColumnRef)
	case *pg_query.Node_AConst:
		return u.constant(x.AConst)
	case *pg_query.Node_ParamRef:
		v := Value{Kind: ValueParam, Param: int(x.ParamRef.Number)}
		u.span(&v, x.ParamRef.Location)
		return Expr{Kind: ExprValue, Value: v}
	case *pg_query.Node_TypeCast:
		return u.cast(x.TypeCast)
	case *pg_query.Node_SubLink:
		if sub := u.subs[x.SubLink.GetSubselect().GetSelectStmt()]; sub != nil && x.SubLink.SubLinkType == pg_query.SubLinkType_EXPR_SUBLINK {
			return Expr{Kind: ExprSubquery, Sub: sub}
		}
	case *pg_query.Node_SetToDefault:
		return Expr{Kind: ExprDefault}
	case *pg_query.Node_AExpr:
		return u.signed(x.AExpr)
	}
	return Expr{}
}

func columnRef(ref *pg_query.ColumnRef) Expr {
	n := len(ref.Fields)
	if n == 0 || n > 4 || ref.Fields[n-1].GetString_() == nil {
		return Expr{} // t.* as a row
	}
	field := func(i int) string {
		if i < 0 {
			return ""
		}
		return ref.Fields[i].GetString_().GetSval()
	}
	return Expr{Kind: ExprColumn, Column: Column{Schema: field(n - 3), Table: field(n - 2), Name: field(n - 1)}}
}

// cast classifies expression::type, CAST(expression AS type) and type 'literal'.
func (u *unit) cast(c *pg_query.TypeCast) Expr {
	name, ok := typeName(c.TypeName)
	if !ok {
		return Expr{}
	}
	e := u.classify(c.Arg)
	switch e.Kind {
	case ExprValue:
		e.Value.Casts = append(e.Value.Casts, name)
	case ExprColumn, ExprSubquery:
		e.Casts = append(e.Casts, name)
	case ExprOpaque, ExprDefault:
		return Expr{}
	}
	return e
}

// typeName names a type as Value.Casts has it. It is not ok for types with a modifier, which may change the value (varchar(3)), and for
// types taken from a column (t.c%TYPE).
func typeName(t *pg_query.TypeName) (string, bool) {
	if t == nil || len(t.Names) == 0 || len(t.Typmods) > 0 || t.PctType || t.Setof {
		return "", false
	}
	schema, name := qualified(t.Names)
	name = plainIdent(name)
	if len(t.Names) > 2 || schema != "" && schema != "pg_catalog" {
		name = plainIdent(schema) + "." + name
	}
	for range t.ArrayBounds {
		name += "[]"
	}
	return name, true
}

// plainIdent quotes a name that holds what type names are put together with, so that "int8[]" as a name stays apart from int8[].
func plainIdent(name string) string {
	for i := range len(name) {
		if class[name[i]]&classIdentCont == 0 && name[i] != ' ' {
			return quoteIdent(name)
		}
	}
	return name
}

// elementCast gives the type of the elements of an array type as typeName writes it.
func elementCast(array string) (string, bool) {
	const suffix = "[]"
	n := len(array) - len(suffix)
	if n <= 0 || array[n:] != suffix || n > len(suffix) && array[n-len(suffix):n] == suffix {
		return "", false
	}
	return array[:n], true
}

// outputName is the name PostgreSQL gives a column of a select list without AS (FigureColname).
func outputName(n *pg_query.Node) string {
	if name, _ := figureName(n); name != "" {
		return name
	}
	return "?column?"
}

// figureName also tells how good the name is: 2 = chosen, 1 = a type's name, 0 = none.
func figureName(n *pg_query.Node) (string, int) {
	switch x := n.GetNode().(type) {
	case *pg_query.Node_ColumnRef:
		return lastName(x.ColumnRef.Fields)
	case *pg_query.Node_AIndirection:
		if name, good := lastName(x.AIndirection.Indirection); good > 0 {
			return name, good
		}
		return figureName(x.AIndirection.Arg)
	case *pg_query.Node_FuncCall:
		return lastName(x.FuncCall.Funcname)
	case *pg_query.Node_AExpr:
		if x.AExpr.Kind == pg_query.A_Expr_Kind_AEXPR_NULLIF {
			return "nullif", 2
		}
	case *pg_query.Node_TypeCast:
		name, good := figureName(x.TypeCast.Arg)
		if good <= 1 && x.TypeCast.TypeName != nil {
			if name, _ := lastName(x.TypeCast.TypeName.Names); name != "" {
				return name, 1
			}
		}
		return name, good
	case *pg_query.Node_CollateClause:
		return figureName(x.CollateClause.Arg)
	case *pg_query.Node_GroupingFunc:
		return "grouping", 2
	case *pg_query.Node_SubLink:
		switch x.SubLink.SubLinkType {
		case pg_query.SubLinkType_EXISTS_SUBLINK:
			return "exists", 2
		case pg_query.SubLinkType_ARRAY_SUBLINK:
			return "array", 2
		case pg_query.SubLinkType_EXPR_SUBLINK:
			return subselectName(x.SubLink.Subselect.GetSelectStmt())
		default:
		}
	case *pg_query.Node_CaseExpr:
		name, good := figureName(x.CaseExpr.Defresult)
		if good <= 1 {
			return "case", 1
		}
		return name, good
	case *pg_query.Node_AArrayExpr:
		return "array", 2
	case *pg_query.Node_RowExpr:
		return "row", 2
	case *pg_query.Node_CoalesceExpr:
		return "coalesce", 2
	case *pg_query.Node_MinMaxExpr:
		if x.MinMaxExpr.Op == pg_query.MinMaxOp_IS_LEAST {
			return "least", 2
		}
		return "greatest", 2
	case *pg_query.Node_SqlvalueFunction:
		return valueFunctionNames[x.SqlvalueFunction.Op], 2
	case *pg_query.Node_XmlExpr:
		if name := xmlNames[x.XmlExpr.Op]; name != "" {
			return name, 2
		}
	case *pg_query.Node_XmlSerialize:
		return "xmlserialize", 2
	case *pg_query.Node_JsonObjectConstructor:
		return "json_object", 2
	case *pg_query.Node_JsonArrayConstructor, *pg_query.Node_JsonArrayQueryConstructor:
		return "json_array", 2
	case *pg_query.Node_JsonObjectAgg:
		return "json_objectagg", 2
	case *pg_query.Node_JsonArrayAgg:
		return "json_arrayagg", 2
	}
	return "", 0
}

func lastName(list []*pg_query.Node) (string, int) {
	for _, n := range slices.Backward(list) {
		if s := n.GetString_(); s != nil {
			return s.Sval, 2
		}
	}
	return "", 0
}

// subselectName names a scalar sub-select after its one column; of a set operation the leftmost arm counts.
func subselectName(s *pg_query.SelectStmt) (string, int) {
	for s.GetLarg() != nil {
		s = s.Larg
	}
	if len(s.GetValuesLists()) > 0 {
		return "column1", 2
	}
	if len(s.GetTargetList()) == 0 {
		return "", 0
	}
	target := s.TargetList[0].GetResTarget()
	if target.GetName() != "" {
		return target.Name, 2
	}
	name, _ := figureName(target.GetVal())
	return name, 2
}

var valueFunctionNames = map[pg_query.SQLValueFunctionOp]string{
	pg_query.SQLValueFunctionOp_SVFOP_CURRENT_DATE:        "current_date",
	pg_query.SQLValueFunctionOp_SVFOP_CURRENT_TIME:        "current_time",
	pg_query.SQLValueFunctionOp_SVFOP_CURRENT_TIME_N:      "current_time",
	pg_query.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP:   "current_timestamp",
	pg_query.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP_N: "current_timestamp",
	pg_query.SQLValueFunctionOp_SVFOP_LOCALTIME:           "localtime",
	pg_query.SQLValueFunctionOp_SVFOP_LOCALTIME_N:         "localtime",
	pg_query.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP:      "localtimestamp",
	pg_query.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N:    "localtimestamp",
	pg_query.SQLValueFunctionOp_SVFOP_CURRENT_ROLE:        "current_role",
	pg_query.SQLValueFunctionOp_SVFOP_CURRENT_USER:        "current_user",
	pg_query.SQLValueFunctionOp_SVFOP_USER:                "user",
	pg_query.SQLValueFunctionOp_SVFOP_SESSION_USER:        "session_user",
	pg_query.SQLValueFunctionOp_SVFOP_CURRENT_CATALOG:     "current_catalog",
	pg_query.SQLValueFunctionOp_SVFOP_CURRENT_SCHEMA:      "current_schema",
}

var xmlNames = map[pg_query.XmlExprOp]string{
	pg_query.XmlExprOp_IS_XMLCONCAT:  "xmlconcat",
	pg_query.XmlExprOp_IS_XMLELEMENT: "xmlelement",
	pg_query.XmlExprOp_IS_XMLFOREST:  "xmlforest",
	pg_query.XmlExprOp_IS_XMLPARSE:   "xmlparse",
	pg_query.XmlExprOp_IS_XMLPI:      "xmlpi",
	pg_query.XmlExprOp_IS_XMLROOT:    "xmlroot",
}
