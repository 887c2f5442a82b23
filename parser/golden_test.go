package parser

import (
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestGolden holds what Parse makes of the statements in testdata/golden; -rewrite writes it anew.
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata/golden", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "parse" {
				d.Fatalf(t, "unknown command %q", d.Cmd)
			}
			return Parse(d.Input).String()
		})
	})
}
