package state

import "testing"

// TestTrackKeepsHaveApart: after a RESET of what the client chose at its start, the server has less than is expected.
func TestTrackKeepsHaveApart(t *testing.T) {
	t.Parallel()
	base := set(Var{Name: "app.v", Value: "base", Raw: true})
	other := base.With(Var{Name: "app.v", Value: "'x'"})
	tr := Track{Expected: base}
	if tr.Base() != base {
		t.Error("the base outside of a transaction is not what is expected")
	}
	tr.Begin()
	tr.Expected, tr.Have = other, other
	tr.Begin() // a second BEGIN is a warning
	tr.Savepoint("s")
	tr.Expected, tr.Have = base, nil // RESET
	if !tr.HasSavepoint("s") || tr.HasSavepoint("") {
		t.Error("its savepoint is not known, or another is")
	}
	if !tr.Base().Equal(base) || tr.Expected.Equal(tr.Have) {
		t.Error("the base in a transaction is not what was expected before it")
	}
	if !tr.RollbackTo("s") || tr.Expected != other || tr.Have != other {
		t.Error("ROLLBACK TO does not restore both")
	}
	if tr.RollbackTo("") || tr.RollbackTo("t") {
		t.Error("ROLLBACK TO an unknown savepoint did something")
	}
	tr.Release("t")
	tr.Synced()
	tr.Rollback()
	if tr.Expected != base || tr.Have != base || tr.InTransaction() {
		t.Error("Synced does not reach back to the transaction's start")
	}
	tr.Savepoint("s")
	tr.Rollback()
	tr.Commit()
	if tr.InTransaction() || tr.RollbackTo("s") || tr.Expected != base {
		t.Error("a savepoint or an end outside of a transaction changes something")
	}
}
