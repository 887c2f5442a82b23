package backend

import (
	"bytes"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// TestIdleKeepsNothing: what a large message and a long pipeline took is given back.
func TestIdleKeepsNothing(t *testing.T) {
	t.Parallel()
	c := New(&Login{}, 1<<20)
	var answer []byte
	for range 500 {
		c.Ask(Step{Kind: StepQuery})
		answer = pgwire.AppendCommandComplete(answer, "SELECT 1")
		answer = pgwire.AppendReadyForQuery(answer, pgwire.TxIdle)
	}
	c.Ask(Step{Kind: StepQuery})
	answer = pgwire.AppendParameterStatus(answer, "x", string(bytes.Repeat([]byte("x"), 40<<10)))
	answer = pgwire.AppendReadyForQuery(answer, pgwire.TxIdle)
	for len(answer) > 0 {
		n := min(1000, len(answer))
		if err := c.Feed(answer[:n]); err != nil {
			t.Fatal(err)
		}
		answer = answer[n:]
	}
	if c.Pending() != 0 || cap(c.in) != 0 || cap(c.steps) > keepSteps {
		t.Errorf("%d owed, %d bytes and %d steps are kept", c.Pending(), cap(c.in), cap(c.steps))
	}
}
