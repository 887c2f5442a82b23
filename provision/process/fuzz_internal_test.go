package process

import (
	"maps"
	"strings"
	"testing"
)

// FuzzFiles feeds the readers of what the system, and other versions of ourselves, have written.
func FuzzFiles(f *testing.F) {
	for _, seed := range []string{"0-2,5", "5-0", "0-65536", "0-65537", "-1", ",", "a = 'b'\n# c = 'd'\nx = '''\\\\'\n", "a = '", "\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if cpus, err := parseCPUs(text); err == nil && len(cpus) > 0 {
			if again, err := parseCPUs(formatCPUs(cpus)); err != nil || formatCPUs(again) != formatCPUs(cpus) {
				t.Errorf("CPUs %q are %v, and then %v, %v", text, cpus, again, err)
			}
		}
		_ = parse(text)
		value := strings.ReplaceAll(text, "\n", "")
		if got := parse(render([]setting{{name: "a", value: value}})); !maps.Equal(got, map[string]string{"a": value}) {
			t.Errorf("%q is read as %q", value, got)
		}
	})
}
