package backend

import (
	"errors"
	"strings"
	"testing"
)

// piped collects what is relayed.
type piped struct {
	nobody
	got strings.Builder
}

func (p *piped) Relay(b []byte) { p.got.Write(b) }

// TestPipe: whatever the server sends and however it is cut, it arrives as it was, and it is known when a message is incomplete and when nothing is owed.
func TestPipe(t *testing.T) {
	t.Parallel()
	const begin, data, done, ready = "W\x00\x00\x00\x07\x00\x00\x00", "d\x00\x00\x00\x0bhello, ", "c\x00\x00\x00\x04", "Z\x00\x00\x00\x05I"
	all := begin + data + data + done + ready
	for size := 1; size <= len(all); size++ {
		c := New(&Login{}, 1<<20)
		p := &piped{}
		c.Own(p)
		c.Pipe()
		if !c.PipeIdle() || c.Clean() || c.Calmable() {
			t.Fatal("not as at the beginning")
		}
		c.PipeAsked()
		if c.PipeIdle() {
			t.Fatal("idle in front of an answer")
		}
		for at := 0; at < len(all); at += size {
			end := min(at+size, len(all))
			if err := c.Feed([]byte(all[at:end])); err != nil {
				t.Fatal(err)
			}
			whole := end == len(begin) || end == len(begin+data) || end == len(begin+data+data) || end == len(all)-len(ready) || end == len(all)
			if c.MidMessage() == whole {
				t.Fatalf("in pieces of %d: in the middle of a message at %d: %v", size, end, !whole)
			}
			if streams := end >= 5 && end < len(all)-len(ready); end >= 5 && c.PipeStreams() != streams {
				t.Fatalf("in pieces of %d: streams at %d: %v", size, end, !streams)
			}
		}
		if p.got.String() != all || !c.PipeIdle() {
			t.Fatalf("in pieces of %d: got %q, idle %v", size, p.got.String(), c.PipeIdle())
		}
	}
	c := New(&Login{}, 1<<20)
	c.Pipe()
	if err := c.Feed([]byte("d\x00\x00\x00\x03")); !errors.Is(err, ErrProtocol) {
		t.Errorf("a length that can't be: %v", err)
	}
}
