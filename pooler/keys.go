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
	mu      sync.Mutex
	clients map[uint32]keyed
}

type keyed struct {
	secret []byte
	client *loop.Client
}

func newKeys() *keys { return &keys{clients: make(map[uint32]keyed)} }

// register gives c a pid that nobody has, and a secret of n bytes.
func (k *keys) register(c *loop.Client, n int) (pid uint32, secret []byte) {
	secret = make([]byte, n)
	rand.Read(secret)
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		var b [4]byte
		rand.Read(b[:])
		pid = binary.BigEndian.Uint32(b[:]) & (1<<31 - 1) // drivers keep it in a signed integer
		if _, taken := k.clients[pid]; pid != 0 && !taken {
			k.clients[pid] = keyed{secret, c}
			return pid, secret
		}
	}
}

func (k *keys) unregister(c *loop.Client, pid uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clients[pid].client == c {
		delete(k.clients, pid)
	}
}

// find returns the client that a cancel request is for, nil if the key is wrong. Wrong ones are not held against those that are right: to
// hit anybody takes 2^63 guesses for each client there is.
func (k *keys) find(pid uint32, secret []byte) *loop.Client {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.clients[pid]
	if !ok || subtle.ConstantTimeCompare(e.secret, secret) != 1 {
		return nil
	}
	return e.client
}
