package backend

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// hostile is an owner that checks what it is told against what was asked.
type hostile struct {
	t      testing.TB
	conn   *Conn
	asked  []Step // not answered yet
	fed    int
	got    int
	calls  int
	failed bool // an error was reported that a Sync has not ended
	more   func(*hostile)
}

func (h *hostile) ask(s Step) {
	s.Ref = int32(h.fed % 1000)
	h.asked = append(h.asked, s)
	h.conn.Ask(s)
}

func (h *hostile) head(s *Step, what string) {
	h.t.Helper()
	h.calls++
	if len(h.asked) == 0 || h.asked[0].Kind != s.Kind || h.asked[0].Internal != s.Internal || h.asked[0].Ref != s.Ref {
		h.t.Fatalf("%s %s, asked for %v", what, label(s), h.asked)
	}
}

func (h *hostile) pop() { h.asked = h.asked[1:] }

func (h *hostile) Relay(b []byte) {
	if len(b) == 0 {
		h.t.Fatal("nothing was relayed")
	}
	h.got += len(b)
	if len(h.asked) > 0 && h.asked[0].Kind == StepLocal {
		return
	}
	if h.got > h.fed+1000*h.calls {
		h.t.Fatalf("relayed %d bytes of %d", h.got, h.fed)
	}
}

func (h *hostile) Complete(s *Step, tag []byte) {
	h.head(s, "complete")
	if h.failed || s.Kind == StepSync {
		h.t.Fatalf("complete %s, failed %v", label(s), h.failed)
	}
	if bytes.IndexByte(tag, 0) >= 0 {
		h.t.Fatal("a tag with a zero byte")
	}
	if s.Kind != StepQuery {
		h.pop()
	}
}

func (h *hostile) Failed(s *Step, msg []byte) {
	h.head(s, "failed")
	if msg[0] != pgwire.MsgErrorResponse || int(binary.BigEndian.Uint32(msg[1:]))+1 != len(msg) {
		h.t.Fatal("failed without a whole message")
	}
	if s.Kind != StepQuery && s.Kind != StepSync {
		if h.failed {
			h.t.Fatal("failed twice")
		}
		h.failed = true
		h.pop()
	}
}

func (h *hostile) Skipped(s *Step) {
	h.head(s, "skipped")
	if !h.failed || s.Kind == StepSync {
		h.t.Fatalf("skipped %s, failed %v", label(s), h.failed)
	}
	h.pop()
}

func (h *hostile) CopyIn(s *Step, _ []byte) {
	h.head(s, "copy in")
	if s.Internal || h.failed {
		h.t.Fatal("copy in for nobody")
	}
	kept := h.asked[:1:1]
	behind := true
	for _, a := range h.asked[1:] {
		if a.Kind == StepSync && behind {
			continue
		}
		behind = behind && a.Kind == StepLocal
		kept = append(kept, a)
	}
	h.asked = kept
	h.more(h)
}

func (h *hostile) Parameter(string, string) { h.calls++ }

func (h *hostile) Ready(s *Step, tx pgwire.TxStatus) {
	h.head(s, "ready")
	if s.Kind != StepQuery && s.Kind != StepSync || !tx.Valid() {
		h.t.Fatalf("ready %s %c", label(s), tx)
	}
	h.failed = false
	h.pop()
	h.more(h)
}

// FuzzHostileServer: arbitrary bytes, or arbitrary messages, never panic, never confuse the queue, and hold no more than their bound.
func FuzzHostileServer(f *testing.F) {
	f.Add([]byte{0}, []byte("Z\x00\x00\x00\x05I"), false)
	f.Add([]byte{7, 8, 1, 2, 6}, []byte("TDCZTDCZ12TDCZ"), true)
	f.Add([]byte{7, 0, 1, 5, 6, 8}, []byte("EZ12ESZNAGCZ"), true)
	f.Add([]byte{5, 8, 6, 8, 6, 1}, []byte("GCZ"), true)
	f.Fuzz(func(t *testing.T, ask, b []byte, messages bool) { beHostile(t, ask, b, messages) })
}

// TestHostileServers is FuzzHostileServer for who has little time: random messages, most of them possible.
func TestHostileServers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5000) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		ask, b := make([]byte, rnd.IntN(30)), make([]byte, rnd.IntN(40))
		for i := range ask {
			ask[i] = byte(rnd.Uint32())
		}
		for i := range b {
			b[i] = "123TDtnCCCCZZZZZEEISNAGHdcsWRKV"[rnd.IntN(31)]
		}
		beHostile(t, ask, b, rnd.IntN(10) > 0)
	}
}

func beHostile(t *testing.T, ask, b []byte, messages bool) {
	t.Helper()

	if messages { // each byte is a message, so that more than the first gets anywhere
		var list []byte
		for i, typ := range b[:min(len(b), 500)] {
			list = appendMessage(list, typ, []string{"", "I", "T", "E", "a=b", "25P02"}[(i*7+len(b))%6])
		}
		b = list
	}
	const limit = 1 << 12
	conn := New(&Login{}, limit)
	h := &hostile{t: t, conn: conn}
	next := func(h *hostile) {
		for range 3 {
			if len(ask) == 0 {
				return
			}
			k := ask[0]
			ask = ask[1:]
			s := Step{Kind: StepKind(k%9) + 1, Internal: k&0x10 != 0}
			if s.Kind == StepLocal {
				s.Internal, s.Answer = false, []byte{'1', 0, 0, 0, 4}
			}
			if s.Kind == StepParse || s.Kind == StepClose {
				s.Prepared = prepared(uint64(k>>5) + 1)
				s.Unnamed = k&0x10 != 0 && s.Kind == StepParse
			}
			h.ask(s)
		}
	}
	h.more = next
	next(h)
	conn.Own(h)
	var broken error
	for len(b) > 0 {
		n := min(len(b), 1+len(b)*7%61)
		h.fed += n
		calls := h.calls
		err := conn.Feed(b[:n])
		b = b[n:]
		if broken != nil && (h.calls != calls || err == nil || err.Error() != broken.Error()) {
			t.Fatalf("after %v: %v", broken, err)
		}
		broken = err
		if len(conn.in) > limit || cap(conn.in) > keepBytes { // the buffer may be one that was lent to another
			t.Fatalf("%d bytes are held in %d", len(conn.in), cap(conn.in))
		}
		if err == nil && conn.Pending() != len(h.asked) {
			t.Fatalf("%d owed, want %d", conn.Pending(), len(h.asked))
		}
		if conn.Clean() && (err != nil || len(h.asked) > 0 || h.failed) {
			t.Fatalf("clean with %d owed, failed %v, %v", len(h.asked), h.failed, err)
		}
	}
}
