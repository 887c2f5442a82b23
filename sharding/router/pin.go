package router

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
)

// pin is a set compiled for one type of key: constants are read, parameters wait.
type pin struct {
	op     setOp
	keys   []sharding.Key // setValues: the constants
	params []param
	lits   []value // literals of the text at hand: see parser.Message.Shaped
	null   bool    // setValues: a NULL that = compares with, which no row equals
	isNull bool    // setValues: rows whose key is NULL are meant
	args   []*pin
}

// param is a parameter in a set.
type param struct {
	n               int // from 0
	use             sharding.Use
	casts           []string
	array, distinct bool
	noBlanks        bool
	mixed, recast   bool // see parser.Statement
	rounds          bool // see parser.Statement
}

// presence is the type of key of the tenant column on one shard: that there is a value matters, not which.
const presence sharding.KeyType = 0

// pinID names a set compiled for a type of key.
type pinID struct {
	set *set
	typ sharding.KeyType
}

// pin compiles a set for keys of type t, nil where the set says nothing: a member can't be read.
func (c *compiler) pin(s *set, t sharding.KeyType) *pin {
	if s == nil || c.tooComplex() {
		return nil
	}
	id := pinID{s, t}
	if p, ok := c.pins[id]; ok {
		return p
	}
	if c.pins == nil {
		c.pins = make(map[pinID]*pin)
	}
	p := c.compilePin(s, t)
	c.pins[id] = p
	return p
}

func (c *compiler) compilePin(s *set, t sharding.KeyType) *pin {
	c.work += 10 + 10*len(s.vals) + 10*len(s.args)
	switch s.op {
	case setValues:
		return compileValues(s.vals, t)
	case setExact:
		p := c.pin(s.args[0], t)
		if p == nil || t != sharding.Bigint {
			return p
		}
		return &pin{op: setExact, args: []*pin{p}}
	case setAnd:
		var args []*pin
		for _, a := range s.args {
			if p := c.pin(a, t); p != nil {
				args = append(args, p)
			}
		}
		return combine(setAnd, args)
	case setOr:
		var args []*pin
		for _, a := range s.args {
			p := c.pin(a, t)
			if p == nil {
				return nil
			}
			args = append(args, p)
		}
		return combine(setOr, args)
	}
	return nil
}

// combine joins pins. Choices of plain values become one; of others those are left out that are there already.
func combine(op setOp, args []*pin) *pin {
	if op == setOr && !slices.ContainsFunc(args, func(p *pin) bool { return p.op != setValues }) {
		all := &pin{}
		for _, p := range args {
			all.keys = append(all.keys, p.keys...)
			all.params = append(all.params, p.params...)
			all.lits = append(all.lits, p.lits...)
			all.null = all.null || p.null
			all.isNull = all.isNull || p.isNull
		}
		return all
	}
	const few = 50
	if len(args) <= few {
		var distinct []*pin
		for _, p := range args {
			if !slices.ContainsFunc(distinct, p.same) {
				distinct = append(distinct, p)
			}
		}
		args = distinct
	}
	switch len(args) {
	case 0:
		return nil
	case 1:
		return args[0]
	}
	return &pin{op: op, args: args}
}

func (p *pin) same(o *pin) bool {
	return p == o || p.op == o.op && p.null == o.null && p.isNull == o.isNull && slices.Equal(p.keys, o.keys) &&
		slices.EqualFunc(p.params, o.params, param.same) && slices.EqualFunc(p.lits, o.lits, value.same) && slices.EqualFunc(p.args, o.args, (*pin).same)
}

func (p param) same(o param) bool {
	return p.n == o.n && p.use == o.use && p.array == o.array && p.distinct == o.distinct && p.noBlanks == o.noBlanks && p.mixed == o.mixed && p.recast == o.recast && p.rounds == o.rounds && slices.Equal(p.casts, o.casts)
}

func compileValues(vals []value, t sharding.KeyType) *pin {
	p := &pin{}
	for i := range vals {
		v := &vals[i]
		switch {
		case v.isNull:
			p.isNull = true
		case v.Kind == parser.ValueParam:
			p.params = append(p.params, param{n: v.Param - 1, use: v.use, casts: v.Casts, array: v.array, distinct: v.storesNull(), noBlanks: v.noBlanks, mixed: v.Mixed, recast: v.Recast, rounds: v.Rounds})
		case v.Literal > 0:
			p.lits = append(p.lits, *v)
		case v.array:
			if !p.addArray(v, t) {
				return nil
			}
		default:
			if !p.addLiteral(v, t) {
				return nil
			}
		}
	}
	return p
}

func (p *pin) addLiteral(v *value, t sharding.KeyType) bool {
	d := literal(&v.Value)
	for _, cast := range v.Casts {
		d = d.cast(cast)
	}
	k, reading := sharding.Key{}, sharding.Exact
	switch {
	case d.dom == domNull:
		reading = sharding.Null
	case t == presence:
	default:
		k, reading = d.key(t, v.use)
	}
	return p.add(k, reading, v.storesNull(), v.noBlanks)
}

