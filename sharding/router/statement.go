package router

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
)

// statement is one statement of a message, compiled.
type statement struct {
	constraints []constraint
	// homes are the schemas with a shard of their own that it needs, or the rest; leans is where it goes if nothing else decides.
	homes []home
	leans *home
	// Refusals: always; unless a shard is addressed by a hint; unless by a hint or a key of the same statement, or by a schema; unless by a hint or a key.
	refusal, hintless, keyless, tenantless *pgwire.Error
	// More refusals: unless a shard is addressed by a hint, or by a schema; where its schemas live on different shards.
	placeless, split *pgwire.Error
	// More refusals: unless the session is a tenant's, to whom PostgreSQL shows its own rows only; unless what is named is all the tenant's own;
	// unless the server itself knows the tenant by its login.
	ownerless, shared, shown *pgwire.Error
	// said refuses it to a tenant whose login is shared, though its tables are its own.
	said *pgwire.Error
	// common refuses it to a tenant whose tables are shared. schemas are those of tenants that it names.
	common  *pgwire.Error
	schemas []string

	// single: there is but one shard, so none has to be found.
	single bool
	write  bool
	// unjudged: it may change settings of the session that nobody here sees.
	unjudged bool
	copy     *copyPlan
	reason   string
}

func (st *statement) refuse(e *pgwire.Error) {
	if st.refusal == nil {
		st.refusal = e
	}
}

// needsOwner refuses the statement to sessions that are no tenant's.
func (st *statement) needsOwner(e *pgwire.Error) { first(&st.ownerless, e) }

// needsOwn refuses the statement where tables are shared.
func (st *statement) needsOwn(e *pgwire.Error) { first(&st.shared, e) }

// needsLogin refuses the statement where logins are shared.
func (st *statement) needsLogin(e *pgwire.Error) { first(&st.shown, e) }

func first(to **pgwire.Error, e *pgwire.Error) {
	if *to == nil {
		*to = e
	}
}

func (st *statement) needsHint(e *pgwire.Error) {
	if st.hintless == nil && !st.single {
		st.hintless = e
	}
}

func (st *statement) needsKey(e *pgwire.Error) {
	if st.keyless == nil && !st.single {
		st.keyless = e
	}
}

// needsTenant is needsKey, for one shard too, and whatever schemas say.
func (st *statement) needsTenant(e *pgwire.Error) { first(&st.tenantless, e) }

// needsPlace refuses the statement unless something says on which shard it runs, be it a schema.
func (st *statement) needsPlace(e *pgwire.Error) {
	if !st.single {
		first(&st.placeless, e)
	}
}

// execution is an EXECUTE whose statement is being compiled.
type execution struct {
	args  []parser.Expr
	types []string // declared by PREPARE; may be fewer
}

// rounds reports whether parameter n, from 1, may be a float.
func (c *compiler) rounds(n int) bool {
	return c.of.IsRounded(n) || slices.ContainsFunc(c.of.Beside, func(b parser.Beside) bool {
		return b.Param == n && (c.r.exact == nil || !c.r.exact()[b.Columns[0]] || !c.r.exact()[b.Columns[1]])
	})
}

// value returns a literal or parameter, with arguments of EXECUTE in the place of its parameters.
func (c *compiler) value(v *parser.Value) (parser.Value, bool) {
	if v.Kind != parser.ValueParam {
		return *v, true
	}
	if c.exec == nil {
		p := *v
		p.Mixed, p.Recast, p.Rounds = c.of.IsMixed(v.Param), c.of.IsRecast(v.Param), c.rounds(v.Param)
		return p, true
	}
	n := v.Param - 1
	if n < 0 || n >= len(c.exec.args) || c.exec.args[n].Kind != parser.ExprValue {
		return parser.Value{}, false
	}
	arg := c.exec.args[n].Value
	casts := slices.Clone(arg.Casts)
	declared := ""
	if n < len(c.exec.types) {
		declared = c.exec.types[n]
	}
	if declared != "" && declared != "unknown" {
		casts = append(casts, declared)
	} else if arg.Kind == parser.ValueNumeric || len(arg.Casts) > 0 {
		// It is converted to the type that the server found for the parameter, which is not known here.
		return parser.Value{}, false
	}
	arg.Casts = append(casts, v.Casts...)
	return arg, true
}

