package session

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/tenant"
)

// view is what decides whether a statement is answered without a backend: the transaction as it will be when its turn comes.
type view struct {
	tx pgwire.TxStatus
	// held: a backend has, or will have, the transaction.
	held bool
	// sets: a SET that outlives the transaction is queued.
	sets bool
	// queued is the weight of what is queued.
	queued int
	// pinned: a backend is held for what was left on it, and for nothing else.
	pinned bool
}

func (s *Session) view() view {
	// What is being described outside of a transaction may become one's beginning there.
	tx := s.tx
	if s.open && s.unit.ahead != 0 {
		tx = s.unit.ahead // should anything before it fail, what is behind it is skipped
	}
	return view{tx: tx, held: s.conn != nil && (!s.describing || s.tx == pgwire.TxIdle), sets: s.prologueSets, queued: s.queued, pinned: s.idlePin()}
}

// own reports whether st is about the pooler's own settings.
func (s *Session) own(st *parser.Statement) bool {
	switch st.Kind {
	case parser.Set, parser.Reset, parser.Show:
		return st.Set != nil && st.Set.Name != tenant.SealSetting && (strings.HasPrefix(st.Set.Name, "pgdog.") || strings.HasPrefix(st.Set.Name, "pgkennel.") || s.tenantSetting(st.Set.Name))
	case parser.Select:
		return s.choosesTenant(st)
	default: // nothing else names a setting
		return false
	}
}

// local reports whether st is answered here, now.
func (s *Session) local(st *parser.Statement) bool { return s.localAt(st, s.view()) }

// localAt reports whether st is answered here when the transaction stands as v says.
func (s *Session) localAt(st *parser.Statement, v view) bool {
	if st.Inert {
		return false
	}
	if s.own(st) {
		return true
	}
	virtual := !v.held && v.tx != pgwire.TxIdle
	queues := virtual && v.queued <= maxQueued
	switch st.Kind {
	case parser.Deallocate:
		if !s.acct.Statements || v.tx == pgwire.TxFailed {
			return false
		}
		if st.Name == "" {
			return len(s.sqlPrep) == 0 && !s.leftNames()
		}
		return s.prepared(st.Name) != nil || !s.hasPrepare(st.Name) && !s.leftNames()
	case parser.Discard:
		return st.Name == "ALL" && (!v.held || v.pinned) && v.tx == pgwire.TxIdle && !s.acct.Session
	case parser.Begin:
		return !v.held && v.tx == pgwire.TxIdle
	case parser.Set, parser.Reset:
		if st.Effects&parser.EffUnjudged != 0 {
			return false // SET ... FROM CURRENT: only the server knows what that is
		}
		return queues && v.tx == pgwire.TxActive && st.Set != nil && st.Set.Name != "session_authorization" && s.checkSet(st.Set) == nil && !s.reportsNow(st.Set.Name)
	case parser.SetTransaction:
		return queues && v.tx == pgwire.TxActive && st.Tx != nil && !st.Tx.Session && !st.Tx.Snapshot
	case parser.ResetAll:
		return queues && v.tx == pgwire.TxActive && !s.destined() && !s.base.Sealed() // a seal is for a backend, and set by no SET
	case parser.Savepoint, parser.Release:
		return queues && v.tx == pgwire.TxActive
	case parser.RollbackTo:
		return queues && s.runsFailed(st, v.tx)
	case parser.Rollback:
		return virtual
	case parser.PrepareTx:
		return virtual && v.tx == pgwire.TxFailed // it rolls back
	case parser.Commit:
		return virtual && (!v.sets || v.tx == pgwire.TxFailed)
	default: // all else is the server's
		return false
	}
}

// reportsNow reports whether the server tells the client what the setting called name becomes, and can do so at once. What it makes of a value nobody else
// knows.
func (s *Session) reportsNow(name string) bool {
	if !s.destined() {
		return false
	}
	for _, reported := range settable {
		if strings.EqualFold(reported, name) {
			_, ok := s.told.get(reported)
			return ok
		}
	}
	return false
}

// destined reports whether a transaction can have no other server than the one, whatever its statements are.
func (s *Session) destined() bool { return s.rtr.Shards() == 1 && s.acct.Tenants == nil }

// after is the view once st, answered here or not, has run without an error.
func (s *Session) after(v view, st *parser.Statement, local bool) view {
	if st.Inert {
		v.held = true
		return v
	}
	if local {
		v.queued += st.End - st.Start + queuedOverhead
	} else {
		v.held = true
	}
	switch st.Kind {
	case parser.Begin:
		v.tx = pgwire.TxActive
	case parser.Commit, parser.Rollback, parser.PrepareTx:
		v.tx, v.sets = pgwire.TxIdle, false
	case parser.RollbackTo:
		v.tx = pgwire.TxActive
	case parser.Set:
		v.sets = v.sets || st.Set != nil && !st.Set.Local
	case parser.ResetAll:
		for _, set := range s.base.Vars() {
			v.queued += len(set.Name) + len(set.Value) + queuedOverhead
		}
	default: // leaves the transaction as it is
	}
	return v
}

