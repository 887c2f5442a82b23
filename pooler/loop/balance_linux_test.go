package loop

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// threads starts n of them, with rings if need be.
func threads(t *testing.T, ring bool, n, buffer int) *pollers {
	t.Helper()
	if !ring {
		ps, err := newPollers(n, buffer)
		if err != nil {
			t.Fatal(err)
		}
		return ps
	}
	ps, err := newRingPollers(n, buffer)
	needsRing(t, err)
	return ps
}

// onBoth runs f with threads of both kinds.
func onBoth(t *testing.T, f func(t *testing.T, ring bool)) {
	t.Helper()
	t.Parallel()
	for name, ring := range map[string]bool{"epoll": false, "uring": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, ring)
		})
	}
}

// serve has a thread of ps watch one end of a connection, and returns the other.
func (ps *pollers) serve(t *testing.T, make func(*socket, *writer) handler) (*socket, net.Conn) {
	t.Helper()
	ours, theirs := pair(t)
	s := ps.take(ours)
	ours.Close()
	w := &writer{}
	w.init(s)
	w.watch(s)
	s.serve(make(s, w), w)
	s.start()
	return s, theirs
}

// shuffler is a handler that has its thread hand over sockets whenever it hears something, at any place of a turn.
type shuffler struct {
	s *socket
	r *rand.Rand
	n *atomic.Int64 // of moves
}

func isShuffler(s *socket) bool {
	_, ok := s.h.(*shuffler)
	return ok
}

func (x *shuffler) received([]byte) {
	p := x.s.p.Load()
	peers := *p.balance.peers.Load()
	for range 1 + x.r.IntN(16) {
		s := p.slots[x.r.IntN(len(p.slots))]
		if q := peers[x.r.IntN(len(peers))]; s != nil && q != p && !isShuffler(s) && !s.moving && !s.removed {
			p.give(s, q)
			x.n.Add(1)
		}
	}
}

func (*shuffler) finished() bool { return false }

func (*shuffler) ended(error) {}

// shuffle has the threads hand over sockets at random until the test ends. It returns the number of moves.
func shuffle(t *testing.T, ps *pollers) *atomic.Int64 {
	t.Helper()
	var n atomic.Int64
	for i := range ps.list {
		s, theirs := ps.serve(t, func(s *socket, _ *writer) handler {
			return &shuffler{s, rand.New(rand.NewPCG(uint64(i), 1)), &n}
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				if _, err := theirs.Write([]byte{0}); err != nil {
					return
				}
				time.Sleep(100 * time.Microsecond)
			}
		}()
		t.Cleanup(func() {
			s.Close()
			theirs.Close()
			<-done
		})
	}
	return &n
}

// TestMovedKeepsOrder: what many sockets send comes back as it was, whoever watches them meanwhile, and all are closed in the end.
func TestMovedKeepsOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, ring bool) {
		ps := threads(t, ring, 3, pollBuffer)
		n := shuffle(t, ps)
		talkToParrots(t, ps, 60)
		if n.Load() == 0 {
			t.Error("nothing has moved")
		}
	})
}

// TestMoved has the tests of pollers run while sockets move all the time.
func TestMoved(t *testing.T) {
	onBoth(t, func(t *testing.T, ring bool) {
		if ring {
			_, err := newRingPollers(0, 0)
			needsRing(t, err)
		}
		for name, f := range ofPollers {
			t.Run(name, f)
		}
	})
}

// works is a handler that is at work for a while whenever it hears something.
func works(d time.Duration) handler {
	return heard(func([]byte) {
		for began := nanos(); nanos()-began < int64(d); {
		}
	})
}

// flood sends as much as is taken.
func flood(t *testing.T, c net.Conn) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 16<<10)
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
}

