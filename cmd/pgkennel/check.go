package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/tenant"
)

func newCheck(f *files) *cobra.Command {
	return &cobra.Command{
		Use: "check", Aliases: []string{"configcheck"}, Short: "Check both files; print the effective configuration, or every mistake",
		Example: "  pgkennel check --config pgdog.toml --users users.toml", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, warnings, err := f.load(cmd)
			for _, w := range warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", w)
			}
			if err != nil {
				return err
			}
			noteShared(cmd.ErrOrStderr(), cfg)
			return cfg.Effective(cmd.OutOrStdout())
		},
	}
}

// noteShared says of each database whose tenants share a login what that does not protect from.
func noteShared(w io.Writer, cfg *config.Config) {
	if cfg.Tenancy == nil {
		return
	}
	for _, c := range cfg.Clusters {
		for _, k := range cfg.Tenancy.Registry.Kinds(c.Name) {
			if k.Mode == tenant.Strict && cfg.Tenancy.Secret == nil {
				fmt.Fprintf(w, "note: database %q: tenants' roles log in without a password, for role_secret_file is not set; "+
					"openssl rand -hex 32 makes a secret, and pgkennel secure apply gives roles their passwords\n", c.Name)
			}
			if k.Mode == tenant.Shared {
				fmt.Fprintf(w, "note: database %q: tenants in shared mode, %s isolation, are kept apart from mistakes, and not from SQL that is meant to get out "+
					"(injected, or their own): see docs/tenancy.md, What holds it there\n", c.Name, k.Isolation)
			}
		}
	}
}
