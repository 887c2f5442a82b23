package admin

import (
	"strconv"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// PgBouncer's columns of a socket; ours follow them.
const socketColumns = "type user database replication state addr port/4 local_addr local_port/4 connect_time request_time " +
	"wait/4 wait_us/4 close_needed/4 ptr link remote_pid/4 tls application_name prepared_statements/4 id/8 "

func connectionViews() []*view {
	return []*view{
		{
			name: "clients", help: "clients, one a row",
			columns: columns(socketColumns + "shard/4 transaction protocol transactions/8 queries/8 errors/8 bytes_received/8 bytes_sent/8 tenant pinned"),
			fill:    plain(fillClients),
		},
		{
			name: "servers", help: "backends, one a row",
			columns: columns(socketColumns + "shard/4 role login server_database transactions/8 bytes_received/8 bytes_sent/8 tenant pinned"),
			fill:    plain(fillServers),
		},
	}
}

func fillClients(c *Console, w *writer) {
	for _, i := range c.Inspector.Clients() {
		w.text("C")
		w.text(i.User)
		w.text(i.Database)
		w.text("none")
		w.text(i.State.String())
		w.text(i.Addr)
		w.int(i.Port)
		w.text(i.LocalAddr)
		w.int(i.LocalPort)
		w.time(i.Connected)
		w.time(i.Requested)
		w.split(i.Wait)
		w.int(0)
		w.pointer('c', i.ID)
		w.pointer('s', i.Server)
		w.int(i.PID)
		w.text(i.TLS)
		w.text(i.ApplicationName)
		w.int(i.Prepared)
		w.uint64(i.ID)

		w.shard(i.Shard)
		w.text(transaction(i.Status))
		w.text(i.Protocol)
		w.uint64(i.Transactions)
		w.uint64(i.Queries)
		w.uint64(i.Errors)
		w.uint64(i.Received)
		w.uint64(i.Sent)
		w.orNull(i.Tenant)
		w.orNull(i.Pinned)
	}
}

func fillServers(c *Console, w *writer) {
	for _, i := range c.Inspector.Servers() {
		w.text("S")
		w.text(i.User)
		w.text(i.Database)
		w.text("none")
		w.text(i.State.String())
		w.text(i.Addr)
		w.int(i.Port)
		w.text(i.LocalAddr)
		w.int(i.LocalPort)
		w.time(i.Connected)
		w.time(i.Requested)
		w.split(0)
		w.flag(i.CloseNeeded)
		w.pointer('s', i.ID)
		w.pointer('c', i.Client)
		w.int(i.PID)
		w.text(i.TLS)
		w.text(i.ApplicationName)
		w.int(i.Prepared)
		w.uint64(i.ID)

		w.shard(i.Shard)
		w.text(i.Role.String())
		w.text(i.Login)
		w.text(i.ServerDatabase)
		w.uint64(i.Transactions)
		w.uint64(i.Received)
		w.uint64(i.Sent)
		w.orNull(i.Tenant)
		w.orNull(i.Pinned)
	}
}

// pointer writes what PgBouncer has an address for: something that ptr and link of the two views can be joined by.
func (w *writer) pointer(kind byte, id uint64) {
	if id != 0 {
		w.rows.data = append(w.rows.data, kind)
		w.rows.data = strconv.AppendUint(w.rows.data, id, 10)
	}
	w.end()
}

func (w *writer) shard(s topology.ShardID) {
	if s == NoShard {
		w.null()
		return
	}
	w.int(int(s))
}

func transaction(s pgwire.TxStatus) string {
	if !s.Valid() {
		return "none"
	}
	return s.String()
}
