package provision

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// change is an order that changes a tenant, until it is on record.
type change struct {
	m        *Manager
	o        Order
	old      *tenant.Record    // nil = there is none yet
	r        *tenant.Record    // as it is to be
	args     map[string]string // of the operation, besides the order
	nothing  bool              // it is so already
	password string            // of a login that is made; goes into the operation, sealed
	secrets  []Secret
	notes    []string
	detail   string // for the audit
	direct   bool   // there are no steps this time
	told     bool   // the server has to be told, for what it knows of is changed
	plan     []string
	join     string // ID of the operation that does what is wanted
	again    bool   // it does not: it has to be over first; or, of what is direct: there is more to change
}

const maxTries = 100

// change carries out an order that changes a tenant: it puts the operation on record, runs it or has it run, and waits.
func (m *Manager) change(ctx context.Context, v *verb, o Order, report func(Progress)) (*Result, error) {
	for range maxTries {
		c := &change{m: m, o: o}
		err := m.begin(ctx, v, c)
		switch {
		case errors.Is(err, tenant.ErrConflict):
			continue // somebody changed it since it was read
		case err != nil:
			return nil, err
		case c.plan != nil:
			return &Result{Plan: c.plan, Notes: c.notes, Tenants: views(c.r)}, nil
		case c.nothing:
			if v.after != nil && v.aside { // who changed it may not have got as far as to the server
				if err := m.enforce(ctx, v, c.old, false); err != nil {
					return nil, err
				}
			}
			return &Result{Tenants: views(c.old), Notes: c.notes}, nil
		case c.direct:
			if c.told {
				if err := m.enforce(ctx, v, c.r, c.again); err != nil {
					return nil, err
				}
			}
			if c.again {
				continue
			}
			return &Result{Changed: true, Secrets: c.secrets, Notes: c.notes, Tenants: views(c.r)}, nil
		}
		res, err := m.await(ctx, c.r, c.join, report)
		if c.again && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		res.Changed = true
		res.Secrets = append(res.Secrets, c.secrets...)
		res.Notes = append(c.notes, res.Notes...)
		return res, nil
	}
	return nil, tenant.ErrConflict
}

// enforce has the server know what a record was changed to. Orders may come at once from several processes, of which only one is the runner: of this host's
// tenants each does it itself, and other hosts' runners are waited for. With again, it comes before what is wanted.
func (m *Manager) enforce(ctx context.Context, v *verb, r *tenant.Record, again bool) error {
	var err error
	if r.Host == "" || r.Host == m.o.Host {
		err = v.after(ctx, m, r)
	} else {
		err = m.enforced(ctx, r)
	}
	if err == nil {
		return nil
	}
	if again {
		return Errorf(KindFailed, "nothing is changed yet, for the server can't be told: %v", err).WithHint("try again")
	}
	return Errorf(KindFailed, "poolers know it; at the server it is not in force: %v", err).WithHint("the runner tries again; repair does at once")
}

