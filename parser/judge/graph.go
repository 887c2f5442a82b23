package judge

import (
	"slices"
	"strings"
)

// Relation is a table or view as the catalogs have it.
type Relation struct {
	Name Name
	// System: it is PostgreSQL's own.
	System bool
	// Rules: it has rules but for that of a view.
	Rules bool
	// View is the query of a view; empty = it is none.
	View string
	// Policies are expressions that reading and writing evaluate. Expressions are those that writing does: defaults, checks, indexes, partitions.
	Policies, Expressions []string
	// Triggers are the commands that made them; TriggerFunctions the functions that they run.
	Triggers         []string
	TriggerFunctions []string
	// Writes are relations whose code a write to this one runs as well: partitions, heirs, and those that refer to it and change with it.
	Writes []Name
}

// read judges what reading the relation runs.
func (r *Relation) read(texts *Texts) *Code {
	c := &Code{}
	for _, p := range r.Policies {
		c.add(texts.judge(sqlExpression, p))
	}
	if r.View != "" {
		c.add(texts.judge(sqlText, r.View))
	}
	return c
}

// write judges what writing to the relation runs.
func (r *Relation) write(texts *Texts) *Code {
	c := r.read(texts)
	if r.System {
		c.odd("it writes to a system catalog")
	}
	if r.Rules {
		c.odd("it has rules")
	}
	if r.View != "" { // what is written to it goes there
		c.Writes = append(c.Writes, c.Reads...)
	}
	for _, e := range r.Expressions {
		c.add(texts.judge(sqlExpression, e))
	}
	for _, t := range r.Triggers {
		c.trigger(texts.judge(sqlText, t))
	}
	c.Calls = append(c.Calls, r.TriggerFunctions...)
	c.Writes = append(c.Writes, r.Writes...)
	return c
}

// trigger adds what the condition of a trigger does, by what was found of the command that makes it.
func (c *Code) trigger(condition *Code) {
	c.Calls = append(c.Calls, condition.Calls...)
	for _, name := range condition.Calls {
		if left := callee(name); left != "" {
			c.stays(left)
		}
	}
	if condition.Why == notUnderstood {
		c.stays(condition.Why)
	}
}

// callee tells what a function of PostgreSQL's own leaves that is called where no statement says so.
func callee(name string) string {
	c := &Code{}
	if builtin(name) {
		c.expression("pg_catalog." + quoted(name) + "()")
	}
	if name == "set_config" {
		c.odd("it changes settings of the session")
	}
	return c.Why
}

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// kind is what a node of the graph is.
type kind uint8

const (
	function kind = iota // by its name alone
	reading              // of a relation
	writing              // to it
	implicit             // anywhere
	event                // ofDDL
)

// node is a thing that can run; see kind.
type node struct {
	kind kind
	name Name
}

// Finding is what is known of a function or relation that is not harmless.
type Finding struct {
	Name string
	// Write: it is about writing to a relation, Read: about reading one; neither: it is a function.
	Read, Write bool
	// Stays: DISCARD ALL does not take it away, or may not.
	Stays bool
	Why   string
}

// Graph puts definitions together. It is asked what is Missing, given that, and so on until nothing is; then Join tells. Not safe for concurrent use.
type Graph struct {
	nodes map[node]*vertex
	// named are the relations by name alone.
	named map[string][]Name
	known map[Name]bool
	// missing are names that were come across and not given yet.
	functions map[string]bool // true = given
	relations map[Name]bool
	// attributes are functions that can be called as if they were columns: row.name.
	attributes []string
	implicit   []*vertex
	events     []*vertex // of event triggers
	size       int
	texts      *Texts
	strange    bool
}

// vertex is a node at work.
type vertex struct {
	why   string
	stays bool
	uses  []node
}

// NewGraph returns a graph that wants what a reading is for.
func NewGraph(p *Pending) *Graph {
	g := &Graph{
		texts: p.texts,
		nodes: make(map[node]*vertex), named: make(map[string][]Name), known: make(map[Name]bool),
		functions: make(map[string]bool), relations: make(map[Name]bool),
	}
	for _, f := range p.Functions {
		g.wantFunction(f)
	}
	for _, r := range p.Relations {
		g.wantRelation(r)
	}
	return g
}

