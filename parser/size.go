package parser

import (
	"reflect"
	"sync"
)

// sizeOf estimates the bytes that a Message holds: its structures and strings. What the router hangs on Memo is not among them.
func sizeOf(m *Message) int {
	z := sizer{seen: make(map[*Query]bool)}
	size := int(reflect.TypeFor[Message]().Size())
	size += z.below(reflect.ValueOf(m.Statements)) + z.below(reflect.ValueOf(m.Hints)) + z.below(reflect.ValueOf(m.Unparsable))
	return size
}

type sizer struct {
	seen map[*Query]bool // blocks that are reached in several ways
}

// pointing are, of each type of a structure, the fields that point somewhere: to ask reflection for them each time costs a fifth of a parse.
var pointing sync.Map // of []int, by reflect.Type

func pointingOf(t reflect.Type) []int {
	if list, ok := pointing.Load(t); ok {
		return list.([]int)
	}
	var list []int
	for i := range t.NumField() {
		if !flat(t.Field(i).Type) {
			list = append(list, i)
		}
	}
	pointing.Store(t, list)
	return list
}

// below sums what v points to.
func (z sizer) below(v reflect.Value) int {
	size := 0
	switch v.Kind() {
	case reflect.String:
		return v.Len()
	case reflect.Pointer:
		if v.IsNil() {
			return 0
		}
		if q, ok := reflect.TypeAssert[*Query](v); ok {
			if z.seen[q] {
				return 0
			}
			z.seen[q] = true
		}
		return int(v.Type().Elem().Size()) + z.below(v.Elem())
	case reflect.Slice:
		n := v.Len()
		if v.Cap() == 0 {
			return 0
		}
		of := v.Type().Elem()
		size = v.Cap() * int(of.Size())
		if flat(of) {
			return size
		}
		for i := range n {
			size += z.below(v.Index(i))
		}
	case reflect.Struct:
		for _, i := range pointingOf(v.Type()) {
			size += z.below(v.Field(i))
		}
	default:
	}
	return size
}

// flat reports that values of this type point nowhere.
func flat(t reflect.Type) bool {
	k := t.Kind()
	return k >= reflect.Bool && k <= reflect.Float64 || k == reflect.Struct && len(pointingOf(t)) == 0
}
