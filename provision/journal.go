package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pgkennel/pgkennel/tenant"
)

// flight is an operation that this process is at.
type flight struct {
	done   chan struct{}
	cancel context.CancelCauseFunc
	// These are read when done is closed.
	op  string         // the operation's ID; empty = there was none
	r   *tenant.Record // as it was left; nil = it is gone
	res Result
	err error

	mu struct {
		sync.Mutex
		interrupt context.CancelCauseFunc // ends what is done; nil = it goes to its end
		last      Progress
		next      int
		at        *tenant.Record // with the operation that it is at, as that was when it began
		reports   map[int]func(Progress)
	}
}

// tell has report told how it goes on, until forget is called.
func (f *flight) tell(report func(Progress)) (forget func()) {
	f.mu.Lock()
	f.mu.next++
	n, last := f.mu.next, f.mu.last
	f.mu.reports[n] = report
	f.mu.Unlock()
	if last.Step != "" {
		report(last)
	}
	return func() {
		f.mu.Lock()
		delete(f.mu.reports, n)
		f.mu.Unlock()
	}
}

func (f *flight) report(p Progress) {
	f.mu.Lock()
	f.mu.last = p
	var all []func(Progress)
	for _, r := range f.mu.reports {
		all = append(all, r)
	}
	f.mu.Unlock()
	for _, r := range all {
		r(p)
	}
}

// errInterrupted is an operation that makes room for one that takes the tenant down.
var errInterrupted = Errorf(KindFailed, "an order that takes the tenant down came between")

// interrupt ends an operation that this process is at, and waits until it is undone. It returns false if that can't be.
func (m *Manager) interrupt(ctx context.Context, id string) bool {
	m.mu.Lock()
	f := m.mu.flights[id]
	m.mu.Unlock()
	if f == nil {
		return false
	}
	f.mu.Lock()
	end := f.mu.interrupt
	f.mu.Unlock()
	if end == nil {
		return false
	}
	end(errInterrupted)
	select {
	case <-f.done:
	case <-ctx.Done():
	}
	return true
}

// interruptible is a context for the steps of an operation that may be interrupted, and that until stop is called.
func (j *job) interruptible(ctx context.Context) (steps context.Context, stop func()) {
	if !j.v.undo || j.v.makes {
		return ctx, func() {}
	}
	set := func(end context.CancelCauseFunc) {
		j.f.mu.Lock()
		j.f.mu.interrupt = end
		j.f.mu.Unlock()
	}
	steps, cancel := context.WithCancelCause(ctx)
	set(cancel)
	return steps, func() {
		set(nil)
		cancel(nil)
	}
}

// drive runs the operation that is on a tenant's record, and returns at once. If this process is at one already, it is that.
func (m *Manager) drive(id string) (*flight, error) {
	return m.fly(id, func(ctx context.Context, f *flight) error { return m.operate(ctx, id, f) })
}

// fly runs what needs a tenant for itself in this process.
func (m *Manager) fly(id string, do func(ctx context.Context, f *flight) error) (*flight, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return nil, errClosed
	}
	if f := m.mu.flights[id]; f != nil {
		return f, nil
	}
	ctx, cancel := context.WithCancelCause(m.root)
	f := &flight{done: make(chan struct{}), cancel: cancel}
	f.mu.reports = make(map[int]func(Progress))
	m.mu.flights[id] = f
	m.wg.Go(func() {
		f.err = do(ctx, f)
		cancel(nil)
		m.mu.Lock()
		delete(m.mu.flights, id)
		m.mu.Unlock()
		close(f.done)
	})
	return f, nil
}

// overtake ends what this process is at with a tenant if another operation has taken its place: it might never end by itself.
func (m *Manager) overtake(r *tenant.Record) {
	if r.Operation == nil {
		return
	}
	m.mu.Lock()
	f := m.mu.flights[r.ID]
	m.mu.Unlock()
	if f == nil {
		return
	}
	f.mu.Lock()
	at := f.mu.at
	f.mu.Unlock()
	if at != nil && at.Operation.ID != r.Operation.ID && at.Revision < r.Revision {
		f.cancel(errTaken)
	}
}

