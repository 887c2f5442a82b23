package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the folder of the module.
const root = "../.."

// TestLinksResolve checks the links between documents.
func TestLinksResolve(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob(root + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#\s]+)(?:#([^)\s]*))?\)`)
	for _, page := range append(pages, root+"/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", filepath.Base(page), m[1], err)
			}
		}
	}
}

// TestDependenciesAreExplained checks that each module which go.mod requires directly has a line in docs/dependencies.md.
func TestDependenciesAreExplained(t *testing.T) {
	t.Parallel()
	list := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{if not (or .Main .Indirect)}}{{.Path}}{{end}}", "all")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatal(explained(err))
	}
	text, err := os.ReadFile(root + "/docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if !strings.Contains(string(text), "`"+path+"`") {
			t.Errorf("docs/dependencies.md: no line for %s", path)
		}
	}
}

// TestDifferencesAreTested checks that each line of docs/differences.md names what tests it, and that all of that exists.
func TestDifferencesAreTested(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(root + "/docs/differences.md")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, pattern := range []string{"/integration/*_test.go", "/integration/*/*_test.go", "/pooler/*_test.go"} {
		files, err := filepath.Glob(root + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			code, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			tests.Write(code)
		}
	}
	exists := func(name string) bool {
		if script, ok := strings.CutPrefix(name, "`"); ok {
			info, err := os.Stat(root + "/sharding/router/testdata/route/" + strings.TrimSuffix(script, "`"))
			return err == nil && info.Mode().IsRegular()
		}
		return strings.HasPrefix(name, "Test") && strings.Contains(tests.String(), "func "+name+"(")
	}
	rows := 0
	for n, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| where |") {
			continue
		}
		rows++
		row := strings.TrimSuffix(strings.TrimSpace(line), "|")
		last := strings.TrimSpace(row[strings.LastIndex(row, "|")+1:])
		for name := range strings.SplitSeq(last, ", ") {
			if !exists(name) {
				t.Errorf("docs/differences.md:%d: there is no test %q", n+1, name)
			}
		}
	}
	if rows < 20 {
		t.Errorf("docs/differences.md: got %d lines, has it another form?", rows)
	}
}
