package pgwire_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// These tests ask PostgreSQL itself.

func TestMain(m *testing.M) { pgtest.Main(m) }

// same checks that an error of ours is the one PostgreSQL gave.
func same(t *testing.T, err error, want *pgproto3.ErrorResponse) {
	t.Helper()
	got, ok := errors.AsType[*pgwire.Error](err)
	if !ok {
		t.Fatalf("got %v, want %s: %s", err, want.Code, want.Message)
	}
	if got.Code != want.Code || got.Message != want.Message || got.Detail != want.Detail {
		t.Errorf("got %v (%s), want %s: %s (%s)", got, got.Detail, want.Code, want.Message, want.Detail)
	}
}

func TestBrokenMessagesGetPostgreSQLsAnswer(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	parse := func(b []byte) error { _, err := pgwire.DecodeParse(b); return err }
	bind := func(b []byte) error { _, err := pgwire.DecodeBind(b); return err }
	describe := func(b []byte) error { _, err := pgwire.DecodeDescribe(b); return err }
	closing := func(b []byte) error { _, err := pgwire.DecodeClose(b); return err }
	execute := func(b []byte) error { _, err := pgwire.DecodeExecute(b); return err }
	query := func(b []byte) error { _, err := pgwire.DecodeQuery(b); return err }
	tests := []struct {
		name   string
		typ    byte
		body   string
		decode func([]byte) error
	}{
		{"query without terminator", 'Q', "select 1", query},
		{"query empty", 'Q', "", query},
		{"query with a tail", 'Q', "select 1\x00x", query},
		{"parse without name", 'P', "a", parse},
		{"parse without text", 'P', "\x00select 1", parse},
		{"parse without count", 'P', "\x00select 1\x00\x00", parse},
		{"parse with too few types", 'P', "\x00select 1\x00\x00\x02\x00\x00\x00\x14", parse},
		{"parse with a tail", 'P', "\x00select 1\x00\x00\x00x", parse},
		{"bind without statement", 'B', "\x00s1", bind},
		{"bind without formats", 'B', "\x00s1\x00", bind},
		{"bind with cut formats", 'B', "\x00s1\x00\x00\x02\x00\x01", bind},
		{"bind with a count mismatch", 'B', "\x00s1\x00\x00\x02\x00\x00\x00\x01\x00\x01\xff\xff\xff\xff\x00\x00", bind},
		{"bind with a cut value", 'B', "\x00s1\x00\x00\x00\x00\x01\x00\x00\x00\x05abcd", bind},
		{"bind with length -2", 'B', "\x00s1\x00\x00\x00\x00\x01\xff\xff\xff\xfe\x00\x00", bind},
		{"bind with a huge length", 'B', "\x00s1\x00\x00\x00\x00\x01\x7f\xff\xff\xff\x00\x00", bind},
		{"bind with format 2", 'B', "\x00s1\x00\x00\x01\x00\x02\x00\x01\xff\xff\xff\xff\x00\x00", bind},
		{"bind with format -1", 'B', "\x00s1\x00\x00\x01\xff\xff\x00\x01\x00\x00\x00\x01a\x00\x00", bind},
		{"bind without result formats", 'B', "\x00s1\x00\x00\x00\x00\x01\xff\xff\xff\xff", bind},
		{"bind with a tail", 'B', "\x00s1\x00\x00\x00\x00\x01\xff\xff\xff\xff\x00\x00x", bind},
		{"describe empty", 'D', "", describe},
		{"describe of a number", 'D', "1\x00", describe},
		{"describe with a tail", 'D', "S\x00x", describe},
		{"close of a number", 'C', "1\x00", closing},
		{"close without terminator", 'C', "Sx", closing},
		{"execute without limit", 'E', "\x00\x00\x00\x00", execute},
		{"execute with a tail", 'E', "\x00\x00\x00\x00\x00\x00", execute},
		{"sync with a body", 'S', "x", pgwire.DecodeEmpty},
		{"flush with a body", 'H', "x", pgwire.DecodeEmpty},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := pg.Connect(t, pgtest.Login{User: "postgres", Database: "postgres"})
			c.Send(&pgproto3.Parse{Name: "s1", Query: "select $1::text"}, &pgproto3.Sync{})
			c.UntilReady()
			frame := append([]byte{tt.typ, 0, 0, 0, byte(len(tt.body) + 4)}, tt.body...)
			c.Write(frame)
			c.Write(pgwire.AppendSync(nil))
			want := pgtest.Failure(c.UntilReady())
			if want == nil {
				t.Fatal("PostgreSQL accepts the message")
			}
			same(t, tt.decode([]byte(tt.body)), want)
		})
	}
}

