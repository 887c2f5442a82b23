package process

import (
	"testing"
)

// What a process may have leaves room for the shared buffers and for others, and is never too little to work with.
func TestDataLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		memory  int64 // MB
		buffers string
		want    int64 // MB
	}{
		{0, "64MB", 0},
		{256, "64MB", 176},
		{256, "65536kB", 176},
		{256, " 8192 ", 176},
		{256, "0.0625 GB", 176},
		{256, "67108864B", 176},
		{4096, "1GB", 2816},
		{64, "16MB", 32},
		{128, "32MB", 80},
		{256, "1TB", 64},
		{256, "240MB", 64},
		{64, "64MB", 32}, // an operator's own
		{256, "", 176},
		{256, "much", 176},
		{256, "1 EB", 176},
		{256, "-1GB", 176},
		{256, "NaN", 176},
		{256, "1e300TB", 176},
	} {
		if got := dataLimit(c.memory<<20, map[string]string{"shared_buffers": c.buffers}); got != c.want<<20 {
			t.Errorf("of %d MB with shared_buffers = %q: %d bytes, want %d MB", c.memory, c.buffers, got, c.want)
		}
	}
}
