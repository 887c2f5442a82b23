package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

var epoch = time.Date(2026, 11, 22, 10, 30, 0, 0, time.UTC)

// fake is a pooler with two databases, of which one has two shards.
type fake struct {
	now      time.Time
	clients  []ClientInfo
	stats    []DatabaseStats
	mappings int

	mu    sync.Mutex
	calls []string
	block chan struct{} // Pause says here that it waits, and then waits for its context to end; nil = it does not wait
}

func newFake() *fake {
	return &fake{
		now: epoch,
		clients: []ClientInfo{
			{
				ID: 1, User: "alice", Database: "app", State: ClientActive, Addr: "10.0.0.9", Port: 50123, LocalAddr: "10.0.0.1", LocalPort: 6432,
				Connected: epoch.Add(-time.Minute), Requested: epoch.Add(-time.Second), Server: 11, TLS: "TLSv1.3/TLS_AES_128_GCM_SHA256",
				ApplicationName: "web", Prepared: 3, Shard: 1, Status: pgwire.TxActive, Protocol: "3.2",
				Transactions: 5, Queries: 9, Errors: 1, Received: 1000, Sent: 2000,
			},
			{
				ID: 2, User: "bob", Database: "app", State: ClientWaiting, Addr: "unix", LocalAddr: "unix", LocalPort: 6432,
				Connected: epoch.Add(-time.Hour), Wait: 2500 * time.Millisecond, PID: 4711, Shard: NoShard, Status: pgwire.TxIdle, Protocol: "3.0",
			},
		},
		stats: []DatabaseStats{
			{"app", Stats{
				Assignments: 100, Transactions: 90, Queries: 300, Received: 5000, Sent: 9000,
				TransactionTime: 900 * time.Millisecond, QueryTime: 600 * time.Millisecond, WaitTime: 50 * time.Millisecond,
				ClientParses: 7, ServerParses: 6, Binds: 40, Errors: 3, Refusals: 2,
			}},
			{"shop", Stats{Queries: 10, Transactions: 10, QueryTime: time.Second}},
		},
		mappings: 4,
	}
}

func (f *fake) Clients() []ClientInfo { return f.clients }

func (f *fake) Servers() []ServerInfo {
	return []ServerInfo{
		{
			ID: 11, User: "alice", Login: "app_rw", Database: "app", State: ServerActive, Addr: "10.1.0.1", Port: 5432, LocalAddr: "10.0.0.1", LocalPort: 40001,
			Connected: epoch.Add(-time.Hour), Requested: epoch.Add(-time.Second), Client: 1, PID: 99, ApplicationName: "web", Prepared: 2,
			Shard: 1, Role: topology.Primary, ServerDatabase: "app_1", Transactions: 77, Received: 1, Sent: 2,
		},
		{ID: 12, Login: "app_rw", Database: "app", State: ServerIdle, Addr: "10.1.0.2", Port: 5432, CloseNeeded: true, PID: 100, Role: topology.Replica},
	}
}

func (f *fake) Pools() []PoolInfo {
	return []PoolInfo{
		{
			Database: "app", User: "alice", Shard: 0, Role: topology.Primary, Host: "db0", Port: 5432, Login: "app_rw", Idle: 2, Mode: "transaction",
			Size: 10, MinSize: 1, Healthy: true,
		},
		{
			Database: "app", User: "alice", Shard: 1, Role: topology.Primary, Host: "db1", Port: 5432, Login: "app_rw", Active: 1, Waiting: 1,
			Used: 1, Tested: 1, New: 1, ActiveCancel: 1, BeingCanceled: 1, MaxWait: 2500 * time.Millisecond, Mode: "transaction", Size: 10, Paused: true,
		},
		{Database: "shop", User: "carol", Role: topology.Primary, Host: "db2", Port: 5433, Login: "carol", Idle: 1, Mode: "session", Size: 5, Healthy: true},
	}
}

func (f *fake) ClientCounts() []ClientCount {
	return []ClientCount{{"app", "alice", 3, 1, 0, 0}, {"app", "bob", 0, 1, 1, 1}, {"shop", "carol", 2, 0, 0, 0}}
}

