package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// Directory is where tenants are known that are not in the configuration. Names of files are whole, but where the configuration was only parsed.
type Directory struct {
	Store string // "file" or "etcd"
	Path  string
	// Endpoints, Prefix and what follows are of etcd.
	Endpoints               []string
	Prefix                  string
	CACertificate           string
	Certificate, PrivateKey string
	User                    string
	Password                Secret
	KeyFile                 string // empty = as the store has it
	MoreKeyFiles            []string
	AuditKeep               time.Duration // 0 = for ever
	AuditEntries            int           // 0 = all
	Cache                   string
}

// Provision is how instances are made on this host. Names of files are whole, but where the configuration was only parsed.
type Provision struct {
	Driver       string
	Host         string // empty = the system's name
	Listen       string // IP address for pgkennels of other hosts; empty = none
	DataDir      string
	BinDirs      []string // empty = wherever they are
	Templates    string
	Backups      string
	PortMin      int
	PortMax      int
	UIDMin       int
	UIDMax       int
	MaxInstances int           // 0 = no limit
	Account      string        // who runs initdb; empty = postgres, or nobody
	LogSize      int64         // in bytes
	Cgroup       string        // empty = one of our own
	UnitDir      string        // of systemd
	DockerSocket string        // empty = as the environment says
	DockerImage  string        // with {version}
	DockerNet    string        // empty = none
	Grace        time.Duration // 0 = a removed tenant is gone
	SuspendAfter time.Duration // 0 = never
	Kubernetes   Kubernetes
}

// Kubernetes is where the driver kubernetes makes instances.
type Kubernetes struct {
	Kubeconfig, Context, Namespace string // empty = as the surroundings say
	StorageClass                   string // empty = the default one
	Disk                           string
	Image, Version, Address        string
}

// buildDirectory fills in what [directory], [provision] and the parts of [admin] beside the database say. readFile is nil where files are not looked at.
func (b *builder) buildDirectory(readFile func(string) ([]byte, error)) {
	c, d, p, a := b.cfg, b.cfg.directory, b.cfg.provision, b.cfg.admin
	below := func(path string) string { return b.below(path, readFile != nil) }
	c.Provision = Provision{
		Driver: p.text("driver"), Host: p.text("host"), Listen: p.text("listen"), DataDir: below(p.text("data_dir")), BinDirs: p.value("bin_dirs").list,
		Templates: below(p.text("templates")), Backups: below(p.text("backups")), PortMin: p.int("port_min"), PortMax: p.int("port_max"),
		UIDMin: p.int("uid_min"), UIDMax: p.int("uid_max"), MaxInstances: p.int("max_instances"),
		Account: p.text("account"), LogSize: int64(p.int("log_size")), Cgroup: p.text("cgroup"), UnitDir: below(p.text("systemd_unit_dir")),
		DockerSocket: below(p.text("docker_socket")), DockerImage: p.text("docker_image"), DockerNet: p.text("docker_network"),
		Grace: p.millis("grace"), SuspendAfter: p.millis("suspend_after"),
	}
	b.buildKubernetes(below)
	b.inOrder(p.value("port_min"), p.value("port_max"), "")
	b.inOrder(p.value("uid_min"), p.value("uid_max"), "")
	for i, dir := range c.Provision.BinDirs {
		if !filepath.IsAbs(dir) {
			b.r.fail(p.elemPlace("bin_dirs", i), "write the whole path, beginning with /", "bin_dirs: %q is not an absolute path", dir)
		}
	}
	if p.usable("docker_image") && !strings.Contains(p.text("docker_image"), "{version}") {
		b.r.fail(p.placeOf("docker_image"), "such as postgres:{version}", "docker_image %q does not say where the version goes", p.text("docker_image"))
	}
	if p.text("docker_network") == "host" {
		b.r.fail(p.placeOf("docker_network"), "make one for tenants: docker network create", "docker_network can't be the host's: tenants could connect to each other's servers")
	}
	b.checkListen()
	if g := p.text("cgroup"); g != "" && !filepath.IsLocal(g) {
		b.r.fail(p.placeOf("cgroup"), "such as pgkennel.slice", "cgroup %q is no path below the root of control groups", g)
	}
	if p.doc != nil && d.doc == nil {
		b.r.fail(p.at(), "add it", "[provision] needs a section [directory]")
	}
	if d.doc != nil {
		path := below(d.text("path"))
		c.Directory = &Directory{
			Store: d.text("store"), Path: path, Endpoints: d.value("endpoints").list, Prefix: d.text("prefix"),
			CACertificate: below(d.text("tls_ca_certificate")), Certificate: below(d.text("tls_certificate")), PrivateKey: below(d.text("tls_private_key")),
			User: d.text("user"), Password: d.secret("password"), KeyFile: below(d.text("key_file")), Cache: below(d.text("cache")),
			AuditKeep: d.millis("audit_keep"), AuditEntries: d.int("audit_entries"),
		}
		for _, path := range d.value("more_key_files").list {
			c.Directory.MoreKeyFiles = append(c.Directory.MoreKeyFiles, below(path))
		}
		if c.Directory.Cache == "" {
			c.Directory.Cache = path + ".cache"
		}
		b.checkDirectory()
	}
	c.Admin.Socket = below(a.text("socket"))
	if c.Admin.Socket == "" && c.Directory != nil {
		c.Admin.Socket = c.Directory.Path + ".sock"
	}
	if n := len(c.Admin.Socket); n > maxSocketPath {
		at := a.placeOf("socket")
		if !a.has("socket") {
			at = d.at()
		}
		b.r.fail(at, "set socket in [admin] to a shorter path", "the name of the socket for pgkennel's own commands has %d bytes, more than the %d that a socket can have", n, maxSocketPath)
	}
	b.apiToken(below(a.text("api_token_file")), readFile)
}

