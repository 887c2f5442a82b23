package router

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Params are the parameters of a Bind message. Implementations must not allocate.
type Params interface {
	// Param returns parameter i (from 0): its bytes as sent, whether it is in binary format, and its type's OID (0 = not
	// known: not declared in Parse, nor told by the server's ParameterDescription). ok is false where there is no such
	// parameter. A nil value is NULL.
	Param(i int) (value []byte, binary bool, oid uint32, ok bool)
}

// Input is what a Plan depends on beyond the route itself.
type Input struct {
	// Params of the Bind; nil for a simple query. Without parameters a route that needs them gives ErrNeedsParams.
	Params Params
	// Hint is the session's own choice: SET pgdog.shard or SET pgdog.sharding_key. A comment in the text wins over it.
	Hint Hint
	// UTF8: the session's client_encoding is UTF8; names and keys beyond ASCII are refused otherwise.
	UTF8 bool
	// Text and Literals are the text at hand and its literals, for a Message that is Shaped.
	Text     []byte
	Literals []parser.Literal
	// Tenant is whose the session is; nil = nobody's.
	Tenant *Tenant
}

// Hint is a shard or key chosen by SET; empty strings = none.
type Hint struct {
	Shard, ShardingKey string
}

// Route is a message compiled for one cluster. It is immutable and safe for concurrent use.
//
// What every execution looks at comes first, on one cache line.
type Route struct {
	// self is the route itself, as messages remember it: what they point to, so that no more than the route is read to find it.
	self    any
	router  *Router
	message *parser.Message
	// The environment, and whether the route would be another in another.
	pathKey     string
	usesPath    bool
	pathUnknown bool
	needs       bool // parameters
	write       bool
	unjudged    bool
	utf8        bool // a relation's name is beyond ASCII
	// fast: one statement with one constraint, on one parameter or one literal of the text at hand.
	fast *constraint

	statements []*statement
	// unparsable is the refusal of a text that is no SQL, as far as we know.
	unparsable *pgwire.Error
	complex    *pgwire.Error
	path       []string
}

// message compiles a message.
func (c *compiler) message(m *parser.Message) *Route {
	rt := &Route{router: c.r, message: m, path: c.path, pathKey: c.env.SearchPathKey, pathUnknown: c.env.PathUnknown}
	if c.r.plain {
		rt.write = true
		return rt
	}
	if m.Unparsable != nil {
		rt.unparsable, rt.write = unparsable(m), true
		return rt
	}
	for _, s := range m.Statements {
		st := c.statement(s)
		c.follow(s, st)
		rt.statements = append(rt.statements, st)
		rt.write = rt.write || st.write
		rt.unjudged = rt.unjudged || st.unjudged
		for i := range st.constraints {
			rt.needs = rt.needs || !st.constraints[i].constant
		}
		if st.copy != nil && len(m.Statements) > 1 {
			st.refuse(pgwire.Errorf(pgwire.CodeFeatureNotSupported, "COPY FROM STDIN has to be the only statement of its message").
				WithRoutine(RefusalCrossShard).WithDetail("Its rows decide where it runs, and come after the other statements have run."))
		}
	}
	if c.tooComplex() {
		rt.complex, rt.needs, rt.write = tooComplex(), false, true
		rt.statements = nil
	}
	rt.usesPath, rt.utf8 = c.usesPath, c.beyondASCII
	rt.shortcut()
	return rt
}

// shortcut finds out whether the usual case is at hand.
func (rt *Route) shortcut() {
	if len(rt.statements) != 1 || rt.utf8 || rt.message.Hints != (parser.Hints{}) || rt.router.shards == 1 {
		return
	}
	st := rt.statements[0]
	if rt.unjudged || st.refuses() || st.hintless != nil || st.placeless != nil || len(st.homes) > 0 || st.leans != nil || st.copy != nil || len(st.constraints) != 1 {
		return
	}
	k := &st.constraints[0]
	if p := k.pin; k.mapping == nil || p.op != setValues || len(p.params)+len(p.lits) != 1 || len(p.keys) > 0 || p.isNull {
		return
	} else if len(p.params) == 1 && p.params[0].array || len(p.lits) == 1 && (p.lits[0].array || p.null) {
		return
	}
	rt.fast = k
}

// Message is what the route is for.
func (rt *Route) Message() *parser.Message { return rt.message }

// NeedsParams reports that Plan needs the parameters of a Bind.
func (rt *Route) NeedsParams() bool { return rt.needs }

// Plan says where the message runs, or why it does not. It does not allocate for a statement with one parameter that is
// its key.
//
// A Message that is Shaped is planned for the texts that may run; for the others Plan gives ErrNeedsText.
func (rt *Route) Plan(in *Input) (sharding.Plan, *pgwire.Error) {
	if in.Tenant != nil {
		return rt.planTenant(in, false)
	}
	if rt.fast != nil && in.Hint == (Hint{}) {
		if k, ok := rt.fast.pin.one(rt.fast.typ, in); ok && (in.UTF8 || k.ASCII()) {
			if shard, ok := rt.fast.mapping.Lookup(k); ok {
				return sharding.Plan{Kind: sharding.PlanShard, Shard: shard, Write: rt.write, Reason: rt.statements[0].reason}, nil
			}
		}
	}
	return rt.orText(rt.plan(in, in.Params, false))
}

// Describe says where the message can be parsed and described before its parameters are known: on any shard, unless
// it is refused whatever they are. The parameters of in are not looked at; for a Message that is Shaped the text is, as Plan does.
func (rt *Route) Describe(in *Input) (sharding.Plan, *pgwire.Error) {
	if in.Tenant != nil {
		return rt.planTenant(in, true)
	}
	return rt.orText(rt.plan(in, nil, true))
}

