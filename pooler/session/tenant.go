package session

import (
	"net/netip"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// Tenants finds the accounts of an account's tenants.
type Tenants interface {
	// ByKey and ByName return what a is for a tenant; an error says why it is nothing.
	ByKey(a *Account, key sharding.Key) (*Account, *pgwire.Error)
	ByName(a *Account, name string) (*Account, *pgwire.Error)
	// Setting is the name of the setting that holds the tenant's key, KeyType the key's type.
	Setting() string
	KeyType() sharding.KeyType
}

// at is the account for which statements run: the session's, or that of the tenant whom the transaction at hand has named.
func (s *Session) at() *Account {
	if s.work != nil && s.visit.account != nil {
		return s.visit.account
	}
	return s.acct
}

// visit is a transaction's stay with a tenant whom its statements name.
type visit struct {
	account *Account   // nil = there is none
	base    *state.Set // the session's own, to go back to
	keep    bool       // the session stays with the tenant, unless what runs now fails
	kept    bool       // it stays: that was committed
	chosen  bool       // by a setting, and not by what a statement says
	// Of the settings' track, when it was chosen, and when it was said to be kept: what is rolled back to in front of that takes it back.
	depth, keptAt int
	// from is what the session expected of connections before, to what it expects as long as nothing is set.
	from, to *state.Set
}

// stay notes that the session stays with the tenant.
func (v *visit) stay(depth int) {
	if !v.keep {
		v.keep, v.keptAt = true, depth
	}
}

// place is the tenant's whom the session is with; nil = nobody's.
func (s *Session) place() *Place { return s.at().Place }

// plan is rt.Plan for the session's tenant, or for the one whom the statement names.
func (s *Session) plan(rt *router.Route, in *router.Input) (sharding.Plan, *pgwire.Error) {
	a := s.at()
	if rt.Tenant() != "" {
		if e := s.hinted(rt.Tenant()); e != nil {
			return sharding.Plan{}, e
		}
		a = s.at()
	}
	switch {
	case a.Tenants == nil:
	case a.Place != nil:
		in.Tenant = &a.Place.Route
	default:
		key, found, e := rt.TenantKey(in)
		if e != nil {
			return sharding.Plan{}, e
		}
		if !found {
			break
		}
		if !a.Switch {
			return sharding.Plan{}, noTenant()
		}
		to, e := s.reaches(a.Tenants.ByKey(a, key))
		if e != nil {
			return sharding.Plan{}, e
		}
		in.Tenant = &to.Place.Route
		plan, e := rt.Plan(in)
		if e == nil {
			e = s.visitsOnly(to)
		}
		if e == nil {
			s.enter(to)
		}
		return plan, e
	}
	plan, e := rt.Plan(in)
	if plan.Unjudged && s.harmless(rt.Message()) {
		plan.Unjudged = false // whichever of the functions with such a name it is
	}
	return plan, s.tellsHow(e)
}

// describable is rt.Describe for the session's tenant.
func (s *Session) describable(rt *router.Route, in *router.Input) *pgwire.Error {
	if p := s.place(); p != nil {
		in.Tenant = &p.Route
	}
	_, e := rt.Describe(in)
	return e
}

// reaches refuses a tenant whose clients may not come from where the session's does, as if there were none.
func (s *Session) reaches(to *Account, e *pgwire.Error) (*Account, *pgwire.Error) {
	if e != nil || len(to.Place.Tenant.Access.Networks) == 0 {
		return to, e
	}
	from, _ := netip.ParseAddrPort(s.Client) // of a unix socket there is none
	if to.Place.Tenant.Allows(from.Addr()) {
		return to, nil
	}
	return s.acct.Tenants.ByName(to, "")
}

// hinted is what a comment says of the tenant: it chooses one for the transaction, or repeats whose that is.
func (s *Session) hinted(name string) *pgwire.Error {
	if s.acct.Tenants == nil {
		return pgwire.Errorf(pgwire.CodeInvalidParameterValue, "there are no tenants to choose from").WithRoutine(router.RefusalHint).
			WithHint("Leave the comment pgkennel_tenant out, or configure [multi_tenant].")
	}
	if now := s.at(); now.Place != nil {
		if name != now.Place.Tenant.Name {
			return otherTenant()
		}
		return nil
	}
	if !s.acct.Switch {
		return noTenant()
	}
	to, e := s.reaches(s.acct.Tenants.ByName(s.acct, name))
	if e == nil {
		e = s.visitsOnly(to)
	}
	if e != nil {
		return e
	}
	s.enter(to)
	return nil
}

func otherTenant() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "the statement names another tenant").WithRoutine(router.RefusalTenantMismatch).
		WithDetail("The session, or its transaction, belongs to a tenant already.").WithHint("Leave the comment out, or name the tenant that it belongs to.")
}

