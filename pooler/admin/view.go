package admin

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// view is one thing that SHOW shows.
type view struct {
	name    string
	help    string
	columns []pgwire.Column
	limit   int // rows unless LIMIT says otherwise; 0 = it takes no LIMIT
	// fill writes the rows, and returns notices.
	fill func(c *Console, k *command, w *writer) []*pgwire.Error
}

// maxLimit is the most that LIMIT can ask for: answers are built in memory.
const maxLimit = 1_000_000

// columns makes columns from names; a name may end in its type: /4 int4, /8 int8, /n numeric, /b bool; text otherwise. The
// types are PgBouncer's where it has the column.
func columns(spec string) []pgwire.Column {
	var out []pgwire.Column
	for field := range strings.FieldsSeq(spec) {
		name, typ, _ := strings.Cut(field, "/")
		oid := pgwire.OIDText
		switch typ {
		case "4":
			oid = pgwire.OIDInt4
		case "8":
			oid = pgwire.OIDInt8
		case "n":
			oid = pgwire.OIDNumeric
		case "b":
			oid = pgwire.OIDBool
		}
		out = append(out, pgwire.TextColumn(name, oid))
	}
	return out
}

// plain makes a fill of one that has no notices.
func plain(fill func(c *Console, w *writer)) func(*Console, *command, *writer) []*pgwire.Error {
	return func(c *Console, _ *command, w *writer) []*pgwire.Error {
		fill(c, w)
		return nil
	}
}

// viewList makes all views, in the order of SHOW HELP.
func viewList() []*view {
	return slices.Concat(connectionViews(), poolViews(), statViews(), topologyViews(), processViews())
}

// views are the views by name.
var views = func() map[string]*view {
	m := make(map[string]*view)
	for _, v := range viewList() {
		m[v.name] = v
	}
	return m
}()

// viewNames are their names in alphabetical order.
var viewNames = func() []string {
	var names []string
	for _, v := range viewList() {
		names = append(names, v.name)
	}
	slices.Sort(names)
	return names
}()

// viewsElsewhere are views of PgBouncer's and PgDog's consoles that this one does not have, and why.
var viewsElsewhere = map[string]string{
	"fds":               "sockets are never handed to another process",
	"sockets":           "see SHOW CLIENTS and SHOW SERVERS",
	"active_sockets":    "see SHOW CLIENTS and SHOW SERVERS",
	"dns_hosts":         "names are resolved by the system",
	"dns_zones":         "names are resolved by the system",
	"peers":             "poolers do not know of each other",
	"peer_pools":        "poolers do not know of each other",
	"instance_id":       "",
	"listeners":         "",
	"mirrors":           "",
	"replication":       "",
	"replication_slots": "",
	"schema_sync":       "",
	"server":            "see SHOW MEM",
	"client":            "see SHOW MEM",
	"table_copies":      "",
	"tasks":             "",
	"transactions":      "see SHOW CLIENTS",
}
