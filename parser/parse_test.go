package parser

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

func TestParseRefusesNul(t *testing.T) {
	m := Parse("SELECT 1\x00; SELECT 2")
	if m.Unparsable == nil || m.Unparsable.Code != "22021" || m.Statements != nil || m.Newer {
		t.Errorf("got %v", m)
	}
}

func TestParseSurvivesPanics(t *testing.T) {
	// A tree that pg_query never gives.
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("panic: %v", r)
		}
	}()
	c := &compiler{text: "x"}
	for _, n := range []*pg_query.Node{
		nil,
		{},
		{Node: &pg_query.Node_SelectStmt{SelectStmt: &pg_query.SelectStmt{TargetList: []*pg_query.Node{nil, {}}, FromClause: []*pg_query.Node{nil, {}}}}},
		{Node: &pg_query.Node_CallStmt{CallStmt: &pg_query.CallStmt{}}},
		{Node: &pg_query.Node_AConst{AConst: &pg_query.A_Const{}}},
	} {
		if s := c.statement(&pg_query.RawStmt{Stmt: n}); s.Kind == Unknown {
			t.Errorf("%v: no kind", n)
		}
	}
	u := c.unit(nil)
	if u.s.Kind != Utility || u.s.Effects&EffUnjudged == 0 {
		t.Errorf("an unknown statement gives %v", u.s)
	}
}

func TestMessagesAreShared(t *testing.T) {
	// A block that is reached as a scalar sub-select is the one among Subqueries.
	q := Parse("SELECT * FROM t WHERE a = (SELECT 1) AND b IN (SELECT 2)").Statements[0].Query
	if len(q.Subqueries) != 2 || q.Where.Args[0].Right[0].Sub != q.Subqueries[0] || q.Where.Args[1].Right[0].Sub != q.Subqueries[1] {
		t.Error("sub-selects differ")
	}
}

func TestSizeGrowsWithTheText(t *testing.T) {
	small, large := Parse("SELECT 1").Size, Parse("SELECT 1"+strings.Repeat(", 1", 1000)).Size
	if small < 300 || large < 100_000 || large > 1_000_000 {
		t.Errorf("got %d and %d bytes", small, large)
	}
}

func TestIdentifiersAreFolded(t *testing.T) {
	q := Parse(`SELECT ID, "Id" FROM Shop.ORDERS AS O WHERE "O".TENANT_ID = 1`).Statements[0].Query
	if q.Output[0].Expr.Column.Name != "id" || q.Output[1].Expr.Column.Name != "Id" || *q.From[0].Table != (Table{Schema: "shop", Name: "orders"}) || q.From[0].Alias != "o" ||
		q.Where.Left.Column != (Column{Table: "O", Name: "tenant_id"}) {
		t.Errorf("got %v", q.From[0].Table)
	}
	long := strings.Repeat("x", 80)
	if got := Parse("TABLE " + long).Statements[0].Query.From[0].Table.Name; got != long[:63] {
		t.Errorf("got %q", got)
	}
}

// part is n, less under the race detector.
func part(n int) int {
	if underRace {
		return n / 10
	}
	return n
}

// goldenInputs gives the statements of the golden files.
func goldenInputs(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/golden/*")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(data), "parse\n")[1:] {
			sql, _, _ := strings.Cut(block, "\n----")
			list = append(list, sql)
		}
	}
	return list
}

func FuzzParse(f *testing.F) {
	for _, sql := range goldenInputs(f) {
		f.Add(sql)
	}
	for _, sql := range scanSeeds {
		f.Add("SELECT " + sql)
	}
	for _, tower := range towers {
		f.Add(tower(20))
	}
	f.Add("SELECT '\xe9', \"\xfc\" FROM t WHERE a = -7 -- \xdf")
	f.Add("SELECT U&'\\0061' /* x */ UESCAPE '!'")
	f.Fuzz(func(t *testing.T, sql string) {
		checkParse(t, sql)
		if text, _ := transcode(sql); !strings.Contains(sql, "\x00") && !tooDeep(text) {
			if tree, err := pg_query.Parse(blankComments(text)); err == nil {
				levels := 0
				for _, s := range tree.Stmts {
					levels = max(levels, levelsOf(s.Stmt))
				}
				if got := estimateOf(text); (got+8)*slack < levels {
					t.Fatalf("estimated %d for %d levels", got, levels)
				}
			}
		}
	})
}