func (f *fake) Stats() []DatabaseStats { return f.stats }

func (f *fake) Prepared() []PreparedInfo {
	return []PreparedInfo{{"__pgkennel_1", "SELECT 'a secret'", 2, 512}}
}

func (f *fake) QueryCache() QueryCacheInfo {
	return QueryCacheInfo{10, 2, 1, 1, 4096, 1 << 20, 1500 * time.Microsecond}
}

func (f *fake) Memory() []MemInfo { return []MemInfo{{"parse_cache", 0, 4096, 0, 4096}} }

func (f *fake) Databases() []DatabaseInfo {
	return []DatabaseInfo{
		{
			Name: "app", Host: "db0", Port: 5432, Database: "app_0", ForceUser: "app_rw", PoolSize: 10, MinPool: 1, ServerLifetime: 24 * time.Hour,
			Mode: "transaction", Connections: 2, Clients: 4, Shard: 0, Role: topology.Primary,
		},
		{
			Name: "app", Host: "db1", Port: 5432, Database: "app_1", ForceUser: "app_rw", PoolSize: 10, ServerLifetime: 24 * time.Hour,
			Mode: "transaction", Connections: 3, Clients: 4, Paused: true, Shard: 1, Role: topology.Primary,
		},
		{Name: "shop", Host: "db2", Port: 5433, Database: "shop", PoolSize: 5, ServerLifetime: time.Hour, Clients: 2, Disabled: true, Role: topology.Primary},
	}
}

func (f *fake) Shards() []ShardInfo {
	return []ShardInfo{
		{
			Database: "app", Shard: 0, Role: topology.Primary, Host: "db0", Port: 5432, ServerDatabase: "app_0", Healthy: true,
			Checked: epoch.Add(-5 * time.Second), ServerVersion: "15.18", Connections: 2,
		},
		{
			Database: "app", Shard: 1, Role: topology.Primary, Host: "db1", Port: 5432, ServerDatabase: "app_1", Checked: epoch, Failures: 3,
			LastError: "connection refused", DownSince: epoch.Add(-time.Minute),
		},
	}
}

func (f *fake) Tenants(limit int) ([]TenantInfo, int) {
	rows := []TenantInfo{
		{Database: "app", Name: "acme", Key: "42", Isolation: "row", Mode: "shared", State: "active", Clients: 3, Waiting: 1, Transactions: 9, Queries: 12, Errors: 1, Received: 100, Sent: 200},
		{Database: "app", Name: "late", Isolation: "schema", Mode: "strict", State: "suspended"},
	}
	return rows[:min(limit, len(rows))], len(rows)
}

func (f *fake) Functions() []FunctionInfo {
	return []FunctionInfo{
		{Database: "app", Name: "leave", Runs: "call", Closes: true, Why: "it changes settings of the session"},
		{Database: "app", Name: "public.notes", Runs: "write", Why: "it uses function leave"},
	}
}

func (f *fake) Directory() *DirectoryInfo {
	return &DirectoryInfo{Store: "file", Current: true, Since: f.now, Tenants: 3, Work: 1}
}

func (f *fake) Tenant(_ context.Context, o TenantOrder) (TenantAnswer, error) {
	text := o.Verb + " " + o.Name + " by " + o.By
	for _, x := range o.Options {
		text += " " + x.Name + "=" + x.Value
	}
	err := f.call("%s", text)
	return TenantAnswer{Secrets: []TenantSecret{{o.Name, "made"}}, Notes: []string{"noted"}}, err
}

func (f *fake) Mappings(limit int) ([]MappingInfo, int) {
	key, low, high := "42", "100", "200"
	rows := []MappingInfo{
		{"app", "", "", "tenant_id", "bigint", "list", &key, nil, nil, 0},
		{"app", "public", "orders", "tenant_id", "bigint", "range", nil, &low, &high, 1},
		{"app", "public", "orders", "tenant_id", "bigint", "range", nil, &high, nil, 0},
		{"app", "public", "orders", "tenant_id", "bigint", "default", nil, nil, nil, 1},
	}
	return rows[:min(limit, len(rows))], f.mappings
}

