package backend

import (
	"testing"

	"github.com/pgkennel/pgkennel/pooler/state"
)

func TestSettler(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		steps, stream     string
		clean             bool // what is finished is DISCARD ALL
		taint             Taint
		settled, reusable bool
		cleaned           bool
	}{
		"rollback":                       {steps: "Qi", stream: "C:ROLLBACK Z", settled: true, reusable: true},
		"waits":                          {steps: "Qi", stream: "C:ROLLBACK", settled: false},
		"rollback fails":                 {steps: "Qi", stream: "E Z", settled: true},
		"the client's answers come":      {steps: "P D S Qi", stream: "1 t n Z C:ROLLBACK Z", settled: true, reusable: true},
		"the client's statement fails":   {steps: "P D S", stream: "E Z", settled: true},
		"rows for nobody":                {steps: "Q Qi", stream: "T D:1 C:SELECT_1 Z:T C:ROLLBACK Z", settled: true, reusable: true},
		"a transaction is left":          {steps: "Si", stream: "Z:T", settled: true},
		"an implicit transaction":        {steps: "E", stream: "C:INSERT_0_1", settled: true},
		"tainted":                        {steps: "Qi", stream: "C:ROLLBACK Z", taint: TaintTemp, settled: true},
		"cleaned":                        {steps: "Qi", stream: "C:DISCARD_ALL Z", clean: true, taint: TaintTemp, settled: true, reusable: true, cleaned: true},
		"cleaned after a rollback":       {steps: "Qi Qi", stream: "C:ROLLBACK Z C:DISCARD_ALL Z", clean: true, settled: true, reusable: true, cleaned: true},
		"half cleaned":                   {steps: "Qi Qi", stream: "C:ROLLBACK Z", clean: true, settled: false},
		"cleaning fails":                 {steps: "Qi", stream: "E Z", clean: true, taint: TaintTemp, settled: true},
		"cleaning fails after all":       {steps: "Qi Qi", stream: "E Z C:DISCARD_ALL Z", clean: true, taint: TaintTemp, settled: true},
		"copies in":                      {steps: "Q Qi", stream: "G", settled: false, taint: 0},
		"copies in and was told to stop": {steps: "Q", stream: "G E:57014 Z", settled: true},
	} {
		conn, _ := newConn(steps(c.steps))
		have := state.NewSet([]state.Var{{Name: "app.v", Value: "1"}})
		conn.Have, conn.Unnamed = have, prepared(1)
		conn.Statements.Add(prepared(2))
		conn.Taint(c.taint)
		s := NewSettler(conn, c.clean)
		if err := conn.Feed(stream(c.stream)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s.Settled() != c.settled || c.settled && s.Reusable() != c.reusable {
			t.Errorf("%s: settled %v, reusable %v, taint %v", name, s.Settled(), s.Reusable(), conn.Tainted())
		}
		if cleaned := conn.Have == nil && conn.Unnamed == nil && conn.Statements.Len() == 0 && conn.Tainted() == 0; cleaned != c.cleaned {
			t.Errorf("%s: cleaned is %v", name, cleaned)
		}
	}
	// CopyIn of ours is nobody's.
	conn, _ := newConn(steps("Qi"))
	s := NewSettler(conn, false)
	if err := conn.Feed(stream("G")); err == nil || s.Reusable() {
		t.Errorf("got %v, reusable %v", err, s.Reusable())
	}
	// Notices and parameters go nowhere.
	conn, _ = newConn(steps("Qi"))
	s = NewSettler(conn, false)
	if err := conn.Feed(stream("N:x S:a=b A:x C:X Z")); err != nil || !s.Settled() || !s.Reusable() {
		t.Errorf("got %v", err)
	}
	if v, _ := conn.Params().Get("a"); v != "b" {
		t.Error("a parameter was lost")
	}
}
