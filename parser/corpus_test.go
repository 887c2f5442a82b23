package parser

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	pg_query "github.com/pganalyze/pg_query_go/v5"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// corpus gives the files of PostgreSQL's regression tests: the selection in testdata, and all of them where they lie beside the repository.
func corpus(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("../../shared/corpus/postgresql-15-regress/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/regress/*.sql")
	if err != nil || len(files) < 30 {
		t.Fatalf("got %d files, %v", len(files), err)
	}
	if len(all) > 0 && !testing.Short() && !underRace {
		return all
	}
	return files
}

// psqlStatements cuts a psql script into texts as psql sends them: up to a semicolon outside of brackets. Lines with meta-commands and the data of
// COPY FROM STDIN are left out, so now and then a text is odd; that does no harm.
func psqlStatements(script string) []string {
	var lines []string
	copying := false
	for line := range strings.Lines(script) {
		switch {
		case copying:
			copying = !strings.HasPrefix(line, `\.`)
		case strings.HasPrefix(strings.TrimSpace(line), `\`):
		default:
			lines = append(lines, line)
			l := strings.ToLower(line)
			copying = strings.Contains(l, "copy ") && strings.Contains(l, "from stdin") && strings.Contains(l, ";")
		}
	}
	text := strings.Join(lines, "")
	var out []string
	start, depth := 0, 0
	s := Scan(text)
	for {
		switch tok := s.Next(); tok.Kind {
		case TokenEnd, TokenError:
			return append(out, text[start:])
		case TokenPunct:
			switch text[tok.Start] {
			case '(':
				depth++
			case ')':
				depth--
			case ';':
				if depth <= 0 {
					out = append(out, text[start:tok.End])
					start, depth = tok.End, 0
				}
			}
		default:
		}
	}
}

// TestCorpus holds, for every statement of PostgreSQL's regression tests: our scanner agrees with pg_query's, Parse refuses just what pg_query
// refuses, and the facts name each relation, each block and each parameter of the tree.
func TestCorpus(t *testing.T) {
	t.Parallel()
	var total, refused atomic.Int64
	t.Cleanup(func() {
		if total.Load() < 500 || refused.Load() > total.Load()/10 {
			t.Errorf("%d statements, %d refused", total.Load(), refused.Load())
		}
	})
	for _, path := range corpus(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			script, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i, sql := range psqlStatements(string(script)) {
				if underRace && i%10 != 0 {
					continue
				}
				total.Add(1)
				if !checkParse(t, sql) {
					refused.Add(1)
				}
			}
		})
	}
}

// checkParse holds Parse to the tree of pg_query; false if that refuses the text.
func checkParse(t *testing.T, sql string) bool {
	t.Helper()
	m := Parse(sql)
	if m == nil || m.Size <= 0 {
		t.Fatalf("no message for %q", sql)
	}
	_ = m.String()
	if strings.IndexByte(sql, 0) >= 0 {
		if m.Unparsable == nil {
			t.Fatalf("text with NUL parsed: %q", sql)
		}
		return false
	}
	text, _ := transcode(sql)
	compareScan(t, text)
	if tooDeep(text) {
		if m.Unparsable == nil || m.Unparsable.Code != codeTooComplex {
			t.Fatalf("got %v for a deep text", m.Unparsable)
		}
		return false
	}
	tree, err := pg_query.Parse(blankComments(text))
	if err != nil {
		if m.Unparsable == nil || m.Unparsable.Message != err.Error() && m.Unparsable.Code != codeTooComplex {
			t.Fatalf("got %v, want %v for %q", m.Unparsable, err, sql)
		}
		return false
	}
	if m.Unparsable != nil {
		t.Fatalf("got %v for %q", m.Unparsable, sql)
	}
	if len(m.Statements) != len(tree.Stmts) {
		t.Fatalf("got %d statements, want %d in %q", len(m.Statements), len(tree.Stmts), sql)
	}
	end := 0
	for i, s := range m.Statements {
		if s.Start < end || s.End < s.Start || s.End > len(sql) {
			t.Fatalf("span [%d,%d) in %q", s.Start, s.End, sql)
		}
		end = s.End
		want, got := inTree(tree.Stmts[i].Stmt), inFacts(t, s)
		if s.Kind == DDL || s.Kind == Unknown || s.Inner != nil && s.Inner.Kind == DDL {
			want.blocks = got.blocks // bodies: relations suffice
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(reached{})); diff != "" {
			t.Fatalf("tree (-) and facts (+) differ for %q:\n%s\n%v", sql, diff, s.Kind)
		}
		if s.Kind == Unknown || s.Tag == "" {
			t.Fatalf("kind %v, tag %q of %q", s.Kind, s.Tag, sql)
		}
		checkSpans(t, sql, s)
	}
	return true
}

// reached is what a tree holds and the facts must name.
type reached struct {
	relations map[string]int
	blocks    int // SELECTs, VALUES and set operations
	params    int
	calls     []string
}

func (r *reached) relation(name string) { r.relations[name]++ }

// inTree walks a tree by reflection, knowing as little as possible.
func inTree(n *pg_query.Node) reached {
	r := reached{relations: map[string]int{}}
	calls := map[string]bool{}
	eachMessage(n.ProtoReflect(), func(m protoreflect.Message) bool {
		switch x := m.Interface().(type) {
		case *pg_query.RangeVar:
			r.relation(x.Schemaname + "." + x.Relname)
		case *pg_query.LockingClause, *pg_query.ConstraintsSetStmt:
			return false // aliases, constraints
		case *pg_query.SelectStmt:
			r.blocks++
		case *pg_query.ParamRef:
			r.params = max(r.params, int(x.Number))
		case *pg_query.FuncCall:
			calls[function(x).String()] = true
		case *pg_query.MultiAssignRef:
			return x.Colno <= 1 // each column carries the whole source
		}
		return true
	})
	r.calls = slices.Sorted(maps.Keys(calls))
	return r
}

// inFacts walks a Statement.
func inFacts(t *testing.T, s *Statement) reached {
	t.Helper()
	r := reached{relations: map[string]int{}, params: s.Params}
	calls := map[string]bool{}
	var statement func(s *Statement)
	seen := map[*Query]bool{}
	var query func(q *Query)
	var from func(f *From)
	from = func(f *From) {
		if f == nil {
			return
		}
		if f.Table != nil {
			r.relation(f.Table.Schema + "." + f.Table.Name)
		}
		query(f.Sub)
		from(f.Left)
		from(f.Right)
	}
	query = func(q *Query) {
		if q == nil {
			return
		}
		if seen[q] {
			t.Fatalf("a block is reached twice")
		}
		seen[q] = true
		switch q.Kind {
		case SelectBlock, ValuesBlock, SetBlock:
			r.blocks++
		}
		for _, c := range q.With {
			query(c.Query)
		}
		for _, f := range q.From {
			from(f)
		}
		from(q.Target)
		query(q.Left)
		query(q.Right)
		query(q.Source)
		for _, sub := range q.Subqueries {
			query(sub)
		}
		eachExpr(q, func(e Expr) {
			if e.Sub != nil && !seen[e.Sub] {
				t.Fatalf("a scalar sub-select is not among Subqueries")
			}
		})
	}
	statement = func(s *Statement) {
		for _, f := range s.Calls {
			if !strings.ContainsAny(f.Name, "+-*/<>=~!@#%^&|`?") {
				calls[f.String()] = true
			}
		}
		for _, table := range s.Tables {
			r.relation(table.Schema + "." + table.Name)
		}
		if s.Copy != nil && s.Copy.Table != nil {
			r.relation(s.Copy.Table.Schema + "." + s.Copy.Table.Name)
		}
		switch {
		case s.Query == nil:
		case s.Kind == CopyTo && s.Copy.Table != nil:
			for _, sub := range s.Query.Subqueries {
				query(sub)
			}
		case s.Query.Kind == SelectBlock && s.Kind != Select && s.Kind != CopyTo:
			for _, sub := range s.Query.Subqueries { // a block of ours
				query(sub)
			}
		default:
			query(s.Query)
		}
		if s.Inner != nil {
			statement(s.Inner)
		}
	}
	statement(s)
	// The names of objects that are no RangeVars are extra.
	if s.Kind == DDL {
		switch strings.Fields(s.Tag)[0] {
		case "DROP", "COMMENT", "SECURITY":
			clear(r.relations)
		}
		if s.Tag == "ALTER EXTENSION" {
			clear(r.relations)
		}
	}
	r.calls = slices.Sorted(maps.Keys(calls))
	return r
}

