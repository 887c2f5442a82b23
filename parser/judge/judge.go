// Package judge tells whether code that lives in a database can leave something in the session that runs it: settings, temporary tables, locks,
// cursors. Code is the functions that a statement calls, and what its tables run beside it: triggers, defaults, checks, policies, views, and all of
// that again of the tables that those write.
//
// It reads definitions as the catalogs have them (Function, Relation) and gives Verdicts. Whatever it does not know for certain is not harmless.
// A Book keeps the verdicts of one cluster for those who ask at each execution.
//
// The package is pure: it opens no connection, starts no goroutine and reads no clock. Whoever owns a Book reads the catalogs for it.
package judge

import (
	"strings"

	"github.com/pgkennel/pgkennel/parser"
)

// Name names a relation; an empty Schema is whichever search_path leads to.
type Name struct{ Schema, Name string }

// String writes the name as a person would.
func (n Name) String() string {
	if n.Schema == "" {
		return n.Name
	}
	return n.Schema + "." + n.Name
}

// Code is what a piece of code does, as far as its text tells.
type Code struct {
	// Why it may leave something by itself, for the operator; it holds no values. Empty = only what it runs may.
	Why string
	// Stays: what it may leave outlasts DISCARD ALL, as far as is known.
	Stays bool
	// Calls are the functions that it calls, by their names alone: which of that name in which schema is not decided.
	Calls []string
	// Reads and Writes are relations.
	Reads, Writes []Name
}

const notUnderstood = "it is not understood"

// odd notes why the code is not harmless; the first reason stays.
func (c *Code) odd(why string) {
	if c.Why == "" {
		c.Why = why
	}
}

// stays is odd for what DISCARD ALL does not take away, or may not.
func (c *Code) stays(why string) {
	c.odd(why)
	c.Stays = true
}

// Uses gives what a statement of a client's runs: functions and relations. What it does by itself is not judged: that is known by its text.
func Uses(st *parser.Statement) *Code {
	c := &Code{}
	c.uses(st)
	return c
}

func (c *Code) uses(st *parser.Statement) {
	for _, f := range st.Calls {
		if strings.HasPrefix(f.Schema, "pg_temp") {
			c.stays("it calls a temporary function")
		}
		c.Calls = append(c.Calls, f.Name)
	}
	c.query(st.Query)
	switch st.Kind {
	case parser.CopyFrom:
		if st.Copy != nil && st.Copy.Table != nil {
			c.Writes = append(c.Writes, nameOf(st.Copy.Table))
		}
	case parser.Truncate:
		for i := range st.Tables {
			c.Writes = append(c.Writes, nameOf(&st.Tables[i]))
		}
	case parser.Explain, parser.Prepare, parser.Declare, parser.CreateTableAs:
		if st.Inner != nil {
			c.uses(st.Inner)
		}
	default: // names relations in its query, if at all
	}
}

// text judges SQL: the body of a function, or a statement in one.
func (c *Code) text(sql string) {
	m := parser.Parse(sql)
	if m.Unparsable != nil {
		c.odd(notUnderstood)
		return
	}
	for _, st := range m.Statements {
		c.statement(st)
	}
}

// expression judges one expression, or several between commas.
func (c *Code) expression(sql string) { c.text("SELECT " + sql) }

// harmlessEffects are those that are nobody's who comes next: what lastval returns is cleaned for whoever asks, and set_config is looked at by itself.
const harmlessEffects = parser.EffSequenceRead | parser.EffSetConfig

// lasting are effects that DISCARD ALL does not take away: the schema of temporary tables is there when they are gone.
const lasting = parser.EffTemp | parser.EffLargeObject | parser.EffReplication | parser.EffPreparedTx

