package parser

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// String writes the message's facts as indented text, for tests and for people.
func (m *Message) String() string {
	var b strings.Builder
	m.Dump(&b)
	return b.String()
}

// Dump writes what String gives to w.
func (m *Message) Dump(w io.Writer) {
	d := dumper{w: w}
	if m.Hints != (Hints{}) {
		d.line("hints%s", fields("shard", m.Hints.Shard, "sharding_key", m.Hints.ShardingKey, "role", m.Hints.Role, "tenant", m.Hints.Tenant)+flag(" conflict", m.Hints.Conflict))
	}
	if m.Transcoded {
		d.line("transcoded")
	}
	if e := m.Unparsable; e != nil {
		d.line("unparsable %s %d %s%s", e.Code, e.Position, e.Message, flag(" (newer?)", m.Newer))
	}
	for _, s := range m.Statements {
		d.statement(s)
	}
}

type dumper struct {
	w      io.Writer
	indent int
}

func (d *dumper) line(format string, args ...any) {
	fmt.Fprintf(d.w, strings.Repeat("  ", d.indent)+format+"\n", args...)
}

// in writes what f writes one step further in, under a heading.
func (d *dumper) in(heading string, f func()) {
	d.line("%s", heading)
	d.indent++
	f()
	d.indent--
}

// fields gives " key=value" for each pair whose value is not empty.
func fields(pairs ...string) string {
	var b strings.Builder
	for pair := range slices.Chunk(pairs, 2) {
		if key, value := pair[0], pair[len(pair)-1]; value != "" {
			fmt.Fprintf(&b, " %s=%s", key, value)
		}
	}
	return b.String()
}

func flag(text string, set bool) string {
	if set {
		return text
	}
	return ""
}

func (d *dumper) statement(s *Statement) {
	d.in(fmt.Sprintf("%v %q [%d,%d)", s.Kind, s.Tag, s.Start, s.End)+fields("name", s.Name)+
		flag(" read-only", s.ReadOnly)+flag(" analyze", s.ExplainAnalyze)+flag(" "+s.Effects.String(), s.Effects != 0), func() {
		if s.Params > 0 {
			d.line("params %d", s.Params)
		}
		if len(s.ParamTypes) > 0 {
			d.line("param types %s", strings.Join(s.ParamTypes, ", "))
		}
		for _, f := range s.Calls {
			d.line("call %v%s", f, flag(" (not built in)", !IsBuiltin(f)))
		}
		for i := range s.SetConfigs {
			d.setting("set_config", &s.SetConfigs[i])
		}
		for _, name := range s.Unseen {
			d.line("unseen %s", name)
		}
		if s.Set != nil {
			d.setting("setting", s.Set)
		}
		if s.Tx != nil {
			d.line("%s", "transaction"+fields("isolation", s.Tx.Isolation, "read_only", optional(s.Tx.ReadOnly), "deferrable", optional(s.Tx.Deferrable))+
				flag(" chain", s.Tx.Chain)+flag(" session", s.Tx.Session)+flag(" snapshot", s.Tx.Snapshot))
		}
		if s.Copy != nil {
			d.copy(s.Copy)
		}
		for _, t := range s.Tables {
			d.line("table %v", t)
		}
		for _, schema := range s.Schemas {
			d.line("schema %s", schema)
		}
		for _, e := range s.Args {
			d.line("arg %v", e)
		}
		if s.Query != nil {
			d.query("query", s.Query)
		}
		if s.Inner != nil {
			d.statement(s.Inner)
		}
	})
}

func optional(b *bool) string {
	if b == nil {
		return ""
	}
	return strconv.FormatBool(*b)
}

func (d *dumper) setting(what string, s *Setting) {
	d.line("%s", what+" "+s.Name+fields("values", quoteAll(s.Values), "sql", s.SQL)+
		flag(" default", s.Default)+flag(" local", s.Local)+flag(" special", s.Special)+flag(" unknown", s.Unknown))
}

