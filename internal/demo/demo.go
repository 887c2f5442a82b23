// Package demo shows pgkennel at work: it runs real PostgreSQL instances in a scratch folder, loads an example schema
// with several tenants, starts the program in front of them, and sends statements through it, comparing where each
// was answered with where its tenant lives. Then it makes tenants with instances of their own, by commands as users type them.
//
// Run starts everything and stops and removes it again, however it ends. It owns the goroutines that wait for its
// children.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/pgkennel/pgkennel/internal/pginstance"
)

// ErrMisrouted means that a sample statement, or a command, was not answered as it should have been.
var ErrMisrouted = errors.New("a sample was not answered as it should have been")

// Options say what to show.
type Options struct {
	Program string    // path of the pgkennel program
	OneShot bool      // end after the samples instead of serving on
	Out     io.Writer // what the reader sees
	Port    int       // first port to try; 0 means 6432

	readyTimeout time.Duration // how long pgkennel may take to start; 0 means 30 seconds
}

// firstPort is pgkennel's usual port.
const firstPort = 6432

// Run shows the demo until ctx ends, or only the samples with OneShot. It returns ErrMisrouted when pgkennel did not do
// what the samples say.
func Run(ctx context.Context, opts Options) (err error) {
	if opts.Port == 0 {
		opts.Port = firstPort
	}
	if opts.readyTimeout == 0 {
		opts.readyTimeout = 30 * time.Second
	}
	scratch, err := pginstance.OpenScratch(fmt.Sprintf("/tmp/pgkennel-demo-%d", os.Geteuid()))
	if err != nil {
		return fmt.Errorf("scratch folder: %w", err)
	}
	defer func() { err = errors.Join(err, scratch.RemoveBase()) }()

	fmt.Fprintf(opts.Out, "Starting %d PostgreSQL instances (%s) in %s\n", shardCount, scratch.Install().Version, scratch.Dir)
	shards, err := startShards(ctx, scratch)
	defer func() { err = errors.Join(err, shards.stop()) }()
	if err != nil {
		return err
	}
	shards.describe(opts.Out)

	front, err := startPooler(ctx, opts, opts.Port, scratch.Dir, shards.configure)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, front.stop()) }()
	if front.port != opts.Port {
		fmt.Fprintf(opts.Out, "\nPort %d is taken, the next free one is %d.", opts.Port, front.port)
	}
	fmt.Fprintf(opts.Out, "\npgkennel serves the database %s of all tenants on %s.\n", database, front.addr())

	wrong, err := showSamples(ctx, opts.Out, front.addr(), shards)
	if err := judge(ctx, wrong, err, front); err != nil {
		return err
	}

	sh, err := newShell(opts.Program, scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sh.forget()) }() //nolint:contextcheck // it has to be done whatever has ended; its pooler has
	maker, err := startPooler(ctx, opts, front.port+1, sh.dir, sh.configure)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, maker.stop()) }()
	wrong, err = sh.showOrders(ctx, opts.Out, orders)
	if err := judge(ctx, wrong, err, maker); err != nil {
		return err
	}
	if opts.OneShot {
		return nil
	}
	invite(opts.Out, front, shards, maker, opts.Program)
	ended := func(p *pooler) error {
		return errors.Join(fmt.Errorf("pgkennel ended: %w", errors.Join(p.process.Err(), errEnded)), p.explain())
	}
	select {
	case <-ctx.Done():
		fmt.Fprintln(opts.Out, "\nStopping, and removing everything that was started.")
		return nil
	case <-front.process.Done():
		return ended(front)
	case <-maker.process.Done():
		return ended(maker)
	}
}

// judge is the error of what was shown.
func judge(ctx context.Context, wrong int, err error, p *pooler) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return errors.Join(err, p.explain())
	case wrong > 0:
		return errors.Join(fmt.Errorf("%d times: %w", wrong, ErrMisrouted), p.explain())
	}
	return nil
}

// invite prints what the reader can try.
func invite(out io.Writer, p *pooler, shards shards, maker *pooler, program string) {
	url := fmt.Sprintf("postgres://%s:%s@%s/", user, password, p.addr())
	fmt.Fprintf(out, `
Try it yourself, from another terminal:

  psql %[1]s%[2]s
    SELECT * FROM orders WHERE tenant_id = 2;
    INSERT INTO orders (tenant_id, id, user_id, status) VALUES (205, 1000, 1, 'new') RETURNING current_setting('cluster_name');
    SELECT count(*) FROM orders;                      -- refused: whose?

  psql %[3]s -c 'SHOW POOLS'                          # the admin console
  psql %[4]s
                                                      # one of the instances, directly
  cd %[8]s && %[9]s tenant --help
                                                      # tenants on demand, and one of them:
  psql postgres://acme:%[10]s@%[11]s/acme

Configuration: %[5]s, %[6]s, and %[8]s/%[12]s
Log:           %[7]s

Serving until Ctrl-C.
`, url, database, fmt.Sprintf("postgres://admin:%s@%s/admin", password, p.addr()), shards[1].url(),
		filepath.Join(p.dir, configName), filepath.Join(p.dir, usersName), p.logFile, maker.dir, program, password, maker.addr(), configName)
}
