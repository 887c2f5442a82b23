package pooler

import (
	"testing"
	"time"
)

// TestCrowds: memory is given back when many came or went, once they have, and not for those who come and go all the time.
func TestCrowds(t *testing.T) {
	t.Parallel()
	var c crowd
	now := time.Now()
	for i, x := range []struct {
		clients int64
		want    bool
	}{
		{500, false},
		{999, false},
		{999, false},
		{5000, false},
		{9000, false},
		{10_000, false},
		{10_001, true},
		{10_001, false},
		{11_500, false},
		{11_500, false}, // not so many more
		{13_000, false},
		{13_000, true},
		{13_000, false},
		{0, false},
		{0, true},
		{0, false},
	} {
		now = now.Add(11 * time.Second)
		if got := c.look(now, x.clients); got != x.want {
			t.Errorf("look %d, of %d clients: got %v", i, x.clients, got)
		}
	}
	now = now.Add(11 * time.Second)
	c.look(now, 2000)
	if !c.look(now, 2000) {
		t.Error("2000 clients are nothing")
	}
	for _, n := range []int64{5000, 5000, 0, 0} {
		if c.look(now.Add(time.Second), n) {
			t.Error("it is too soon")
		}
	}
}
