package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// The values of flags with a unit.
type (
	sizeValue     int64
	cpuValue      int
	durationValue time.Duration
)

// String implements pflag.Value.
func (v *sizeValue) String() string { return strings.TrimSuffix(bytesText(int64(*v)), "B") }

// Set implements pflag.Value.
func (v *sizeValue) Set(s string) error { return set(v, s, provision.ParseSize) }

// Type implements pflag.Value.
func (v *sizeValue) Type() string { return "size" }

// String implements pflag.Value.
func (v *cpuValue) String() string { return strconv.FormatFloat(float64(*v)/1000, 'g', -1, 64) }

// Set implements pflag.Value.
func (v *cpuValue) Set(s string) error { return set(v, s, provision.ParseCPU) }

// Type implements pflag.Value.
func (v *cpuValue) Type() string { return "cores" }

// String implements pflag.Value.
func (v *durationValue) String() string { return strings.TrimSuffix(time.Duration(*v).String(), "s") }

// Set implements pflag.Value.
func (v *durationValue) Set(s string) error { return set(v, s, provision.ParseDuration) }

// Type implements pflag.Value.
func (v *durationValue) Type() string { return "time" }

func set[V, N ~int | ~int64](v *V, s string, parse func(string) (N, error)) error {
	n, err := parse(s)
	*v = V(n)
	return err
}

// settingValue takes settings, k=v; and for --config, which all commands have, the name of the configuration as well.
type settingValue struct {
	to    map[string]string
	files *files // nil = settings only
}

// String implements pflag.Value.
func (v *settingValue) String() string {
	if v.files == nil {
		return ""
	}
	return v.files.config
}

// Set implements pflag.Value.
func (v *settingValue) Set(s string) error {
	name, value, is := strings.Cut(s, "=")
	switch {
	case is && strings.TrimSpace(name) == "":
		return fmt.Errorf("%s is no setting such as work_mem=8MB", strconv.Quote(s))
	case is:
		v.to[strings.TrimSpace(name)] = strings.TrimSpace(value)
	case v.files == nil:
		return fmt.Errorf("%s is no setting such as work_mem=8MB", strconv.Quote(s))
	default:
		v.files.config, v.files.configGiven = s, true
	}
	return nil
}

// Type implements pflag.Value.
func (v *settingValue) Type() string {
	if v.files == nil {
		return "name=value"
	}
	return "name=value|file"
}

// traits are the flags that say how a tenant is to be.
type traits struct {
	o                    provision.Order
	settings             map[string]string
	cpu                  cpuValue
	memory, disk, io     sizeValue
	connections, shard   int
	suspendAfter, every  durationValue
	keep                 int
	archive              bool
	cidr                 []string
	passwordFile, initIn string
}

// flags are those that create, clone and set have; those of a new tenant are defined by newFlags.
func (x *traits) flags(cmd *cobra.Command, f *files) {
	x.settings = make(map[string]string)
	fs := cmd.Flags()
	fs.Var(&x.cpu, "cpu", "cores that it may use, such as 0.5; 0 = as many as there are")
	fs.Var(&x.memory, "memory", "memory that it may use, such as 256MB; 0 = as much as there is")
	fs.Var(&x.disk, "disk", "size of its volume, such as 10GB; 0 = as much as there is")
	fs.Var(&x.io, "io", "bytes a second that it may read, and as many that it may write, such as 64MB; 0 = as fast as its disk is")
	fs.IntVar(&x.connections, "connections", 0, "connections that its clients may have; 0 = as many as there are")
	fs.VarP(&settingValue{x.settings, f}, "config", "c", "a setting of its postgresql.conf, such as work_mem=8MB; without = the configuration of pgkennel")
	fs.Var(&settingValue{to: x.settings}, "setting", "the same; with nothing behind the = it is taken back")
	fs.Var(&x.suspendAfter, "suspend-after", "put it to sleep when nobody used it for so long, such as 15m; 0 = never")
	fs.BoolVar(&x.archive, "archive", false, "keep its WAL, for restores to a point in time")
	fs.Var(&x.every, "backup-every", "make a backup so often, such as 1d; 0 = when it is ordered")
	fs.IntVar(&x.keep, "backup-keep", 0, "how many backups are kept; 0 = all")
	fs.StringSliceVar(&x.o.Extensions, "extension", nil, "an extension that it has")
}

