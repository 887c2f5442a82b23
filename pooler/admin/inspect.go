package admin

import (
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Inspector reads the pooler. Every method returns copies that nobody else writes to, in an order of its own choosing that
// stays the same from call to call, and holds no lock while its caller works.
type Inspector interface {
	Connections
	Traffic
	Topology
	Process
}

// Connections tells about clients, backends and pools.
type Connections interface {
	// Clients are all clients, those that log in included.
	Clients() []ClientInfo
	// Servers are all backends.
	Servers() []ServerInfo
	// Pools are all pools: one for each endpoint and login.
	Pools() []PoolInfo
	// ClientCounts counts clients by database and user; it is asked often, and must not cost as much as Clients.
	ClientCounts() []ClientCount
}

// Traffic tells what has happened.
type Traffic interface {
	// Stats are the sums of each database since the process started.
	Stats() []DatabaseStats
	// Prepared are the prepared statements kept for clients.
	Prepared() []PreparedInfo
	// QueryCache is the state of the parse cache.
	QueryCache() QueryCacheInfo
	// Memory is what larger parts of the process hold.
	Memory() []MemInfo
}

// Topology tells what is configured and how it fares.
type Topology interface {
	// Databases has a row for each endpoint of each cluster: one [[databases]] entry.
	Databases() []DatabaseInfo
	// Shards has a row for each endpoint too, with its health.
	Shards() []ShardInfo
	// Mappings are at most limit rows of how sharding keys map to shards, and how many there are in all.
	Mappings(limit int) (rows []MappingInfo, total int)
	// Tenants are at most limit of the tenants, those with most transactions first, and how many there are in all.
	Tenants(limit int) (rows []TenantInfo, total int)
	// Directory is where tenants are known that are not configured; nil = nowhere.
	Directory() *DirectoryInfo
	// Functions are functions and relations whose code may leave something in the session that runs it, among those that statements used.
	Functions() []FunctionInfo
	// Users are the configured users.
	Users() []UserInfo
}

// Process tells about the process.
type Process interface {
	// Config is the configuration in force, by key, without secrets.
	Config() []ConfigItem
	// Version is what program this is.
	Version() VersionInfo
	// State is what it is doing.
	State() StateInfo
	// Lists are counts.
	Lists() Lists
}

// ClientState is what a client is doing, in PgBouncer's words.
type ClientState uint8

// The states.
const (
	ClientLogin         ClientState = iota + 1 // authenticating
	ClientIdle                                 // has no backend
	ClientActive                               // has a backend
	ClientWaiting                              // waits for one
	ClientActiveCancel                         // its cancel request was sent to the server
	ClientWaitingCancel                        // its cancel request waits to be sent
)

var clientStates = [...]string{"unknown", "login", "idle", "active", "waiting", "active_cancel_req", "waiting_cancel_req"}

// String names the state as PgBouncer does.
func (s ClientState) String() string { return word(clientStates[:], uint8(s)) }

// ServerState is what a backend is doing, in PgBouncer's words.
type ServerState uint8

// The states.
const (
	ServerNew           ServerState = iota + 1 // logging in
	ServerIdle                                 // free
	ServerActive                               // a client has it
	ServerUsed                                 // free, but must be checked before it is used again
	ServerTested                               // being checked or reset
	ServerActiveCancel                         // forwards a cancel request
	ServerBeingCanceled                        // free but for a cancel request under way
)

var serverStates = [...]string{"unknown", "new", "idle", "active", "used", "tested", "active_cancel", "being_canceled"}

// String names the state as PgBouncer does.
func (s ServerState) String() string { return word(serverStates[:], uint8(s)) }

func word(words []string, i uint8) string {
	if int(i) < len(words) {
		return words[i]
	}
	return words[0]
}

// NoShard stands for a connection that is on no shard.
const NoShard topology.ShardID = -1

// ClientInfo is one client.
type ClientInfo struct {
	ID                    uint64 // unique while the process runs
	User, Database        string
	State                 ClientState
	Addr                  string // "unix" for a Unix socket
	Port                  int
	LocalAddr             string
	LocalPort             int
	Connected             time.Time
	Requested             time.Time     // its last message; zero = none yet
	Wait                  time.Duration // how long it has been waiting
	Server                uint64        // the backend that it has; 0 = none
	PID                   int           // of its process, where a Unix socket tells it
	TLS                   string        // protocol and cipher; empty = plain
	ApplicationName       string
	Tenant                string           // whose it is, or its transaction; empty = nobody's
	Pinned                string           // by what it is pinned to its backend; empty = nothing
	Prepared              int              // its prepared statements
	Shard                 topology.ShardID // that its transaction is on, or NoShard
	Status                pgwire.TxStatus
	Protocol              string // "3.0", "3.2"
	Transactions, Queries uint64
	Errors                uint64
	Received, Sent        uint64 // bytes from and to it
}

// ServerInfo is one backend.
type ServerInfo struct {
	ID              uint64
	User            string // the client's; empty while nobody has it
	Login           string // the role it logged in as
	Tenant          string // whose own login that is, or who has it now; empty = nobody
	Pinned          string // what keeps its client there; empty = nothing
	Database        string // the cluster
	State           ServerState
	Addr            string
	Port            int
	LocalAddr       string
	LocalPort       int
	Connected       time.Time
	Requested       time.Time
	CloseNeeded     bool   // it is closed when released
	Client          uint64 // that has it; 0 = none
	PID             int
	TLS             string
	ApplicationName string
	Prepared        int
	Shard           topology.ShardID
	Role            topology.Role
	ServerDatabase  string
	Transactions    uint64
	Received, Sent  uint64
}

// PoolInfo is one pool: the backends of one endpoint and login, for one user of the clients'.
type PoolInfo struct {
	Database, User string
	Shard          topology.ShardID
	Role           topology.Role
	Host           string
	Port           int
	Login          string
	Tenant         string // whose own login it is; empty = nobody's
	Waiting        int    // clients in its queue
	Active         int    // backends, by state
	ActiveCancel   int
	BeingCanceled  int
	Idle           int
	Used           int
	Tested         int
	New            int
	MaxWait        time.Duration // of the client that waits longest
	Mode           string        // "transaction", "session"
	Size, MinSize  int
	Paused         bool
	Healthy        bool
}

// ClientCount counts the clients of a user in a database.
type ClientCount struct {
	Database, User              string
	Active, Waiting             int // active includes idle ones, as in PgBouncer
	ActiveCancel, WaitingCancel int
}

// PreparedInfo is a prepared statement that clients share.
type PreparedInfo struct {
	Name      string // on the backends
	Statement string // shown to admins only: its text may hold data
	UsedBy    int    // clients
	Bytes     int
}

// QueryCacheInfo is the state of the parse cache.
type QueryCacheInfo struct {
	Hits, Misses, Evictions  uint64
	Entries, Bytes, MaxBytes int64
	ParseTime                time.Duration
}

// MemInfo is the memory of one part of the process: Size bytes a piece where there are pieces of one size.
type MemInfo struct {
	Name                    string
	Size, Used, Free, Total int64
}

// DatabaseInfo is one endpoint of a cluster as configured.
type DatabaseInfo struct {
	Name              string // of the cluster
	Host              string
	Port              int
	Database          string // on the server
	ForceUser         string // the role that backends log in as whoever the client is; empty = the client's
	PoolSize, MinPool int
	ServerLifetime    time.Duration
	Mode              string // empty = the default
	MaxConnections    int    // 0 = no limit
	Connections       int    // backends open now
	MaxClients        int    // 0 = no limit
	Clients           int    // of the cluster, connected now
	Paused, Disabled  bool
	Shard             topology.ShardID
	Role              topology.Role
}

// ShardInfo is the health of one endpoint.
type ShardInfo struct {
	Database       string
	Shard          topology.ShardID
	Role           topology.Role
	Host           string
	Port           int
	ServerDatabase string
	Healthy        bool
	Checked        time.Time // the last health check; zero = none yet
	Failures       int       // health checks that failed in a row
	LastError      string    // why it is down, or why the last one did; empty = neither
	DownSince      time.Time // since when it does not answer; zero = it does, or was not asked yet
	ServerVersion  string
	Connections    int
}

// MappingInfo is one row of a mapping: a value, a range, or the rest.
type MappingInfo struct {
	Database             string
	Schema, Table        string // empty: any
	Column, DataType     string
	Kind                 string           // "list", "range", "default", "hash"
	Value                *string          // of a list
	RangeStart, RangeEnd *string          // of a range: from start, before end; nil = open
	Shard                topology.ShardID // NoShard for hash, which names all of them
}

// TenantInfo is one tenant.
type TenantInfo struct {
	Database, Name, Key           string
	Isolation, Mode, State        string
	Clients, Waiting              int // connected as it, or in its transactions; of them, those that wait for a backend
	Transactions, Queries, Errors uint64
	Received, Sent                uint64 // bytes from and to its clients
	// What only tenants of the directory have: their phase, such as ready, who may come in, on which host they are.
	Phase, Access, Host string
	// Of those with an instance: how often it ended by itself, how many of its processes did for want of memory, when that was last and why, and since when
	// it is down although it is to be up; zero times = never, and not.
	Ended, OOMKills int64
	LastEnd         time.Time
	EndReason       string
	DownSince       time.Time
}

// DirectoryInfo is the directory of tenants as this pooler knows it.
type DirectoryInfo struct {
	Store   string
	Current bool // what is known is what there is
	Since   time.Time
	Err     string // why it is not current
	Tenants int
	Work    int // tenants with an instance of their own that are at work here
	Waking  int // of them, those that are being woken
}

// FunctionInfo is a function or a relation whose code may leave something.
type FunctionInfo struct {
	Database, Name string
	// Runs is when its code does: call, read, write.
	Runs string
	// Closes: the backend is closed then, or cleaned.
	Closes bool
	Why    string
}

// UserInfo is a configured user.
type UserInfo struct {
	Name        string
	PoolSize    int    // 0 = the default
	Mode        string // empty = the default
	Connections int    // backends open for it
	Clients     int    // connected as it
	Databases   []string
	Access      string // "", "stats", "admin"
}

// ConfigItem is one key of the configuration.
type ConfigItem struct {
	Key, Value, Default string
	Changeable          bool // by a reload
}

// VersionInfo says what program this is.
type VersionInfo struct {
	Program, Version string // "pgkennel", "1.2.3"
	// Server is the server_version that the console reports to clients, ServerNum its number: "16.4 (pgkennel 1.2.3)", 160004.
	Server    string
	ServerNum int
}

// StateInfo says what the process is doing.
type StateInfo struct {
	Paused       bool // all of it, by PAUSE without a database
	ShuttingDown bool
	Started      time.Time
	Epoch        uint64 // of the configuration
	Loaded       time.Time
}

// Lists are counts of what there is.
type Lists struct {
	Databases, Users, Pools               int
	Clients, LoginClients, WaitingClients int
	Servers, IdleServers                  int // all backends; those that nobody has
	Shards, Endpoints                     int
	Prepared, Mappings                    int
}
