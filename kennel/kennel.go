// Package kennel assembles what looks after tenants on demand, of a configuration: the directory and its mirror, the drivers of instances, the archive of
// backups, and the manager. It serves nothing: that is the pooler's. docs/provisioning.md explains the parts.
//
// Goroutines: Run owns its own and returns when they have ended; the manager's, of operations under way, are awaited by Close.
package kennel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/backup"
	"github.com/pgkennel/pgkennel/provision/docker"
	"github.com/pgkennel/pgkennel/provision/kubernetes"
	"github.com/pgkennel/pgkennel/provision/process"
	"github.com/pgkennel/pgkennel/provision/systemd"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store"
)

// Options of a Kennel.
type Options struct {
	Config *config.Config
	// Key is the value of PGKENNEL_DIRECTORY_KEY.
	Key string
	// Wait is how long to wait for another process to let go of the directory's file.
	Wait time.Duration
	Log  *slog.Logger
}

// Kennel looks after tenants of one directory, on one host.
type Kennel struct {
	Directory tenant.Directory
	Mirror    *store.Mirror
	Vault     *tenant.Vault
	Manager   *provision.Manager

	log    *slog.Logger
	cfg    *config.Config
	pooler atomic.Pointer[Pooler]
}

// Open opens the directory that a configuration names, with all that belongs to it. Nothing runs yet.
func Open(ctx context.Context, o Options) (_ *Kennel, err error) {
	cfg := o.Config
	if cfg.Directory == nil {
		return nil, provision.Errorf(provision.KindInvalid, "the configuration has no directory of tenants").WithHint("add a line [directory] to it")
	}
	k := &Kennel{log: o.Log, cfg: cfg}
	if k.Directory, err = openStore(ctx, cfg.Directory, &o); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Directory.Close())
		}
	}()
	key, err := k.key(ctx, cfg.Directory, o.Key)
	if err != nil {
		return nil, err
	}
	var more []*tenant.Secret
	for _, path := range cfg.Directory.MoreKeyFiles {
		s, _, err := store.LoadKey(path, "", false)
		if err != nil {
			return nil, fmt.Errorf("more_key_files of [directory]: %w", err)
		}
		more = append(more, s)
	}
	k.Vault = tenant.NewVault(key, more...)
	if err := k.keyFits(ctx); err != nil {
		return nil, err
	}
	k.Mirror = store.NewMirror(k.Directory, store.MirrorOptions{Cache: cfg.Directory.Cache, Source: source(cfg.Directory), Log: o.Log})
	m := provision.Options{
		Directory: k.Directory, Vault: k.Vault, Default: cfg.Provision.Driver, Templates: cfg.Provision.Templates, Log: o.Log,
		Listen: cfg.Provision.Listen, Grace: max(cfg.Provision.Grace, 1), Clients: k.clients, AuditKeep: cfg.Directory.AuditKeep, AuditEntries: cfg.Directory.AuditEntries,
	}
	if m.Host = cfg.Provision.Host; m.Host == "" {
		if m.Host, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("the name of this host, which [provision] host can give: %w", err)
		}
	}
	if m.Drivers, err = drivers(&cfg.Provision, o.Log); err != nil { //nolint:contextcheck // what asks an engine has its own time-outs
		return nil, err
	}
	if m.Archive, err = backup.New(backup.Options{Dir: cfg.Provision.Backups, Key: key, Before: more, Log: o.Log}); err != nil {
		return nil, err
	}
	if m.Virtual, err = virtual(cfg, o.Log); err != nil {
		return nil, err
	}
	if k.Manager, err = provision.New(m); err != nil {
		return nil, err
	}
	return k, nil
}

func openStore(ctx context.Context, d *config.Directory, o *Options) (tenant.Directory, error) {
	if d.Store == "etcd" {
		return store.OpenEtcd(ctx, store.EtcdOptions{
			Endpoints: d.Endpoints, Prefix: d.Prefix, CA: d.CACertificate, Cert: d.Certificate, Key: d.PrivateKey, User: d.User, Password: string(d.Password), Log: o.Log,
		})
	}
	return store.OpenFile(ctx, store.FileOptions{Path: d.Path, Wait: o.Wait})
}

// source says which directory it is.
func source(d *config.Directory) string {
	if d.Store == "etcd" {
		return "etcd " + strings.Join(d.Endpoints, ",") + " " + d.Prefix
	}
	return "file " + d.Path
}

