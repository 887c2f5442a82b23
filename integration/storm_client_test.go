package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// storm is what all clients share.
type storm struct {
	t       testing.TB
	addr    string
	login   pgtest.Login
	direct  bool // to PostgreSQL itself
	clients int
	calm    bool // nobody cancels, nor leaves in the midst of something

	left      atomic.Int64 // transactions
	killed    atomic.Int64 // when a server process was, last, in nanoseconds
	retired   atomic.Int64 // when those who listen were sent away, last
	abandoned atomic.Bool
	said      said
	figures   struct{ units, errors, cancels, cancelled, breaks, losses, notes, moved atomic.Int64 }
}

// stormUnits is how many units are sent at once, at most.
const stormUnits = 6

// killWindow is how long what was killed may be noticed by who was not in the midst of anything.
const killWindow = 3 * time.Second

// stormClient is one client: its name is in all that it asks and in no answer to another.
type stormClient struct {
	*storm
	number int
	name   string
	rnd    *rand.Rand
	m      *stormModel
	conn   *pgtest.Client
	fe     *pgproto3.Frontend
	next   int // of everything that has to be unique
	moment time.Time

	stored, maybe map[int]bool   // rows that are, or may be, committed
	owed, own     []int          // what it has said on its own channel and has to hear, and what it heard
	heard, before map[string]int // last, by whom; and what was answered before what may have begun to listen was sent
	listened      bool           // at any time since it has connected
	logins        int
	cancelling    atomic.Int32 // requests under way
	hit           int          // units that a request may have hit
	wg            sync.WaitGroup
	trace         []string // of the last packets
}

// unexpected is an answer that is none to what was asked.
type unexpected struct{ got, want string }

func (e *unexpected) Error() string { return "got " + e.got + ", want " + e.want }

var errLeft = errors.New("the client has left")

// loose is a test whose clients are closed by themselves.
type loose struct{ testing.TB }

func (loose) Cleanup(func()) {}

func (c *stormClient) connect() error {
	for {
		c.conn = pgtest.Dial(loose{c.t}, c.addr)
		c.conn.Timeout = 2 * patience
		l := c.login
		l.Params = map[string]string{"application_name": c.name}
		err := c.conn.Login(l)
		if err == nil {
			break
		}
		c.conn.Close()
		if !c.afterKill() {
			return fmt.Errorf("login: %w", err)
		}
	}
	c.logins++
	c.listened = false
	c.m, c.owed, c.own, c.hit, c.trace = newStormModel(c), nil, nil, 0, c.trace[:0]
	c.fe = pgproto3.NewFrontend(c.conn.Conn, c.conn.Conn)
	c.moment = time.Now()
	return nil
}

// run is the client's life.
func (c *stormClient) run() {
	defer c.wg.Wait()
	for c.left.Load() > 0 && !c.abandoned.Load() {
		if c.conn == nil {
			if err := c.connect(); err != nil {
				c.fail(err)
				return
			}
		}
		err := c.packet()
		if err == nil {
			continue
		}
		if _, ok := err.(*unexpected); ok { //nolint:errorlint // it is never wrapped
			c.aftermath()
		}
		c.conn.Close()
		c.wg.Wait()
		if err != errLeft { //nolint:errorlint // it is never wrapped
			if e := (*unexpected)(nil); errors.As(err, &e) || errors.Is(err, os.ErrDeadlineExceeded) || !c.afterKill() && !c.sentAway() {
				c.fail(err)
				return
			}
			c.figures.losses.Add(1)
		}
		c.conn = nil
	}
	if c.conn != nil {
		c.conn.Conn.Write(encode(nil, &pgproto3.Terminate{})) //nolint:errcheck // it leaves anyway
		c.conn.Close()
	}
}

// aftermath adds to the trace what comes behind an answer that is wrong.
func (c *stormClient) aftermath() {
	c.trace = append(c.trace, fmt.Sprintf("    of %d requests to cancel %d may hit; then:", c.cancelling.Load(), c.hit))
	c.conn.Conn.SetDeadline(time.Now().Add(time.Second)) //nolint:errcheck // then nothing comes
	for range 20 {
		if _, _, err := c.token(); err != nil {
			return
		}
	}
}

func (c *stormClient) fail(err error) {
	if c.abandoned.Swap(true) && errors.Is(err, os.ErrDeadlineExceeded) {
		return // one of all who wait
	}
	c.t.Errorf("client %d: %v\n%s", c.number, err, strings.Join(c.trace, "\n"))
}

