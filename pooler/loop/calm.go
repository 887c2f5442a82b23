package loop

import (
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pool"
)

// cancelled is the end of a cancel request to the server of b; sure: the server has handled it.
func (b *Backend) cancelled(sure bool) {
	b.mu.Lock()
	b.cancels--
	b.astray = b.astray || !sure
	calm := b.calms && b.cancels == 0
	if calm {
		b.calms = false
		b.impatience.Stop()
	}
	b.mu.Unlock()
	if calm {
		b.calm()
	}
}

// calmTimeout bounds the wait for cancel requests: another connection is there sooner then.
const calmTimeout = time.Second

// uncalmed gives up a backend whose cancel requests take too long.
func (b *Backend) uncalmed() {
	b.mu.Lock()
	calms := b.calms
	b.calms = false
	b.mu.Unlock()
	if calms {
		b.g.source.Discard(b, pool.Reason(backend.TaintCancelled.First()), nil)
	}
}

// calm has a backend that nobody holds go back to its pool once no cancel request can hit what it runs next: those under way have ended, and the server
// has answered something since. It may block.
func (b *Backend) calm() {
	defer b.caught()
	b.mu.Lock()
	if b.cancels > 0 {
		b.calms = true
		b.impatience = time.AfterFunc(calmTimeout, b.uncalmed)
		b.mu.Unlock()
		return
	}
	if err := b.dead; err != nil || b.astray {
		b.mu.Unlock()
		reason := pool.Reason(backend.TaintCancelled.First())
		if err != nil {
			reason = pool.ReasonGone
		}
		b.g.source.Discard(b, reason, err)
		return
	}
	b.settler = backend.NewCalmer(b.Conn)
	out := exec.Internal(nil, b.Conn, exec.RefSettle, ";")
	b.g.source.Traffic(b, 0, len(out), nanos())
	b.w.append(out)
	b.w.stage()
	b.mu.Unlock()
	b.settle(b.g.rollbackTimeout)
	b.w.flushAndWait()
}