// key is what the directory's secrets are encrypted with. It is made for a directory in a file that is new, and for no other: what another key had encrypted
// would be lost with it.
func (k *Kennel) key(ctx context.Context, d *config.Directory, value string) (*tenant.Secret, error) {
	path := cmp.Or(d.KeyFile, d.Path+".key")
	key, _, err := store.LoadKey(path, value, false)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if d.Store != "file" {
		return nil, provision.Errorf(provision.KindInvalid, "the directory has no key: %v", err).
			WithHint("openssl rand -base64 32 makes one, which all pgkennels of the directory need in key_file or %s", store.KeyVariable)
	}
	records, err := k.Directory.List(ctx)
	if err != nil {
		return nil, err
	}
	if len(records) > 0 {
		return nil, provision.Errorf(provision.KindFailed, "the key file %s is gone, and the directory has tenants whose secrets it encrypts", path).
			WithHint("bring it back from a backup, or set %s", store.KeyVariable)
	}
	key, made, err := store.LoadKey(path, value, true)
	if err == nil && made {
		k.log.InfoContext(ctx, "directory key made: keep a copy of it elsewhere, backups can't be read without it", "file", path)
	}
	return key, err
}

// keyFits refuses a key that opens nothing of a directory's: what was begun with it could not be gone on with by the right one. A directory that does not answer
// is known by what was saved of it, and keeps no pooler from starting.
func (k *Kennel) keyFits(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keyPatience)
	defer cancel()
	records, err := k.Directory.List(ctx)
	if err != nil {
		k.log.WarnContext(ctx, "the directory can't be read, and its key not be tried", "error", err)
		return nil
	}
	sealed := false
	for _, r := range records {
		for i := range r.Logins {
			l := &r.Logins[i]
			if l.Secret == "" {
				continue
			}
			if _, err := k.Vault.Open(r.ID, l.Field(), l.Secret); err == nil {
				return nil
			}
			sealed = true
		}
	}
	if !sealed {
		return nil
	}
	return provision.Errorf(provision.KindFailed, "the directory's key is not the one that its tenants' secrets are encrypted with").
		WithHint("key_file of [directory], or %s, has to have the key that the directory was begun with", store.KeyVariable)
}

// keyPatience is how long a start waits for a directory's tenants to try the key with.
const keyPatience = 3 * time.Second

// drivers are what makes instances: the one driver of the configuration, whose directories are no other's.
func drivers(p *config.Provision, log *slog.Logger) (map[string]provision.Driver, error) {
	var d provision.Driver
	var err error
	switch p.Driver {
	case "systemd":
		d, err = systemd.New(systemdOptions(p, log))
	case "docker":
		d, err = docker.New(dockerOptions(p, log))
	case "kubernetes":
		d, err = newKubernetes(p, log)
	default:
		d, err = process.New(processOptions(p, log))
	}
	if err != nil {
		return nil, err
	}
	return map[string]provision.Driver{d.Name(): d}, nil
}

func newKubernetes(p *config.Provision, log *slog.Logger) (provision.Driver, error) {
	k := &p.Kubernetes
	disk, err := provision.ParseSize(k.Disk)
	if err == nil && disk < 1<<20 {
		err = fmt.Errorf("%s is no size for a database", k.Disk)
	}
	if err != nil {
		return nil, fmt.Errorf("[kubernetes] disk: %w", err)
	}
	address := k.Address
	return kubernetes.New(kubernetes.Options{
		Kubeconfig: k.Kubeconfig, Context: k.Context, Namespace: k.Namespace, StorageClass: k.StorageClass, DefaultDisk: disk, Image: k.Image, Version: k.Version,
		MaxInstances: p.MaxInstances, Bins: p.BinDirs, Log: log,
		Address: func(service, namespace string) string {
			return strings.NewReplacer("{service}", service, "{namespace}", namespace).Replace(address)
		},
	})
}

func processOptions(p *config.Provision, log *slog.Logger) process.Options {
	return process.Options{
		DataDir: p.DataDir, PortMin: p.PortMin, PortMax: p.PortMax, UIDMin: p.UIDMin, UIDMax: p.UIDMax, MaxInstances: p.MaxInstances, Bins: p.BinDirs,
		Account: p.Account, LogSize: p.LogSize, Cgroup: p.Cgroup, Log: log,
		NoTCP: true, // the pooler is the way in, and tenants' programs reach all ports of the loopback address
	}
}

