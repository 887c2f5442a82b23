package tenant

import (
	"net/netip"
	"slices"
	"strings"
)

// Naming is how logins name tenants.
type Naming struct {
	// Dotted: user.tenant is understood besides user@tenant.
	Dotted bool
	// ByUser, ByDatabase: a user, or a database, that is called as a tenant is stands for it.
	ByUser, ByDatabase bool
	// Suffix is what follows the tenant's name in a TLS server name, with its dot; empty = such names mean nothing.
	Suffix string
}

// Asked is what a client said when it connected.
type Asked struct {
	User, Database string
	Option         string     // pgkennel.tenant among its startup parameters; empty = not said
	ServerName     string     // of its TLS handshake; empty = none
	Replica        bool       // pgdog.role=replica among them: to read at a replica of the tenant
	From           netip.Addr // the client's address; not valid for unix sockets
	Physical       bool       // it asks for a replication connection to a server, and the database may be no name of any
}

// Said is the same for all ways to say the same login and tenants, whether there are any such or not: what is made up for one that is not there may not
// differ where it doesn't for one that is. A database that tenants share names none of them; who names none at all says that it is a tenant itself.
func (n Naming) Said(a Asked, shared func(database string) bool) (user string, names []string) {
	user, name, split := n.Split(a.User)
	if !split {
		user = a.User
	}
	names = []string{name, a.Option}
	if (!split || a.Database != a.User) && !shared(a.Database) { // else it is libpq's default
		names = append(names, a.Database)
	}
	if label, ok := strings.CutSuffix(strings.ToLower(a.ServerName), n.Suffix); n.Suffix != "" && ok {
		names = append(names, label)
	}
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(s string) bool { return s == "" })
	if len(names) == 0 {
		names = append(names, user)
	}
	return user, names
}

// Known tells whether there is a user of that name for that database, and which tenant the configuration binds it to.
type Known func(user, database string) (tenant string, ok bool)

// Identity is who a client says it is.
type Identity struct {
	User, Database string  // whose password is asked for
	Tenant         *Tenant // it is bound to it for its life; nil = to none
}

// Refusal is why a login with a tenant is refused. The client hears no more than that its password is wrong.
type Refusal uint8

// The refusals.
const (
	Welcome         Refusal = iota
	UnknownUser             // there is no such user, or no such database
	UnknownTenant           // there is no such tenant
	DisabledTenant          // it is disabled
	SuspendedTenant         // it is suspended
	Conflict                // it was named in two ways that disagree, or lives in another database
	ForeignNetwork          // its clients may not come from there
	DisabledLogin           // the login of a tenant of its own is disabled
	UnknownDatabase         // there is such a user, but for no database of that name; who proves to be the user may know
)

var refusals = [...]string{"welcome", "unknown_user", "unknown_tenant", "disabled_tenant", "suspended_tenant", "tenant_conflict", "foreign_network", "disabled_login", "unknown_database"}

// String returns the name that logs, metrics and console have for it.
func (r Refusal) String() string { return refusals[r] }

// Identify finds out who a client is. An exact name of a user wins; else what follows the last @ (or dot) of the name is a tenant's. The
// tenant may be named in several ways, which have to agree. What is returned with a refusal is as far as it could be found out, for the log.
func (r *Registry) Identify(n Naming, a Asked, known Known) (Identity, Refusal) {
	id := Identity{User: a.User, Database: a.Database}
	var names []string
	say := func(name string) {
		if name != "" {
			names = append(names, name)
		}
	}
	if n.ByDatabase {
		if t := r.ByName(a.Database); t != nil {
			id.Database = t.Cluster
			say(t.Name)
		}
	}
	bound, ok := known(id.User, id.Database)
	if !ok {
		user, name, found := n.Split(a.User)
		if !found {
			return id, UnknownUser
		}
		id.User = user
		if name == "" {
			return id, UnknownTenant
		}
		say(name)
		if t := r.ByName(name); t != nil && a.Database == a.User {
			id.Database = t.Cluster // the client named none: libpq's default is the user's name
		}
		if bound, ok = known(id.User, id.Database); !ok {
			return id, UnknownUser
		}
	} else if n.ByUser && bound == "" {
		if t := r.ByName(id.User); t != nil {
			say(t.Name)
		}
	}
	say(bound)
	say(a.Option)
	if n.Suffix != "" {
		if name, ok := strings.CutSuffix(strings.ToLower(a.ServerName), n.Suffix); ok {
			say(name)
		}
	}
	if len(names) == 0 {
		return id, Welcome
	}
	for _, name := range names[1:] {
		if name != names[0] {
			return id, Conflict
		}
	}
	t := r.ByName(names[0])
	if t == nil {
		t = r.byKeyName(id.Database, names[0])
	}
	if t == nil {
		return id, UnknownTenant
	}
	id.Tenant = t
	switch {
	case t.Cluster != id.Database:
		return id, Conflict
	case t.State == Disabled:
		return id, DisabledTenant
	case t.State == Suspended:
		return id, SuspendedTenant
	case !t.Allows(a.From):
		return id, ForeignNetwork
	}
	return id, Welcome
}

// byKeyName finds a tenant without an entry, whose name is its key.
func (r *Registry) byKeyName(cluster, name string) *Tenant {
	if t := r.ByKey(cluster, name); t != nil && t.Name == name {
		return t
	}
	return nil
}

// Split takes a login apart.
func (n Naming) Split(login string) (user, tenant string, ok bool) {
	if i := strings.LastIndexByte(login, '@'); i > 0 {
		return login[:i], login[i+1:], true
	}
	if n.Dotted {
		if i := strings.LastIndexByte(login, '.'); i > 0 {
			return login[:i], login[i+1:], true
		}
	}
	return "", "", false
}