// answerLocal does what st asks for and appends the answer up to its CommandComplete; rows too, and their description unless extended.
func (s *Session) answerLocal(dst []byte, st *parser.Statement, sql string, extended bool) ([]byte, *pgwire.Error) {
	if s.tx == pgwire.TxFailed && !endsFailure(st) && !(extended && st.Kind == parser.Deallocate) { // which is planned for behind the end of that
		return dst, errInFailedTransaction
	}
	if s.own(st) {
		return s.answerOwn(dst, st, extended)
	}
	tag := st.Tag
	switch st.Kind {
	case parser.Deallocate:
		if st.Name == "" {
			s.forgetStatements()
			tag = "DEALLOCATE ALL"
			break
		}
		if s.prepared(st.Name) == nil {
			return dst, noStatement(st.Name)
		}
		s.setName(st.Name, nil)
		tag = "DEALLOCATE"
	case parser.Discard:
		if s.pin != 0 {
			s.unpin()
		}
		s.forgetStatements()
		s.hint = router.Hint{}
		s.track.Expected = s.base
		s.unit.tellStart = true
		s.listens.unlistenAll()
		tag = "DISCARD ALL"
	case parser.Begin:
		s.tx = pgwire.TxActive
		s.track.Begin()
		s.prologue, s.queued = s.prologue[:0], 0
		s.queue(sql)
		s.noteIsolation(st.Tx)
	case parser.Set, parser.Reset, parser.ResetAll:
		s.queueSetting(st, sql)
	case parser.SetTransaction:
		s.noteIsolation(st.Tx)
		s.queue(sql)
	case parser.Savepoint:
		s.track.Savepoint(st.Name)
		s.queue(sql)
	case parser.Release:
		if !s.track.HasSavepoint(st.Name) {
			return dst, noSavepoint(st.Name)
		}
		s.track.Release(st.Name)
		s.followSavepoint(false)
		s.queue(sql)
	case parser.RollbackTo:
		if !s.track.RollbackTo(st.Name) {
			return dst, noSavepoint(st.Name)
		}
		s.tx = pgwire.TxActive
		s.followSavepoint(true)
		s.queue(sql)
		s.queueParsing(st)
	case parser.Commit, parser.Rollback, parser.PrepareTx:
		s.gone = false
		chain := st.Tx != nil && st.Tx.Chain
		if st.Kind == parser.Commit && s.tx == pgwire.TxActive {
			s.track.Commit()
		} else {
			s.track.Rollback()
			tag = "ROLLBACK"
		}
		s.follow(tag == "ROLLBACK", chain)
		s.listens.end(tag != "ROLLBACK")
		if chain {
			s.tx = pgwire.TxActive
			if s.orphan {
				s.chosen() // nothing is under way that would be the tenant's
			}
			s.track.Begin()
			s.prologue, s.prologueLocal = chained(s.prologue, tag == "ROLLBACK"), s.prologueLocal[:0]
			s.prologueSets, s.queued = false, 0
			for _, sql := range s.prologue {
				s.queued += len(sql) + queuedOverhead
			}
		} else {
			s.tx = pgwire.TxIdle
			s.chosen()
		}
	default: // local lets nothing else through
	}
	return pgwire.AppendCommandComplete(dst, tag), nil
}

// chained keeps of a queued transaction what the next one has too: how it began, and the characteristics that it was given since, but
// for what a subtransaction changed that is rolled back.
func chained(prologue []string, rollback bool) []string {
	if len(prologue) == 0 {
		return prologue
	}
	type savepoint struct {
		name string
		kept int
	}
	var savepoints []savepoint
	kept := prologue[:1]
	for _, sql := range prologue[1:] {
		st := single(parser.Parse(sql))
		switch {
		case st == nil:
		case st.Kind == parser.SetTransaction, st.Kind == parser.Set && st.Set != nil && strings.HasPrefix(st.Set.Name, "transaction_"):
			kept = append(kept, sql)
		case st.Kind == parser.Savepoint:
			savepoints = append(savepoints, savepoint{st.Name, len(kept)})
		case st.Kind == parser.RollbackTo, st.Kind == parser.Release: // both take back what the subtransaction changed
			for i, p := range slices.Backward(savepoints) {
				if p.name == st.Name {
					kept, savepoints = kept[:p.kept], savepoints[:i]
					if st.Kind == parser.RollbackTo {
						savepoints = append(savepoints, p)
					}
					break
				}
			}
		}
	}
	if rollback && len(savepoints) > 0 {
		kept = kept[:savepoints[0].kept]
	}
	return kept
}

