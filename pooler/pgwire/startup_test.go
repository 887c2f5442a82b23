package pgwire

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStartupHeaderBounds(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint32]int{0: -1, 7: -1, 8: 8, 10_004: 10_004, 10_005: -1, 1 << 31: -1, 1<<32 - 1: -1} {
		if got, ok := StartupHeader(binary.BigEndian.AppendUint32(nil, n)); !ok || got != want {
			t.Errorf("length %d: got %d, %v, want %d", n, got, ok, want)
		}
	}
	if _, ok := StartupHeader([]byte{0, 0, 0}); ok {
		t.Error("three bytes are enough, want not")
	}
}

func TestDecodeStartupKinds(t *testing.T) {
	t.Parallel()
	long := []byte(strings.Repeat("k", 256))
	tests := []struct {
		name   string
		packet []byte
		want   Startup
	}{
		{"ssl", AppendSSLRequest(nil), Startup{Kind: StartupSSLRequest}},
		{"gss", AppendGSSENCRequest(nil), Startup{Kind: StartupGSSENCRequest}},
		{"cancel 3.0", AppendCancelRequest(nil, 42, []byte("abcd")), Startup{Kind: StartupCancelRequest, PID: 42, Secret: []byte("abcd")}},
		{"cancel 3.2", AppendCancelRequest(nil, 42, long), Startup{Kind: StartupCancelRequest, PID: 42, Secret: long}},
		{"message 3.2", AppendStartupMessage(nil, Version32, []Param{{"user", "u"}, {"user", "v"}, {"x", ""}}), Startup{
			Kind: StartupMessage, Major: 3, Minor: 2, Params: []Param{{"user", "u"}, {"user", "v"}, {"x", ""}},
		}},
		{"message 2.0", []byte("\x00\x00\x00\x0a\x00\x02\x00\x00??"), Startup{Kind: StartupMessage, Major: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := DecodeStartup(tt.packet)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeStartupRefuses(t *testing.T) {
	t.Parallel()
	const layout = "invalid startup packet layout: expected terminator as last byte"
	packet := func(code uint32, rest string) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(8+len(rest)))
		return append(binary.BigEndian.AppendUint32(b, code), rest...)
	}
	tests := []struct {
		name   string
		packet []byte
		text   string
	}{
		{"empty", nil, "invalid length of startup packet"},
		{"longer than its length", append(AppendSSLRequest(nil), 0), "invalid length of startup packet"},
		{"shorter than its length", AppendCancelRequest(nil, 1, []byte("abcd"))[:15], "invalid length of startup packet"},
		{"ssl with a body", packet(sslRequestCode, "x"), "invalid length of startup packet"},
		{"cancel without a secret", packet(cancelRequestCode, "\x00\x00\x00\x01"), "invalid length of cancel packet"},
		{"cancel with a short secret", packet(cancelRequestCode, "\x00\x00\x00\x01abc"), "invalid length of cancel packet"},
		{"cancel with a long secret", AppendCancelRequest(nil, 1, make([]byte, 257)), "invalid length of cancel packet"},
		{"no parameters, no end", packet(Version30, ""), layout},
		{"name without value", packet(Version30, "user\x00"), layout},
		{"value without end", packet(Version30, "user\x00x"), layout},
		{"no end", packet(Version30, "user\x00x\x00"), layout},
		{"bytes after the end", packet(Version30, "user\x00x\x00\x00y\x00"), layout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := DecodeStartup(tt.packet)
			errorText(t, err, CodeProtocolViolation, tt.text)
		})
	}
}

func TestStartupLookups(t *testing.T) {
	t.Parallel()
	s := Startup{Params: []Param{{"user", "a"}, {"_pq_.x", "1"}, {"database", ""}, {"user", "b"}, {"_pq_.y", ""}, {"pq", ""}}}
	if s.User() != "b" || s.Database() != "b" {
		t.Errorf("got user %q, database %q, want b, b", s.User(), s.Database())
	}
	if diff := cmp.Diff([]string{"_pq_.x", "_pq_.y"}, s.ProtocolOptions()); diff != "" {
		t.Error(diff)
	}
	if _, ok := s.Lookup("nothing"); ok {
		t.Error("found a parameter that is not there")
	}
}

func TestParseOptions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   string
		want []Param
	}{
		{"", nil},
		{" \t\n ", nil},
		{"-c a=b", []Param{{"a", "b"}}},
		{"-ca=b", []Param{{"a", "b"}}},
		{"  -c  a=b  --c-d=e ", []Param{{"a", "b"}, {"c_d", "e"}}},
		{"-c a-b=c-d", []Param{{"a_b", "c-d"}}},
		{"-c a=", []Param{{"a", ""}}},
		{"-c a=b=c", []Param{{"a", "b=c"}}},
		{`-c search_path=a,\ b`, []Param{{"search_path", "a, b"}}},
		{`-c a=\\b`, []Param{{"a", `\b`}}},
		{`-c a=\b`, []Param{{"a", "b"}}},
		{`-c a=b\`, []Param{{"a", "b"}}},
		{"-c 'a=b'", []Param{{"'a", "b'"}}},
		{"-c a=1 -c a=2", []Param{{"a", "1"}, {"a", "2"}}},
		{"-c geqo=off --statement-timeout=5min", []Param{{"geqo", "off"}, {"statement_timeout", "5min"}}},
		{"-e -S 64MB", []Param{{"datestyle", "euro"}, {"work_mem", "64MB"}}},
		{"-fs -f h", []Param{{"enable_seqscan", "false"}, {"enable_hashjoin", "false"}}},
		{"-ePc a=b", []Param{{"datestyle", "euro"}, {"ignore_system_indexes", "true"}, {"a", "b"}}},
		{"-tpa -t pl -t ex", []Param{{"log_parser_stats", "true"}, {"log_planner_stats", "true"}, {"log_executor_stats", "true"}}},
		{"-d 0", []Param{{"log_min_messages", "notice"}}},
		{"-d3", []Param{{"log_min_messages", "debug3"}, {"log_statement", "all"}, {"debug_print_parse", "true"}}},
		{"-B 1 -F -h x -i -k d -l -N 3 -O -p 1 -s -W 2", []Param{
			{"shared_buffers", "1"},
			{"fsync", "false"},
			{"listen_addresses", "x"},
			{"listen_addresses", "*"},
			{"unix_socket_directories", "d"},
			{"ssl", "true"},
			{"max_connections", "3"},
			{"allow_system_table_mods", "true"},
			{"port", "1"},
			{"log_statement_stats", "true"},
			{"post_auth_delay", "2"},
		}},
		{"-b -C x -D x -E -j -n -r x -T -v 3 --", nil},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			t.Parallel()
			got, err := ParseOptions(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseOptionsRefuses(t *testing.T) {
	t.Parallel()
	bad := func(s string) string { return "invalid command-line argument for server process: " + s }
	for in, text := range map[string]string{
		"-c a":       "-c a requires a value",
		"--abc":      "--abc requires a value",
		"-c":         bad("-c"),
		"x":          bad("x"),
		"-":          bad("-"),
		"-q":         bad("-q"),
		"-:":         bad("-:"),
		"-c a=b x":   bad("x"),
		"-fz":        bad("-fz"),
		"-f z":       bad("z"),
		"-t x":       bad("x"),
		"-- -c a=b":  bad("-c"),
		"-ex":        bad("-ex"),
		`-c a=b \  `: bad(" "),
	} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			_, err := ParseOptions(in)
			errorText(t, err, CodeSyntaxError, text)
		})
	}
}

func TestJoinOptionsIsReadBack(t *testing.T) {
	t.Parallel()
	want := []Param{{"search_path", `"a b", c\d`}, {"app.x", "tab\there"}, {"e", ""}, {"q", `'"`}}
	got, err := ParseOptions(JoinOptions(want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
