package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/kennel"
	"github.com/pgkennel/pgkennel/pooler"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// administration are the flags of commands that an administrator has in the databases themselves.
type administration struct {
	*files
	database, dsn string
	keys          []string
}

func (a *administration) flags(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVarP(&a.database, "database", "d", "", "the database as clients name it (default: the only one)")
	cmd.PersistentFlags().StringVar(&a.dsn, "dsn", "", "the administrator's connection; host, port and dbname come from the configuration (default: admin_user of the configuration, then PGUSER, PGPASSWORD and so on)")
	cmd.PersistentFlags().StringSliceVar(&a.keys, "key", nil, "keys of tenants that have no entry in [[tenants]]")
}

func newSecure(f *files) *cobra.Command {
	a := &administration{files: f}
	cmd := &cobra.Command{
		Use: "secure", Short: "Make a database safe for tenants: roles, schemas, privileges, policies",
		Example: "  pgkennel secure plan --database prod\n  PGUSER=postgres pgkennel secure apply --database prod",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := noArgs(cmd, args); err != nil {
				return err
			}
			return usageError{errors.New("secure needs a command: plan or apply")}
		},
	}
	a.flags(cmd)
	var lockTimeout time.Duration
	plan := &cobra.Command{
		Use: "plan", Short: "Print the SQL that is missing", Example: "  pgkennel secure plan --database prod", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.plan(cmd, lockTimeout) },
	}
	apply := &cobra.Command{
		Use: "apply", Short: "Run the SQL that is missing, a transaction for each step, until one fails",
		Example: "  pgkennel secure apply --database prod --lock-timeout 2s", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.apply(cmd, lockTimeout) },
	}
	for _, c := range []*cobra.Command{plan, apply} {
		c.Flags().DurationVar(&lockTimeout, "lock-timeout", 5*time.Second, "how long a step waits for a lock")
	}
	cmd.AddCommand(plan, apply)
	return cmd
}

// target is one database to look at.
type target struct {
	name    string // such as prod/0
	at      secure.Place
	admin   string
	options secure.Options
	own     bool // a tenant's
}

// targets finds the databases of a cluster: its shards, then those that are tenants' own.
func (a *administration) targets(cmd *cobra.Command) ([]target, error) {
	cfg, _, err := a.load(cmd)
	if err != nil {
		return nil, err
	}
	if a.database == "" && len(cfg.Clusters) == 1 {
		a.database = cfg.Clusters[0].Name
	}
	cluster := cfg.Cluster(a.database)
	if cluster == nil {
		return nil, usageError{fmt.Errorf("database %q is not configured", a.database)}
	}
	if cfg.Tenancy == nil {
		return nil, errors.New("there are no tenants to keep apart: [multi_tenant] has no more than a column")
	}
	tenants, err := a.tenants(cfg, cluster)
	if err != nil {
		return nil, err
	}
	if cfg.Directory != nil {
		more, err := a.onDemand(cmd, cluster)
		if err != nil {
			return nil, fmt.Errorf("tenants of the directory: %w", err)
		}
		tenants = append(tenants, more...)
	}
	rows, err := kennel.RowMode(cfg, cluster, tenants)
	if err != nil {
		return nil, err
	}
	shardOf, err := pooler.TenantShards(cluster)
	if err != nil {
		return nil, err
	}
	var shards, own []target
	for n, endpoints := range cluster.Shards {
		e := kennel.Primary(endpoints)
		x := target{
			name: fmt.Sprintf("%s/%d", cluster.Name, n), at: secure.Place{Host: e.Host, Port: e.Port, Database: e.DatabaseName}, admin: cmp.Or(a.dsn, e.Administrator()),
			options: secure.Options{
				Cluster: cluster.Name, Column: cluster.TenantColumn, Type: cluster.TenantType.String(), Setting: cfg.Tenancy.Registry.Setting(), Rows: rows,
				Secret: cfg.Tenancy.Secret, Logins: kennel.Logins(cfg, e),
			},
		}
		for _, t := range cluster.Omnisharded {
			x.options.Common = append(x.options.Common, secure.Table(t))
		}
		for _, t := range tenants {
			shard, err := shardOf(t)
			if err != nil {
				return nil, err
			}
			switch {
			case shard != n:
			case t.Isolation == tenant.Database:
				x.options.Databases = append(x.options.Databases, t.Database)
				its := target{name: x.name + " " + t.Database, at: x.at, admin: x.admin, options: x.options, own: true}
				its.at.Database = t.Database
				its.options.Rows, its.options.Tenants, its.options.Databases, its.options.Common = 0, []*tenant.Tenant{t}, nil, nil
				own = append(own, its)
			default:
				x.options.Tenants = append(x.options.Tenants, t)
			}
		}
		shards = append(shards, x)
	}
	return append(shards, own...), nil
}

