package pool

// Granter hears the outcome of a checkout: exactly one of its methods is called, once, maybe before Checkout returns
// and maybe on another goroutine. No lock of the pool is held then, and the methods may call the pool.
type Granter[C any] interface {
	// Granted hands over the connection; the receiver is its holder now.
	Granted(l *Lease[C])
	// CheckoutFailed says that there is none: ErrCheckoutTimeout, ErrClosed or an *OpenError, wrapped.
	CheckoutFailed(err error)
}

// Waiter is one place in the queue of a pool. It is meant to be embedded in its owner, so that a checkout allocates
// nothing; it can be used again once answered or withdrawn. It must not be copied while it waits.
type Waiter[C any] struct {
	To   Granter[C] // set by the owner, before Checkout
	Mark uint64     // likewise: of the connection that it would rather have

	pool       *Pool[C] // of the last checkout; for the owner's goroutine
	waiting    bool     // guarded by pool.mu, as the rest
	prev, next *Waiter[C]
	since      Instant
	deadline   Instant // 0 = none
}

// Withdraw ends the wait: the owner went away. False means that the waiter was answered, or is about to be, by a
// call of its Granter, or that it never waited.
func (w *Waiter[C]) Withdraw() bool { return w.pool != nil && w.pool.Withdraw(w) }

// waiterQueue is a doubly linked list through Waiter.prev and next.
type waiterQueue[C any] struct {
	front, back *Waiter[C]
	len         int
}

func (q *waiterQueue[C]) push(w *Waiter[C]) {
	w.waiting = true
	w.prev, w.next = q.back, nil
	if q.back != nil {
		q.back.next = w
	} else {
		q.front = w
	}
	q.back = w
	q.len++
}

func (q *waiterQueue[C]) remove(w *Waiter[C]) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.front = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.back = w.prev
	}
	w.prev, w.next = nil, nil
	w.waiting = false
	q.len--
}
