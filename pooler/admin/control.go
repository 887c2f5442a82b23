package admin

import (
	"context"
	"errors"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Controller acts on the pooler. A database is a cluster's name; empty means all of them. Errors that are ErrNoDatabase and
// its like, or a *pgwire.Error, reach the client in their own words; any other one as an internal error with its text.
type Controller interface {
	Reloader
	Pauser
	Switcher
	Closer
	Killer
	Stopper
	Tenants
}

// Reloader reads the configuration anew.
type Reloader interface {
	// Reload returns after the new configuration is in force, or with what is wrong with it, every mistake in a line of its own;
	// then nothing has changed.
	Reload(ctx context.Context) error
}

// Pauser holds checkouts.
type Pauser interface {
	// Pause holds new checkouts, closes idle backends, and returns when every backend was released and closed. A database stays
	// paused when ctx ends the wait. ErrPaused if it is paused already.
	Pause(ctx context.Context, database string) error
	// Resume takes back Pause and Kill. ErrNotPaused if there is nothing to take back.
	Resume(database string) error
}

// Switcher lets clients in or not.
type Switcher interface {
	// Disable refuses new clients; those connected go on.
	Disable(database string) error
	// Enable takes it back.
	Enable(database string) error
}

// Closer replaces backends.
type Closer interface {
	// Reconnect marks every open backend to be closed when it is released, and returns at once.
	Reconnect(database string) error
	// WaitClose returns when no backend so marked is left, or ctx ends.
	WaitClose(ctx context.Context, database string) error
}

// Killer closes connections now.
type Killer interface {
	// Kill pauses the database and closes its clients and backends at once. Clients of the admin database are left alone.
	Kill(database string) error
	// KillClient closes one client. What it runs is cancelled, its transaction rolled back. ErrNoClient if there is none of that ID.
	KillClient(id uint64) error
}

// Stopper ends the process.
type Stopper interface {
	// Shutdown starts it and returns at once. A second one may be faster than the first, never slower.
	Shutdown(mode ShutdownMode) error
}

// ShutdownMode says what a shutdown waits for.
type ShutdownMode uint8

// The modes.
const (
	// ShutdownDrain is what SIGTERM does: no new clients, transactions end, at most shutdown_timeout.
	ShutdownDrain ShutdownMode = iota + 1
	// ShutdownWaitForServers waits for transactions without a limit.
	ShutdownWaitForServers
	// ShutdownWaitForClients waits for clients to leave, without a limit.
	ShutdownWaitForClients
	// ShutdownImmediate waits for nothing.
	ShutdownImmediate
)

// String names the mode as the command does.
func (m ShutdownMode) String() string {
	switch m {
	case ShutdownDrain:
		return "DRAIN"
	case ShutdownWaitForServers:
		return "WAIT_FOR_SERVERS"
	case ShutdownWaitForClients:
		return "WAIT_FOR_CLIENTS"
	case ShutdownImmediate:
		return "IMMEDIATE"
	}
	return "unknown"
}

// Errors that a Controller returns, wrapped or not.
var (
	ErrNoDatabase   = errors.New("no such database")
	ErrNoClient     = errors.New("no such client")
	ErrPaused       = errors.New("already paused")
	ErrNotPaused    = errors.New("not paused")
	ErrShuttingDown = errors.New("the pooler is shutting down")
)

// control runs a command that acts.
func (c *Console) control(ctx context.Context, k *command, u User) *pgwire.Error {
	attrs := []any{"user", u.Name, "client", u.Client, "command", k.verb.String()}
	if k.name != "" {
		attrs = append(attrs, "database", k.name)
	}
	if k.verb == verbKillClient {
		attrs = append(attrs, "victim", k.id)
	}
	if k.verb == verbShutdown {
		attrs = append(attrs, "mode", k.mode.String())
	}
	c.Log.InfoContext(ctx, "admin command", attrs...)
	err := c.act(ctx, k, u)
	if err != nil {
		c.Log.WarnContext(ctx, "admin command failed", append(attrs, "error", err)...)
	}
	return controlError(ctx, k, err)
}

func (c *Console) act(ctx context.Context, k *command, u User) error {
	if k.name != "" && k.name == u.Database {
		return pgwire.Errorf(pgwire.CodeObjectNotInPrerequisiteState, "cannot %s the admin database", k.verb)
	}
	switch k.verb {
	case verbReload:
		return c.Controller.Reload(ctx)
	case verbPause:
		return c.Controller.Pause(ctx, k.name)
	case verbResume:
		return c.Controller.Resume(k.name)
	case verbReconnect:
		return c.Controller.Reconnect(k.name)
	case verbKill:
		return c.Controller.Kill(k.name)
	case verbKillClient:
		return c.Controller.KillClient(k.id)
	case verbDisable:
		return c.Controller.Disable(k.name)
	case verbEnable:
		return c.Controller.Enable(k.name)
	case verbWaitClose:
		return c.Controller.WaitClose(ctx, k.name)
	case verbShutdown:
		return c.Controller.Shutdown(k.mode)
	case verbShow, verbShowParameter, verbSelect, verbSet, verbTransaction, verbDiscard, verbTenant:
	}
	return pgwire.Errorf(pgwire.CodeInternalError, "%s does not act", k.verb)
}

// controlError is what the client sees of an error.
func controlError(ctx context.Context, k *command, err error) *pgwire.Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*pgwire.Error](err); ok {
		return e
	}
	if k.verb == verbTenant && ctx.Err() == nil {
		return pgwire.Errorf(pgwire.CodeInternalError, "%s: %s", k.tag, err)
	}
	subject := "the pooler"
	if k.name != "" {
		subject = `database "` + k.name + `"`
	}
	switch {
	case errors.Is(err, ErrNoDatabase):
		return pgwire.Errorf(pgwire.CodeInvalidCatalogName, "%s does not exist", subject).WithHint("SHOW DATABASES lists them.")
	case errors.Is(err, ErrNoClient):
		return pgwire.Errorf(pgwire.CodeUndefinedObject, "client %d does not exist", k.id).WithHint("SHOW CLIENTS has them in its column id.")
	case errors.Is(err, ErrPaused):
		return pgwire.Errorf(pgwire.CodeObjectNotInPrerequisiteState, "%s is already paused", subject)
	case errors.Is(err, ErrNotPaused):
		return pgwire.Errorf(pgwire.CodeObjectNotInPrerequisiteState, "%s is not paused", subject)
	case errors.Is(err, ErrShuttingDown):
		return pgwire.Errorf(pgwire.CodeCannotConnectNow, "%s", ErrShuttingDown)
	case ctx.Err() != nil:
		return pgwire.Errorf(pgwire.CodeQueryCanceled, "canceling statement due to user request")
	case k.verb == verbReload:
		return pgwire.Errorf(pgwire.CodeConfigFileError, "reload failed, the old configuration stays in force").WithDetail("%s", err)
	}
	return pgwire.Errorf(pgwire.CodeInternalError, "%s: %s", k.verb, err)
}
