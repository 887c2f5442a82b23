package config

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"strconv"

	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// Tenancy is virtual tenancy: who the tenants are, and how logins name them.
type Tenancy struct {
	Registry *tenant.Registry
	Naming   tenant.Naming
	// Secret makes the passwords of tenants' roles; nil = they have none.
	Secret *tenant.Secret
	// Connections bounds those of all tenants' own logins at one endpoint.
	Connections int
	// Schemas is how many tenants' schemas a shared connection may have been used for; 0 = any number.
	Schemas int
}

// buildTenancy reads what [multi_tenant] has beyond PgDog's, [[tenants]], and what users have to do with tenants.
func (b *builder) buildTenancy(readFile func(string) ([]byte, error)) {
	mt := b.cfg.tenant
	b.cfg.tenants = b.tables(b.config, tenantsSection)
	virtual := len(b.cfg.tenants) > 0
	for _, k := range mt.sec.keys {
		virtual = virtual || k.ours && mt.has(k.name)
	}
	virtual = virtual || b.cfg.givesNames() || b.cfg.Directory != nil && mt.doc != nil
	if !virtual {
		if mt.doc != nil && !mt.has("column") && !mt.badKey("column") {
			b.r.fail(mt.at(), "", "[multi_tenant] needs the key column")
		}
		b.checkTenantUsers(nil)
		return
	}
	if len(b.cfg.tenants) == 0 && mt.doc == nil {
		b.mappedNames() // says so
		return
	}
	if b.cfg.tenants != nil && mt.doc == nil {
		b.r.fail(b.cfg.tenants[0].at(), "say there how they are kept apart", "[[tenants]] needs a section [multi_tenant]")
		return
	}
	t := &Tenancy{
		Connections: mt.int("connections"), Schemas: mt.int("schemas_per_connection"),
		Naming: tenant.Naming{Dotted: mt.bool("dotted_logins"), Suffix: mt.text("sni_suffix")},
	}
	for i, by := range mt.value("route_by").list {
		switch by {
		case "user":
			t.Naming.ByUser = true
		case "database":
			t.Naming.ByDatabase = true
		default:
			b.r.fail(mt.elemPlace("route_by", i), "it is user or database", "%q is no value of route_by", by)
		}
	}
	b.tenantSecret(t, readFile)
	if s := mt.text("setting"); !validSetting(s) {
		b.r.fail(mt.placeOf("setting"), "such as app.current_tenant", "%q is no name of a setting of your own: two lower-case words with a dot between them", s)
	}
	o := tenant.Options{
		Setting: mt.text("setting"), Schema: tenant.Template(mt.text("schema")), Role: tenant.Template(mt.text("role")),
		Database: tenant.Template(mt.text("database_name")),
	}
	o.Isolation, _ = tenant.ParseIsolation(mt.text("isolation"))
	o.Mode, _ = tenant.ParseMode(mt.text("mode"))
	for _, cl := range b.cfg.Clusters {
		cl.TenantType = b.tenantType(cl)
		o.Clusters = append(o.Clusters, cl.Name)
	}
	o.Mapped = b.mappedNames()
	rows := o.Isolation == tenant.Row
	places := make([]*table, 0, len(b.cfg.tenants))
	for _, tt := range b.cfg.tenants {
		x, ok := b.tenant(tt)
		if !ok {
			continue
		}
		rows = rows || x.Isolation == tenant.Row
		o.Tenants, places = append(o.Tenants, x), append(places, tt)
	}
	if !mt.has("column") && !mt.badKey("column") && mt.doc != nil {
		switch {
		case rows:
			b.r.fail(mt.at(), `such as column = "tenant_id"`, "[multi_tenant] needs the key column for tenants that share tables")
		case b.cfg.givesNames():
			b.r.fail(mt.at(), `such as column = "tenant_id"`, "[multi_tenant] needs the key column for mappings that give schemas and roles to tenants")
		}
	}
	if len(b.r.errs) > 0 {
		return
	}
	if t.Registry = b.registry(o, places); t.Registry == nil {
		return
	}
	if err := t.Registry.WhyNone(); err != nil && b.cfg.Directory == nil {
		b.r.warn(mt.at(), "tenants without an entry in [[tenants]] need names with {key} in them", "no tenant can log in: %s", err)
	}
	for _, cl := range b.cfg.Clusters {
		cl.schemas = func(schema string) bool { return t.Registry.OwnsSchema(cl.Name, schema) }
	}
	b.checkRoles(t, places)
	b.cfg.Tenancy = t
	b.checkTenantUsers(t)
}