// checkSpans holds that the span of each value, read again by itself, gives that value.
func checkSpans(t *testing.T, sql string, s *Statement) {
	t.Helper()
	var values []Value
	var texts []string
	add := func(e Expr) {
		if v := e.Value; e.Kind == ExprValue && v.End > 0 {
			if v.Start < s.Start || v.End > s.End || v.Start >= v.End {
				t.Fatalf("value %v outside of its statement in %q", v, sql)
			}
			values = append(values, v)
			texts = append(texts, sql[v.Start:v.End])
		}
	}
	eachQuery(s, func(q *Query) { eachExpr(q, add) })
	for _, e := range s.Args {
		add(e)
	}
	if len(values) == 0 {
		return
	}
	again := "SELECT " + strings.Join(texts, ",")
	if !utf8.ValidString(sql) {
		again = "/* \xff */" + again // or what is left may be UTF-8
	}
	m := Parse(again)
	if m.Unparsable != nil {
		t.Fatalf("spans %q in %q: %v", texts, sql, m.Unparsable)
	}
	for i, o := range m.Statements[0].Query.Output {
		got, want := o.Expr.Value, values[i]
		if got.Kind != want.Kind || got.Text != want.Text || got.Param != want.Param {
			t.Fatalf("span %q gives %v, want %v, in %q", texts[i], got, want, sql)
		}
	}
}

