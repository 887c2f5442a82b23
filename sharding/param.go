package sharding

import (
	"encoding/binary"
	"math"
	"unsafe"
)

// The OIDs of types that parameters may be declared with, from pg_type.dat.
const (
	oidInt8         = 20
	oidInt2         = 21
	oidInt4         = 23
	oidText         = 25
	oidFloat4       = 700
	oidFloat8       = 701
	oidUnknown      = 705
	oidVarchar      = 1043
	oidNumeric      = 1700
	oidUUID         = 2950
	oidInt2Array    = 1005
	oidInt4Array    = 1007
	oidTextArray    = 1009
	oidVarcharArray = 1015
	oidInt8Array    = 1016
	oidFloat4Array  = 1021
	oidFloat8Array  = 1022
	oidNumericArray = 1231
	oidUUIDArray    = 2951
)

// ReadParam reads a parameter of a Bind message as a key of type t. oid is its declared type; with 0 or unknown the
// server gives it the column's type. A type whose = with the column is not the key type's own is Unreadable, and so is
// what the type's input function would refuse. A Text key aliases value.
func ReadParam(t KeyType, value []byte, isBinary bool, oid uint32, use Use) (Key, Reading) {
	if value == nil {
		return Key{}, Null
	}
	if isBinary {
		return readBinary(t, value, oid, use)
	}
	s := view(value)
	switch t {
	case Bigint:
		switch oid {
		case 0, oidUnknown, oidInt8, oidInt4, oidInt2:
			return exact(ParseKey(t, s))
		case oidNumeric:
			return ParseNumeric(s, use)
		case oidFloat8:
			return parseFloat(s, 64, use)
		case oidFloat4:
			return parseFloat(s, 32, use)
		}
	case UUID:
		if oid == 0 || oid == oidUnknown || oid == oidUUID {
			return exact(ParseKey(t, s))
		}
	case Text:
		if oid == 0 || oid == oidUnknown || oid == oidText || oid == oidVarchar {
			return TextKey(s), Exact
		}
	}
	return Key{}, Unreadable
}

func readBinary(t KeyType, b []byte, oid uint32, use Use) (Key, Reading) {
	switch t {
	case Bigint:
		switch {
		case len(b) == 8 && (oid == oidInt8 || oid == 0 || oid == oidUnknown):
			return BigintKey(int64(binary.BigEndian.Uint64(b))), Exact
		case len(b) == 4 && (oid == oidInt4 || oid == 0 || oid == oidUnknown):
			return BigintKey(int64(int32(binary.BigEndian.Uint32(b)))), Exact
		case len(b) == 2 && (oid == oidInt2 || oid == 0 || oid == oidUnknown):
			return BigintKey(int64(int16(binary.BigEndian.Uint16(b)))), Exact
		case oid == oidNumeric:
			return binaryNumeric(b, use)
		case oid == oidFloat8 && len(b) == 8:
			return FloatKey(math.Float64frombits(binary.BigEndian.Uint64(b)), use)
		case oid == oidFloat4 && len(b) == 4:
			return FloatKey(float64(math.Float32frombits(binary.BigEndian.Uint32(b))), use)
		}
	case UUID:
		if len(b) == 16 && (oid == oidUUID || oid == 0 || oid == oidUnknown) {
			return UUIDKey([16]byte(b)), Exact
		}
	case Text:
		if oid == oidText || oid == oidVarchar || oid == 0 || oid == oidUnknown {
			return TextKey(view(b)), Exact
		}
	}
	return Key{}, Unreadable
}

func exact(k Key, ok bool) (Key, Reading) {
	if !ok {
		return Key{}, Unreadable
	}
	return k, Exact
}

// TypeOID returns the OID by which parameters of a type are declared, by its internal name; 0 if it is no type that
// keys are read from.
func TypeOID(name string) uint32 {
	switch name {
	case "int8":
		return oidInt8
	case "int4":
		return oidInt4
	case "int2":
		return oidInt2
	case "numeric":
		return oidNumeric
	case "float8":
		return oidFloat8
	case "float4":
		return oidFloat4
	case "uuid":
		return oidUUID
	case "text":
		return oidText
	case "varchar":
		return oidVarchar
	case "int8[]", "_int8":
		return oidInt8Array
	case "int4[]", "_int4":
		return oidInt4Array
	case "int2[]", "_int2":
		return oidInt2Array
	case "numeric[]", "_numeric":
		return oidNumericArray
	case "float8[]", "_float8":
		return oidFloat8Array
	case "float4[]", "_float4":
		return oidFloat4Array
	case "uuid[]", "_uuid":
		return oidUUIDArray
	case "text[]", "_text":
		return oidTextArray
	case "varchar[]", "_varchar":
		return oidVarcharArray
	}
	return 0
}

// elementOID returns the element type of an array type.
func elementOID(oid uint32) (uint32, bool) {
	switch oid {
	case 0, oidUnknown:
		return 0, true
	case oidInt8Array:
		return oidInt8, true
	case oidInt4Array:
		return oidInt4, true
	case oidInt2Array:
		return oidInt2, true
	case oidNumericArray:
		return oidNumeric, true
	case oidFloat8Array:
		return oidFloat8, true
	case oidFloat4Array:
		return oidFloat4, true
	case oidUUIDArray:
		return oidUUID, true
	case oidTextArray:
		return oidText, true
	case oidVarcharArray:
		return oidVarchar, true
	}
	return 0, false
}

// view is b as a string without a copy: good as long as nobody writes to b, which look-ups outlive not.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) } //nolint:gosec // the comment says when
