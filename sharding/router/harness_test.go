package router_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// TestRoute runs the tables in testdata/route: lines of SQL, and for each the plan or the refusal. -rewrite writes them
// anew. The commands are
//
//	config shards=N [tenant=COLUMN]   lines: table [SCHEMA.]NAME|* COLUMN TYPE MAPPING | omni [SCHEMA.]NAME | schema NAME|* SHARD|all
//	schema [none]                     lines: table|sequence|matview NAME COLUMN:TYPE... | view NAME COLUMN:TYPE... AS SELECT | function NAME
//	route [hint-shard=N] [hint-key=X] [latin1] [path=a,b] [prepared]
//
// Comments at the end of a line give parameters: -- $1 = 7, $2 = NULL, $3 = int4:7, $4 = hex:0000..
func TestRoute(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/route", func(t *testing.T, path string) {
		var f fixture
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "config":
				return f.config(t, d)
			case "schema":
				return f.readSchema(t, d)
			case "route":
				return f.route(t, d)
			case "explain":
				rt := f.r.Route(parser.Parse(d.Input), nil)
				e, _ := rt.Explain(&router.Input{UTF8: true})
				return e.String()
			case "error":
				rt := f.r.Route(parser.Parse(d.Input), nil)
				_, e := rt.Plan(&router.Input{UTF8: true})
				return errorText(e)
			}
			d.Fatalf(t, "unknown command %q", d.Cmd)
			return ""
		})
	})
}

type fixture struct {
	options router.Options
	r       *router.Router
}

func (f *fixture) rebuild(t testing.TB) string {
	t.Helper()
	r, err := router.New(f.options)
	if err != nil {
		return err.Error() + "\n"
	}
	f.r = r
	return ""
}

func (f *fixture) config(t testing.TB, d *datadriven.TestData) string {
	f.options = router.Options{Cluster: "shop", Schema: f.options.Schema}
	d.ScanArgs(t, "shards", &f.options.Shards)
	d.MaybeScanArgs(t, "tenant", &f.options.TenantColumn)
	f.readConfig(t, d.Input)
	return f.rebuild(t)
}

// readConfig reads lines such as
//
//	table orders tenant_id bigint 1,2=0 11=1 [100,200)=0 *=1
//	table * tenant_id bigint hash
//	omni countries
func (f *fixture) readConfig(t testing.TB, text string) {
	last := map[string]*sharding.Mapping{}
	for line := range strings.SplitSeq(text, "\n") {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		switch w[0] {
		case "schema":
			x := router.Schema{Name: w[1], Common: w[2] == "all"}
			if n, err := strconv.Atoi(w[2]); err == nil {
				x.Shard = topology.ShardID(n)
			}
			if x.Name == "*" {
				x.Name = ""
			}
			f.options.Schemas = append(f.options.Schemas, x)
		case "omni":
			f.options.Omnisharded = append(f.options.Omnisharded, qualified(w[1], ""))
		case "table":
			typ, ok := sharding.ParseKeyType(w[3])
			if !ok {
				t.Fatalf("%q is no type of a key", w[3])
			}
			q := qualified(w[1], "")
			if q.Name == "*" {
				q.Name = ""
			}
			rest := strings.Join(w[4:], " ")
			var m *sharding.Mapping
			if rest != "hash" {
				if m = last[w[3]+rest]; m == nil {
					m = mapping(t, typ, w[4:])
					last[w[3]+rest] = m
				}
			}
			f.options.Tables = append(f.options.Tables, router.Table{Schema: q.Schema, Name: q.Name, Column: w[2], Type: typ, Mapping: m})
		default:
			t.Fatalf("config: %q", line)
		}
	}
}

func mapping(t testing.TB, typ sharding.KeyType, words []string) *sharding.Mapping {
	b := sharding.NewBuilder(typ)
	parse := func(s string) *sharding.Key {
		if s == "" {
			return nil
		}
		k, ok := sharding.ParseKey(typ, s)
		if !ok {
			t.Fatalf("%q is no %v", s, typ)
		}
		return &k
	}
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, word := range words {
		left, right, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(right)
		check(err)
		shard := topology.ShardID(n)
		switch {
		case left == "*":
			check(b.Default(shard))
		case left[0] == '[':
			start, end, _ := strings.Cut(left[1:len(left)-1], ",")
			check(b.Range(parse(start), parse(end), shard))
		default:
			for v := range strings.SplitSeq(left, ",") {
				check(b.Value(*parse(v), shard))
			}
		}
	}
	m, err := b.Build()
	check(err)
	return m
}

func qualified(name, schema string) topology.QualifiedName {
	if s, n, ok := strings.Cut(name, "."); ok {
		return topology.QualifiedName{Schema: s, Name: n}
	}
	return topology.QualifiedName{Schema: schema, Name: name}
}

func (f *fixture) readSchema(t testing.TB, d *datadriven.TestData) string {
	if d.HasArg("none") {
		f.options.Schema = nil
	} else {
		f.options.Schema = schema(t, d.Input)
	}
	return f.rebuild(t)
}

var typeOIDs = map[string]uint32{"int8": 20, "int4": 23, "int2": 21, "text": 25, "varchar": 1043, "uuid": 2950, "numeric": 1700}