func quoteAll(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = strconv.Quote(s)
	}
	return strings.Join(quoted, ",")
}

func (d *dumper) copy(c *Copy) {
	name := ""
	if c.Table != nil {
		name = c.Table.String()
	}
	d.line("%s", "copy"+fields("table", name, "columns", strings.Join(c.Columns, ","), "format", c.Format, "delimiter", char(c.Delimiter), "quote", char(c.Quote),
		"escape", char(c.Escape), "null", strconv.Quote(c.Null), "encoding", c.Encoding, "force_null", strings.Join(c.ForceNull, ","),
		"force_not_null", strings.Join(c.ForceNotNull, ","), "default", c.Default)+flag(" header", c.Header)+flag(" server", c.Server)+flag(" where", c.Where))
}

func char(c byte) string {
	if c == 0 {
		return ""
	}
	return strconv.QuoteRune(rune(c))
}

func (d *dumper) query(what string, q *Query) {
	d.in(what+" "+q.Kind.String()+fields("op", q.SetOp.String(), "current_of", q.CurrentOf)+flag(" recursive", q.Recursive)+flag(" distinct", q.Distinct)+flag(" on", q.DistinctOn)+
		flag(" grouped", q.Grouped)+flag(" maybe-grouped", q.MaybeGrouped)+flag(" grouping-sets", q.Grouping)+flag(" windows", q.Windows)+
		flag(" ordered", q.Ordered)+flag(" limited", q.Limited)+flag(" locking", q.Locking)+flag(" set-returning", q.SetReturn), func() {
		for _, c := range q.With {
			d.query("with "+c.Name+inParens(c.Columns), c.Query)
		}
		if q.Target != nil {
			d.from("target", q.Target)
		}
		if q.Columns != nil {
			d.line("columns %s", strings.Join(q.Columns, ", "))
		}
		if q.Source != nil {
			d.query("source", q.Source)
		}
		for _, set := range q.Sets {
			d.line("set %s = %v", set.Column, set.Expr)
		}
		if q.ConflictUpdate {
			d.line("on conflict do update")
		}
		if q.ConflictWhere != nil {
			d.line("conflict where %v", q.ConflictWhere)
		}
		if q.Left != nil {
			d.query("left", q.Left)
			d.query("right", q.Right)
		}
		for _, row := range q.Rows {
			d.line("row %s", exprs(row))
		}
		for _, f := range q.From {
			d.from("from", f)
		}
		if q.Where != nil {
			d.line("where %v", q.Where)
		}
		for _, o := range q.Output {
			d.line("output %v", o)
		}
		if len(q.GroupBy) > 0 {
			d.line("group by %s", exprs(q.GroupBy))
		}
		for _, a := range q.Actions {
			d.line("%s", "when"+flag(" not", !a.Matched)+" matched"+flag(" by source", a.BySource)+flag(fmt.Sprintf(" and %v", a.Cond), a.Cond != nil)+" "+a.Kind.String()+
				inParens(a.Columns)+flag(" values "+exprs(a.Values), a.Values != nil))
			for _, set := range a.Sets {
				d.line("  set %s = %v", set.Column, set.Expr)
			}
		}
		for _, sub := range q.Subqueries {
			d.query("sub", sub)
		}
	})
}

func inParens(columns []string) string {
	if len(columns) == 0 {
		return ""
	}
	return "(" + strings.Join(columns, ", ") + ")"
}

func (d *dumper) from(what string, f *From) {
	if f == nil {
		return
	}
	head := what + " " + f.Kind.String() + flag(" lateral", f.Lateral)
	tail := fields("as", f.Alias) + inParens(f.Columns)
	switch f.Kind {
	case FromTable:
		d.line("%s %v%s", head, *f.Table, tail)
	case FromSubquery:
		d.query(head+tail+":", f.Sub)
	case FromFunction:
		d.line("%s %v%s", head, f.Functions, tail)
	case FromJoin:
		d.in(head+" "+f.Join.String()+flag(" natural", f.Natural)+fields("using", strings.Join(f.Using, ","))+tail, func() {
			d.from("left", f.Left)
			d.from("right", f.Right)
			if f.On != nil {
				d.line("on %v", f.On)
			}
		})
	case FromOther:
		d.line("%s", head+tail)
	}
}

