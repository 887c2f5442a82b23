package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/kennel"
	"github.com/pgkennel/pgkennel/pooler"
	"github.com/pgkennel/pgkennel/provision/api"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store"
)

func newServe(f *files) *cobra.Command {
	return &cobra.Command{
		Use: "serve", Aliases: []string{"run"}, Short: "Serve clients (what pgkennel does without a command)",
		Example: "  pgkennel serve --config pgdog.toml --users users.toml", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd, f) },
	}
}

// serve runs the pooler until SIGTERM or SIGINT, which drain; a second one ends at once. SIGHUP reloads.
func serve(cmd *cobra.Command, f *files) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	driver := os.Getenv("PGKENNEL_DRIVER")
	switch driver {
	case "", "uring", "epoll", "goroutines":
	default:
		return fmt.Errorf("PGKENNEL_DRIVER is %q; it may be uring, epoll or goroutines", driver)
	}
	cfg, warnings, err := f.load(cmd)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	level.Set(cfg.Log.Level)
	log := newLog(cmd.ErrOrStderr(), cfg, level)
	for _, w := range warnings {
		log.Warn("configuration", "problem", w.String())
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	o := pooler.Options{
		Config: cfg, Log: log, Version: version, Level: level,
		Load: func() (*config.Config, config.Warnings, error) { return config.Load(f.options(cmd)) },
		// For tests, and to find the cause of trouble: what waits for sockets.
		Goroutines: driver == "goroutines", Ring: driver != "epoll",
	}
	if cfg.Directory == nil {
		return servePooler(ctx, o, nil, signals)
	}
	ko := kennel.Options{Config: cfg, Key: os.Getenv(store.KeyVariable), Log: log}
	k, err := kennel.Open(ctx, ko)
	if errors.Is(err, tenant.ErrInUse) { // a command without a running pooler, perhaps
		log.Info("waiting for another process to let go of the directory", "directory", cfg.Directory.Path)
		ko.Wait = inUsePatience / 100
		for until := time.Now().Add(inUsePatience); errors.Is(err, tenant.ErrInUse) && time.Now().Before(until); {
			select {
			case s := <-signals:
				if s != syscall.SIGHUP {
					return nil
				}
			default:
				k, err = kennel.Open(ctx, ko)
			}
		}
	}
	if errors.Is(err, tenant.ErrInUse) {
		return fmt.Errorf("the directory %s: %w; is there another pgkennel with it?", cfg.Directory.Path, err)
	}
	if err != nil {
		return err
	}
	// What is begun with tenants goes on after the last client has left; then all of it ends, but databases.
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { k.Run(work) })
	known, stop := context.WithTimeout(ctx, directoryPatience)
	if err := k.Mirror.Wait(known); err != nil {
		log.Warn("the directory can't be read, and nothing is known of its tenants yet", "error", err)
	}
	stop()
	o.Directory, o.Vault, o.Orders, o.Prepare = k.Mirror, k.Vault, k, k.Prepare
	o.Counts = k.Manager.Counts
	o.API = api.Handler(k, api.Options{Version: version, Who: func(r *http.Request) string { return pooler.Caller(r.Context()) }})
	err = servePooler(ctx, o, k, signals)
	end()
	running.Wait()
	return errors.Join(err, k.Close())
}

// How long a start waits for another process to let go of a directory's file, and for the directory's contents.
const (
	inUsePatience     = 30 * time.Second
	directoryPatience = 5 * time.Second
)

// servePooler runs a pooler, with a kennel beside it or nil.
func servePooler(ctx context.Context, o pooler.Options, k *kennel.Kennel, signals <-chan os.Signal) error {
	p, err := pooler.New(ctx, o)
	if err != nil {
		return err
	}
	if k != nil {
		k.Beside(p)
	}
	paceCollector()
	done := make(chan struct{})
	go handle(signals, p, o.Log, done) //nolint:contextcheck // a reload is nobody's request
	err = p.Run(ctx)
	close(done)
	return err
}

// handle obeys signals until done is closed.
func handle(signals <-chan os.Signal, p *pooler.Pooler, log *slog.Logger, done <-chan struct{}) {
	ending := false
	for {
		select {
		case <-done:
			return
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				if err := p.Reload(); err != nil {
					log.Error("configuration not reloaded", "error", err)
				}
			case ending:
				p.Hurry()
			default:
				ending = true
				p.Shutdown()
			}
		}
	}
}

func newLog(w io.Writer, cfg *config.Config, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if cfg.Log.JSON {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
