package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler"
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
	p, err := pooler.New(ctx, pooler.Options{
		Config: cfg, Log: log, Version: version, Level: level,
		Load: func() (*config.Config, config.Warnings, error) { return config.Load(f.options(cmd)) },
		// For tests, and to find the cause of trouble: what waits for sockets.
		Goroutines: driver == "goroutines", Ring: driver != "epoll",
	})
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go handle(signals, p, log, done)
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