func noTenant() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "the session belongs to no tenant").WithRoutine(router.RefusalTenantMissing).
		WithDetail("Its user may not choose one.").WithHint("Log in as user@tenant, or let the user choose: tenant_switch = true in users.toml.")
}

// enter makes the rest of the transaction a tenant's. If it has a backend already, that is not one for the tenant: see acquire.
func (s *Session) enter(a *Account) {
	old := s.place()
	s.visit = visit{account: a, base: s.base, from: s.track.Expected}
	s.base = a.Place.carry(old.drop(s.base))
	s.track.Replace(func(set *state.Set) *state.Set { return a.Place.carry(old.drop(set)) })
	s.visit.to = s.track.Expected
}

func tooLate() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeActiveTransaction, "the transaction belongs to no tenant").WithRoutine(router.RefusalTenantMismatch).
		WithDetail("Statements ran in it before one that names a tenant.").WithHint("Name the tenant in the transaction's first statement, or before it.")
}

// endVisit goes back to what the session is between transactions.
func (s *Session) endVisit() {
	v := s.visit
	if v.account == nil {
		return
	}
	s.visit = visit{}
	s.base = v.base
	s.track.Replace(func(set *state.Set) *state.Set {
		if set == v.to {
			return v.from // with a search_path of the client's own, in the place of which the tenant's was
		}
		return s.acct.Place.carry(v.account.Place.drop(set))
	})
	if v.kept || v.keep && !s.unit.failed && !s.reverts {
		s.settle(v.account)
	}
}

// chosen ends what is known of the tenant's choice at the end of a transaction: with one that is rolled back, it is.
func (s *Session) chosen() {
	s.endVisit()
	if s.was != nil && (s.unit.failed || s.reverts) {
		s.settle(s.was)
	}
	s.was, s.reverts, s.orphan = nil, false, false
}

// follow notes how a transaction ended; chain: another one follows.
func (s *Session) follow(rolledBack, chain bool) {
	v := &s.visit
	s.orphan = s.orphan || chain && s.unchosen(rolledBack)
	switch {
	case rolledBack:
		s.reverts = true
	case !s.reverts:
		s.was = nil
		v.kept = v.kept || v.keep
	}
}

// revertible reports whether a choice of the tenant goes with the transaction at hand if that is rolled back.
func (s *Session) revertible() bool { return s.was != nil || s.visit.chosen && !s.visit.kept }

// unchosen reports whether the choice of the tenant ends with the transaction at hand though another follows that begins where it ended: it is
// rolled back, or was made for that transaction only and the session is another tenant's. Where it is nobody's the choice goes on.
func (s *Session) unchosen(rolledBack bool) bool {
	if rolledBack {
		return s.revertible()
	}
	return s.visit.chosen && !s.visit.keep && s.acct.Place != nil
}

// followSavepoint notes that a savepoint was released, or rolled back to.
func (s *Session) followSavepoint(rolledBack bool) {
	v, depth := &s.visit, s.track.Depth()
	if v.chosen && !v.kept && depth <= v.depth {
		v.depth = depth
		s.orphan = s.orphan || rolledBack
	}
	if v.keep && depth <= v.keptAt {
		v.keep, v.keptAt = !rolledBack, depth
	}
}

