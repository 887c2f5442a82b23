package pooler

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/pooler/loop"
)

// keys are the cancel keys of the clients: random, so that they tell nothing and can't be guessed. Those of protocol 3.0 have 32 bits of
// secret beside 32 bits of pid; guessing is slowed down besides.
type keys struct {
	mu      sync.Mutex
	clients map[uint32]keyed
	guesses bucket
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

// find returns the client that a cancel request is for, nil if the key is wrong or too many were.
func (k *keys) find(pid uint32, secret []byte, now time.Time) *loop.Client {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.guesses.left(now) {
		return nil
	}
	e, ok := k.clients[pid]
	if !ok || subtle.ConstantTimeCompare(e.secret, secret) != 1 {
		k.guesses.take()
		return nil
	}
	return e.client
}

// bucket is a token bucket of wrong guesses: a hundred at once, ten per second.
type bucket struct {
	taken float64
	at    time.Time
}

const (
	bucketSize = 100
	bucketRate = 10
)

func (b *bucket) left(now time.Time) bool {
	if !b.at.IsZero() {
		b.taken = max(0, b.taken-now.Sub(b.at).Seconds()*bucketRate)
	}
	b.at = now
	return b.taken < bucketSize
}

func (b *bucket) take() { b.taken++ }
