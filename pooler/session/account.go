package session

import (
	"sync/atomic"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/parser/judge"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/tenant"
)

// Account is one user of one database: what a login is checked against and what its session may do. It is immutable; a reload replaces it.
type Account struct {
	User, Database string
	// Credential is what the client proves to have.
	Credential *auth.Credential
	// Said is what the client said, in one form for all that mean the same, of an account that there is not, or is a tenant's, so that it is the same for those:
	// salts that no verifier has are made of it. Empty = of the user's name.
	Said string
	// Console is set for the admin database.
	Console Console
	// Cluster is where statements go; nil for the admin database.
	Cluster Cluster
	// Tenants finds tenants; nil = there is no virtual tenancy.
	Tenants Tenants
	// Place is the tenant's that the account is for; nil = nobody's. Free is the account without it, where a session may go back to that: else the
	// tenant is the session's for its life.
	Place *Place
	Free  *Account
	// Own: the account is that of a tenant with databases of its own, which sessions can't leave.
	Own bool
	// Replica: its sessions are at a replica of that tenant.
	Replica bool
	// Itself: who logged in is the tenant of Place itself, and no user of the configuration.
	Itself bool
	// ReadOnly: sessions may only read; nil = they may write. It may change while they last.
	ReadOnly *atomic.Bool
	// Admit has the last word when a client has proved who it is, for what may have changed since it was found, and what is made for no others: it
	// returns the account to go on with. A refusal has it answered as a wrong password, the error is told as it is. Nil = nothing changes.
	Admit func() (*Account, tenant.Refusal, *pgwire.Error)
	// Switch: sessions without a tenant may choose one. MaySetRole: they may change the role.
	Switch, MaySetRole bool
	// Replicates: sessions may be replication connections, if they are no tenant's.
	Replicates bool
	// ServerUser is the role that server connections log in as.
	ServerUser string
	// Session: the backend is kept until the client goes (session pooling).
	Session bool
	// Statements: named prepared statements are shared between clients; off in session mode and by prepared_statements = "disabled".
	Statements bool
	// Pin says what becomes of sessions that leave on their backend what can't follow them.
	Pin Pinning
	// Time-outs in nanoseconds; 0 = none. PinTimeout is for sessions that are pinned, between transactions.
	QueryTimeout, IdleTimeout, IdleTransactionTimeout, PinTimeout int64
	// CancelTimeout is how long the server of a statement that ran into QueryTimeout may take to end it; its connection is closed then.
	CancelTimeout int64
	// Login is the driver's: how pgkennel logs in to the servers for this account.
	Login any
	// Observer's handles for this account, and for its tenant; nil = it has none.
	Metrics, TenantMetrics any
}

// owner is whose the texts of its sessions are, in caches: the tenant's, else the user's.
func (a *Account) owner() parser.Owner {
	if a.Place != nil {
		return parser.Owner("tenant\x00" + a.Database + "\x00" + a.Place.Tenant.Name)
	}
	return parser.Owner("user\x00" + a.Database + "\x00" + a.User)
}

// Speaker is the tenant for whom its sessions speak on connections that are others' as well; nil = none, or the connections' login tells.
func (a *Account) Speaker() *tenant.Tenant {
	if a.Place == nil || a.Place.Route.Login {
		return nil
	}
	return a.Place.Tenant
}

// Cluster is what a session knows of the databases behind its name.
type Cluster interface {
	// Router is today's.
	Router() *router.Router
	// Shards is the number of shards.
	Shards() int
	// Parameters are what servers report, nil if none was reached yet.
	Parameters() []pgwire.Param
	// Code is what is known of functions, triggers and the like; nil = nothing.
	Code() *judge.Book
	// SchemaChanged tells that a statement went by that may have changed tables. It returns at once what waits, for a time, until the Router
	// knows of it.
	SchemaChanged() (wait func())
}

// Console is the admin database.
type Console interface {
	// Open begins a conversation with a client that has logged in; id is its session's.
	Open(user string, id uint64) Conversation
}

// ConsoleVersion is the server_version that the admin database reports, ConsoleVersionNum its number.
const (
	ConsoleVersion    = "16.0 (pgkennel console)"
	ConsoleVersionNum = 160000
)

// Conversation is one client's with the console, in both protocols.
type Conversation interface {
	// Handle answers one message; done ends the connection. It may take as long as the message's command, and is called off the loop.
	Handle(dst []byte, typ byte, body []byte) (out []byte, done bool)
	// Cancel ends the command that runs now, from any goroutine.
	Cancel()
}