// orphaned refuses what would run for a tenant whose choice was rolled back in the midst of things: the connection at hand is still that tenant's. What ends the transaction
// may run, and so may the choice be made again.
func (s *Session) orphaned(m *parser.Message) *pgwire.Error {
	if !s.orphan || s.tx == pgwire.TxIdle {
		return nil
	}
	for _, st := range m.Statements {
		switch st.Kind {
		case parser.Commit, parser.Rollback, parser.PrepareTx:
		default:
			if !s.own(st) {
				return errOrphaned
			}
		}
	}
	if m.Unparsable != nil {
		return errOrphaned
	}
	return nil
}

var errOrphaned = pgwire.Errorf(pgwire.CodeActiveTransaction, "the choice of the tenant was rolled back").WithRoutine(router.RefusalTenantMismatch).
	WithDetail("The transaction goes on without it, and pgkennel does not move it back to whom the session was for before.").
	WithHint("End the transaction, or choose the same tenant again.")

// fits reports whether the backend at hand is one for the tenant, or nobody, whose statements run now.
func (s *Session) fits() bool {
	if a := s.at(); s.connAt != a {
		if a.Login != s.connAt.Login || s.begun || s.open || !s.serves(a) {
			return false
		}
		s.connAt = a // what it lacks goes in front of what it is asked next
	}
	return true
}

// stays reports whether what runs by plan keeps a transaction from beginning anew elsewhere for where it runs. On one shard that is so unless it may
// become a tenant's yet.
func (s *Session) stays(plan sharding.Plan) bool {
	if s.rtr.Shards() > 1 {
		return plan.Kind == sharding.PlanShard
	}
	a := s.at()
	return a.Place != nil || !a.Switch
}

// settle makes the session a tenant's, or nobody's, from now on. It is between transactions.
func (s *Session) settle(a *Account) {
	if s.listens != nil && a.Place != s.acct.Place {
		s.retiring, s.retireReason = errMoved, CloseListen // what it hears now is not for whom it is next
		s.deaf()
	}
	old := s.acct.Place
	s.base = a.Place.carry(old.drop(s.base))
	s.track.Expected = a.Place.carry(old.drop(s.track.Expected))
	s.acct = a
}

// tenantSetting reports whether a setting's name is that of the tenant's key.
func (s *Session) tenantSetting(name string) bool {
	t := s.acct.Tenants
	return t != nil && name == t.Setting()
}

// The pooler's own setting for the tenant's name.
const tenantName = "pgkennel.tenant"

// answerTenant answers SET, RESET and SHOW of the tenant, by name or key.
func (s *Session) answerTenant(dst []byte, st *parser.Statement, extended bool) ([]byte, *pgwire.Error) {
	name := st.Set.Name == tenantName
	if st.Kind == parser.Show {
		value := ""
		if p := s.place(); p != nil {
			if value = p.Tenant.Key; name {
				value = p.Tenant.Name
			}
		}
		if !extended {
			dst = pgwire.AppendRowDescription(dst, ownColumns(st))
		}
		dst = pgwire.AppendTextRow(dst, value)
		return pgwire.AppendCommandComplete(dst, "SHOW"), nil
	}
	if e := s.setTenant(name, constantOf(st.Set), st.Set.Local); e != nil {
		return dst, e
	}
	tag := "SET"
	if st.Kind == parser.Reset {
		tag = "RESET"
	}
	return pgwire.AppendCommandComplete(dst, tag), nil
}

// constantOf is the value that a setting gets; empty where it is reset.
func constantOf(set *parser.Setting) string {
	if set.Default || len(set.Values) == 0 {
		return ""
	}
	return set.Values[0]
}

// choosesTenant reports whether st does nothing but to choose the tenant by set_config, as what can't say SET with a parameter does.
func (s *Session) choosesTenant(st *parser.Statement) bool {
	return st.Sole != nil && s.tenantSetting(st.Sole.Name)
}

// bindChoice chooses the tenant that a Bind of set_config names: what is behind it in the batch is that tenant's already.
func (s *Session) bindChoice(st *parser.Statement, it *item) *pgwire.Error {
	value := constantOf(st.Sole)
	if st.SoleParam > 0 {
		b, err := pgwire.DecodeBind(it.frame[pgwire.HeaderBytes:])
		if err != nil {
			return asError(err)
		}
		if st.SoleParam > b.NumParams() {
			return pgwire.Errorf(pgwire.CodeUndefinedParameter, "there is no parameter $%d", st.SoleParam)
		}
		v, null := b.Param(st.SoleParam - 1)
		if value = string(v); null {
			value = ""
		}
	}
	return s.setTenant(false, value, st.Sole.Local)
}

