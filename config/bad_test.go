package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the wanted messages, the example files and the table of keys")

// usersMark divides a test file into what stands in pgdog.toml and what stands in users.toml.
const usersMark = "# ---- users.toml ----\n"

// wantMark begins the lines at the end of a test file that hold the wanted messages.
const wantMark = "#! "

// splitTestFile returns both files and the wanted messages.
func splitTestFile(text string) (config, users string, want []string) {
	var body strings.Builder
	for line := range strings.Lines(text) {
		if w, ok := strings.CutPrefix(line, wantMark); ok {
			want = append(want, strings.TrimSuffix(w, "\n"))
			continue
		}
		body.WriteString(line)
	}
	config, users, _ = strings.Cut(body.String(), usersMark)
	return config, users, want
}

func parseTestFile(t *testing.T, config, users string) (*Config, Warnings, error) {
	t.Helper()
	return Parse(File{Name: "pgdog.toml", Text: config}, File{Name: "users.toml", Text: users}, nil)
}

// TestMistakes reads every *.bad.toml and compares all its errors, in order, with the lines at its end.
func TestMistakes(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.bad.toml")
	if err != nil || len(files) < 50 {
		t.Fatalf("got %d files of mistakes, %v, want at least 50", len(files), err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".bad.toml"), func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			config, users, want := splitTestFile(string(raw))
			_, _, err = parseTestFile(t, config, users)
			var ps Problems
			if !errors.As(err, &ps) {
				t.Fatalf("got error %v, want Problems", err)
			}
			var got []string
			for _, p := range ps {
				got = append(got, p.String())
				if p.Pos.Line == 0 || p.Pos.File == "" {
					t.Errorf("no position: %s", p)
				}
				if strings.Contains(p.String(), "hunter2") {
					t.Errorf("a secret is shown: %s", p)
				}
			}
			if *update {
				body, _, _ := strings.Cut(string(raw), wantMark)
				body = strings.TrimRight(body, "\n") + "\n\n"
				for _, g := range got {
					body += wantMark + g + "\n"
				}
				if err := os.WriteFile(name, []byte(body), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("errors differ (-want +got):\n%s", d)
			}
		})
	}
}