// afterKill reports whether it may be that the client's server was killed, sentAway, whether it may be that it was closed for it listens: what it
// was told then is lost if it wrote once more.
func (c *stormClient) afterKill() bool { return c.since(c.killed.Load()) }
func (c *stormClient) sentAway() bool  { return c.listened && c.since(c.retired.Load()) }

func (c *stormClient) since(at int64) bool {
	return at != 0 && c.moment.Add(-killWindow).UnixNano() < at
}

// packet sends one or more units at once, and reads the answers.
func (c *stormClient) packet() error {
	shadow := c.m.clone()
	var units []*stormUnit
	var out []byte
	for {
		u := c.unit(shadow)
		units = append(units, u)
		patient := c.rnd.IntN(2) == 0
		out = u.encode(out, c, patient)
		if u.later != nil || c.rnd.IntN(3) > 0 || len(units) == stormUnits {
			break
		}
	}
	for _, u := range units {
		for _, o := range u.ops {
			c.trace = append(c.trace, fmt.Sprintf("%c %v %d %s %s %d: %.60s", c.m.status, u.extended, o.kind, o.arg, o.text, o.n, o.sql(c)))
		}
		c.trace = append(c.trace, "--")
	}
	if most := 100; len(c.trace) > most {
		c.trace = slices.Delete(c.trace, 0, len(c.trace)-most)
	}
	fate := fateNone
	if !c.calm {
		if c.rnd.IntN(100) < 3 {
			c.cancel()
		}
		if c.rnd.IntN(200) == 0 {
			fate = stormFate(1 + c.rnd.IntN(int(fateLast)))
		}
	}
	if fate != fateNone {
		c.remember(units)
		c.figures.breaks.Add(1)
		return c.leave(fate, out)
	}
	if !c.m.base.hears {
		c.before = c.said.on(c.name)
	}
	if err := c.send(out); err != nil {
		c.remember(units)
		return err
	}
	for i, u := range units {
		if err := c.answer(u); err != nil {
			c.remember(units[i:])
			return err
		}
		c.figures.units.Add(1)
		if c.cancelling.Load() == 0 && c.hit > 0 { // what was sent by then may be hit
			c.hit = min(c.hit, stormUnits) - 1
		}
		c.moment = time.Now()
	}
	return nil
}

func (c *stormClient) send(out []byte) error {
	if err := c.conn.Conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return err
	}
	_, err := c.conn.Conn.Write(out)
	return err
}

// remember notes the rows of which nobody will say what became of them.
func (c *stormClient) remember(units []*stormUnit) {
	for _, u := range units {
		for _, o := range u.ops {
			switch o.kind {
			case opInsert:
				c.maybe[o.n] = true
			case opCopyIn:
				c.maybe[o.n], c.maybe[o.n+1], c.maybe[o.n+2] = true, true, true
			}
		}
	}
	for _, n := range c.m.world.rows {
		c.maybe[n] = true
	}
}

// committed takes over what a transaction did.
func (c *stormClient) committed(w world) {
	for _, n := range w.rows {
		c.stored[n] = true
	}
	if w.hears {
		c.owed = append(c.owed, w.notes...)
	}
	for _, n := range w.notes {
		c.said.add(c.name, c.speaker(), n)
	}
	for _, note := range w.others {
		c.said.add(note.channel, c.speaker(), note.n)
	}
	c.left.Add(-1)
}

// stormFate is how a client leaves.
type stormFate int

const (
	fateNone      stormFate = iota
	fateReset               // with RST
	fateClose               // with FIN, unread
	fateHalf                // sends no more, and reads to the end
	fateTerminate           // says goodbye behind what it asked
	fateTorn                // in the middle of a message
	fateLast      = fateTorn
)

func (c *stormClient) leave(fate stormFate, out []byte) error {
	socket := c.conn.Conn.(*net.TCPConn) //nolint:forcetypeassert // it is one
	switch fate {
	case fateTerminate:
		out = encode(out, &pgproto3.Terminate{})
	case fateTorn:
		out = out[:1+c.rnd.IntN(len(out))]
	case fateNone, fateReset, fateClose, fateHalf:
	}
	if err := c.send(out); err != nil {
		return err
	}
	switch fate {
	case fateReset:
		socket.SetLinger(0) //nolint:errcheck // it leaves anyway
	case fateHalf, fateTerminate:
		if fate == fateHalf {
			socket.CloseWrite() //nolint:errcheck // it leaves anyway
		}
		if _, err := io.Copy(io.Discard, socket); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			return &unexpected{err.Error(), "the end of the connection"}
		}
	case fateNone, fateClose, fateTorn:
	}
	return errLeft
}

