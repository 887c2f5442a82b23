package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Messages whose inside is wrong get PostgreSQL's answer, and the session goes on where it goes on there.
func TestHostileMessages(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "")
	s.witness(t)
	parseOne := string(honest('P', "\x00SELECT $1::int\x00\x00\x00"))
	sync := string(honest('S', ""))
	bindOf := func(body string) string { return parseOne + string(honest('B', body)) }
	corpus := map[string]string{
		"Query without terminator":            string(honest('Q', "SELECT 1")),
		"Query of nothing":                    string(honest('Q', "")),
		"Query with a byte behind":            string(honest('Q', "SELECT 1\x00x")),
		"Parse without terminator":            string(honest('P', "\x00SELECT 1")) + sync,
		"Parse of nothing":                    string(honest('P', "")) + sync,
		"Parse without types":                 string(honest('P', "\x00SELECT 1\x00")) + sync,
		"Parse with too few types":            string(honest('P', "\x00SELECT 1\x00\x00\x02\x00\x00\x00\x17")) + sync,
		"Parse with too many types":           string(honest('P', "\x00SELECT 1\x00\x00\x00\x00\x00\x00\x17")) + sync,
		"Parse with 65,535 types":             string(honest('P', "\x00SELECT 1\x00\xff\xff")) + sync,
		"Parse of an unknown type":            string(honest('P', "\x00SELECT $1\x00\x00\x01\xff\xff\xff\xff")) + sync,
		"Bind of nothing":                     bindOf("") + sync,
		"Bind without statement":              bindOf("\x00") + sync,
		"Bind with more formats than values":  bindOf("\x00\x00\x00\x02\x00\x00\x00\x00\x00\x01\x00\x00\x00\x011\x00\x00") + sync,
		"Bind of format 7":                    bindOf("\x00\x00\x00\x01\x00\x07\x00\x01\x00\x00\x00\x011\x00\x00") + sync,
		"Bind of result format 7":             bindOf("\x00\x00\x00\x00\x00\x01\x00\x00\x00\x011\x00\x01\x00\x07") + string(honest('E', "\x00\x00\x00\x00\x00")) + sync,
		"Bind of too many result formats":     bindOf("\x00\x00\x00\x00\x00\x01\x00\x00\x00\x011\x00\x03\x00\x00\x00\x00\x00\x00") + sync,
		"Bind of a value beyond the message":  bindOf("\x00\x00\x00\x00\x00\x01\x7f\xff\xff\xff1\x00\x00") + sync,
		"Bind of a value of -2":               bindOf("\x00\x00\x00\x00\x00\x01\xff\xff\xff\xfe\x00\x00") + sync,
		"Bind with 65,535 values":             bindOf("\x00\x00\x00\x00\xff\xff") + sync,
		"Bind with bytes behind":              bindOf("\x00\x00\x00\x00\x00\x01\x00\x00\x00\x011\x00\x00x") + sync,
		"Bind with too few values":            bindOf("\x00\x00\x00\x00\x00\x00\x00\x00") + sync,
		"Bind of binary that is too short":    bindOf("\x00\x00\x00\x01\x00\x01\x00\x01\x00\x00\x00\x011\x00\x00") + sync,
		"Bind of what is not there":           string(honest('B', "\x00nobody\x00\x00\x00\x00\x00\x00\x00")) + sync,
		"Describe of kind X":                  string(honest('D', "Xa\x00")) + sync,
		"Describe without terminator":         string(honest('D', "Sa")) + sync,
		"Describe of nothing":                 string(honest('D', "")) + sync,
		"Close of kind X":                     string(honest('C', "Xa\x00")) + sync,
		"Close without terminator":            string(honest('C', "Sa")) + sync,
		"Execute without rows":                string(honest('E', "\x00")) + sync,
		"Execute of nothing":                  string(honest('E', "")) + sync,
		"Execute with bytes behind":           string(honest('E', "\x00\x00\x00\x00\x00x")) + sync,
		"Execute of what is not there":        string(honest('E', "nobody\x00\x00\x00\x00\x00")) + sync,
		"Sync with bytes":                     string(honest('S', "x")),
		"Flush with bytes":                    string(honest('H', "x")) + sync,
		"CopyData outside of COPY":            string(honest('d', "1\t2\n")) + sync,
		"CopyDone outside of COPY":            string(honest('c', "")) + sync,
		"CopyFail outside of COPY":            string(honest('f', "no\x00")) + sync,
		"CopyFail without terminator":         string(honest('f', "no")) + sync,
		"a password after the login":          string(honest('p', "secret\x00")),
		"a startup packet after the login":    string(startupPacket(version30, "user", user)),
		"an SSLRequest after the login":       string(sslRequest),
		"a Query in COPY":                     string(honest('Q', "COPY notes FROM STDIN\x00")) + string(honest('Q', "SELECT 1\x00")),
		"a wrong type in COPY":                string(honest('Q', "COPY notes FROM STDIN\x00")) + string(honest('Z', "I")),
		"CopyFail without terminator in COPY": string(honest('Q', "COPY notes FROM STDIN\x00")) + string(honest('f', "no")),
		"CopyDone with bytes":                 string(honest('Q', "COPY notes FROM STDIN\x00")) + string(honest('c', "x")),
		"NUL in the middle of a Query":        string(honest('Q', "SELECT 1\x00; SELECT 2\x00")),
		"bytes that are no UTF-8":             string(honest('Q', "SELECT '\xff\xfe'\x00")),
		"bytes that are no UTF-8 in a value":  string(honest('P', "\x00SELECT $1::text\x00\x00\x00")) + string(honest('B', "\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02\xff\xfe\x00\x00")) + string(honest('E', "\x00\x00\x00\x00\x00")) + sync,
	}
	differs := map[string]string{ // from PostgreSQL
		// Bytes that mean nothing are not looked at.
		"Sync with bytes": "ZI", "Flush with bytes": "ZI",
	}
	server := s.shards[0]
	for name, bytes := range corpus {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ask := func(addr, database string) (got string) {
				c := pgtest.Connect(t, addr, pgtest.Login{User: user, Database: database, Password: password})
				c.Conn.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // reads tell
				c.Conn.Write([]byte(bytes))                  //nolint:errcheck // the other side may be faster
				if got = untilReady(t, c.Conn); strings.Contains(got, "closed") {
					return got
				}
				c.Conn.Write(honest('Q', "SELECT 2\x00")) //nolint:errcheck // the other side may be faster
				return got + " | " + untilReady(t, c.Conn)
			}
			got, want := ask(s.addr, cluster), ask(server.Addr(), server.db)
			if other, ok := differs[name]; ok {
				if want = other; !strings.HasSuffix(want, "closed") {
					want += " | T, D, C, ZI"
				}
			}
			if got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}
