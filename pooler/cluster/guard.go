package cluster

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
)

// RoutineUnsafe names the refusal of what would run on a login that its Guard speaks against.
const RoutineUnsafe = "login_unsafe"

// UnsafeError fails an open: the server's answer to the login's Guard is that it must not be used. It is for the log, not for clients.
type UnsafeError struct {
	// Reasons are the answers; none if there was no answer.
	Reasons []string
	// Err is why there was none.
	Err error
}

// Error implements error.
func (e *UnsafeError) Error() string {
	if e.Err != nil {
		return "whether the login keeps tenants apart is not known: " + e.Err.Error()
	}
	return "the login does not keep tenants apart: it " + strings.Join(e.Reasons, ", it ")
}

// Unwrap returns Err.
func (e *UnsafeError) Unwrap() error { return e.Err }

// open connects and logs in, and sees to it that the login was asked about, lately.
func (en *entry[C]) open(ctx context.Context) (C, error) {
	c, who := en.e.c, en.login.Load()
	dial := en.e.options().dial(who)
	login, err := en.dial(ctx, who, dial, en.due(who))
	if err != nil {
		var none C
		return none, err
	}
	c.learn(en.e, login.Params)
	return c.hooks.Adopt(login, dial, PoolInfo{EndpointInfo: en.e.info(), User: who.User, Login: who.Name, Tenant: who.Tenant, Budgeted: who.Budgeted, Hears: who.Hears})
}

// due reports whether the login has to be asked about.
func (en *entry[C]) due(who *Login) bool {
	if who.Guard == "" {
		return false
	}
	last := en.vetted.Load()
	return last == 0 || int64(pool.NowBy(en.e.c.now))-last >= int64(en.e.c.opts.Load().GuardInterval)
}

// dial logs in; ask: only if nothing speaks against the login.
func (en *entry[C]) dial(ctx context.Context, who *Login, o backend.DialOptions, ask bool) (*backend.Login, error) {
	c := en.e.c
	if !ask {
		return c.hooks.Dial(ctx, o)
	}
	begun, since := pool.NowBy(c.now), en.forgotten.Load()
	o.Ask = who.Guard
	login, err := c.hooks.Dial(ctx, o)
	var unsafe *UnsafeError
	switch {
	case backend.FailureOf(err) == backend.FailureAsk:
		unsafe = &UnsafeError{Err: err}
	case err != nil:
		return nil, err
	case !login.Asked:
		unsafe = &UnsafeError{Err: errors.New("it was not asked")}
	case len(login.Answers) > 0:
		unsafe = &UnsafeError{Reasons: login.Answers}
	}
	if unsafe != nil && !who.GuardWarns {
		en.vetted.Store(0)
		en.refused.Store(true)
		if login != nil {
			goodbye(login)
		}
		return nil, unsafe
	}
	en.refused.Store(false)
	en.noteWarning(who, unsafe)
	if en.forgotten.Load() == since { // else it is to be asked again
		en.vetted.Store(int64(begun))
	}
	if login == nil {
		o.Ask = ""
		return c.hooks.Dial(ctx, o)
	}
	return login, nil
}

// noteWarning logs what speaks against a login that is used all the same, each time that it changes.
func (en *entry[C]) noteWarning(who *Login, unsafe *UnsafeError) {
	text := ""
	if unsafe != nil {
		text = unsafe.Error()
	}
	if was := en.warned.Swap(&text); text != "" && (was == nil || *was != text) {
		en.e.log().Warn("login does not keep tenants apart", "server_user", who.User, "error", unsafe)
	}
}

// guardLoop asks again about logins whose connections stay, until ctx is done.
func (e *endpoint[C]) guardLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(e.c.opts.Load().GuardInterval/4, time.Millisecond)):
		case <-e.ask:
		}
		for en := range e.entries() {
			if ctx.Err() == nil {
				en.askAgain(ctx)
			}
		}
	}
}

// askAgain asks about the login of a pool that has connections. If it must not be used any more, they are closed, whoever has one.
func (en *entry[C]) askAgain(ctx context.Context) {
	who := en.login.Load()
	if !en.due(who) {
		return
	}
	if stats := en.pool.Stats(); stats.Total() == 0 {
		return
	}
	login, err := en.dial(ctx, who, en.e.options().dial(who), true)
	if err == nil {
		goodbye(login)
		return
	}
	if isUnsafe(err) {
		en.e.log().Error("login refused: its connections are closed", "server_user", who.User, "error", err)
		en.pool.Kill()
	}
}

// forgetAnswers has every login asked about again, soon and before its next connection is lent.
func (e *endpoint[C]) forgetAnswers() {
	for en := range e.entries() {
		en.forgotten.Add(1)
		en.vetted.Store(0)
	}
	select {
	case e.ask <- struct{}{}:
	default:
	}
}

// tryAgain has logins that were refused tried at once.
func (e *endpoint[C]) tryAgain() {
	for en := range e.entries() {
		if en.refused.Swap(false) {
			en.pool.Reconnect()
		}
	}
}

// unsafe is what clients hear of an UnsafeError: nothing of it, for it may name others.
func (c *Cluster[C]) unsafe() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "database %q is not served with this login", c.Name()).WithRoutine(RoutineUnsafe).
		WithDetail("What the server allows the login would not keep tenants apart; pgkennel's log says what it is.").
		WithHint("It is for the operator to mend; `pgkennel doctor` says how.")
}

// isUnsafe reports whether a pool has no connections because its login must not be used.
func isUnsafe(err error) bool {
	_, is := errors.AsType[*UnsafeError](err)
	return is
}