// cancel asks to cancel what runs in a moment.
func (c *stormClient) cancel() {
	c.cancelling.Add(1)
	c.hit = stormUnits + 1
	c.figures.cancels.Add(1)
	after := time.Duration(c.rnd.IntN(4000)) * time.Microsecond
	pid, secret := c.conn.PID, c.conn.Secret
	c.wg.Go(func() {
		defer c.cancelling.Add(-1)
		ctx, stop := context.WithTimeout(context.Background(), after)
		defer stop()
		<-ctx.Done()
		pgtest.SendCancel(loose{c.t}, c.addr, pid, secret)
	})
}

// token reads a message and condenses it.
func (c *stormClient) token() (string, *pgproto3.ErrorResponse, error) {
	token, e, err := c.receive()
	if err == nil {
		c.trace = append(c.trace, "    "+cut(token, 30))
	}
	return token, e, err
}

// receive is token. Messages that come at any time are judged apart.
func (c *stormClient) receive() (string, *pgproto3.ErrorResponse, error) {
	for {
		msg, err := c.fe.Receive()
		if err != nil {
			return "", nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.ParseComplete:
			return "1", nil, nil
		case *pgproto3.BindComplete:
			return "2", nil, nil
		case *pgproto3.CloseComplete:
			return "3", nil, nil
		case *pgproto3.NoData:
			return "n", nil, nil
		case *pgproto3.RowDescription:
			return "T", nil, nil
		case *pgproto3.EmptyQueryResponse:
			return "I", nil, nil
		case *pgproto3.PortalSuspended:
			return "s", nil, nil
		case *pgproto3.CopyInResponse:
			return "G", nil, nil
		case *pgproto3.CopyOutResponse:
			return "H", nil, nil
		case *pgproto3.CopyDone:
			return "c", nil, nil
		case *pgproto3.CopyData:
			return "d" + strings.TrimSuffix(string(m.Data), "\n"), nil, nil
		case *pgproto3.DataRow:
			var b strings.Builder
			b.WriteByte('D')
			for i, v := range m.Values {
				if i > 0 {
					b.WriteByte('|')
				}
				b.Write(v)
			}
			return b.String(), nil, nil
		case *pgproto3.FunctionCallResponse:
			return "V", nil, nil
		case *pgproto3.CommandComplete:
			return "C" + string(m.CommandTag), nil, nil
		case *pgproto3.ReadyForQuery:
			return "Z" + string(m.TxStatus), nil, nil
		case *pgproto3.ErrorResponse:
			return "E" + m.Code, m, nil
		case *pgproto3.NoticeResponse:
		case *pgproto3.ParameterStatus:
			if m.Name == "application_name" && !strings.HasPrefix(m.Value, c.name) {
				return "", nil, &unexpected{"application_name " + m.Value, c.name}
			}
		case *pgproto3.NotificationResponse:
			if err := c.hear(m); err != nil {
				return "", nil, err
			}
		default:
			return "", nil, &unexpected{fmt.Sprintf("%T", msg), "something else"}
		}
	}
}

// hear judges a notification.
func (c *stormClient) hear(m *pgproto3.NotificationResponse) error {
	c.figures.notes.Add(1)
	who, number, _ := strings.Cut(m.Payload, " ")
	n, err := strconv.Atoi(number)
	said := m.Channel + ": " + m.Payload
	switch {
	case err != nil || m.Channel != c.name:
		return &unexpected{said, "something on " + c.name}
	case n <= c.heard[who]:
		return &unexpected{said, fmt.Sprintf("something behind %d", c.heard[who])}
	case n <= c.before[who]:
		return &unexpected{said, fmt.Sprintf("something behind %d, which was said before the LISTEN", c.before[who])}
	case who == c.speaker() && m.PID != c.conn.PID:
		return &unexpected{fmt.Sprint(said, " by ", m.PID), fmt.Sprint("by ", c.conn.PID)}
	case who != c.speaker() && m.PID == c.conn.PID:
		return &unexpected{fmt.Sprint(said, " by ", m.PID), "by another"}
	case who == c.speaker():
		c.own = append(c.own, n)
	}
	c.heard[who] = n
	return nil
}

// said is what was answered last on each channel, by whom.
type said struct {
	mu sync.Mutex
	by map[string]map[string]int
}

func (s *said) add(channel, who string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = make(map[string]map[string]int)
	}
	if s.by[channel] == nil {
		s.by[channel] = make(map[string]int)
	}
	s.by[channel][who] = n
}

func (s *said) on(channel string) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.by[channel])
}