// orText leaves refusals of a Message that is Shaped to the text at hand.
func (rt *Route) orText(plan sharding.Plan, err *pgwire.Error) (sharding.Plan, *pgwire.Error) {
	if err != nil && rt.message.Shaped {
		return sharding.Plan{}, ErrNeedsText
	}
	return plan, err
}

// plan joins the plans of the statements. With describe, what depends on parameters is left open.
func (rt *Route) plan(in *Input, params Params, describe bool) (sharding.Plan, *pgwire.Error) {
	if rt.router.plain {
		return sharding.Plan{Kind: sharding.PlanShard, Write: rt.write, Reason: "the only shard"}, nil
	}
	hint, hinted, err := rt.hint(in)
	if err != nil {
		return sharding.Plan{}, err
	}
	if err := rt.refusals(in, hinted); err != nil {
		return sharding.Plan{}, err
	}
	plan := sharding.Plan{Kind: sharding.PlanAny, Write: rt.write, Unjudged: rt.unjudged, Reason: "nothing to run"}
	if hinted {
		plan.Kind, plan.Shard, plan.Reason = sharding.PlanShard, hint, "hint"
	}
	for _, st := range rt.statements {
		shard, found, err := st.plan(in, params, describe, hinted)
		switch {
		case err != nil:
			return sharding.Plan{}, err
		case found && hinted && shard != hint && len(st.homes) > 0:
			return sharding.Plan{}, hintAgainstSchema(st.homes[0])
		case found && hinted && shard != hint:
			return sharding.Plan{}, hintContradicts()
		case found && plan.Kind == sharding.PlanShard && shard != plan.Shard:
			return sharding.Plan{}, crossStatement()
		case found && !hinted:
			plan.Kind, plan.Shard, plan.Reason = sharding.PlanShard, shard, st.reason
		case plan.Kind == sharding.PlanAny:
			plan.Reason = st.reason
		}
		if st.copy != nil {
			plan.Kind, plan.Reason = sharding.PlanCopy, st.reason
		}
	}
	for _, st := range rt.statements {
		if plan.Kind == sharding.PlanAny && st.leans != nil {
			plan.Kind, plan.Shard, plan.Reason = sharding.PlanShard, st.leans.shard, st.leans.String()
		}
	}
	if plan.Kind == sharding.PlanAny && rt.router.shards == 1 {
		plan.Kind, plan.Shard = sharding.PlanShard, 0
	}
	return plan, nil
}

// refusals returns what refuses the whole message.
func (rt *Route) refusals(in *Input, hinted bool) *pgwire.Error {
	if e := rt.unparsable; e != nil && (!hinted || rt.router.tenant != "") {
		return e
	}
	if rt.complex != nil && (!hinted || rt.router.tenant != "") {
		return rt.complex
	}
	if rt.utf8 && !hinted && (!in.UTF8 || rt.message.Transcoded) {
		return needsUTF8("the name of a table")
	}
	return nil
}

// plan finds the statement's shard. A hint lifts what it may lift.
func (st *statement) plan(in *Input, params Params, describe, hinted bool) (shard topology.ShardID, found bool, err *pgwire.Error) {
	for _, e := range [...]*pgwire.Error{st.refusal, st.split, st.shared, st.ownerless, st.shown} {
		if e != nil {
			return 0, false, e
		}
	}
	if st.hintless != nil && !hinted {
		return 0, false, st.hintless
	}
	if st.placeless != nil && !hinted && len(st.homes) == 0 {
		return 0, false, st.placeless
	}
	open, keyed, named := false, false, false
	if len(st.homes) > 0 {
		shard, found = st.homes[0].shard, true
	}
	for i := range st.constraints {
		k := &st.constraints[i]
		if describe && !k.constant && k.pin.needsParams() {
			if !k.pin.readable(k.typ, in) {
				return 0, false, ErrNeedsText // the text by itself may say less
			}
			open = true
			continue
		}
		out, read := k.evaluate(in, params)
		switch {
		case !read && hinted:
			continue // as if nothing were known of the key
		case out.err != nil:
			return 0, false, out.err
		case out.none:
			named = named || k.mapping == nil
			continue
		case found && out.shard != shard && !keyed:
			return 0, false, schemaContradicts(st.homes[0])
		case found && out.shard != shard:
			return 0, false, crossShard(k.table, k.column)
		}
		shard, found, keyed = out.shard, true, true
	}
	keyed = keyed || st.single && len(st.constraints) > 0 || open || hinted
	switch {
	case st.tenantless != nil && !keyed && !named:
		return 0, false, st.tenantless
	case st.keyless != nil && !keyed && !found:
		return 0, false, st.keyless
	}
	return shard, found, nil
}

// evaluate finds the outcome of a constraint. read is false where a value is no key, which is in the outcome's error.
func (k *constraint) evaluate(in *Input, params Params) (out outcome, read bool) {
	if k.constant {
		if !k.ascii && !in.UTF8 {
			return outcome{err: needsUTF8("a sharding key")}, false
		}
		return k.outcome, true
	}
	if params == nil && k.pin.needsParams() {
		return outcome{err: ErrNeedsParams}, true
	}
	set := borrowKeys()
	defer set.giveBack()
	if u := k.pin.eval(set, k.typ, in); u != nil {
		if u.literal {
			return outcome{err: ErrNeedsText}, true
		}
		if u.absent {
			return outcome{err: pgwire.Errorf(pgwire.CodeUndefinedParameter, "there is no parameter $%d", u.param+1)}, true
		}
		return outcome{err: unreadableKey(k.table, k.column, u.reason())}, false
	}
	if !in.UTF8 && !asciiKeys(set.keys) {
		return outcome{err: needsUTF8("a sharding key")}, false
	}
	return k.decide(set), true
}
