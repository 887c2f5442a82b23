package tenant

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Options are what a Registry is made of.
type Options struct {
	// Setting is the run-time parameter that carries the tenant's key, such as app.current_tenant.
	Setting string
	// Isolation and Mode are those of tenants that have none of their own.
	Isolation Isolation
	Mode      Mode
	// Templates of the names of tenants' schemas, roles and databases.
	Schema, Role, Database Template
	// Tenants that have an entry of their own. Fields that are zero have the values above.
	Tenants []Tenant
	// Clusters are those where a key without an entry is a tenant as well, if the templates need no more than that.
	Clusters []string
	// Mapped is what the mappings of clusters give to their tenants, instead of what the templates do.
	Mapped map[string]*Mapped
}

// Registry is all tenants of a configuration, and of the directory that it follows. It is safe for concurrent use; what it has of the configuration does not
// change.
type Registry struct {
	o      Options
	names  map[string]*Tenant
	keys   map[place]*Tenant
	owners map[owned]string // whose is a schema, a role, a database
	byKey  map[string]bool  // clusters
	live   *follower        // nil = nothing is followed

	mu struct {
		sync.RWMutex
		made, before map[place]*Tenant // without an entry; those before are forgotten next
	}
}

// mostMade bounds the tenants without an entry that are remembered, twice: clients may name any key.
const mostMade = 16 << 10

// place is a key in a cluster.
type place struct{ cluster, key string }

// owned is a name on the servers of a cluster that one tenant only may have.
type owned struct{ what, cluster, database, name string }

// Mistake is what is wrong with a tenant, or with the options (Index < 0).
type Mistake struct {
	Index int // in Options.Tenants
	Err   error
	// Cluster is not empty for what is wrong with entry Entry of its mapping.
	Cluster string
	Entry   int
}

// New returns the registry of o, or every mistake in it.
func New(o Options) (*Registry, []Mistake) {
	r := &Registry{
		o: o, names: make(map[string]*Tenant, len(o.Tenants)), keys: make(map[place]*Tenant, len(o.Tenants)),
		owners: make(map[owned]string, 2*len(o.Tenants)), byKey: make(map[string]bool),
	}
	var wrong []Mistake
	for _, t := range []Template{o.Schema, o.Role, o.Database} {
		if err := t.Check(); err != nil {
			wrong = append(wrong, Mistake{Index: -1, Err: err})
		}
	}
	if wrong != nil {
		return nil, wrong
	}
	if o.Mode == Sealed && o.Isolation != Row {
		wrong = append(wrong, Mistake{Index: -1, Err: errSealed})
	}
	for i := range o.Tenants {
		if err := r.add(o.Tenants[i]); err != nil {
			wrong = append(wrong, Mistake{Index: i, Err: err})
		}
	}
	if wrong != nil {
		return nil, wrong
	}
	if r.madeByKey(Names{}) {
		for _, c := range o.Clusters {
			r.byKey[c] = true
		}
	}
	for _, c := range slices.Sorted(maps.Keys(o.Mapped)) {
		wrong = append(wrong, r.addMapped(c, o.Mapped[c])...)
	}
	if wrong != nil {
		return nil, wrong
	}
	return r, nil
}

func (r *Registry) add(t Tenant) error {
	if !ValidName(t.Name) {
		return fmt.Errorf("tenant %q: a name has lower-case letters, digits, _ and -, and begins with a letter or digit", t.Name)
	}
	if err := r.complete(&t); err != nil {
		return err
	}
	if r.names[t.Name] != nil {
		return fmt.Errorf("tenant %q is there twice", t.Name)
	}
	at := place{t.Cluster, t.Key}
	if other := r.keys[at]; t.Key != "" && other != nil {
		return fmt.Errorf("tenants %q and %q have the same key", other.Name, t.Name)
	}
	for _, o := range t.owned() {
		if other, taken := r.owners[o]; taken {
			return fmt.Errorf("tenants %q and %q have the same %s %q", other, t.Name, o.what, o.name)
		}
	}
	for _, o := range t.owned() {
		r.owners[o] = t.Name
	}
	r.names[t.Name] = &t
	if t.Key != "" {
		r.keys[at] = &t
	}
	return nil
}

func (t *Tenant) owned() []owned {
	var list []owned
	if t.Role != "" {
		list = append(list, owned{"role", t.Cluster, "", t.Role})
	}
	if t.Schema != "" {
		list = append(list, owned{"schema", t.Cluster, t.Database, t.Schema})
	}
	if t.Database != "" {
		list = append(list, owned{"database", t.Cluster, "", t.Database})
	}
	return list
}

// madeByKey reports whether the key alone makes a tenant, one to whom the mapping gives these names.
func (r *Registry) madeByKey(n Names) bool {
	i := r.isolation(n)
	what, _ := r.lacking(n)
	return what == "" && i != Instance && (i != Database || r.o.Mode == Strict)
}

