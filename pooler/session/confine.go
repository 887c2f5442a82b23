package session

import (
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/tenant"
)

// confined refuses what could lead a message out of its tenant's context, or into one.
func (s *Session) confined(m *parser.Message) *pgwire.Error {
	if e := s.readsOnly(m); e != nil {
		return e
	}
	a := s.acct
	if a.Tenants == nil {
		return nil
	}
	if e := s.orphaned(m); e != nil {
		return e
	}
	for _, st := range m.Statements {
		if st.Inert || s.choosesTenant(st) {
			continue
		}
		if e := s.confinedTo(a, st); e != nil {
			return e
		}
		if st.Inner != nil {
			if e := s.confinedTo(a, st.Inner); e != nil {
				return e
			}
		}
	}
	return nil
}

func (s *Session) confinedTo(a *Account, st *parser.Statement) *pgwire.Error {
	if st.Effects&parser.EffSetRole != 0 && !a.MaySetRole {
		return notAllowed("changing the role", "may_set_role = true in users.toml allows it.")
	}
	if st.Effects.Unjudged() && st.Kind != parser.Call && (st.Set == nil || st.Set.Name != "seed") && !s.ownLogin() && !(a.Switch && s.place() == nil) {
		what := st.Tag
		if st.Kind == parser.Select || what == "" {
			what = "a statement that sets what can't be seen"
		}
		return notAllowed(what, "Make it a function, and have the tables' owner grant its execution.")
	}
	if !(a.Switch && s.place() == nil) {
		if e := s.keeps(st); e != nil {
			return e
		}
	}
	if st.Set != nil && st.Set.Name == tenant.SealSetting && st.Kind != parser.Show {
		return notAllowed("setting "+tenant.SealSetting, "pgkennel makes the seal of a tenant.")
	}
	for i := range st.SetConfigs {
		set := &st.SetConfigs[i]
		switch name := strings.ToLower(set.Name); {
		case name == "role" || name == "session_authorization":
			if !a.MaySetRole {
				return notAllowed("changing the role", "may_set_role = true in users.toml allows it.")
			}
		case name == tenant.SealSetting:
			return notAllowed("setting "+name, "pgkennel makes the seal of a tenant.")
		case s.tenantSetting(name): // nobody follows it
			if len(set.Values) != 1 || set.Unknown || !a.bound() || !s.isKey(a, set.Values[0]) || !s.asPrinted(set.Values[0]) {
				return notAllowed("set_config for "+name, "Use SET "+name+" before the transaction.")
			}
		}
	}
	return nil
}

// keeps refuses what outlives the statement: settings of logins and databases, and on a login that tenants share what runs, or makes, code that sets a
// tenant's context where it can't be seen.
func (s *Session) keeps(st *parser.Statement) *pgwire.Error {
	switch st.Tag {
	case "ALTER DATABASE", "ALTER SYSTEM":
		if !s.ownLogin() {
			return notAllowed(st.Tag, elsewhere)
		}
	case "ALTER ROLE", "DROP OWNED", "REASSIGN OWNED": // the login's password and privileges are pgkennel's
		return notAllowed(st.Tag, elsewhere)
	}
	if (st.Kind == parser.PrepareTx || st.Kind == parser.CommitPrepared) && !s.ownLogin() {
		return notAllowed(st.Tag, "Prepared transactions are everybody's who has the login.")
	}
	if st.Kind == parser.Listen && s.acct.Session && s.place() != nil && !s.ownLogin() {
		return errHearsAll
	}
	if p := s.place(); p != nil && !p.Route.Own && !s.ownLogin() && (st.Kind == parser.DDL || st.Kind == parser.CreateTableAs) && st.Effects&parser.EffTemp == 0 {
		return notAllowed(st.Tag, elsewhere+" What is temporary may be made, and dropped as pg_temp.name.") // what it changes is all tenants', as is the login
	}
	if s.ownLogin() {
		return nil
	}
	if makesCode(st) {
		return notAllowed(st.Tag, "Have the tables' owner do it.")
	}
	for _, f := range st.Calls {
		switch {
		case parser.RunsText(f):
			return notAllowed("function "+f.Name, "It runs SQL, or reads tables, that can't be seen in the statement. Send that as a statement of its own, or have the tables' owner make a function of it.")
		case f.Schema != "" && f.Schema != "pg_catalog":
		case st.Kind == parser.DDL && (f.Name == "set_config" || f.Name == "lastval" || f.Name == "currval"): // whoever uses it does not say so
			return notAllowed(f.Name+" in "+st.Tag, "Have the tables' owner make it.")
		case st.Kind == parser.Call && f.Name == "set_config": // what it sets is lost among what the procedure may do
			return notAllowed("set_config in CALL", "Call it in front.")
		}
	}
	return nil
}

