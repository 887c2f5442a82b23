package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Options say where a configuration is.
type Options struct {
	// ConfigFile is the path of pgdog.toml, UsersFile that of users.toml.
	ConfigFile, UsersFile string
	// ConfigGiven and UsersGiven say that somebody asked for that very file: it is a mistake if it does not exist.
	// Otherwise a missing file means defaults, and a warning.
	ConfigGiven, UsersGiven bool
	// Environ is the environment as os.Environ returns it.
	Environ []string
}

// File is a file's name, as problems show it, and its text.
type File struct {
	Name    string
	Text    string
	Missing bool // there is no such file: defaults
}

// Load reads both files and the environment, and looks at the files of certificates that they name. The error is of
// type Problems. Warnings are returned with and without an error.
func Load(o Options) (*Config, Warnings, error) {
	b := newBuilder()
	config := b.readFile(o.ConfigFile, 0, o.ConfigGiven)
	users := b.readFile(o.UsersFile, 1, o.UsersGiven)
	return b.build(config, users, o.Environ, os.ReadFile)
}

// Parse is Load without a disk: it takes the files' texts, and does not look at the files that they name.
func Parse(config, users File, environ []string) (*Config, Warnings, error) {
	return newBuilder().build(config, users, environ, nil)
}

// builder makes one Config.
type builder struct {
	cfg *Config
	r   *report

	config, users *document
	clusters      map[string]*Cluster
	shards        map[string]map[topology.ShardID]bool // numbers that a cluster's endpoints name
	unknownNames  bool                                 // an entry's name could not be read: a link to it may be right
	compared      int                                  // names that were compared for suggestions
	reported      map[[2]place]bool                    // pairs of values that were found at odds
	written       map[*Mapping][]rawNames              // where mappings' names are written
	mapped        map[string]*Mapping                  // the one of each cluster that gives names to tenants
	schemaAt      map[string][]place                   // of Cluster.Schemas
}

func newBuilder() *builder {
	return &builder{
		cfg: &Config{}, r: &report{}, clusters: map[string]*Cluster{}, shards: map[string]map[topology.ShardID]bool{}, reported: map[[2]place]bool{},
		written: map[*Mapping][]rawNames{}, mapped: map[string]*Mapping{}, schemaAt: map[string][]place{},
	}
}

// readFile reads a file without a second copy of its text.
func (b *builder) readFile(path string, order int, given bool) File {
	f := File{Name: path}
	at := place{doc: &document{name: path, order: order}, whole: true}
	fail := func(err error) File {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		f.Missing = true
		switch {
		case !errors.Is(err, fs.ErrNotExist):
			b.r.fail(at, "", "the file can't be read: %s", err)
		case given:
			b.r.fail(at, "", "the file does not exist")
		default:
			return f
		}
		return f
	}
	file, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = file.Close() }() // nothing was written
	info, err := file.Stat()
	if err != nil {
		return fail(err)
	}
	if info.Size() > maxFileBytes {
		return fail(fmt.Errorf("it has %d bytes, more than the %d that are read", info.Size(), maxFileBytes))
	}
	var sb strings.Builder
	sb.Grow(int(info.Size()))
	if _, err := io.Copy(&sb, file); err != nil {
		return fail(err)
	}
	f.Text = sb.String()
	return f
}

// build does everything, in an order in which each part finds what it refers to.
func (b *builder) build(config, users File, environ []string, readFile func(string) ([]byte, error)) (*Config, Warnings, error) {
	failed := len(b.r.errs) > 0
	b.config = readDocument(config.Name, config.Text, 0, true, b.r)
	b.users = readDocument(users.Name, users.Text, 1, false, b.r)
	for i, f := range []File{config, users} {
		if f.Missing && !failed {
			b.r.warn(place{doc: []*document{b.config, b.users}[i], whole: true}, "", "the file does not exist, defaults are used")
		}
		if f.Missing && failed {
			b.unknownNames = true
		}
	}
	b.checkSections(b.config, false)
	b.checkSections(b.users, true)

	c := b.cfg
	c.general = b.single(b.config, generalSection)
	applyEnvironment(c.general, environ, b.r)
	c.tcp = b.single(b.config, tcpSection)
	c.directory, c.provision = b.single(b.config, directorySection), b.single(b.config, provisionSection)
	c.kubernetes = b.single(b.config, kubernetesSection)
	c.tenant = b.single(b.config, multiTenantSection)
	b.readAdmin()
	b.buildGeneral()
	b.buildPeers()
	b.buildDirectory(readFile)
	if readFile != nil {
		b.checkTLSFiles(readFile)
	}
	b.buildClusters()
	b.adminPasswords(readFile)
	b.buildSharding()
	b.buildSchemas()
	b.buildUsers()
	b.buildTenancy(readFile)

	warnings := Warnings(sorted(b.r.warns))
	if len(b.r.errs) > 0 {
		return nil, warnings, Problems(sorted(b.r.errs))
	}
	c.forget()
	return c, warnings, nil
}

