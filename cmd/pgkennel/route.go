package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/router"
)

func newRoute(f *files) *cobra.Command {
	var database, user string
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
			rt := r.Route(parser.Parse(args[0]), &router.Env{SearchPath: []string{user, "public"}, SearchPathKey: user})
			explanation, refusal := rt.Explain(&router.Input{Hint: hint, UTF8: true})
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
	cmd.Flags().StringVar(&hint.Shard, "shard", "", "as after SET pgdog.shard")
	cmd.Flags().StringVar(&hint.ShardingKey, "sharding-key", "", "as after SET pgdog.sharding_key")
	return cmd
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
