// Package router decides where a statement runs: it compiles a parsed message against one cluster's configuration
// and schema into a Route, which gives a Plan for actual parameters, or the refusal that the client sees.
//
// Same input, same Plan; no I/O, no clock, no goroutine. Everything a statement is not allowed is refused here, and
// nothing is ever guessed: what can't be proven to live on one shard is refused.
//
// What is proven is this: for each occurrence of a sharded table in the statement, which values of the sharding key
// the rows can have that the result, or the change, depends on. These values come from conditions, are carried over
// equalities between columns, up out of sub-selects and, where no row can be lost by it, down into them. docs/routing.md
// lists the forms. The files: statement.go says what each kind of statement needs; block.go and from.go build the
// blocks of a query and its scopes of names; cond.go takes facts out of conditions; solve.go draws conclusions from
// them; constrain.go carries facts down to the tables; pin.go turns conclusions into what is evaluated per execution.
package router

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Options are what a Router is made of. Slices and maps are kept and must not change.
type Options struct {
	// Cluster is the name that errors show.
	Cluster string
	// Shards is the number of shards, from 1.
	Shards int
	// Tables are the sharded tables.
	Tables []Table
	// Omnisharded are tables that have the same rows on every shard; an empty schema is any.
	Omnisharded []topology.QualifiedName
	// Schemas live on a shard each, with all that is in them.
	Schemas []Schema
	// TenantColumn is the column by which every statement must name its tenant, also on one shard; empty = off.
	TenantColumn string
	// Virtual: sessions may belong to a tenant, whose place and key are an Input's. TenantType is the type of keys then.
	Virtual    bool
	TenantType sharding.KeyType
	// TenantSchema tells the schemas that are a tenant's own: whoever is somebody else does not name them. Nil = there are none.
	TenantSchema func(schema string) bool
	// Schema is what is known of the tables; nil = nothing yet.
	Schema *topology.Schema
}

// Table is a sharded table, or with an empty Name all tables that have the column and no entry of their own.
type Table struct {
	Schema string // empty = any
	Name   string
	Column string
	Type   sharding.KeyType
	// Mapping says where values live; nil = by hash over all shards.
	Mapping *sharding.Mapping
}

// Router routes the statements for one cluster. It is immutable and safe for concurrent use; a change of
// configuration or schema makes a new one.
type Router struct {
	cluster string
	shards  int
	// plain: one shard and no tenant column. Nothing is refused, nothing need be parsed.
	plain    bool
	entries  []*entry
	named    map[string][]*entry // by name of the table
	nameless []*entry
	omni     map[topology.QualifiedName]bool
	homes    map[string]topology.ShardID // of schemas
	common   map[string]bool             // schemas that are the same on every shard
	rest     *topology.ShardID           // where all other schemas live; nil = nowhere in particular
	tenant   string                      // the tenant column
	// tenantType is the type of the tenant column's keys, presence where any value will do.
	tenantType sharding.KeyType
	private    func(schema string) bool
	schema     *topology.Schema
	homonyms   map[string][]*topology.Relation // by name, those of the schema that are not PostgreSQL's own
	views      map[topology.QualifiedName]func() *parser.Statement
	heirs      map[topology.QualifiedName][]*topology.Relation // by table, those that inherit from it
	exact      func() map[string]bool                          // by name of a column: none of that name has a type in which digits of integers are lost
}

// entry is one Table of the options.
type entry struct {
	schema, name, column string
	typ                  sharding.KeyType
	mapping              *sharding.Mapping
}

