package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// simple is a command whose order has no more than a verb and names.
func (t *tenants) simple(o *provision.Order, name, args string, least, most int, short, example string, print printer) *cobra.Command {
	return use(&cobra.Command{
		Use: name, Short: short, Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return t.run(cmd, print, *o)
			}
			return t.run(cmd, print, named(*o, args)...)
		},
	}, args, least, most)
}

func (t *tenants) newList() *cobra.Command {
	o := &provision.Order{Verb: provision.VerbList}
	cmd := t.simple(o, "list", "[flags]", 0, 0, "List all tenants", "  pgkennel tenant list\n  pgkennel tenant list --removed --json", printList)
	cmd.Aliases = []string{"ls"}
	cmd.Flags().BoolVar(&o.Removed, "removed", false, "with those that were removed, and can be restored still")
	return cmd
}

func (t *tenants) newShow() *cobra.Command {
	return t.simple(&provision.Order{Verb: provision.VerbShow}, "show", "NAME...", 1, -1, "Show all there is to know of a tenant, but its secrets",
		"  pgkennel tenant show acme\n  pgkennel tenant show acme --json", printShow)
}

func (t *tenants) newStats() *cobra.Command {
	return t.simple(&provision.Order{Verb: provision.VerbStats}, "stats", "[NAME...]", 0, -1, "Show what tenants use, and do",
		"  pgkennel tenant stats\n  pgkennel tenant stats acme globex", printStats)
}

func (t *tenants) newLogs() *cobra.Command {
	o := &provision.Order{Verb: provision.VerbLogs}
	cmd := t.simple(o, "logs", "NAME [flags]", 1, 1, "Print the log of a tenant's PostgreSQL", "  pgkennel tenant logs acme -n 20\n  pgkennel tenant logs acme -f", printNothing)
	cmd.Flags().IntVarP(&o.Lines, "lines", "n", 100, "how many lines")
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on with what comes")
	return cmd
}

func (t *tenants) newAudit() *cobra.Command {
	o := &provision.Order{Verb: provision.VerbAudit}
	cmd := t.simple(o, "audit", "[NAME] [flags]", 0, 1, "Print who did what, the latest first", "  pgkennel tenant audit acme\n  pgkennel tenant audit -n 100", printAudit)
	cmd.Flags().IntVarP(&o.Limit, "lines", "n", 50, "how many entries")
	return cmd
}

// newLives are the commands that start and end a tenant's instance.
func (t *tenants) newLives() []*cobra.Command {
	var all []*cobra.Command
	for _, x := range []struct{ verb, words, short, long, now string }{
		{provision.VerbStart, "started", "Start tenants that are stopped", "", ""},
		{
			provision.VerbStop, "stopped", "Stop tenants until they are started", "Clients get error 57P03 once they have proven their password.",
			"do not wait for transactions",
		},
		{provision.VerbRestart, "restarted", "Stop tenants and start them", "", "do not wait for transactions"},
		{
			provision.VerbSuspend, "suspended", "Refuse a tenant's clients as if the password was wrong, and stop it", "A virtual tenant is fenced in its database.",
			"do not wait for transactions",
		},
		{provision.VerbResume, "resumed", "Take back suspend", "", ""},
	} {
		o := &provision.Order{Verb: x.verb}
		flags := ""
		if x.now != "" {
			flags = " [flags]"
		}
		cmd := t.simple(o, x.verb, "NAME..."+flags, 1, -1, x.short, "  pgkennel tenant "+x.verb+" acme\n  pgkennel tenant "+x.verb+" acme globex initech", done(x.words))
		if x.long != "" {
			cmd.Long = x.short + ". " + x.long
		}
		if x.now != "" {
			cmd.Flags().BoolVar(&o.Now, "now", false, x.now)
		}
		all = append(all, cmd)
	}
	return all
}