func (p *pin) addArray(v *value, t sharding.KeyType) bool {
	if v.Kind == parser.ValueNull {
		return p.add(sharding.Key{}, sharding.Null, false, false)
	}
	if v.Kind != parser.ValueString || len(v.Casts) > 1 {
		return false
	}
	if t == presence {
		return true
	}
	oid := uint32(0)
	if len(v.Casts) == 1 {
		if oid = sharding.TypeOID(v.Casts[0]); oid == 0 {
			return false
		}
	}
	a := sharding.NewArray(t, []byte(v.Text), false, oid)
	for {
		k, reading, ok := a.Next()
		if !ok {
			return true
		}
		if !p.add(k, reading, false, false) {
			return false
		}
	}
}

func (p *pin) add(k sharding.Key, reading sharding.Reading, distinct, noBlanks bool) bool {
	switch reading {
	case sharding.Exact:
		if noBlanks && strings.HasSuffix(k.Text(), " ") {
			return false
		}
		p.keys = append(p.keys, k)
	case sharding.Null:
		if distinct {
			p.isNull = true
		} else {
			p.null = true
		}
	case sharding.Never:
	case sharding.Unreadable:
		return false
	}
	return true
}

// needsParams reports that a parameter has a say.
func (p *pin) needsParams() bool {
	return len(p.params) > 0 || slices.ContainsFunc(p.args, (*pin).needsParams)
}

// one is the key of a pin that is one parameter or one literal. It reports false where it is none, or can't be told that way.
func (p *pin) one(t sharding.KeyType, in *Input) (sharding.Key, bool) {
	if len(p.lits) == 1 {
		return p.lits[0].key(t, in)
	}
	if in.Params == nil {
		return sharding.Key{}, false
	}
	x := &p.params[0]
	value, binary, oid, ok := in.Params.Param(x.n)
	if !ok {
		return sharding.Key{}, false
	}
	k, reading := x.read(t, value, binary, oid)
	return k, reading == sharding.Exact
}

// readable reports that the literals of the text at hand can be read.
func (p *pin) readable(t sharding.KeyType, in *Input) bool {
	var unused keySet
	for i := range p.lits {
		if !p.lits[i].eval(&unused, t, in) {
			return false
		}
	}
	return !slices.ContainsFunc(p.args, func(a *pin) bool { return !a.readable(t, in) })
}

// constant reports that the pin is the same for every text and every Bind.
func (p *pin) constant() bool {
	if len(p.params)+len(p.lits) > 0 {
		return false
	}
	for _, a := range p.args {
		if !a.constant() {
			return false
		}
	}
	return true
}

// keySet is an evaluated pin.
type keySet struct {
	keys   []sharding.Key
	null   bool // a NULL was compared with by =
	isNull bool // rows whose key is NULL are meant
}

// keySets are lent: what they hold can't be on the stack.
var keySets = sync.Pool{New: func() any { return &keySet{keys: make([]sharding.Key, 0, 8)} }}

func borrowKeys() *keySet { return keySets.Get().(*keySet) } //nolint:forcetypeassert // it holds nothing else

// keptKeys is what a set may have room for to be lent on.
const keptKeys = 64

func (s *keySet) giveBack() {
	if cap(s.keys) > keptKeys {
		return
	}
	clear(s.keys) // they may be views of a message
	*s = keySet{keys: s.keys[:0]}
	keySets.Put(s)
}

// unreadable says why a parameter is no key.
type unreadable struct {
	param   int // from 0
	oid     uint32
	binary  bool
	absent  bool
	exact   bool // a number beyond 2^53 behind a column of unknown type
	rounded bool // as exact, of a parameter that may be a float
	literal bool // a literal: the text has to be looked at as it is
}

func (u *unreadable) reason() string {
	switch {
	case u.exact:
		return "a column whose type is not known stands in between, and the number is 2^53 or more"
	case u.rounded:
		return fmt.Sprintf("parameter $%d may be a float, by another place where it stands, and the number is 2^53 or more", u.param+1)
	case u.binary:
		return fmt.Sprintf("parameter $%d of type %d in binary format", u.param+1, u.oid)
	}
	return fmt.Sprintf("parameter $%d of type %d", u.param+1, u.oid)
}

// eval appends the pin's members to what dst has.
func (p *pin) eval(dst *keySet, t sharding.KeyType, in *Input) *unreadable {
	switch p.op {
	case setValues:
		dst.keys = append(dst.keys, p.keys...)
		dst.null = dst.null || p.null
		dst.isNull = dst.isNull || p.isNull
		for i := range p.params {
			if u := p.params[i].eval(dst, t, in.Params); u != nil {
				return u
			}
		}
		for i := range p.lits {
			if !p.lits[i].eval(dst, t, in) {
				return &unreadable{literal: true}
			}
		}
		return nil
	case setOr:
		for _, a := range p.args {
			if u := a.eval(dst, t, in); u != nil {
				return u
			}
		}
		return nil
	case setExact:
		n := len(dst.keys)
		if u := p.args[0].eval(dst, t, in); u != nil {
			return u
		}
		for _, k := range dst.keys[n:] {
			if v := k.Bigint(); v >= wholeFloats || v <= -wholeFloats {
				return &unreadable{exact: true}
			}
		}
		return nil
	case setAnd:
		return p.intersect(dst, t, in)
	}
	return nil
}

