// Package admin is the console: what a client of the admin database can ask and order, with PgBouncer's commands and columns
// where PgBouncer has them, so that its tools work here.
//
// It owns the commands' grammar, who may give which, the shape of every answer, and both protocols' way of sending it. It
// reads the pooler through Inspector and acts on it through Controller, which the root package implements; what it gets
// are copies, so that an answer of twenty thousand rows is made and sent without holding anything that a session needs.
//
// A Console is safe for concurrent use and starts no goroutine. Its calls may block as long as a command takes (PAUSE waits
// for transactions to end): they belong in a goroutine of the client's own, not on a loop. Serve is such a goroutine's body.
package admin

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Access is what a user of the console may do.
type Access uint8

// The accesses. The zero value may do nothing.
const (
	// AccessStats may look.
	AccessStats Access = iota + 1
	// AccessAdmin may look and act.
	AccessAdmin
)

// String names the access.
func (a Access) String() string {
	switch a {
	case AccessStats:
		return "stats"
	case AccessAdmin:
		return "admin"
	}
	return "none"
}

// User is who is at the console.
type User struct {
	Name     string
	Database string // the name that the admin database was reached by
	Client   uint64 // the client's ID, as in SHOW CLIENTS
	Access   Access
}

// Options are what a Console stands on. All but Log are required.
type Options struct {
	Inspector  Inspector
	Controller Controller
	// Now is the clock; time.Now outside tests.
	Now func() time.Time
	// Log gets a line for every command that acts. Nil = none.
	Log *slog.Logger
}

// Console answers commands.
type Console struct {
	Options

	mu struct {
		sync.Mutex
		averages *averager
	}
}

// New returns a console. The averages start now.
func New(o Options) *Console {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Console{Options: o}
	c.mu.averages = newAverager(o.Now())
	return c
}

// Tick takes the sample that the averages of SHOW STATS are made of. It must be called each stats_period.
func (c *Console) Tick() {
	stats := c.Inspector.Stats()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.averages.tick(c.Now(), stats)
}

// Result is the answer to the statements of one text; none for a text without any.
type Result struct {
	Statements []Statement
}

// Statement is the answer to one statement.
type Statement struct {
	Notices []*pgwire.Error
	Columns []pgwire.Column // nil: no result set; formats are all text
	Rows    Rows
	Tag     string
}

// Run parses the whole text, checks that the user may give every command in it, and then runs them in order. Nothing runs if
// one is wrong or forbidden. If one fails, Result holds the answers of those before it.
func (c *Console) Run(ctx context.Context, sql string, u User) (Result, *pgwire.Error) {
	commands, err := parse(sql)
	if err != nil {
		return Result{}, err
	}
	var r Result
	if err := c.allow(commands, u); err != nil {
		return r, err
	}
	for i := range commands {
		s, err := c.run(ctx, &commands[i], u)
		if err != nil {
			return r, err
		}
		r.Statements = append(r.Statements, s)
	}
	return r, nil
}

// Columns describes the result of a text of at most one statement, as Describe has to; nil if it has no result set.
func (c *Console) Columns(sql string) ([]pgwire.Column, *pgwire.Error) {
	command, err := parseOne(sql)
	if err != nil || command == nil {
		return nil, err
	}
	return command.columns(), nil
}

// allow refuses commands that the user may not give.
func (c *Console) allow(commands []command, u User) *pgwire.Error {
	for i := range commands {
		if v := commands[i].verb; !v.allowed(u.Access) {
			c.Log.Warn("admin command refused", "user", u.Name, "client", u.Client, "command", v.String(), "access", u.Access.String())
			return pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "permission denied for %s", v).
				WithHint("This needs the admin user; you have %s access.", u.Access).WithRoutine("admin_forbidden")
		}
	}
	return nil
}

// run runs one command that the user may give.
func (c *Console) run(ctx context.Context, k *command, u User) (Statement, *pgwire.Error) {
	s := Statement{Tag: k.tag, Columns: k.columns()}
	switch k.verb {
	case verbShow:
		w := &writer{rows: &s.Rows, access: u.Access}
		s.Rows.width = len(s.Columns)
		s.Notices = k.view.fill(c, k, w)
		return s, nil
	case verbShowParameter:
		s.Rows.width = 1
		(&writer{rows: &s.Rows}).text(c.parameter(k.name, u))
		return s, nil
	case verbSelect:
		c.selectRow(&s, k, u)
		return s, nil
	case verbSet:
		err := c.set(&s, k)
		return s, err
	case verbTransaction, verbDiscard:
		return s, nil
	case verbReload, verbPause, verbResume, verbReconnect, verbKill, verbKillClient, verbDisable, verbEnable, verbWaitClose, verbShutdown:
		return s, c.control(ctx, k, u)
	case verbTenant:
		err := c.tenant(ctx, &s, k, u)
		return s, err
	default:
		return s, pgwire.Errorf(pgwire.CodeInternalError, "no such command")
	}
}