func (t *tenants) newEnable() *cobra.Command {
	var cidr []string
	cmd := use(&cobra.Command{
		Use: "enable-access", Short: "Let clients log in",
		Long:    "Lets clients log in: from the networks of --cidr and no others, or, without it, from where they could before; at first that is anywhere.",
		Example: "  pgkennel tenant enable-access acme globex\n  pgkennel tenant enable-access acme --cidr 10.0.0.0/8 --cidr 192.0.2.7\n  pgkennel tenant enable-access acme --cidr any",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := networks(cidr)
			if err != nil {
				return err
			}
			return t.run(cmd, done("clients may log in"), named(provision.Order{Verb: provision.VerbEnable, Networks: list}, args)...)
		},
	}, "NAME... [flags]", 1, -1)
	cmd.Flags().StringSliceVar(&cidr, "cidr", nil, "network that clients may come from, such as 10.0.0.0/8; any = all")
	return cmd
}

func (t *tenants) newDisable() *cobra.Command {
	var cidr []string
	o := provision.Order{Verb: provision.VerbDisable}
	cmd := use(&cobra.Command{
		Use: "disable-access", Short: "Keep clients from logging in",
		Long: `Keeps clients from logging in, on all poolers within a second. Sessions that there are end by themselves, or with --now at once; then the
tenant's PostgreSQL refuses its roles as well.`,
		Example: "  pgkennel tenant disable-access acme\n  pgkennel tenant disable-access acme --now\n  pgkennel tenant disable-access acme --cidr 192.0.2.7",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := networks(cidr)
			switch {
			case err != nil:
				return err
			case len(list) == 0:
				return t.run(cmd, done("no client may log in"), named(o, args)...)
			case o.Now:
				return usageError{errors.New("--now ends all sessions, and --cidr is about some: give one of them")}
			}
			return t.adjusted(cmd, done("networks taken back"), named(o, args), func(o *provision.Order, v *provision.View) error { return without(o, v, list) })
		},
	}, "NAME... [flags]", 1, -1)
	cmd.Flags().BoolVar(&o.Now, "now", false, "close sessions at once, and have the server refuse the tenant's roles")
	cmd.Flags().StringSliceVar(&cidr, "cidr", nil, "only from this network, which enable-access had named")
	return cmd
}

// without makes an order of what is left of a tenant's networks.
func without(o *provision.Order, v *provision.View, cidr []netip.Prefix) error {
	have := v.Access.Networks
	for _, p := range cidr {
		if v.Access.Enabled && !slices.Contains(have, p) {
			return provision.Errorf(provision.KindInvalid, "%s is none of the networks that enable-access named", p).
				WithHint("a network within one that is allowed can't be left out; enable-access --cidr names all that are")
		}
	}
	left := slices.DeleteFunc(slices.Clone(have), func(p netip.Prefix) bool { return slices.Contains(cidr, p) })
	if len(left) > 0 && v.Access.Enabled {
		*o = provision.Order{Verb: provision.VerbEnable, Tenant: o.Tenant, Networks: left}
	}
	return nil
}

func (t *tenants) newReadOnly() *cobra.Command {
	var off bool
	o := provision.Order{Verb: provision.VerbReadOnly}
	cmd := use(&cobra.Command{
		Use: "read-only", Short: "Have tenants read only, or write again", Example: "  pgkennel tenant read-only acme\n  pgkennel tenant read-only acme --off",
		RunE: func(cmd *cobra.Command, args []string) error {
			on, words := !off, "reads only"
			if off {
				words = "may write"
			}
			o.On = &on
			return t.run(cmd, done(words), named(o, args)...)
		},
	}, "NAME... [flags]", 1, -1)
	cmd.Flags().BoolVar(&off, "off", false, "let them write again")
	return cmd
}

func (t *tenants) newRename() *cobra.Command {
	return use(&cobra.Command{
		Use: "rename", Short: "Give a tenant another name", Long: "Gives a tenant another name. Nothing moves; clients log in with the new one.",
		Example: "  pgkennel tenant rename acme acme-corp",
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.run(cmd, done("is called "+args[1]), provision.Order{Verb: provision.VerbRename, Tenant: args[0], Name: args[1]})
		},
	}, "NAME NEW", 2, 2)
}

