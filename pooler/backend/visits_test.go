package backend

import "testing"

// TestVisits: a connection is closed for the number of different tenants that it was used for, and not for how often.
func TestVisits(t *testing.T) {
	const limit = 100
	for pid := range uint32(30) {
		c := New(&Login{PID: pid}, 1<<20)
		id := uint64(pid) * 0x9e3779b97f4a7c15
		n := 0
		for ; c.Tainted() == 0 && n < 1000; n++ {
			id = id*6364136223846793005 + 1442695040888963407
			for range 5 {
				c.Visit(id>>7, limit)
			}
		}
		if n < limit*3/4 || n > limit*115/100 || c.Tainted() != TaintSchemas || c.Tainted().First() != "schemas" {
			t.Errorf("PID %d: %d tenants, then %v; want about %d, or up to a quarter less", pid, n, c.Tainted(), limit)
		}
	}
	c := New(&Login{}, 1<<20)
	for range 1000 {
		c.Visit(5, limit)
	}
	if c.Tainted() != 0 {
		t.Errorf("one tenant: %v", c.Tainted())
	}
	c = New(&Login{}, 1<<20)
	c.Visit(5, 1)
	if c.Tainted() == 0 {
		t.Error("one tenant only: it goes on")
	}
}
