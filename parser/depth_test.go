package parser

import (
	"math/rand/v2"
	"strings"
	"testing"

	pg_query "github.com/pganalyze/pg_query_go/v5"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// towers are texts that nest or chain n times, in all the ways the grammar has.
var towers = map[string]func(n int) string{
	"parentheses": func(n int) string { return "SELECT " + strings.Repeat("(", n) + "1" + strings.Repeat(")", n) },
	"not":         func(n int) string { return "SELECT " + strings.Repeat("NOT ", n) + "true" },
	"plus":        func(n int) string { return "SELECT 1" + strings.Repeat("+1", n) },
	"concat":      func(n int) string { return "SELECT a" + strings.Repeat("||'x'", n) },
	"minus":       func(n int) string { return "SELECT " + strings.Repeat("- ", n) + "a" },
	"union":       func(n int) string { return "SELECT 1, 2" + strings.Repeat(" UNION SELECT 1, 2", n) },
	"values":      func(n int) string { return "VALUES (1)" + strings.Repeat(" EXCEPT VALUES (1)", n) },
	"table":       func(n int) string { return "TABLE a" + strings.Repeat(" INTERSECT TABLE a", n) },
	"sub-select":  func(n int) string { return strings.Repeat("SELECT (", n) + "SELECT 1" + strings.Repeat(")", n) },
	"from": func(n int) string {
		return strings.Repeat("SELECT * FROM (", n) + "SELECT 1" + strings.Repeat(") x", n)
	},
	"join":       func(n int) string { return "SELECT * FROM t" + strings.Repeat(" JOIN t ON a = 1 AND b = 2", n) },
	"cross join": func(n int) string { return "SELECT * FROM t" + strings.Repeat(" CROSS JOIN t", n) },
	"cast":       func(n int) string { return "SELECT 1" + strings.Repeat("::int", n) },
	"function":   func(n int) string { return "SELECT " + strings.Repeat("f(", n) + strings.Repeat(")", n) },
	"case": func(n int) string {
		return "SELECT " + strings.Repeat("CASE WHEN ", n) + "true" + strings.Repeat(" THEN 1 END", n)
	},
	"case chain": func(n int) string {
		return "SELECT " + strings.Repeat("CASE WHEN ", 100) + "true" + strings.Repeat(" THEN 1 END"+strings.Repeat("+1", n/100), 100)
	},
	"is null":   func(n int) string { return "SELECT a" + strings.Repeat(" IS NULL", n) },
	"isnull":    func(n int) string { return "SELECT a" + strings.Repeat(" ISNULL", n) },
	"between":   func(n int) string { return "SELECT a" + strings.Repeat(" BETWEEN 1 AND 2 IS NULL", n) },
	"array":     func(n int) string { return "SELECT " + strings.Repeat("ARRAY[", n) + "1" + strings.Repeat("]", n) },
	"collate":   func(n int) string { return "SELECT a" + strings.Repeat(" COLLATE x", n) },
	"time zone": func(n int) string { return "SELECT a" + strings.Repeat(" AT TIME ZONE 'x'", n) },
	"operator":  func(n int) string { return "SELECT a" + strings.Repeat(" OPERATOR(pg_catalog.+) 1", n) },
	"in":        func(n int) string { return "SELECT a" + strings.Repeat(" IN (1) IS TRUE", n) },
	"in spread": func(n int) string {
		return "SELECT (" + strings.Repeat("(", 50) + "a" + strings.Repeat(strings.Repeat("+1", n/50)+")", 50) + ")"
	},
	"subscript": func(n int) string { return "SELECT a" + strings.Repeat("[1]", n) },
	"index in":  func(n int) string { return "SELECT " + strings.Repeat("a[", n) + "1" + strings.Repeat("]", n) },
	"with": func(n int) string {
		return strings.Repeat("WITH x AS (", n) + "SELECT 1" + strings.Repeat(") SELECT 1", n)
	},
	"exists": func(n int) string {
		return strings.Repeat("SELECT 1 WHERE EXISTS (", n) + "SELECT 1" + strings.Repeat(")", n)
	},
	"any":        func(n int) string { return "SELECT a" + strings.Repeat(" = ANY (ARRAY[1]) IS TRUE", n) },
	"like":       func(n int) string { return "SELECT a" + strings.Repeat(" LIKE 'x' ESCAPE 'y' IS TRUE", n) },
	"json":       func(n int) string { return "SELECT a" + strings.Repeat(" IS JSON", n) },
	"in list":    func(n int) string { return "SELECT 1 IN (1" + strings.Repeat(",1", n) + ")" },
	"or":         func(n int) string { return "SELECT a = 1" + strings.Repeat(" OR a = 1", n) },
	"and or":     func(n int) string { return "SELECT a = 1" + strings.Repeat(" AND a + 1 = 1 OR NOT a = 1", n) },
	"arms":       func(n int) string { return "SELECT CASE x" + strings.Repeat(" WHEN a + 1 THEN b - 1", n) + " END" },
	"rows":       func(n int) string { return "INSERT INTO t VALUES (1, a + 1)" + strings.Repeat(", (2, 3 + 4)", n) },
	"columns":    func(n int) string { return "SELECT a + 1" + strings.Repeat(", b || c", n) },
	"statements": func(n int) string { return strings.Repeat("SELECT 1 + 1 UNION SELECT 2;", n) },
}

// shallow are the towers that have no depth: however long, they are parsed.
var shallow = map[string]bool{"in list": true, "or": true, "and or": true, "arms": true, "rows": true, "columns": true, "statements": true}

// TestDeepTexts throws texts at Parse of which many would end the process in pg_query's C code.
func TestDeepTexts(t *testing.T) {
	t.Parallel()
	for name, tower := range towers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sizes := []int{100, 1000, 3000, 3900, 20_000, 200_000}
			if shallow[name] {
				sizes = []int{100, 20_000}
				if underRace {
					sizes[1] = 1500
				}
			}
			for _, n := range sizes {
				m := Parse(tower(n))
				if m.Unparsable == nil {
					continue
				}
				if n <= 1000 || shallow[name] {
					t.Errorf("%d levels: %v", n, m.Unparsable)
				}
				if code := m.Unparsable.Code; code != codeTooComplex && code != codeSyntax || m.Unparsable.Code == codeInternal {
					t.Errorf("%d levels: %v", n, m.Unparsable)
				}
				if code := m.Unparsable.Code; code == codeSyntax && !strings.HasPrefix(m.Unparsable.Message, "memory exhausted") {
					t.Errorf("%d levels: %v", n, m.Unparsable)
				}
			}
		})
	}
}