// readAdmin takes [admin] from users.toml if it is there, as PgDog does, else from pgdog.toml.
func (b *builder) readAdmin() {
	c := b.cfg
	c.admin = b.single(b.config, adminSection)
	inUsers := b.single(b.users, adminSection)
	if inUsers.doc != nil {
		if c.admin.doc != nil {
			b.r.warn(c.admin.at(), "keep one of them", "[admin] is in both files; the one in %s is used", inUsers.at())
		}
		c.admin = inUsers
	}
}

// checkSections reports what stands at the top of a file and is not a section of it, sections in the wrong form, and
// sections that are not obeyed yet, whose keys are checked all the same.
func (b *builder) checkSections(d *document, users bool) {
	for _, name := range sortedKeys(d.values, d.root) {
		at := d.at(0)
		if n := d.root.child(name); n != nil {
			at = d.at(n.off)
		}
		s := sectionNamed(name, users)
		if s == nil {
			b.unknownSection(d, name, users, at)
			continue
		}
		_, isMap := d.values[name].(map[string]any)
		_, isList := asTables(d.values[name])
		switch {
		case !isMap && !isList:
			b.r.fail(at, "write "+s.header()+" on a line of its own, and its keys below", "%s must be a section, not %s", name, typeName(d.values[name]))
			d.broken = true
		case s.list && isMap:
			b.r.fail(at, "write "+s.header(), "%s can be there several times, its header has two brackets", s.header())
			d.broken = true
		case !s.list && isList:
			b.r.fail(at, "write "+s.header(), "%s can be there once only, its header has one bracket", s.header())
			d.broken = true
		}
		if s.notYet {
			for _, t := range b.tables(d, s) {
				b.r.warn(t.at(), "it is ignored", "section %s is PgDog's and not yet supported by pgkennel", s.header())
			}
		} else if !isSectionRead(s) {
			b.tables(d, s)
		}
	}
}

// isSectionRead says whether a section is read by somebody else than checkSections.
func isSectionRead(s *section) bool {
	switch s {
	case generalSection, adminSection, tcpSection, peersSection, directorySection, provisionSection, kubernetesSection, multiTenantSection, databasesSection, shardedTablesSection, shardedMappingsSection, omnishardedSection, tenantsSection, usersSection:
		return true
	}
	return false
}

func (b *builder) unknownSection(d *document, name string, users bool, at place) {
	what := "section " + name
	switch d.values[name].(type) {
	case map[string]any, []map[string]any:
	default:
		what = "key " + name
		if k := generalSection.byName[name]; k != nil && !users {
			b.r.fail(at, "put it below [general]", "%s stands outside any section", what)
			return
		}
	}
	hint := didYouMean(name, sectionNames(users))
	if sectionNamed(name, !users) != nil {
		hint = "it belongs in " + map[bool]string{true: "pgdog.toml", false: "users.toml"}[users]
	}
	b.r.fail(at, hint, "unknown %s", what)
}

// asTables returns a decoded value as a list of tables, if it is one.
func asTables(x any) ([]map[string]any, bool) {
	switch x := x.(type) {
	case []map[string]any:
		return x, true
	case []any:
		out := make([]map[string]any, 0, len(x))
		for _, e := range x {
			m, ok := e.(map[string]any)
			if !ok {
				return nil, false
			}
			out = append(out, m)
		}
		return out, len(out) > 0
	}
	return nil, false
}

// single reads a section that is there once, or not at all.
func (b *builder) single(d *document, s *section) *table {
	ts := b.tables(d, s)
	if len(ts) == 0 {
		return emptyTable(s)
	}
	return ts[0]
}

// tables reads every section of a kind that a file has.
func (b *builder) tables(d *document, s *section) []*table {
	x, n := d.values[s.name], d.root.child(s.name)
	if m, ok := x.(map[string]any); ok {
		return []*table{readTable(d, s, m, n, b.r)}
	}
	list, _ := asTables(x)
	var nodes []*node
	if n != nil {
		for _, e := range n.elems {
			if !e.gone {
				nodes = append(nodes, e)
			}
		}
	}
	out := make([]*table, len(list))
	for i, m := range list {
		at := n
		if i < len(nodes) {
			at = nodes[i]
		}
		out[i] = readTable(d, s, m, at, b.r)
	}
	return out
}

// forget lets go of the files' texts: what is left of a Config must not keep them in memory.
func (c *Config) forget() {
	for _, t := range append([]*table{c.general, c.admin, c.tcp, c.directory, c.provision, c.kubernetes, c.tenant}, c.tenants...) {
		t.pin()
	}
	for _, cl := range c.Clusters {
		cl.at = place{}
		for _, shard := range cl.Shards {
			for _, e := range shard {
				e.t.pin()
			}
		}
	}
	for _, u := range c.Users {
		u.t.pin()
	}
}
