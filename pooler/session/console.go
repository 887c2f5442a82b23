package session

import "github.com/pgkennel/pgkennel/pooler/pgwire"

// consoleJob is the outcome of a message to the admin console, made off the loop.
type consoleJob struct {
	ready bool
	out   []byte
	done  bool
}

// consoleStep hands one message to the console, which answers in its own time. It returns the message's length, 0 if it is not complete, or
// being answered.
func (s *Session) consoleStep(b []byte) int {
	typ, total, ok := pgwire.Header(b)
	if !ok {
		return 0
	}
	if !s.admits(typ, total) {
		return 0
	}
	if len(b) < total {
		return 0
	}
	if s.hs.conversation == nil {
		s.hs.conversation = s.acct.Console.Open(s.acct.User, s.ID)
	}
	conversation := s.hs.conversation
	body := append([]byte(nil), b[pgwire.HeaderBytes:total]...)
	s.stats.LastRequest = s.drv.Now()
	job := &s.hs.console
	done := s.drv.Offload(func() {
		job.out, job.done = conversation.Handle(nil, typ, body)
		job.ready = true
	}, Waits)
	if !done {
		s.wait = waitJob
	} else {
		s.consoleAnswered()
	}
	return total
}

// consoleAnswered sends the console's answer.
func (s *Session) consoleAnswered() {
	out, done := s.hs.console.out, s.hs.console.done
	s.hs.console = consoleJob{}
	s.toClient(out)
	if done {
		s.close(CloseClient)
	}
}