// flying reports whether something is being done to a tenant by this process.
func (m *Manager) flying(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.flights[id] != nil
}

var errLost = errors.New("the lock of the tenant was lost")

// locked runs do under the directory's lock of a tenant. ctx ends when the lock is lost.
func (m *Manager) locked(ctx context.Context, id string, do func(ctx context.Context) error) error {
	unlock, lost, err := m.dir.Lock(ctx, "tenant/"+id)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-lost:
			cancel(errLost)
		case <-ctx.Done():
		}
	})
	defer watching.Wait()
	defer cancel(nil)
	return do(ctx)
}

// operate runs the operation on record.
func (m *Manager) operate(ctx context.Context, id string, f *flight) error {
	return m.locked(ctx, id, func(ctx context.Context) error {
		r, err := m.dir.Get(ctx, id)
		if err != nil {
			return err
		}
		f.r = r
		if r.Operation == nil {
			return nil
		}
		f.op = r.Operation.ID
		f.mu.Lock()
		f.mu.at = r
		f.mu.Unlock()
		j, err := m.job(r, f)
		if err != nil {
			return err
		}
		return j.run(ctx)
	})
}

// job is the running of an operation.
type job struct {
	m     *Manager
	f     *flight
	v     *verb
	o     Order
	r     *tenant.Record // as is known; changed by change only
	steps []step
	// pending are changes that the directory does not have yet.
	pending []func(r *tenant.Record)
	gone    bool // the record is deleted
}

func (m *Manager) job(r *tenant.Record, f *flight) (*job, error) {
	v := m.verbs[r.Operation.Verb]
	if v == nil || v.steps == nil {
		return nil, Errorf(KindFailed, "the operation %s of tenant %s is not known to this version", r.Operation.Verb, r.Name)
	}
	o, err := m.order(r)
	if err != nil {
		return nil, err
	}
	j := &job{m: m, f: f, v: v, o: o, r: r.Clone()}
	j.steps = v.steps(j)
	return j, nil
}

// change changes the record, at the end of the step: in the same write that has it done.
func (j *job) change(f func(r *tenant.Record)) {
	f(j.r)
	j.pending = append(j.pending, f)
}

// errTaken is an operation that another runner has gone on with.
var errTaken = errors.New("another runner has taken the operation over")

// write writes what is pending. What others changed of the record meanwhile stays; if they changed the operation, it is not ours any more.
func (j *job) write(ctx context.Context, what, detail string) error {
	for {
		was, err := j.m.dir.Get(ctx, j.r.ID)
		if errors.Is(err, tenant.ErrNotFound) {
			return errTaken
		}
		if err != nil {
			return &storeError{err}
		}
		if was.Operation == nil || was.Operation.ID != j.f.op || was.Operation.Runner != j.m.runner {
			return errTaken
		}
		op, next := was.Operation, was.Clone()
		for _, f := range j.pending {
			f(next)
		}
		now := j.m.o.Now().UTC()
		next.Updated = now
		next, err = j.m.dir.Put(ctx, next, tenant.Entry{
			Time: now, Who: op.By, What: op.Verb + ": " + what, ID: next.ID, Name: next.Name, Detail: space(detail) + "[" + j.f.op + "]",
		})
		if errors.Is(err, tenant.ErrConflict) {
			continue
		}
		if _, taken := errors.AsType[*tenant.TakenError](err); err != nil && !taken {
			return &storeError{err}
		}
		if err != nil {
			return err
		}
		j.r, j.pending = next.Clone(), nil
		j.f.r = next
		return nil
	}
}

// storeError is a directory that does not answer: the operation stays where it is, for the runner to go on with. It may have been written, or not.
type storeError struct{ error }