// registry makes the directory of tenants, nil if that can't be; those with an entry have theirs at places.
func (b *builder) registry(o tenant.Options, places []*table) *tenant.Registry {
	mt := b.cfg.tenant
	r, wrong := tenant.New(o)
	for _, w := range wrong {
		switch {
		case w.Index >= 0:
			b.r.fail(places[w.Index].at(), "", "%s", w.Err)
		case w.Cluster != "":
			b.r.fail(b.namesAt(b.mapped[w.Cluster], w.Entry), "", "%s", w.Err)
		default:
			b.r.fail(mt.at(), "", "%s", w.Err)
		}
	}
	if r == nil {
		return nil
	}
	b.tenantsAtHome(r)
	for i := range o.Tenants {
		x := r.ByName(o.Tenants[i].Name)
		if cl := b.clusters[x.Cluster]; x.Shard < 0 && x.Key == "" && len(cl.Shards) > 1 && cl.schema(x.Schema) == nil && !cl.hasRest() {
			b.noShard(places[i], x.Name, cl)
		}
	}
	for _, cl := range b.cfg.Clusters {
		if r.Sealed(cl.Name) && mt.text("role_secret_file") == "" && !mt.badKey("role_secret_file") {
			b.r.fail(mt.at(), "openssl rand -hex 32 makes one", "sealed tenants need role_secret_file, of which the key of their seals is made")
			break
		}
	}
	return r
}

func (b *builder) tenantSecret(t *Tenancy, readFile func(string) ([]byte, error)) {
	mt := b.cfg.tenant
	path := mt.text("role_secret_file")
	if path == "" || readFile == nil {
		return
	}
	text, err := readFile(path)
	if err == nil {
		t.Secret, err = tenant.NewSecret(text)
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	if err != nil {
		b.r.fail(mt.placeOf("role_secret_file"), "openssl rand -hex 32 makes a secret", "role_secret_file %s: %s", strconv.Quote(path), err)
	}
}

// validSetting reports whether s is the name of a setting that anybody may make up (PostgreSQL manual, 20.16), in the form in which it is kept.
func validSetting(s string) bool {
	dots := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if i == 0 || s[i-1] == '.' || i == len(s)-1 {
				return false
			}
			dots++
		case c >= 'a' && c <= 'z', c == '_':
		case c >= '0' && c <= '9':
			if i == 0 || s[i-1] == '.' {
				return false
			}
		default:
			return false
		}
	}
	return dots > 0 && s[:min(len(s), 9)] != "pgkennel." && s[:min(len(s), 6)] != "pgdog."
}

// tenantType is the type of the tenant column in a cluster.
func (b *builder) tenantType(cl *Cluster) DataType {
	mt := b.cfg.tenant
	if mt.usable("data_type") {
		return dataTypes[mt.text("data_type")]
	}
	column := mt.text("column")
	for _, t := range cl.ShardedTables {
		if column != "" && t.Column == column {
			return t.DataType
		}
	}
	return Bigint
}

