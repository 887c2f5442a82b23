package parser

import (
	"errors"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	pg_query "github.com/pganalyze/pg_query_go/v5"
	pgparser "github.com/pganalyze/pg_query_go/v5/parser"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoimpl"
)

// treeOf parses sql as pg_query.Parse does, in less than half of the time, most of which goes into packing the tree as protobuf: the union of all node types is
// looked through from its begin for each node, again at each level above it. The tree as JSON has the same names. What of it is not understood, for any reason,
// comes as protobuf.
func treeOf(sql string) (*pg_query.ParseResult, error) {
	if len(sql) > maxJSON {
		return pg_query.Parse(sql)
	}
	text, err := pgparser.ParseToJSON(sql)
	if err != nil {
		return nil, err
	}
	if tree, err := readTree(sql, text); err == nil {
		return tree, nil
	}
	return pg_query.Parse(sql)
}

// maxJSON is how long a text may be. Its tree as JSON is some twenty times as long, and pg_query has no way to say that it has no room for that.
const maxJSON = 1 << 20

// readTree reads the JSON that pg_query makes of sql.
func readTree(sql, text string) (*pg_query.ParseResult, error) {
	if !utf8.ValidString(text) {
		return nil, errTree
	}
	tree := &pg_query.ParseResult{}
	r := treeReader{sql: sql, text: text}
	r.message(planOf(reflect.TypeFor[pg_query.ParseResult]()), reflect.ValueOf(tree).Elem())
	if r.bad || r.at != len(text) {
		return nil, errTree
	}
	return tree, nil
}

// errTree is that the JSON is not what was expected.
var errTree = errors.New("the tree is not understood")

// maxTree bounds how deep messages may be in each other; protobuf has that bound, too.
const maxTree = 10000

// messagePlan is how a message is made of a JSON object.
type messagePlan struct {
	fields map[string]*fieldPlan
}

// fieldPlan is how a field is made of its value.
type fieldPlan struct {
	index   int          // of the structure
	kind    reflect.Kind // of the value; Slice of what is in it
	of      reflect.Type // the message that a pointer is to
	plan    func() *messagePlan
	names   map[string]int32 // of an enumeration
	bounds  bool             // TypeName's
	wrapper reflect.Type     // what stands between the structure and the value, in a field that has one of several
}

// plans are made when they are needed first.
var plans sync.Map // of *messagePlan, by reflect.Type

func planOf(t reflect.Type) *messagePlan {
	if p, ok := plans.Load(t); ok {
		return p.(*messagePlan)
	}
	p := &messagePlan{fields: make(map[string]*fieldPlan)}
	message := reflect.New(t).Interface().(protoreflect.ProtoMessage).ProtoReflect()
	fields := message.Descriptor().Fields()
	wrappers := make(map[string]reflect.Type) // by the name of the field in them
	if info, ok := message.Type().(*protoimpl.MessageInfo); ok {
		for _, w := range info.OneofWrappers {
			of := reflect.TypeOf(w).Elem()
			wrappers[tagName(of.Field(0).Tag)] = of
		}
	}
	places := make(map[string]int)
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() {
			places[tagName(f.Tag)] = i
			places[f.Tag.Get("protobuf_oneof")] = i
		}
	}
	for i := range fields.Len() {
		fd := fields.Get(i)
		f := &fieldPlan{}
		var of reflect.Type
		if oneof := fd.ContainingOneof(); oneof != nil {
			f.wrapper = wrappers[string(fd.Name())]
			f.index, of = places[string(oneof.Name())], f.wrapper.Field(0).Type
		} else {
			f.index = places[string(fd.Name())]
			of = t.Field(f.index).Type
		}
		if f.kind = of.Kind(); f.kind == reflect.Pointer {
			f.of = of.Elem()
		} else if f.kind == reflect.Slice && of.Elem().Kind() == reflect.Pointer {
			f.of = of.Elem().Elem()
		}
		if f.of != nil {
			f.plan = sync.OnceValue(func() *messagePlan { return planOf(f.of) }) // messages are in each other, round and round
		}
		f.bounds = fd.Name() == "array_bounds"
		if enum := fd.Enum(); enum != nil {
			f.names = make(map[string]int32)
			for j := range enum.Values().Len() {
				v := enum.Values().Get(j)
				f.names[string(v.Name())] = int32(v.Number())
			}
		}
		p.fields[fd.JSONName()] = f
	}
	plans.Store(t, p)
	return p
}

