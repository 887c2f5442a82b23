package api

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// How slowly a client may send an order and read the answer: who is slower is gone, and holds nothing here any longer. Between the two there is no bound, for an order
// may take hours.
const (
	bodyGrace = 10 * time.Second
	bodyRate  = 16 << 10 // bytes a second, on the whole
	// refusedGrace is how long what is left of a body is waited for whose order was refused: else its client would see a reset instead of the answer.
	refusedGrace = 500 * time.Millisecond
	answerGrace  = time.Minute
	answerPiece  = 64 << 10 // bytes that may take that long
)

// errSlow is what a client is told whose order did not come in time.
var errSlow = errors.New("it did not come in time")

// paced is a request's body that has to come at a pace.
type paced struct {
	io.ReadCloser
	until func(time.Time) error
	begun time.Time
	grace time.Duration
	read  int64
}

// pace bounds how long a request's body may take. Where there are no deadlines, as in tests without a server, it does not.
func pace(w http.ResponseWriter, r *http.Request, grace time.Duration) error {
	c := http.NewResponseController(w)
	p := &paced{ReadCloser: r.Body, until: c.SetReadDeadline, begun: time.Now(), grace: grace}
	if err := p.extend(); err != nil {
		return err
	}
	r.Body = p
	return nil
}

func (p *paced) extend() error {
	err := p.until(p.begun.Add(p.grace + time.Duration(p.read)*time.Second/bodyRate))
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// Read implements io.Reader. At the end of the body the deadline goes: the server goes on to read, to see whether the client does.
func (p *paced) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	p.read += int64(n)
	var late error
	switch {
	case err == nil:
		late = p.extend()
	case errors.Is(err, io.EOF):
		if late = p.until(time.Time{}); errors.Is(late, http.ErrNotSupported) {
			late = nil
		}
	default:
		if t, is := errors.AsType[interface {
			error
			Timeout() bool
		}](err); is && t.Timeout() {
			err = errSlow
		}
	}
	if late != nil {
		return n, late
	}
	return n, err
}

// turnAway has a connection end with the answer to come, and no longer wait for what its client has not sent of the body.
func turnAway(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedGrace)) // where that can't be, nobody waits
}

// answer writes to a client that has to read.
type answer struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	grace time.Duration
}

func answerTo(w http.ResponseWriter, grace time.Duration) *answer {
	return &answer{w: w, c: http.NewResponseController(w), grace: grace}
}

// Write implements io.Writer.
func (a *answer) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		if err := a.hurry(); err != nil {
			return n, err
		}
		m, err := a.w.Write(b[:min(len(b), answerPiece)])
		if n += m; err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

// Flush sends what was written.
func (a *answer) Flush() error {
	if err := a.hurry(); err != nil {
		return err
	}
	return a.c.Flush()
}

func (a *answer) hurry() error {
	if err := a.c.SetWriteDeadline(time.Now().Add(a.grace)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
