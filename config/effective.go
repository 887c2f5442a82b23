package config

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Effective prints the whole configuration as it is in force: TOML that can be read again, with a comment behind each
// line on where its value comes from. Secrets are printed as "***". The part for users.toml comes last, behind a
// comment that says so.
func (c *Config) Effective(w io.Writer) error {
	if err := c.EffectiveConfig(w); err != nil {
		return err
	}
	if _, err := io.WriteString(w, "\n# ---- users.toml ----\n"); err != nil {
		return err
	}
	return c.EffectiveUsers(w)
}

// EffectiveConfig prints the part that stands in pgdog.toml.
func (c *Config) EffectiveConfig(w io.Writer) error {
	p := &printer{w: bufio.NewWriter(w)}
	p.section(c.general)
	p.section(c.admin)
	p.section(c.tcp)
	for _, t := range c.peers {
		p.line("\n[[peers]]")
		p.rest(t)
	}
	if c.Directory != nil {
		p.section(c.directory)
		p.section(c.provision)
		if c.Provision.Driver == "kubernetes" { // it is for nothing else
			p.section(c.kubernetes)
		}
	}
	switch {
	case c.Tenancy != nil:
		p.section(c.tenant)
	case c.tenant.has("column"): // any other key would turn on virtual tenancy
		p.line("\n%s", c.tenant.sec.header())
		p.rest(c.tenant)
	}
	for _, cl := range c.Clusters {
		for _, shard := range cl.Shards {
			for _, e := range shard {
				p.endpoint(e)
			}
		}
	}
	for _, cl := range c.Clusters {
		for _, t := range cl.ShardedTables {
			p.shardedTable(cl, t)
		}
		if len(cl.Omnisharded) > 0 {
			p.omnisharded(cl)
		}
		for _, s := range cl.Schemas {
			p.schema(cl, s)
		}
	}
	for _, t := range c.tenants {
		p.line("\n[[tenants]]")
		p.rest(t)
	}
	return p.w.Flush()
}

// EffectiveUsers prints the part that stands in users.toml: one entry for each database that a user may use.
func (c *Config) EffectiveUsers(w io.Writer) error {
	p := &printer{w: bufio.NewWriter(w)}
	for i, u := range c.Users {
		if i > 0 {
			p.line("")
		}
		p.user(c, u)
	}
	return p.w.Flush()
}

// printer writes TOML. Errors stay in the buffered writer until Flush.
type printer struct{ w *bufio.Writer }

func (p *printer) line(format string, args ...any) {
	_, _ = fmt.Fprintf(p.w, format+"\n", args...) // see printer
}

// section prints every key of a section that is there once.
func (p *printer) section(t *table) {
	if t.sec != generalSection {
		p.line("")
	}
	p.line("%s", t.sec.header())
	for _, k := range t.sec.keys {
		v := t.value(k.name)
		switch {
		case k.notYet && !v.set:
		case k.notYet:
			p.line("# %s = %s # %s, not yet supported", k.name, v.toml(), v.source())
		case !v.set && k.def == "":
			p.line("# %s is not set", k.name)
		default:
			p.line("%s = %s # %s", k.name, v.toml(), v.source())
		}
	}
}

// rest prints what is set of the keys that are not in done.
func (p *printer) rest(t *table, done ...string) {
	for _, k := range t.sec.keys {
		v := t.value(k.name)
		skip := !v.set || k.kind == kRules || k.kind == kAny
		for _, d := range done {
			skip = skip || d == k.name
		}
		switch {
		case skip:
		case k.notYet:
			p.line("# %s = %s # %s, not yet supported", k.name, v.toml(), v.source())
		default:
			p.line("%s = %s # %s", k.name, v.toml(), v.source())
		}
	}
}

// key prints a value that is in force, and whether it was set.
func (p *printer) key(t *table, name, toml string) {
	p.line("%s = %s # %s", name, toml, t.value(name).source())
}

func (p *printer) endpoint(e *Endpoint) {
	p.line("\n[[databases]]")
	p.key(e.t, "name", quoteTOML(e.Cluster))
	p.key(e.t, "shard", strconv.Itoa(int(e.Shard)))
	p.key(e.t, "role", quoteTOML(e.Role.String()))
	p.key(e.t, "host", quoteTOML(e.Host))
	p.key(e.t, "port", strconv.Itoa(e.Port))
	p.key(e.t, "database_name", quoteTOML(e.DatabaseName))
	p.rest(e.t, "name", "shard", "role", "host", "port", "database_name")
}

func (p *printer) user(c *Config, u *User) {
	p.line("[[users]]")
	p.key(u.t, "name", quoteTOML(u.Name))
	from := u.t.value("database")
	for _, key := range []string{"databases", "all_databases"} {
		if v := u.t.value(key); v.set && !from.set {
			from = v
		}
	}
	p.line("database = %s # %s", quoteTOML(u.Database), from.source())
	p.rest(u.t, "name", "database", "databases", "all_databases")
	if cl := c.Cluster(u.Database); cl != nil {
		seen := map[string]bool{}
		for _, shard := range cl.Shards {
			for _, e := range shard {
				pool := c.Pool(u, e)
				s := fmt.Sprintf("%s mode, %d to %d connections to each %s, as user %s", u.PoolerMode, pool.MinSize, pool.MaxSize, e.Role, quoteTOML(pool.User))
				if !seen[s] {
					p.line("# in force: %s", s)
				}
				seen[s] = true
			}
		}
	}
}

