package provision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// Options are what a Manager works with.
type Options struct {
	Directory tenant.Directory
	Vault     *tenant.Vault
	// Host is this machine's name in records. Its instances are this Manager's.
	Host string
	// Listen is the IP address at which instances listen for pgkennels of other hosts, from their next start on; empty = they do not. Drivers that listen in a way
	// of their own (Endpoint.CA) have no use for it.
	Listen  string
	Drivers map[string]Driver
	Default string  // the driver of tenants that name none
	Virtual Virtual // nil = there are no virtual tenants; SetVirtual changes it
	Archive Archive // nil = there are no backups
	// Templates is the directory of template SQL; empty = there are none.
	Templates string
	// Grace is how long a removed tenant is kept; 0 = 7 days.
	Grace time.Duration
	// Creates is how many instances are made at a time; 0 = one for each processor.
	Creates int
	// Clients tells how many clients of a tenant a pooler in this process has; nil = it is not known.
	Clients func(id string) int
	// Every is how often the runner looks after what it is not told of; 0 = 5 s.
	Every time.Duration
	Log   *slog.Logger
	Now   func() time.Time
	// Elapsed is the time since some moment, whatever the clock is set to; nil = of this process. Tests with a clock of their own have it go with that.
	Elapsed func() time.Duration
	// AuditKeep is how long entries of the audit are kept, AuditEntries how many; 0 = all.
	AuditKeep    time.Duration
	AuditEntries int
	// OnStep is told of each step of an operation, before and after it is done, or undone; for tests.
	OnStep func(op *tenant.Operation, step, when string)
}

// Manager carries out orders for the tenants of one host, and Run looks after them. It is safe for concurrent use.
//
// Each operation runs in a goroutine of its own, under the directory's lock of its tenant, and outlives the order's context; Close ends and awaits them.
type Manager struct {
	o       Options
	dir     tenant.Directory
	runner  string
	verbs   map[string]*verb
	creates chan struct{}
	shared  atomic.Pointer[Virtual] // never nil

	root context.Context //nolint:containedctx // of the operations, which outlive the orders that begin them; Close ends it
	stop context.CancelCauseFunc
	wg   sync.WaitGroup

	counts counts

	mu struct {
		sync.Mutex
		closed  bool
		flights map[string]*flight // by tenant ID
		running bool               // Run is
	}
}

var _ Executor = (*Manager)(nil)

// errClosed is why operations end that Close ends. They are left to whoever comes next.
var errClosed = errors.New("this process ends")

// New makes a Manager. Close has to be called before the directory is closed.
func New(o Options) (*Manager, error) {
	switch {
	case o.Directory == nil || o.Vault == nil:
		return nil, errors.New("a manager needs a directory and a vault")
	case o.Host == "":
		return nil, errors.New("a manager needs the name of its host")
	case o.Default != "" && o.Drivers[o.Default] == nil:
		return nil, fmt.Errorf("there is no driver %s", o.Default)
	}
	if o.Grace == 0 {
		o.Grace = 7 * 24 * time.Hour
	}
	if o.Creates <= 0 {
		o.Creates = runtime.GOMAXPROCS(0)
	}
	if o.Every <= 0 {
		o.Every = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Elapsed == nil {
		begun := time.Now()
		o.Elapsed = func() time.Duration { return time.Since(begun) }
	}
	if o.OnStep == nil {
		o.OnStep = func(*tenant.Operation, string, string) {}
	}
	m := &Manager{o: o, dir: o.Directory, runner: o.Host + "/" + tenant.NewID(), verbs: verbs(), creates: make(chan struct{}, o.Creates)}
	m.root, m.stop = context.WithCancelCause(context.Background())
	m.mu.flights = make(map[string]*flight)
	m.SetVirtual(o.Virtual)
	return m, nil
}

// SetVirtual changes who makes virtual tenants: the configuration is another one. What is under way goes on with the former.
func (m *Manager) SetVirtual(v Virtual) {
	if v == nil {
		v = nowhere{}
	}
	m.shared.Store(&v)
}

// virtual is who makes virtual tenants, shares whether somebody does.
func (m *Manager) virtual() Virtual { return *m.shared.Load() }

func (m *Manager) shares() bool {
	_, none := m.virtual().(nowhere)
	return !none
}

// nowhere stands for the databases that tenants share where there are none.
type nowhere struct{}

var errNowhere = Errorf(KindRefused, "the configuration has no database that tenants share").WithHint("[multi_tenant] and [[databases]] have to name those of the tenant")

// Place implements Virtual, as the others do.
func (nowhere) Place(context.Context, *tenant.Record) error { return errNowhere }

// Attach implements Virtual.
func (nowhere) Attach(context.Context, *tenant.Record) error { return errNowhere }

// Make implements Virtual.
func (nowhere) Make(context.Context, *tenant.Record) error { return errNowhere }

// Unmake implements Virtual.
func (nowhere) Unmake(context.Context, *tenant.Record) error { return errNowhere }

// Fence implements Virtual.
func (nowhere) Fence(context.Context, *tenant.Record, bool) error { return errNowhere }

// Source implements Virtual.
func (nowhere) Source(context.Context, *tenant.Record) (Source, error) { return Source{}, errNowhere }

// Size implements Virtual.
func (nowhere) Size(context.Context, *tenant.Record) (int64, error) { return 0, errNowhere }

// Close has operations end where they are, as if the process died, and waits for that. They are on record, and gone on with by who comes next.
func (m *Manager) Close() {
	m.mu.Lock()
	m.mu.closed = true
	m.mu.Unlock()
	m.stop(errClosed)
	m.wg.Wait()
}

// Execute implements Executor.
func (m *Manager) Execute(ctx context.Context, o Order, report func(Progress)) (*Result, error) {
	if report == nil {
		report = func(Progress) {}
	}
	if o.By == "" {
		o.By = "unknown"
	}
	v, err := m.check(&o)
	if err != nil {
		return nil, err
	}
	var res *Result
	if v.read != nil {
		res, err = v.read(ctx, m, o, report)
	} else {
		res, err = m.change(ctx, v, o, report)
	}
	if err != nil {
		return nil, explain(err, o.Tenant)
	}
	return res, nil
}

// explain makes an *Error of any.
func explain(err error, name string) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*tenant.TakenError](err); ok {
		return Errorf(KindTaken, "%s", e)
	}
	switch {
	case errors.Is(err, tenant.ErrNotFound):
		return Errorf(KindNotFound, "there is no tenant %s", name).WithHint("pgkennel tenant list shows those there are")
	case errors.Is(err, tenant.ErrConflict):
		return Errorf(KindBusy, "tenant %s is being changed by somebody else", name).WithHint("try again")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errClosed):
		return Errorf(KindFailed, "the end was not waited for: %v", err).WithHint("what was begun goes on, or is gone on with by repair; look with: pgkennel tenant show %s", name)
	}
	return Errorf(KindFailed, "%v", err)
}