// checkListen reports an address for pgkennels of other hosts that is none, or that nobody would listen at.
func (b *builder) checkListen() {
	p, d := b.cfg.provision, b.cfg.directory
	text := p.text("listen")
	if text == "" {
		return
	}
	if ip, err := netip.ParseAddr(text); err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		b.r.fail(p.placeOf("listen"), "such as 10.0.0.1", "listen %q is not the IP address of one host", text)
	}
	if driver := p.text("driver"); driver != "process" && driver != "systemd" && !p.badKey("driver") {
		b.r.fail(p.placeOf("listen"), "", "listen is for the drivers process and systemd only")
	}
	if d.doc != nil && d.text("store") != "etcd" && !d.badKey("store") {
		b.r.fail(p.placeOf("listen"), `set store = "etcd" in [directory]`, "listen is for pgkennels that share a directory")
	}
}

// buildKubernetes fills in what [kubernetes] says.
func (b *builder) buildKubernetes(below func(string) string) {
	k := b.cfg.kubernetes
	b.cfg.Provision.Kubernetes = Kubernetes{
		Kubeconfig: below(k.text("kubeconfig")), Context: k.text("context"), Namespace: k.text("namespace"), StorageClass: k.text("storage_class"),
		Disk: k.text("disk"), Image: k.text("image"), Version: k.text("version"), Address: k.text("address"),
	}
	if k.doc != nil && b.cfg.Provision.Driver != "kubernetes" && !b.cfg.provision.badKey("driver") {
		b.r.fail(k.at(), `set driver = "kubernetes" in [provision]`, "[kubernetes] is for the driver kubernetes only")
	}
	for _, want := range []struct{ key, part string }{{"image", "{version}"}, {"address", "{service}"}} {
		if k.usable(want.key) && !strings.Contains(k.text(want.key), want.part) {
			b.r.fail(k.placeOf(want.key), "", "%s: %s has to be in it", want.key, want.part)
		}
	}
}

// below is a path as seen from the configuration's directory; a whole one, where files are looked at.
func (b *builder) below(path string, whole bool) string {
	if path == "" {
		return ""
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(b.config.name), path)
	}
	if abs, err := filepath.Abs(path); err == nil && whole {
		path = abs
	}
	return path
}