func (g *Graph) wantFunction(name string) {
	if _, ok := g.functions[name]; !ok {
		g.functions[name] = false
	}
}

func (g *Graph) wantRelation(n Name) {
	if _, ok := g.relations[n]; !ok {
		g.relations[n] = false
	}
}

// Missing returns the names whose definitions are wanted, and notes that they are asked for: what is not given then does not exist.
func (g *Graph) Missing() (functions []string, relations []Name) {
	for f, given := range g.functions {
		if !given {
			functions = append(functions, f)
			g.functions[f] = true
			if !builtin(f) {
				g.nodes[node{function, Name{Name: f}}] = &vertex{why: noFunction, stays: true}
			}
		}
	}
	for r, given := range g.relations {
		if !given {
			relations = append(relations, r)
			g.relations[r] = true
		}
	}
	slices.Sort(functions)
	slices.SortFunc(relations, func(a, b Name) int { return strings.Compare(a.Schema+"\x00"+a.Name, b.Schema+"\x00"+b.Name) })
	return functions, relations
}

// Size is how much was given, in bytes of definitions.
func (g *Graph) Size() int { return g.size }

// AddAttribute notes a function that can be called as if it were a column. It has to come in front of what may call it so.
func (g *Graph) AddAttribute(name string) { g.attributes = append(g.attributes, name) }

// AddImplicit gives an expression that may be evaluated wherever SQL runs, or a function (by name) that may be called there: of an operator, a cast, a domain.
func (g *Graph) AddImplicit(expression, name string) {
	c := &Code{}
	if expression != "" {
		c.add(g.texts.judge(sqlExpression, expression))
	}
	if name != "" {
		c.Calls = append(c.Calls, name)
	}
	v := &vertex{}
	g.join(v, c, expression)
	g.implicit = append(g.implicit, v)
}

// AddEvent gives the function of an event trigger, by its name.
func (g *Graph) AddEvent(name string) {
	v := &vertex{}
	g.join(v, &Code{Calls: []string{name}})
	g.events = append(g.events, v)
}

// Strange notes that there are languages or extensions in the database of which nobody knows what their functions keep.
func (g *Graph) Strange() { g.strange = true }

// AddFunction gives a function; there may be others of its name.
func (g *Graph) AddFunction(f *Function) {
	n := node{function, Name{Name: f.Name}}
	v := g.nodes[n]
	if v == nil || v.uses == nil && v.why == noFunction {
		v = &vertex{uses: []node{}}
		g.nodes[n] = v
	}
	g.size += len(f.Source) + len(f.Atomic) + len(f.Defaults)
	g.join(v, f.Judge(g.texts), f.Source, f.Atomic, f.Defaults)
}

// AddRelation gives a relation.
func (g *Graph) AddRelation(r *Relation) {
	if g.known[r.Name] {
		return
	}
	g.known[r.Name], g.relations[r.Name] = true, true
	g.named[r.Name.Name] = append(g.named[r.Name.Name], r.Name)
	texts := slices.Concat(r.Policies, r.Expressions, r.Triggers, []string{r.View})
	for _, t := range texts {
		g.size += len(t)
	}
	read, write := &vertex{}, &vertex{}
	g.nodes[node{reading, r.Name}], g.nodes[node{writing, r.Name}] = read, write
	g.join(read, r.read(g.texts), texts...)
	g.join(write, r.write(g.texts), texts...)
}

// AddMany notes that there are too many relations of a name to look at all of them.
func (g *Graph) AddMany(name string) {
	for _, k := range []kind{reading, writing} {
		g.nodes[node{k, Name{Name: name}}] = &vertex{why: tooMany, stays: true}
	}
}

// Reasons that are looked at elsewhere.
const (
	tooMany    = "there are too many relations of the name"
	noFunction = "there is no function of the name"
)