func (p *printer) shardedTable(cl *Cluster, t *ShardedTable) {
	p.line("\n[[sharded_tables]] # %s:%d", t.Pos.File, t.Pos.Line)
	p.line("database = %s", quoteTOML(cl.Name))
	if t.Schema != "" {
		p.line("schema = %s", quoteTOML(t.Schema))
	}
	if t.Name != "" {
		p.line("name = %s", quoteTOML(t.Name))
	}
	p.line("column = %s", quoteTOML(t.Column))
	p.line("data_type = %s", quoteTOML(t.DataType.String()))
	m := t.Mapping
	if m == nil {
		p.line("# no mapping: by hash over %d shards", len(cl.Shards))
		return
	}
	switch {
	case m.Ints != nil:
		printRules(p, m, m.Ints, func(v int64) string { return strconv.FormatInt(v, 10) })
	case m.UUIDs != nil:
		printRules(p, m, m.UUIDs, func(v [16]byte) string { return `"` + showUUID(v) + `"` })
	case m.Texts != nil:
		printRules(p, m, m.Texts, quoteTOML)
	}
	if m.HasDefault {
		p.line("[[sharded_tables.mapping]]")
		p.line("shard = %d", m.Default)
		p.names(m, m.DefaultNames)
	}
}

// names prints what an entry gives to its tenants.
func (p *printer) names(m *Mapping, n int32) {
	if n == 0 {
		return
	}
	if s := m.Names[n-1].Schema; s != "" {
		p.line("schema = %s", quoteTOML(string(s)))
	}
	if s := m.Names[n-1].Role; s != "" {
		p.line("role = %s", quoteTOML(string(s)))
	}
}

// printRules prints one entry for all values of a shard that have the same names, and one for each range.
func printRules[T any](p *printer, m *Mapping, r *Rules[T], show func(T) string) {
	type kind struct {
		shard topology.ShardID
		names int32
	}
	values := map[kind][]int{}
	var kinds []kind
	for i, s := range r.ValueShards {
		k := kind{s, nameOf(r.ValueNames, i)}
		if values[k] == nil {
			kinds = append(kinds, k)
		}
		values[k] = append(values[k], i)
	}
	for _, k := range kinds {
		p.line("[[sharded_tables.mapping]]")
		_, _ = p.w.WriteString("values = [")
		for n, i := range values[k] {
			if n > 0 {
				_, _ = p.w.WriteString(", ")
				if n%20 == 0 {
					_, _ = p.w.WriteString("\n    ")
				}
			}
			_, _ = p.w.WriteString(show(r.Values[i]))
		}
		p.line("]\nshard = %d", k.shard)
		p.names(m, k.names)
	}
	for i, s := range r.RangeShards {
		p.line("[[sharded_tables.mapping]]")
		if i > 0 || !r.OpenStart {
			p.line("start = %s", show(r.Starts[i]))
		}
		if i < len(r.RangeShards)-1 || !r.OpenEnd {
			p.line("end = %s", show(r.Ends[i]))
		}
		p.line("shard = %d", s)
		p.names(m, nameOf(r.RangeNames, i))
	}
}

func (p *printer) omnisharded(cl *Cluster) {
	p.line("\n[[omnisharded_tables]]")
	p.line("database = %s", quoteTOML(cl.Name))
	names := make([]string, len(cl.Omnisharded))
	for i, t := range cl.Omnisharded {
		names[i] = quoteTOML(t.String())
	}
	p.line("tables = [%s]", strings.Join(names, ", "))
}

func (p *printer) schema(cl *Cluster, s ShardedSchema) {
	p.line("\n[[sharded_schemas]] # %s:%d", s.Pos.File, s.Pos.Line)
	p.line("database = %s", quoteTOML(cl.Name))
	if s.Name != "" {
		p.line("name = %s", quoteTOML(s.Name))
	}
	if s.All {
		p.line("all = true")
		return
	}
	p.line("shard = %d", s.Shard)
}

// String returns schema.name, or the name alone.
func (t TableName) String() string {
	if t.Schema == "" {
		return t.Name
	}
	return t.Schema + "." + t.Name
}

// toml prints a value, secrets as "***".
func (v value) toml() string {
	switch v.key.kind {
	case kKey:
		if v.b {
			return v.s
		}
		return quoteTOML(v.s)
	case kText, kPath, kEnum:
		return quoteTOML(v.s)
	case kSecret:
		return quoteTOML(Secret(v.s).String())
	case kBool:
		return strconv.FormatBool(v.b)
	case kInt, kPort, kMillis:
		return strconv.FormatInt(v.i, 10)
	case kFloat:
		return strconv.FormatFloat(v.f, 'g', -1, 64)
	case kTexts, kSecrets:
		out := make([]string, len(v.list))
		for i, s := range v.list {
			if v.key.kind == kSecrets {
				s = Secret(s).String()
			}
			out[i] = quoteTOML(s)
		}
		return "[" + strings.Join(out, ", ") + "]"
	case kRules, kAny:
	}
	return `"..."`
}

// source says where a value comes from.
func (v value) source() string {
	switch {
	case !v.set:
		return "default"
	case v.where != "":
		return v.where
	}
	return v.at.String()
}

// quoteTOML prints a text as a basic string.
func quoteTOML(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
