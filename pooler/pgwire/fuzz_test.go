package pgwire

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Every decoder must take any bytes without a panic, and what it accepts must encode to a message that decodes to the same.

func FuzzHeader(f *testing.F) {
	f.Add(AppendQuery(nil, "select 1"))
	f.Add([]byte{'Q', 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, total, ok := Header(b)
		if ok != (len(b) >= HeaderBytes) || (ok && total != -1 && total < HeaderBytes) {
			t.Errorf("got %d, %v", total, ok)
		}
		n, ok := StartupHeader(b)
		if ok != (len(b) >= 4) || (ok && n != -1 && (n < 8 || n > MaxStartupBytes)) {
			t.Errorf("got %d, %v", n, ok)
		}
	})
}

func FuzzDecodeStartup(f *testing.F) {
	f.Add(AppendStartupMessage(nil, Version32, []Param{{"user", "a"}, {"options", "-c a=b"}}))
	f.Add(AppendSSLRequest(nil))
	f.Add(AppendCancelRequest(nil, 1, []byte("abcd")))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeStartup(b)
		if err != nil {
			return
		}
		var again []byte
		switch s.Kind {
		case StartupMessage:
			if s.Major != 3 {
				return
			}
			again = AppendStartupMessage(nil, uint32(s.Major)<<16|uint32(s.Minor), s.Params)
			s.User()
			s.Database()
			s.ProtocolOptions()
		case StartupSSLRequest:
			again = AppendSSLRequest(nil)
		case StartupGSSENCRequest:
			again = AppendGSSENCRequest(nil)
		case StartupCancelRequest:
			again = AppendCancelRequest(nil, s.PID, s.Secret)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("got %q, want %q", again, b)
		}
	})
}

func FuzzParseOptions(f *testing.F) {
	f.Add(`-c a=b --c-d=\ e -S 3 -fs`)
	f.Add(`-c search_path=a\\b\ c`)
	f.Fuzz(func(t *testing.T, s string) {
		params, err := ParseOptions(s)
		if err != nil {
			return
		}
		again, err := ParseOptions(JoinOptions(params))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(params, again) {
			t.Errorf("got %q, want %q", again, params)
		}
	})
}

func FuzzDecodeParse(f *testing.F) {
	f.Add(AppendParse(nil, "s", "select $1", []uint32{20, 0})[HeaderBytes:])
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := DecodeParse(b)
		if err != nil {
			return
		}
		if again := AppendParse(nil, p.Name, p.SQL, p.AppendTypes(nil))[HeaderBytes:]; !bytes.Equal(again, b) {
			t.Errorf("got %q, want %q", again, b)
		}
		if again := AppendParseTail(nil, p.Name, b[p.Tail:])[HeaderBytes:]; !bytes.Equal(again, b) {
			t.Errorf("tail: got %q, want %q", again, b)
		}
	})
}

func FuzzDecodeBind(f *testing.F) {
	f.Add(bindBody([]uint16{0, 1}, [][]byte{[]byte("a"), nil}, []uint16{1}))
	f.Add(bindBody([]uint16{1}, make([][]byte, 20), nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := DecodeBind(raw)
		var theirs pgproto3.Bind
		if err != nil {
			return
		}
		if err := theirs.Decode(raw); err != nil {
			t.Fatalf("pgproto3 refuses what we accept: %v", err)
		}
		if b.NumParams() != len(theirs.Parameters) {
			t.Fatalf("got %d parameters, want %d", b.NumParams(), len(theirs.Parameters))
		}
		for i, want := range theirs.Parameters {
			if v, null := b.Param(i); null != (want == nil) || !bytes.Equal(v, want) {
				t.Errorf("parameter %d: got %q, want %q", i, v, want)
			}
		}
		if again := AppendBindTail(nil, b.Portal, b.Statement, raw[b.Tail:])[HeaderBytes:]; !bytes.Equal(again, raw) {
			t.Errorf("tail: got %q, want %q", again, raw)
		}
	})
}

