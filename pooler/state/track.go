package state

// Track follows the settings of one session through transactions and savepoints: what is SET in a transaction that
// rolls back is forgotten with it (PostgreSQL manual, SET). Expected is what the session wants of a connection, Have what
// the connection it holds has; while a session holds a connection they differ only after a RESET of something that the
// client chose at its start.
type Track struct {
	Expected, Have *Set
	// Local are settings that the transaction made for itself, as far as somebody wants to know; they are not part of Expected and Have.
	Local *Set
	stack []frame
}

type frame struct {
	name                  string // of the savepoint; empty for the transaction itself
	expected, have, local *Set
}

// Begin marks the start of a transaction block.
func (t *Track) Begin() {
	if len(t.stack) == 0 {
		t.stack = append(t.stack, frame{expected: t.Expected, have: t.Have, local: t.Local})
	}
}

// InTransaction reports whether Begin was called and neither Commit nor Rollback since.
func (t *Track) InTransaction() bool { return len(t.stack) > 0 }

// Savepoint marks a savepoint.
func (t *Track) Savepoint(name string) {
	if len(t.stack) > 0 {
		t.stack = append(t.stack, frame{name, t.Expected, t.Have, t.Local})
	}
}

// Release forgets the latest savepoint called name and those after it; their settings stay.
func (t *Track) Release(name string) {
	if i := t.savepoint(name); i > 0 {
		t.stack = t.stack[:i]
	}
}

// RollbackTo restores what was when the latest savepoint called name was set, and forgets those after it.
func (t *Track) RollbackTo(name string) bool {
	i := t.savepoint(name)
	if i <= 0 {
		return false
	}
	t.Expected, t.Have, t.Local = t.stack[i].expected, t.stack[i].have, t.stack[i].local
	t.stack = t.stack[:i+1]
	return true
}

func (t *Track) savepoint(name string) int {
	for i := len(t.stack) - 1; i > 0; i-- {
		if t.stack[i].name == name {
			return i
		}
	}
	return -1
}

// Depth is how deep in transactions the track is: 0 outside of one, and one more for each savepoint.
func (t *Track) Depth() int { return len(t.stack) }

// HasSavepoint reports whether a savepoint called name is set.
func (t *Track) HasSavepoint(name string) bool { return t.savepoint(name) > 0 }

// Commit ends the transaction and keeps its settings but for the local ones.
func (t *Track) Commit() { t.stack, t.Local = t.stack[:0], nil }

// Rollback ends the transaction and restores what was before it.
func (t *Track) Rollback() {
	if len(t.stack) > 0 {
		t.Expected, t.Have = t.stack[0].expected, t.stack[0].have
		t.stack = t.stack[:0]
	}
	t.Local = nil
}

// Base is what was expected before the transaction, or is expected now outside of one.
func (t *Track) Base() *Set {
	if len(t.stack) > 0 {
		return t.stack[0].expected
	}
	return t.Expected
}

// Synced notes that the connection has, at every point of the transaction so far, what was expected there.
func (t *Track) Synced() {
	t.Have = t.Expected
	for i := range t.stack {
		t.stack[i].have = t.stack[i].expected
	}
}

// Replace replaces what is expected, at every point of the transaction, by what f makes of it.
func (t *Track) Replace(f func(*Set) *Set) {
	t.Expected = f(t.Expected)
	for i := range t.stack {
		t.stack[i].expected = f(t.stack[i].expected)
	}
}

// Reset forgets everything but the memory of its list.
func (t *Track) Reset() {
	clear(t.stack[:cap(t.stack)])
	*t = Track{stack: t.stack[:0]}
}