// tenant reads one entry of [[tenants]].
func (b *builder) tenant(t *table) (tenant.Tenant, bool) {
	x := tenant.Tenant{
		Name: t.text("name"), Schema: t.text("schema"), Role: t.text("role"), Database: t.text("database_name"), Shard: -1,
		Cluster: t.text("database"),
	}
	if t.usable("isolation") {
		x.Isolation, _ = tenant.ParseIsolation(t.text("isolation"))
	}
	if t.usable("mode") {
		x.Mode, _ = tenant.ParseMode(t.text("mode"))
	}
	x.State, _ = tenant.ParseState(t.text("state"))
	switch {
	case x.Cluster != "":
		if b.noCluster(x.Cluster, t.placeOf("database"), "tenant "+strconv.Quote(x.Name)) {
			return x, false
		}
	case len(b.cfg.Clusters) == 1:
		x.Cluster = b.cfg.Clusters[0].Name
	default:
		b.r.fail(t.at(), `add database = "..."`, "tenant %q needs a database: there are %d", x.Name, len(b.cfg.Clusters))
		return x, false
	}
	cl := b.clusters[x.Cluster]
	if t.usable("shard") {
		x.Shard = t.int("shard")
		if !b.hasShard(x.Cluster, topology.ShardID(x.Shard)) { //nolint:gosec // its maximum is smaller
			b.r.fail(t.placeOf("shard"), "", "database %q has no shard %d", x.Cluster, x.Shard)
		}
	}
	if t.usable("key") {
		k, ok := sharding.ParseKey(keyTypes[cl.TenantType], t.text("key"))
		if !ok || (cl.TenantType == Bigint) != t.value("key").b {
			b.r.fail(t.placeOf("key"), "data_type in [multi_tenant] says what it is", "key of tenant %q is no %s", x.Name, cl.TenantType)
			return x, false
		}
		x.Key = k.String()
	}
	if x.Shard < 0 && x.Key == "" && len(cl.Shards) > 1 && len(cl.Schemas) == 0 {
		b.noShard(t, x.Name, cl)
		return x, false
	}
	return x, true
}

func (b *builder) noShard(t *table, name string, cl *Cluster) {
	b.r.fail(t.at(), "add shard = 0, or its key", "tenant %q of database %q, which has %d shards, has neither a shard nor a key", name, cl.Name, len(cl.Shards))
}

var keyTypes = map[DataType]sharding.KeyType{Bigint: sharding.Bigint, UUID: sharding.UUID, Text: sharding.Text}

// isKey reports whether the tenant that a user is bound to could be one for its key alone.
func (b *builder) isKey(u *User) bool {
	k, ok := sharding.ParseKey(keyTypes[b.clusters[u.Database].TenantType], u.Tenant)
	return ok && k.String() == u.Tenant
}

// checkRoles reports tenants' roles with which the pool logs in for somebody else, too: a login that is a tenant's is nobody else's.
func (b *builder) checkRoles(t *Tenancy, places []*table) {
	for _, tt := range places {
		x := t.Registry.ByName(tt.text("name"))
		if x == nil || x.Role == "" {
			continue
		}
		for _, u := range b.cfg.Users {
			if u.Database == x.Cluster && u.Tenant != x.Name && cmp.Or(u.t.text("server_user"), u.Name) == x.Role {
				b.r.fail(tt.placeOf("role"), "give it a role of its own", "tenant %q: its role %q is what %s logs in with", x.Name, x.Role, userLabel(u.t))
				break
			}
		}
	}
}

// checkTenantUsers reports users whose tenant is not there, and what has no meaning without tenants.
func (b *builder) checkTenantUsers(t *Tenancy) {
	var seen []*table
	for _, u := range b.cfg.Users {
		if slices.Contains(seen, u.t) {
			continue
		}
		seen = append(seen, u.t)
		if t == nil {
			for _, key := range []string{"tenant", "tenant_switch", "may_set_role"} {
				if u.t.usable(key) && (key == "tenant" || u.t.bool(key)) {
					b.r.fail(u.t.placeOf(key), "", "%s of %s needs virtual tenancy: [multi_tenant] with more than a column", key, userLabel(u.t))
				}
			}
			continue
		}
		if u.Tenant == "" {
			continue
		}
		switch byKey := t.Registry.ByKey(u.Database, u.Tenant) != nil; {
		case t.Registry.ByName(u.Tenant) != nil:
		case byKey && !b.isKey(u):
			b.r.warn(u.t.placeOf("tenant"), "its logins are refused; add the tenant to [[tenants]]", "%s is bound to the tenant %q, which is there by no name, and is no key", userLabel(u.t), u.Tenant)
		case !byKey:
			b.r.fail(u.t.placeOf("tenant"), "add it to [[tenants]]", "%s is bound to the tenant %q, which is not there", userLabel(u.t), u.Tenant)
		}
	}
}