// find returns a tenant by its name.
func (m *Manager) find(ctx context.Context, name string) (*tenant.Record, error) {
	return m.dir.Find(ctx, "name/"+name)
}

// driver returns the driver of a name.
func (m *Manager) driver(name string) (Driver, error) {
	if d := m.o.Drivers[name]; d != nil {
		return d, nil
	}
	if name == "" {
		return nil, Errorf(KindRefused, "no driver for instances is configured").WithHint("[provision] driver = \"process\"")
	}
	e := Errorf(KindRefused, "there is no driver %s here", name)
	if have := m.drivers(); have != "" {
		e = e.WithHint("there is: %s", have)
	}
	return nil, e
}

func (m *Manager) drivers() string {
	var names []string
	for n := range m.o.Drivers {
		names = append(names, n)
	}
	slices.Sort(names)
	return join(names)
}

// instance is a tenant's, as its driver has to know it.
func (m *Manager) instance(r *tenant.Record) (*Instance, Driver, error) {
	d, err := m.driver(r.Driver)
	if err != nil {
		return nil, nil, err
	}
	password, err := m.o.Vault.Open(r.ID, tenant.AdminField, r.Admin)
	if err != nil {
		return nil, nil, err
	}
	var authority *tenant.Signer
	if r.Authority.Cert != "" {
		if authority, err = r.Authority.Open(m.o.Vault, r.ID); err != nil {
			return nil, nil, err
		}
	}
	r = r.Clone()
	return &Instance{
		ID: r.ID, Version: r.Version, Facts: r.Facts, Endpoint: r.Endpoint, Limits: r.Limits, Settings: r.Settings, Password: password,
		Authority: authority, Superuser: superuser(r), Archive: r.Backups.Archive,
	}, d, nil
}

// replica is one of a tenant's replicas, as its driver has to know it.
func (m *Manager) replica(r *tenant.Record, x *tenant.Replica) (*Instance, Driver, error) {
	primary, _, err := m.instance(r)
	if err != nil {
		return nil, nil, err
	}
	d, err := m.driver(x.Driver)
	if err != nil {
		return nil, nil, err
	}
	in := *primary
	in.ID, in.Facts, in.Endpoint, in.Primary, in.Archive = x.ID, x.Facts, x.Endpoint, primary, false
	return &in, d, nil
}

func superuser(r *tenant.Record) bool {
	return slices.ContainsFunc(r.Logins, func(l tenant.Login) bool { return l.Superuser })
}

// others are all instances of this host but one.
func (m *Manager) others(ctx context.Context, but string) ([]*Instance, error) {
	list, err := m.dir.List(ctx)
	if err != nil {
		return nil, err
	}
	var all []*Instance
	add := func(r *tenant.Record, id, host string, facts map[string]string, at tenant.Endpoint) {
		if host == m.o.Host && id != but && len(facts) > 0 {
			all = append(all, &Instance{
				ID: id, Version: r.Version, Facts: facts, Endpoint: at, Limits: r.Limits, Settings: r.Settings, Superuser: superuser(r), Archive: r.Backups.Archive,
			})
		}
	}
	for _, r := range list {
		r = r.Clone()
		add(r, r.ID, r.Host, r.Facts, r.Endpoint)
		for _, x := range r.Replicas {
			add(r, x.ID, x.Host, x.Facts, x.Endpoint)
		}
	}
	return all, nil
}

// local reports whether operations of a tenant are this Manager's to run.
func (m *Manager) local(ctx context.Context, host string) (bool, error) {
	if host == "" { // of virtual tenants
		return true, nil
	}
	if host == m.o.Host {
		if m.isRunning() {
			return true, nil
		}
	}
	hosts, err := m.dir.Hosts(ctx)
	if err != nil {
		return false, err
	}
	for _, h := range hosts {
		if h.Name == host && h.Runner != m.runner {
			return false, nil
		}
	}
	if host == m.o.Host {
		return true, nil
	}
	return false, Errorf(KindRefused, "host %s, which has the tenant, is not there", host).WithHint("a pgkennel with the same directory has to run there")
}

func (m *Manager) isRunning() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.running
}
