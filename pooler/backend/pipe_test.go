package backend

import (
	"encoding/binary"
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

// FuzzPipe: what is known of a conversation does not depend on how its bytes are cut, and everything up to what can't be a message is relayed.
func FuzzPipe(f *testing.F) {
	f.Add([]byte("W\x00\x00\x00\x07\x00\x00\x00d\x00\x00\x00\x05xc\x00\x00\x00\x04Z\x00\x00\x00\x05I"), uint8(3))
	f.Add([]byte("C\x00\x00\x00\x05xZ\x00\x00\x00\x05IW\x00\x00\x00\x04d\x00\x00\x00\x09x"), uint8(0))
	f.Add([]byte("d\x00\x00\x00\x03"), uint8(7))
	f.Add([]byte("d\xff\xff\xff\xffZ"), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		var asked, streams, mid, wrong bool
		asked = true
		for rest := b; len(rest) > 0; {
			mid = true
			if len(rest) < 5 {
				break
			}
			n := int64(int32(binary.BigEndian.Uint32(rest[1:])))
			if wrong = n < 4; wrong {
				break
			}
			switch rest[0] {
			case 'W':
				streams = true
			case 'c':
				streams = false
			case 'Z':
				streams, asked = false, false
			}
			if mid = int64(len(rest)) < n+1; mid {
				break
			}
			rest = rest[n+1:]
		}
		c, p := New(&Login{}, 1<<20), &piped{}
		c.Own(p)
		c.Pipe()
		c.PipeAsked()
		var err error
		for rest := b; len(rest) > 0 && err == nil; {
			n := min(len(rest), int(size)+1)
			err = c.Feed(rest[:n])
			rest = rest[n:]
		}
		if (err != nil) != wrong {
			t.Fatalf("got %v, want an error: %v", err, wrong)
		}
		if wrong {
			return
		}
		if c.MidMessage() != mid || c.PipeStreams() != streams || c.PipeIdle() != (streams || !asked && !mid) || p.got.String() != string(b) {
			t.Errorf("in the middle %v, streams %v, idle %v, %d bytes; want %v, %v, asked %v, %d", c.MidMessage(), c.PipeStreams(), c.PipeIdle(), p.got.Len(), mid, streams, asked, len(b))
		}
	})
}
