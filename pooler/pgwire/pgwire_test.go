package pgwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHeaderReadsTypeAndTotal(t *testing.T) {
	t.Parallel()
	length := func(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{'Q'}, n) }
	tests := []struct {
		name  string
		b     []byte
		total int
		ok    bool
	}{
		{"nothing", nil, 0, false},
		{"four bytes", []byte("Q\x00\x00\x00"), 0, false},
		{"no body", length(4), 5, true},
		{"body", append(length(10), "xx"...), 11, true},
		{"length zero", length(0), -1, true},
		{"length three", length(3), -1, true},
		{"largest", length(math.MaxInt32 - 1), math.MaxInt32, true},
		{"one too large", length(math.MaxInt32), -1, true},
		{"negative", length(1 << 31), -1, true},
		{"minus one", length(math.MaxUint32), -1, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			typ, total, ok := Header(tt.b)
			if total != tt.total || ok != tt.ok {
				t.Errorf("got total %d, ok %v, want %d, %v", total, ok, tt.total, tt.ok)
			}
			if ok && typ != 'Q' {
				t.Errorf("got type %q, want Q", typ)
			}
		})
	}
}

func TestMessageNamesCoverEveryType(t *testing.T) {
	t.Parallel()
	client, server := 0, 0
	for c := range 256 {
		if ClientMessageName(byte(c)) != "unknown" {
			client++
		}
		if ServerMessageName(byte(c)) != "unknown" {
			server++
		}
	}
	if client != 14 || server != 24 {
		t.Errorf("got %d client and %d server names, want 14 and 24", client, server)
	}
}

// body is everything after the header of the one message in b.
func body(t testing.TB, b []byte, typ byte) []byte {
	t.Helper()
	got, total, ok := Header(b)
	if !ok || total != len(b) || got != typ {
		t.Fatalf("got frame %q of type %q, total %d, want one whole message of type %q", b, got, total, typ)
	}
	return b[HeaderBytes:]
}

func TestStringsAreCutAtNUL(t *testing.T) {
	t.Parallel()
	const evil = "a\x00Z\x00\x00\x00\x05I"
	if got, err := DecodeQuery(body(t, AppendQuery(nil, evil), MsgQuery)); err != nil || string(got) != "a" {
		t.Errorf("query: got %q, %v, want a", got, err)
	}
	name, value, err := DecodeParameterStatus(body(t, AppendParameterStatus(nil, evil, []byte(evil)), MsgParameterStatus))
	if err != nil || string(name) != "a" || string(value) != "a" {
		t.Errorf("parameter status: got %q %q, %v", name, value, err)
	}
	e, err := DecodeError(body(t, AppendErrorResponse(nil, &Error{Message: evil, Hint: evil}), MsgErrorResponse))
	if err != nil || e.Message != "a" || e.Hint != "a" {
		t.Errorf("error: got %+v, %v", e, err)
	}
	cols, err := DecodeRowDescription(nil, body(t, AppendRowDescription(nil, []Column{TextColumn(evil, OIDText)}), MsgRowDescription))
	if err != nil || len(cols) != 1 || cols[0].Name != "a" {
		t.Errorf("row description: got %+v, %v", cols, err)
	}
	p, err := DecodeParse(body(t, AppendParse(nil, evil, evil, nil), MsgParse))
	if err != nil || string(p.Name) != "a" || string(p.SQL) != "a" {
		t.Errorf("parse: got %+v, %v", p, err)
	}
	s, err := DecodeStartup(AppendStartupMessage(nil, Version30, []Param{{"\x00x", "y"}, {"", "y"}, {"user", evil}}))
	if err != nil || !cmp.Equal(s.Params, []Param{{"user", "a"}}) {
		t.Errorf("startup: got %+v, %v", s, err)
	}
	a, err := DecodeAuthentication(body(t, AppendAuthenticationSASL(nil, "", "\x00", "b\x00c", "d"), MsgAuthentication))
	if err != nil || !cmp.Equal(a.Mechanisms, []string{"b", "d"}) {
		t.Errorf("sasl: got %+v, %v", a, err)
	}
	// Values are length-prefixed: nothing is cut.
	row, err := DecodeDataRow(nil, body(t, AppendTextRow(nil, evil), MsgDataRow))
	if err != nil || string(row[0]) != evil {
		t.Errorf("row: got %q, %v", row, err)
	}
}

