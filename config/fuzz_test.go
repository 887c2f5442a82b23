package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParse checks that no text makes Parse panic, that every problem has a place, and that what is accepted can be
// printed and read again.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.toml", "../*.toml.example"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			raw, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			config, users, _ := splitTestFile(string(raw))
			f.Add(config, users, "PGDOG_PORT=1")
		}
	}
	f.Add(bigConfig("values", 50), "", "PGKENNEL_HOST=x")
	f.Add(bigConfig("older form", 5), "", "PGDOG_LOG_LEVEL=a=b")
	f.Fuzz(func(t *testing.T, config, users, env string) {
		if len(config)+len(users) > 1<<14 {
			return
		}
		c, warnings, err := Parse(File{Name: "pgdog.toml", Text: config}, File{Name: "users.toml", Text: users}, []string{env})
		for _, p := range warnings {
			checkPlace(t, p)
		}
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || len(ps) == 0 || c != nil {
				t.Fatalf("got %v, %v, want Problems and no Config", c, err)
			}
			for _, p := range ps {
				checkPlace(t, p)
			}
			return
		}
		var outConfig, outUsers bytes.Buffer
		if err := errors.Join(c.EffectiveConfig(&outConfig), c.EffectiveUsers(&outUsers)); err != nil {
			t.Fatal(err)
		}
		again, _, err := Parse(File{Name: "a", Text: outConfig.String()}, File{Name: "b", Text: outUsers.String()}, nil)
		if err != nil {
			t.Fatalf("what is printed is not read again: %v\n%s\n%s", err, outConfig.String(), outUsers.String())
		}
		for _, change := range Diff(c, again) {
			if !strings.Contains(change.What, "password") && !strings.HasPrefix(change.What, "user") && !strings.HasPrefix(change.What, "endpoints") {
				t.Errorf("what is read again differs: %s\n%s", change, outConfig.String())
			}
		}
	})
}

func checkPlace(t *testing.T, p Problem) {
	t.Helper()
	switch {
	case p.What == "":
		t.Errorf("got a problem without a text: %v", p)
	case p.Pos.File == "environment":
	case p.Pos.File != "pgdog.toml" && p.Pos.File != "users.toml" || p.Pos.Line < 1 || p.Pos.Col < 1:
		t.Errorf("got a problem without a place: %v", p)
	}
}