// intersect keeps what all arguments have. Where that is nothing, no row can matter, but the statement names tenants all
// the same: they all count then.
func (p *pin) intersect(dst *keySet, t sharding.KeyType, in *Input) *unreadable {
	var all, common keySet
	for i, a := range p.args {
		var s keySet
		if u := a.eval(&s, t, in); u != nil {
			return u
		}
		all.keys = append(all.keys, s.keys...)
		all.null = all.null || s.null
		all.isNull = all.isNull || s.isNull
		if i == 0 {
			common = s
			continue
		}
		common.keys = slices.DeleteFunc(common.keys, func(k sharding.Key) bool { return !slices.Contains(s.keys, k) })
		common.isNull = common.isNull && s.isNull
	}
	if len(common.keys) == 0 && !common.isNull {
		if all.null {
			all.keys, all.isNull = nil, false
		}
		common = all
	}
	dst.keys = append(dst.keys, common.keys...)
	dst.null = dst.null || all.null
	dst.isNull = dst.isNull || common.isNull
	return nil
}

func (p *param) eval(dst *keySet, t sharding.KeyType, params Params) *unreadable {
	if params == nil {
		return &unreadable{param: p.n, absent: true}
	}
	value, binary, oid, ok := params.Param(p.n)
	if !ok {
		return &unreadable{param: p.n, absent: true}
	}
	if p.array && value != nil {
		return p.evalArray(dst, t, value, binary, oid)
	}
	k, reading := p.read(t, value, binary, oid)
	switch reading {
	case sharding.Exact:
		dst.keys = append(dst.keys, k)
	case sharding.Null:
		if p.distinct {
			dst.isNull = true
		} else {
			dst.null = true
		}
	case sharding.Never:
	case sharding.Unreadable:
		return &unreadable{param: p.n, oid: oid, binary: binary, rounded: p.rounded(t, k)}
	}
	return nil
}

// read reads one value as a key.
func (p *param) read(t sharding.KeyType, value []byte, binary bool, oid uint32) (k sharding.Key, reading sharding.Reading) {
	switch {
	case value == nil:
		return k, sharding.Null
	case t == presence:
		return k, sharding.Exact
	case p.mixed && (oid == 0 || oid == oidUnknown) && p.otherwise(t, value, binary):
		return k, sharding.Unreadable
	case len(p.casts) == 0:
		k, reading = sharding.ReadParam(t, value, binary, oid, p.use)
	default:
		k, reading = paramDatum(value, binary, oid, p.casts).key(t, p.use)
	}
	if reading == sharding.Exact && !binary && (oid == 0 || oid == oidUnknown) && p.rounded(t, k) {
		reading = sharding.Unreadable
	}
	if p.noBlanks && reading == sharding.Exact && strings.HasSuffix(k.Text(), " ") {
		reading = sharding.Unreadable
	}
	return k, reading
}

// otherwise reports whether a value may be another key where the parameter's type is not the column's: a float's bits are a number, too, and blanks at the
// end, or what is beyond 63 bytes, count in some types of text only.
func (p *param) otherwise(t sharding.KeyType, value []byte, binary bool) bool {
	const maxName = 63 // of type name
	if t == sharding.Text {
		return p.recast && len(value) > maxName || bytes.HasSuffix(value, []byte(" "))
	}
	return binary && t == sharding.Bigint
}

// wholeFloats is from where on not every integer is a float8.
const wholeFloats = 1 << 53

// rounded reports whether a key that was given as text may be another one where it is compared or stored, by way of a float.
func (p *param) rounded(t sharding.KeyType, k sharding.Key) bool {
	return p.rounds && t == sharding.Bigint && (k.Bigint() >= wholeFloats || k.Bigint() <= -wholeFloats)
}

func (p *param) evalArray(dst *keySet, t sharding.KeyType, value []byte, binary bool, oid uint32) *unreadable {
	if t == presence {
		dst.keys = append(dst.keys, sharding.Key{})
		return nil
	}
	bad := &unreadable{param: p.n, oid: oid, binary: binary}
	if p.mixed && oid == 0 && binary && t == sharding.Bigint {
		return bad
	}
	if len(p.casts) > 0 {
		declared := sharding.TypeOID(p.casts[len(p.casts)-1])
		if len(p.casts) > 1 || declared == 0 || oid != 0 && oid != declared {
			return bad
		}
		oid = declared
	}
	unsaid := oid == 0 || oid == oidUnknown
	a := sharding.NewArray(t, value, binary, oid)
	for {
		k, reading, ok := a.Next()
		if !ok {
			return nil
		}
		switch reading {
		case sharding.Exact:
			if unsaid && p.rounded(t, k) {
				bad.rounded = true
				return bad
			}
			dst.keys = append(dst.keys, k)
		case sharding.Null:
			dst.null = true
		case sharding.Never:
		case sharding.Unreadable:
			return bad
		}
	}
}
