package pgwire

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgproto3"
)

// These tests hold the package against pgproto3, an implementation that shares nothing with it: the same message must have the
// same bytes, and each must read what the other wrote.

type encoder interface {
	Encode(dst []byte) ([]byte, error)
}

func encode(t testing.TB, m encoder) []byte {
	t.Helper()
	b, err := m.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEncodersAgreeWithPgproto3(t *testing.T) {
	t.Parallel()
	val := []byte("va\x00lue")
	tests := []struct {
		name string
		got  []byte
		want encoder
	}{
		{"StartupMessage", AppendStartupMessage(nil, Version30, []Param{{"user", "u"}}), &pgproto3.StartupMessage{ProtocolVersion: Version30, Parameters: map[string]string{"user": "u"}}},
		{"SSLRequest", AppendSSLRequest(nil), &pgproto3.SSLRequest{}},
		{"GSSENCRequest", AppendGSSENCRequest(nil), &pgproto3.GSSEncRequest{}},
		{"CancelRequest", AppendCancelRequest(nil, 7, []byte("abcdefgh")), &pgproto3.CancelRequest{ProcessID: 7, SecretKey: []byte("abcdefgh")}},
		{"Query", AppendQuery(nil, "select 1"), &pgproto3.Query{String: "select 1"}},
		{"Parse", AppendParse(nil, []byte("n"), "select 1", []uint32{20, 0}), &pgproto3.Parse{Name: "n", Query: "select 1", ParameterOIDs: []uint32{20, 0}}},
		{"Bind text", AppendBind(nil, "p", "s", FormatText, [][]byte{val, nil, {}}, FormatText), &pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "s", Parameters: [][]byte{val, nil, {}}}},
		{"Bind binary", AppendBind(nil, "p", "s", FormatBinary, [][]byte{val}, FormatBinary), &pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "s", ParameterFormatCodes: []int16{1}, Parameters: [][]byte{val}, ResultFormatCodes: []int16{1}}},
		{"Describe", AppendDescribe(nil, TargetStatement, "s"), &pgproto3.Describe{ObjectType: 'S', Name: "s"}},
		{"Close", AppendClose(nil, TargetPortal, "p"), &pgproto3.Close{ObjectType: 'P', Name: "p"}},
		{"Execute", AppendExecute(nil, "p", 9), &pgproto3.Execute{Portal: "p", MaxRows: 9}},
		{"Flush", AppendFlush(nil), &pgproto3.Flush{}},
		{"Sync", AppendSync(nil), &pgproto3.Sync{}},
		{"Terminate", AppendTerminate(nil), &pgproto3.Terminate{}},
		{"CopyData", AppendCopyData(nil, val), &pgproto3.CopyData{Data: val}},
		{"CopyDone", AppendCopyDone(nil), &pgproto3.CopyDone{}},
		{"CopyFail", AppendCopyFail(nil, "no"), &pgproto3.CopyFail{Message: "no"}},
		{"Password", AppendPassword(nil, "secret"), &pgproto3.PasswordMessage{Password: "secret"}},
		{"SASLInitialResponse", AppendSASLInitialResponse(nil, MechanismSCRAM, "n,,n=,r=x"), &pgproto3.SASLInitialResponse{AuthMechanism: MechanismSCRAM, Data: []byte("n,,n=,r=x")}},
		{"SASLResponse", AppendSASLResponse(nil, "c=biws"), &pgproto3.SASLResponse{Data: []byte("c=biws")}},
		{"AuthenticationOk", AppendAuthenticationOk(nil), &pgproto3.AuthenticationOk{}},
		{"AuthenticationCleartext", AppendAuthenticationCleartext(nil), &pgproto3.AuthenticationCleartextPassword{}},
		{"AuthenticationMD5", AppendAuthenticationMD5(nil, [4]byte{1, 2, 3, 4}), &pgproto3.AuthenticationMD5Password{Salt: [4]byte{1, 2, 3, 4}}},
		{"AuthenticationSASL", AppendAuthenticationSASL(nil, MechanismSCRAM, "X"), &pgproto3.AuthenticationSASL{AuthMechanisms: []string{MechanismSCRAM, "X"}}},
		{"AuthenticationSASLContinue", AppendAuthenticationSASLContinue(nil, "r=x"), &pgproto3.AuthenticationSASLContinue{Data: []byte("r=x")}},
		{"AuthenticationSASLFinal", AppendAuthenticationSASLFinal(nil, "v=x"), &pgproto3.AuthenticationSASLFinal{Data: []byte("v=x")}},
		{"BackendKeyData", AppendBackendKeyData(nil, 7, []byte("abcdefgh")), &pgproto3.BackendKeyData{ProcessID: 7, SecretKey: []byte("abcdefgh")}},
		{"ParameterStatus", AppendParameterStatus(nil, "TimeZone", "UTC"), &pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"}},
		{"ReadyForQuery", AppendReadyForQuery(nil, TxFailed), &pgproto3.ReadyForQuery{TxStatus: 'E'}},
		{"CommandComplete", AppendCommandComplete(nil, "SELECT 1"), &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}},
		{"EmptyQuery", AppendEmptyQuery(nil), &pgproto3.EmptyQueryResponse{}},
		{"ParseComplete", AppendParseComplete(nil), &pgproto3.ParseComplete{}},
		{"BindComplete", AppendBindComplete(nil), &pgproto3.BindComplete{}},
		{"CloseComplete", AppendCloseComplete(nil), &pgproto3.CloseComplete{}},
		{"NoData", AppendNoData(nil), &pgproto3.NoData{}},
		{"PortalSuspended", AppendPortalSuspended(nil), &pgproto3.PortalSuspended{}},
		{"RowDescription", AppendRowDescription(nil, []Column{TextColumn("a", OIDText), {Name: "b", TableOID: 5, Attr: 2, TypeOID: 23, TypeSize: 4, TypeMod: 8, Format: FormatBinary}}), &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
			{Name: []byte("a"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1},
			{Name: []byte("b"), TableOID: 5, TableAttributeNumber: 2, DataTypeOID: 23, DataTypeSize: 4, TypeModifier: 8, Format: 1},
		}}},
		{"DataRow", AppendDataRow(nil, [][]byte{val, nil, {}}), &pgproto3.DataRow{Values: [][]byte{val, nil, {}}}},
		{"TextRow", AppendTextRow(nil, "a", ""), &pgproto3.DataRow{Values: [][]byte{[]byte("a"), {}}}},
		{"ParameterDescription", AppendParameterDescription(nil, []uint32{20, 25}), &pgproto3.ParameterDescription{ParameterOIDs: []uint32{20, 25}}},
		{"CopyInResponse", AppendCopyInResponse(nil, FormatBinary, 2), &pgproto3.CopyInResponse{OverallFormat: 1, ColumnFormatCodes: []uint16{1, 1}}},
		{"CopyOutResponse", AppendCopyOutResponse(nil, FormatText, 1), &pgproto3.CopyOutResponse{ColumnFormatCodes: []uint16{0}}},
		{"NegotiateProtocolVersion", AppendNegotiateProtocolVersion(nil, Version30, []string{"_pq_.x"}), &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: Version30, UnrecognizedOptions: []string{"_pq_.x"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if want := encode(t, tt.want); !bytes.Equal(tt.got, want) {
				t.Errorf("got  %q\nwant %q", tt.got, want)
			}
		})
	}
}