// eachQuery calls f for all blocks of a statement.
func eachQuery(s *Statement, f func(*Query)) {
	var query func(q *Query)
	var from func(i *From)
	from = func(i *From) {
		if i != nil {
			query(i.Sub)
			from(i.Left)
			from(i.Right)
		}
	}
	query = func(q *Query) {
		if q == nil {
			return
		}
		f(q)
		for _, c := range q.With {
			query(c.Query)
		}
		for _, i := range q.From {
			from(i)
		}
		query(q.Left)
		query(q.Right)
		query(q.Source)
		for _, sub := range q.Subqueries {
			query(sub)
		}
	}
	for ; s != nil; s = s.Inner {
		query(s.Query)
	}
}

// eachExpr calls f for the expressions of a block, those of its conditions included.
func eachExpr(q *Query, f func(Expr)) {
	var cond func(c *Cond)
	cond = func(c *Cond) {
		if c == nil {
			return
		}
		f(c.Left)
		for _, e := range c.Right {
			f(e)
		}
		for _, a := range c.Args {
			cond(a)
		}
	}
	var from func(i *From)
	from = func(i *From) {
		if i != nil {
			cond(i.On)
			from(i.Left)
			from(i.Right)
		}
	}
	cond(q.Where)
	cond(q.ConflictWhere)
	for _, i := range q.From {
		from(i)
	}
	for _, o := range q.Output {
		f(o.Expr)
	}
	for _, row := range q.Rows {
		for _, e := range row {
			f(e)
		}
	}
	for _, s := range q.Sets {
		f(s.Expr)
	}
	for _, e := range q.GroupBy {
		f(e)
	}
	for _, a := range q.Actions {
		cond(a.Cond)
		for _, e := range a.Values {
			f(e)
		}
		for _, s := range a.Sets {
			f(s.Expr)
		}
	}
}