// statement compiles one statement.
func (c *compiler) statement(s *parser.Statement) *statement {
	outer, exec, of := c.st, c.exec, c.of
	st := &statement{single: c.r.shards == 1}
	c.st, c.of = st, s
	defer func() { c.st, c.exec, c.of = outer, exec, of }()
	st.write = writesData(s)
	c.calls(s.Calls)
	if s.Kind != parser.DDL { // what is called in a body is not called by the statement
		c.callsAtHome(s.Calls)
	}
	switch s.Kind {
	case parser.Select, parser.Insert, parser.Update, parser.Delete, parser.Merge, parser.CopyTo:
		if s.Copy != nil && s.Copy.Server {
			st.needsHint(shardMissing("COPY to a file or program of the server's"))
		}
		c.analyse(s.Query)
	case parser.CopyFrom:
		c.copyFrom(s)
	case parser.Explain:
		c.wrapped(s.Inner)
		if s.ExplainAnalyze && c.r.tenant != "" {
			first(&st.common, pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "EXPLAIN ANALYZE is not allowed where tenants share tables").WithRoutine(RefusalTenantMissing).
				WithDetail("It counts the rows of others that a policy hid.").WithHint("Leave ANALYZE out."))
		}
		if !s.ExplainAnalyze {
			st.write = false
			for _, e := range []**pgwire.Error{&st.hintless, &st.keyless, &st.placeless} {
				if *e != nil && (*e).Routine == RefusalShardMissing {
					*e = nil // nothing is written
				}
			}
		}
	case parser.Declare:
		c.wrapped(s.Inner)
		st.write = true // a cursor is there, and must not be lost by starting again elsewhere
	case parser.Prepare:
		c.wrapped(s.Inner)
		st.constraints = slices.DeleteFunc(st.constraints, func(k constraint) bool { return !k.constant })
		st.write = true
	case parser.Execute:
		c.executes(s)
	case parser.CreateTableAs:
		c.wrapped(s.Inner)
		st.write = true
		c.shardOnly(s)
	case parser.Begin, parser.Commit, parser.Rollback, parser.Savepoint, parser.RollbackTo, parser.Release, parser.PrepareTx,
		parser.Set, parser.SetTransaction, parser.SetConstraints, parser.Reset, parser.ResetAll, parser.Show, parser.Discard,
		parser.Deallocate, parser.Fetch, parser.ClosePortal, parser.Listen, parser.Unlisten, parser.Notify:
	case parser.Truncate:
		c.shardOnly(s)
		c.truncate(s)
	case parser.Unknown, parser.CommitPrepared, parser.Lock, parser.DDL, parser.Maintenance, parser.Call, parser.Do, parser.Load, parser.Utility:
		c.shardOnly(s)
		c.names(s)
		c.analyse(s.Query) // sub-selects of its expressions
	}
	st.explain()
	return st
}

// writesData reports that a statement may change data or leave something behind, so that it must not be run elsewhere again.
func writesData(s *parser.Statement) bool {
	switch s.Kind {
	case parser.Select, parser.CopyTo:
		return !s.ReadOnly && s.Kind == parser.Select || s.Effects != 0 || !s.ReadOnly && s.Query != nil && changesData(s.Query) ||
			slices.ContainsFunc(s.Calls, func(f parser.Function) bool { return !parser.IsBuiltin(f) || parser.VolatileWrites(f) })
	case parser.Explain:
		return s.ExplainAnalyze && s.Inner != nil && writesData(s.Inner)
	case parser.Begin, parser.Commit, parser.Rollback, parser.Savepoint, parser.RollbackTo, parser.Release, parser.Set, parser.SetTransaction,
		parser.SetConstraints, parser.Reset, parser.ResetAll, parser.Show, parser.Discard, parser.Deallocate, parser.Fetch, parser.ClosePortal:
		return false
	default: // whatever is not known to write nothing
		return true
	}
}

// changesData reports that a query or a CTE in it is an INSERT, UPDATE, DELETE or MERGE.
func changesData(q *parser.Query) bool {
	if changes(q.Kind) {
		return true
	}
	return slices.ContainsFunc(q.With, func(cte parser.CTE) bool { return cte.Query != nil && changesData(cte.Query) })
}

// wrapped takes over what a statement inside this one needs.
func (c *compiler) wrapped(s *parser.Statement) {
	if s == nil {
		return
	}
	in := c.statement(s)
	st := c.st
	st.constraints = append(st.constraints, in.constraints...)
	st.write = st.write || in.write
	if in.refusal != nil {
		st.refuse(in.refusal)
	}
	first(&st.ownerless, in.ownerless)
	first(&st.shared, in.shared)
	first(&st.shown, in.shown)
	first(&st.said, in.said)
	first(&st.common, in.common)
	st.schemas = append(st.schemas, in.schemas...)
	if in.hintless != nil {
		st.needsHint(in.hintless)
	}
	if in.keyless != nil {
		st.needsKey(in.keyless)
	}
	if in.tenantless != nil {
		st.needsTenant(in.tenantless)
	}
	if in.placeless != nil {
		st.needsPlace(in.placeless)
	}
	for _, h := range in.homes {
		st.live(h)
	}
	if st.leans == nil {
		st.leans = in.leans
	}
}

