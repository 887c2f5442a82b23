package session

import (
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding"
)

// bindParams gives the router a Bind's parameters.
type bindParams struct {
	prep *state.Prepared
	at   int // the item of the batch that bind is of
	bind pgwire.Bind
}

func (p *bindParams) decode(body []byte, at int) (err error) {
	p.at = at
	p.bind, err = pgwire.DecodeBind(body)
	return err
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
	return v, p.bind.Format(i) == pgwire.FormatBinary, paramType(p.prep, i), true
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
