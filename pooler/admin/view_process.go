package admin

import (
	"strconv"
	"strings"
)

func processViews() []*view {
	return []*view{
		{name: "config", help: "the configuration in force", columns: columns("key value default changeable"), fill: plain(fillConfig)},
		{name: "version", help: "what program this is", columns: columns("version"), fill: plain(fillVersion)},
		{name: "state", help: "what the process is doing", columns: columns("key value"), fill: plain(fillState)},
		{name: "lists", help: "how many there are of what", columns: columns("list items/4"), fill: plain(fillLists)},
		{name: "help", help: "this", columns: columns("command access description"), fill: plain(fillHelp)},
	}
}

func fillConfig(c *Console, w *writer) {
	for _, i := range c.Inspector.Config() {
		if isSecret(i.Key) {
			i.Value, i.Default = mask(i.Value), mask(i.Default)
		}
		w.text(i.Key)
		w.text(i.Value)
		w.text(i.Default)
		w.yes(i.Changeable)
	}
}

// isSecret is the second wall: Config leaves secrets out. Paths of key files and names of methods are none.
func isSecret(key string) bool {
	last := strings.ToLower(key[strings.LastIndexByte(key, '.')+1:])
	for _, word := range []string{"password", "passwords", "password_hash", "secret", "token", "api_key"} {
		if last == word || strings.HasSuffix(last, "_"+word) {
			return true
		}
	}
	return false
}

func mask(s string) string {
	if s == "" {
		return ""
	}
	return "********"
}

func fillVersion(c *Console, w *writer) {
	v := c.Inspector.Version()
	w.text(v.Program + " " + v.Version)
}

func fillState(c *Console, w *writer) {
	s := c.Inspector.State()
	pair := func(key string, value bool) { w.text(key); w.yes(value) }
	pair("active", !s.Paused && !s.ShuttingDown)
	pair("paused", s.Paused)
	pair("suspended", false)
	pair("shutting_down", s.ShuttingDown)
	w.text("started")
	w.time(s.Started)
	w.text("config_epoch")
	w.text(strconv.FormatUint(s.Epoch, 10))
	w.text("config_loaded")
	w.time(s.Loaded)
}

func fillLists(c *Console, w *writer) {
	l := c.Inspector.Lists()
	for _, i := range []struct {
		name string
		n    int
	}{
		{"databases", l.Databases},
		{"users", l.Users},
		{"peers", 0},
		{"pools", l.Pools},
		{"peer_pools", 0},
		{"free_clients", 0},
		{"used_clients", l.Clients},
		{"login_clients", l.LoginClients},
		{"free_servers", 0},
		{"used_servers", l.Servers},
		{"dns_names", 0},
		{"dns_zones", 0},
		{"dns_queries", 0},
		{"dns_pending", 0},

		{"shards", l.Shards},
		{"endpoints", l.Endpoints},
		{"prepared_statements", l.Prepared},
		{"mappings", l.Mappings},
		{"idle_servers", l.IdleServers},
		{"waiting_clients", l.WaitingClients},
	} {
		w.text(i.name)
		w.int(i.n)
	}
}

// orders are the commands that act, for SHOW HELP.
var orders = []struct{ command, help string }{
	{"RELOAD", "read the configuration files anew"},
	{"PAUSE [db]", "hold new transactions, wait for those under way, close backends"},
	{"RESUME [db]", "take back PAUSE or KILL"},
	{"RECONNECT [db]", "replace every backend when it is released"},
	{"WAIT_CLOSE [db]", "wait until RECONNECT or RELOAD has replaced them"},
	{"DISABLE db", "refuse new clients"},
	{"ENABLE db", "take back DISABLE"},
	{"KILL [db]", "pause, and close clients and backends at once"},
	{"KILL_CLIENT id", "close one client"},
	{"CREATE TENANT name [option value] ...", "make a tenant, and show its password; options as pgkennel tenant create has them"},
	{"ALTER TENANT name action", "START, STOP [NOW], RESTART, SUSPEND, RESUME, ENABLE [CIDR 'list'], DISABLE [NOW], READ ONLY, READ WRITE, RENAME TO name, SET option value, PASSWORD ['new'], BACKUP, REPAIR"},
	{"DROP TENANT name [NOW]", "take a tenant down; until its time of grace is over, pgkennel tenant restore brings it back"},
	{"SHUTDOWN", "end as on SIGTERM: let transactions finish, up to shutdown_timeout"},
	{"SHUTDOWN WAIT_FOR_SERVERS", "end when all transactions have"},
	{"SHUTDOWN WAIT_FOR_CLIENTS", "end when all clients have left"},
	{"SHUTDOWN IMMEDIATE", "end now"},
}

func fillHelp(_ *Console, w *writer) {
	for _, v := range viewList() {
		w.text("SHOW " + strings.ToUpper(v.name))
		w.text("stats")
		w.text(v.help)
	}
	for _, o := range orders {
		w.text(o.command)
		w.text("admin")
		w.text(o.help)
	}
}