// estimateOf is what tooDeep compares with its limit, at its highest.
func estimateOf(text string) int {
	top := 0
	var d depth
	s := Scan(text)
	for tok := s.Next(); tok.Kind != TokenEnd; tok = s.Next() {
		d.token(text, tok)
		top = max(top, d.estimate())
	}
	return top
}

// levelsOf is the depth of a tree in expressions, joins and selects.
func levelsOf(n *pg_query.Node) int {
	var levels func(m protoreflect.Message) int
	levels = func(m protoreflect.Message) int {
		own, below := 0, 0
		switch m.Interface().(type) {
		case *pg_query.A_Expr, *pg_query.BoolExpr, *pg_query.NullTest, *pg_query.BooleanTest, *pg_query.TypeCast, *pg_query.CollateClause, *pg_query.FuncCall,
			*pg_query.SubLink, *pg_query.SelectStmt, *pg_query.JoinExpr, *pg_query.CaseExpr, *pg_query.A_ArrayExpr, *pg_query.A_Indirection, *pg_query.JsonIsPredicate,
			*pg_query.RowExpr, *pg_query.RangeSubselect, *pg_query.XmlExpr:
			own = 1
		}
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			if fd.Kind() != protoreflect.MessageKind || !m.Has(fd) {
				continue
			}
			if !fd.IsList() {
				below = max(below, levels(m.Get(fd).Message()))
				continue
			}
			list := m.Get(fd).List()
			for j := range list.Len() {
				below = max(below, levels(list.Get(j).Message()))
			}
		}
		return own + below
	}
	return levels(n.ProtoReflect())
}

// slack is how many levels of a tree one level of the estimate may stand for.
const slack = 2

// TestDepthIsNeverUnderestimated compares the estimate with real trees: towers on their own, and in and on top of each other.
func TestDepthIsNeverUnderestimated(t *testing.T) {
	check := func(sql string) {
		t.Helper()
		tree, err := pg_query.Parse(sql)
		if err != nil || len(tree.Stmts) == 0 {
			return
		}
		levels := 0
		for _, s := range tree.Stmts {
			levels = max(levels, levelsOf(s.Stmt))
		}
		if got := estimateOf(sql); (got+4)*slack < levels {
			t.Errorf("estimated %d for %d levels: %.300s", got, levels, sql)
		}
	}
	for _, tower := range towers {
		check(tower(part(300)))
	}
	g := rand.New(rand.NewPCG(3, 4))
	parts := []string{
		" + 1", " IS NULL", "::int", " BETWEEN 1 AND 2", " AND b", " OR c", " COLLATE x", " IN (1, 2)", " = ANY (SELECT 1)", "[1]", " LIKE 'x'", ", 2",
		" UNION SELECT 3", " FROM a JOIN b ON a.x = b.x AND true", " AT TIME ZONE 'x'", " ISNULL", " || 'y'",
	}
	for range part(2000) {
		expr := "1"
		for range g.IntN(60) {
			switch g.IntN(8) {
			case 0:
				expr = "(" + expr + ")"
			case 1:
				expr = "CASE WHEN " + expr + " THEN 1 END"
			case 2:
				expr = "f(" + expr + ")"
			case 3:
				expr = "(SELECT " + expr + ")"
			default:
				part := parts[g.IntN(len(parts))]
				expr += strings.Repeat(part, g.IntN(4)+1)
			}
		}
		check("SELECT " + expr)
	}
}