func (e *storeError) Unwrap() error { return e.error }

func space(s string) string {
	if s == "" {
		return ""
	}
	return s + " "
}

// claim makes the operation this runner's.
func (j *job) claim(ctx context.Context) error {
	next := j.r.Clone()
	op := next.Operation
	op.Runner, op.Attempts = j.m.runner, op.Attempts+1
	if !op.Undoing {
		op.Error = ""
		if p, ok := tenant.ParsePhase(op.Args[argPhase]); ok && next.Phase == tenant.Failed { // as it was before it failed
			next.Phase, next.Reason = p, ""
		}
	}
	if op.Now == "" && len(j.steps) > 0 {
		op.Now = j.steps[0].name
	}
	now := j.m.o.Now().UTC()
	next.Updated = now
	what := op.Verb + ": " + op.Now
	next, err := j.m.dir.Put(ctx, next, tenant.Entry{Time: now, Who: op.By, What: what, ID: next.ID, Name: next.Name, Detail: fmt.Sprintf("attempt %d [%s]", op.Attempts, op.ID)})
	if errors.Is(err, tenant.ErrConflict) {
		return errTaken
	}
	if err != nil {
		return err
	}
	j.r = next.Clone()
	return nil
}

// run does the steps that are left, and undoes them if one fails that can be undone.
func (j *job) run(ctx context.Context) error {
	if err := j.claim(ctx); err != nil {
		return err
	}
	var failure error
	if !j.r.Operation.Undoing {
		err := j.forward(ctx)
		if err == nil {
			j.m.o.Log.InfoContext(ctx, "tenant changed", "verb", j.o.Verb, "tenant", j.r.ID, "name", j.r.Name)
			return nil
		}
		if left(ctx, err) {
			return cause(ctx, err)
		}
		failure = err
		j.m.o.Log.WarnContext(ctx, "operation failed", "verb", j.o.Verb, "tenant", j.r.ID, "step", j.r.Operation.Now, "error", err)
		undo := j.v.undo || j.r.Operation.Args[argIntact] != ""
		j.pending = nil
		j.change(func(r *tenant.Record) {
			r.Operation.Error = explain(err, r.Name).Message
			if undo {
				r.Operation.Undoing = true
			} else {
				r.Phase, r.Reason = tenant.Failed, r.Operation.Verb+": "+r.Operation.Error
			}
		})
		if err := j.write(ctx, "failed", explain(err, j.r.Name).Message); err != nil {
			return errors.Join(failure, err)
		}
		if !undo {
			e := explain(failure, j.r.Name)
			if e.Hint == "" {
				e = e.WithHint("pgkennel tenant repair %s goes on with it", j.r.Name)
			}
			return e
		}
	} else {
		failure = Errorf(KindFailed, "%s of %s failed", j.o.Verb, j.r.Name).WithDetail("%s", j.r.Operation.Error)
	}
	if err := j.backward(ctx); err != nil {
		if left(ctx, err) {
			return cause(ctx, err)
		}
		j.pending = nil
		j.change(func(r *tenant.Record) {
			r.Phase, r.Reason = tenant.Failed, r.Operation.Verb+": "+r.Operation.Error+"; and undoing it: "+explain(err, r.Name).Message
		})
		return errors.Join(failure, err, j.write(ctx, "failed", "undoing it: "+explain(err, j.r.Name).Message))
	}
	return failure
}

