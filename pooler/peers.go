package pooler

import (
	"context"
	"errors"
	"slices"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/backend"
)

// Several poolers may be behind one address. A cancel request comes by a connection of its own, so that it may reach another pooler than its client has: the
// pid of the key tells which, and the request is passed on to that. It is passed on once, whatever is configured where: what was has passedMark behind its
// secret, which no secret has that a client is given, as those have 4 bytes or 32.
const passedMark = 'P'

// passed takes the mark off the secret of a request that a peer passed on; ok is false if it is none.
func (p *Pooler) passed(secret []byte) (key []byte, ok bool) {
	if n := len(secret); p.keys.peer != 0 && (n == 5 || n == 33) && secret[n-1] == passedMark {
		return secret[:n-1], true
	}
	return secret, false
}

// passOn passes a cancel request on whose key is not one of ours, if it is a peer's, and says what became of it. It returns when the peer has handled it.
func (p *Pooler) passOn(pid uint32, secret []byte) (result string) {
	id := peerOf(pid)
	if p.keys.peer == 0 || id == p.keys.peer || len(secret) != 4 && len(secret) != 32 {
		return "unknown_key"
	}
	cfg := p.state.Load().cfg
	i := slices.IndexFunc(cfg.Peers, func(x config.Peer) bool { return uint32(x.ID) == id }) //nolint:gosec // up to 255
	if i < 0 {
		return "unknown_key"
	}
	o := backend.DialOptions{
		Address: backend.Address{Host: cfg.Peers[i].Host, Port: cfg.Peers[i].Port}, ConnectTimeout: cfg.Connect.Timeout, TCP: tcpOptions(cfg.TCP),
	}
	if cfg.TLS.Certificate != "" { // keys are not shown to who listens where clients are not
		var err error
		if o.TLS, err = backend.ClientTLS(backend.TLSPrefer, "", "", ""); err != nil {
			return "failed"
		}
	}
	ctx, end := context.WithTimeout(p.ctx, cancelTimeout)
	defer end()
	err := p.lanes.enter(ctx, o.Address)
	if err == nil {
		err = backend.Cancel(ctx, o, pid, append(slices.Clone(secret), passedMark))
		p.lanes.leave(o.Address)
	}
	switch {
	case errors.Is(err, errManyCancels):
		return "throttled"
	case err != nil:
		p.log.Warn("cancel not passed on", "peer", id, "error", err)
		return "failed"
	}
	return "passed_on"
}