// TestBusyThreadIsLeft: clients don't stay with a thread that one of them keeps busy, and talk on.
func TestBusyThreadIsLeft(t *testing.T) {
	onBoth(t, func(t *testing.T, ring bool) {
		ps := threads(t, ring, 2, pollBuffer)
		defer ps.close()
		hog, bytesOf := ps.serve(t, func(*socket, *writer) handler { return works(time.Millisecond) })
		defer hog.Close()
		flood(t, bytesOf)
		g := &Goroutines{}
		var clients []*socket
		var all sync.WaitGroup
		stop := make(chan struct{})
		for len(clients) < 6 {
			s, theirs := ps.serve(t, func(s *socket, w *writer) handler {
				return &parrot{g: g, s: s, w: w, over: make(chan error, 1)}
			})
			defer s.Close()
			if s.p.Load() != hog.p.Load() {
				continue // it says nothing
			}
			clients = append(clients, s)
			all.Go(func() {
				said, got := []byte("0123456789"), make([]byte, 10)
				theirs.SetReadDeadline(time.Now().Add(time.Minute)) //nolint:errcheck // it is a test
				for i := 0; ; i++ {
					said[0] = byte(i)
					theirs.Write(said) //nolint:errcheck // what comes back tells
					if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(said, got) {
						t.Errorf("%q came back as %q: %v", said, got, err)
						return
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		pgtest.Eventually(t, "clients have left the busy thread", func() bool {
			for _, s := range clients {
				if s.p.Load() == hog.p.Load() {
					return false
				}
			}
			return true
		})
		close(stop)
		all.Wait()
	})
}

// TestEquallyBusyKeepTheirs: where all threads have much to do nothing moves.
func TestEquallyBusyKeepTheirs(t *testing.T) {
	onBoth(t, func(t *testing.T, ring bool) {
		moved := 0
		for range 5 { // on a machine with other work some may have nothing to do for a while, and are not equally busy then
			if moved = movedOfEquallyBusy(t, ring); moved == 0 {
				return
			}
		}
		t.Errorf("%d sockets have moved", moved)
	})
}

// movedOfEquallyBusy is how many of six sockets, of which two threads have three each, move while all have the same to do.
func movedOfEquallyBusy(t *testing.T, ring bool) (moved int) {
	t.Helper()
	ps := threads(t, ring, 2, pollBuffer)
	defer ps.close()
	home := map[*socket]*poller{}
	var windows [2]atomic.Uint32
	for i := range 6 {
		s, theirs := ps.serve(t, func(s *socket, _ *writer) handler {
			work := works(time.Millisecond)
			return heard(func(b []byte) {
				work.received(b)
				windows[i%2].Store(s.p.Load().balance.window)
			})
		})
		defer s.Close()
		home[s] = s.p.Load()
		flood(t, theirs)
	}
	pgtest.Eventually(t, "they have worked for some time", func() bool { return windows[0].Load() > 8 && windows[1].Load() > 8 })
	for s, p := range home {
		if s.p.Load() != p {
			moved++
		}
	}
	return moved
}

// TestAloneKeepsNoAccount: a single thread measures nothing.
func TestAloneKeepsNoAccount(t *testing.T) {
	onBoth(t, func(t *testing.T, ring bool) {
		ps := threads(t, ring, 1, pollBuffer)
		var n atomic.Int64
		s, theirs := ps.serve(t, func(*socket, *writer) handler { return heard(func(b []byte) { n.Add(int64(len(b))) }) })
		theirs.Write(make([]byte, 1000)) //nolint:errcheck // it fits
		pgtest.Eventually(t, "it was read", func() bool { return n.Load() == 1000 })
		s.Close()
		ps.close()
		if b := &ps.list[0].balance; b.window != 0 || b.turns != 0 || b.clock.Load() != 0 || b.stat.Load() != 0 || b.active != nil {
			t.Errorf("it keeps an account: %+v", b)
		}
	})
}

func TestSurplus(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		own, other int64
		want       float64
	}{
		{100, 0, 0.5},
		{100, 20, 0.4},
		{100, 50, 0.25},
		{100, 51, 0}, // near enough
		{75, 0, 0.5},
		{74, 0, 0}, // it has time
		{100, 100, 0},
		{120, 200, 0},
	} {
		if got := surplus(x.own, x.other, 100); got != x.want {
			t.Errorf("%d and %d: %v", x.own, x.other, got)
		}
	}
}

// TestChoose: so many leave that the threads will have about the same to do, and who is most of it stays.
func TestChoose(t *testing.T) {
	t.Parallel()
	many := func(n int, weight uint32) []uint32 {
		list := make([]uint32, n)
		for i := range list {
			list[i] = weight
		}
		return list
	}
	for name, x := range map[string]struct {
		weights []uint32
		part    float64
		count   int
		weight  uint32
	}{
		"alone":                  {many(1, 100), 0.5, 0, 0},
		"nobody":                 {nil, 0.5, 0, 0},
		"two":                    {many(2, 50), 0.5, 1, 50},
		"two, the other works":   {many(2, 50), 0.45, 1, 50}, // more than was asked for
		"two, no gain":           {many(2, 50), 0.25, 0, 0},
		"one does most":          {append([]uint32{90}, many(10, 1)...), 0.5, 10, 10},
		"one does most, at last": {append(many(10, 1), 90), 0.5, 10, 10},
		"a quarter":              {many(40, 10), 0.25, 10, 100},
		"not all at once":        {many(1000, 1), 0.5, movedAtOnce, movedAtOnce},
	} {
		p := &poller{}
		b := &p.balance
		b.window = 5
		settled := &socket{slot: 0, window: b.window + staysFor}
		p.slots = append(p.slots, settled)
		for i, weight := range x.weights {
			s := &socket{slot: int32(i) + 1}
			p.slots = append(p.slots, s)
			for range weight {
				b.came(s, 100)
			}
		}
		total := b.weight
		b.came(settled, 100) // it came lately
		b.weight = total
		p.slots = append(p.slots, nil)
		b.active = append(b.active, int32(len(p.slots)-1)) // it is gone
		b.active = append(b.active, b.active...)           // slots that others had before
		sum := uint32(0)
		chosen := p.choose(x.part)
		for _, s := range chosen {
			sum += s.weight
		}
		slices.SortFunc(chosen, func(s, o *socket) int { return int(s.slot - o.slot) })
		if len(slices.Compact(chosen)) != x.count || sum != x.weight {
			t.Errorf("%s: %d move, which do %d", name, len(chosen), sum)
		}
	}
}

// TestOneGiverAtATime: who gets something is left alone until that tells.
func TestOneGiverAtATime(t *testing.T) {
	t.Parallel()
	var b balance
	for _, x := range []struct {
		at   int64
		want bool
	}{{1, true}, {2, false}, {2 * windowNanos, false}, {4 * windowNanos, true}, {5 * windowNanos, false}} {
		if b.takes(x.at) != x.want {
			t.Errorf("at %d", x.at)
		}
	}
}

// idle is a thread that is never started.
func idle(t *testing.T) *poller {
	t.Helper()
	p, err := newPoller(100)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.closeFiles)
	return p
}

// TestPassedOn: what is asked of a thread for a socket that has moved comes to the one that has it, even behind the end of the first.
func TestPassedOn(t *testing.T) {
	t.Parallel()
	p, q := idle(t), idle(t)
	s := &socket{slot: 3, removed: true} // the first thread is not to look
	s.p.Store(q)
	s.state.Store(stateUser | stateClosed)
	p.post(s)
	p.doPosted()
	if len(q.mu.posted) != 1 {
		t.Errorf("%d came by way of the other", len(q.mu.posted))
	}
	p.mu.ended = true
	p.post(s)
	if len(q.mu.posted) != 2 {
		t.Errorf("%d came when the other had ended", len(q.mu.posted))
	}
}

// TestPassedWithWords: what one ring was to send next is not left to it once the socket is another's, who may close it.
func TestPassedWithWords(t *testing.T) {
	t.Parallel()
	p, q := idle(t), idle(t)
	p.ring, q.ring = &ringPoller{uring: &uring{fd: -1}}, &ringPoller{uring: &uring{fd: -1}}
	ours, theirs := pair(t)
	s := (&pollers{list: []*poller{p}}).take(ours)
	ours.Close()
	defer s.abandon()
	w := &writer{}
	w.init(s)
	w.watch(s)
	s.serve(heard(func([]byte) {}), w)
	say := func(word string) {
		w.append([]byte(word))
		w.stage()
		w.flush(nil, nil)
	}
	p.mu.awake, q.mu.awake = true, true
	say("one ")
	if !w.dirty || len(p.mu.dirty) != 1 {
		t.Fatal("it was not left to the ring")
	}
	w.passed(s, p, q)
	if w.dirty || len(p.mu.dirty) != 0 {
		t.Error("it is left to the ring that had the socket")
	}
	say("two")
	if len(p.mu.dirty) != 0 || len(q.mu.dirty) != 1 {
		t.Error("the wrong ring is to send")
	}
	w.passed(s, q, p)
	got := make([]byte, 7)
	if _, err := io.ReadFull(theirs, got); err != nil || string(got) != "one two" {
		t.Errorf("got %q: %v", got, err)
	}
}

func TestSocketsAreSmall(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(socket{}); n > 96 {
		t.Errorf("%d bytes for each connection", n)
	}
}