// executes compiles the statement that EXECUTE runs, with its arguments.
func (c *compiler) executes(s *parser.Statement) {
	c.analyse(s.Query)
	prepared := s.Inner
	if prepared == nil {
		c.st.refuse(pgwire.Errorf(pgwire.CodeInvalidStatementName, `prepared statement "%s" does not exist`, s.Name))
		return
	}
	c.exec = &execution{args: s.Args}
	if c.exec.args == nil {
		c.exec.args = []parser.Expr{}
	}
	if prepared.Kind == parser.Prepare {
		c.exec.types = prepared.ParamTypes
		prepared = prepared.Inner
	}
	c.st.write = false
	c.wrapped(prepared)
}

// shardOnly demands a hint for what no key can place.
func (c *compiler) shardOnly(s *parser.Statement) {
	what := s.Tag
	if what == "" {
		what = "the statement"
	}
	c.st.needsPlace(shardMissing(what))
	c.places(s)
}

// truncate: of a table that must name its tenant all tenants' rows would go.
func (c *compiler) truncate(s *parser.Statement) {
	for i := range s.Tables {
		if rel := c.relation(&s.Tables[i]); rel.tenant || rel.heirsTenant {
			c.st.needsOwn(tenantMissing(rel.name, c.r.tenant, "TRUNCATE removes the rows of all tenants.").WithHint("DELETE removes those of one."))
		}
	}
}

// analyse finds out what a query needs.
func (c *compiler) analyse(q *parser.Query) {
	if q == nil {
		return
	}
	c.constrain(c.query(q, nil, nil), &context{}, nil)
	c.settle()
}

// calls looks for functions of which nobody knows what they do.
func (c *compiler) calls(list []parser.Function) {
	if i := slices.IndexFunc(list, c.exposingCall); i >= 0 {
		c.exposed("function", list[i].Name)
	}
	for _, f := range list {
		c.private(f.Schema)
	}
	for _, f := range list {
		if !c.builtin(f) {
			c.st.unjudged = c.st.unjudged || slices.ContainsFunc(list, func(f parser.Function) bool { return parser.IsBuiltin(f) && !c.builtin(f) })
			c.opaque("function " + quote(f.Name))
			return
		}
	}
}

func (c *compiler) opaque(what string) {
	e := pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "no tenant for %s", what).WithRoutine(RefusalTenantMissing).
		WithDetail("What it reads and writes can't be seen, so the statement has to name its tenant.").WithHint(hintShard)
	switch {
	case c.r.tenant != "":
		c.st.needsTenant(e)
	case len(c.r.entries) > 0:
		c.st.needsKey(e)
	}
}

// builtin reports that a call is one of PostgreSQL's own functions, as far as names tell: not where users have one of the
// same name that PostgreSQL may choose instead.
func (c *compiler) builtin(f parser.Function) bool {
	if !parser.IsBuiltin(f) {
		return false
	}
	if f.Schema != "" || c.r.schema == nil || !c.r.schema.FunctionNames[f.Name] {
		return true
	}
	c.usesPath = true
	at := slices.Index(c.path, "pg_catalog")
	return at <= 0 && f.Args == 0 && !c.pathLost // without arguments there is nothing to fit better
}

// explain gives the statement's reason.
func (st *statement) explain() {
	switch {
	case st.copy != nil:
		st.reason = "the rows of COPY decide"
	case len(st.homes) > 0 && len(st.constraints) == 0:
		st.reason = st.homes[0].String()
	case len(st.constraints) > 0:
		var columns []string
		for i := range st.constraints {
			if column := st.constraints[i].column; !slices.Contains(columns, column) {
				columns = append(columns, column)
			}
		}
		st.reason = "sharding key " + strings.Join(columns, ", ")
	default:
		st.reason = "no sharded table"
	}
}

// fold finds the outcome of a constant constraint.
func (k *constraint) fold() {
	if !k.pin.constant() {
		return
	}
	var set keySet
	if u := k.pin.eval(&set, k.typ, &Input{}); u != nil {
		k.outcome = outcome{err: unreadableKey(k.table, k.column, u.reason())}
	} else {
		k.outcome = k.decide(&set)
	}
	k.constant, k.ascii = true, asciiKeys(set.keys)
}

func asciiKeys(keys []sharding.Key) bool {
	return !slices.ContainsFunc(keys, func(k sharding.Key) bool { return !k.ASCII() })
}

// decide says where the keys of a set live.
func (k *constraint) decide(set *keySet) outcome {
	if set.isNull || len(set.keys) == 0 && set.null {
		return outcome{err: tenantNull(k.table, k.column)}
	}
	if len(set.keys) == 0 || k.mapping == nil {
		return outcome{none: true}
	}
	var out outcome
	for i, key := range set.keys {
		shard, ok := k.mapping.Lookup(key)
		switch {
		case !ok:
			return outcome{err: tenantUnknown(k.table, k.column, key.String())}
		case i == 0:
			out.shard = shard
		case shard != out.shard:
			return outcome{err: crossShard(k.table, k.column).WithDetail("The values of %q that it names live on different shards.", k.column)}
		}
	}
	return out
}
