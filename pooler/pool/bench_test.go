package pool

import (
	"context"
	"testing"
)

type taker[C any] struct {
	w    Waiter[C]
	last *Lease[C]
}

func (t *taker[C]) Granted(l *Lease[C])    { t.last = l }
func (t *taker[C]) CheckoutFailed(e error) { panic(e) }

func newTaker[C any]() *taker[C] {
	t := &taker[C]{}
	t.w.To = t
	return t
}

// inline is a pool whose tasks run at once in the caller.
func inline(s Settings) *Pool[*int] { return inlineOf(s, nil) }

func inlineOf(s Settings, b *Budget) *Pool[*int] {
	return New(Options{Settings: s, Budget: b, Go: func(f func()) { f() }}, Hooks[*int]{
		Open:  func(context.Context) (*int, error) { return new(int), nil },
		Close: func(*int, Reason) {},
		Alive: func(*int) bool { return true },
	})
}

func TestCheckoutAndReleaseAllocateNothing(t *testing.T) {
	p := inlineOf(Settings{Max: 1, CheckoutTimeout: 1e9, IdleTimeout: 60e9, HealthInterval: 30e9, Lifetime: 3600e9}, NewBudget(1))
	tk := newTaker[*int]()
	p.Checkout(&tk.w)
	p.Release(tk.last)
	if n := testing.AllocsPerRun(1000, func() { p.Release(p.TryCheckout()) }); n != 0 {
		t.Errorf("fast path: got %v allocations, want 0", n)
	}
	if n := testing.AllocsPerRun(1000, func() { p.Checkout(&tk.w); p.Release(tk.last) }); n != 0 {
		t.Errorf("checkout: got %v allocations, want 0", n)
	}
	second := newTaker[*int]()
	if n := testing.AllocsPerRun(1000, func() {
		p.Checkout(&tk.w)
		p.Checkout(&second.w) // waits
		p.Release(tk.last)    // handed over
		p.Release(second.last)
	}); n != 0 {
		t.Errorf("with a waiter: got %v allocations, want 0", n)
	}
}

func BenchmarkTryCheckout(b *testing.B) {
	p := inline(Settings{Max: 4, IdleTimeout: 60e9, HealthInterval: 30e9, Lifetime: 3600e9})
	tk := newTaker[*int]()
	p.Checkout(&tk.w)
	p.Release(tk.last)
	b.ReportAllocs()
	for b.Loop() {
		p.Release(p.TryCheckout())
	}
}

func BenchmarkHandOver(b *testing.B) {
	p := inline(Settings{Max: 1, CheckoutTimeout: 5e9, IdleTimeout: 60e9, HealthInterval: 30e9, Lifetime: 3600e9})
	one, two := newTaker[*int](), newTaker[*int]()
	p.Checkout(&one.w)
	b.ReportAllocs()
	for b.Loop() {
		p.Checkout(&two.w)
		p.Release(one.last)
		one, two = two, one
	}
}

func BenchmarkParallel(b *testing.B) {
	p := inline(Settings{Max: 200, CheckoutTimeout: 5e9, IdleTimeout: 60e9, HealthInterval: 30e9, Lifetime: 3600e9})
	takers := make([]*taker[*int], 200) // more connections than goroutines: nobody has to wait
	for i := range takers {
		takers[i] = newTaker[*int]()
		p.Checkout(&takers[i].w)
	}
	for _, t := range takers {
		p.Release(t.last)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p.Release(p.TryCheckout())
		}
	})
}