func FuzzDecodeError(f *testing.F) {
	f.Add(AppendErrorResponse(nil, Errorf(CodeSyntaxError, "no").WithPosition(3))[HeaderBytes:])
	f.Add([]byte("SERROR\x00Pxyz\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := DecodeError(b)
		if err != nil {
			return
		}
		if e.Severity == "" || e.Code == "" { // the encoder fills these in
			return
		}
		again, err := DecodeError(AppendErrorResponse(nil, e)[HeaderBytes:])
		if err != nil {
			t.Fatal(err)
		}
		if e.LocalizedSeverity == "" {
			again.LocalizedSeverity = ""
		}
		if diff := cmp.Diff(e, again); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzDecodeRowDescription(f *testing.F) {
	f.Add(AppendRowDescription(nil, []Column{TextColumn("a", OIDInt8), TextColumn("b", OIDText)})[HeaderBytes:])
	f.Fuzz(func(t *testing.T, b []byte) {
		cols, err := DecodeRowDescription(nil, b)
		if err != nil {
			return
		}
		if again := AppendRowDescription(nil, cols)[HeaderBytes:]; !bytes.Equal(again, b) {
			t.Errorf("got %q, want %q", again, b)
		}
	})
}

func FuzzDecodeDataRow(f *testing.F) {
	f.Add(AppendDataRow(nil, [][]byte{[]byte("a"), nil, {}})[HeaderBytes:])
	f.Fuzz(func(t *testing.T, b []byte) {
		row, err := DecodeDataRow(nil, b)
		if err != nil {
			return
		}
		if again := AppendDataRow(nil, row)[HeaderBytes:]; !bytes.Equal(again, b) {
			t.Errorf("got %q, want %q", again, b)
		}
	})
}

func FuzzDecodeAuthentication(f *testing.F) {
	f.Add(AppendAuthenticationOk(nil)[HeaderBytes:])
	f.Add(AppendAuthenticationMD5(nil, [4]byte{1, 2, 3, 4})[HeaderBytes:])
	f.Add(AppendAuthenticationSASL(nil, MechanismSCRAM)[HeaderBytes:])
	f.Add(AppendAuthenticationSASLFinal(nil, "v=x")[HeaderBytes:])
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeAuthentication(b)
		if err != nil {
			return
		}
		again, start := appendAuth(nil, a.Type)
		switch a.Type {
		case AuthMD5:
			again = append(again, a.Salt[:]...)
		case AuthSASL:
			again = AppendAuthenticationSASL(nil, a.Mechanisms...)
		default:
			again = append(again, a.Data...)
		}
		if again = end(again, start); !bytes.Equal(again[HeaderBytes:], b) {
			t.Errorf("got %q, want %q", again[HeaderBytes:], b)
		}
	})
}

// FuzzDecodeSmall covers the decoders whose message is one or two fields.
func FuzzDecodeSmall(f *testing.F) {
	for _, seed := range [][]byte{
		AppendQuery(nil, "select 1"), AppendDescribe(nil, TargetStatement, "s"), AppendExecute(nil, "p", 3), AppendReadyForQuery(nil, TxIdle),
		AppendParameterStatus(nil, "a", "b"), AppendBackendKeyData(nil, 1, []byte("abcd")), AppendParameterDescription(nil, []uint32{1}),
		AppendNegotiateProtocolVersion(nil, Version30, []string{"a"}), AppendNegotiateProtocolVersion(nil, 2, []string{"", "b"}),
		{0, 0, 0, 0, 0, 3, 0, 2, 255, 255, 255, 255, 0},
		AppendCopyInResponse(nil, FormatText, 2), AppendSASLInitialResponse(nil, "M", "d"),
	} {
		f.Add(seed[HeaderBytes:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(name string, err error, again []byte) {
			if err == nil && !bytes.Equal(again[HeaderBytes:], b) {
				t.Errorf("%s: got %q, want %q", name, again[HeaderBytes:], b)
			}
		}
		q, err := DecodeQuery(b)
		same("query", err, AppendQuery(nil, q))
		tag, err := DecodeCommandTag(b)
		same("tag", err, AppendCommandComplete(nil, tag))
		TagRows(tag)
		reason, err := DecodeCopyFail(b)
		same("copy fail", err, AppendCopyFail(nil, reason))
		d, err := DecodeDescribe(b)
		same("describe", err, AppendDescribe(nil, d.Kind, d.Name))
		c, err := DecodeClose(b)
		same("close", err, AppendClose(nil, c.Kind, c.Name))
		e, err := DecodeExecute(b)
		same("execute", err, AppendExecute(nil, e.Portal, uint32(e.MaxRows)))
		s, err := DecodeReadyForQuery(b)
		same("ready", err, AppendReadyForQuery(nil, s))
		n, v, err := DecodeParameterStatus(b)
		same("status", err, AppendParameterStatus(nil, n, v))
		pid, secret, err := DecodeBackendKeyData(b)
		same("key", err, AppendBackendKeyData(nil, pid, secret))
		types, err := DecodeParameterDescription(nil, b)
		same("parameter description", err, AppendParameterDescription(nil, types))
		p, err := DecodePassword(b)
		same("password", err, AppendPassword(nil, p))
		mech, data, err := DecodeSASLInitialResponse(b)
		if data != nil {
			same("sasl initial", err, AppendSASLInitialResponse(nil, string(mech), data))
		}
		if minor, unknown, err := DecodeNegotiateProtocolVersion(b); err == nil {
			again := AppendNegotiateProtocolVersion(nil, 3<<16|uint32(minor), unknown)[HeaderBytes:]
			same("negotiation", nil, append(slices.Concat(make([]byte, HeaderBytes), b[:2], again[2:4]), again[4:]...)) // its major number is not looked at
		}
		_, _, _ = DecodeCopyResponse(b)
		_ = DecodeEmpty(b)
	})
}