func exprs(list []Expr) string {
	parts := make([]string, len(list))
	for i := range list {
		parts[i] = list[i].String()
	}
	return strings.Join(parts, ", ")
}

// String writes t as SQL would, but for the quotes.
func (t Table) String() string {
	path := slices.DeleteFunc([]string{t.Catalog, t.Schema, t.Name}, func(s string) bool { return s == "" })
	return flag("only ", t.Only) + flag("temp ", t.Temp) + strings.Join(path, ".")
}

// String writes f with the number of its arguments: pg_catalog.lower/1.
func (f Function) String() string {
	name := f.Name
	if f.Schema != "" {
		name = f.Schema + "." + name
	}
	return name + "/" + strconv.Itoa(f.Args)
}

// String writes o as it stands in a select list.
func (o Output) String() string {
	if o.Star {
		return flag(o.Qualifier+".", o.Qualifier != "") + "*"
	}
	return o.Expr.String() + " as " + strconv.Quote(o.Name)
}

// String writes c as a formula.
func (c *Cond) String() string {
	switch c.Op {
	case CondAnd, CondOr:
		parts := make([]string, len(c.Args))
		for i, a := range c.Args {
			parts[i] = a.String()
		}
		word := " AND "
		if c.Op == CondOr {
			word = " OR "
		}
		return "(" + strings.Join(parts, word) + ")"
	case CondEqual:
		return c.Left.String() + " = " + exprs(c.Right)
	case CondNotDistinct:
		return c.Left.String() + " IS NOT DISTINCT FROM " + exprs(c.Right)
	case CondIn:
		return c.Left.String() + " IN (" + exprs(c.Right) + ")"
	case CondAnyArray:
		return c.Left.String() + " = ANY (" + exprs(c.Right) + ")"
	case CondIsNull:
		return c.Left.String() + " IS NULL"
	case CondTrue:
		return "TRUE"
	case CondFalse:
		return "FALSE"
	case CondOpaque:
		return "?"
	}
	return "Cond(" + strconv.Itoa(int(c.Op)) + ")"
}

// String writes e as SQL would, ? for what is opaque.
func (e Expr) String() string {
	text := "?"
	switch e.Kind {
	case ExprOpaque:
	case ExprColumn:
		path := slices.DeleteFunc([]string{e.Column.Schema, e.Column.Table, e.Column.Name}, func(s string) bool { return s == "" })
		text = strings.Join(path, ".")
	case ExprValue:
		return e.Value.String()
	case ExprSubquery:
		text = "(" + e.Sub.Kind.String() + ")"
	case ExprDefault:
		text = "DEFAULT"
	}
	for _, c := range e.Casts {
		text += "::" + c
	}
	return text
}

// String writes v with its casts and its span.
func (v Value) String() string {
	text := ""
	switch v.Kind {
	case ValueNull:
		text = "NULL"
	case ValueInteger, ValueNumeric, ValueBool:
		text = v.Text
	case ValueString:
		text = strconv.Quote(v.Text)
	case ValueParam:
		text = "$" + strconv.Itoa(v.Param)
	}
	if v.Literal > 0 {
		text = flag("-", v.Negative) + "literal " + strconv.Itoa(v.Literal)
	}
	if v.Kind == ValueNumeric {
		text += "n"
	}
	for _, c := range v.Casts {
		text += "::" + c
	}
	if v.End == 0 {
		return text
	}
	return fmt.Sprintf("%s@%d-%d", text, v.Start, v.End)
}
