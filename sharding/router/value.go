package router

import (
	"math"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
)

// domain is the type that a value has on its way through casts, as far as it matters for keys.
type domain uint8

const (
	// domBad: it can't be told what the value is.
	domBad domain = iota
	// domUntyped: a literal that takes the type of what it is compared with.
	domUntyped
	domInteger
	domNumeric
	domFloat
	domText
	domUUID
	domNull
)

// datum is a value with its type.
type datum struct {
	dom     domain
	integer int64        // domInteger
	text    string       // domUntyped, domNumeric, domText
	float   float64      // domFloat
	uuid    sharding.Key // domUUID
}

// literal returns the datum of a literal without its casts.
func literal(v *parser.Value) datum {
	switch v.Kind {
	case parser.ValueNull:
		return datum{dom: domNull}
	case parser.ValueInteger:
		n, err := strconv.ParseInt(v.Text, 10, 64)
		if err != nil {
			return datum{dom: domNumeric, text: v.Text} // PostgreSQL makes it a numeric as well
		}
		return datum{dom: domInteger, integer: n}
	case parser.ValueNumeric:
		return datum{dom: domNumeric, text: v.Text}
	case parser.ValueString:
		return datum{dom: domUntyped, text: v.Text}
	case parser.ValueBool, parser.ValueParam:
	}
	return datum{}
}

// cast applies a cast to type name, as PostgreSQL does. What would be an error there, or is not needed for keys, is domBad.
func (d datum) cast(name string) datum {
	if d.dom == domNull || d.dom == domBad {
		return d
	}
	switch name {
	case "int8", "int4", "int2":
		return d.toInteger(name)
	case "numeric":
		switch d.dom {
		case domUntyped, domText:
			return datum{dom: domNumeric, text: d.text}
		case domInteger:
			return datum{dom: domNumeric, text: strconv.FormatInt(d.integer, 10)}
		case domNumeric:
			return d
		default: // no such cast, or of no use for keys
		}
	case "float8":
		return d.toFloat(64)
	case "float4":
		return d.toFloat(32)
	case "text", "varchar":
		switch d.dom {
		case domUntyped, domText:
			return datum{dom: domText, text: d.text}
		case domInteger:
			return datum{dom: domText, text: strconv.FormatInt(d.integer, 10)}
		case domUUID:
			return datum{dom: domText, text: d.uuid.String()}
		default: // numbers are written as the server likes
		}
	case "uuid":
		switch d.dom {
		case domUntyped, domText:
			if k, ok := sharding.ParseKey(sharding.UUID, d.text); ok {
				return datum{dom: domUUID, uuid: k}
			}
		case domUUID:
			return d
		default: // no such cast
		}
	}
	return datum{}
}

func (d datum) toInteger(name string) datum {
	var k sharding.Key
	reading := sharding.Unreadable
	switch d.dom {
	case domUntyped, domText:
		if v, ok := sharding.ParseKey(sharding.Bigint, d.text); ok {
			k, reading = v, sharding.Exact
		}
	case domInteger:
		k, reading = sharding.BigintKey(d.integer), sharding.Exact
	case domNumeric:
		k, reading = sharding.ParseNumeric(d.text, sharding.Assign)
	case domFloat:
		k, reading = sharding.FloatKey(d.float, sharding.Assign)
	default: // no such cast
	}
	v := k.Bigint()
	if reading != sharding.Exact || name == "int4" && v != int64(int32(v)) || name == "int2" && v != int64(int16(v)) {
		return datum{}
	}
	return datum{dom: domInteger, integer: v}
}

func (d datum) toFloat(bits int) datum {
	var f float64
	var err error
	switch d.dom {
	case domUntyped, domText, domNumeric:
		s := strings.TrimSpace(d.text)
		if strings.Trim(s, "0123456789.eE+-") != "" {
			return datum{}
		}
		f, err = strconv.ParseFloat(s, bits)
	case domInteger:
		f = float64(d.integer)
	case domFloat:
		f = d.float
	default:
		return datum{}
	}
	if bits == 32 {
		f = float64(float32(f))
	}
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return datum{}
	}
	return datum{dom: domFloat, float: f}
}

