package session

import (
	"bytes"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// bindParams gives the router a Bind's parameters.
type bindParams struct {
	prep *state.Prepared
	told *state.Shape // what the server said of it to the client; nil = nothing
	at   int          // the item of the batch that bind is of
	bind pgwire.Bind
}

func (p *bindParams) decode(body []byte, at int) (err error) {
	p.at = at
	p.bind, err = pgwire.DecodeBind(body)
	return err
}

// readBind makes s.bind the Bind at index i: of several in a batch, decodeBatch leaves the last.
func (s *Session) readBind(i int) *pgwire.Error {
	it := &s.unit.items[i]
	s.bind.prep, s.bind.told = it.prep, nil
	if !it.fresh { // else it is of another statement
		s.bind.told = s.toldOf(it)
	}
	if s.bind.at != i {
		if err := s.bind.decode(it.frame[pgwire.HeaderBytes:], i); err != nil {
			return asError(err)
		}
	}
	return nil
}

// Param implements router.Params.
func (p *bindParams) Param(i int) (value []byte, binary bool, oid uint32, ok bool) {
	if i < 0 || i >= p.bind.NumParams() {
		return nil, false, 0, false
	}
	v, null := p.bind.Param(i)
	if null {
		v = nil
	} else if v == nil {
		v = []byte{}
	}
	oid = paramType(p.prep, i)
	if oid == 0 && p.told != nil {
		oid = p.told.ParamType(i)
	}
	return v, p.bind.Format(i) == pgwire.FormatBinary, oid, true
}

// oidOther stands for a type of which no key is read.
const oidOther = ^uint32(0)

// paramType is the type that was declared for parameter i, by Parse or PREPARE; 0 = none was.
func paramType(p *state.Prepared, i int) uint32 {
	if p.Made == nil {
		return p.ParamType(i)
	}
	if i >= len(p.Made.ParamTypes) || p.Made.ParamTypes[i] == "unknown" {
		return 0
	}
	if oid := sharding.TypeOID(p.Made.ParamTypes[i]); oid != 0 {
		return oid
	}
	return oidOther
}

// nameSettings gives a Bind's item the names of the settings that its parameters name.
func (s *Session) nameSettings(it *item) {
	st := single(it.prep.Message)
	if it.typ != pgwire.MsgBind || st == nil || st.Effects&parser.EffNamed == 0 || len(st.Named) == 0 || len(st.Named) > maxUnseen {
		return
	}
	it.named = it.prep.Message.NamedBy(func(param int) (string, bool) {
		if param > s.bind.bind.NumParams() {
			return "", false
		}
		v, null := s.bind.bind.Param(param - 1)
		oid := paramType(it.prep, param-1)
		return string(v), !null && plainName(v) && (oid == 0 || oid == pgwire.OIDText || oid == oidVarchar)
	})
}

// plainName reports that a name is the same in whatever type of text, and in every encoding: bpchar drops blanks at the end, and name what is beyond 63 bytes.
func plainName(b []byte) bool {
	const maxName = 63
	return len(b) <= maxName && !bytes.ContainsFunc(b, func(r rune) bool {
		return r != '.' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// joinBind routes a Bind and joins its plan to the batch's.
func (s *Session) joinBind(plan *sharding.Plan, i int) *pgwire.Error {
	it := &s.unit.items[i]
	if e := s.readBind(i); e != nil {
		return e
	}
	p, refusal := s.plan(s.rtr.Route(it.message(), s.env()), s.asInput(it.prep, &s.bind))
	if refusal == router.ErrNeedsText {
		rt := s.itself(it.prep)
		if rt == nil {
			return refusal
		}
		p, refusal = s.plan(rt, s.input(&s.bind))
	}
	if refusal != nil {
		return refusal
	}
	switch {
	case p.Kind == sharding.PlanCopy || plan.Kind == sharding.PlanCopy:
		if plan.Kind == sharding.PlanShard || plan.Kind == sharding.PlanCopy {
			return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "COPY FROM can't share a pipeline with other statements that have a sharding key").
				WithHint("Send a Sync in between.").WithRoutine(router.RefusalCrossShard)
		}
		plan.Kind = sharding.PlanCopy
	case p.Kind == sharding.PlanShard && plan.Kind == sharding.PlanShard && p.Shard != plan.Shard:
		return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "statements for different shards in one pipeline").
			WithDetail("Statements between two Syncs are one transaction, which runs on one shard.").
			WithHint("Send a Sync between them.").WithRoutine(router.RefusalCrossShard)
	case p.Kind == sharding.PlanShard:
		w, u := plan.Write, plan.Unjudged
		*plan = p
		plan.Write, plan.Unjudged = p.Write || w, p.Unjudged || u
	default:
		plan.Write, plan.Unjudged = plan.Write || p.Write, plan.Unjudged || p.Unjudged
	}
	return nil
}
