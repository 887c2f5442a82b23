package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/provision"
)

// Exit codes of tenant's commands, beside those of all.
const (
	exitNotFound = 3
	exitState    = 4
	exitRefused  = 5
)

// exitError ends the program with a code; everything was said already.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// exitOf is the exit code of an error.
func exitOf(err error) int {
	if e, ok := errors.AsType[*provision.Error](err); ok {
		switch e.Kind {
		case provision.KindInvalid:
			return exitUsage
		case provision.KindNotFound:
			return exitNotFound
		case provision.KindTaken, provision.KindState, provision.KindBusy:
			return exitState
		case provision.KindRefused:
			return exitRefused
		case provision.KindFailed:
		}
	}
	return exitFailed
}

// tenants is what commands about tenants have in common.
type tenants struct {
	*files
	where
	asJSON, quiet bool
	// open finds whom to give orders; exec replaces this process by another.
	open func(ctx context.Context, cmd *cobra.Command, t *tenants) (provision.Executor, func(), error)
	exec func(path string, args, env []string) error
}

func newTenant(f *files) *cobra.Command {
	t := &tenants{files: f, open: openExecutor, exec: syscall.Exec}
	return t.command()
}

func (t *tenants) command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "tenant", Aliases: []string{"tenants"}, Short: "Make, change and remove tenants",
		Long: `Tenants that the directory knows: each with a PostgreSQL of its own, or a database, schema or rows in one that it shares.

Orders go to the running pooler, over the socket of [admin]; without one, this program opens the directory itself. They can be repeated: what is
done already is not done again. Ctrl-C ends the wait, and not what was begun with a running pooler.

Exit codes: 0 it is as ordered; 1 it failed; 2 the order makes no sense; 3 there is no such tenant; 4 a name is taken, or the tenant's state does not
allow it, or something else is being done to it; 5 the host can't give what is asked for.`,
		Example: "  pgkennel tenant create acme --enable --memory 256MB\n  pgkennel tenant list\n  pgkennel tenant stop acme globex\n  pgkennel tenant show acme --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := noArgs(cmd, args); err != nil {
				return err
			}
			return usageError{errors.New("tenant needs a command, such as create, list or show")}
		},
	}
	p := cmd.PersistentFlags()
	t.where.flags(cmd)
	p.BoolVar(&t.asJSON, "json", false, "print the result for programs")
	p.BoolVarP(&t.quiet, "quiet", "q", false, "no word of progress")
	cmd.AddCommand(t.newCreate(), t.newClone(), t.newSet())
	cmd.AddCommand(t.newList(), t.newShow(), t.newStats(), t.newLogs(), t.newAudit())
	cmd.AddCommand(t.newLives()...)
	cmd.AddCommand(t.newEnable(), t.newDisable(), t.newReadOnly(), t.newRename(), t.newPassword(), t.newPsql())
	cmd.AddCommand(t.newBackup(), t.newBackups(), t.newRestore(), t.newRemove(), t.newRepair(), t.newRekey(), t.newDrop(), t.newImport(), t.newExport())
	cmd.AddCommand(t.newUser(), t.newReplica())
	return cmd
}

// outcome is what became of an order.
type outcome struct {
	order  provision.Order
	result *provision.Result
	err    error
}

// run gives orders and prints what became of them.
func (t *tenants) run(cmd *cobra.Command, print printer, orders ...provision.Order) error {
	return t.finish(cmd, print, t.execute(cmd, orders...))
}

// execute gives orders one after the other; one that fails does not keep the others from being tried.
func (t *tenants) execute(cmd *cobra.Command, orders ...provision.Order) []outcome {
	return t.give(cmd, orders, nil)
}

// adjusted gives orders that depend on what the tenants are now.
func (t *tenants) adjusted(cmd *cobra.Command, print printer, orders []provision.Order, adjust func(*provision.Order, *provision.View) error) error {
	return t.finish(cmd, print, t.give(cmd, orders, adjust))
}