// makesCode reports whether st makes something that runs a function, or SQL, of which the text of who uses it says nothing: PostgreSQL's own functions, too, under
// another name. What views, domains and the like call is in their own text.
func makesCode(st *parser.Statement) bool {
	if st.Kind != parser.DDL {
		return false
	}
	_, what, _ := strings.Cut(st.Tag, " ")
	switch what {
	case "FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE", "OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY", "CAST", "CONVERSION", "TRANSFORM", "LANGUAGE", "RULE", "TRIGGER":
		return strings.HasPrefix(st.Tag, "CREATE ") || strings.HasPrefix(st.Tag, "ALTER ")
	default:
		return false
	}
}

const elsewhere = "Do it as a user that belongs to no tenant."

// parts reports that behind st a connection does not carry any more what it should: st takes the context off it, or ends the transaction that was a
// tenant's.
func (s *Session) parts(st *parser.Statement) bool {
	if st == nil || s.acct.Tenants == nil {
		return false
	}
	switch st.Kind {
	case parser.Discard:
		return st.Name == "ALL"
	case parser.Commit, parser.Rollback, parser.PrepareTx:
		commits := st.Kind == parser.Commit && s.tx != pgwire.TxFailed
		chain := st.Tx != nil && st.Tx.Chain
		visits := s.visit.account != nil && !chain && !s.visit.kept
		return visits && !(s.visit.keep && commits) || !commits && s.revertible() || chain && s.unchosen(!commits)
	case parser.RollbackTo:
		return s.visit.chosen && s.visit.depth > 1 // it may take back the choice
	default: // leaves the tenant as it is
		return false
	}
}

// parted refuses a message of several statements if some of them run behind one that parts with the tenant.
func (s *Session) parted(m *parser.Message) *pgwire.Error {
	for i, st := range m.Statements {
		if i < len(m.Statements)-1 && s.parts(st) {
			return errParted
		}
	}
	return nil
}

var errParted = pgwire.Errorf(pgwire.CodeActiveTransaction, "what belonged to the tenant has ended").WithRoutine(router.RefusalTenantMismatch).
	WithDetail("Behind the end of a tenant's transaction, and behind DISCARD ALL, nothing runs up to the end of the message, or of the pipeline.").
	WithHint("Send it as a message of its own, or a Sync in front of it.")

// assure panics where the connection at hand, with the settings that it is to have, is not one for whom the session is. Only a bug leads there, and then the
// session ends, and the connection with it, before anybody sees a row: whatever went wrong before, this is the last place that can tell.
func (s *Session) assure(want *state.Set) {
	a := s.at()
	switch p := a.Place; {
	case a.Tenants == nil:
	case s.connAt.Login != a.Login:
		panic("a statement was about to run on another login's connection")
	case p == nil:
		if _, ok := want.Get(a.Tenants.Setting()); ok {
			panic("a statement of nobody's was about to run for a tenant")
		}
	case !p.carried(want, a.MaySetRole):
		panic("a tenant's statement was about to run without its context")
	}
}

// ownLogin reports whether the tenant is known to the server by its login, so that no setting can make it another.
func (s *Session) ownLogin() bool {
	p := s.place()
	return p != nil && p.Route.Login
}

// errHearsAll refuses LISTEN on a connection itself: PostgreSQL tells it what everybody says in the database.
var errHearsAll = pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "LISTEN is not allowed in session pooling").WithRoutine("tenant_context").
	WithDetail("The connection's login is other tenants' as well, and it would hear them.").
	WithHint(`Use pooler_mode = "transaction", or mode = "strict" in [multi_tenant].`)

func notAllowed(what, hint string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "%s is not allowed", what).WithRoutine("tenant_context").
		WithDetail("It could lead out of the tenant that the session is for.").WithHint("%s", hint)
}

// tellsHow says in a refusal for want of a tenant how this session gets one; comments that address a shard are for those who have no tenants.
func (s *Session) tellsHow(e *pgwire.Error) *pgwire.Error {
	a := s.at()
	if e == nil || a.Tenants == nil || a.Place != nil || e.Routine != router.RefusalTenantMissing || e.Hint != router.HintKey {
		return e
	}
	if !a.Switch {
		return e.WithHint("Log in as user@tenant, or let the user choose: tenant_switch = true in users.toml.")
	}
	return e.WithHint("Choose one by SET %s = '...', log in as user@tenant, or compare the column by =, IN, or = ANY with one constant or parameter.", a.Tenants.Setting())
}