func (r *Registry) isolation(n Names) Isolation {
	if n.Schema != "" {
		return Schema
	}
	return r.o.Isolation
}

// lacking is the first name that a tenant of a key alone, to whom the mapping gives these, would not have for itself, by the key of its template; empty = none.
func (r *Registry) lacking(n Names) (what string, tpl Template) {
	i, m := r.isolation(n), r.o.Mode
	for _, name := range []struct {
		what       string
		given, tpl Template
		wanted     bool
	}{
		{"schema", n.Schema, r.o.Schema, i == Schema},
		{"role", n.Role, r.o.Role, m == Strict || i == Schema},
		{"database_name", "", r.o.Database, i == Database},
	} {
		if name.wanted && name.given == "" && !(name.tpl.ByKey() && name.tpl.Distinct()) {
			return name.what, name.tpl
		}
	}
	return "", ""
}

// WhyNone tells why there is no tenant at all but those of a directory; nil = there are some.
func (r *Registry) WhyNone() error {
	if len(r.names) > 0 || len(r.o.Mapped) > 0 {
		return nil
	}
	if r.o.Isolation == Database && r.o.Mode != Strict {
		return errDatabase
	}
	if what, tpl := r.lacking(Names{}); what != "" {
		return fmt.Errorf("%s %q is not made of a tenant's key alone", what, tpl)
	}
	return nil
}

var (
	errNoKey     = errors.New("row isolation needs its key")
	errSealed    = errors.New("sealed mode is for row isolation only")
	errDatabase  = errors.New("database isolation needs strict mode: the shared login has one database for all")
	errPlaceless = errors.New("instance isolation is provisioned, and can't be configured here")
)

// complete fills in what a tenant has of its mapping's names and of the defaults, and checks it.
func (r *Registry) complete(t *Tenant) error {
	return r.completeWith(t, r.mappedNames(t.Cluster, t.Key))
}

func (r *Registry) completeWith(t *Tenant, mapped Names) error {
	wrong := func(err error) error { return fmt.Errorf("tenant %q: %w", t.Name, err) }
	if t.Isolation == 0 && mapped.Schema != "" {
		t.Isolation = Schema
	}
	if t.Isolation == 0 {
		t.Isolation = r.o.Isolation
	}
	if t.Mode == 0 {
		t.Mode = r.o.Mode
	}
	if t.State == 0 {
		t.State = Active
	}
	switch {
	case t.Isolation == Instance && t.ID != "": // it was made
		t.setContext(r.o.Setting)
		return nil
	case t.Isolation == Instance:
		return wrong(errPlaceless)
	case t.Isolation == Row && t.Key == "":
		return wrong(errNoKey)
	case t.Isolation != Row && t.Mode == Sealed:
		return wrong(errSealed)
	case t.Isolation == Database && t.Mode != Strict:
		return wrong(errDatabase)
	}
	for _, name := range []struct {
		to     *string
		what   string
		tpl    Template
		wanted bool
	}{
		{&t.Schema, "schema", cmp.Or(mapped.Schema, r.o.Schema), t.Isolation == Schema},
		{&t.Role, "role", cmp.Or(mapped.Role, r.o.Role), t.Isolation == Schema || t.Mode == Strict},
		{&t.Database, "database", r.o.Database, t.Isolation == Database},
	} {
		if !name.wanted {
			*name.to = ""
			continue
		}
		if *name.to == "" {
			s, err := name.tpl.Expand(t.Name, t.Key, "")
			if err != nil {
				return wrong(err)
			}
			*name.to = s
		}
		if bad := CheckIdent(*name.to); bad != "" {
			return wrong(fmt.Errorf("its %s %q %s", name.what, *name.to, bad))
		}
	}
	t.setContext(r.o.Setting)
	return nil
}

// ByName finds a tenant by its name, nil if there is none.
func (r *Registry) ByName(name string) *Tenant {
	if t := r.names[name]; t != nil || r.live == nil {
		return t
	}
	return r.followed(r.live.from.ByName(name))
}