// tagName is a field's name, as its tag says.
func tagName(tag reflect.StructTag) string {
	const key = "name="
	for part := range strings.SplitSeq(tag.Get("protobuf"), ",") {
		if len(part) > len(key) && part[:len(key)] == key {
			return part[len(key):]
		}
	}
	return ""
}

// treeReader reads JSON as pg_query writes it: without white space.
type treeReader struct {
	sql   string
	text  string
	at    int
	depth int
	bad   bool
	// inBounds: what is read are the bounds of an array.
	inBounds bool
}

func (r *treeReader) fail() { r.bad, r.at = true, len(r.text) }

// next reports whether c is next, and if so goes on behind it.
func (r *treeReader) next(c byte) bool {
	if r.at < len(r.text) && r.text[r.at] == c {
		r.at++
		return true
	}
	return false
}

func (r *treeReader) want(c byte) {
	if !r.next(c) {
		r.fail()
	}
}

// message reads an object.
func (r *treeReader) message(p *messagePlan, v reflect.Value) {
	if r.depth++; r.depth > maxTree {
		r.fail()
		return
	}
	defer func() { r.depth-- }()
	r.want('{')
	if r.next('}') {
		return
	}
	for !r.bad {
		f := p.fields[r.word()]
		r.want(':')
		if f == nil {
			r.fail()
			return
		}
		to := v.Field(f.index)
		if f.wrapper == nil {
			outside := r.inBounds
			r.inBounds = f.bounds
			r.value(f, to)
			r.inBounds = outside
		} else {
			w := reflect.New(f.wrapper)
			r.value(f, w.Elem().Field(0))
			to.Set(w)
		}
		if !r.next(',') {
			r.want('}')
			break
		}
	}
	switch m := v.Addr().Interface().(type) {
	case *pg_query.A_Const:
		r.constant(m)
	case *pg_query.TypeName:
		r.bounds(m.ArrayBounds)
	case *pg_query.Node:
		if i, ok := m.Node.(*pg_query.Node_Integer); ok && i.Integer.Ival == 0 && !r.inBounds {
			r.fail()
		}
	}
}

// pg_query's JSON has no integers below 1: there, 0 is as -1. Which it is has to be seen from the text, or to come as protobuf.

// constant looks at what is left of a constant.
func (r *treeReader) constant(c *pg_query.A_Const) {
	i, ok := c.Val.(*pg_query.A_Const_Ival)
	if !ok || i.Ival.Ival != 0 {
		return
	}
	if at := int(c.Location); at < 0 || at >= len(r.sql) || r.sql[at] < '0' || r.sql[at] > '9' { // a sign, or whatever else
		r.fail()
	}
}

// bounds sets those of an array that has none.
func (r *treeReader) bounds(list []*pg_query.Node) {
	for _, n := range list {
		i := n.GetInteger()
		switch {
		case i == nil:
			r.fail()
		case i.Ival == 0:
			if boundOfZero.MatchString(r.sql) {
				r.fail()
				return
			}
			i.Ival = -1
		}
	}
}

var boundOfZero = regexp.MustCompile(`(?i)(\[|ARRAY)\s*\[?\s*[0_]`)