func systemdOptions(p *config.Provision, log *slog.Logger) systemd.Options {
	return systemd.Options{Process: processOptions(p, log), UnitDir: p.UnitDir}
}

func dockerOptions(p *config.Provision, log *slog.Logger) docker.Options {
	return docker.Options{Process: processOptions(p, log), Host: dockerHost(p.DockerSocket), Image: p.DockerImage, Network: p.DockerNet}
}

// dockerHost is a socket as the engine's clients name it.
func dockerHost(socket string) string {
	if socket == "" {
		return ""
	}
	return "unix://" + socket
}

// Pooler is what a Kennel asks the pooler beside it.
type Pooler interface {
	// Clients is how many clients a tenant has.
	Clients(id string) int
	// Taken says why a tenant of the directory may not be called so, by the configuration in force; empty = it may.
	Taken(name, cluster, key string) string
}

// Beside tells of the pooler that runs beside this.
func (k *Kennel) Beside(p Pooler) { k.pooler.Store(&p) }

func (k *Kennel) clients(id string) int {
	if p := k.pooler.Load(); p != nil {
		return (*p).Clients(id)
	}
	return 0
}

func (k *Kennel) taken(name, cluster, key string) string {
	if p := k.pooler.Load(); p != nil {
		return (*p).Taken(name, cluster, key)
	}
	return k.cfg.TenantTaken(name, cluster, key)
}

// Run looks after this host's tenants, and follows the directory, until ctx is done.
func (k *Kennel) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		again(ctx, func() error { return k.Mirror.Run(ctx) }, func(err error) { k.log.ErrorContext(ctx, "directory not followed, trying again", "error", err) })
	})
	wg.Go(func() {
		again(ctx, func() error { return k.Manager.Run(ctx) }, func(err error) { k.log.ErrorContext(ctx, "tenants not looked after, trying again", "error", err) })
	})
	wg.Wait()
}

// again runs f until ctx is done.
func again(ctx context.Context, f func() error, failed func(error)) {
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		err := f()
		if ctx.Err() != nil {
			return
		}
		failed(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// Close lets go of everything. Operations end where they are, and are gone on with by who comes next; instances stay up.
func (k *Kennel) Close() error {
	k.Manager.Close()
	return k.Directory.Close()
}

// Execute implements provision.Executor. Names that the configuration has are taken, and what it says of new tenants is filled in.
func (k *Kennel) Execute(ctx context.Context, o provision.Order, report func(provision.Progress)) (*provision.Result, error) {
	name := o.Tenant
	switch o.Verb {
	case provision.VerbCreate, provision.VerbImport:
		instance := o.Isolation == tenant.Instance.String() || o.Isolation == ""
		if d := k.cfg.Provision.SuspendAfter; d > 0 && o.SuspendAfter == nil && instance && o.Verb == provision.VerbCreate {
			o.SuspendAfter = &d
		}
	case provision.VerbClone, provision.VerbRename, provision.VerbRestore:
		name = o.Name
	default:
		name = ""
	}
	if name != "" {
		if why := k.taken(name, o.Cluster, o.Key); why != "" {
			return nil, provision.Errorf(provision.KindTaken, "the name %s is taken: %s", name, why)
		}
	}
	res, err := k.Manager.Execute(ctx, o, report)
	if err == nil && res.Changed && k.pooler.Load() != nil {
		for _, v := range res.Tenants {
			if err := k.heard(ctx, v.ID); err != nil {
				res.Notes = append(res.Notes, fmt.Sprintf("this pooler has not heard yet how tenant %s is now: %v", v.Name, err))
			}
		}
	}
	return res, err
}

// hearing is how long an order waits for the pooler beside it to hear of what was done. It is a moment, but where the directory is not followed just now.
const hearing = 3 * time.Second

// heard waits until the mirror has a tenant as the directory has it: whoever gave an order may log in as soon as it is carried out.
func (k *Kennel) heard(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, hearing)
	defer cancel()
	r, err := k.Directory.Get(ctx, id)
	gone := errors.Is(err, tenant.ErrNotFound)
	if err != nil && !gone {
		return err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if known := k.Mirror.ByID(id); known == nil && gone || known != nil && !gone && known.Revision >= r.Revision {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
