package session

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/tenant"
)

// The settings that make transactions read only.
const (
	readOnlyNow     = "transaction_read_only"
	readOnlyDefault = tenant.ReadOnlySetting
)

// readsOnly refuses what could lead a message out of read-only transactions, for accounts that may only read. Their connections begin them as such; what
// writes, PostgreSQL refuses.
func (s *Session) readsOnly(m *parser.Message) *pgwire.Error {
	if !s.at().readOnly() && !s.acct.readOnly() {
		if s.acct.Switch && s.writes == nil {
			s.writes = writes(m) // which tenant's it becomes is not known yet
		}
		return nil
	}
	if s.tx == pgwire.TxIdle && !s.open {
		s.forgetReadWrite()
		if s.conn != nil { // session pooling
			if v, ok := s.conn.Params().Get(readOnlyDefault); ok && v != "on" {
				return errReadOnly("").WithHint("Connect anew.")
			}
		}
	}
	return writes(m)
}

// visitsOnly is asked before what runs becomes a tenant's: if that may only read, the client must not have chosen otherwise before.
func (s *Session) visitsOnly(to *Account) *pgwire.Error {
	if !to.readOnly() {
		return nil
	}
	s.forgetReadWrite()
	return s.writes
}

// writes refuses a message that could lead out of read-only transactions.
func writes(m *parser.Message) *pgwire.Error {
	if e := m.Unparsable; e != nil {
		if e.Code != pgwire.CodeSyntaxError || m.Newer {
			return errReadOnly("a statement that can't be understood")
		}
		return nil // PostgreSQL refuses it whole
	}
	unseen := false
	for i, st := range m.Statements {
		if e := writable(st); e != nil {
			return e
		}
		if st.Inner != nil {
			if e := writable(st.Inner); e != nil {
				return e
			}
		}
		// Code that can't be seen may set the default, which counts from the next transaction on: by then the connection must be another.
		unseen = unseen || len(m.Statements) > 1 && taintOf(st) != 0
		ends := st.Kind == parser.Commit || st.Kind == parser.Rollback || st.Kind == parser.PrepareTx
		if ends && unseen && i < len(m.Statements)-1 {
			return errReadOnly(st.Tag + " in the middle of a message").WithHint("Send it as a message of its own.")
		}
	}
	return nil
}

// writable refuses a statement that would make transactions writable.
func writable(st *parser.Statement) *pgwire.Error {
	if st.Inert || st.Kind == parser.Show {
		return nil
	}
	if st.Tx != nil && st.Tx.ReadOnly != nil && !*st.Tx.ReadOnly {
		return errReadOnly(st.Tag)
	}
	for i := range st.SetConfigs {
		if setsWritable(&st.SetConfigs[i]) {
			return errReadOnly("set_config for " + st.SetConfigs[i].Name)
		}
	}
	if st.Set != nil && setsWritable(st.Set) {
		return errReadOnly("setting " + st.Set.Name)
	}
	if st.Effects.Unjudged() && slices.ContainsFunc(st.Calls, isSetConfig) {
		return errReadOnly("set_config of what can't be seen")
	}
	return nil
}

func isSetConfig(f parser.Function) bool {
	return f.Name == "set_config" && (f.Schema == "" || f.Schema == "pg_catalog")
}

// setsWritable reports whether a setting may switch read-only transactions off. The default goes back to what the connection began with.
func setsWritable(set *parser.Setting) bool {
	switch strings.ToLower(set.Name) {
	case readOnlyDefault:
		return !set.Default && !isOn(set)
	case readOnlyNow:
		return !isOn(set)
	}
	return false
}

func isOn(set *parser.Setting) bool { return !set.Unknown && len(set.Values) == 1 && on(set.Values[0]) }

// on reports whether a text is one that PostgreSQL takes for true (parse_bool).
func on(value string) bool {
	switch strings.ToLower(value) {
	case "on", "t", "tr", "tru", "true", "y", "ye", "yes", "1":
		return true
	}
	return false
}

// forgetReadWrite drops what the client chose while it could write.
func (s *Session) forgetReadWrite() {
	if v, ok := s.track.Expected.Get(readOnlyDefault); ok && !on(strings.Trim(v.Value, "'\"")) {
		s.track.Expected = s.track.Expected.Without(readOnlyDefault)
	}
	if v, ok := s.base.Get(readOnlyDefault); ok && !on(v.Value) {
		s.base = s.base.Without(readOnlyDefault)
	}
}

// readOnly reports whether the account may only read.
func (a *Account) readOnly() bool { return a.ReadOnly != nil && a.ReadOnly.Load() }

func errReadOnly(what string) *pgwire.Error {
	e := pgwire.Errorf(pgwire.CodeReadOnlyTransaction, "cannot set transaction read-write mode").WithRoutine("tenant_read_only")
	if what != "" {
		e = pgwire.Errorf(pgwire.CodeReadOnlyTransaction, "%s is not allowed in a read-only session", what).WithRoutine("tenant_read_only")
	}
	return e.WithDetail("The tenant, or its login, may only read.")
}