// statement judges a statement in a function.
func (c *Code) statement(st *parser.Statement) {
	effects := st.Effects &^ harmlessEffects
	switch st.Kind {
	case parser.Select, parser.Insert, parser.Update, parser.Delete, parser.Merge, parser.Lock, parser.Truncate, parser.SetConstraints, parser.Notify, parser.Show:
	case parser.Call: // its procedure is looked at, and so is what its arguments call
		effects &^= parser.EffUnjudged
		if callsOddly(st) {
			c.odd("it changes settings of the session")
		}
	case parser.Set:
		if st.Set == nil || !st.Set.Local || !quiet(st.Set.Name) {
			c.odd("it changes settings")
		}
	case parser.CopyTo, parser.CopyFrom:
		c.odd("it reads or writes files")
	default:
		tag := st.Tag
		if tag == "" {
			tag = "a statement that is not known"
		}
		c.odd("it runs " + tag)
		c.Stays = c.Stays || st.Kind == parser.Load
	}
	for i := range st.SetConfigs {
		if set := &st.SetConfigs[i]; !set.Local || !quiet(set.Name) {
			c.odd("it changes settings of the session")
		}
	}
	if effects != 0 {
		c.odd("it leaves something behind: " + effects.String())
		c.Stays = c.Stays || effects&lasting != 0
	}
	for _, f := range st.Calls {
		if strings.HasPrefix(f.Name, "pg_advisory_unlock") {
			c.odd("it gives up locks of the session") // by which the session may be pinned
		}
	}
	c.uses(st)
}

// callsOddly reports whether a CALL's arguments call functions of PostgreSQL's own that leave what its kind hides among what its procedure may.
func callsOddly(st *parser.Statement) bool {
	for _, f := range st.Calls {
		if f.Name == "set_config" || f.Name == "setseed" || strings.HasPrefix(f.Name, "pg_replication_") {
			return true
		}
	}
	return false
}

// Settles reports whether a verdict that st runs nothing that leaves anything settles the matter: not where something of it runs later, when another
// verdict may be right.
func Settles(st *parser.Statement) bool {
	switch st.Kind {
	case parser.Select, parser.Insert, parser.Update, parser.Delete, parser.Merge, parser.CopyTo, parser.CopyFrom, parser.Explain, parser.Truncate:
		return true
	case parser.Call:
		return !callsOddly(st)
	default:
		return false
	}
}

// quietSettings may be set for the rest of a transaction without anyone's noticing: nobody keeps in mind what they are, and what a text means does not
// depend on them.
var quietSettings = map[string]bool{
	"constraint_exclusion": true, "deadlock_timeout": true, "effective_cache_size": true, "enable_bitmapscan": true, "enable_hashagg": true,
	"enable_hashjoin": true, "enable_indexonlyscan": true, "enable_indexscan": true, "enable_material": true, "enable_mergejoin": true,
	"enable_nestloop": true, "enable_seqscan": true, "enable_sort": true, "from_collapse_limit": true, "jit": true, "join_collapse_limit": true,
	"lock_timeout": true, "maintenance_work_mem": true, "max_parallel_workers_per_gather": true, "plan_cache_mode": true, "random_page_cost": true,
	"statement_timeout": true, "synchronous_commit": true, "work_mem": true,
}

// quiet reports whether a setting's value for the rest of a transaction matters to nobody but the code that asks for it.
func quiet(name string) bool {
	name = strings.ToLower(name)
	if prefix, _, custom := strings.Cut(name, "."); custom {
		return prefix != "pgkennel" && prefix != "pgdog"
	}
	return quietSettings[name]
}

// query notes the relations of a query.
func (c *Code) query(q *parser.Query) {
	if q == nil {
		return
	}
	for i := range q.With {
		c.query(q.With[i].Query)
	}
	c.query(q.Left)
	c.query(q.Right)
	c.query(q.Source)
	for _, f := range q.From {
		c.from(f)
	}
	for _, sub := range q.Subqueries {
		c.query(sub)
	}
	if q.Target != nil && q.Target.Table != nil {
		c.Writes = append(c.Writes, nameOf(q.Target.Table))
	}
}

func (c *Code) from(f *parser.From) {
	if f == nil {
		return
	}
	if f.Table != nil {
		c.Reads = append(c.Reads, nameOf(f.Table))
	}
	c.query(f.Sub)
	c.from(f.Left)
	c.from(f.Right)
}

func nameOf(t *parser.Table) Name { return Name{t.Schema, t.Name} }
