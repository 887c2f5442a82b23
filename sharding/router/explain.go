package router

import (
	"fmt"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
)

// RelationNote is what the router takes a relation of a statement for.
type RelationNote struct {
	Name string
	// Class is "catalog", "temporary", "not sharded", "omnisharded", "sharded", "not known", "view", "opaque view",
	// "where its schema lives".
	Class string
	// Keys are the columns by which it is, or may be, sharded.
	Keys []string
}

// KeyNote is a sharding key that was found in a statement.
type KeyNote struct {
	Table, Column string
	// Values are the values for the given parameters, as PostgreSQL prints them.
	Values []string
	// Shard is where they live, as text, or what is wrong.
	Shard string
}

// Explanation says how a Route comes to its Plan. Unlike the plan's reason and errors it shows values.
type Explanation struct {
	Plan       sharding.Plan
	Refusal    *pgwire.Error
	Statements []StatementNote
}

// StatementNote is the part of one statement.
type StatementNote struct {
	Tag       string
	Relations []RelationNote
	Keys      []KeyNote
}

// Explain compiles the message again and tells what was found on the way, and the refusal if there is one.
func (rt *Route) Explain(in *Input) (*Explanation, *pgwire.Error) {
	e := &Explanation{}
	e.Plan, e.Refusal = rt.Plan(in)
	if rt.router.plain {
		return e, e.Refusal
	}
	env := &Env{SearchPath: rt.path, SearchPathKey: rt.pathKey, PathUnknown: rt.pathUnknown}
	c := compiler{r: rt.router, env: env, path: env.SearchPath, pathLost: env.PathUnknown}
	for _, s := range rt.message.Statements {
		note := StatementNote{Tag: s.Tag}
		c.notes = &note.Relations
		st := c.statement(s)
		c.follow(s, st)
		for i := range st.constraints {
			note.Keys = append(note.Keys, st.constraints[i].note(in))
		}
		e.Statements = append(e.Statements, note)
	}
	return e, e.Refusal
}

func (k *constraint) note(in *Input) KeyNote {
	note := KeyNote{Table: k.table, Column: k.column}
	if in.Params == nil && k.pin.needsParams() {
		note.Shard = "depends on parameters"
		return note
	}
	var set keySet
	if u := k.pin.eval(&set, k.typ, in); u != nil {
		note.Shard = "not a key: " + u.reason()
		return note
	}
	for _, key := range set.keys {
		if k.typ != presence {
			note.Values = append(note.Values, key.String())
		}
	}
	switch out := k.decide(&set); {
	case out.err != nil:
		note.Shard = out.err.Routine
	case k.mapping == nil:
		note.Shard = "tenant given"
	case out.none:
		note.Shard = "no row can match"
	default:
		note.Shard = fmt.Sprintf("shard %d", out.shard)
	}
	return note
}

func (rel *relation) note() RelationNote {
	n := RelationNote{Name: rel.name}
	switch rel.class {
	case relCatalog:
		n.Class = "catalog"
	case relTemp:
		n.Class = "temporary"
	case relPlain:
		n.Class = "not sharded"
	case relOmni:
		n.Class = "omnisharded"
	case relSharded:
		n.Class = "sharded"
	case relUnknown:
		n.Class = "not known"
	case relView:
		n.Class = "view"
	case relOpaqueView:
		n.Class = "opaque view"
	case relHoused:
		n.Class = "where its schema lives"
	}
	if rel.hasKey() {
		for _, e := range rel.entries {
			n.Keys = append(n.Keys, e.column)
		}
	}
	return n
}

// String writes the explanation for people, a line for each thing.
func (e *Explanation) String() string {
	var b strings.Builder
	for _, s := range e.Statements {
		fmt.Fprintf(&b, "%s\n", s.Tag)
		for _, r := range s.Relations {
			fmt.Fprintf(&b, "  table %s: %s", r.Name, r.Class)
			if len(r.Keys) > 0 {
				fmt.Fprintf(&b, " by %s", strings.Join(r.Keys, ", "))
			}
			b.WriteByte('\n')
		}
		for _, k := range s.Keys {
			fmt.Fprintf(&b, "  key %s.%s", k.Table, k.Column)
			if len(k.Values) > 0 {
				fmt.Fprintf(&b, " = %s", clip(strings.Join(k.Values, ", ")))
			}
			fmt.Fprintf(&b, ": %s\n", k.Shard)
		}
	}
	if e.Refusal == ErrNeedsParams {
		b.WriteString("runs where its parameters say\n")
		return b.String()
	}
	if e.Refusal != nil {
		name := e.Refusal.Routine
		if name == "" {
			name = e.Refusal.Message
		}
		fmt.Fprintf(&b, "refused: %s\n", name)
		return b.String()
	}
	switch e.Plan.Kind {
	case sharding.PlanAny:
		fmt.Fprintf(&b, "runs on any shard: %s\n", e.Plan.Reason)
	case sharding.PlanShard:
		fmt.Fprintf(&b, "runs on shard %d: %s\n", e.Plan.Shard, e.Plan.Reason)
	case sharding.PlanCopy:
		fmt.Fprintf(&b, "runs where the first row lives: %s\n", e.Plan.Reason)
	}
	return b.String()
}