// bindLocal looks at a Bind of what is answered here for what it says of the tenant. Needs says that something is in front of it in the batch that is the
// server's, acts that something is that is answered here: what that does has to be done before it is known what a choice means.
func (s *Session) bindLocal(m *parser.Message, st *parser.Statement, i int, needs, acts bool) *pgwire.Error {
	it, hint := &s.unit.items[i], s.localHint(m, st)
	switch {
	case st.Sole != nil && !s.runsNext(i):
		return nil // nothing is chosen by what does not run
	case st.Sole == nil && hint == "":
		return nil
	case acts:
		return errTenantFixed
	case st.Sole == nil && needs && s.place() == nil:
		return errTenantFixed // what is in front of it would be the tenant's, too
	case st.Sole == nil:
		return s.hinted(hint)
	}
	s.unit.settled = needs // else what is in front of it would be the next tenant's
	defer func() { s.unit.settled = false }()
	return s.bindChoice(st, it)
}

// runsNext reports whether what the Bind at index i has bound is executed next.
func (s *Session) runsNext(i int) bool {
	items := s.unit.items
	portal := items[i].portal
	for i++; i < len(items) && items[i].typ == pgwire.MsgDescribe && items[i].target == pgwire.TargetPortal && items[i].portal == portal; i++ {
	}
	return i < len(items) && items[i].typ == pgwire.MsgExecute && items[i].portal == portal
}

// chosenAt refuses the Execute at index i of a set_config that would choose the tenant, but for behind its Bind, by which that was done.
func (s *Session) chosenAt(i int) *pgwire.Error {
	items := s.unit.items
	portal := items[i].portal
	for i--; i >= 0 && items[i].typ == pgwire.MsgDescribe && items[i].target == pgwire.TargetPortal && items[i].portal == portal; i-- {
	}
	if i >= 0 && items[i].typ == pgwire.MsgBind && items[i].portal == portal {
		return nil
	}
	return errChosenElsewhere
}

var errChosenElsewhere = pgwire.Errorf(pgwire.CodeActiveTransaction, "the tenant can't change here").WithRoutine(router.RefusalTenantMismatch).
	WithDetail("Something stands between the Bind of what chooses the tenant and its Execute.").WithHint("Send them one behind the other.")

// localHint is the tenant that the comment of a statement asks for that is answered here; empty = none. With the end of a transaction it is too late for that.
func (s *Session) localHint(m *parser.Message, st *parser.Statement) string {
	if endsFailure(st) || s.own(st) {
		return ""
	}
	return m.Hints.Tenant
}

// answerChoice answers a set_config that chooses the tenant, with the tenant's key; extended: that was done when it was bound.
func (s *Session) answerChoice(dst []byte, st *parser.Statement, extended bool) ([]byte, *pgwire.Error) {
	if !extended {
		if st.SoleParam > 0 {
			return dst, router.ErrNeedsParams
		}
		if e := s.setTenant(false, constantOf(st.Sole), st.Sole.Local); e != nil {
			return dst, e
		}
		dst = pgwire.AppendRowDescription(dst, ownColumns(st))
	}
	key := ""
	if p := s.place(); p != nil {
		key = p.Tenant.Key
	}
	dst = pgwire.AppendTextRow(dst, key)
	return pgwire.AppendCommandComplete(dst, "SELECT 1"), nil
}

// choosesAhead reports whether statement i of a message chooses the tenant by its key for the others: nothing but BEGIN is in front of it. The server runs
// it as well, and is told what it knows by then.
func (s *Session) choosesAhead(m *parser.Message, i int) bool {
	st := m.Statements[i]
	if st.Kind != parser.Set || st.Set == nil || !s.tenantSetting(st.Set.Name) || len(st.Set.Values) != 1 || !s.asPrinted(st.Set.Values[0]) {
		return false
	}
	for _, before := range m.Statements[:i] {
		if before.Kind != parser.Begin {
			return false
		}
	}
	return !s.open
}

