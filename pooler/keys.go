package pooler

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"sync"

	"github.com/pgkennel/pgkennel/pooler/loop"
)

// keys are the cancel keys of the clients: random, so that they tell nothing and can't be guessed. Those of protocol 3.0 have 32 bits of
// secret beside 31 bits of pid.
type keys struct {
	// peer is which of several poolers this is, in the uppermost bits of each pid; 0 = there is one only, and all bits are random.
	peer  uint32
	mu    sync.Mutex
	short map[uint32]key[[4]byte]
	long  map[uint32]key[[32]byte] // of protocol 3.2
	busy  map[*loop.Client]int     // the cancel requests for a client that are being handled
}

type key[S [4]byte | [32]byte] struct {
	client *loop.Client
	secret S
}

// peerBits are those of a pid that name the pooler: what is left beside them is random.
const peerBits = 8

const peerShift = 31 - peerBits

// peerOf is the pooler that a pid was given by, if there are several.
func peerOf(pid uint32) uint32 { return pid >> peerShift & (1<<peerBits - 1) }

func newKeys(peer int) *keys {
	return &keys{peer: uint32(peer), short: make(map[uint32]key[[4]byte]), long: make(map[uint32]key[[32]byte]), busy: make(map[*loop.Client]int)} //nolint:gosec // up to 255
}

// register gives c a pid that nobody has, and a secret of n bytes: 4 or 32.
func (k *keys) register(c *loop.Client, n int) (pid uint32, secret []byte) {
	secret = make([]byte, n)
	rand.Read(secret)
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		var b [4]byte
		rand.Read(b[:])
		pid = binary.BigEndian.Uint32(b[:]) & (1<<31 - 1) // drivers keep it in a signed integer
		if k.peer != 0 {
			pid = pid&(1<<peerShift-1) | k.peer<<peerShift
		}
		if pid != 0 && k.owner(pid) == nil {
			break
		}
	}
	if n == 4 {
		k.short[pid] = key[[4]byte]{c, [4]byte(secret)}
	} else {
		k.long[pid] = key[[32]byte]{c, [32]byte(secret)}
	}
	return pid, secret
}

// owner is the client that has a pid, nil if there is none. k.mu is held.
func (k *keys) owner(pid uint32) *loop.Client {
	if e, ok := k.short[pid]; ok {
		return e.client
	}
	return k.long[pid].client
}

func (k *keys) unregister(c *loop.Client, pid uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.owner(pid) == c {
		delete(k.short, pid)
		delete(k.long, pid)
	}
}

// enter is find for a cancel request that is about to be handled, for whose end leave has to be called; false: there is no such client, or it has too many.
func (k *keys) enter(pid uint32, secret []byte) (*loop.Client, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.find(pid, secret)
	if c == nil || k.busy[c] >= mostForOne {
		return c, false
	}
	k.busy[c]++
	return c, true
}

func (k *keys) leave(c *loop.Client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[c]--; k.busy[c] == 0 {
		delete(k.busy, c)
	}
}

// find returns the client that a cancel request is for, nil if the key is wrong. Wrong ones are not held against those that are right: to
// hit anybody takes 2^63 guesses for each client there is. k.mu is held.
func (k *keys) find(pid uint32, secret []byte) *loop.Client {
	if e, ok := k.short[pid]; ok && subtle.ConstantTimeCompare(e.secret[:], secret) == 1 {
		return e.client
	}
	if e, ok := k.long[pid]; ok && subtle.ConstantTimeCompare(e.secret[:], secret) == 1 {
		return e.client
	}
	return nil
}
