package parser

import "reflect"

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
		size = v.Cap() * int(v.Type().Elem().Size())
		if flat(v.Type().Elem().Kind()) {
			return size
		}
		for i := range v.Len() {
			size += z.below(v.Index(i))
		}
	case reflect.Struct:
		for _, f := range v.Fields() {
			if !flat(f.Kind()) {
				size += z.below(f)
			}
		}
	default:
	}
	return size
}

// flat reports that values of this kind point nowhere.
func flat(k reflect.Kind) bool {
	return k >= reflect.Bool && k <= reflect.Float64
}
