package notify

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// silent is a client that is told nothing.
type silent struct{}

func (silent) Hear()                    {}
func (silent) Lost(*pgwire.Error, bool) {}

// hearing is a hub that a listener has two channels of, and is owed n answers.
func hearing(n int) (*Hub, *Listener) {
	set := NewGroup(new(atomic.Uint64)).NewSet([]Options{{Voice: func(_ string, pid uint32) (*backend.Voice, bool) { return nil, pid%5 > 0 }}}, nil)
	h := set.hubs[0]
	h.mu.running = true
	l := set.Listen(silent{}, 7, nil)
	l.Prepare([]string{"a", "b"})
	l.Expect()
	l.Commit([]Change{{"a", true}})
	l.expects = false // of b nothing is to be heard
	h.mu.todo = nil
	for range n {
		h.mu.owed = append(h.mu.owed, &request{done: make(chan struct{})})
	}
	return h, l
}

// notifications are those at the front of b that arrive, until something is wrong, or not whole.
func notifications(b []byte, owed int) (list [][]byte, wrong bool) {
	for len(b) >= pgwire.HeaderBytes {
		_, total, _ := pgwire.Header(b)
		if total < 0 || total > maxMessage {
			return list, true
		}
		if total > len(b) {
			return list, false
		}
		m := b[:total]
		b = b[total:]
		body := m[pgwire.HeaderBytes:]
		switch m[0] {
		case pgwire.MsgNotification:
			if len(body) < 4 || bytes.IndexByte(body[4:], 0) < 0 {
				return list, true
			}
			if pid := uint32(body[0])<<24 | uint32(body[1])<<16 | uint32(body[2])<<8 | uint32(body[3]); pid%5 > 0 && strings.HasPrefix(string(body[4:]), "a\x00") {
				list = append(list, m)
			}
		case pgwire.MsgErrorResponse:
			if e, err := pgwire.DecodeError(body); err != nil || e.IsFatal() || owed == 0 {
				return list, true
			}
		case pgwire.MsgReadyForQuery:
			if owed--; owed < 0 {
				return list, true
			}
		}
	}
	return list, false
}

// FuzzHub: whatever a server sends, and however it is cut, who listens has the notifications in it that are whole, as they were, and nothing else; what can't be
// read ends the connection.
func FuzzHub(f *testing.F) {
	ready := pgwire.AppendReadyForQuery(nil, pgwire.TxIdle)
	said := []byte("A\x00\x00\x00\x0d\x00\x00\x00\x01a\x00hi\x00")
	f.Add(said, uint8(3))
	f.Add(bytes.Join([][]byte{ready, said, []byte("A\x00\x00\x00\x0b\x00\x00\x00\x01b\x00\x00"), said, ready}, nil), uint8(1))
	f.Add(append(pgwire.AppendErrorResponse(nil, pgwire.Errorf(pgwire.CodeSyntaxError, "no")), ready...), uint8(9))
	f.Add(append(pgwire.AppendErrorResponse(nil, pgwire.Fatalf(pgwire.CodeAdminShutdown, "no")), said...), uint8(2))
	f.Add([]byte("A\x00\x00\x00\x07\x00\x00\x00"), uint8(1))
	f.Add([]byte("A\x00\x00\x00\x0a\x00\x00\x00\x01ab"), uint8(1))
	f.Add([]byte("A\xff\xff\xff\xff"), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		const owed = 2
		h, l := hearing(owed)
		want, wrong := notifications(b, owed)
		var buf []byte
		var err error
		for rest := b; len(rest) > 0 && err == nil; {
			n := min(len(rest), int(size)+1)
			buf = append(buf, rest[:n]...)
			rest = rest[n:]
			buf, err = h.consume(buf)
		}
		if (err != nil) != wrong {
			t.Errorf("got %v, want an error: %v", err, wrong)
		}
		for i, w := range want {
			if got := l.Next(); !bytes.Equal(got, w) {
				t.Fatalf("notification %d: got %q, want %q", i, got, w)
			}
		}
		if got := l.Next(); got != nil {
			t.Errorf("got %q behind the last", got)
		}
		if l.bytes != 0 {
			t.Errorf("%d bytes are left", l.bytes)
		}
	})
}