// join adds to v what code does.
func (g *Graph) join(v *vertex, c *Code, texts ...string) {
	if v.why == "" {
		v.why = c.Why
	}
	v.stays = v.stays || c.Stays
	calls := c.Calls
	for _, text := range texts {
		if text == "" || len(g.attributes) == 0 {
			continue
		}
		text = strings.ToLower(text)
		for _, a := range g.attributes {
			if strings.Contains(text, strings.ToLower(a)) {
				calls = append(calls, a)
			}
		}
	}
	for _, f := range calls {
		g.wantFunction(f)
		v.uses = append(v.uses, node{function, Name{Name: f}})
	}
	for _, r := range c.Reads {
		g.wantRelation(r)
		v.uses = append(v.uses, node{reading, r})
	}
	for _, r := range c.Writes {
		g.wantRelation(r)
		v.uses = append(v.uses, node{writing, r})
	}
}

// finding is what is wrong with a node.
type finding struct {
	why   string
	stays bool
}

// verdicts finds all that is not harmless, and why. A name that does not exist is harmless if it is a relation: a CTE's, or a temporary
// table's.
func (g *Graph) verdicts() (bad map[node]finding) {
	for name, all := range g.named { // a name alone stands for all that have it
		for _, k := range []kind{reading, writing} {
			n := node{k, Name{Name: name}}
			v := g.nodes[n]
			if v == nil {
				v = &vertex{}
				g.nodes[n] = v
			}
			for _, r := range all {
				v.uses = append(v.uses, node{k, r})
			}
		}
	}
	users := make(map[node][]node)
	bad = make(map[node]finding)
	var stack []node
	for n, v := range g.nodes {
		for _, u := range v.uses {
			users[u] = append(users[u], n)
		}
		if v.why != "" {
			bad[n] = finding{v.why, v.stays || g.strange}
			stack = append(stack, n)
		}
	}
	// In an order of its own, so that the reason is the same each time.
	slices.SortFunc(stack, func(a, b node) int { return strings.Compare(a.String(), b.String()) })
	for len(stack) > 0 {
		at := stack[0]
		stack = stack[1:]
		for _, n := range users[at] {
			was, known := bad[n]
			switch {
			case !known:
				bad[n] = finding{"it uses " + at.String(), bad[at].stays}
			case bad[at].stays && !was.stays:
				bad[n] = finding{was.why, true}
			default:
				continue
			}
			stack = append(stack, n)
		}
	}
	if any, is := worst(bad, g.implicit); is {
		any = finding{"an operator, a cast or a domain may leave something: " + any.why, any.stays}
		bad[anywhere] = any
		for n, v := range g.nodes {
			if _, known := bad[n]; !known && n.kind == function && v.uses != nil {
				bad[n] = finding{any.why, true}
			}
		}
	}
	if any, is := worst(bad, g.events); is {
		bad[ofDDL] = any
	}
	return bad
}

// anywhere stands for what may run wherever SQL does: operators, casts, domains; ofDDL for event triggers.
var (
	anywhere = node{implicit, Name{Name: "operators, casts and domains"}}
	ofDDL    = node{event, Name{Name: "event triggers"}}
)

// worst is what is wrong with some of a list; false if nothing is.
func worst(bad map[node]finding, list []*vertex) (found finding, is bool) {
	for _, v := range list {
		if v.why != "" {
			found, is = finding{v.why, found.stays || v.stays}, true
		}
		for _, u := range v.uses {
			if f, ok := bad[u]; ok {
				found, is = finding{"it uses " + u.String(), found.stays || f.stays}, true
			}
		}
	}
	return found, is
}

// tells reports whether a node says more than those that it stands for: a relation's name alone stands for all that have it, and PostgreSQL's own are nobody's
// to change.
func (n node) tells() bool {
	return n.kind != reading && n.kind != writing || n.name.Schema != "" && n.name.Schema != "pg_catalog" && n.name.Schema != "information_schema"
}

func (n node) String() string {
	switch n.kind {
	case reading:
		return "rows of " + n.name.String()
	case writing:
		return "changes of " + n.name.String()
	case implicit, event:
		return n.name.Name
	case function:
	}
	return "function " + n.name.Name
}