// queueSetting queues a SET or RESET of a transaction that has not begun on a backend. A RESET goes back to what the client chose
// at its start, which the server does not know.
func (s *Session) queueSetting(st *parser.Statement, sql string) {
	switch {
	case st.Kind == parser.ResetAll:
		s.queue(sql)
		for _, v := range s.base.Vars() {
			s.queue(v.SQL())
		}
	case st.Set.Default && !st.Set.Local:
		if v, ok := s.base.Get(st.Set.Name); ok {
			sql = v.SQL()
		}
		s.queue(sql)
	default:
		s.queue(sql)
	}
	if st.Set == nil || !st.Set.Local {
		s.prologueSets = true
	}
	s.queueParsing(st)
	s.encodingQueued = s.encodingQueued || s.movesEncoding(st)
	s.applySetting(st)
}

func noStatement(name string) *pgwire.Error {
	if name == "" {
		return pgwire.Errorf(pgwire.CodeInvalidStatementName, "unnamed prepared statement does not exist")
	}
	return pgwire.Errorf(pgwire.CodeInvalidStatementName, `prepared statement "%s" does not exist`, name)
}

func noPortal(name string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInvalidCursorName, `portal "%s" does not exist`, name)
}

func noSavepoint(name string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInvalidSavepointSpecification, "savepoint %q does not exist", name)
}

// answerOwn answers SET, RESET and SHOW of the pooler's own settings.
func (s *Session) answerOwn(dst []byte, st *parser.Statement, extended bool) ([]byte, *pgwire.Error) {
	if st.Sole != nil {
		return s.answerChoice(dst, st, extended)
	}
	if s.tenantSetting(st.Set.Name) || st.Set.Name == tenantName && s.acct.Tenants != nil {
		return s.answerTenant(dst, st, extended)
	}
	if roleName(st.Set.Name) {
		return s.answerRole(dst, st, extended)
	}
	target := s.ownSetting(st.Set.Name)
	if target == nil {
		return dst, pgwire.Errorf(pgwire.CodeUndefinedObject, "unrecognized configuration parameter %q", st.Set.Name).
			WithHint("pgkennel knows pgdog.shard and pgdog.sharding_key, and pgdog.role at the start of a session.")
	}
	if st.Kind == parser.Show {
		if !extended {
			dst = pgwire.AppendRowDescription(dst, ownColumns(st))
		}
		dst = pgwire.AppendTextRow(dst, *target)
		return pgwire.AppendCommandComplete(dst, "SHOW"), nil
	}
	if st.Set.Local {
		return dst, pgwire.Errorf(pgwire.CodeFeatureNotSupported, "SET LOCAL %s is not supported", st.Set.Name).
			WithHint("Use SET before the transaction, or a comment: /* pgdog_shard: 0 */.").WithRoutine("set_local_hint")
	}
	if s.tx != pgwire.TxIdle && s.fixed && !s.destined() {
		return dst, pgwire.Errorf(pgwire.CodeActiveTransaction, "%s can't change in a transaction that runs on a shard already", st.Set.Name).
			WithHint("Set it before the transaction's first statement.")
	}
	*target = constantOf(st.Set)
	tag := "SET"
	if st.Kind == parser.Reset {
		tag = "RESET"
	}
	return pgwire.AppendCommandComplete(dst, tag), nil
}

// answerRole answers SHOW pgdog.role. It can't be set: a session is where it began.
func (s *Session) answerRole(dst []byte, st *parser.Statement, extended bool) ([]byte, *pgwire.Error) {
	if st.Kind != parser.Show {
		return dst, pgwire.Errorf(pgwire.CodeCantChangeRuntimeParam, "parameter %q cannot be set after connection start", st.Set.Name).
			WithHint("Connect with the startup parameter pgdog.role=replica, or options=-c pgdog.role=replica.").WithRoutine("startup_parameter")
	}
	if !extended {
		dst = pgwire.AppendRowDescription(dst, ownColumns(st))
	}
	role := rolePrimary
	if s.acct.Replica {
		role = roleReplica
	}
	return pgwire.AppendCommandComplete(pgwire.AppendTextRow(dst, role), "SHOW"), nil
}

func (s *Session) ownSetting(name string) *string {
	switch name {
	case "pgdog.shard", "pgkennel.shard":
		return &s.hint.Shard
	case "pgdog.sharding_key", "pgkennel.sharding_key":
		return &s.hint.ShardingKey
	}
	return nil
}

// ownColumns describes the row of SHOW, or of set_config.
func ownColumns(st *parser.Statement) []pgwire.Column {
	if st.Sole != nil {
		return []pgwire.Column{pgwire.TextColumn(st.SoleColumn, pgwire.OIDText)}
	}
	return []pgwire.Column{pgwire.TextColumn(st.Set.Name, pgwire.OIDText)}
}

// ownParams are the types of the parameters of a statement that is answered here.
func ownParams(it *item) []uint32 {
	n := 0
	if it.prep != nil {
		n = paramsOf(it)
	}
	if n == 0 {
		return nil
	}
	types := make([]uint32, n)
	for i := range types {
		if types[i] = it.prep.ParamType(i); types[i] == 0 {
			types[i] = pgwire.OIDText // of set_config, whatever it is called with
		}
	}
	return types
}
