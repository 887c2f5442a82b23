package router

import (
	"slices"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Tenant is whose a session is, as far as routing goes: it runs where the tenant lives, and PostgreSQL shows it the tenant's rows only. What is
// asked here is that it names nobody else.
type Tenant struct {
	Key   sharding.Key // the zero Key: it has none
	Shard topology.ShardID
	// Own: its tables are its own, so that their rows' keys say nothing.
	Own bool
	// Sole: they are made as those are that tenants share, and a statement that names another's key is meant for that one.
	Sole bool
	// Schema is its own, if it has one: it names no other tenant's.
	Schema string
	// Login: the server knows it by its login, and not by settings.
	Login bool
}

// Tenant is the name of the tenant that a comment of the message's text asks for; empty = none does.
func (rt *Route) Tenant() string { return rt.message.Hints.Tenant }

// refuses reports that the statement is refused to somebody, however it is addressed.
func (st *statement) refuses() bool {
	return st.refusal != nil || st.ownerless != nil || st.shared != nil || st.shown != nil || st.said != nil || st.common != nil || len(st.schemas) > 0
}

// planTenant is Plan for a tenant's session.
func (rt *Route) planTenant(in *Input, describe bool) (sharding.Plan, *pgwire.Error) {
	plan, err := rt.planFor(in.Tenant, in, describe)
	if err != nil && rt.message.Shaped {
		err = ErrNeedsText // a refusal is the text's own
	}
	return plan, err
}

func (rt *Route) planFor(t *Tenant, in *Input, describe bool) (sharding.Plan, *pgwire.Error) {
	plan := sharding.Plan{Kind: sharding.PlanShard, Shard: t.Shard, Write: rt.write, Unjudged: rt.unjudged, Reason: "the tenant's place"}
	if rt.router.plain {
		return plan, nil
	}
	if e := rt.unparsable; e != nil && !(rt.message.Newer && t.Login) {
		return plan, e
	}
	if rt.complex != nil && !t.Login {
		return plan, rt.complex
	}
	if hint, hinted, err := rt.hint(in); err != nil {
		return plan, err
	} else if hinted && hint != t.Shard {
		return plan, tenantMismatch("", rt.router.tenant)
	}
	for _, st := range rt.statements {
		switch {
		case st.refusal != nil:
			return plan, st.refusal
		case st.shared != nil && !t.Own:
			return plan, st.shared
		case st.shown != nil && !t.Own && !t.Login:
			return plan, st.shown
		case st.said != nil && !t.Login:
			return plan, st.said
		case st.common != nil && !t.Own:
			return plan, st.common
		case t.Schema != "" && slices.ContainsFunc(st.schemas, func(schema string) bool { return schema != t.Schema }):
			return plan, otherSchema()
		}
		for _, h := range st.homes {
			// A table without a schema may be taken for its namesake in another tenant's: who names that one was refused above.
			if h.schema != "" && h.shard != t.Shard && !(rt.router.private != nil && rt.router.private(h.schema)) {
				return plan, schemaElsewhere(h)
			}
		}
		if t.Own && !t.Sole || t.Key == (sharding.Key{}) {
			continue
		}
		for i := range st.constraints {
			k := &st.constraints[i]
			if k.column != rt.router.tenant {
				continue
			}
			switch only, readable := k.only(in, t.Key, describe); {
			case !readable:
				return plan, ErrNeedsText
			case !only:
				return plan, tenantMismatch(k.table, k.column)
			}
		}
	}
	return plan, nil
}

// only reports that rows of nobody but the tenant with the key are named. What can't be read names nobody that is known of, and PostgreSQL
// decides; readable is false where the text has to be looked at as it is.
func (k *constraint) only(in *Input, key sharding.Key, describe bool) (only, readable bool) {
	if (describe || in.Params == nil) && k.pin.needsParams() {
		return true, k.pin.readable(k.typ, in) // the text by itself may say less
	}
	set := borrowKeys()
	defer set.giveBack()
	if u := k.pin.eval(set, k.typ, in); u != nil {
		return true, !u.literal && k.pin.readable(k.typ, in)
	}
	for _, named := range set.keys {
		if named != key {
			return false, true
		}
	}
	return true, true
}

// TenantKey finds the one tenant whose rows the message means, for a session that is nobody's. found is false where it names none.
func (rt *Route) TenantKey(in *Input) (key sharding.Key, found bool, err *pgwire.Error) {
	if key, found, err = rt.tenantKey(in); err != nil && rt.message.Shaped {
		err = ErrNeedsText // a refusal is the text's own
	}
	return key, found, err
}

func (rt *Route) tenantKey(in *Input) (key sharding.Key, found bool, err *pgwire.Error) {
	for _, st := range rt.statements {
		for i := range st.constraints {
			k := &st.constraints[i]
			if k.column != rt.router.tenant || k.typ == presence {
				continue
			}
			if in.Params == nil && k.pin.needsParams() {
				return key, false, ErrNeedsParams
			}
			var e *pgwire.Error
			if key, found, e = k.sole(in, key, found); e != nil {
				return key, false, e
			}
		}
	}
	return key, found, nil
}

// sole is the one tenant that the constraint means, who is the one found before, if any.
func (k *constraint) sole(in *Input, key sharding.Key, found bool) (sharding.Key, bool, *pgwire.Error) {
	set := borrowKeys()
	defer set.giveBack()
	if u := k.pin.eval(set, k.typ, in); u != nil {
		if u.literal {
			return key, false, ErrNeedsText
		}
		return key, false, unreadableKey(k.table, k.column, u.reason())
	}
	for _, named := range set.keys {
		if found && named != key {
			return key, false, severalTenants(k.table, k.column)
		}
		key, found = named, true
	}
	return key, found, nil
}

func severalTenants(table, column string) *pgwire.Error {
	e := pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "the statement names several tenants").WithRoutine(RefusalTenantMismatch).
		WithDetail("It means rows with different values of %q, and runs for one tenant.", column).WithHint("Send one statement for each tenant.")
	e.Table, e.Column = table, column
	return e
}