// errorText checks the SQLSTATE and text of err.
func errorText(t *testing.T, err error, code, text string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %v, want a *Error", err)
	}
	if e.Code != code || e.Message != text {
		t.Errorf("got %q, want %q", e.Error(), code+": "+text)
	}
}

const (
	noData  = "no data left in message"
	short   = "insufficient data left in message"
	badText = "invalid string in message"
	trailer = "invalid message format"
)

func TestDecodersRefuseWhatPostgreSQLRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, body string
		decode     func([]byte) error
		text       string
	}{
		{"query without terminator", "select 1", func(b []byte) error { _, err := DecodeQuery(b); return err }, badText},
		{"query empty", "", func(b []byte) error { _, err := DecodeQuery(b); return err }, badText},
		{"query with a tail", "a\x00b", func(b []byte) error { _, err := DecodeQuery(b); return err }, trailer},
		{"sync with a body", "x", DecodeEmpty, trailer},
		{"parse without name", "abc", decodeParseErr, badText},
		{"parse without text", "abc\x00def", decodeParseErr, badText},
		{"parse without count", "a\x00b\x00\x00", decodeParseErr, short},
		{"parse with too few types", "a\x00b\x00\x00\x02\x00\x00\x00\x01", decodeParseErr, short},
		{"parse with a tail", "a\x00b\x00\x00\x00x", decodeParseErr, trailer},
		{"bind without statement", "a\x00b", decodeBindErr, badText},
		{"bind without formats", "\x00\x00\x00", decodeBindErr, short},
		{"bind with cut formats", "\x00\x00\x00\x02\x00\x01", decodeBindErr, short},
		{"bind with a count mismatch", "\x00\x00\x00\x02\x00\x00\x00\x01\x00\x01\xff\xff\xff\xff\x00\x00", decodeBindErr, "bind message has 2 parameter formats but 1 parameters"},
		{"bind without a value", "\x00\x00\x00\x00\x00\x01", decodeBindErr, short},
		{"bind with a cut value", "\x00\x00\x00\x00\x00\x01\x00\x00\x00\x05abcd", decodeBindErr, short},
		{"bind with length -2", "\x00\x00\x00\x00\x00\x01\xff\xff\xff\xfe\x00\x00", decodeBindErr, short},
		{"bind with length 2 GB", "\x00\x00\x00\x00\x00\x01\x7f\xff\xff\xff\x00\x00", decodeBindErr, short},
		{"bind without result formats", "\x00\x00\x00\x00\x00\x00", decodeBindErr, short},
		{"bind with cut result formats", "\x00\x00\x00\x00\x00\x00\x00\x01\x00", decodeBindErr, short},
		{"bind with a tail", "\x00\x00\x00\x00\x00\x00\x00\x00x", decodeBindErr, trailer},
		{"describe empty", "", func(b []byte) error { _, err := DecodeDescribe(b); return err }, noData},
		{"describe of a number", "1a\x00", func(b []byte) error { _, err := DecodeDescribe(b); return err }, "invalid DESCRIBE message subtype 49"},
		{"close of a number", "1a\x00", func(b []byte) error { _, err := DecodeClose(b); return err }, "invalid CLOSE message subtype 49"},
		{"close with a tail", "Sa\x00b", func(b []byte) error { _, err := DecodeClose(b); return err }, trailer},
		{"execute without limit", "a\x00\x00\x00\x00", func(b []byte) error { _, err := DecodeExecute(b); return err }, short},
		{"execute with a tail", "a\x00\x00\x00\x00\x00\x00", func(b []byte) error { _, err := DecodeExecute(b); return err }, trailer},
		{"ready without status", "", func(b []byte) error { _, err := DecodeReadyForQuery(b); return err }, noData},
		{"ready with a strange status", "X", func(b []byte) error { _, err := DecodeReadyForQuery(b); return err }, "unknown transaction status 88 in ReadyForQuery"},
		{"ready with a tail", "II", func(b []byte) error { _, err := DecodeReadyForQuery(b); return err }, trailer},
		{"parameter status without value", "a\x00b", func(b []byte) error { _, _, err := DecodeParameterStatus(b); return err }, badText},
		{"key data short", "\x00\x00\x00", func(b []byte) error { _, _, err := DecodeBackendKeyData(b); return err }, short},
		{"key data with a short secret", "\x00\x00\x00\x01abc", func(b []byte) error { _, _, err := DecodeBackendKeyData(b); return err }, "invalid cancel key length 3 in BackendKeyData"},
		{"key data with a long secret", "\x00\x00\x00\x01" + strings.Repeat("x", 257), func(b []byte) error { _, _, err := DecodeBackendKeyData(b); return err }, "invalid cancel key length 257 in BackendKeyData"},
		{"error without end", "SERROR\x00", func(b []byte) error { _, err := DecodeError(b); return err }, noData},
		{"error with a cut field", "SERROR", func(b []byte) error { _, err := DecodeError(b); return err }, badText},
		{"error with a tail", "\x00x", func(b []byte) error { _, err := DecodeError(b); return err }, trailer},
		{"authentication short", "\x00\x00\x00", func(b []byte) error { _, err := DecodeAuthentication(b); return err }, short},
		{"md5 without salt", "\x00\x00\x00\x05abc", func(b []byte) error { _, err := DecodeAuthentication(b); return err }, short},
		{"ok with a tail", "\x00\x00\x00\x00x", func(b []byte) error { _, err := DecodeAuthentication(b); return err }, trailer},
		{"sasl without end", "\x00\x00\x00\x0aabc\x00", func(b []byte) error { _, err := DecodeAuthentication(b); return err }, badText},
		{"password without end", "abc", func(b []byte) error { _, err := DecodePassword(b); return err }, "invalid password packet size"},
		{"password with a tail", "abc\x00d", func(b []byte) error { _, err := DecodePassword(b); return err }, "invalid password packet size"},
		{"sasl initial with cut data", "x\x00\x00\x00\x00\x03ab", func(b []byte) error { _, _, err := DecodeSASLInitialResponse(b); return err }, short},
		{"sasl initial with length -2", "x\x00\xff\xff\xff\xfe", func(b []byte) error { _, _, err := DecodeSASLInitialResponse(b); return err }, short},
		{"row description cut", "\x00\x02a\x00\x00\x00", func(b []byte) error { _, err := DecodeRowDescription(nil, b); return err }, short},
		{"data row cut", "\x00\x01\x00\x00\x00\x02a", func(b []byte) error { _, err := DecodeDataRow(nil, b); return err }, short},
		{"parameter description cut", "\x00\x02\x00\x00\x00\x01", func(b []byte) error { _, err := DecodeParameterDescription(nil, b); return err }, short},
		{"negotiation claims 4 billion options", "\x00\x03\x00\x00\xff\xff\xff\xff", func(b []byte) error { _, _, err := DecodeNegotiateProtocolVersion(b); return err }, badText},
		{"copy response cut", "\x00\x00\x02\x00\x00", func(b []byte) error { _, _, err := DecodeCopyResponse(b); return err }, short},
		{"copy response of format 2", "\x02\x00\x00", func(b []byte) error { _, _, err := DecodeCopyResponse(b); return err }, "unsupported copy format 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			errorText(t, tt.decode([]byte(tt.body)), CodeProtocolViolation, tt.text)
		})
	}
}