// New returns the router of a cluster, or all mistakes in the options.
func New(o Options) (*Router, error) {
	r := &Router{
		cluster: o.Cluster, shards: o.Shards, plain: o.Shards == 1 && o.TenantColumn == "" && !o.Virtual, tenant: o.TenantColumn, schema: o.Schema,
		named: make(map[string][]*entry), omni: make(map[topology.QualifiedName]bool),
		views: make(map[topology.QualifiedName]func() *parser.Statement),
	}
	if o.Virtual {
		r.tenantType, r.private = o.TenantType, o.TenantSchema
	}
	var errs []error
	if o.Shards < 1 {
		errs = append(errs, fmt.Errorf("cluster %q has no shards", o.Cluster))
	}
	for _, q := range o.Omnisharded {
		r.omni[q] = true
	}
	if err := r.addSchemas(o.Schemas); err != nil {
		errs = append(errs, err)
	}
	for i := range o.Tables {
		e, err := newEntry(&o.Tables[i], o.Shards)
		if err == nil && r.omni[topology.QualifiedName{Schema: e.schema, Name: e.name}] {
			err = errors.New("it is listed as omnisharded too")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("sharded table %q, column %q: %w", o.Tables[i].Name, o.Tables[i].Column, err))
			continue
		}
		r.entries = append(r.entries, e)
		if e.name == "" {
			r.nameless = append(r.nameless, e)
		} else {
			r.named[e.name] = append(r.named[e.name], e)
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	if o.Schema != nil && !r.plain {
		r.exact = sync.OnceValue(func() map[string]bool { return exactColumns(o.Schema) })
		r.homonyms = make(map[string][]*topology.Relation, len(o.Schema.Relations))
		r.heirs = make(map[topology.QualifiedName][]*topology.Relation)
		for name, rel := range o.Schema.Relations {
			for _, p := range rel.Parents {
				r.heirs[p] = append(r.heirs[p], rel)
			}
			if !isCatalog(name.Schema) {
				r.homonyms[name.Name] = append(r.homonyms[name.Name], rel)
			}
			if rel.Definition != "" {
				r.views[name] = sync.OnceValue(func() *parser.Statement { return parseView(rel.Definition) })
			}
		}
	}
	return r, nil
}

// exactColumns tells of the names of all columns whether every one of that name takes integers as they are.
func exactColumns(s *topology.Schema) map[string]bool {
	exact := make(map[string]bool)
	for _, rel := range s.Relations {
		for _, c := range rel.Columns {
			was, known := exact[c.Name]
			switch c.Type {
			case "int2", "int4", "int8", "numeric", "text", "varchar", "bpchar":
				exact[c.Name] = was || !known
			default:
				exact[c.Name] = false
			}
		}
	}
	return exact
}

func newEntry(t *Table, shards int) (*entry, error) {
	e := &entry{schema: t.Schema, name: t.Name, column: t.Column, typ: t.Type, mapping: t.Mapping}
	switch {
	case t.Column == "":
		return nil, errors.New("no column")
	case t.Type < sharding.Bigint || t.Type > sharding.Text:
		return nil, errors.New("no type of the key")
	case t.Mapping == nil:
		e.mapping = sharding.NewHash(t.Type, shards)
	case t.Mapping.Type() != t.Type:
		return nil, fmt.Errorf("its mapping is of %v, not %v", t.Mapping.Type(), t.Type)
	}
	for _, s := range e.mapping.Shards() {
		if s < 0 || int(s) >= shards {
			return nil, fmt.Errorf("its mapping names shard %d, but there are %d shards", s, shards)
		}
	}
	return e, nil
}

// parseView parses a view's definition; nil if it is none that the parser understands.
func parseView(definition string) *parser.Statement {
	m := parser.Parse(definition)
	if len(m.Statements) != 1 || m.Statements[0].Kind != parser.Select {
		return nil
	}
	return m.Statements[0]
}

// Cluster is the cluster's name.
func (r *Router) Cluster() string { return r.cluster }

// Shards is the number of shards.
func (r *Router) Shards() int { return r.shards }

// SearchPath is the search_path that a session of a server's user begins with, as a list of identifiers.
func (r *Router) SearchPath(user string) string { return r.schema.SearchPath(parser.CutName(user)) }

// Plain reports that every message goes to the one shard there is: it need not even be parsed.
func (r *Router) Plain() bool { return r.plain }

// Env is what a session adds to a message when its route is compiled.
type Env struct {
	// SearchPath is the session's effective search_path as schema names, "$user" resolved, pg_catalog left out unless named.
	SearchPath []string
	// SearchPathKey identifies SearchPath: equal keys, equal paths. Of a path that is not known it is not looked at.
	SearchPathKey string
	// PathUnknown: the search_path is not known, and SearchPath is not looked at. Names are refused then that mean different things in different schemas.
	PathUnknown bool
}

// defaultEnv is the environment of a nil Env: PostgreSQL's own search_path for a user without a schema of that name.
var defaultEnv = &Env{SearchPath: []string{"public"}, SearchPathKey: "public"}

// Route returns the route of m for a session in that environment. The message remembers it: the next call for the same
// router and search path costs nothing. A nil env is one with search_path = public.
func (r *Router) Route(m *parser.Message, env *Env) *Route {
	if env == nil {
		env = defaultEnv
	}
	for i := range m.Memo {
		if rt := remembered(m, i); rt != nil && rt.router == r && rt.serves(env) {
			return rt
		}
	}
	c := compiler{r: r, env: env, path: env.SearchPath, pathLost: env.PathUnknown}
	if env.PathUnknown {
		c.path = nil
	}
	rt := c.message(m)
	rt.remember()
	return rt
}

// remembered is what a message remembers at i; nil = nothing.
func remembered(m *parser.Message, i int) *Route {
	memo := m.Memo[i].Load()
	if memo == nil {
		return nil
	}
	rt, _ := (*memo).(*Route)
	return rt
}

// serves reports whether the route is right in env as well: nothing was looked up along the path, or the path is the same, and known or not as
// it was.
func (rt *Route) serves(env *Env) bool {
	return !rt.usesPath || rt.pathUnknown == env.PathUnknown && (rt.pathUnknown || rt.pathKey == env.SearchPathKey)
}

// same reports whether both are of the same environment, as far as that matters to a message.
func (rt *Route) same(o *Route) bool {
	return !rt.usesPath || rt.pathUnknown == o.pathUnknown && rt.pathKey == o.pathKey
}

// remember has the route's message remember it, the latest first. What its cluster's earlier routers made of the message goes, and they with it.
// Others may do so at the same time: then something is forgotten, and compiled again.
func (rt *Route) remember() {
	rt.self = rt
	keep, n := [parser.Memos]*any{&rt.self}, 1
	for i := range rt.message.Memo {
		old := remembered(rt.message, i)
		if old == nil || n == len(keep) {
			continue
		}
		if old.router == rt.router && !old.same(rt) || old.router.cluster != rt.router.cluster {
			keep[n] = &old.self
			n++
		}
	}
	for i, memo := range keep {
		rt.message.Memo[i].Store(memo)
	}
}

// compiler compiles one message.
type compiler struct {
	r   *Router
	env *Env
	// path is the search path of the statement being compiled; pathLost: an earlier one of the message changed it to
	// what is not known.
	path     []string
	pathLost bool
	// usesPath: a name was looked up along the search path.
	usesPath bool
	// exec has the arguments of EXECUTE, for the parameters of the statement being compiled; nil = none.
	exec *execution
	// of is the statement being compiled.
	of *parser.Statement
	// beyondASCII: the name of a relation is.
	beyondASCII bool
	// work counts what the analysis did, against maxWork.
	work int
	// leaves numbers the leaves.
	leaves int
	// st is the statement being compiled.
	st *statement
	// pending and changes are what is to be proven when all facts are known.
	pending []pendingLeaf
	changes []pendingChange
	// pins are the sets compiled so far.
	pins map[pinID]*pin
	// notes are kept for Explain.
	notes *[]RelationNote
}

// maxWork bounds the analysis of a message, in steps of about ten nanoseconds; only a text made for it gets there.
const maxWork = 4_000_000

// tooComplex reports that the analysis was given up; what it found is not used then.
func (c *compiler) tooComplex() bool { return c.work > maxWork }

// follow notes what a statement does to the search path of those behind it in the message.
func (c *compiler) follow(s *parser.Statement, st *statement) {
	lost := func() { c.path, c.pathLost = nil, true }
	for i := range s.SetConfigs {
		switch s.SetConfigs[i].Name {
		case "search_path", "role", "session_authorization":
			lost()
		}
	}
	if s.Effects.Unjudged() || !s.BuiltinCalls || st.unjudged {
		lost()
	}
	switch s.Kind {
	case parser.Set:
		switch set := s.Set; {
		case set.Name == "search_path" && !set.Default && !slices.Contains(set.Values, "$user"):
			c.path, c.pathLost = set.Values, false
			if slices.ContainsFunc(set.Values, parser.EncodingMatters) {
				lost()
			}
		case set.Name == "search_path":
			lost()
		case s.Effects&parser.EffSetRole != 0 && len(set.Values) == 1: // who may have a schema of that name
			c.path = append([]string{set.Values[0]}, c.path...)
		case s.Effects&parser.EffSetRole != 0:
			lost()
		}
	case parser.Reset:
		if s.Set.Name == "search_path" || s.Effects&parser.EffSetRole != 0 {
			lost()
		}
	case parser.ResetAll, parser.Discard, parser.Do, parser.Call, parser.Execute:
		lost()
	case parser.Rollback, parser.RollbackTo, parser.Commit:
		if c.pathLost || !slices.Equal(c.path, c.env.SearchPath) {
			lost()
		}
	default: // the others leave settings alone, or name them in SetConfigs
	}
}

func (c *compiler) inPath(schema string) bool {
	c.usesPath = true
	return slices.Contains(c.path, schema)
}