// TenantShard is where the mapping has a tenant's key.
func (r *Router) TenantShard(key sharding.Key) (topology.ShardID, *pgwire.Error) {
	shard, found := topology.ShardID(0), false
	for _, e := range r.entries {
		if e.column != r.tenant || e.typ != key.Type() {
			continue
		}
		s, ok := e.mapping.Lookup(key)
		switch {
		case !ok:
			return 0, tenantUnknown(e.table(), e.column, key.String())
		case found && s != shard:
			return 0, hintInvalid("the tenant has several shards", "The sharded tables of database %q place its key on different shards.", r.cluster)
		}
		shard, found = s, true
	}
	if !found && r.rest != nil {
		return *r.rest, nil
	}
	if !found && r.shards > 1 {
		return 0, shardMissing("the tenant")
	}
	return shard, nil
}

// RestShard is where what is in no schema of a shard's own lives, if that is said.
func (r *Router) RestShard() (topology.ShardID, bool) {
	if r.rest == nil {
		return 0, false
	}
	return *r.rest, true
}

// foreign refuses a table in a tenant's schema to those who are not in a place of their own, where PostgreSQL keeps them: a login that all share may
// be allowed everybody's.
func (c *compiler) foreign(t *parser.Table) {
	private := c.r.private
	if private == nil {
		return
	}
	named := c.private(t.Schema)
	if t.Schema == "" && c.r.schema != nil {
		c.usesPath = true
		if table := c.r.schema.Lookup("", t.Name, c.path); table != nil {
			named = c.private(table.Schema)
		} else if c.pathLost {
			named = slices.ContainsFunc(c.r.homonyms[t.Name], func(rel *topology.Relation) bool { return private(rel.Schema) })
		}
	}
	if named {
		c.st.needsOwn(pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "no tenant for table %q", t.Name).WithRoutine(RefusalTenantMissing).
			WithDetail("It is in a schema that is a tenant's own, and the session is not that tenant's.").WithHint("Log in as the tenant, or choose it."))
	}
}

// private notes that a tenant's schema is named, and reports whether it is one.
func (c *compiler) private(schema string) bool {
	if schema == "" || c.r.private == nil || !c.r.private(schema) {
		return false
	}
	c.st.schemas = append(c.st.schemas, schema)
	return true
}

// names looks at what a utility statement names: tenants' schemas, and for LOCK tables that are all tenants'.
func (c *compiler) names(s *parser.Statement) {
	for i := range s.Tables {
		t := &s.Tables[i]
		c.private(t.Schema)
		if s.Kind == parser.DDL && c.exposes(t.Schema, t.Name) { // a view of it is read by another name
			c.viewed(t.Name, s.Effects&parser.EffTemp != 0)
		}
		if s.Kind != parser.Lock || c.r.tenant == "" || isTemp(t.Schema) || isCatalog(t.Schema) {
			continue
		}
		if rel := c.relation(t); rel.tenant || rel.heirsTenant {
			first(&c.st.common, pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "%s of a table that tenants share is not allowed", s.Tag).WithRoutine(RefusalTenantMissing).
				WithDetail("It would keep all tenants from %q.", rel.name).WithHint("Lock rows: SELECT ... FOR UPDATE."))
		}
	}
}

func otherSchema() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "the statement names another tenant's schema").WithRoutine(RefusalTenantMismatch).
		WithDetail("The session belongs to a tenant, and the schema is, or would be, another one's.").WithHint("Leave the schema out, or name the session's own.")
}
