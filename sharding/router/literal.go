package router

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
)

// ErrNeedsText is returned by Plan for a Message that is Shaped where the text at hand has to be parsed for itself: it is refused, or its
// literals are not as usual.
var ErrNeedsText = pgwire.Errorf(pgwire.CodeInternalError, "the statement has to be parsed for itself")

// eval adds what the value is in the text at hand. It reports false where that can't be told here.
func (v *value) eval(dst *keySet, t sharding.KeyType, in *Input) bool {
	if !v.array {
		k, ok := v.key(t, in)
		if ok {
			dst.keys = append(dst.keys, k)
		}
		return ok
	}
	text, ok := v.at(in)
	if !ok {
		return false
	}
	var p pin
	if !p.addArray(&text, t) {
		return false
	}
	dst.keys = append(dst.keys, p.keys...)
	dst.null, dst.isNull = dst.null || p.null, dst.isNull || p.isNull
	return true
}

// key reads the value of the text at hand as a key. It reports false where it is none, or can't be told here.
func (v *value) key(t sharding.KeyType, in *Input) (sharding.Key, bool) {
	if t == presence {
		return sharding.Key{}, true
	}
	n := v.Literal - 1
	if n >= len(in.Literals) {
		return sharding.Key{}, false
	}
	l := &in.Literals[n]
	if l.Kind == parser.TokenInteger && v.Kind == parser.ValueInteger && len(v.Casts) == 0 {
		if i, ok := decimal(in.Text[l.Start:l.End]); ok {
			if v.Negative {
				i = -i
			}
			k, reading := datum{dom: domInteger, integer: i}.key(t, v.use)
			return k, reading == sharding.Exact && !(v.noBlanks && strings.HasSuffix(k.Text(), " "))
		}
	}
	text, ok := v.at(in)
	if !ok {
		return sharding.Key{}, false
	}
	d := literal(&text.Value)
	for _, cast := range v.Casts {
		d = d.cast(cast)
	}
	k, reading := d.key(t, v.use)
	return k, reading == sharding.Exact && !(v.noBlanks && strings.HasSuffix(k.Text(), " "))
}

// at returns the value with the text at hand.
func (v *value) at(in *Input) (value, bool) {
	n := v.Literal - 1
	if n >= len(in.Literals) {
		return value{}, false
	}
	kind, text, ok := in.Literals[n].Value(in.Text)
	if !ok || kind != v.Kind {
		return value{}, false
	}
	out := *v
	out.Literal = 0
	out.Text = text
	if v.Negative && text != "0" {
		out.Text = "-" + text
	}
	return out, true
}

// decimal reads plain digits, up to 18 of them.
func decimal(b []byte) (n int64, ok bool) {
	if len(b) > 18 || len(b) > 1 && b[0] == '0' {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func (v value) same(o value) bool {
	return v.Literal == o.Literal && v.Negative == o.Negative && v.Kind == o.Kind && slices.Equal(v.Casts, o.Casts) &&
		v.use == o.use && v.array == o.array && v.distinct == o.distinct && v.noBlanks == o.noBlanks
}
