package notify

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
)

// TestSilence: nobody waits for longer than Alive for a server that says nothing, nor than twice that for one that speaks of other things.
func TestSilence(t *testing.T) {
	t.Parallel()
	for what, limit := range map[string]time.Duration{"": 10 * time.Second, "N\x00\x00\x00\x05\x00": 20 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			ours, server := net.Pipe()
			group := NewGroup(new(atomic.Uint64))
			set := group.NewSet([]Options{{
				Dial: func(context.Context) (*backend.Login, error) { return &backend.Login{Conn: ours}, nil },
				Log:  slog.New(slog.DiscardHandler),
			}}, nil)
			var said sync.WaitGroup
			said.Go(func() { io.Copy(io.Discard, server) }) //nolint:errcheck // until it is closed
			if what != "" {
				said.Go(func() {
					for {
						time.Sleep(time.Second) // a server that has other things to say
						if _, err := io.WriteString(server, what); err != nil {
							return
						}
					}
				})
			}
			began := time.Now()
			l := set.Listen(silent{}, 7, nil)
			if e := l.Prepare([]string{"a"})(nil); e == nil {
				t.Error("it is answered")
			}
			if took := time.Since(began); took > limit || took < limit/2 {
				t.Errorf("%q was waited for %v, want at most %v", what, took, limit)
			}
			l.Close()
			server.Close()
			said.Wait()
			group.Close()
		})
	}
}