// checkDirectory reports keys of [directory] that lack another one, or have no meaning.
func (b *builder) checkDirectory() {
	d, r := b.cfg.directory, b.r
	if d.badKey("store") {
		return
	}
	etcd := d.text("store") == "etcd"
	for _, name := range []string{"endpoints", "prefix", "tls_ca_certificate", "tls_certificate", "tls_private_key", "user", "password"} {
		if !etcd && d.has(name) && (name != "prefix" || d.text(name) != d.value(name).key.def) { // check prints that one
			r.fail(d.placeOf(name), `set store = "etcd"`, "%s is for etcd only", name)
		}
	}
	if etcd && len(d.value("endpoints").list) == 0 && !d.badKey("endpoints") {
		r.fail(d.placeOf("store"), `such as endpoints = ["https://10.0.0.1:2379"]`, `store = "etcd" needs the key endpoints`)
	}
	for i, e := range d.value("endpoints").list {
		if !strings.HasPrefix(e, "http://") && !strings.HasPrefix(e, "https://") && !strings.HasPrefix(e, "unix://") {
			r.fail(d.elemPlace("endpoints", i), "such as https://10.0.0.1:2379", "%q is no address of etcd", e)
		}
	}
	pair := func(has, needs string) {
		if etcd && d.text(has) != "" && d.text(needs) == "" && !d.badKey(needs) {
			r.fail(d.placeOf(has), "add "+needs, "%s is set without %s", has, needs)
		}
	}
	pair("tls_certificate", "tls_private_key")
	pair("tls_private_key", "tls_certificate")
	pair("user", "password")
	pair("password", "user")
	if d.usable("path") && d.text("path") == "" {
		r.fail(d.placeOf("path"), "leave the key out", "path is empty")
	}
}

// minToken is the length of a token that nobody guesses.
const minToken = 16

// apiToken reads the token of the HTTP API.
func (b *builder) apiToken(path string, readFile func(string) ([]byte, error)) {
	c, a := b.cfg, b.cfg.admin
	c.Admin.APIHost, c.Admin.APIPort = a.text("api_host"), a.int("api_port")
	if c.Admin.APIPort == 0 {
		return
	}
	if c.Directory == nil {
		b.r.fail(a.placeOf("api_port"), "add it to pgdog.toml", "api_port needs a section [directory]")
	}
	if path == "" {
		if !a.badKey("api_token_file") {
			b.r.fail(a.placeOf("api_port"), "add it; openssl rand -hex 32 makes a token", "api_port needs the key api_token_file")
		}
		return
	}
	if readFile == nil {
		return
	}
	text, err := readFile(path)
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	token := strings.TrimSpace(string(text))
	switch {
	case err != nil:
		b.r.fail(a.placeOf("api_token_file"), "openssl rand -hex 32 makes a token", "api_token_file %s: %s", strconv.Quote(path), err)
	case len(token) < minToken:
		b.r.fail(a.placeOf("api_token_file"), "openssl rand -hex 32 makes a token", "api_token_file %s: the token has %d characters, it needs %d", strconv.Quote(path), len(token), minToken)
	default:
		c.Admin.APIToken = Secret(token)
	}
}

// TenantTaken says why a tenant of the directory may not be called name, or have a key in a cluster; empty = it may. The configuration and the directory
// are one namespace: what the one has, the other may not name.
func (c *Config) TenantTaken(name, cluster, key string) string {
	switch {
	case c.Cluster(name) != nil:
		return "a database of the configuration is called so"
	case name == c.Admin.Name:
		return "the admin database is called so"
	}
	if c.Tenancy == nil {
		return ""
	}
	r := c.Tenancy.Registry
	if r.Configured(name) {
		return "a tenant of the configuration is called so"
	}
	if key != "" && cluster != "" {
		if t := r.ConfiguredKey(cluster, key); t != nil {
			return "tenant " + strconv.Quote(t.Name) + " of the configuration has the key"
		}
	}
	for _, cl := range c.Clusters {
		// A key without an entry is a tenant of its own name. Of keys that are texts every name is one.
		if k, ok := sharding.ParseKey(keyTypes[cl.TenantType], name); cl.TenantType != Text && ok && k.String() == name && r.Makes(cl.Name, name) && (cl.Name != cluster || name != key) {
			return "it is the key of a tenant of database " + strconv.Quote(cl.Name)
		}
	}
	return ""
}

// TenantConflict says in what the configuration and a tenant of the directory are at odds; empty = in nothing.
func (c *Config) TenantConflict(r *tenant.Record) string {
	if why := c.TenantTaken(r.Name, r.Cluster, r.Key); why != "" {
		return "tenant " + strconv.Quote(r.Name) + " of the directory: " + why
	}
	return ""
}

// InstancePool is how the pools of tenants with an instance of their own are set up.
func (c *Config) InstancePool() Pool {
	return c.Pool(&User{t: emptyTable(usersSection)}, &Endpoint{Role: topology.Primary, t: emptyTable(databasesSection)})
}

// InstanceMode is how long their clients keep a connection.
func (c *Config) InstanceMode() PoolerMode { return PoolerMode(c.general.text("pooler_mode")) }

// InstancePin is what becomes of them when they leave something on it.
func (c *Config) InstancePin() Pin { return Pin(c.general.text("pin")) }