func (t *tenants) newPassword() *cobra.Command {
	o := provision.Order{Verb: provision.VerbPassword}
	var file string
	cmd := use(&cobra.Command{
		Use: "password", Short: "Give a tenant's login another password", Example: "  pgkennel tenant password acme\n  pgkennel tenant password acme --login reports --password-file secret",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Password, err = passwordIn(cmd, file); err != nil {
				return err
			}
			o.Tenant = args[0]
			return t.run(cmd, done("has another password"), o)
		},
	}, "NAME [flags]", 1, 1)
	cmd.Flags().StringVar(&o.Login, "login", "", "whose (default: the tenant's own)")
	cmd.Flags().StringVar(&file, "password-file", "", "file with the password; - = stdin (default: one is made and shown)")
	return cmd
}

func (t *tenants) newPsql() *cobra.Command {
	return use(&cobra.Command{
		Use: "psql", Short: "Open psql in a tenant's database, past the pooler, as its administrator",
		Example: "  pgkennel tenant psql acme\n  pgkennel tenant psql acme -- -c 'SELECT count(*) FROM orders'",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := exec.LookPath("psql")
			if err != nil {
				return fmt.Errorf("%w; Debian has it in the package postgresql-client", err)
			}
			all := t.execute(cmd, provision.Order{Verb: provision.VerbConnect, Tenant: args[0]})
			if t.asJSON || all[0].err != nil || all[0].result.Connect == nil {
				return t.finish(cmd, printNothing, all)
			}
			c := all[0].result.Connect
			env := psqlEnv(os.Environ(), c)
			if c.CA != "" {
				file, err := authorityFile(c.CA)
				if err != nil {
					return err
				}
				env = append(env, "PGSSLMODE=verify-full", "PGSSLROOTCERT="+file)
			}
			return t.exec(path, append([]string{"psql"}, args[1:]...), env)
		},
	}, "NAME [-- ARGUMENTS OF PSQL]", 1, -1)
}

// authorityFile holds a certificate where psql finds it, which this process becomes: without a name, so that nothing is left of it.
func authorityFile(text string) (string, error) {
	fd, err := unix.MemfdCreate("authority", 0)
	if err != nil {
		return "", err
	}
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// psqlEnv is an environment that leads to a database, and nowhere else: of a variable that is there twice libpq takes the first, and the operator may have
// those of another server, for secure.
func psqlEnv(env []string, c *provision.Connect) []string {
	env = slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		if c.Auth != "" && (name == "PGREQUIREAUTH" || name == "PGCHANNELBINDING") {
			return true
		}
		if c.CA != "" && (name == "PGSSLMODE" || name == "PGSSLROOTCERT" || name == "PGREQUIRESSL") {
			return true
		}
		return slices.Contains([]string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGDATABASE", "PGOPTIONS", "PGSERVICE"}, name)
	})
	env = append(env, "PGHOST="+c.Host, "PGPORT="+strconv.Itoa(c.Port), "PGUSER="+c.User, "PGDATABASE="+c.Database, "PGOPTIONS="+c.Options)
	return append(env, c.Env()...)
}

func (t *tenants) newBackup() *cobra.Command {
	o := provision.Order{Verb: provision.VerbBackup}
	var verify bool
	cmd := use(&cobra.Command{
		Use: "backup", Short: "Make a backup of tenants, or verify one",
		Long: `Makes an encrypted backup: logical (pg_dump) or, of an instance, physical (pg_basebackup). With --verify none is made: the latest one, or that of --id, is
restored into an instance that nobody reaches, to see that it can be.`,
		Example: "  pgkennel tenant backup acme globex\n  pgkennel tenant backup acme --kind physical\n  pgkennel tenant backup acme --verify",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !verify {
				if o.Backup != "" {
					return usageError{errors.New("--id names a backup that --verify is to look at")}
				}
				return t.run(cmd, backedUp, named(o, args)...)
			}
			if o.Kind != "" {
				return usageError{errors.New("--verify makes no backup: it has no --kind")}
			}
			o.Verb = provision.VerbVerify
			return t.run(cmd, done("the backup can be restored"), named(o, args)...)
		},
	}, "NAME... [flags]", 1, -1)
	cmd.Flags().StringVar(&o.Kind, "kind", "", "logical or physical (default: logical)")
	cmd.Flags().BoolVar(&verify, "verify", false, "restore a backup to see that it can be")
	cmd.Flags().StringVar(&o.Backup, "id", "", "which backup (default: the latest)")
	return cmd
}

