package pooler

import (
	"bytes"
	"testing"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/loop"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// FuzzPassed: whatever key a cancel request comes with, marked or not, it finds the client that has that very key and nobody else, and is passed on only where
// it was not before.
func FuzzPassed(f *testing.F) {
	for _, secret := range []string{"", "abcd", "abcdP", "abcdp", "abcdPP", "P", "abcdefghijklmnopqrstuvwxyz123456", "abcdefghijklmnopqrstuvwxyz123456P"} {
		f.Add(uint32(1<<peerShift|5), []byte(secret), uint8(1))
		f.Add(uint32(2<<peerShift|5), []byte(secret), uint8(0))
	}
	f.Fuzz(func(t *testing.T, pid uint32, secret []byte, id uint8) {
		p := &Pooler{keys: newKeys(int(id))}
		p.state.Store(&snapshot{cfg: new(config.Config)})
		us := new(loop.Client)
		switch len(secret) {
		case 4, 5:
			p.keys.short[pid] = key[[4]byte]{us, [4]byte(secret)}
		case 32, 33:
			p.keys.long[pid] = key[[32]byte]{us, [32]byte(secret)}
		}
		// As it goes over the wire.
		packet, err := pgwire.DecodeStartup(pgwire.AppendCancelRequest(nil, pid, secret))
		if err != nil {
			return
		}
		if packet.PID != pid || !bytes.Equal(packet.Secret, secret) {
			t.Fatalf("got %d %q, want %d %q", packet.PID, packet.Secret, pid, secret)
		}
		k, passed := p.passed(packet.Secret)
		marked := (len(secret) == 5 || len(secret) == 33) && secret[len(secret)-1] == passedMark
		if passed != (marked && id != 0) || !bytes.Equal(k, secret[:len(secret)-len(secret[len(k):])]) {
			t.Fatalf("passed on %v with the key %q, from %q", passed, k, secret)
		}
		c, ok := p.keys.enter(pid, k)
		if right := len(secret) == 4 || len(secret) == 32 || passed; ok != right || ok && c != us {
			t.Fatalf("found %v, want %v", ok, right)
		}
		if other, ok := p.keys.enter(pid^1, k); ok || other != nil {
			t.Fatal("found another's")
		}
		// Nobody passes on what was, nor what is its own; what is nobody's goes nowhere.
		if got := p.passOn(pid, packet.Secret); got != "unknown_key" {
			t.Fatalf("became %s", got)
		}
		if again := append(bytes.Clone(k), passedMark); len(k) == 4 || len(k) == 32 {
			if back, ok := p.passed(again); ok != (id != 0) || ok && !bytes.Equal(back, k) {
				t.Fatalf("a request that is passed on has the key %q, %v", back, ok)
			}
			if len(again) == 4 || len(again) == 32 {
				t.Fatal("it would be passed on again")
			}
		}
	})
}
