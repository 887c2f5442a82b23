package main

import (
	"os"
	"slices"
	"testing"

	"github.com/pgkennel/pgkennel/provision"
)

// A variable that leads elsewhere, or to less than a tenant's own authority, does not reach psql.
func TestEnvironmentOfPsql(t *testing.T) {
	t.Parallel()
	env := []string{"PGHOST=other", "PGSSLMODE=disable", "PGSSLROOTCERT=/other", "LANG=C"}
	c := &provision.Connect{Host: "h", Port: 1, User: "u", Password: "p", Database: "d"}
	if got := psqlEnv(slices.Clone(env), c); !slices.Contains(got, "PGSSLMODE=disable") || slices.Contains(got, "PGHOST=other") || !slices.Contains(got, "PGHOST=h") {
		t.Errorf("without an authority: %q", got)
	}
	c.CA = "the authority"
	got := psqlEnv(slices.Clone(env), c)
	if slices.Contains(got, "PGSSLMODE=disable") || slices.Contains(got, "PGSSLROOTCERT=/other") || !slices.Contains(got, "LANG=C") {
		t.Errorf("with an authority: %q", got)
	}
	file, err := authorityFile(c.CA)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != c.CA {
		t.Errorf("%s has %q, %v", file, text, err)
	}
}