func (t *tenants) newBackups() *cobra.Command {
	return t.simple(&provision.Order{Verb: provision.VerbBackups}, "backups", "NAME...", 1, -1, "List the backups of tenants", "  pgkennel tenant backups acme", printBackups)
}

func (t *tenants) newRestore() *cobra.Command {
	o := provision.Order{Verb: provision.VerbRestore}
	var to string
	cmd := use(&cobra.Command{
		Use: "restore", Short: "Bring back a removed tenant, or what a backup has",
		Long: `Brings a removed tenant back as it was; of one that is there, replaces the data by those of a backup, the latest one if nothing else is said, after a backup of
what is there. With --as the tenant stays as it is, and a new one gets the data.`,
		Example: `  pgkennel tenant restore acme
  pgkennel tenant restore acme --backup 20260131T235900Z-a1b2
  pgkennel tenant restore acme --to-time '2026-01-31 23:59' --as acme-before`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			for _, f := range []string{"backup", "to-time", "as"} { // an empty variable of a script must not order something else
				if v := cmd.Flags().Lookup(f); v.Changed && v.Value.String() == "" {
					return usageError{fmt.Errorf("--%s is empty", f)}
				}
			}
			if o.ToTime, err = parseTime(to); err != nil {
				return err
			}
			if o.Name != "" {
				return t.run(cmd, born("restored as "+o.Name), named(o, args)...)
			}
			return t.run(cmd, done("restored"), named(o, args)...)
		},
	}, "NAME [flags]", 1, 1)
	cmd.Flags().StringVar(&o.Backup, "backup", "", "ID of the backup (default: the latest)")
	cmd.Flags().StringVar(&o.Name, "as", "", "name of a new tenant that gets the data")
	cmd.Flags().StringVar(&to, "to-time", "", "how it was then, such as '2026-01-31 23:59'; needs archived WAL")
	cmd.Flags().BoolVar(&o.Enable, "enable", false, "let clients of the new tenant log in at once")
	return cmd
}

// parseTime reads a time: of this machine's zone if it names none.
func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError{fmt.Errorf("--to-time %s is no time such as '2026-01-31 23:59' or 2026-01-31T22:59:00Z", strconv.Quote(s))}
}

func (t *tenants) newRemove() *cobra.Command {
	o := provision.Order{Verb: provision.VerbRemove}
	var keep bool
	cmd := use(&cobra.Command{
		Use: "remove", Aliases: []string{"rm"}, Short: "Remove tenants; restore brings them back",
		Long: `Makes a last backup and takes the tenant down. Until the grace period of [provision] is over, restore brings it back. With --now all of it is gone at
once, and nothing brings it back.`,
		Example: "  pgkennel tenant remove acme\n  pgkennel tenant remove acme globex --now",
		RunE: func(cmd *cobra.Command, args []string) error {
			if keep {
				o.Keep = new(int)
			}
			words := "removed; restore brings it back"
			if o.Now {
				words = "removed"
			}
			return t.run(cmd, done(words), named(o, args)...)
		},
	}, "NAME... [flags]", 1, -1)
	cmd.Flags().BoolVar(&o.Now, "now", false, "at once and for good, without a last backup")
	cmd.Flags().BoolVar(&keep, "keep-backups", false, "leave its backups where they are")
	return cmd
}

func (t *tenants) newRepair() *cobra.Command {
	o := &provision.Order{Verb: provision.VerbRepair}
	cmd := t.simple(o, "repair", "[NAME...] [flags]", 0, -1, "Go on with what was left half done, or undo it", "  pgkennel tenant repair\n  pgkennel tenant repair acme", done("repaired"))
	cmd.Flags().BoolVar(&o.Force, "force", false, "destroy also what belongs to no tenant that the directory ever had, data and all")
	return cmd
}