func (r *treeReader) value(f *fieldPlan, to reflect.Value) {
	switch f.kind {
	case reflect.Pointer:
		m := reflect.New(f.of)
		r.message(f.plan(), m.Elem())
		to.Set(m)
	case reflect.Slice:
		r.list(f, to)
	case reflect.String:
		to.SetString(r.string())
	case reflect.Bool:
		if r.literal("true") {
			to.SetBool(true)
		} else {
			r.fail()
		}
	case reflect.Int32:
		if f.names == nil {
			to.SetInt(r.integer())
		} else if n, ok := f.names[r.word()]; ok {
			to.SetInt(int64(n))
		} else {
			r.fail()
		}
	case reflect.Int64:
		to.SetInt(r.integer())
	case reflect.Uint32, reflect.Uint64:
		if n := r.integer(); n >= 0 {
			to.SetUint(uint64(n))
		} else {
			r.fail()
		}
	default:
		r.fail()
	}
}

// list reads messages.
func (r *treeReader) list(f *fieldPlan, to reflect.Value) {
	r.want('[')
	if f.of == nil {
		r.fail() // of numbers: nothing of a text as it was parsed has any
		return
	}
	if r.next(']') {
		return
	}
	if nodes, ok := reflect.TypeAssert[[]*pg_query.Node](to); ok {
		for !r.bad {
			n := new(pg_query.Node)
			r.message(f.plan(), reflect.ValueOf(n).Elem())
			nodes = append(nodes, n)
			if !r.next(',') {
				break
			}
		}
		to.Set(reflect.ValueOf(nodes))
	} else {
		list := to
		for !r.bad {
			m := reflect.New(f.of)
			r.message(f.plan(), m.Elem())
			list = reflect.Append(list, m)
			if !r.next(',') {
				break
			}
		}
		to.Set(list)
	}
	r.want(']')
}

// word reads a string that has nothing in it that is escaped.
func (r *treeReader) word() string {
	r.want('"')
	from := r.at
	for i := from; i < len(r.text); i++ {
		switch r.text[i] {
		case '"':
			r.at = i + 1
			return r.text[from:i]
		case '\\':
			r.fail()
			return ""
		}
	}
	r.fail()
	return ""
}

func (r *treeReader) literal(w string) bool {
	if len(r.text)-r.at >= len(w) && r.text[r.at:r.at+len(w)] == w {
		r.at += len(w)
		return true
	}
	return false
}

// string reads any string, and copies it: what is kept of a tree must not keep its text.
func (r *treeReader) string() string {
	r.want('"')
	from := r.at
	for i := from; i < len(r.text); i++ {
		switch r.text[i] {
		case '"':
			r.at = i + 1
			return strings.Clone(r.text[from:i])
		case '\\':
			return r.escaped(from, i)
		}
	}
	r.fail()
	return ""
}

// escaped reads on from the first backslash.
func (r *treeReader) escaped(from, i int) string {
	out := append([]byte(nil), r.text[from:i]...)
	for i < len(r.text) {
		c := r.text[i]
		i++
		switch {
		case c == '"':
			r.at = i
			return string(out)
		case c != '\\':
			out = append(out, c)
			continue
		case i == len(r.text):
			r.fail()
			return ""
		}
		c = r.text[i]
		i++
		switch c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case '"', '\\', '/':
			out = append(out, c)
		case 'u':
			if len(r.text)-i < 4 {
				r.fail()
				return ""
			}
			n, err := strconv.ParseUint(r.text[i:i+4], 16, 16)
			if err != nil || n >= 0x80 { // pg_query writes control characters like that, and < and >
				r.fail()
				return ""
			}
			out = append(out, byte(n))
			i += 4
		default:
			r.fail()
			return ""
		}
	}
	r.fail()
	return ""
}

func (r *treeReader) integer() int64 {
	from := r.at
	if r.at < len(r.text) && r.text[r.at] == '-' {
		r.at++
	}
	for r.at < len(r.text) && r.text[r.at] >= '0' && r.text[r.at] <= '9' {
		r.at++
	}
	n, err := strconv.ParseInt(r.text[from:r.at], 10, 64)
	if err != nil {
		r.fail()
	}
	return n
}
