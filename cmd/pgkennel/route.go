package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/tenant"
)

func newRoute(f *files) *cobra.Command {
	var database, user, tenantName string
	var hint router.Hint
	cmd := &cobra.Command{
		Use: "route SQL", Short: "Explain where a statement would run, and why; no server is asked",
		Example: "  pgkennel route --database prod --user app 'SELECT * FROM orders WHERE tenant_id = 7'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("route takes one argument, the SQL")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, _, err := f.load(cmd)
			if err != nil {
				return err
			}
			if database == "" && len(cfg.Clusters) == 1 {
				database = cfg.Clusters[0].Name
			}
			cluster := cfg.Cluster(database)
			if cluster == nil {
				return usageError{fmt.Errorf("database %q is not configured", database)}
			}
			if user != "" && cfg.User(user, database) == nil {
				return usageError{fmt.Errorf("user %q may not use database %q", user, database)}
			}
			options, err := pooler.RouterOptions(cluster)
			if err != nil {
				return err
			}
			r, err := router.New(options)
			if err != nil {
				return err
			}
			message, path := parser.Parse(args[0]), []string{user, "public"}
			in := &router.Input{Hint: hint, UTF8: true}
			var whose *tenant.Tenant
			if cfg.Tenancy != nil {
				rt := r.Route(message, &router.Env{SearchPath: path, SearchPathKey: "of nobody"})
				if whose, err = tenantOf(cfg, cluster, tenantName, rt, in); err != nil {
					return err
				}
			} else if tenantName != "" {
				return usageError{errors.New("there are no tenants: [multi_tenant] has no more than a column")}
			}
			if whose != nil {
				if in.Tenant, err = pooler.TenantRoute(cluster, r, whose); err != nil {
					return err
				}
				if whose.Schema != "" {
					path = []string{whose.Schema, "public"}
				}
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), describe(whose)); err != nil {
					return err
				}
			}
			rt := r.Route(message, &router.Env{SearchPath: path, SearchPathKey: "of the session"})
			explanation, refusal := rt.Explain(in)
			if _, err := fmt.Fprint(cmd.OutOrStdout(), explanation); err != nil {
				return err
			}
			if refusal != nil && refusal != router.ErrNeedsParams {
				printRefusal(cmd, refusal)
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&database, "database", "d", "", "the database as clients name it (default: the only one)")
	cmd.Flags().StringVar(&user, "user", "", "the user as clients name it")
	cmd.Flags().StringVar(&tenantName, "tenant", "", "the tenant whose session it is, by its name (default: whom the statement names)")
	cmd.Flags().StringVar(&hint.Shard, "shard", "", "as after SET pgdog.shard")
	cmd.Flags().StringVar(&hint.ShardingKey, "sharding-key", "", "as after SET pgdog.sharding_key")
	return cmd
}

// tenantOf is the tenant for whom a statement runs: of that name, or whose key it names; nil = nobody.
func tenantOf(cfg *config.Config, cluster *config.Cluster, name string, rt *router.Route, in *router.Input) (*tenant.Tenant, error) {
	reg := cfg.Tenancy.Registry
	if name == "" {
		name = rt.Tenant()
	}
	if name != "" {
		t := reg.ByName(name)
		if t == nil {
			if t = reg.ByKey(cluster.Name, name); t != nil && t.Name != name {
				t = nil
			}
		}
		if t == nil || t.Cluster != cluster.Name {
			return nil, usageError{fmt.Errorf("database %q has no tenant %q", cluster.Name, name)}
		}
		return t, nil
	}
	key, found, refusal := rt.TenantKey(in)
	if refusal != nil || !found {
		return nil, nil //nolint:nilerr,nilnil // the plan says so
	}
	return reg.ByKey(cluster.Name, key.String()), nil
}

// describe says what a tenant's connections carry.
func describe(t *tenant.Tenant) string {
	parts := []string{fmt.Sprintf("tenant %s: isolation %s, mode %s", t.Name, t.Isolation, t.Mode)}
	for _, x := range [][2]string{{"key", t.Key}, {"schema", t.Schema}, {"role", t.Role}, {"database", t.Database}} {
		if x[1] != "" {
			parts = append(parts, x[0]+" "+x[1])
		}
	}
	if t.State != tenant.Active {
		parts = append(parts, t.State.String())
	}
	return strings.Join(parts, ", ")
}

func printRefusal(cmd *cobra.Command, e *pgwire.Error) {
	w := cmd.ErrOrStderr()
	fmt.Fprintf(w, "%s: %s %s: %s\n", e.Severity, e.Code, e.Routine, e.Message)
	if e.Detail != "" {
		fmt.Fprintf(w, "DETAIL: %s\n", e.Detail)
	}
	if e.Hint != "" {
		fmt.Fprintf(w, "HINT: %s\n", e.Hint)
	}
}