// ByKey finds a tenant of a cluster by its key, nil if there is none. The key is in the form in which PostgreSQL prints it.
func (r *Registry) ByKey(cluster, key string) *Tenant {
	at := place{cluster, key}
	t := r.keys[at]
	if t == nil && key != "" && r.live != nil {
		if rec := r.live.from.ByKey(cluster, key); rec != nil {
			return r.followed(rec)
		}
	}
	if t != nil || key == "" || !r.makes(cluster, key) {
		return t
	}
	r.mu.RLock()
	t = r.mu.made[at]
	r.mu.RUnlock()
	if t != nil {
		return t
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t = r.mu.made[at]; t != nil {
		return t
	}
	key = strings.Clone(key) // of a parameter it may be a view, which is another's in the next moment
	at.key = key
	if t = r.mu.before[at]; t == nil {
		t = &Tenant{Name: key, Key: key, Cluster: cluster, Shard: -1}
		if r.complete(t) != nil || r.taken(t) {
			return nil
		}
	}
	if len(r.mu.made) >= mostMade || r.mu.made == nil {
		r.mu.made, r.mu.before = make(map[place]*Tenant), r.mu.made
	}
	r.mu.made[at] = t
	return t
}

// taken reports whether a tenant with an entry has the name, or a place, that t would have.
func (r *Registry) taken(t *Tenant) bool {
	return r.names[t.Name] != nil || r.ownsOf(t) || r.takenLive(t)
}

// ownsOf reports whether a tenant with an entry has a place that t would have.
func (r *Registry) ownsOf(t *Tenant) bool {
	for _, o := range t.owned() {
		if owner, ok := r.owners[o]; ok && owner != t.Name {
			return true
		}
	}
	return false
}

// OwnsSchema reports whether a schema of a cluster's shards is a tenant's own, or would be one's whose key is in its name.
func (r *Registry) OwnsSchema(cluster, schema string) bool {
	if _, ok := r.owners[owned{"schema", cluster, "", schema}]; ok {
		return true
	}
	if r.live != nil && r.live.from.BySchema(cluster, schema) != nil {
		return true
	}
	return r.byKey[cluster] && r.o.Isolation == Schema && r.o.Schema.matches(schema) || r.o.Mapped[cluster].ownsSchema(schema)
}

// BySchema finds the tenant whose own schema on a cluster's shards this is, nil if it is nobody's.
func (r *Registry) BySchema(cluster, schema string) *Tenant {
	if !r.OwnsSchema(cluster, schema) {
		return nil
	}
	var t *Tenant
	if r.live != nil {
		if rec := r.live.from.BySchema(cluster, schema); rec != nil {
			return r.followed(rec)
		}
	}
	if owner, ok := r.owners[owned{"schema", cluster, "", schema}]; ok {
		if t = r.names[owner]; t == nil {
			t = r.ByKey(cluster, owner)
		}
	}
	templates := []Template{r.o.Schema}
	if m := r.o.Mapped[cluster]; m != nil {
		for _, n := range m.Entries {
			templates = append(templates, n.Schema)
		}
	}
	for _, tpl := range templates {
		if key, ok := tpl.keyOf(schema); ok && key != "" && t == nil {
			t = r.ByKey(cluster, key)
		}
		if t != nil && t.Schema != schema {
			t = nil
		}
	}
	return t
}

// Len is how many tenants have an entry in the configuration.
func (r *Registry) Len() int { return len(r.names) }

// Defaults returns what tenants without an entry have, and whether a cluster has such tenants.
func (r *Registry) Defaults(cluster string) (i Isolation, m Mode, byKey bool) {
	return r.o.Isolation, r.o.Mode, r.byKey[cluster]
}

// Sealed reports whether there are, or may be, sealed tenants in a cluster.
func (r *Registry) Sealed(cluster string) bool {
	return slices.ContainsFunc(r.Kinds(cluster), func(k Kind) bool { return k.Mode == Sealed })
}

// Kind is how tenants are kept apart, and what holds them.
type Kind struct {
	Isolation Isolation
	Mode      Mode
}

// Kinds are those that a cluster has tenants of, or would have for keys without an entry, in a fixed order.
func (r *Registry) Kinds(cluster string) []Kind {
	var kinds []Kind
	add := func(k Kind) {
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	if r.byKey[cluster] {
		add(Kind{r.o.Isolation, r.o.Mode})
	}
	if m := r.o.Mapped[cluster]; m != nil {
		for _, n := range m.Entries {
			switch {
			case !r.madeByKey(n):
			case n.Schema != "":
				add(Kind{Schema, r.o.Mode})
			default:
				add(Kind{r.o.Isolation, r.o.Mode})
			}
		}
	}
	for _, t := range r.names {
		if t.Cluster == cluster {
			add(Kind{t.Isolation, t.Mode})
		}
	}
	if r.live != nil {
		r.live.from.All(func(rec *Record) bool {
			if rec.Cluster == cluster && rec.Virtual() {
				add(Kind{rec.Isolation, rec.Mode})
			}
			return true
		})
	}
	slices.SortFunc(kinds, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(a.Isolation, b.Isolation), cmp.Compare(a.Mode, b.Mode))
	})
	return kinds
}

// Setting is the run-time parameter that carries the tenant's key.
func (r *Registry) Setting() string { return r.o.Setting }

// All calls f for each tenant with an entry until it returns false.
func (r *Registry) All(f func(*Tenant) bool) {
	going := true
	r.Entries(func(t *Tenant) bool {
		going = f(t)
		return going
	})
	if r.live != nil && going {
		r.live.from.All(func(rec *Record) bool {
			if r.names[rec.Name] != nil {
				return true
			}
			t := r.followed(rec)
			return t == nil || f(t)
		})
	}
}
