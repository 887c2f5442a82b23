package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// buildClusters makes clusters of the [[databases]] entries.
func (b *builder) buildClusters() {
	tenantColumn := b.cfg.tenant.text("column")
	for _, t := range b.tables(b.config, databasesSection) {
		b.endpointHost(t)
		if t.badKey("name") {
			b.unknownNames = true
			continue
		}
		name := t.text("name")
		cl := b.clusters[name]
		if cl == nil {
			cl = &Cluster{Name: name, TenantColumn: tenantColumn, at: t.at(), Pos: t.at().pos()}
			b.clusters[name] = cl
			b.shards[name] = map[topology.ShardID]bool{}
			b.cfg.Clusters = append(b.cfg.Clusters, cl)
		}
		b.addEndpoint(cl, t)
	}
	b.unknownNames = b.unknownNames || b.config.broken
	for _, cl := range b.cfg.Clusters {
		b.checkCluster(cl)
		if cl.Name == b.cfg.Admin.Name {
			b.r.fail(cl.at, "give one of them another name", "%q is the name of the admin database", cl.Name)
		}
	}
	b.cfg.clusterNamed = b.clusters
}

// addEndpoint adds one entry to its cluster. Endpoints lie in Shards[0] until checkCluster knows the numbers.
func (b *builder) addEndpoint(cl *Cluster, t *table) {
	if t.badKey("shard") || t.badKey("role") {
		cl.partial = true
		return
	}
	e := &Endpoint{
		Cluster: cl.Name, Shard: t.shard(), Role: topology.Primary, Host: t.text("host"), Port: t.int("port"),
		DatabaseName: t.text("database_name"), Pos: t.at().pos(), t: t,
	}
	if e.DatabaseName == "" {
		e.DatabaseName = cl.Name
	}
	switch t.text("role") {
	case "replica":
		e.Role = topology.Replica
		b.r.warn(t.placeOf("role"), "everything goes to the primary", "reads are not yet sent to replicas by pgkennel")
	case "auto":
		b.r.warn(t.placeOf("role"), `it is taken for "primary"`, "role = \"auto\" is PgDog's and not yet supported by pgkennel")
	}
	b.shards[cl.Name][e.Shard] = true
	if len(cl.Shards) == 0 {
		cl.Shards = [][]*Endpoint{nil}
	}
	cl.Shards[0] = append(cl.Shards[0], e)
}

// adminPasswords reads the passwords of administrators, each file once.
func (b *builder) adminPasswords(readFile func(string) ([]byte, error)) {
	read := make(map[string]string)
	for _, cl := range b.cfg.Clusters {
		for _, e := range slices.Concat(cl.Shards...) {
			if e.AdminUser = e.t.text("admin_user"); e.AdminUser == "" && e.t.has("admin_password_file") && !e.t.badKey("admin_user") {
				b.r.fail(e.t.placeOf("admin_password_file"), "add admin_user", "admin_password_file is set without admin_user")
			}
			path := b.below(e.t.text("admin_password_file"), readFile != nil)
			if path == "" || readFile == nil {
				continue
			}
			password, ok := read[path]
			if !ok {
				text, err := readFile(path)
				if pe, ok := errors.AsType[*fs.PathError](err); ok {
					err = pe.Err
				}
				password = strings.TrimRight(string(text), "\r\n")
				if err == nil && (password == "" || strings.ContainsAny(password, "\x00\n")) {
					err = errors.New("a password is one line")
				}
				if err != nil {
					b.r.fail(e.t.placeOf("admin_password_file"), "it has the password of admin_user, and nothing else", "admin_password_file %s: %s", strconv.Quote(path), err)
				}
				read[path] = password
			}
			e.AdminPassword = Secret(password)
		}
	}
}

// Administrator is who makes and secures tenants at the endpoint, as pgx reads it; empty = whom the environment names.
func (e *Endpoint) Administrator() string {
	if e.AdminUser == "" {
		return ""
	}
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	s := "user='" + quote.Replace(e.AdminUser) + "'"
	if p := e.AdminPassword.Reveal(); p != "" {
		s += " password='" + quote.Replace(p) + "'"
	}
	return s
}

// shardID is the number of a shard; what is out of range has been refused.
func shardID(n int64) topology.ShardID {
	return topology.ShardID(min(max(n, 0), maxShard))
}

