package admin

import (
	"strconv"
	"time"
)

// Rows are the rows of a result in text form. All cells lie in one piece of memory, so that a table of half a million cells
// is two allocations, and not as many.
type Rows struct {
	width int
	data  []byte
	ends  []int // of each cell in data; complemented where the cell is NULL
}

// Len is the number of rows.
func (r *Rows) Len() int {
	if r.width == 0 {
		return 0
	}
	return len(r.ends) / r.width
}

// Cell returns a cell as a view, nil if it is NULL.
func (r *Rows) Cell(row, column int) []byte {
	i := row*r.width + column
	end := r.ends[i]
	if end < 0 {
		return nil
	}
	start := 0
	if i > 0 {
		if start = r.ends[i-1]; start < 0 {
			start = ^start
		}
	}
	if start == end {
		return []byte{} // not NULL, also while data is nil
	}
	return r.data[start:end:end]
}

// appendRow appends the cells of a row.
func (r *Rows) appendRow(dst [][]byte, row int) [][]byte {
	for column := range r.width {
		dst = append(dst, r.Cell(row, column))
	}
	return dst
}

// writer fills rows, a cell a call.
type writer struct {
	rows   *Rows
	access Access
}

// end ends a cell whose bytes are in data.
func (w *writer) end() { w.rows.ends = append(w.rows.ends, len(w.rows.data)) }

func (w *writer) null() { w.rows.ends = append(w.rows.ends, ^len(w.rows.data)) }

func (w *writer) text(s string) {
	w.rows.data = append(w.rows.data, s...)
	w.end()
}

func (w *writer) int(n int) { w.int64(int64(n)) }

func (w *writer) int64(n int64) {
	w.rows.data = strconv.AppendInt(w.rows.data, n, 10)
	w.end()
}

func (w *writer) uint64(n uint64) {
	w.rows.data = strconv.AppendUint(w.rows.data, n, 10)
	w.end()
}

func (w *writer) us(d time.Duration) { w.int64(d.Microseconds()) }

// orNull writes a text, NULL for an empty one.
func (w *writer) orNull(s string) {
	if s == "" {
		w.null()
		return
	}
	w.text(s)
}

func (w *writer) textPointer(s *string) {
	if s == nil {
		w.null()
		return
	}
	w.text(*s)
}

// flag writes 1 or 0, as PgBouncer has booleans.
func (w *writer) flag(b bool) {
	if b {
		w.int(1)
		return
	}
	w.int(0)
}

// yes writes yes or no, as PgBouncer has other booleans.
func (w *writer) yes(b bool) {
	if b {
		w.text("yes")
		return
	}
	w.text("no")
}

// time writes a time to the second, NULL for none.
func (w *writer) time(t time.Time) {
	if t.IsZero() {
		w.null()
		return
	}
	w.rows.data = t.UTC().AppendFormat(w.rows.data, "2006-01-02 15:04:05 UTC")
	w.end()
}

// split writes a duration as two cells: whole seconds, and the microseconds beside them.
func (w *writer) split(d time.Duration) {
	d = max(d, 0)
	w.int64(int64(d / time.Second))
	w.int64((d % time.Second).Microseconds())
}

// private writes text that may hold the clients' data, for admins only.
func (w *writer) private(s string) {
	if w.access != AccessAdmin {
		s = "<insufficient privilege>"
	}
	w.text(s)
}
