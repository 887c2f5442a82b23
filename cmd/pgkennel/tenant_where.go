package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/api"
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

// openExecutor finds out whom to give orders: whom the flags name, else the running pooler, else nobody but this process itself.
func openExecutor(ctx context.Context, cmd *cobra.Command, t *tenants) (provision.Executor, func(), error) {
	c, err := t.client()
	if err != nil {
		return nil, nil, err
	}
	if c != nil {
		return c, c.Close, nil
	}
	return nil, nil, errors.New("to come")
}