// enforced waits until the runner of another host has done what it was asked to.
func (m *Manager) enforced(ctx context.Context, r *tenant.Record) error {
	if r.Access.Asked == "" {
		return nil // nothing was to be told
	}
	for until := time.Now().Add(runnerPatience); ; {
		if _, err := m.local(ctx, r.Host); err != nil {
			return err
		}
		now, err := m.dir.Get(ctx, r.ID)
		switch {
		case errors.Is(err, tenant.ErrNotFound):
			return nil
		case err != nil:
			return err
		case now.Access.Asked == "": // who changed it meanwhile asks for this as well
			return nil
		case time.Now().After(until):
			return errors.New("the runner of its host does not say that it is")
		}
		pause(ctx, 50*time.Millisecond)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// runnerPatience is how long a host may be without a runner, or one without an answer: a dead one's lease has to run out, and another to begin.
const runnerPatience = 20 * time.Second

// begin puts an order on record.
func (m *Manager) begin(ctx context.Context, v *verb, c *change) (err error) {
	name := c.o.Tenant
	if v.makes && c.o.Name != "" {
		name = c.o.Name
	}
	old, err := m.find(ctx, name)
	switch {
	case errors.Is(err, tenant.ErrNotFound) && v.makes:
		if err := checkName(name); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		c.old, c.r = old, old.Clone()
		if v.physical && old.Isolation != tenant.Instance {
			return Errorf(KindRefused, "tenant %s is not an instance: there is nothing of it to %s", name, c.o.Verb).
				WithHint("it lives in a database with others; suspend and disable-access keep its clients out")
		}
	}
	if c.old != nil && c.old.Operation != nil && !v.aside {
		if joined, err := c.meet(ctx); joined || err != nil {
			return err
		}
	}
	if err := v.begin(ctx, c); err != nil || c.nothing || c.plan != nil || c.join != "" {
		return err
	}
	if v.steps == nil {
		c.direct = true
	}
	now := m.o.Now().UTC()
	if c.old == nil {
		c.r.Created = now
	}
	c.r.Updated = now
	if !c.direct {
		if err := c.journal(now); err != nil {
			return err
		}
		if _, err := m.local(ctx, c.r.Host); err != nil {
			return err
		}
	}
	c.told = v.after != nil && (c.o.Verb == VerbEnable || accessOf(c.old) != accessOf(c.r))
	if c.told && c.direct && c.r.Host != "" && c.r.Host != m.o.Host {
		c.r.Access.Asked = tenant.NewID()
	}
	r, err := m.dir.Put(ctx, c.r, tenant.Entry{Time: now, Who: c.o.By, What: c.o.Verb, ID: c.r.ID, Name: c.r.Name, Detail: c.detail})
	if taken, ok := errors.AsType[*tenant.TakenError](err); ok && taken.Claim == "name/"+c.r.Name {
		if v.makes {
			return tenant.ErrConflict // somebody made one since we looked
		}
		if other, err := m.dir.Get(ctx, taken.ID); err == nil {
			return nameTaken(other)
		}
	}
	if err != nil {
		return err
	}
	c.r = r
	m.overtake(r)
	if c.o.Verb != VerbCreate {
		m.o.Log.InfoContext(ctx, "tenant changes", "verb", c.o.Verb, "tenant", r.ID, "name", r.Name, "by", c.o.By)
	}
	return nil
}

// The arguments of an operation.
const (
	argOrder    = "order"    // the Order, sealed: there may be secrets in it
	argPassword = "password" // that was made, sealed
	argLogin    = "login"    // whose password that is
	argPhase    = "phase"    // in which the tenant is while it is under way
)

// journal makes the operation.
func (c *change) journal(now time.Time) error {
	id := tenant.NewID()
	o := c.o
	text, err := json.Marshal(o) //nolint:gosec // it is sealed
	if err != nil {
		return err
	}
	op := &tenant.Operation{ID: id, Verb: o.Verb, By: o.By, Started: now, Args: map[string]string{}}
	maps.Copy(op.Args, c.args)
	op.Args[argOrder] = string(c.m.o.Vault.Seal(c.r.ID, orderField(id), string(text)))
	op.Args[argPhase] = c.r.Phase.String()
	if c.password != "" {
		op.Args[argPassword] = string(c.m.o.Vault.Seal(c.r.ID, passwordField(id), c.password))
	}
	if c.old != nil {
		op.From = c.old.Phase
		if c.old.Operation != nil && op.From == tenant.Failed && c.old.Operation.From != 0 {
			op.From = c.old.Operation.From
		}
	}
	c.r.Operation = op
	return nil
}

// order reads the order of an operation back.
func (m *Manager) order(r *tenant.Record) (Order, error) {
	op := r.Operation
	text, err := m.o.Vault.Open(r.ID, orderField(op.ID), tenant.Ciphertext(op.Args[argOrder]))
	if err != nil {
		return Order{}, err
	}
	var o Order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return Order{}, err
	}
	o.By = op.By
	return o, nil
}

// secretsOf are the passwords that an operation has made.
func (m *Manager) secretsOf(r *tenant.Record) ([]Secret, error) {
	op := r.Operation
	if op == nil || op.Args[argPassword] == "" {
		return nil, nil
	}
	p, err := m.o.Vault.Open(r.ID, passwordField(op.ID), tenant.Ciphertext(op.Args[argPassword]))
	if err != nil {
		return nil, err
	}
	name := op.Args[argLogin]
	if name == "" {
		name = r.Name
	}
	return []Secret{{Login: name, Password: p}}, nil
}

// meet says what becomes of an order for a tenant that something is being done to: it joins that, or takes its place, or is refused.
func (c *change) meet(ctx context.Context) (joined bool, err error) {
	op := c.old.Operation
	failed := c.old.Phase == tenant.Failed && op.Error != ""
	running, err := c.m.order(c.old)
	if err != nil && !failed { // what failed can be taken the place of, also if nobody can read any more what it was to do
		return false, err
	}
	if failed && c.o.Verb == VerbWake && c.old.Dormant() {
		return false, nil // as a new one: the runner of another host leaves what failed
	}
	if err == nil && op.Verb == c.o.Verb && same(running, c.o) {
		c.join, c.r = op.ID, c.old
		c.secrets, err = c.m.secretsOf(c.old)
		return true, err
	}
	if c.o.Verb == VerbWake && (op.Verb == VerbStart || op.Verb == VerbResume || op.Verb == VerbRestart || op.Verb == VerbSet) && !failed {
		c.join, c.r = op.ID, c.old
		return true, nil
	}
	if c.o.Verb == VerbWake && op.Verb == VerbSleep && !failed { // a client came just when it fell asleep
		c.join, c.r, c.again = op.ID, c.old, true
		return true, nil
	}
	if failed && (c.o.Verb == VerbRemove || c.o.Verb == op.Verb && !op.Undoing) {
		return false, nil // it takes its place
	}
	if v := c.m.verbs[op.Verb]; v != nil && v.makes && c.o.Verb == VerbRemove && c.o.Now {
		return false, nil // there is nothing to lose, and what makes it may never end
	}
	if failed {
		return false, Errorf(KindState, "%s of tenant %s failed", op.Verb, c.old.Name).WithDetail("%s", op.Error).
			WithHint("pgkennel tenant repair %s goes on with it; remove takes the tenant away", c.old.Name)
	}
	// Who is to be kept out may be just who holds that up.
	if (c.o.Verb == VerbSuspend || c.o.Now && (c.o.Verb == VerbStop || c.o.Verb == VerbRemove)) && c.m.interrupt(ctx, c.old.ID) {
		return false, tenant.ErrConflict // it is another record now
	}
	what := op.Verb
	if op.Undoing {
		what = "undoing of " + what
	}
	e := Errorf(KindBusy, "tenant %s is busy: %s is under way, since %s, by %s", c.old.Name, what, op.Started.UTC().Format(time.RFC3339), op.By)
	if op.Now != "" {
		e = e.WithDetail("it is at the step %s", op.Now)
	}
	return false, e.WithHint("wait, and try again; if nothing comes of it: pgkennel tenant repair %s", c.old.Name)
}

// same reports whether two orders want the same, whoever gave them.
func same(a, b Order) bool {
	a.By, b.By = "", ""
	return reflect.DeepEqual(normal(a), normal(b))
}

// normal has what is empty nil, as an order has it that was written and read.
func normal(o Order) Order {
	for _, f := range reflect.ValueOf(&o).Elem().Fields() {
		if (f.Kind() == reflect.Map || f.Kind() == reflect.Slice) && f.Len() == 0 {
			f.SetZero()
		}
	}
	o.ToTime = o.ToTime.UTC().Round(0)
	return o
}

// await has the operation that is on record run, here or where its host is, and waits for its end.
func (m *Manager) await(ctx context.Context, r *tenant.Record, join string, report func(Progress)) (*Result, error) {
	id, op := r.ID, r.Operation.ID
	if join != "" {
		op = join
	}
	for {
		local, err := m.local(ctx, r.Host)
		if err != nil {
			return nil, err
		}
		if local {
			res, over, err := m.driveTo(ctx, id, op, report)
			if over || err != nil {
				return res, err
			}
		}
		res, err := m.watchFor(ctx, r, op, report)
		if !errors.Is(err, errAlone) {
			return res, err
		}
	}
}

// driveTo runs what is on record here, and returns when an operation is over, or somebody else has it.
func (m *Manager) driveTo(ctx context.Context, id, op string, report func(Progress)) (*Result, bool, error) {
	for {
		f, err := m.drive(id) //nolint:contextcheck // it outlives who asks for it
		if err != nil {
			return nil, false, err
		}
		forget := f.tell(report)
		select {
		case <-f.done:
			forget()
		case <-ctx.Done():
			forget()
			return nil, false, context.Cause(ctx)
		}
		_, unknown := errors.AsType[*storeError](f.err)
		if unknown || errors.Is(f.err, errLost) {
			return nil, false, nil // it is gone on with when the directory answers
		}
		if f.op == op && !errors.Is(f.err, errTaken) {
			if f.err != nil {
				return nil, false, f.err
			}
			res := &Result{Notes: f.res.Notes, Backups: f.res.Backups}
			if f.r != nil {
				res.Tenants = views(f.r)
			}
			return res, true, nil
		}
		// That was another's end. Ours is to come, or is over too.
		now, err := m.dir.Get(ctx, id)
		if err != nil || now.Operation == nil || now.Operation.ID != op || now.Operation.Error != "" {
			return nil, false, nil //nolint:nilerr // who waits asks again
		}
		if f.op == "" && f.err != nil {
			return nil, false, f.err // it can't even be begun
		}
	}
}

// errAlone is an operation that whoever was at it is not at any more.
var errAlone = errors.New("nobody is at the operation")

// lookAround is how often who waits for an operation looks whether somebody is at it.
const lookAround = 2 * time.Second

// watchFor waits for the end of an operation that runs elsewhere. A directory that does not answer, and a host without a runner, are waited for as well, for a
// time: what was begun goes on then.
func (m *Manager) watchFor(ctx context.Context, r *tenant.Record, op string, report func(Progress)) (*Result, error) {
	id, host := r.ID, r.Host
	wait := 20 * time.Millisecond
	step := ""
	heard, around := time.Now(), time.Now()
	for {
		r, err := m.dir.Get(ctx, id)
		if err == nil && time.Since(around) > lookAround {
			around = time.Now()
			var local bool
			if local, err = m.local(ctx, host); local {
				return nil, errAlone
			}
		}
		switch {
		case errors.Is(err, tenant.ErrNotFound):
			return m.outcome(ctx, id, op, nil)
		case err != nil && (ctx.Err() != nil || m.root.Err() != nil || time.Since(heard) > runnerPatience):
			return nil, err
		case err != nil:
		case r.Operation == nil || r.Operation.ID != op:
			return m.outcome(ctx, id, op, r)
		case r.Phase == tenant.Failed && r.Operation.Error != "":
			return nil, Errorf(KindFailed, "%s of %s failed", r.Operation.Verb, r.Name).WithDetail("%s", r.Operation.Error)
		default:
			heard = time.Now()
			if r.Operation.Now != step {
				step = r.Operation.Now
				report(Progress{Tenant: r.Name, Step: step, Done: int64(len(r.Operation.Done))})
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		wait = min(wait*3/2, 200*time.Millisecond)
	}
}

// outcome finds out from the audit how an operation ended that nobody here ran.
func (m *Manager) outcome(ctx context.Context, id, op string, r *tenant.Record) (*Result, error) {
	entries, err := m.dir.Audit(ctx, id, 200)
	if err != nil {
		return nil, err
	}
	undone := false
	for _, e := range entries { // the newest first
		detail, mine := strings.CutSuffix(e.Detail, "["+op+"]")
		verb, what, _ := strings.Cut(e.What, ": ")
		switch {
		case !mine:
			continue
		case what == "failed":
			return nil, Errorf(KindFailed, "%s of %s failed", verb, e.Name).WithDetail("%s", strings.TrimSpace(detail))
		case what == "undone":
			undone = true
			continue
		case what != "done" && m.verbs[verb] != nil && m.verbs[verb].makes:
			return nil, Errorf(KindState, "%s of %s was given up: the tenant is removed", verb, e.Name)
		}
		if !undone {
			break
		}
	}
	res := &Result{}
	if r != nil {
		res.Tenants = views(r)
	}
	return res, nil
}
