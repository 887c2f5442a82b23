package cluster

import (
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
)

// LoginOptions say who logs in to servers, and how big the pools are.
type LoginOptions struct {
	User string
	// Name is the login's over reloads: a configured login that is gone is succeeded by the new one of equal name.
	// Empty = User.
	Name       string
	Credential *auth.ClientCredential // nil = no password
	// Identity is equal for logins that may share connections: the same credential and the same startup parameters. It
	// is never shown, but should not be a secret itself. Empty = nobody shares.
	Identity string
	Params   []pgwire.Param // startup parameters
	Tenant   string         // whose own it is; empty = nobody's
	// Database on the server; empty = the endpoint's.
	Database string
	// Sealed: connections find out when their server process began.
	Sealed bool
	// Settings give the pool at an endpoint; nil = the endpoint's own.
	Settings func(e *Endpoint) pool.Settings
	// Budgeted pools share the Endpoint's Budget. The others don't: they are few, have limits of their own, and must not wait
	// for those.
	Budgeted bool
	// Hears names whose notifications are for its connections: those of logins with the same word, and nobody else's. Empty = everybody's.
	Hears string
	// Identified: connections find out which server they lead to.
	Identified bool
	// Guard is a query of one column that each server is asked with the login, before a connection is lent and each GuardInterval. Each row is a
	// reason not to use the login, as what it does or is. Empty = it may be used.
	Guard string
	// GuardWarns: the reasons are logged only.
	GuardWarns bool
}

// Login is who logs in to servers. It is immutable. Logins of equal user and identity share pools.
type Login struct {
	LoginOptions
	key any // a loginKey, boxed once so that look-ups allocate nothing
}

type loginKey struct {
	user, database, identity, guard string
	budgeted, guardWarns            bool
	sealed, identified              bool
	unshared                        *Login // for those without identity
}

// NewLogin makes a login.
func NewLogin(o LoginOptions) *Login {
	if o.Name == "" {
		o.Name = o.User
	}
	l := &Login{LoginOptions: o}
	k := loginKey{
		user: o.User, database: o.Database, identity: o.Identity, guard: o.Guard, budgeted: o.Budgeted, guardWarns: o.GuardWarns, sealed: o.Sealed,
		identified: o.Identified,
	}
	if o.Identity == "" {
		k.unshared = l
	}
	l.key = k
	return l
}

func (l *Login) settings(e *Endpoint) pool.Settings {
	s := e.Pool
	if l.Settings != nil {
		s = l.Settings(e)
	}
	s.ConnectTimeout = 0 // the dial has its own, whose error says more
	return s
}