// shard is the number of an endpoint's shard.
func (t *table) shard() topology.ShardID {
	return shardID(t.value("shard").i)
}

// endpointHost checks the host of an entry.
func (b *builder) endpointHost(t *table) {
	if !t.usable("host") {
		return
	}
	host, at := t.text("host"), t.placeOf("host")
	if strings.HasPrefix(host, "/") {
		if n := len(host) + len("/.s.PGSQL.") + len(strconv.Itoa(t.int("port"))); n > maxSocketPath {
			b.r.fail(at, "use a shorter directory", "the name of the socket in host has %d bytes, more than the %d that a socket can have", n, maxSocketPath)
		}
		return
	}
	b.checkHost(t, "host")
}

// checkHost reports what is not the name or the address of a host: it may have a port, or brackets.
func (b *builder) checkHost(t *table, key string) {
	if !t.usable(key) {
		return
	}
	host, at := t.text(key), t.placeOf(key)
	h, port, err := net.SplitHostPort(host)
	_, notNumber := strconv.Atoi(port)
	address := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	switch {
	case err == nil && notNumber == nil && net.ParseIP(host) == nil:
		b.r.fail(at, fmt.Sprintf("write %s = %q and %s = %s", key, h, strings.Replace(key, "host", "port", 1), port), "%s %q holds a port", key, host)
	case address != host && net.ParseIP(address) != nil:
		b.r.fail(at, fmt.Sprintf("write %s = %q", key, address), "%s %q has brackets around the address", key, host)
	case strings.ContainsAny(host, " \t\r\n/,@[]"):
		b.r.fail(at, "write one name or address", "%s %q is not the name of a host", key, host)
	}
}