func (t *tenants) newRekey() *cobra.Command {
	return t.simple(&provision.Order{Verb: provision.VerbRekey}, "rekey", "[NAME...]", 0, -1, "Encrypt tenants' secrets with the directory's key of today",
		"  pgkennel tenant rekey", done("has secrets of today's key"))
}

func (t *tenants) newDrop() *cobra.Command {
	return t.simple(&provision.Order{Verb: provision.VerbDrop}, "drop-record", "ID...", 1, -1, "Take a record that can't be read out of the directory",
		"  pgkennel tenant drop-record mzxw6ytboi4tqnzs", done("dropped"))
}

// passphrase adds the flag of what encrypts files that leave the host.
func passphrase(cmd *cobra.Command, o *provision.Order) (read func() error) {
	var file string
	cmd.Flags().StringVar(&file, "passphrase-file", "", "file with the passphrase that encrypts it; - = stdin (default: it is not encrypted)")
	return func() (err error) {
		o.Passphrase, err = secretIn(cmd, "passphrase-file", file)
		return err
	}
}

func (t *tenants) newImport() *cobra.Command {
	x := &traits{}
	var read func() error
	cmd := use(&cobra.Command{
		Use: "import", Short: "Make a tenant of a file that export made",
		Long:    "Makes a tenant of a file that export made: as the exported one was, but for what flags say. The file is on the pooler's host.",
		Example: "  pgkennel tenant import acme acme.tenant --enable\n  pgkennel tenant import acme acme.tenant --passphrase-file secret --memory 512MB",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := read(); err != nil {
				return err
			}
			o, err := x.order(cmd)
			if err != nil {
				return err
			}
			o.Verb, o.Tenant = provision.VerbImport, args[0]
			return t.withFile(cmd, o, args[1], born("imported"))
		},
	}, "NAME FILE [flags]", 2, 2)
	x.flags(cmd, t.files)
	x.newFlags(cmd)
	read = passphrase(cmd, &x.o)
	return cmd
}

func (t *tenants) newExport() *cobra.Command {
	o := provision.Order{Verb: provision.VerbExport}
	var read func() error
	cmd := use(&cobra.Command{
		Use: "export", Short: "Write a tenant's data into a file", Long: "Writes a tenant's data into a file on the pooler's host, from which import makes a tenant, there or elsewhere.",
		Example: "  pgkennel tenant export acme acme.tenant --passphrase-file secret",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := read(); err != nil {
				return err
			}
			o.Tenant = args[0]
			return t.withFile(cmd, o, args[1], done("exported"))
		},
	}, "NAME FILE [flags]", 2, 2)
	cmd.Flags().StringVar(&o.Backup, "backup", "", "ID of a backup whose data it gets (default: those of now)")
	read = passphrase(cmd, &o)
	return cmd
}

// withFile gives an order about a file: it is on the host of who carries the order out, and that is this one but with --api.
func (t *tenants) withFile(cmd *cobra.Command, o provision.Order, path string, print printer) error {
	if t.api == "" {
		whole, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		path = whole
	}
	o.File = path
	return t.run(cmd, print, o)
}

// group is a command that is nothing without one of its own.
func group(cmd *cobra.Command, list string) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := noArgs(cmd, args); err != nil {
			return err
		}
		return usageError{fmt.Errorf("%s needs a command: %s", cmd.Name(), list)}
	}
	return cmd
}