// tenants are those with an entry, those to whom a mapping that lists their key gives names, and those of the keys on the command line.
func (a *administration) tenants(cfg *config.Config, cluster *config.Cluster) ([]*tenant.Tenant, error) {
	var all []*tenant.Tenant
	r := cfg.Tenancy.Registry
	r.All(func(t *tenant.Tenant) bool {
		if t.Cluster == cluster.Name {
			all = append(all, t)
		}
		return true
	})
	r.Listed(cluster.Name, func(t *tenant.Tenant) bool {
		all = append(all, t)
		return true
	})
	for _, text := range a.keys {
		key, ok := pooler.TenantKey(cluster, text)
		if !ok {
			return nil, usageError{fmt.Errorf("--key %s is no %s", strconv.Quote(text), cluster.TenantType)}
		}
		t := r.ByKey(cluster.Name, key)
		if t == nil {
			return nil, usageError{fmt.Errorf("--key %s makes no tenant: the templates in [multi_tenant] and in its mapping need more than a key, or a name of it is taken", strconv.Quote(key))}
		}
		if !slices.ContainsFunc(all, t.Same) {
			all = append(all, t)
		}
	}
	return all, nil
}

// onDemand are the directory's tenants in a database of the configuration: as long as there is something of them, which is until they are forgotten.
func (a *administration) onDemand(cmd *cobra.Command, cluster *config.Cluster) ([]*tenant.Tenant, error) {
	t := &tenants{files: a.files}
	exec, done, err := openExecutor(cmd.Context(), cmd, t)
	if err != nil {
		return nil, err
	}
	defer done()
	list, err := exec.Execute(cmd.Context(), provision.Order{Verb: provision.VerbList, Removed: true}, nil)
	if err != nil {
		return nil, err
	}
	var all []*tenant.Tenant
	for _, v := range list.Tenants {
		if v.Cluster != cluster.Name || v.Phase == tenant.Creating.String() || v.Isolation == tenant.Instance.String() { // which has nothing there
			continue
		}
		x := &tenant.Tenant{Name: v.Name, Key: v.Key, State: tenant.Active, Cluster: v.Cluster, Shard: -1, Schema: v.Schema, Role: v.Role, Database: v.Database}
		x.Isolation, _ = tenant.ParseIsolation(v.Isolation)
		x.Mode, _ = tenant.ParseMode(v.Mode)
		if v.Shard != nil {
			x.Shard = *v.Shard
		}
		all = append(all, x)
	}
	return all, nil
}

// visit calls f for each database, connected.
func (a *administration) visit(cmd *cobra.Command, f func(context.Context, target, *secure.Conn) error) error {
	targets, err := a.targets(cmd)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	for _, x := range targets {
		if err := a.visitOne(ctx, x, f); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
	return nil
}

func (a *administration) visitOne(ctx context.Context, x target, f func(context.Context, target, *secure.Conn) error) error {
	db, err := secure.Connect(ctx, x.admin, x.at)
	if x.own && secure.Missing(err) {
		db = nil
	} else if err != nil {
		return err
	}
	if db != nil {
		defer db.Close(context.WithoutCancel(ctx))
	}
	return f(ctx, x, db)
}

func (a *administration) plan(cmd *cobra.Command, lockTimeout time.Duration) error {
	pl, out, first := secure.NewPlanner(), cmd.OutOrStdout(), true
	return a.visit(cmd, func(ctx context.Context, x target, db *secure.Conn) error {
		if db == nil {
			_, err := fmt.Fprintf(out, "\n-- %s: its plan follows once the database is there\n", x.name)
			return err
		}
		steps, err := pl.Plan(ctx, db, x.options)
		if err != nil || len(steps) == 0 {
			return err
		}
		if !first {
			fmt.Fprintln(out)
		}
		first = false
		fmt.Fprintf(out, "-- database %s, on %s:%d\n\\connect %s\nSET lock_timeout = %d;\n", x.name, x.at.Host, x.at.Port, tenant.QuoteIdent(x.at.Database), lockTimeout.Milliseconds())
		for i, s := range steps {
			if err := printStep(out, i+1, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// printStep prints a step as psql runs it.
func printStep(w io.Writer, n int, s secure.Step) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n-- %d. %s\n", n, heading(s))
	if !s.Alone {
		b.WriteString("BEGIN;\n")
	}
	for _, sql := range s.SQL {
		b.WriteString(sql + ";\n")
	}
	if !s.Alone {
		b.WriteString("COMMIT;\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func heading(s secure.Step) string { return oneLine(s.Kind + " " + s.Object + ": " + s.Reason) }

// oneLine keeps names of objects from ending a comment.
func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

func (a *administration) apply(cmd *cobra.Command, lockTimeout time.Duration) error {
	out := cmd.OutOrStdout()
	return a.visit(cmd, func(ctx context.Context, x target, db *secure.Conn) error {
		if db == nil {
			return errors.New("the database is not there")
		}
		steps, err := secure.NewPlanner().Plan(ctx, db, x.options)
		if err != nil {
			return err
		}
		err = secure.Apply(ctx, db, steps, lockTimeout, func(i int, s secure.Step) {
			fmt.Fprintf(out, "%s: %d of %d, %s\n", x.name, i+1, len(steps), heading(s))
		})
		if err != nil {
			return err
		}
		absent, err := secure.NoRoles(ctx, db, x.options)
		if err != nil {
			return err
		}
		for _, name := range absent {
			fmt.Fprintf(out, "%s: there is no role %s, with which pgkennel logs in: CREATE ROLE it with LOGIN and its password, and apply again\n", x.name, tenant.QuoteIdent(name))
		}
		_, err = fmt.Fprintf(out, "%s: safe, %d steps\n", x.name, len(steps))
		return err
	})
}