func TestOptionsMeanWhatPostgreSQLTakesThemFor(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	for _, options := range []string{
		"", "-c work_mem=7MB", "-cwork_mem=7MB", "  -c  geqo=off --work-mem=8MB ", `-c application_name=a\ b`, `-c application_name=a\\b`,
		`-c application_name=a\b`, `-c application_name=x\`, "-c application_name='a'", "-c geqo=on -c geqo=off", "-e -S 5000", "-fs -f h",
		"-eOc geqo=off", "-c application_name=a=b", "-c application_name=", "-s", "-tpa -t pl", "-d 2", "-d0", "-W 0", "-c app.x-y=1", "-b -j --",
		"-c work_mem", "--work_mem", "-c", "x", "-", "-q", "-:", "-c geqo=off x", "-fz", "-f ss", "-f z", "-t x", "-eqP", "-qe", "-c geqo=off -eqP", "-- -c geqo=off", "-ex", `\ `, `-c geqo=off \  `,
		"-h x", "-p 1", "-B 16", "-F", "-l", "-i", "-N 3", "-k /tmp", "-c nonsense=1", "-c geqo=perhaps", "-S abc",
	} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			params, err := pgwire.ParseOptions(options)
			login := pgtest.Login{User: "postgres", Database: "postgres", Params: map[string]string{"options": options}}
			c := pgtest.Dial(t, pg.Addr())
			loginErr := c.Login(login)
			refused, _ := errors.AsType[*pgtest.ServerError](loginErr)
			switch {
			case err != nil && refused != nil:
				same(t, err, refused.ErrorResponse)
			case err != nil:
				t.Errorf("got %v, want none", err)
			case refused != nil: // a value or a name that PostgreSQL does not take, which is not for us to know: SET does not take it either
				reference := pg.Connect(t, pgtest.Login{User: "postgres", Database: "postgres"})
				taken := true
				for _, p := range params {
					taken = taken && pgtest.Failure(reference.Extended("SELECT set_config($1, $2, false)", p.Name, p.Value)) == nil
				}
				if taken || len(params) == 0 {
					t.Errorf("got %v, want %s: %s", params, refused.Code, refused.Message)
				}
			case loginErr != nil:
				t.Fatal(loginErr)
			default:
				seen := map[string]bool{}
				for _, p := range slices.Backward(params) { // the last of a name counts
					if seen[p.Name] {
						continue
					}
					seen[p.Name] = true
					got := pgtest.Rows(c.Extended("SELECT current_setting($1)", p.Name))
					c.Extended("SELECT set_config($1, $2, false)", p.Name, p.Value)
					want := pgtest.Rows(c.Extended("SELECT current_setting($1)", p.Name))
					if !slices.Equal(got, want) {
						t.Errorf("%s: got %q, want %q", p.Name, want, got)
					}
				}
			}
		})
	}
}

func TestBrokenStartupPacketsGetPostgreSQLsAnswer(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	tests := []struct{ name, rest string }{ // what follows the length word
		{"no terminator", "\x00\x03\x00\x00user\x00postgres\x00"},
		{"name without value", "\x00\x03\x00\x00user\x00"},
		{"value without end", "\x00\x03\x00\x00user\x00postgres"},
		{"bytes behind the end", "\x00\x03\x00\x00user\x00postgres\x00\x00x\x00"},
		{"nothing at all", "\x00\x03\x00\x00"},
		{"version 4.1", "\x00\x04\x00\x01user\x00postgres\x00\x00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			packet := append([]byte{0, 0, 0, byte(len(tt.rest) + 4)}, tt.rest...)
			c := pgtest.Dial(t, pg.Addr())
			c.Write(packet)
			want, ok := c.Receive().(*pgproto3.ErrorResponse)
			if !ok {
				t.Fatal("PostgreSQL accepts the packet")
			}
			s, err := pgwire.DecodeStartup(packet)
			if err == nil && s.Major != 3 {
				err = pgwire.UnsupportedProtocol(s.Major, s.Minor, 0) // 3.0 is the newest that this PostgreSQL speaks
			}
			same(t, err, want)
		})
	}
}
