package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgkennel/pgkennel/tenant/secure"
)

// diagnosis is what doctor prints of one database.
type diagnosis struct {
	Database string           `json:"database"`
	Host     string           `json:"host"`
	Port     int              `json:"port"`
	Name     string           `json:"database_name"`
	Tables   int              `json:"tables"`
	Roles    int              `json:"tenant_roles"`
	Logins   int              `json:"logins"`
	Findings []secure.Finding `json:"findings"`
}

func newDoctor(f *files) *cobra.Command {
	a := &administration{files: f}
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check in the databases that tenants are kept apart; nothing is changed",
		Example: "  PGUSER=postgres pgkennel doctor --database prod\n  pgkennel doctor --json", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd, asJSON) },
	}
	a.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs")
	return cmd
}

func (a *administration) doctor(cmd *cobra.Command, asJSON bool) error {
	pl := secure.NewPlanner()
	all := []diagnosis{}
	err := a.visit(cmd, func(ctx context.Context, x target, db *secure.Conn) error {
		d := diagnosis{Database: x.name, Host: x.at.Host, Port: x.at.Port, Name: x.at.Database, Findings: []secure.Finding{}}
		if db != nil { // the finding that it is not there is its shard's
			r, err := pl.Doctor(ctx, db, x.options)
			if err != nil {
				return err
			}
			d.Tables, d.Roles, d.Logins, d.Findings = r.Tables, r.Roles, r.Logins, append(d.Findings, r.Findings...)
		}
		all = append(all, d)
		return nil
	})
	if err != nil {
		return err
	}
	sick := false
	for _, d := range all {
		for _, f := range d.Findings {
			sick = sick || f.Severity == secure.Error
		}
	}
	if asJSON {
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		err = e.Encode(all)
	} else {
		err = printDiagnoses(cmd.OutOrStdout(), all)
	}
	if err == nil && sick {
		err = errSilent
	}
	return err
}

func printDiagnoses(w io.Writer, all []diagnosis) error {
	var b strings.Builder
	for _, d := range all {
		count := make(map[secure.Severity]int)
		for _, f := range d.Findings {
			count[f.Severity]++
			fmt.Fprintf(&b, "%-7s  %s  %s %s\n", f.Severity, d.Database, f.Check, oneLine(f.Object+": "+f.Reason))
			for _, sql := range f.SQL {
				fmt.Fprintf(&b, "         %s;\n", strings.ReplaceAll(sql, "\n", "\n         "))
			}
		}
		fmt.Fprintf(&b, "%s: %d tables, %d roles of tenants, %d logins: %d errors, %d warnings\n",
			d.Database, d.Tables, d.Roles, d.Logins, count[secure.Error], count[secure.Warning])
	}
	_, err := io.WriteString(w, b.String())
	return err
}
