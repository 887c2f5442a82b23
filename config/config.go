// Package config reads pgdog.toml and users.toml, as PgDog has them and with pgkennel's own keys, and the environment,
// into a Config: checked, complete with defaults, and resolved, so that whoever gets a part of it need not know where
// it came from.
//
// Every mistake is reported at once, by file, line and column. What PgDog only warns about (duplicate databases, gaps
// in shard numbers, ranges that overlap) is an error here; keys of PgDog's that pgkennel does not obey yet are warned
// about by name. Mappings of a million entries are read straight from the text, everything else by BurntSushi/toml.
//
// A Config is immutable. The package starts nothing, and but for Load touches neither disk nor environment.
package config

import (
	"log/slog"
	"os"
	"time"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Config is a whole configuration. A duration of 0 means that there is no such limit, unless the field says otherwise.
type Config struct {
	Listen   Listen
	Clients  Clients
	Auth     AuthType
	TLS      TLS
	Connect  Connect
	Timeouts Timeouts
	Health   Health
	Prepared Prepared
	Parser   Parser
	Metrics  Metrics
	Log      Log
	Shutdown Shutdown
	TCP      TCP
	Admin    Admin

	// MaxMessageBytes bounds one protocol message, from clients and from servers.
	MaxMessageBytes int
	// Workers is the number of threads that wait for sockets; 0 = as many as fit the machine.
	Workers int
	// LoadSchema says when tables and columns are loaded.
	LoadSchema LoadSchema
	// StatsPeriod is over what averages are taken.
	StatsPeriod time.Duration

	// Clusters are the databases that clients can ask for, in the order of the file.
	Clusters []*Cluster
	// Users are who may log in to which database, one for each (name, database), in the order of the file.
	Users []*User
	// Tenancy is virtual tenancy; nil = off.
	Tenancy *Tenancy
	// Directory is where tenants are known that are not in the configuration; nil = there are none. Provision is how they are made.
	Directory *Directory
	Provision Provision

	// PeerID is which of several poolers behind one address this is; 0 = there are no others. Peers are the others.
	PeerID int
	Peers  []Peer

	general      *table
	admin        *table
	tcp          *table
	directory    *table
	provision    *table
	kubernetes   *table
	tenant       *table
	tenants      []*table
	peers        []*table
	clusterNamed map[string]*Cluster
	userNamed    map[userKey]*User
}

// Listen is where clients connect.
type Listen struct {
	Host           string
	Port           int
	UnixSocketDir  string // empty = none
	UnixSocketMode os.FileMode
}

// Clients is what clients may do.
type Clients struct {
	Max                      int // 0 = no limit
	LoginTimeout             time.Duration
	IdleTimeout              time.Duration
	IdleInTransactionTimeout time.Duration
	QueryTimeout             time.Duration
	PinTimeout               time.Duration
}

// AuthType is how clients prove who they are.
type AuthType string

// The ways to log in.
const (
	AuthSCRAM AuthType = "scram"
	AuthMD5   AuthType = "md5"
	AuthPlain AuthType = "plain"
	AuthTrust AuthType = "trust"
)

// TLS is encryption on both sides. All are names of PEM files; empty = none.
type TLS struct {
	Certificate, PrivateKey string // to clients; both or none
	ClientRequired          bool
	ClientCA                string // clients must show a certificate of one of these authorities

	Verify                              TLSVerify // to servers
	ServerCA                            string
	ServerCertificate, ServerPrivateKey string // shown to servers; both or none
}

// TLSVerify is how much of TLS to servers is insisted on.
type TLSVerify string

// The values of TLSVerify.
const (
	TLSDisabled   TLSVerify = "disabled"
	TLSPrefer     TLSVerify = "prefer"
	TLSVerifyCA   TLSVerify = "verify_ca"
	TLSVerifyFull TLSVerify = "verify_full"
)

// Connect is how connections to servers are opened.
type Connect struct {
	Timeout      time.Duration // of one attempt, login included
	Attempts     int           // at least 1
	AttemptDelay time.Duration // 0 = at once
	LocalSockets bool          // servers at a loopback address are reached by their unix socket where that can be
}

// Timeouts are those of pools that can't be set for a user or an endpoint.
type Timeouts struct {
	Checkout time.Duration
	Rollback time.Duration
}

// Health is how endpoints are watched.
type Health struct {
	IdleInterval time.Duration
	Timeout      time.Duration
}

// Prepared is how prepared statements are handled.
type Prepared struct {
	Enabled bool
	Limit   int // on one connection to a server; 0 = only bytes count
}

// Parser is which statements are taken.
type Parser struct {
	MaxQueryBytes       int  // 0 = no limit
	RefuseLongerQueries bool // false: the first of a session is logged
}

// Metrics is where an operator can look.
type Metrics struct {
	Host       string
	Port       int // 0 = no metrics
	Namespace  string
	HealthPort int // 0 = none
	Pprof      bool
	Tenants    int // those that have metrics of their own
}

// Log is what is logged, and how.
type Log struct {
	Level          slog.Level
	JSON           bool
	Connections    bool
	Disconnections bool
}

// Shutdown is how long the end takes.
type Shutdown struct {
	Timeout time.Duration // for transactions in flight; 0 = they are cut at once
	// TerminationTimeout is for queries that are cancelled then; 0 = they are not cancelled.
	TerminationTimeout time.Duration
}

// TCP is options of TCP connections; 0 and empty = the system's own.
type TCP struct {
	KeepAlive         bool
	Time, Interval    time.Duration
	Retries           int
	UserTimeout       time.Duration
	CongestionControl string
}

// Admin is the admin database, and where else operators give orders.
type Admin struct {
	Name, User string
	Password   Secret // empty: nobody can log in
	// Socket is a unix socket for pgkennel's own commands; empty = none.
	Socket string
	// APIPort is that of the HTTP API, at APIHost, whose requests bear APIToken; 0 = there is none.
	APIHost  string
	APIPort  int
	APIToken Secret
}

// LoadSchema is when tables and columns are loaded.
type LoadSchema string

// The values of LoadSchema.
const (
	LoadSchemaOn   LoadSchema = "on"
	LoadSchemaOff  LoadSchema = "off"
	LoadSchemaAuto LoadSchema = "auto"
)

// PoolerMode is how long a client keeps a connection.
type PoolerMode string

// The modes.
const (
	ModeTransaction PoolerMode = "transaction"
	ModeSession     PoolerMode = "session"
)

// Pin is what becomes of a client that leaves on its connection what can't follow it to another one.
type Pin string

// What becomes of it.
const (
	PinAllow Pin = "allow"
	PinWarn  Pin = "warn"
	PinDeny  Pin = "deny"
)

// Cluster is the set of shards that clients see as one database.
type Cluster struct {
	Name string
	// Shards are the endpoints of each shard by its number, primaries first.
	Shards [][]*Endpoint
	// ShardedTables are the columns that decide the shard.
	ShardedTables []*ShardedTable
	// Omnisharded are tables that are the same on every shard.
	Omnisharded []TableName
	// Schemas are those that live on one shard, in the order of the file.
	Schemas []ShardedSchema
	// TenantColumn is the column that every statement must name; empty = none is asked for.
	TenantColumn string
	// TenantType is the type of tenants' keys, with virtual tenancy.
	TenantType DataType
	Pos        Pos // of its first endpoint

	schemas func(schema string) bool // see TenantSchema
	at      place
	partial bool // something of it could not be read
}

// TenantSchema tells which schemas are a tenant's own; nil = none is.
func (c *Cluster) TenantSchema() func(schema string) bool { return c.schemas }

// Endpoint is one (instance, database) that serves a shard in a role.
type Endpoint struct {
	Cluster      string
	Shard        topology.ShardID
	Role         topology.Role
	Host         string // a directory if it begins with /
	Port         int
	DatabaseName string // in the instance
	// AdminUser makes and secures tenants there; empty = whom the environment names.
	AdminUser     string
	AdminPassword Secret
	Pos           Pos

	t *table
}

// UnixSocket says whether the endpoint is reached by a Unix socket in the directory Host.
func (e *Endpoint) UnixSocket() bool { return e.Host != "" && e.Host[0] == '/' }

// TableName is a table, in a schema if one is given, else in any.
type TableName struct{ Schema, Name string }

// User is who may log in to one database.
type User struct {
	Name     string
	Database string // a Cluster's name
	// Passwords are each as good as the others.
	Passwords []Secret
	// PasswordHash is a verifier instead of a password: SCRAM-SHA-256$... or md5..., empty = none.
	PasswordHash Secret
	PoolerMode   PoolerMode
	Pin          Pin
	// Tenant binds the user, by a tenant's name; empty = nothing does.
	Tenant string
	// TenantSwitch: unless its login names a tenant, the user may choose one, and change it between transactions.
	TenantSwitch bool
	// MaySetRole: with virtual tenancy, it may SET ROLE and SET SESSION AUTHORIZATION.
	MaySetRole bool
	// Replication: it may have replication connections.
	Replication bool
	Pos         Pos

	t *table
}

// Pool is everything that can be said of the pool of one user's connections to one endpoint.
type Pool struct {
	MinSize, MaxSize int
	IdleTimeout      time.Duration
	Lifetime         time.Duration
	LifetimeJitter   time.Duration
	// User and Password log in to the server. Without a password, a SCRAM verifier in the user's PasswordHash may do.
	User     string
	Password Secret
	// StatementTimeout and LockTimeout are set on its connections; nil = the server's own stay, 0 = switched off.
	StatementTimeout, LockTimeout *time.Duration
}

type userKey struct{ name, database string }

// Cluster returns the cluster of a name, nil if there is none.
func (c *Config) Cluster(name string) *Cluster { return c.clusterNamed[name] }

// User returns who a client is that logs in as name to database, nil if that is not allowed.
func (c *Config) User(name, database string) *User { return c.userNamed[userKey{name, database}] }