func decodeParseErr(b []byte) error { _, err := DecodeParse(b); return err }
func decodeBindErr(b []byte) error  { _, err := DecodeBind(b); return err }

func TestTagRows(t *testing.T) {
	t.Parallel()
	tests := []struct {
		tag  string
		rows int64
		ok   bool
	}{
		{"SELECT 5", 5, true},
		{"INSERT 0 12", 12, true},
		{"COPY 0", 0, true},
		{"BEGIN", 0, false},
		{"CREATE TABLE", 0, false},
		{"", 0, false},
		{"SELECT -1", -1, false},
		{"SELECT 99999999999999999999", math.MaxInt64, false},
	}
	for _, tt := range tests {
		if rows, ok := TagRows([]byte(tt.tag)); ok != tt.ok || rows != tt.rows {
			t.Errorf("%q: got %d, %v, want %d, %v", tt.tag, rows, ok, tt.rows, tt.ok)
		}
	}
}

func TestNothingOnTheWayOfAStatementAllocates(t *testing.T) {
	frame := AppendBind(nil, "", "s1", FormatBinary, [][]byte{[]byte("12345678"), nil, []byte("x")}, FormatBinary)
	parse := AppendParse(nil, "s1", "select $1", []uint32{20})
	parseBody, bindBody := parse[HeaderBytes:], frame[HeaderBytes:]
	query := AppendQuery(nil, "select 1")
	execute := AppendExecute(nil, "", 0)
	describe := AppendDescribe(nil, TargetPortal, "")
	status := AppendParameterStatus(nil, "TimeZone", "UTC")
	dst := make([]byte, 0, 4096)
	refusal := Errorf(CodeSyntaxError, "no").WithHint("yes").WithPosition(3)
	values, columns, types := [][]byte{[]byte("a"), nil}, []Column{TextColumn("a", OIDText)}, []uint32{20}
	var sink int
	tests := []struct {
		name string
		run  func()
	}{
		{"Header", func() { _, n, _ := Header(frame); sink += n }},
		{"DecodeParse", func() {
			p, err := DecodeParse(parseBody)
			if err != nil || p.Type(0) != 20 {
				panic("bad parse")
			}
			sink += len(p.SQL)
		}},
		{"DecodeBind and Param", func() {
			b, err := DecodeBind(bindBody)
			if err != nil {
				panic(err)
			}
			for i := range b.NumParams() {
				v, _ := b.Param(i)
				sink += len(v) + int(b.Format(i))
			}
		}},
		{"small decoders", func() {
			q, _ := DecodeQuery(query[HeaderBytes:])
			e, _ := DecodeExecute(execute[HeaderBytes:])
			d, _ := DecodeDescribe(describe[HeaderBytes:])
			n, v, _ := DecodeParameterStatus(status[HeaderBytes:])
			sink += len(q) + len(e.Portal) + len(d.Name) + len(n) + len(v)
		}},
		{"encoders of the client side", func() {
			b := AppendParse(dst[:0], "s1", "select 1", types)
			b = AppendParseTail(b, "s1", parseBody[3:])
			b = AppendBindTail(b, "", "s1", bindBody[4:])
			b = AppendBind(b, "", "s1", FormatText, values, FormatText)
			b = AppendDescribe(b, TargetStatement, "s1")
			b = AppendExecute(b, "", 0)
			b = AppendClose(b, TargetStatement, []byte("s1"))
			b = AppendFlush(AppendSync(AppendQuery(b, "begin")))
			sink += len(b)
		}},
		{"encoders of the server side", func() {
			b := AppendErrorResponse(dst[:0], refusal)
			b = AppendRowDescription(b, columns)
			b = AppendDataRow(b, values)
			b = AppendCommandComplete(b, "SELECT 1")
			b = AppendParameterStatus(b, "TimeZone", "UTC")
			b = AppendParameterDescription(b, types)
			b = AppendReadyForQuery(AppendParseComplete(AppendBindComplete(AppendCloseComplete(AppendNoData(b)))), TxIdle)
			sink += len(b)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if n := testing.AllocsPerRun(200, tt.run); n != 0 {
				t.Errorf("got %v allocations, want 0", n)
			}
		})
	}
	if sink == 0 {
		t.Error("nothing was measured")
	}
}

func BenchmarkDecodeBind(b *testing.B) {
	frame := AppendBind(nil, "", "s1", FormatBinary, [][]byte{[]byte("12345678"), []byte("12345678")}, FormatBinary)
	b.ReportAllocs()
	for b.Loop() {
		bind, err := DecodeBind(frame[HeaderBytes:])
		if err != nil {
			b.Fatal(err)
		}
		if v, _ := bind.Param(1); len(v) != 8 {
			b.Fatal("wrong value")
		}
	}
}

func BenchmarkHeader(b *testing.B) {
	frames := bytes.Repeat(AppendTextRow(nil, "12345678"), 100)
	b.ReportAllocs()
	b.SetBytes(int64(len(frames)))
	for b.Loop() {
		for rest := frames; len(rest) > 0; {
			_, total, ok := Header(rest)
			if !ok || total < 0 {
				b.Fatal("malformed")
			}
			rest = rest[total:]
		}
	}
}
