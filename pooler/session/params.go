package session

import (
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
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
	return v, p.bind.Format(i) == pgwire.FormatBinary, p.prep.ParamType(i), true
}
