package pgwire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// bindBody writes a Bind's body with exactly these format lists.
func bindBody(formats []uint16, params [][]byte, results []uint16) []byte {
	b := []byte("p\x00s\x00")
	codes := func(list []uint16) {
		b = binary.BigEndian.AppendUint16(b, uint16(len(list)))
		for _, f := range list {
			b = binary.BigEndian.AppendUint16(b, f)
		}
	}
	codes(formats)
	b = binary.BigEndian.AppendUint16(b, uint16(len(params)))
	for _, v := range params {
		b = appendValue(b, v)
	}
	codes(results)
	return b
}

func TestBindFormatsFollowTheRuleOfNoneOneOrAll(t *testing.T) {
	t.Parallel()
	three := [][]byte{[]byte("a"), []byte("b"), []byte("c")}
	tests := []struct {
		formats []uint16
		want    [3]Format
	}{
		{nil, [3]Format{FormatText, FormatText, FormatText}},
		{[]uint16{0}, [3]Format{FormatText, FormatText, FormatText}},
		{[]uint16{1}, [3]Format{FormatBinary, FormatBinary, FormatBinary}},
		{[]uint16{0, 1, 0}, [3]Format{FormatText, FormatBinary, FormatText}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.formats), func(t *testing.T) {
			t.Parallel()
			b, err := DecodeBind(bindBody(tt.formats, three, tt.formats))
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range tt.want {
				if got := b.Format(i); got != want {
					t.Errorf("parameter %d: got format %d, want %d", i, got, want)
				}
				if got := b.ResultFormat(i); got != want {
					t.Errorf("result %d: got format %d, want %d", i, got, want)
				}
			}
			if got := b.NumResultFormats(); got != len(tt.formats) {
				t.Errorf("got %d result formats, want %d", got, len(tt.formats))
			}
		})
	}
}

func TestBindRefusesUnknownFormatsOfParametersOnly(t *testing.T) {
	t.Parallel()
	_, err := DecodeBind(bindBody([]uint16{2}, [][]byte{nil}, nil))
	errorText(t, err, CodeInvalidParameterValue, "unsupported format code: 2")
	_, err = DecodeBind(bindBody([]uint16{0, 0xffff}, [][]byte{{}, {}}, nil))
	errorText(t, err, CodeInvalidParameterValue, "unsupported format code: -1")
	// PostgreSQL looks at a format when it reads a parameter, and at result formats when it sends rows.
	if _, err = DecodeBind(bindBody([]uint16{2}, nil, []uint16{7})); err != nil {
		t.Errorf("got %v, want none", err)
	}
}

func TestBindParamsInAnyOrder(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 15, 16, 17, 18, 40} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			params := make([][]byte, n)
			for i := range params {
				if i%5 != 3 {
					params[i] = bytes.Repeat([]byte{byte(i)}, i%4)
				}
			}
			bodyBytes := bindBody(nil, params, []uint16{1})
			b, err := DecodeBind(bodyBytes)
			if err != nil {
				t.Fatal(err)
			}
			if string(b.Portal) != "p" || string(b.Statement) != "s" || b.Tail != 4 || b.NumParams() != n {
				t.Fatalf("got %q %q tail %d params %d", b.Portal, b.Statement, b.Tail, b.NumParams())
			}
			var order []int
			for i := range n { // up, down, then jumping
				order = append(order, i)
			}
			for i := n - 1; i >= 0; i-- {
				order = append(order, i, i)
			}
			for i := range n {
				order = append(order, i*7%n, (n-i)*11%n)
			}
			for _, i := range order {
				v, null := b.Param(i)
				if null != (params[i] == nil) || !bytes.Equal(v, params[i]) {
					t.Fatalf("parameter %d: got %q null %v, want %q", i, v, null, params[i])
				}
			}
		})
	}
}

func TestBindParamOutOfRangePanics(t *testing.T) {
	t.Parallel()
	b, err := DecodeBind(bindBody(nil, [][]byte{nil}, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{-1, 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("parameter %d: no panic", i)
				}
			}()
			b.Param(i)
		}()
	}
}

func TestBindManyParamsInOrderIsLinear(t *testing.T) {
	t.Parallel()
	const n = 65535
	b, err := DecodeBind(bindBody(nil, make([][]byte, n), nil))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n { // quadratic would be two billion steps: the test would time out
		if _, null := b.Param(i); !null {
			t.Fatalf("parameter %d is not null", i)
		}
	}
}

func TestTailsRenameWithoutTouchingTheRest(t *testing.T) {
	t.Parallel()
	orig := bindBody([]uint16{1, 0}, [][]byte{[]byte("x\x00y"), nil}, []uint16{1})
	b, err := DecodeBind(orig)
	if err != nil {
		t.Fatal(err)
	}
	renamed := body(t, AppendBindTail(nil, b.Portal, "other", orig[b.Tail:]), MsgBind)
	r, err := DecodeBind(renamed)
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Statement) != "other" || string(r.Portal) != "p" || !bytes.Equal(renamed[r.Tail:], orig[b.Tail:]) {
		t.Errorf("got %q", renamed)
	}
	parse := body(t, AppendParse(nil, "s", "select $1", []uint32{20, 0}), MsgParse)
	p, err := DecodeParse(parse)
	if err != nil {
		t.Fatal(err)
	}
	q, err := DecodeParse(body(t, AppendParseTail(nil, "pgk_1", parse[p.Tail:]), MsgParse))
	if err != nil {
		t.Fatal(err)
	}
	if string(q.Name) != "pgk_1" || string(q.SQL) != "select $1" || q.NumTypes() != 2 || q.Type(0) != 20 || q.Type(1) != 0 {
		t.Errorf("got %+v", q)
	}
}