func (x *traits) newFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&x.o.Isolation, "isolation", "", "instance, database, schema or row (default: instance)")
	fs.StringVar(&x.o.Mode, "mode", "", "what holds it apart in a shared database: strict, sealed or shared")
	fs.StringVar(&x.o.Key, "key", "", "its value of the tenant column")
	fs.StringVarP(&x.o.Cluster, "database", "d", "", "database of the configuration that it shares with others, or whose clients come to its instance as well")
	fs.IntVar(&x.shard, "shard", 0, "shard of that database (default: where the mapping has its key)")
	fs.StringVar(&x.o.Driver, "driver", "", "who makes its instance (default: that of [provision])")
	fs.StringVar(&x.o.Host, "host", "", "host that has its instance (default: this one)")
	fs.StringVar(&x.o.Version, "version", "", "major version of PostgreSQL (default: the newest there is)")
	fs.BoolVar(&x.o.Superuser, "superuser", false, "its login is a superuser of its instance")
	fs.StringVar(&x.passwordFile, "password-file", "", "file with its password; - = stdin (default: one is made and shown)")
	fs.BoolVar(&x.o.Enable, "enable", false, "let clients log in at once")
	fs.BoolVar(&x.o.DryRun, "dry-run", false, "print the steps, and do nothing")
	fs.StringSliceVar(&x.cidr, "cidr", nil, "network that clients may come from, such as 10.0.0.0/8")
}

// order is what the flags say.
func (x *traits) order(cmd *cobra.Command) (provision.Order, error) {
	o := x.o
	if len(x.settings) > 0 {
		o.Settings = x.settings
	}
	if limitsChanged(cmd) {
		o.Limits = &tenant.Limits{}
		x.limit(cmd, o.Limits)
	}
	pick(cmd, "shard", &o.Shard, x.shard)
	pick(cmd, "suspend-after", &o.SuspendAfter, time.Duration(x.suspendAfter))
	pick(cmd, "backup-every", &o.Every, time.Duration(x.every))
	pick(cmd, "backup-keep", &o.Keep, x.keep)
	pick(cmd, "archive", &o.Archive, x.archive)
	var err error
	if o.Networks, err = networks(x.cidr); err != nil {
		return o, err
	}
	if o.Password, err = passwordIn(cmd, x.passwordFile); err != nil {
		return o, err
	}
	if x.initIn != "" {
		text, err := os.ReadFile(x.initIn)
		if err != nil {
			return o, usageError{err}
		}
		o.Init = string(text)
	}
	return o, nil
}

// pick sets a field if its flag was given.
func pick[T any](cmd *cobra.Command, name string, to **T, value T) {
	if cmd.Flags().Changed(name) {
		*to = &value
	}
}

func limitsChanged(cmd *cobra.Command) bool {
	return cmd.Flags().Changed("cpu") || cmd.Flags().Changed("memory") || cmd.Flags().Changed("disk") || cmd.Flags().Changed("io") || cmd.Flags().Changed("connections")
}

// limit sets those limits whose flags were given.
func (x *traits) limit(cmd *cobra.Command, l *tenant.Limits) {
	if cmd.Flags().Changed("cpu") {
		l.CPU = int(x.cpu)
	}
	if cmd.Flags().Changed("memory") {
		l.Memory = int64(x.memory)
	}
	if cmd.Flags().Changed("disk") {
		l.Disk = int64(x.disk)
	}
	if cmd.Flags().Changed("io") {
		l.IO = int64(x.io)
	}
	if cmd.Flags().Changed("connections") {
		l.Connections = x.connections
	}
}

// anywhere are the networks of --cidr any.
var anywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

func networks(cidr []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, s := range cidr {
		if s == "any" {
			list = append(list, anywhere...)
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return nil, usageError{fmt.Errorf("--cidr %s is no network such as 10.0.0.0/8, and not any", strconv.Quote(s))}
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// maxPassword bounds what is read of a file that may be the wrong one.
const maxPassword = 4096

// passwordIn reads a password from the file of a flag: its first line.
func passwordIn(cmd *cobra.Command, path string) (string, error) {
	return secretIn(cmd, "password-file", path)
}

func secretIn(cmd *cobra.Command, flag, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	r := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", usageError{err}
		}
		defer f.Close()
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, maxPassword))
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", usageError{fmt.Errorf("--%s %s: the first line is empty", flag, path)}
	}
	return line, nil
}