// left reports whether an operation ended where it is, for another to go on with.
func left(ctx context.Context, err error) bool {
	if _, store := errors.AsType[*storeError](err); store {
		return true
	}
	return ctx.Err() != nil || errors.Is(err, errTaken) || errors.Is(err, tenant.ErrConflict)
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// forward does the steps that are not done yet. The last one's write ends the operation.
func (j *job) forward(ctx context.Context) error {
	interruptible, stop := j.interruptible(ctx)
	defer stop()
	for i, s := range j.steps {
		op := j.r.Operation
		if slices.Contains(op.Done, s.name) {
			continue
		}
		if op.Now != s.name { // its steps are others than when it was recorded
			j.change(func(r *tenant.Record) { r.Operation.Now = s.name })
			if err := j.write(ctx, s.name, ""); err != nil {
				return err
			}
			op = j.r.Operation
		}
		j.f.report(Progress{Tenant: j.r.Name, Step: s.name, Done: int64(i), Total: int64(len(j.steps))})
		j.m.o.OnStep(op, s.name, "before")
		if err := s.do(interruptible, j); err != nil {
			if ctx.Err() == nil && interruptible.Err() != nil {
				err = context.Cause(interruptible)
			}
			return fmt.Errorf("%s: %w", s.name, err)
		}
		j.m.o.OnStep(op, s.name, "after")
		if j.gone {
			return nil
		}
		what := "done"
		if i+1 < len(j.steps) {
			what = j.steps[i+1].name
			j.change(func(r *tenant.Record) { r.Operation.Done, r.Operation.Now = append(r.Operation.Done, s.name), what })
		} else {
			j.change(func(r *tenant.Record) { r.Operation, r.Reason = nil, "" })
		}
		if err := j.write(ctx, what, ""); err != nil {
			return err
		}
	}
	j.f.report(Progress{Tenant: j.r.Name, Step: "done", Done: int64(len(j.steps)), Total: int64(len(j.steps))})
	return nil
}

// backward undoes what was begun, from the last step to the first. What a makes-verb made is gone with its record.
func (j *job) backward(ctx context.Context) error {
	from := slices.IndexFunc(j.steps, func(s step) bool { return s.name == j.r.Operation.Now })
	if from < 0 {
		from = len(j.steps) - 1
	}
	for i := from; i >= 0; i-- {
		s := j.steps[i]
		op := j.r.Operation
		if s.undo != nil {
			j.f.report(Progress{Tenant: j.r.Name, Step: "undo " + s.name, Done: int64(from - i), Total: int64(from + 1)})
			j.m.o.OnStep(op, s.name, "before undo")
			if err := s.undo(ctx, j); err != nil {
				return fmt.Errorf("undo %s: %w", s.name, err)
			}
			j.m.o.OnStep(op, s.name, "after undo")
			if i > 0 {
				j.change(func(r *tenant.Record) {
					r.Operation.Now = j.steps[i-1].name
					r.Operation.Done = slices.DeleteFunc(r.Operation.Done, func(d string) bool { return d == r.Operation.Now })
				})
				if err := j.write(ctx, "undo "+s.name, ""); err != nil {
					return err
				}
			}
		}
	}
	if j.v.makes {
		return j.delete(ctx, "undone", j.r.Operation.Error)
	}
	j.change(func(r *tenant.Record) { r.Phase, r.Operation = r.Operation.From, nil })
	return j.write(ctx, "undone", "")
}

// delete takes the record away.
func (j *job) delete(ctx context.Context, what, detail string) error {
	if what == "undone" {
		what = "failed" // that is what who asked for it has to find
	}
	for {
		r, err := j.m.dir.Get(ctx, j.r.ID)
		if errors.Is(err, tenant.ErrNotFound) {
			break
		}
		if err != nil {
			return &storeError{err}
		}
		if r.Operation == nil || r.Operation.ID != j.f.op || r.Operation.Runner != j.m.runner {
			return errTaken
		}
		op := r.Operation
		err = j.m.dir.Delete(ctx, r, tenant.Entry{
			Time: j.m.o.Now().UTC(), Who: op.By, What: op.Verb + ": " + what, ID: r.ID, Name: r.Name, Detail: space(detail) + "[" + op.ID + "]",
		})
		if errors.Is(err, tenant.ErrConflict) {
			continue
		}
		if err != nil {
			return &storeError{err}
		}
		break
	}
	j.f.r, j.gone = nil, true
	return nil
}
