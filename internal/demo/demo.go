// Package demo shows pgkennel at work: it runs real PostgreSQL instances in a scratch folder, loads an example schema
// with several tenants, starts the program in front of them, and sends statements through it, comparing where each
// was answered with where its tenant lives.
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

// ErrMisrouted means that a sample statement was not answered as it should have been.
var ErrMisrouted = errors.New("a sample statement was not answered as it should have been")

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

	pooler, err := startPooler(ctx, opts, scratch.Dir, shards)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pooler.stop()) }()
	if pooler.port != opts.Port {
		fmt.Fprintf(opts.Out, "\nPort %d is taken, the next free one is %d.", opts.Port, pooler.port)
	}
	fmt.Fprintf(opts.Out, "\npgkennel serves the database %s of all tenants on %s.\n", database, pooler.addr())

	wrong, err := showSamples(ctx, opts.Out, pooler.addr(), shards)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return errors.Join(err, pooler.explain())
	}
	if wrong > 0 {
		return errors.Join(fmt.Errorf("%d of the statements: %w", wrong, ErrMisrouted), pooler.explain())
	}
	if opts.OneShot {
		return nil
	}
	invite(opts.Out, pooler, shards)
	select {
	case <-ctx.Done():
		fmt.Fprintln(opts.Out, "\nStopping, and removing everything that was started.")
		return nil
	case <-pooler.process.Done():
		return errors.Join(fmt.Errorf("pgkennel ended: %w", errors.Join(pooler.process.Err(), errEnded)), pooler.explain())
	}
}

// invite prints what the reader can try.
func invite(out io.Writer, p *pooler, shards shards) {
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
Configuration: %[5]s and %[6]s
Log:           %[7]s

Serving until Ctrl-C.
`, url, database, fmt.Sprintf("postgres://admin:%s@%s/admin", password, p.addr()), shards[1].url(),
		filepath.Join(p.dir, configName), filepath.Join(p.dir, usersName), p.logFile)
}