func (t *tenants) newUser() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "user", Short: "Further logins of a tenant: for reports, with limits of their own",
		Example: "  pgkennel tenant user create acme reports --read-only --connections 3\n  pgkennel tenant user list acme\n  pgkennel tenant user remove acme reports",
	}, "create, list, set, password or remove")
	add := func(action, short, args string, n int, example, words string, flags func(*cobra.Command, *provision.Order) func() error) {
		o := provision.Order{Verb: provision.VerbUser, Action: action}
		var before func() error
		c := use(&cobra.Command{
			Use: action, Short: short, Example: "  pgkennel tenant user " + example,
			RunE: func(cmd *cobra.Command, args []string) error {
				if before != nil {
					if err := before(); err != nil {
						return err
					}
				}
				o.Tenant = args[0]
				if n == 1 {
					return t.run(cmd, printLogins, o)
				}
				o.Login = args[1]
				return t.run(cmd, done(args[1]+" "+words), o)
			},
		}, args, n, n)
		if flags != nil {
			before = flags(c, &o)
		}
		cmd.AddCommand(c)
	}
	password := func(c *cobra.Command, o *provision.Order) func() error {
		var file string
		c.Flags().StringVar(&file, "password-file", "", "file with the password; - = stdin (default: one is made and shown)")
		return func() (err error) {
			o.Password, err = passwordIn(c, file)
			return err
		}
	}
	limits := func(c *cobra.Command, o *provision.Order) func() error {
		var readOnly, disabled bool
		var connections int
		c.Flags().BoolVar(&readOnly, "read-only", false, "it may only read")
		c.Flags().IntVar(&connections, "connections", 0, "connections that it may have; 0 = the tenant's")
		if o.Action == "set" {
			c.Flags().BoolVar(&disabled, "disabled", false, "it may not log in; =false: it may again")
		}
		return func() error {
			pick(c, "read-only", &o.ReadOnly, readOnly)
			if c.Flags().Changed("connections") {
				o.Limits = &tenant.Limits{Connections: connections}
			}
			pick(c, "disabled", &o.On, !disabled)
			return nil
		}
	}
	add("create", "Make a login", "TENANT LOGIN [flags]", 2, "create acme reports --read-only", "may log in", func(c *cobra.Command, o *provision.Order) func() error {
		first, second := password(c, o), limits(c, o)
		return func() error { return errors.Join(first(), second()) }
	})
	add("list", "List the logins of a tenant", "TENANT", 1, "list acme", "", nil)
	add("set", "Change what a login may", "TENANT LOGIN [flags]", 2, "set acme reports --connections 5", "is changed", limits)
	add("password", "Give a login another password", "TENANT LOGIN [flags]", 2, "password acme reports", "has another password", password)
	add("remove", "Remove a login", "TENANT LOGIN", 2, "remove acme reports", "may not log in any more", nil)
	return cmd
}

func (t *tenants) newReplica() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "replica", Short: "Read replicas of a tenant's instance", Example: "  pgkennel tenant replica create acme --host db2\n  pgkennel tenant replica list acme",
	}, "create, list or remove")
	o := provision.Order{Verb: provision.VerbReplica}
	create := use(&cobra.Command{
		Use: "create", Short: "Make a read replica, on another host", Example: "  pgkennel tenant replica create acme --host db2\n  pgkennel tenant replica create acme --force",
		RunE: func(cmd *cobra.Command, args []string) error {
			o := o
			o.Action, o.Tenant = "create", args[0]
			return t.run(cmd, done("has a replica"), o)
		},
	}, "TENANT [flags]", 1, 1)
	create.Flags().StringVar(&o.Host, "host", "", "host that has it")
	create.Flags().StringVar(&o.Driver, "driver", "", "who makes it (default: who made the tenant's instance)")
	create.Flags().BoolVar(&o.Force, "force", false, "on the host of the tenant's instance, too")
	list := use(&cobra.Command{
		Use: "list", Short: "List the replicas of a tenant", Example: "  pgkennel tenant replica list acme",
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.run(cmd, printReplicas, provision.Order{Verb: provision.VerbReplica, Action: "list", Tenant: args[0]})
		},
	}, "TENANT", 1, 1)
	remove := use(&cobra.Command{
		Use: "remove", Short: "Remove a replica", Example: "  pgkennel tenant replica remove acme kf3zq",
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.run(cmd, done("replica removed"), provision.Order{Verb: provision.VerbReplica, Action: "remove", Tenant: args[0], Replica: args[1]})
		},
	}, "TENANT REPLICA", 2, 2)
	cmd.AddCommand(create, list, remove)
	return cmd
}