func (t *tenants) newCreate() *cobra.Command {
	x := &traits{}
	cmd := use(&cobra.Command{
		Use: "create", Short: "Make a tenant",
		Long: `Makes a tenant: by default with a PostgreSQL of its own, which only its clients reach, by this pooler. They log in as the tenant, to a database of
its name, or to any with the user user@tenant. Nobody may log in before enable-access, unless --enable is given.`,
		Example: `  pgkennel tenant create acme --enable
  pgkennel tenant create acme --cpu 0.5 --memory 256MB --disk 2GB --connections 20 --suspend-after 15m
  pgkennel tenant create globex --init schema.sql --extension pg_trgm --config work_mem=8MB --password-file globex.password
  pgkennel tenant create initech --isolation schema --database saas --key 42
  pgkennel tenant create hooli --database saas --key 43    # an instance, for clients of saas too
  pgkennel tenant create acme --dry-run`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := x.order(cmd)
			if err != nil {
				return err
			}
			o.Verb = provision.VerbCreate
			return t.run(cmd, made, named(o, args)...)
		},
	}, "NAME [flags]", 1, 1)
	x.flags(cmd, t.files)
	x.newFlags(cmd)
	cmd.Flags().StringVar(&x.o.Template, "template", "", "what its schema is made of: a file of the template directory, or, for an instance, tenant:NAME")
	cmd.Flags().StringVar(&x.initIn, "init", "", "file of SQL that is run in it")
	return cmd
}

// made prints what became of a new tenant, and what its clients still wait for.
func made(out, notes io.Writer, all []outcome) error {
	return born("created")(out, notes, all)
}

// born is made, in other words.
func born(words string) printer {
	return func(out, notes io.Writer, all []outcome) error {
		if err := done(words)(out, notes, all); err != nil {
			return err
		}
		closed(notes, all)
		return nil
	}
}

// closed says whose clients may not log in yet.
func closed(notes io.Writer, all []outcome) {
	for _, x := range all {
		if x.err != nil || x.order.DryRun {
			continue
		}
		for _, v := range x.result.Tenants {
			if !v.Access.Enabled {
				fmt.Fprintf(notes, "note: no client may log in yet: pgkennel tenant enable-access %s\n", v.Name)
			}
		}
	}
}

func (t *tenants) newClone() *cobra.Command {
	x := &traits{}
	cmd := use(&cobra.Command{
		Use: "clone", Short: "Make a tenant with the data of another",
		Long:    "Makes a tenant as another one is, with its data. What flags say is different. It has a password of its own.",
		Example: "  pgkennel tenant clone acme acme-test --enable\n  pgkennel tenant clone acme acme-big --memory 1GB",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := x.order(cmd)
			if err != nil {
				return err
			}
			o.Verb, o.Tenant, o.Name = provision.VerbClone, args[0], args[1]
			return t.run(cmd, made, o)
		},
	}, "NAME NEW [flags]", 2, 2)
	x.flags(cmd, t.files)
	x.newFlags(cmd)
	return cmd
}

func (t *tenants) newSet() *cobra.Command {
	x := &traits{}
	cmd := use(&cobra.Command{
		Use: "set", Short: "Change a tenant's limits, settings and extensions",
		Long: `Changes what the flags say, and leaves the rest. What can be had without a restart counts at once; of what can't be, it says so, and it counts after the next
restart, or with --now, which restarts.`,
		Example: "  pgkennel tenant set acme --memory 512MB --connections 40\n  pgkennel tenant set acme globex --config work_mem=16MB --setting jit=\n  pgkennel tenant set acme --config shared_buffers=64MB --now",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := x.order(cmd)
			if err != nil {
				return err
			}
			o.Verb = provision.VerbSet
			orders := named(o, args)
			if !limitsChanged(cmd) {
				return t.run(cmd, done("set"), orders...)
			}
			return t.adjusted(cmd, done("set"), orders, func(o *provision.Order, v *provision.View) error {
				l := v.Limits
				x.limit(cmd, &l)
				o.Limits = &l
				return nil
			})
		},
	}, "NAME... [flags]", 1, -1)
	x.flags(cmd, t.files)
	cmd.Flags().StringVar(&x.o.Key, "key", "", "its value of the tenant column")
	cmd.Flags().StringVarP(&x.o.Cluster, "database", "d", "", "database of the configuration whose clients come to its instance as well")
	cmd.Flags().BoolVar(&x.o.Now, "now", false, "restart it if that is needed")
	return cmd
}
