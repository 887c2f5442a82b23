package pool

import (
	"errors"
	"fmt"
)

// Errors that fail a checkout. They come wrapped; use errors.Is and errors.As.
var (
	// ErrCheckoutTimeout: no connection became free within Settings.CheckoutTimeout. When the pool was unable to
	// open more, the same error also wraps the *OpenError that says why.
	ErrCheckoutTimeout = errors.New("checkout timeout")
	// ErrClosed: the pool is closed or being closed.
	ErrClosed = errors.New("pool is closed")
)

var errNotAlive = errors.New("the server closed the connection or sent something unasked")

var errSlow = errors.New("the server takes too long to answer")

// Failure is what a failed Open means for those who wait.
type Failure uint8

// The failures.
const (
	// Unreachable: nothing answers as expected. Waiters are failed when no connection is left that could serve them.
	Unreachable Failure = iota + 1
	// Transient: the server is there and will soon take connections (it starts up, or has too many of them).
	// Waiters go on waiting while opens are retried.
	Transient
	// Rejected: the server refuses this login. As Unreachable, but at the first attempt, and remembered longer.
	Rejected
)

// String returns the failure's name for logs and metrics.
func (f Failure) String() string {
	switch f {
	case Unreachable:
		return "unreachable"
	case Transient:
		return "transient"
	case Rejected:
		return "rejected"
	}
	return "unknown"
}

// OpenError fails a checkout because no connection can be opened. It names the pool and wraps what Hooks.Open
// returned: it is for the log, not for clients.
type OpenError struct {
	Pool    string
	Failure Failure
	Err     error
}

// Error implements error.
func (e *OpenError) Error() string {
	return fmt.Sprintf("open connection of pool %s (%v): %v", e.Pool, e.Failure, e.Err)
}

// Unwrap returns what Hooks.Open returned.
func (e *OpenError) Unwrap() error { return e.Err }

// Reason says why a connection was closed, in logs, metrics and the console. The pool's own reasons are below; those
// who discard connections have theirs. Values are constants of the program, never made of input.
type Reason string

// The pool's reasons to close a connection.
const (
	ReasonIdle        Reason = "idle"
	ReasonLifetime    Reason = "lifetime"
	ReasonUnhealthy   Reason = "health"        // a health check failed
	ReasonGone        Reason = "server_closed" // found dead while idle
	ReasonRetired     Reason = "reconnect"     // Reconnect was called since it was opened
	ReasonResized     Reason = "resized"       // more than Max
	ReasonPoolClosed  Reason = "shutdown"
	ReasonInterrupted Reason = "killed" // Kill was called
	ReasonBudget      Reason = "budget" // another pool of the same Budget needed the place
)

func (p *Pool[C]) timeoutErrorLocked() error {
	why := p.mu.trouble.last
	if why == nil && p.share != nil && p.share.queued {
		return fmt.Errorf("checkout from pool %s: %w: other pools have all %d connections of the budget", p.name, ErrCheckoutTimeout, p.share.b.Stats().Limit)
	}
	if why == nil && p.mu.leased < p.mu.set.Max {
		why = &OpenError{Pool: p.name, Failure: Unreachable, Err: errSlow} // no other holder had what was waited for
	}
	if why != nil {
		return fmt.Errorf("checkout from pool %s: %w: %w", p.name, ErrCheckoutTimeout, why)
	}
	return fmt.Errorf("checkout from pool %s: %w", p.name, ErrCheckoutTimeout)
}

func (p *Pool[C]) closedError() error {
	return fmt.Errorf("checkout from pool %s: %w", p.name, ErrClosed)
}
