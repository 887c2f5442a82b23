package pool

import (
	"context"
	"testing"
)

// marked is a pool of idle connections with these marks, the most recently used first.
func marked(marks ...uint64) (p *Pool[*int], of map[uint64]*Lease[*int]) {
	p = New(Options{Settings: Settings{Max: len(marks)}, Go: func(f func()) { f() }}, Hooks[*int]{
		Open:  func(context.Context) (*int, error) { return new(int), nil },
		Close: func(*int, Reason) {},
	})
	of = make(map[uint64]*Lease[*int])
	for _, m := range marks {
		tk := newTaker[*int]()
		p.Checkout(&tk.w)
		tk.last.Mark(m)
		of[m] = tk.last
	}
	for i := range marks {
		p.Release(of[marks[len(marks)-1-i]])
	}
	return p, of
}

// TestCheckoutPrefersItsMark: who asks for a mark gets the connection that has it, and else the one whose mark was used least recently of the first few.
func TestCheckoutPrefersItsMark(t *testing.T) {
	p, of := marked(1, 2, 3, 4)
	take := func(mark, want uint64) {
		t.Helper()
		l := p.TryCheckoutAt(mark, Now())
		if l != of[want] {
			t.Errorf("mark %d: got the connection with %d, want %d", mark, l.mark, want)
		}
		p.Release(l)
	}
	take(1, 1)
	take(3, 3) // 3 1 2 4
	take(7, 4) // 4 3 1 2: it was released as it was
	take(7, 2)
	take(2, 2)
	take(4, 4)

	var many []uint64
	for i := range uint64(2 * fitDepth) {
		many = append(many, i+1)
	}
	p, of = marked(many...)
	take(2*fitDepth, fitDepth) // what lies deeper is left alone, so that it may become old
	take(fitDepth, fitDepth)
}

// TestMarksDontChangeTheOrder: a connection that is released goes to who waits longest, whatever it carries; of several idle ones the first who
// waited gets the one with its mark.
func TestMarksDontChangeTheOrder(t *testing.T) {
	p, of := marked(1)
	held := p.TryCheckout()
	first, second := newTaker[*int](), newTaker[*int]()
	first.w.Mark, second.w.Mark = 2, 1
	p.Checkout(&first.w)
	p.Checkout(&second.w)
	p.Release(held)
	if first.last != of[1] || second.last != nil {
		t.Error("who waited longest was not served first")
	}
	p.Release(first.last)
	if second.last != of[1] {
		t.Error("the other one was not served")
	}

	p, of = marked(1, 2, 3)
	p.Pause()
	first, second = newTaker[*int](), newTaker[*int]()
	first.w.Mark, second.w.Mark = 3, 2
	p.Checkout(&first.w)
	p.Checkout(&second.w)
	p.Resume()
	if first.last != of[3] || second.last != of[2] {
		t.Error("idle connections were not given by their marks")
	}
}

// BenchmarkMarks is the longest look for a connection: none has the mark.
func BenchmarkMarks(b *testing.B) {
	var marks []uint64
	for i := range uint64(4 * fitDepth) {
		marks = append(marks, i+1)
	}
	p, _ := marked(marks...)
	b.ReportAllocs()
	for b.Loop() {
		p.Release(p.TryCheckoutAt(1<<40, Now()))
	}
}