// checkCluster sorts a cluster's endpoints into shards and reports what is twice, missing, or at odds.
func (b *builder) checkCluster(cl *Cluster) {
	var all []*Endpoint
	if len(cl.Shards) > 0 {
		all = cl.Shards[0]
	}
	numbers := make([]topology.ShardID, 0, len(b.shards[cl.Name]))
	for n := range b.shards[cl.Name] {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	primaries := map[topology.ShardID]*Endpoint{}
	first := map[topology.ShardID]*Endpoint{}
	same := map[string]*Endpoint{}
	for _, e := range all {
		if first[e.Shard] == nil {
			first[e.Shard] = e
		}
		id := fmt.Sprintf("%d %d %s %d %s", e.Shard, e.Role, e.Host, e.Port, e.DatabaseName)
		if prev := same[id]; prev != nil {
			b.r.fail(e.t.at(), "remove one of them", "%s of shard %d of database %q is listed twice; the first is %s", e.Role, e.Shard, cl.Name, prev.t.at())
		} else if e.Role == topology.Primary {
			if prev := primaries[e.Shard]; prev != nil {
				b.r.fail(e.t.at(), `set shard to another number, or role = "replica"`, "shard %d of database %q has two primaries; the first is %s", e.Shard, cl.Name, prev.t.at())
			} else {
				primaries[e.Shard] = e
			}
		}
		same[id] = e
		b.sameMode(all[0], e)
	}
	if cl.partial || b.config.broken {
		return
	}
	next := topology.ShardID(0)
	for _, n := range numbers {
		if n != next {
			missing := fmt.Sprintf("shard %d", next)
			if n > next+1 {
				missing = fmt.Sprintf("shards %d to %d", next, n-1)
			}
			b.r.fail(first[n].t.placeOf("shard"), "number shards from 0 without gaps", "database %q has a shard %d but no %s", cl.Name, n, missing)
		}
		next = n + 1
		if e := first[n]; primaries[e.Shard] == nil {
			b.r.fail(e.t.at(), `add an entry with role = "primary"`, "shard %d of database %q has no primary", n, cl.Name)
		}
	}
	if len(numbers) == 0 || int(numbers[len(numbers)-1]) != len(numbers)-1 {
		return // reported
	}
	cl.Shards = make([][]*Endpoint, len(numbers))
	for _, e := range all {
		cl.Shards[e.Shard] = append(cl.Shards[e.Shard], e)
	}
	for _, s := range cl.Shards {
		slices.SortStableFunc(s, func(a, c *Endpoint) int { return int(a.Role) - int(c.Role) })
	}
}

// sameMode reports endpoints of one cluster that differ in pooler_mode or pin: a session has one of each, whatever shard it reaches.
func (b *builder) sameMode(a, e *Endpoint) {
	show := func(m string) string {
		if m == "" {
			return "not set"
		}
		return m
	}
	for _, key := range []string{"pooler_mode", "pin"} {
		ma, me := a.t.text(key), e.t.text(key)
		if ma != me && !a.t.badKey(key) && !e.t.badKey(key) {
			b.r.fail(e.t.placeOf(key), "set it alike in every entry of the database", "%s of database %q is %s here and %s in %s", key, e.Cluster, show(me), show(ma), a.t.at())
		}
	}
}

// hasShard says whether a mapping may name shard n of a cluster.
func (b *builder) hasShard(cluster string, n topology.ShardID) bool {
	cl := b.clusters[cluster]
	return cl == nil || cl.partial || b.config.broken || b.shards[cluster][n]
}

// maxCompared bounds how many names are compared for suggestions: ten thousand wrong links to ten thousand databases
// would take minutes.
const maxCompared = 50_000

// noCluster reports a link to a database that is not there. False: it may be there.
func (b *builder) noCluster(name string, at place, who string) bool {
	if b.clusters[name] != nil || b.unknownNames {
		return false
	}
	hint := "add it, or correct the name"
	if b.compared += len(b.cfg.Clusters); b.compared <= maxCompared {
		names := make([]string, 0, len(b.cfg.Clusters))
		for _, cl := range b.cfg.Clusters {
			names = append(names, cl.Name)
		}
		if near := nearest(name, names); near != "" {
			hint = "did you mean " + near + "?"
		} else if len(names) > 0 && len(names) <= 10 {
			hint = "there is " + strings.Join(names, ", ")
		}
	}
	b.r.fail(at, hint, "%s names the database %q, which no [[databases]] entry has", who, name)
	return true
}

// Pool resolves what holds for the pool of u's connections to e. Users override databases, which override [general];
// within each of them a key for the role overrides the key without it. Only user and password of [[databases]] win over
// those of the user, as in PgDog.
func (c *Config) Pool(u *User, e *Endpoint) Pool {
	p, _ := c.pool(u, e)
	return p
}

// poolSources says which values the sizes of a pool come from.
type poolSources struct{ minSize, maxSize, lifetime, jitter value }

func (c *Config) pool(u *User, e *Endpoint) (Pool, poolSources) {
	role := "_" + e.Role.String()
	pick := func(key, general string, roles bool) value {
		for _, t := range []*table{u.t, e.t} {
			if roles {
				if v := t.value(key + role); v.set {
					return v
				}
			}
			if v := t.value(key); v.set {
				return v
			}
		}
		if general == "" {
			return value{}
		}
		return c.general.value(general)
	}
	millis := func(v value) time.Duration { return time.Duration(min(v.i, maxMillis)) * time.Millisecond }
	optional := func(v value) *time.Duration {
		if !v.set {
			return nil
		}
		d := millis(v)
		return &d
	}
	src := poolSources{
		minSize: pick("min_pool_size", "min_pool_size", true), maxSize: pick("pool_size", "default_pool_size", true),
		lifetime: pick("server_lifetime", "server_lifetime", false), jitter: pick("server_lifetime_jitter", "server_lifetime_jitter", false),
	}
	p := Pool{
		MinSize: int(src.minSize.i), MaxSize: int(src.maxSize.i), IdleTimeout: millis(pick("idle_timeout", "idle_timeout", true)),
		Lifetime: millis(src.lifetime), LifetimeJitter: millis(src.jitter),
		StatementTimeout: optional(pick("statement_timeout", "", false)), LockTimeout: optional(pick("lock_timeout", "", false)),
		User: u.Name,
	}
	if v := u.t.text("server_user"); v != "" {
		p.User = v
	}
	if v := e.t.text("user"); v != "" {
		p.User = v
	}
	switch {
	case e.t.text("password") != "":
		p.Password = e.t.secret("password")
	case u.t.text("server_password") != "":
		p.Password = u.t.secret("server_password")
	case len(u.Passwords) > 0:
		p.Password = u.Passwords[0]
	}
	return p, src
}

// TenantPool is how the pools of tenants' own logins are set up.
func (c *Config) TenantPool(e *Endpoint) Pool { return c.Pool(&User{t: emptyTable(usersSection)}, e) }
