package parity

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/testbed"
)

// patience bounds every wait.
const patience = 20 * time.Second

// Versions of the protocol.
const (
	version30     = 3 << 16
	version32     = 3<<16 | 2
	cancelRequest = 80877102
)

// splitting says how what a script sends is cut into writes.
type splitting string

const (
	given splitting = "as given"
	bytes splitting = "byte by byte" // long ones in 300 pieces
	whole splitting = "in one write" // as far as no other step comes between
)

// world is a server that scripts are played to.
type world struct {
	name, addr, database string
	number               int // among the configurations; -1 = PostgreSQL itself

	mu    sync.Mutex
	broom *peer // removes the rows of earlier runs
}

// peer is one connection to it.
type peer struct {
	conn net.Conn
	r    *bufio.Reader
	key  []byte // of BackendKeyData, with the process number in front
	sent []byte // not yet written
}

func (w *world) dial(t *testing.T) *peer {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(t.Context(), "tcp", w.addr)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{conn: c, r: bufio.NewReaderSize(c, 1<<16)}
}

// login sends the startup packet and returns what is answered, up to ReadyForQuery or the end.
func (w *world) login(p *peer, args []string) (answer []string, ok bool) {
	version := uint32(version30)
	params, own := []string{}, map[string]bool{}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		if k == "version" {
			major, minor, _ := strings.Cut(v, ".")
			n, _ := strconv.Atoi(major)
			m, _ := strconv.Atoi(minor)
			version = uint32(n<<16 | m)
			continue
		}
		own[k] = true
		params = append(params, k, strings.ReplaceAll(v, "+", " "))
	}
	for _, d := range [][2]string{{"database", w.database}, {"user", testbed.User}} {
		if !own[d[0]] {
			params = append([]string{d[0], d[1]}, params...)
		}
	}
	p.write(startup(version, params), given)
	for {
		kind, body, err := p.next()
		if err != nil {
			return append(answer, ending(err)), false
		}
		if kind == 'K' {
			p.key = slices.Clone(body)
		}
		answer = append(answer, render(kind, body))
		if kind == 'Z' {
			return answer, true
		}
	}
}

// next reads a message.
func (p *peer) next() (kind byte, body []byte, err error) {
	p.conn.SetReadDeadline(time.Now().Add(patience)) //nolint:errcheck // the read tells
	var head [5]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n < 4 || n > 1<<30 {
		return 0, nil, fmt.Errorf("message %q of length %d", head[0], n)
	}
	body = make([]byte, n-4)
	_, err = io.ReadFull(p.r, body)
	return head[0], body, err
}

// write sends bytes. That the other side has closed is told by what is read.
func (p *peer) write(data []byte, how splitting) {
	p.conn.SetWriteDeadline(time.Now().Add(patience)) //nolint:errcheck // the read tells
	piece := len(data)
	if how == bytes {
		piece = max(1, len(data)/300)
	}
	for len(data) > 0 {
		n := min(piece, len(data))
		if _, err := p.conn.Write(data[:n]); err != nil {
			return
		}
		data = data[n:]
	}
}

func ending(err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "nothing more comes"
	}
	if opErr := (*net.OpError)(nil); errors.Is(err, io.EOF) || errors.As(err, &opErr) {
		return "closed"
	}
	return err.Error()
}

// sweep removes the rows of the script's tenant.
func (w *world) sweep(t *testing.T, s *script) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	sql := fmt.Sprintf("DELETE FROM items WHERE k = %d", s.key())
	w.broom.write(append(binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(5+len(sql))), sql+"\x00"...), given)
	for {
		kind, body, err := w.broom.next()
		if err != nil || kind == 'E' {
			t.Fatalf("sweeping: %v %s", err, body)
		}
		if kind == 'Z' {
			return
		}
	}
}

// play runs a script and returns what was answered.
func (w *world) play(t *testing.T, s *script, how splitting) []string {
	t.Helper()
	if strings.Contains(strings.Join(s.text, "\n"), "items") {
		w.sweep(t, s)
	}
	var out []string
	peers := map[string]*peer{}
	at := "main"
	tell := func(lines ...string) {
		for _, l := range lines {
			if at != "main" {
				l = at + ": " + l
			}
			out = append(out, l)
		}
	}
	open := func(name string, params ...string) *peer {
		p := w.dial(t)
		peers[name] = p
		if answer, ok := w.login(p, params); !ok {
			t.Fatalf("%s: %s: login: %s", s.place, w.name, strings.Join(answer, "\n"))
		}
		return p
	}
	read := func(p *peer, what string, times int, quiet bool) {
		p.write(p.sent, how)
		p.sent = nil
		for times > 0 {
			kind, body, err := p.next()
			if err != nil {
				tell(ending(err))
				return
			}
			if nameOf(kind) == what {
				times--
			} else if quiet {
				continue
			}
			tell(render(kind, body))
		}
	}
	steps := s.steps
	if how == whole {
		steps = together(steps)
	}
	var p *peer
	if len(steps) > 0 && !slices.Contains([]string{"login", "dial", "conn"}, steps[0].verb) {
		p = open(at)
	}
	for _, st := range steps {
		switch st.verb {
		case "":
			p.sent = append(p.sent, st.send...)
		case "ready":
			read(p, "ReadyForQuery", count(st.args, 0), false)
		case "until":
			read(p, st.args[0], count(st.args, 1), false)
		case "past":
			read(p, st.args[0], 1, true)
		case "send":
			p.write(p.sent, how)
			p.sent = nil
		case "closed":
			read(p, "the end", 1, false)
		case "conn":
			at = st.args[0]
			if p = peers[at]; p == nil {
				p = open(at, st.args[1:]...)
			}
		case "login":
			p = w.dial(t)
			peers[at] = p
			answer, _ := w.login(p, st.args)
			tell(answer...)
		case "dial":
			p = w.dial(t)
			peers[at] = p
		case "bytes":
			p.write(p.sent, how)
			p.sent = nil
			b := make([]byte, count(st.args, 0))
			p.conn.SetReadDeadline(time.Now().Add(patience)) //nolint:errcheck // the read tells
			n, err := io.ReadFull(p.r, b)
			tell("bytes " + short(b[:n]))
			if err != nil {
				tell(ending(err))
			}
		case "cancel":
			c := w.dial(t)
			key := peers[st.args[0]].key
			b := binary.BigEndian.AppendUint32(nil, uint32(8+len(key)))
			c.write(append(binary.BigEndian.AppendUint32(b, cancelRequest), key...), how)
			if _, _, err := c.next(); ending(err) != "closed" {
				t.Errorf("%s: %s: a cancel request ends with %v", s.place, w.name, err)
			}
			c.conn.Close()
		case "half":
			p.write(p.sent, how)
			p.sent = nil
			if err := p.conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Error(err)
			}
		case "hangup":
			p.write(p.sent, how)
			p.conn.Close()
		}
	}
	for _, p := range peers {
		p.conn.Close()
	}
	return fold(out)
}

func count(args []string, at int) int {
	if len(args) <= at {
		return 1
	}
	n, err := strconv.Atoi(args[at])
	if err != nil {
		return 1
	}
	return n
}

// together puts what is sent between two steps that are neither sending nor reading in front of what is read there.
func together(steps []step) []step {
	var out, reads []step
	for _, st := range steps {
		switch st.verb {
		case "":
			out = append(out, st)
		case "ready", "until", "past", "send":
			reads = append(reads, st)
		default:
			out = append(append(out, reads...), st)
			reads = nil
		}
	}
	return append(out, reads...)
}
