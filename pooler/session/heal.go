package session

import (
	"bytes"
	"slices"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// heal is a unit outside of a transaction that failed before anything of it had run, because tables have changed under a statement that was
// prepared on its server, perhaps by somebody else. When the server has rolled back, its statements are prepared anew on the same server. If what
// they return is what the client was told, or the client asks for that in the unit, the rest of the unit is sent again and nobody hears of it.
type heal struct {
	turn healTurn
	// steps are that which failed and those behind it, up to Sync; sent are their messages.
	steps []backend.Step
	sent  []byte
	// err is the server's answer to the first, for the client if nothing comes of it.
	err []byte
	// unnamed is the shape of the unnamed statement that was prepared anew.
	unnamed state.Shape
	// failed: a statement could not be prepared anew; err says why.
	failed bool
	// again is how often the unit was sent again before.
	again int
}

// maxHeals bounds how often a unit is sent again: tables may change once more meanwhile.
const maxHeals = 3

// healTurn is what a heal waits for.
type healTurn uint8

const (
	healFailed healTurn = iota + 1 // ReadyForQuery at the end of the failed unit
	healRenews                     // ReadyForQuery behind the statements that are prepared anew
	healOver                       // nothing
)

// heals begins to heal the unit, if it can be: step, its first about a statement that has to be what it was, has failed with msg.
func (s *Session) heals(step *backend.Step, msg []byte) bool {
	c, u := s.conn, &s.unit
	again := 0
	if u.heal != nil {
		again = u.heal.again + 1
	}
	if !s.acct.Statements || again == maxHeals || u.shown || u.internal != nil || s.wait != waitAnswer || s.open || s.copy.mode != copyNone ||
		s.begun || s.tx != pgwire.TxIdle && !u.outside || c.Tx() != pgwire.TxIdle || step.Internal || u.sent == 0 ||
		c.Tainted()&(backend.TaintContext|backend.TaintCancelled) != 0 {
		return false
	}
	owed := c.Owed()
	sent := messagesOf(owed, s.out[:u.sent])
	if sent == nil {
		return false
	}
	s.out, u.sent = nil, 0 // they are the heal's now
	u.heal = &heal{turn: healFailed, steps: slices.Clone(owed), sent: sent, err: slices.Concat(c.Held(), msg), again: again}
	return true
}

// messagesOf returns the messages of steps, which end with the only Sync among them; nil where they are not the last ones of sent.
func messagesOf(steps []backend.Step, sent []byte) []byte {
	n := 0
	for i := range steps {
		switch st := &steps[i]; {
		case (st.Kind == backend.StepSync) != (i == len(steps)-1), st.Kind == backend.StepQuery:
			return nil
		case st.Kind != backend.StepLocal:
			n++
		}
	}
	for b := sent; len(b) > 0; n-- {
		_, total, ok := pgwire.Header(b)
		if !ok {
			return nil
		}
		b = b[total:]
	}
	if n > 0 {
		return nil
	}
	for ; n < 0; n++ {
		_, total, _ := pgwire.Header(sent)
		sent = sent[total:]
	}
	rest := sent
	for i := range steps {
		typ := typeOf(steps[i].Kind)
		if typ == 0 {
			continue
		}
		is, total, ok := pgwire.Header(rest)
		if !ok || is != typ {
			return nil
		}
		rest = rest[total:]
	}
	return sent
}

// typeOf is the type of the message of a step; 0 = it has none.
func typeOf(k backend.StepKind) byte {
	switch k {
	case backend.StepParse:
		return pgwire.MsgParse
	case backend.StepBind:
		return pgwire.MsgBind
	case backend.StepClose:
		return pgwire.MsgClose
	case backend.StepDescribeStatement, backend.StepDescribePortal:
		return pgwire.MsgDescribe
	case backend.StepExecute:
		return pgwire.MsgExecute
	case backend.StepSync:
		return pgwire.MsgSync
	case backend.StepQuery, backend.StepLocal:
	}
	return 0
}

// each calls f with every step and the body of its message, nil where it has none, until f returns false.
func (h *heal) each(f func(st *backend.Step, body []byte) bool) bool {
	rest := h.sent
	for i := range h.steps {
		st := &h.steps[i]
		var body []byte
		if typeOf(st.Kind) != 0 {
			_, total, _ := pgwire.Header(rest)
			body, rest = rest[pgwire.HeaderBytes:total], rest[total:]
		}
		if !f(st, body) {
			return false
		}
	}
	return true
}

// statementIn is the name of the statement that a Bind or Describe is about; ok is false for other steps.
func statementIn(st *backend.Step, body []byte) (name []byte, ok bool) {
	switch st.Kind {
	case backend.StepBind:
		_, body, _ = bytes.Cut(body, []byte{0})
	case backend.StepDescribeStatement:
		body = body[1:]
	default:
		return nil, false
	}
	name, _, _ = bytes.Cut(body, []byte{0})
	return name, true
}

// renew prepares the unit's statements anew, now that the server has ended it. It returns false if that can't be.
func (s *Session) renew() bool {
	c, h := s.conn, s.unit.heal
	var list []*state.Prepared
	names := c.Statements.ByName()
	unnamed, parsed := false, false
	ok := h.each(func(st *backend.Step, body []byte) bool {
		parsed = parsed || st.Kind == backend.StepParse && st.Unnamed
		name, about := statementIn(st, body)
		if !about {
			return true
		}
		if len(name) == 0 {
			unnamed = unnamed || !parsed
			return true
		}
		if p := names[string(name)]; p != nil {
			delete(names, p.Name)
			list = append(list, p)
			return c.Statements.Find(p, c.ParseKey()) == p // else it was prepared under settings of the moment
		}
		return true // the unit prepares it
	})
	if !ok || unnamed && (parsed || s.unnamed == nil) || len(list) == 0 && !unnamed {
		return false
	}
	out := s.scratch()
	for _, p := range list {
		out = exec.Look(out, c, p, false, exec.RefRenew, nil)
	}
	if unnamed {
		out = exec.Look(out, c, s.unnamed, true, exec.RefRenew, &h.unnamed)
	}
	h.turn = healRenews
	s.send(exec.Sync(out, c, true, exec.RefRenew))
	return true
}

// repeat sends the unit's messages again. It returns false if the client could take the answer for another than it is.
func (s *Session) repeat() bool {
	c, h := s.conn, s.unit.heal
	described, names := h.described(), c.Statements.ByName()
	shapes := make(map[string]*state.Shape)    // of statements by name
	parsed := make(map[string]*state.Prepared) // by the unit
	asked := make(map[*state.Shape]bool)       // by what the client was told: two of its names may be one statement on the server
	i := -1
	ok := h.each(func(st *backend.Step, body []byte) bool {
		i++
		name, about := statementIn(st, body)
		if !about {
			if st.Kind == backend.StepParse && !st.Unnamed {
				parsed[st.Prepared.Name] = st.Prepared
			}
			return true
		}
		p, shape := s.unnamed, &h.unnamed
		if len(name) > 0 {
			if p, shape = names[string(name)], nil; p != nil {
				_, shape, _ = c.Statements.Instance(p, c.ParseKey())
				shapes[p.Name] = shape
			}
		} else if shape.Rows == 0 {
			p, shape = nil, nil // the unit prepares it
		}
		if st.Kind == backend.StepDescribeStatement {
			asked[st.Told] = true
			return true
		}
		if p == nil {
			p = parsed[string(name)]
		}
		need := wants{}
		if p != nil && st.Told != nil {
			need = needs(p, st.Told, body, described[i] || asked[st.Told])
		}
		if shape == nil {
			return need == wants{} // the unit prepares it, and nobody has looked at it
		}
		b, err := pgwire.DecodeBind(body)
		if n := b.NumResultFormats(); err != nil || n > 1 && n != int(shape.Columns) {
			return false
		}
		return need.agree(shape, st.Told)
	})
	if !ok {
		return false
	}
	h.turn = healOver
	portals := make(map[string]*state.Shape)
	h.each(func(st *backend.Step, body []byte) bool {
		name, about := statementIn(st, body)
		switch {
		case about && len(name) == 0:
			if st.Shape = nil; st.Kind == backend.StepDescribeStatement {
				st.Shape = st.Told
			}
		case about:
			st.Shape = shapes[string(name)]
		case st.Kind == backend.StepDescribePortal:
			st.Shape = portals[string(body[1:len(body)-1])]
		case st.Prepared == nil || st.Unnamed:
		case st.Kind == backend.StepParse, st.Kind == backend.StepExecute:
			shapes[st.Prepared.Name] = c.Statements.Add(st.Prepared)
		case st.Kind == backend.StepClose:
			c.Statements.Remove(st.Prepared)
		}
		if st.Kind == backend.StepBind {
			portal, _, _ := bytes.Cut(body, []byte{0})
			portals[string(portal)] = st.Shape
		}
		c.Ask(*st)
		return true
	})
	if h.again == 0 {
		s.count.Healed++
	}
	s.send(h.sent)
	s.unit.sent = len(h.sent)
	h.steps, h.sent = nil, nil
	return true
}

// described tells of each step that is a Bind whether the client asks about its portal before the portal's first Execute.
func (h *heal) described() []bool {
	is := make([]bool, len(h.steps))
	bound := make(map[string]int)
	i := -1
	h.each(func(st *backend.Step, body []byte) bool {
		i++
		switch st.Kind {
		case backend.StepBind:
			portal, _, _ := bytes.Cut(body, []byte{0})
			bound[string(portal)] = i
		case backend.StepDescribePortal:
			if at, ok := bound[string(body[1:len(body)-1])]; ok {
				is[at] = true
			}
		case backend.StepExecute:
			portal, _, _ := bytes.Cut(body, []byte{0})
			delete(bound, string(portal))
		default: // about no portal
		}
		return true
	})
	return is
}

// healing goes on with a heal at ReadyForQuery to step. It reports whether that was the heal's.
func (s *Session) healing(step *backend.Step, tx pgwire.TxStatus) bool {
	h := s.unit.heal
	if h == nil || h.turn == healOver || step.Internal != (h.turn == healRenews) {
		return false
	}
	if s.conn.Tainted()&backend.TaintCancelled != 0 && !h.failed { // perhaps while the server had nothing to do
		e := errCancelled
		if s.clock.cancelled {
			e = errTimeout
		}
		s.sh.Observer.Error(s.at(), e.Code, false)
		h.failed, h.err = true, pgwire.AppendErrorResponse(nil, e)
	}
	next := s.renew
	if h.turn == healRenews {
		next = s.repeat
	}
	if h.failed || tx != pgwire.TxIdle || !next() {
		s.giveUp(tx)
	}
	return true
}

// giveUp gives the client the server's error, as if there had been no more to it.
func (s *Session) giveUp(tx pgwire.TxStatus) {
	h := s.unit.heal
	h.turn = healOver
	if !h.failed {
		s.sh.Observer.Error(s.at(), pgwire.CodeFeatureNotSupported, true)
	}
	s.unit.failed, s.unit.answered = true, true
	s.errors++
	s.forgetPortals()
	s.fixed = s.fixed || s.tx != pgwire.TxIdle
	s.takeBack(h.steps[1:])
	s.toClient(h.err)
	s.ended(tx)
}