func TestErrorsTravelBothWays(t *testing.T) {
	t.Parallel()
	ours := &Error{
		Severity: "ERROR", LocalizedSeverity: "FEHLER", Code: "42P01", Message: "m", Detail: "d", Hint: "h", Position: 3,
		InternalPosition: 4, InternalQuery: "iq", Where: "w", Schema: "s", Table: "t", Column: "c", DataType: "dt",
		Constraint: "n", File: "f.c", Line: 12, Routine: "r", Extra: []ErrorField{{'x', "extra"}},
	}
	theirs := &pgproto3.ErrorResponse{
		Severity: "FEHLER", SeverityUnlocalized: "ERROR", Code: "42P01", Message: "m", Detail: "d", Hint: "h", Position: 3,
		InternalPosition: 4, InternalQuery: "iq", Where: "w", SchemaName: "s", TableName: "t", ColumnName: "c", DataTypeName: "dt",
		ConstraintName: "n", File: "f.c", Line: 12, Routine: "r", UnknownFields: map[byte]string{'x': "extra"},
	}
	var decoded pgproto3.ErrorResponse
	if err := decoded.Decode(body(t, AppendErrorResponse(nil, ours), MsgErrorResponse)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*theirs, decoded); diff != "" {
		t.Error(diff)
	}
	got, err := DecodeError(body(t, encode(t, theirs), MsgErrorResponse))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ours, got); diff != "" {
		t.Error(diff)
	}
	got, err = DecodeError(body(t, AppendNoticeResponse(nil, ours), MsgNoticeResponse))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ours, got); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsWithMissingOrOddFields(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, body string
		want       Error
	}{
		{"nothing at all", "\x00", Error{}},
		{"no unlocalised severity", "SFATAL\x00Mm\x00\x00", Error{Severity: "FATAL", Message: "m"}},
		{"position is no number", "VERROR\x00SERROR\x00Pabc\x00L-4\x00\x00", Error{Severity: "ERROR", Extra: []ErrorField{{'P', "abc"}, {'L', "-4"}}}},
		{"repeated", "VERROR\x00SERROR\x00Ma\x00Mb\x00\x00", Error{Severity: "ERROR", Message: "b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := DecodeError([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	var sent pgproto3.ErrorResponse
	if err := sent.Decode(body(t, AppendErrorResponse(nil, &Error{Extra: []ErrorField{{0, "x"}}}), MsgErrorResponse)); err != nil {
		t.Fatal(err)
	}
	if sent.Severity != "ERROR" || sent.SeverityUnlocalized != "ERROR" || sent.Code != "XX000" {
		t.Errorf("got %+v, want defaults", sent)
	}
}

func TestErrorSettersLeaveTheOriginalAlone(t *testing.T) {
	t.Parallel()
	e := Errorf(CodeSyntaxError, "100% wrong")
	d := e.WithDetail("%d", 1).WithHint("h").WithRoutine("r").WithPosition(5).WithSeverity(SeverityFatal)
	if diff := cmp.Diff(&Error{Severity: "ERROR", Code: "42601", Message: "100% wrong"}, e); diff != "" {
		t.Error(diff)
	}
	want := &Error{Severity: "FATAL", Code: "42601", Message: "100% wrong", Detail: "1", Hint: "h", Routine: "r", Position: 5}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	if e.IsFatal() || !d.IsFatal() || e.Error() != "42601: 100% wrong" || (&Error{Message: "m"}).Error() != "m" {
		t.Error("wrong severity or text")
	}
}

func TestDecodersReadPgproto3(t *testing.T) {
	t.Parallel()
	bind := &pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "s", ParameterFormatCodes: []int16{0, 1}, Parameters: [][]byte{[]byte("a"), nil}, ResultFormatCodes: []int16{1, 0, 1}}
	b, err := DecodeBind(body(t, encode(t, bind), MsgBind))
	if err != nil {
		t.Fatal(err)
	}
	v, null := b.Param(0)
	if _, null1 := b.Param(1); string(v) != "a" || null || !null1 || b.Format(1) != FormatBinary || b.ResultFormat(2) != FormatBinary {
		t.Errorf("bind: got %+v", b)
	}
	rows := &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("a"), TableOID: 1, TableAttributeNumber: 2, DataTypeOID: 3, DataTypeSize: -2, TypeModifier: -1, Format: 1}}}
	cols, err := DecodeRowDescription(nil, body(t, encode(t, rows), MsgRowDescription))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Column{{Name: "a", TableOID: 1, Attr: 2, TypeOID: 3, TypeSize: -2, TypeMod: -1, Format: FormatBinary}}, cols); diff != "" {
		t.Error(diff)
	}
	row, err := DecodeDataRow(nil, body(t, encode(t, &pgproto3.DataRow{Values: [][]byte{[]byte("a"), nil, {}}}), MsgDataRow))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]byte{[]byte("a"), nil, {}}, row); diff != "" || row[2] == nil {
		t.Error(diff)
	}
	mech, data, err := DecodeSASLInitialResponse(body(t, encode(t, &pgproto3.SASLInitialResponse{AuthMechanism: "M", Data: []byte("d")}), MsgPassword))
	if err != nil || string(mech) != "M" || string(data) != "d" {
		t.Errorf("sasl initial: got %q %q %v", mech, data, err)
	}
	oids, err := DecodeParameterDescription(nil, body(t, encode(t, &pgproto3.ParameterDescription{ParameterOIDs: []uint32{1, 2}}), MsgParameterDescription))
	if err != nil || !cmp.Equal(oids, []uint32{1, 2}) {
		t.Errorf("parameter description: got %v %v", oids, err)
	}
	minor, opts, err := DecodeNegotiateProtocolVersion(body(t, encode(t, &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: Version32, UnrecognizedOptions: []string{"a", "b"}}), MsgNegotiateProtocolVersion))
	if err != nil || minor != 2 || !cmp.Equal(opts, []string{"a", "b"}) {
		t.Errorf("negotiate: got %d %v %v", minor, opts, err)
	}
	format, n, err := DecodeCopyResponse(body(t, encode(t, &pgproto3.CopyInResponse{OverallFormat: 1, ColumnFormatCodes: []uint16{1, 1}}), MsgCopyIn))
	if err != nil || format != FormatBinary || n != 2 {
		t.Errorf("copy: got %d %d %v", format, n, err)
	}
	pid, secret, err := DecodeBackendKeyData(body(t, encode(t, &pgproto3.BackendKeyData{ProcessID: 9, SecretKey: []byte("abcd")}), MsgBackendKeyData))
	if err != nil || pid != 9 || string(secret) != "abcd" {
		t.Errorf("key data: got %d %q %v", pid, secret, err)
	}
}

func TestDecodeAuthenticationKinds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in   []byte
		want Authentication
	}{
		{AppendAuthenticationOk(nil), Authentication{Type: AuthOk}},
		{AppendAuthenticationMD5(nil, [4]byte{9, 8, 7, 6}), Authentication{Type: AuthMD5, Salt: [4]byte{9, 8, 7, 6}}},
		{AppendAuthenticationSASL(nil, "A", "B"), Authentication{Type: AuthSASL, Mechanisms: []string{"A", "B"}}},
		{AppendAuthenticationSASLContinue(nil, "x"), Authentication{Type: AuthSASLContinue, Data: []byte("x")}},
		{[]byte("R\x00\x00\x00\x0a\x00\x00\x00\x63zz"), Authentication{Type: 99, Data: []byte("zz")}},
	} {
		t.Run(tt.want.Type.String(), func(t *testing.T) {
			t.Parallel()
			got, err := DecodeAuthentication(body(t, tt.in, MsgAuthentication))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := AuthType(99).String(); !strings.Contains(got, "99") {
		t.Errorf("got %q", got)
	}
}
