package pooler

import (
	"testing"

	"github.com/pgkennel/pgkennel/pooler/loop"
)

// TestWrongKeysHinderNobody: whoever guesses keys does not keep others from cancelling.
func TestWrongKeysHinderNobody(t *testing.T) {
	t.Parallel()
	k := newKeys(0)
	c := new(loop.Client)
	pid, secret := k.register(c, 4)
	wrong := append([]byte(nil), secret...)
	wrong[0] ^= 1
	for range 1000 {
		if k.find(pid, wrong) != nil || k.find(pid+1, secret) != nil || k.find(pid, nil) != nil {
			t.Fatal("a wrong key is right")
		}
	}
	if k.find(pid, secret) != c {
		t.Error("the right key is wrong")
	}
}

type someKey struct {
	pid    uint32
	secret []byte
}

// some registers a client.
func (k *keys) some(t *testing.T) someKey {
	t.Helper()
	pid, secret := k.register(new(loop.Client), 4)
	return someKey{pid, secret}
}