func (f *fake) Users() []UserInfo {
	return []UserInfo{{"alice", 20, "session", 4, 3, []string{"app", "shop"}, ""}, {Name: "root", Access: "admin"}}
}

func (f *fake) Config() []ConfigItem {
	return []ConfigItem{
		{"general.default_pool_size", "10", "10", true},
		{"general.port", "6433", "6432", false},
		{"general.tls_private_key", "/etc/key.pem", "", true},
		{"admin.password", "hunter2", "", true},
		{"users.alice.server_password", "swordfish", "", true},
	}
}

func (f *fake) Version() VersionInfo {
	return VersionInfo{Program: "pgkennel", Version: "1.2.3", Server: "16.4 (pgkennel 1.2.3)", ServerNum: 160004}
}

func (f *fake) State() StateInfo {
	return StateInfo{Started: epoch.Add(-time.Hour), Epoch: 3, Loaded: epoch.Add(-time.Minute)}
}

func (f *fake) Lists() Lists {
	return Lists{
		Databases: 2, Users: 3, Pools: 3, Clients: 5, LoginClients: 1, WaitingClients: 2, Servers: 6, IdleServers: 3, Shards: 3, Endpoints: 3,
		Prepared: 1, Mappings: 4,
	}
}

// call notes what was ordered, and fails for certain names.
func (f *fake) call(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := strings.TrimSpace(fmt.Sprintf(format, args...))
	f.calls = append(f.calls, c)
	switch {
	case strings.HasSuffix(c, " nowhere"):
		return fmt.Errorf("cluster: %w", ErrNoDatabase)
	case strings.HasSuffix(c, " busy"):
		return ErrPaused
	case strings.HasSuffix(c, " running"):
		return ErrNotPaused
	case strings.HasSuffix(c, " ending"):
		return ErrShuttingDown
	case strings.HasSuffix(c, " broken"):
		return errors.New("it broke")
	case strings.HasSuffix(c, " 404"):
		return ErrNoClient
	}
	return nil
}

func (f *fake) taken() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

var errBadFile = errors.New("pgdog.toml:3: unknown key \"prot\"; did you mean \"port\"\npgdog.toml:9: shard 2 has no primary")

func (f *fake) Reload(context.Context) error {
	if err := f.call("reload"); err != nil {
		return err
	}
	if f.mappings == 0 {
		return errBadFile
	}
	return nil
}

func (f *fake) Pause(ctx context.Context, database string) error {
	if err := f.call("pause %s", database); err != nil {
		return err
	}
	if f.block == nil {
		return nil
	}
	f.block <- struct{}{}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (f *fake) Resume(database string) error    { return f.call("resume %s", database) }
func (f *fake) Disable(database string) error   { return f.call("disable %s", database) }
func (f *fake) Enable(database string) error    { return f.call("enable %s", database) }
func (f *fake) Reconnect(database string) error { return f.call("reconnect %s", database) }
func (f *fake) Kill(database string) error      { return f.call("kill %s", database) }
func (f *fake) KillClient(id uint64) error      { return f.call("kill client %d", id) }
func (f *fake) Shutdown(m ShutdownMode) error   { return f.call("shutdown %s", m) }
func (f *fake) WaitClose(_ context.Context, database string) error {
	return f.call("wait_close %s", database)
}

func (f *fake) console() *Console {
	c := New(Options{Inspector: f, Controller: f, Now: func() time.Time { return f.now }})
	f.now = f.now.Add(9 * time.Second) // the first averages are over these and a second more
	return c
}

var (
	_     Inspector  = (*fake)(nil)
	_     Controller = (*fake)(nil)
	admin            = User{Name: "root", Database: "admin", Client: 7, Access: AccessAdmin}
	stats            = User{Name: "monitor", Database: "admin", Client: 8, Access: AccessStats}
)