// speaker is who a notification is by: those of different connections have no order.
func (c *stormClient) speaker() string { return fmt.Sprintf("%s/%d", c.name, c.logins) }

// answer reads what a unit is answered.
func (c *stormClient) answer(u *stormUnit) error {
	failed, ending := false, false
	for _, o := range u.ops {
		a := c.m.expect(o)
		switch met, err := c.match(u, o, a); {
		case err != nil:
			return err
		case !met:
			failed, ending = true, o.kind == opCommit
		case a.effect != nil:
			a.effect()
		}
		if failed {
			break
		}
	}
	got, e, err := c.token()
	if err == nil && e != nil && (!failed || e.Severity == "FATAL") { // the end of a transaction can fail, too
		if err = c.judge(e, &stormOp{kind: opCommit}, "ReadyForQuery"); err == nil {
			c.m.fail()
			got, _, err = c.token()
		}
		failed = true
	}
	if err != nil {
		return err
	}
	if got == "ZI" && (ending || c.m.lost && u.ops[0].kind == opBegin) { // it failed in the midst of its end; or it began and was lost in one unit
		c.m.abort()
	}
	if !failed {
		c.m.sync()
	}
	if want := "Z" + string(c.m.status); got != want {
		return &unexpected{got, want}
	}
	if c.m.status == 'I' && !slices.Equal(c.own, c.owed) {
		short := &unexpected{fmt.Sprint("of its own ", c.own), fmt.Sprint(c.owed)}
		for len(c.own) < len(c.owed) { // it is told why, if need be behind what it has asked since
			_, e, err := c.token()
			if err != nil {
				break
			} else if e != nil && e.Code == "57P01" {
				return c.judge(e, u.ops[0], short.want)
			}
		}
		return short
	} else if c.m.status == 'I' {
		c.own, c.owed = nil, nil
	}
	return nil
}

// match reads the answer of an operation. It is met if it is what the model says, and no error; then or else the model knows of the error.
func (c *stormClient) match(u *stormUnit, o *stormOp, a answer) (met bool, err error) {
	asked := u.later == nil || o != u.ops[0]
	for at := 0; a.code != "" || at < len(a.tokens); {
		got, e, err := c.token()
		if err != nil {
			return false, err
		}
		if got == "G" && !asked {
			asked = true
			if err := c.send(u.later); err != nil {
				return false, err
			}
		}
		switch {
		case e != nil && !asked:
			asked = true
			if err := c.send(u.tail); err != nil {
				return false, err
			}
			fallthrough
		case e != nil:
			c.figures.errors.Add(1)
			if !slices.Contains(strings.Fields(a.code), e.Code) && a.code != "*" {
				if err := c.judge(e, o, fmt.Sprint(a.code, a.tokens[min(at, len(a.tokens)):])); err != nil {
					return false, err
				}
			}
			c.m.fail()
			return false, nil
		case a.code != "":
			if !slices.Contains([]string{"1", "2", "n", "T", "G", "CSAVEPOINT", "CSET"}, got) {
				return false, &unexpected{cut(got, 200), a.code}
			}
		case got != a.tokens[at]:
			return false, &unexpected{cut(got, 200), cut(a.tokens[at], 200)}
		default:
			at++
		}
	}
	return true, nil
}

func cut(s string, most int) string { return s[:min(len(s), most)] }

// judge decides about an error that the model does not know of.
func (c *stormClient) judge(e *pgproto3.ErrorResponse, o *stormOp, want string) error {
	switch {
	case e.Code == "57014" && c.hit > 0:
		c.figures.cancelled.Add(1)
	case e.Code == "08006" && e.Routine == "listen_lost" && o.kind == opListen: // RECONNECT and the like, in that moment
		c.figures.moved.Add(1)
	case e.Code == "08006" && c.afterKill():
		c.figures.losses.Add(1)
		if c.m.status == 'I' || o.kind == opCommit {
			c.remember(nil)
		}
		c.m.gone()
	case e.Code == "25P02" && o.kind == opRollbackTo && c.afterKill(): // it went behind the error that failed the transaction
		c.m.gone()
	case e.Code == "57P01" && (c.afterKill() || c.sentAway()) && e.Severity == "FATAL":
		c.figures.moved.Add(1)
		return errLeft
	default:
		return &unexpected{fmt.Sprintf("%s %s %s (%s) %s", e.Severity, e.Code, e.Message, e.Detail, e.Routine), want}
	}
	switch o.kind {
	case opLock, opUnlock, opFetch, opFetchHold, opPortalMore, opPrepare, opDeallocate, opDiscard:
		return errLeft
	}
	return nil
}