func (t *tenants) give(cmd *cobra.Command, orders []provision.Order, adjust func(*provision.Order, *provision.View) error) []outcome {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	exec, done, err := t.open(ctx, cmd, t)
	if err != nil {
		return []outcome{{err: err}}
	}
	defer done()
	all := make([]outcome, 0, len(orders))
	for _, o := range orders {
		if adjust != nil {
			now := t.one(ctx, cmd, exec, provision.Order{Verb: provision.VerbShow, Tenant: o.Tenant})
			if now.err == nil && len(now.result.Tenants) != 1 {
				now.err = fmt.Errorf("the answer has %d tenants", len(now.result.Tenants))
			}
			if now.err == nil {
				now.err = adjust(&o, now.result.Tenants[0])
			}
			if now.err != nil {
				all = append(all, now)
				continue
			}
		}
		all = append(all, t.one(ctx, cmd, exec, o))
		if ctx.Err() != nil {
			break
		}
	}
	return all
}

func (t *tenants) one(ctx context.Context, cmd *cobra.Command, exec provision.Executor, o provision.Order) outcome {
	p := newProgress(cmd.OutOrStdout(), cmd.ErrOrStderr(), o.Tenant, o.Verb, t.quiet)
	result, err := exec.Execute(ctx, o, p.report)
	p.end()
	if err == nil && result == nil {
		result = &provision.Result{}
	}
	return outcome{o, result, err}
}

// finish prints what became of orders: results to stdout, everything else to stderr.
func (t *tenants) finish(cmd *cobra.Command, print printer, all []outcome) error {
	var err error
	if t.asJSON {
		err = printJSON(cmd.OutOrStdout(), all)
	} else {
		err = print(cmd.OutOrStdout(), cmd.ErrOrStderr(), all)
	}
	if err != nil {
		return err
	}
	for _, x := range all {
		if x.err != nil {
			if !errors.Is(x.err, errSilent) {
				complain(cmd.ErrOrStderr(), x.order.Tenant, x.err)
			}
			if err == nil {
				err = exitError{exitOf(x.err)}
			}
		}
	}
	return err
}

// named makes an order for each of the names.
func named(o provision.Order, names []string) []provision.Order {
	orders := make([]provision.Order, len(names))
	for i, n := range names {
		o.Tenant = n
		orders[i] = o
	}
	return orders
}

// names want at least and at most so many arguments; no more than many = any number.
func names(what string, least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return usageError{fmt.Errorf("usage: %s %s", strings.TrimSuffix(cmd.CommandPath(), " "), what)}
		}
		return nil
	}
}

// use is a command's name and arguments, as help shows them, and the check that there are as many.
func use(cmd *cobra.Command, args string, least, most int) *cobra.Command {
	cmd.Use = strings.TrimSpace(cmd.Use + " " + args)
	cmd.Args = names(args, least, most)
	cmd.DisableFlagsInUseLine = true
	return cmd
}

// jsonResult is what --json prints: what all orders led to, together.
type jsonResult struct {
	provision.Result
	Errors []jsonError `json:"errors,omitempty"`
}

type jsonError struct {
	Tenant string `json:"tenant,omitempty"`
	*provision.Error
}

func merge(all []outcome) (j jsonResult) {
	for _, x := range all {
		if x.err != nil {
			e, ok := errors.AsType[*provision.Error](x.err)
			if !ok {
				e = provision.Errorf(provision.KindFailed, "%v", x.err)
			}
			j.Errors = append(j.Errors, jsonError{x.order.Tenant, e})
			continue
		}
		r := x.result
		j.Changed = j.Changed || r.Changed
		j.Tenants, j.Secrets, j.Backups = append(j.Tenants, r.Tenants...), append(j.Secrets, r.Secrets...), append(j.Backups, r.Backups...)
		j.Audit, j.Plan, j.Notes = append(j.Audit, r.Audit...), append(j.Plan, r.Plan...), append(j.Notes, r.Notes...)
		if r.Connect != nil {
			j.Connect = r.Connect
		}
	}
	return j
}
