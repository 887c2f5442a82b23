// Command pgkennel is a connection pooler for PostgreSQL that knows tenants: one endpoint, and every statement runs where its tenant lives.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/config"
)

// version is set at build time: -ldflags "-X main.version=1.2.3".
var version = "0.1.0-dev"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// errSilent fails without another word: everything was said already. Its text is for --json.
var errSilent = errors.New("the reason is on standard error")

// usageError is a mistake on the command line.
type usageError struct{ error }

// run is the program, less its process.
func run(args []string, stdout, stderr io.Writer) int {
	return runRoot(newRoot(), args, stdout, stderr)
}

func runRoot(root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	var usage usageError
	var exit exitError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case err == nil:
		return exitOK
	case errors.Is(err, errSilent):
		return exitFailed
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(stderr, "pgkennel: %v\nhint: pgkennel --help\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "pgkennel: %v\n", err)
	return exitFailed
}

// files are the flags that say where the configuration is.
type files struct {
	config, users string
	configGiven   bool
}

// fileValue is --config, of all commands but those that have settings for it too.
type fileValue struct{ *files }

// String implements pflag.Value.
func (v fileValue) String() string {
	if v.files == nil {
		return ""
	}
	return v.config
}

// Set implements pflag.Value.
func (v fileValue) Set(s string) error {
	v.config, v.configGiven = s, true
	return nil
}

// Type implements pflag.Value.
func (fileValue) Type() string { return "string" }

func (f *files) options(cmd *cobra.Command) config.Options {
	return config.Options{
		ConfigFile: f.config, UsersFile: f.users,
		ConfigGiven: f.configGiven, UsersGiven: cmd.Flags().Changed("users"),
		Environ: os.Environ(),
	}
}

// load reads the configuration; what is wrong with it goes to stderr, a line each.
func (f *files) load(cmd *cobra.Command) (*config.Config, config.Warnings, error) {
	cfg, warnings, err := config.Load(f.options(cmd))
	if problems, ok := errors.AsType[config.Problems](err); ok {
		for _, p := range problems {
			fmt.Fprintln(cmd.ErrOrStderr(), p)
		}
		return nil, warnings, errSilent
	}
	return cfg, warnings, err
}

func newRoot() *cobra.Command { return newRootOf(&files{config: "pgdog.toml"}) }

func newRootOf(f *files) *cobra.Command {
	root := &cobra.Command{
		Use:   "pgkennel",
		Short: "A PostgreSQL pooler that runs every statement where its tenant lives",
		Long: `pgkennel is one PostgreSQL endpoint in front of many tenants' databases. It reads pgdog.toml and
users.toml as PgDog has them. Without a command it serves.`,
		Example:       "  pgkennel --config pgdog.toml --users users.toml\n  pgkennel check\n  pgkennel route --database prod --user app 'SELECT * FROM orders WHERE tenant_id = 7'",
		SilenceErrors: true, SilenceUsage: true,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd, f) },
	}
	root.PersistentFlags().VarP(&fileValue{f}, "config", "c", "the configuration")
	root.PersistentFlags().StringVarP(&f.users, "users", "u", "users.toml", "who may log in")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newServe(f), newCheck(f), newRoute(f), newSecure(f), newDoctor(f), newTenant(f), newVersion())
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())}
	}
	return nil
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  pgkennel version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "pgkennel", version)
			return err
		},
	}
}