// chooseFirst chooses the tenant that a message of several statements begins with.
func (s *Session) chooseFirst(m *parser.Message) *pgwire.Error {
	if s.acct.Tenants == nil {
		return nil
	}
	for i, st := range m.Statements {
		if !s.choosesAhead(m, i) {
			continue
		}
		idle := s.tx == pgwire.TxIdle
		if e := s.setTenant(false, st.Set.Values[0], st.Set.Local || idle); e != nil {
			return e
		}
		if idle && !st.Set.Local && s.visit.account != nil {
			s.visit.stay(s.track.Depth())
		}
		return nil
	}
	return nil
}

// setTenant chooses a tenant by name or key; empty = none.
func (s *Session) setTenant(byName bool, value string, local bool) *pgwire.Error {
	a := s.acct
	if a.bound() {
		if value == "" || byName && value == a.Place.Tenant.Name || !byName && s.isKey(a, value) {
			return nil // it is, and stays
		}
		return boundTo()
	}
	if !a.Switch {
		return noTenant()
	}
	to := a
	if a.Free != nil {
		to = a.Free
	}
	if value != "" {
		var e *pgwire.Error
		if byName {
			to, e = s.reaches(a.Tenants.ByName(to, value))
		} else if key, ok := sharding.ParseKey(a.Tenants.KeyType(), value); ok {
			to, e = s.reaches(a.Tenants.ByKey(to, key))
		} else {
			e = pgwire.Errorf(pgwire.CodeInvalidTextRepresentation, "invalid tenant key").WithDetail("Keys are of type %s.", a.Tenants.KeyType()).
				WithHint("The operator sets their type by data_type in [multi_tenant].")
		}
		if e != nil {
			return e
		}
	}
	now := s.at()
	switch {
	case to == now || to.Place != nil && now.Place != nil && to.Place.Tenant.Same(now.Place.Tenant):
		s.orphan = false
		if !local && s.visit.account != nil {
			s.visit.stay(s.track.Depth())
		}
		return nil
	case s.unit.settled, s.visit.account != nil:
		return errTenantFixed
	case !local && s.listens != nil:
		return errListens
	case !s.serves(to):
		return s.pinnedByOther()
	}
	if e := s.visitsOnly(to); e != nil {
		return e
	}
	switch {
	case s.tx == pgwire.TxIdle && local: // for the implicit transaction at hand
	case s.tx == pgwire.TxIdle && !s.open:
		if s.conn != nil && to.Login != s.acct.Login { // session pooling
			return errTenantFixed
		}
		if s.was == nil {
			s.was = s.acct
		}
		s.settle(to)
		return nil
	case now.Place != nil || to.Place == nil || s.begun && s.fixed:
		return errTenantFixed
	}
	s.enter(to)
	s.visit.chosen, s.visit.depth = true, s.track.Depth()
	if !local {
		s.visit.stay(s.track.Depth())
	}
	return nil
}

var errTenantFixed = pgwire.Errorf(pgwire.CodeActiveTransaction, "the tenant can't change here").WithRoutine(router.RefusalTenantMismatch).
	WithDetail("A transaction belongs to one tenant, and in session pooling so does a connection.").WithHint("End the transaction first.")

func boundTo() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "the session belongs to another tenant").WithRoutine(router.RefusalTenantMismatch).
		WithDetail("Its login named the tenant, for as long as it lasts.").WithHint("Connect anew to work for another tenant.")
}

// isKey reports whether a text is the key of the account's tenant.
func (s *Session) isKey(a *Account, text string) bool {
	key, ok := sharding.ParseKey(a.Tenants.KeyType(), text)
	return ok && key == a.Place.Route.Key
}

// asPrinted reports whether a text is a key in the very form in which contexts have it.
func (s *Session) asPrinted(text string) bool {
	key, ok := sharding.ParseKey(s.acct.Tenants.KeyType(), text)
	return ok && text != "" && key.String() == text
}

// bound reports whether the account is a tenant's by its login.
func (a *Account) bound() bool { return a.Place != nil && a.Free == nil }