func schema(t testing.TB, text string) *topology.Schema {
	s := &topology.Schema{
		Relations: map[topology.QualifiedName]*topology.Relation{}, Functions: map[topology.QualifiedName]bool{}, FunctionNames: map[string]bool{},
	}
	for _, q := range []topology.QualifiedName{
		{Schema: "pg_catalog", Name: "pg_class"}, {Schema: "pg_catalog", Name: "pg_settings"}, {Schema: "pg_catalog", Name: "pg_stat_activity"}, {Schema: "information_schema", Name: "tables"},
	} {
		s.Relations[q] = &topology.Relation{Schema: q.Schema, Name: q.Name, Kind: topology.Table}
	}
	kinds := map[string]topology.RelationKind{"table": topology.Table, "view": topology.View, "matview": topology.Materialized, "sequence": topology.Sequence}
	for line := range strings.SplitSeq(text, "\n") {
		head, definition, _ := strings.Cut(line, " AS ")
		w := strings.Fields(head)
		if len(w) == 0 {
			continue
		}
		q := qualified(w[1], "public")
		if w[0] == "function" {
			s.Functions[q], s.FunctionNames[q.Name] = true, true
			continue
		}
		rel := &topology.Relation{Schema: q.Schema, Name: q.Name, Kind: kinds[w[0]], Definition: definition}
		if rel.Kind == 0 {
			t.Fatalf("schema: %q", line)
		}
		for _, c := range w[2:] {
			switch name, typ, _ := strings.Cut(c, ":"); name {
			case "READS":
				rel.Reads = append(rel.Reads, qualified(typ, "public"))
			case "OF":
				rel.Parents = append(rel.Parents, qualified(typ, "public"))
			case "CALLS":
				rel.Calls = true
			default:
				base, generated := strings.CutSuffix(typ, "!")
				rel.Columns = append(rel.Columns, topology.Column{Name: name, Type: base, OID: typeOIDs[base], Generated: generated})
			}
		}
		s.Relations[q] = rel
	}
	return s
}

func (f *fixture) route(t testing.TB, d *datadriven.TestData) string {
	in := router.Input{UTF8: !d.HasArg("latin1")}
	d.MaybeScanArgs(t, "hint-shard", &in.Hint.Shard)
	d.MaybeScanArgs(t, "hint-key", &in.Hint.ShardingKey)
	env := &router.Env{SearchPath: []string{"public"}, SearchPathKey: "public"}
	if path := ""; d.MaybeScanArgs(t, "path", &path) {
		env = &router.Env{SearchPath: strings.Split(path, "+"), SearchPathKey: path}
	}
	prepared := map[string]*parser.Statement{}
	var out strings.Builder
	for line := range strings.SplitSeq(d.Input, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		sql := strings.ReplaceAll(line, `\n`, "\n")
		m := parser.Parse(sql).Executing(func(name string) *parser.Statement { return prepared[name] })
		for _, s := range m.Statements {
			if s.Kind == parser.Prepare {
				prepared[s.Name] = s
			}
		}
		in.Params = params(t, line)
		plan, e := f.r.Route(m, env).Plan(&in)
		fmt.Fprintf(&out, "%-22s %s\n", outcome(plan, e), line)
		checkShape(t, f.r, env, in, sql, seedOf(sql))
		if d.HasArg("describe") {
			plan, e := f.r.Route(m, env).Describe(&router.Input{UTF8: in.UTF8, Hint: in.Hint})
			fmt.Fprintf(&out, "    described: %s\n", outcome(plan, e))
		}
	}
	return out.String()
}

func outcome(plan sharding.Plan, e *pgwire.Error) string {
	if e != nil {
		name := e.Routine
		if name == "" {
			name = e.Message
		}
		return e.Code + " " + name
	}
	w := ""
	if plan.Write {
		w = " write"
	}
	if plan.Kind == sharding.PlanShard {
		return fmt.Sprintf("shard %d%s", plan.Shard, w)
	}
	return plan.Kind.String() + w
}

func errorText(e *pgwire.Error) string {
	if e == nil {
		return "no error\n"
	}
	return fmt.Sprintf("%s %s: %s\nDETAIL: %s\nHINT: %s\nat table %q, column %q\n", e.Code, e.Routine, e.Message, e.Detail, e.Hint, e.Table, e.Column)
}

// testParam is a parameter of a Bind.
type testParam struct {
	value  []byte
	binary bool
	oid    uint32
}

type testParams []testParam

func (p testParams) Param(i int) (value []byte, isBinary bool, oid uint32, ok bool) {
	if i < 0 || i >= len(p) {
		return nil, false, 0, false
	}
	return p[i].value, p[i].binary, p[i].oid, true
}

// params reads the parameters in a line's comment: $1 = 7, $2 = NULL, $3 = OID:text, $4 = b8:7 (binary integer of 8 bytes), $5 = hex:ff.
func params(t testing.TB, line string) router.Params {
	_, text, ok := strings.Cut(line, "-- $")
	if !ok {
		return nil
	}
	var list testParams
	for part := range strings.SplitSeq(text, "; $") {
		_, v, _ := strings.Cut(part, "= ")
		p := testParam{}
		kind, rest, typed := strings.Cut(v, ":")
		width, _ := strconv.Atoi(strings.TrimPrefix(kind, "b"))
		switch {
		case v == "NULL":
		case typed && kind == "hex":
			b, err := hex.DecodeString(rest)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			p = testParam{value: b, binary: true}
		case typed && strings.HasPrefix(kind, "b") && width > 0:
			n, err := strconv.ParseInt(rest, 10, 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			p = testParam{value: binary.BigEndian.AppendUint64(nil, uint64(n))[8-width:], binary: true}
		case typed && width > 0:
			p = testParam{value: []byte(rest), oid: uint32(width)}
		default:
			p.value = []byte(v)
		}
		list = append(list, p)
	}
	return list
}