// key reads the datum as a key: what a column of type t that is compared with it, or gets it assigned, has.
func (d datum) key(t sharding.KeyType, use sharding.Use) (sharding.Key, sharding.Reading) {
	if d.dom == domNull {
		return sharding.Key{}, sharding.Null
	}
	switch t {
	case sharding.Bigint:
		switch d.dom {
		case domUntyped:
			if k, ok := sharding.ParseKey(t, d.text); ok {
				return k, sharding.Exact
			}
		case domInteger:
			return sharding.BigintKey(d.integer), sharding.Exact
		case domNumeric:
			return sharding.ParseNumeric(d.text, use)
		case domFloat:
			return sharding.FloatKey(d.float, use)
		default: // an error of the server's
		}
	case sharding.UUID:
		switch d.dom {
		case domUntyped:
			if k, ok := sharding.ParseKey(t, d.text); ok {
				return k, sharding.Exact
			}
		case domUUID:
			return d.uuid, sharding.Exact
		default: // an error of the server's
		}
	case sharding.Text:
		switch {
		case d.dom == domUntyped || d.dom == domText:
			return sharding.TextKey(d.text), sharding.Exact
		case d.dom == domInteger && use == sharding.Assign: // integers and uuids are cast when stored, not when compared
			return sharding.TextKey(strconv.FormatInt(d.integer, 10)), sharding.Exact
		case d.dom == domUUID && use == sharding.Assign:
			return sharding.TextKey(d.uuid.String()), sharding.Exact
		}
	}
	return sharding.Key{}, sharding.Unreadable
}

// PostgreSQL's OIDs of the types that a cast parameter may be declared with.
const (
	oidUnknown = 705
	oidInt8    = 20
	oidInt4    = 23
	oidInt2    = 21
	oidNumeric = 1700
	oidFloat8  = 701
	oidFloat4  = 700
	oidText    = 25
	oidVarchar = 1043
	oidUUID    = 2950
)

// paramDatum reads a parameter that is cast. Without a declared type it has that of the first cast.
func paramDatum(value []byte, binary bool, oid uint32, casts []string) datum {
	if value == nil {
		return datum{dom: domNull}
	}
	if oid == 0 || oid == oidUnknown {
		if oid = sharding.TypeOID(casts[0]); oid == 0 {
			return datum{}
		}
	}
	var d datum
	switch oid {
	case oidText, oidVarchar:
		d = datum{dom: domText, text: string(value)}
	case oidUUID:
		if k, r := sharding.ReadParam(sharding.UUID, value, binary, oid, sharding.Compare); r == sharding.Exact {
			d = datum{dom: domUUID, uuid: k}
		}
	case oidInt8, oidInt4, oidInt2:
		if k, r := sharding.ReadParam(sharding.Bigint, value, binary, oid, sharding.Compare); r == sharding.Exact {
			d = datum{dom: domInteger, integer: k.Bigint()}
		}
	case oidNumeric:
		if !binary {
			d = datum{dom: domNumeric, text: string(value)}
			break
		}
		// Exact whole numbers only: a fraction would be needed to round, and is nobody's key.
		if k, r := sharding.ReadParam(sharding.Bigint, value, true, oid, sharding.Compare); r == sharding.Exact {
			d = datum{dom: domInteger, integer: k.Bigint()}
		}
	case oidFloat8, oidFloat4:
		if k, r := sharding.ReadParam(sharding.Bigint, value, binary, oid, sharding.Compare); r == sharding.Exact {
			d = datum{dom: domFloat, float: float64(k.Bigint())}
		}
	}
	for _, cast := range casts {
		d = d.cast(cast)
	}
	return d
}

// benign reports that casts of a column of family f keep its values apart and equal to what they were.
func benign(casts []string, f family) bool {
	for _, name := range casts {
		switch f {
		case famBigint:
			// Narrowing is an error where it would change the value.
			if familyOfType(name) != famBigint && name != "numeric" {
				return false
			}
		case famUUID, famText:
			if familyOfType(name) != f {
				return false
			}
		case famUnknown, famOther:
			return false
		}
	}
	return true
}
