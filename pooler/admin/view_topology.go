package admin

import (
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// mappingRows is how many rows SHOW MAPPINGS gives unasked; a cluster may have a million.
const mappingRows = 1000

func topologyViews() []*view {
	return []*view{
		{
			name: "databases", help: "endpoints of all clusters, as configured",
			columns: columns("name host port/4 database force_user pool_size/4 min_pool_size/4 reserve_pool_size/4 server_lifetime/4 " +
				"pool_mode load_balance_hosts max_connections/4 current_connections/4 max_client_connections/4 " +
				"current_client_connections/4 paused/4 disabled/4 shard/4 role"),
			fill: plain(fillDatabases),
		},
		{
			name: "shards", help: "endpoints of all clusters, and how they are",
			columns: columns("database shard/4 role host port/4 server_database healthy/4 checked failures/4 last_error down_since " +
				"server_version connections/4"),
			fill: plain(fillShards),
		},
		{
			name: "bans", help: "endpoints that do not answer",
			columns: columns("database shard/4 role host port/4 reason down_since"),
			fill:    plain(fillBans),
		},
		{
			name: "mappings", help: "what sharding keys live on which shard; takes LIMIT n", limit: mappingRows,
			columns: columns("database table_schema table_name column_name data_type kind value range_start range_end shard/4"),
			fill:    fillMappings,
		},
		{
			name: "tenants", help: "tenants, those with most transactions first; takes LIMIT n", limit: tenantRows,
			columns: columns("database tenant key isolation mode state clients/4 clients_waiting/4 transactions/8 queries/8 errors/8 " +
				"bytes_received/8 bytes_sent/8 phase access host ended/8 oom_kills/8 last_end end_reason down_since"),
			fill: fillTenants,
		},
		{
			name: "directory", help: "where tenants are known that are not configured, and how well",
			columns: columns("store current since tenants/4 working/4 waking/4 error"), fill: plain(fillDirectory),
		},
		{
			name: "functions", help: "functions, and tables with their triggers and the like, that may leave something in their session, and why",
			columns: columns("database name runs then why"), fill: plain(fillFunctions),
		},
		{
			name: "users", help: "configured users",
			columns: columns("name pool_size reserve_pool_size pool_mode max_user_connections/4 current_connections/4 " +
				"max_user_client_connections/4 current_client_connections/4 databases console"),
			fill: plain(fillUsers),
		},
	}
}

func fillDatabases(c *Console, w *writer) {
	for _, d := range c.Inspector.Databases() {
		w.text(d.Name)
		w.text(d.Host)
		w.int(d.Port)
		w.text(d.Database)
		w.orNull(d.ForceUser)
		w.int(d.PoolSize)
		w.int(d.MinPool)
		w.int(0)
		w.int64(int64(d.ServerLifetime / time.Second))
		w.orNull(d.Mode)
		w.null()
		w.int(d.MaxConnections)
		w.int(d.Connections)
		w.int(d.MaxClients)
		w.int(d.Clients)
		w.flag(d.Paused)
		w.flag(d.Disabled)

		w.shard(d.Shard)
		w.text(d.Role.String())
	}
}

func fillShards(c *Console, w *writer) {
	for _, s := range c.Inspector.Shards() {
		w.text(s.Database)
		w.shard(s.Shard)
		w.text(s.Role.String())
		w.text(s.Host)
		w.int(s.Port)
		w.text(s.ServerDatabase)
		w.flag(s.Healthy)
		w.time(s.Checked)
		w.int(s.Failures)
		w.orNull(s.LastError)
		w.time(s.DownSince)
		w.orNull(s.ServerVersion)
		w.int(s.Connections)
	}
}

func fillBans(c *Console, w *writer) {
	for _, s := range c.Inspector.Shards() {
		if s.DownSince.IsZero() {
			continue
		}
		w.text(s.Database)
		w.shard(s.Shard)
		w.text(s.Role.String())
		w.text(s.Host)
		w.int(s.Port)
		w.orNull(s.LastError)
		w.time(s.DownSince)
	}
}

func fillMappings(c *Console, k *command, w *writer) []*pgwire.Error {
	rows, total := c.Inspector.Mappings(k.limit)
	for _, m := range rows[:min(len(rows), k.limit)] {
		w.text(m.Database)
		w.orNull(m.Schema)
		w.orNull(m.Table)
		w.text(m.Column)
		w.text(m.DataType)
		w.text(m.Kind)
		w.textPointer(m.Value)
		w.textPointer(m.RangeStart)
		w.textPointer(m.RangeEnd)
		w.shard(m.Shard)
	}
	return cut(len(rows), total, "SHOW MAPPINGS")
}

// tenantRows is how many rows SHOW TENANTS gives unasked.
const tenantRows = 1000

func fillTenants(c *Console, k *command, w *writer) []*pgwire.Error {
	rows, total := c.Inspector.Tenants(k.limit)
	for _, t := range rows[:min(len(rows), k.limit)] {
		w.text(t.Database)
		w.text(t.Name)
		w.orNull(t.Key)
		w.text(t.Isolation)
		w.text(t.Mode)
		w.text(t.State)
		w.int(t.Clients)
		w.int(t.Waiting)
		w.uint64(t.Transactions)
		w.uint64(t.Queries)
		w.uint64(t.Errors)
		w.uint64(t.Received)
		w.uint64(t.Sent)
		w.orNull(t.Phase)
		w.orNull(t.Access)
		w.orNull(t.Host)
		w.int64(t.Ended)
		w.int64(t.OOMKills)
		w.time(t.LastEnd)
		w.orNull(t.EndReason)
		w.time(t.DownSince)
	}
	return cut(len(rows), total, "SHOW TENANTS")
}

func fillDirectory(c *Console, w *writer) {
	d := c.Inspector.Directory()
	if d == nil {
		return
	}
	w.text(d.Store)
	w.yes(d.Current)
	w.time(d.Since)
	w.int(d.Tenants)
	w.int(d.Work)
	w.int(d.Waking)
	w.orNull(d.Err)
}

func fillFunctions(c *Console, w *writer) {
	for _, f := range c.Inspector.Functions() {
		w.text(f.Database)
		w.text(f.Name)
		w.text(f.Runs)
		if f.Closes {
			w.text("closed")
		} else {
			w.text("cleaned")
		}
		w.text(f.Why)
	}
}

// cut is what clients hear when a view has more rows than it gave.
func cut(shown, total int, command string) []*pgwire.Error {
	if total <= shown {
		return nil
	}
	return []*pgwire.Error{pgwire.Noticef("%d of %d rows shown", shown, total).WithHint("%s LIMIT n shows more.", command)}
}

func fillUsers(c *Console, w *writer) {
	for _, u := range c.Inspector.Users() {
		w.text(u.Name)
		if u.PoolSize > 0 {
			w.int(u.PoolSize)
		} else {
			w.text("")
		}
		w.text("")
		w.orNull(u.Mode)
		w.int(0)
		w.int(u.Connections)
		w.int(0)
		w.int(u.Clients)

		w.text(strings.Join(u.Databases, ","))
		w.orNull(u.Access)
	}
}
