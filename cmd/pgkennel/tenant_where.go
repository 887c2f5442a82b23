package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/kennel"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/api"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store"
)

// where says whom to give orders.
type where struct{ socket, api, tokenFile, caFile string }

func (w *where) flags(cmd *cobra.Command) {
	fs := cmd.PersistentFlags()
	fs.StringVar(&w.socket, "socket", "", "unix socket of the running pooler (default: that of [admin])")
	fs.StringVar(&w.api, "api", "", "URL of a pooler's API, such as https://pgkennel.example.com:6433")
	fs.StringVar(&w.tokenFile, "token-file", "", "file with the API's token")
	fs.StringVar(&w.caFile, "ca-file", "", "certificate authorities that the API's certificate must come from (default: the system's)")
}

// client makes a client of what the flags name, nil if they name nothing.
func (w *where) client() (*api.Client, error) {
	switch {
	case w.api != "" && w.socket != "":
		return nil, usageError{errors.New("--api and --socket are two places: give one of them")}
	case w.api != "":
		if w.tokenFile == "" {
			return nil, usageError{errors.New("--api needs --token-file")}
		}
		token, err := os.ReadFile(w.tokenFile)
		if err != nil {
			return nil, usageError{err}
		}
		return api.NewClient(api.ClientOptions{URL: w.api, Token: strings.TrimSpace(string(token)), CAFile: w.caFile})
	case w.tokenFile != "" || w.caFile != "":
		return nil, usageError{errors.New("--token-file and --ca-file belong to --api")}
	case w.socket != "":
		return api.NewClient(api.ClientOptions{Socket: w.socket})
	}
	return nil, nil //nolint:nilnil // nothing is named
}

// pingPatience is how long a running pooler may take to say that it is there.
const pingPatience = 5 * time.Second

// storePatience is how long a directory in a file may be another process's that does not answer.
const storePatience = 5 * time.Second

// openExecutor finds out whom to give orders: whom the flags name, else the running pooler, else nobody but this process itself.
func openExecutor(ctx context.Context, cmd *cobra.Command, t *tenants) (provision.Executor, func(), error) {
	c, err := t.client()
	if err != nil {
		return nil, nil, err
	}
	if c != nil {
		return c, c.Close, nil
	}
	cfg, _, err := t.load(cmd)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Directory == nil {
		return nil, nil, provision.Errorf(provision.KindInvalid, "%s has no directory of tenants", t.config).
			WithHint("add a line [directory] to it, or name a running pooler by --socket or --api")
	}
	// A pooler that starts has the directory before it listens, and one that ends has it a moment longer.
	for until := time.Now().Add(storePatience); ; {
		exec, done, err := t.found(ctx, cmd, cfg)
		if !errors.Is(err, tenant.ErrInUse) {
			return exec, done, err
		}
		if time.Now().After(until) {
			return nil, nil, provision.Errorf(provision.KindBusy, "another process has the directory %s, and does not answer at %s", cfg.Directory.Path, cfg.Admin.Socket).
				WithHint("it may be another command without a running pooler; if it is a pooler that was started with another socket in [admin], name that by --socket")
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// found is the running pooler, or this process itself; tenant.ErrInUse, if it is neither.
func (t *tenants) found(ctx context.Context, cmd *cobra.Command, cfg *config.Config) (provision.Executor, func(), error) {
	c, err := api.NewClient(api.ClientOptions{Socket: cfg.Admin.Socket})
	if err != nil {
		return nil, nil, err
	}
	ping, cancel := context.WithTimeout(ctx, pingPatience)
	defer cancel()
	switch err := c.Ping(ping); {
	case err == nil:
		return c, c.Close, nil
	case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
		return nil, nil, provision.Errorf(provision.KindFailed, "the running pooler can't be asked at its socket %s: %v", cfg.Admin.Socket, err).
			WithHint("root may use it, and the user that pgkennel runs as")
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	k, err := kennel.Open(ctx, kennel.Options{Config: cfg, Key: os.Getenv(store.KeyVariable), Log: log})
	if err != nil {
		return nil, nil, err
	}
	return local{k, operator()}, func() {
		if err := k.Close(); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "pgkennel: %v\n", err)
		}
	}, nil
}

// local gives orders in this process, in its user's name.
type local struct {
	provision.Executor
	by string
}

// Execute implements provision.Executor.
func (l local) Execute(ctx context.Context, o provision.Order, report func(provision.Progress)) (*provision.Result, error) {
	o.By = l.by
	return l.Executor.Execute(ctx, o, report)
}

// operator is who gives orders without a pooler.
func operator() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "uid " + strconv.Itoa(os.Getuid())
}
