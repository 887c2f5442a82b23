package auth

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// The example of RFC 7677, section 3.
const (
	rfcClientFirst = "n=user,r=rOprNGfwEbeRWgbNEkqO"
	rfcNonce       = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	rfcServerFirst = "r=" + rfcNonce + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	rfcClientFinal = "c=biws,r=" + rfcNonce + ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	rfcServerFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

func TestRFC7677Client(t *testing.T) {
	t.Parallel()
	c := NewClient("user", NewClientCredential("pencil"), nil)
	c.state, c.nonce, c.clientFirst = clientFirst, "rOprNGfwEbeRWgbNEkqO", rfcClientFirst
	out, done, err := c.Step(nil, pgwire.AppendAuthenticationSASLContinue(nil, rfcServerFirst)[pgwire.HeaderBytes:])
	if err != nil || done {
		t.Fatal(done, err)
	}
	if got := string(out[pgwire.HeaderBytes:]); got != rfcClientFinal {
		t.Errorf("got  %s\nwant %s", got, rfcClientFinal)
	}
	if _, _, err = c.Step(nil, pgwire.AppendAuthenticationSASLFinal(nil, rfcServerFinal)[pgwire.HeaderBytes:]); err != nil {
		t.Errorf("got %v, want none", err)
	}
}

func TestRFC7677Server(t *testing.T) {
	t.Parallel()
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*Verifier{PlainPassword("pencil"), MakeVerifier("pencil", salt, 4096)} {
		s := NewServer(MethodSCRAM, "user", NewCredential(v), nil)
		s.Start(nil)
		s.scram = scramServer{
			state: awaitClientFinal, cbindFlag: 'n', nonce: rfcNonce, clientFirst: rfcClientFirst, serverFirst: rfcServerFirst,
			challenge: challenge{salt: salt, iter: 4096},
		}
		out, res := s.Step(nil, []byte(rfcClientFinal))
		if res.Err != nil || !res.Done {
			t.Fatal(res.Err)
		}
		if got := string(out[pgwire.HeaderBytes+4:]); got != rfcServerFinal {
			t.Errorf("%v: got %s, want %s", v, got, rfcServerFinal)
		}
	}
}

// oddPasswords are those where preparation matters.
var oddPasswords = []string{
	"secret", "with space", "tab\there", "\x01\x7f", "pässword", "pa\u0308ssword", "\u2168", "I\u00adX", "\u00aa", "x\u00a0y", "x\u200by", "\u00ad",
	"\u0627\u0628\u062a", "\u06271", "\u0627a\u0628", "a\u0627", "e\u0301\ufb01", "🔑 emoji", "x\ue000y", "\u0221", "ﬃ①", "\u2028x", "\ufeffx", "\u1806x", "Ω\u2126",
}

func TestVerifiersEqualWhatPostgreSQLStores(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	for _, password := range oddPasswords {
		user := pg.CreateUser(t, password, "scram-sha-256")
		stored := pg.Query(t, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = $1", user)[0]
		v := mustParse(t, stored)
		if got, _ := MakeVerifier(password, v.salt, v.iter).Encode(); got != stored {
			t.Errorf("password %+q: got another verifier than PostgreSQL", password)
		}
		if got, _ := MakeVerifier(password+"x", v.salt, v.iter).Encode(); got == stored {
			t.Errorf("password %+q: another password gives the same verifier", password)
		}
	}
	user := pg.CreateUser(t, "secret", "md5")
	stored := pg.Query(t, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = $1", user)[0]
	if want := md5Of(user, "secret"); stored != want {
		t.Errorf("got %q, want %q", want, stored)
	}
}

// badExchanges are what broken clients send: an initial response, and a final one where the server gets so far. {nonce} is the nonce the
// server gave.
var badExchanges = []struct{ name, mechanism, first, final string }{
	{"wrong mechanism", "SCRAM-SHA-1", "n,,n=,r=abc", ""},
	{"plus without tls", pgwire.MechanismSCRAMPlus, "p=tls-server-end-point,,n=,r=abc", ""},
	{"empty first", pgwire.MechanismSCRAM, "", ""},
	{"nul in first", pgwire.MechanismSCRAM, "n,,n=,r=a\x00bc", ""},
	{"channel binding without plus", pgwire.MechanismSCRAM, "p=tls-server-end-point,,n=,r=abc", ""},
	{"unknown flag", pgwire.MechanismSCRAM, "z,,n=,r=abc", ""},
	{"unprintable flag", pgwire.MechanismSCRAM, "\x01,,n=,r=abc", ""},
	{"flag only", pgwire.MechanismSCRAM, "n", ""},
	{"no comma", pgwire.MechanismSCRAM, "nx,n=,r=abc", ""},
	{"cut after the flag", pgwire.MechanismSCRAM, "n,", ""},
	{"authorization identity", pgwire.MechanismSCRAM, "n,a=bob,n=,r=abc", ""},
	{"other attribute", pgwire.MechanismSCRAM, "n,b=bob,n=,r=abc", ""},
	{"cut after the header", pgwire.MechanismSCRAM, "n,,", ""},
	{"mandatory extension", pgwire.MechanismSCRAM, "n,,m=x,n=,r=abc", ""},
	{"no user", pgwire.MechanismSCRAM, "n,,r=abc", ""},
	{"no equals sign", pgwire.MechanismSCRAM, "n,,n", ""},
	{"no nonce", pgwire.MechanismSCRAM, "n,,n=", ""},
	{"wrong attribute for the nonce", pgwire.MechanismSCRAM, "n,,n=,q=abc", ""},
	{"empty nonce", pgwire.MechanismSCRAM, "n,,n=,r=", ""},
	{"unprintable nonce", pgwire.MechanismSCRAM, "n,,n=,r=a\x7f", ""},
	{"bad extension", pgwire.MechanismSCRAM, "n,,n=,r=abc,1=x", ""},
	{"bad extension without sign", pgwire.MechanismSCRAM, "n,,n=,r=abc,x", ""},
	{"empty final", pgwire.MechanismSCRAM, "n,,n=,r=abc", "EMPTY"},
	{"final without binding", pgwire.MechanismSCRAM, "n,,n=,r=abc", "r={nonce},p=AAAA"},
	{"wrong binding", pgwire.MechanismSCRAM, "n,,n=,r=abc", "c=eSws,r={nonce},p=AAAA"},
	{"wrong binding after y", pgwire.MechanismSCRAM, "y,,n=,r=abc", "c=biws,r={nonce},p=AAAA"},
	{"no proof", pgwire.MechanismSCRAM, "n,,n=,r=abc", "c=biws,r={nonce}"},
	{"no proof after comma", pgwire.MechanismSCRAM, "n,,n=,r=abc", "c=biws,r={nonce},"},
	{"short proof", pgwire.MechanismSCRAM, "n,,n=,r=abc", "c=biws,r={nonce},p=AAAA"},
	{"proof is no base64", pgwire.MechanismSCRAM, "n,,n=,r=abc", "c=biws,r={nonce},p=!!!!"},
	{"garbage at the end", pgwire.MechanismSCRAM, "n,,n=,r=abc", "c=biws,r={nonce},p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=,x=y"},
	{"wrong nonce", pgwire.MechanismSCRAM, "n,,n=,r=abc", "c=biws,r=abcd,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
	{"wrong proof", pgwire.MechanismSCRAM, "n,,n=,r=abc", "c=biws,r={nonce},p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
	{"wrong proof with extension", pgwire.MechanismSCRAM, "y,,n=,r=abc,x=y", "c=eSws,r={nonce},x=y,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
}

// final fills a final message in from a server-first-message.
func final(template, serverFirst string) []byte {
	if template == "EMPTY" {
		return nil
	}
	nonce, _, _ := strings.Cut(strings.TrimPrefix(serverFirst, "r="), ",")
	return []byte(strings.ReplaceAll(template, "{nonce}", nonce))
}

func TestBrokenClientsHearWhatPostgreSQLTellsThem(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	user := pg.CreateUser(t, "secret", "scram-sha-256")
	for _, tt := range badExchanges {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			theirs := pgtest.Dial(t, pg.Addr())
			theirs.Startup(pgtest.Login{User: user, Database: "postgres"})
			theirs.Receive()
			theirs.Send(&pgproto3.SASLInitialResponse{AuthMechanism: tt.mechanism, Data: []byte(tt.first)})
			msg := theirs.Receive()
			if cont, ok := msg.(*pgproto3.AuthenticationSASLContinue); ok {
				theirs.Send(&pgproto3.SASLResponse{Data: final(tt.final, string(cont.Data))})
				msg = theirs.Receive()
			}
			want, ok := msg.(*pgproto3.ErrorResponse)
			if !ok {
				t.Fatalf("PostgreSQL sends %T, want an error", msg)
			}

			s := NewServer(MethodSCRAM, user, NewCredential(PlainPassword("secret")), nil)
			s.Start(nil)
			out, res := s.Step(nil, pgwire.AppendSASLInitialResponse(nil, tt.mechanism, tt.first)[pgwire.HeaderBytes:])
			if !res.Done {
				out, res = s.Step(nil, final(tt.final, string(out[pgwire.HeaderBytes+4:])))
			}
			if res.Err == nil || len(out) != 0 {
				t.Fatalf("got %+v and %q, want a refusal", res, out)
			}
			got := res.Err
			if got.Severity != want.SeverityUnlocalized || got.Code != want.Code || got.Message != want.Message || got.Detail != want.Detail {
				t.Errorf("got  %s %v (%s)\nwant %s %s: %s (%s)", got.Severity, got, got.Detail, want.SeverityUnlocalized, want.Code, want.Message, want.Detail)
			}
		})
	}
}

func TestClientWithoutInitialResponseIsAskedForIt(t *testing.T) {
	t.Parallel()
	s := NewServer(MethodSCRAM, "ann", nil, nil)
	s.Start(nil)
	out, res := s.Step(nil, []byte(pgwire.MechanismSCRAM+"\x00\xff\xff\xff\xff"))
	if res.Done || string(out) != string(pgwire.AppendAuthenticationSASLContinue(nil, "")) {
		t.Fatalf("got %q, %+v, want an empty challenge", out, res)
	}
	out, res = s.Step(nil, []byte("n,,n=,r=abc"))
	if res.Done || !strings.HasPrefix(string(out[9:]), "r=abc") {
		t.Errorf("got %q, %+v, want server-first-message", out, res)
	}
}

func TestServerLimitsMessages(t *testing.T) {
	t.Parallel()
	s := NewServer(MethodSCRAM, "ann", nil, nil)
	s.Start(nil)
	if _, res := s.Step(nil, make([]byte, maxSASLBytes+1)); res.Err == nil || res.Reason != ReasonProtocol {
		t.Errorf("got %+v, want a refusal", res)
	}
	for _, m := range []Method{MethodMD5, MethodPlain} {
		s = NewServer(m, "ann", nil, nil)
		s.Start(nil)
		if _, res := s.Step(nil, []byte("\x00")); res.Err == nil || res.Err.Error() != "28P01: empty password returned by client" {
			t.Errorf("got %+v, want a refusal", res)
		}
		s = NewServer(m, "ann", nil, nil)
		s.Start(nil)
		if _, res := s.Step(nil, []byte("abc")); res.Err == nil || res.Err.Error() != "08P01: invalid password packet size" {
			t.Errorf("got %+v, want a refusal", res)
		}
	}
	if e := ErrExpectedPassword('Q'); e.Error() != "08P01: expected password response, got message type 81" {
		t.Errorf("got %v", e)
	}
}

func TestHostileServers(t *testing.T) {
	t.Parallel()
	const nonce = "AAAAAAAAAAAAAAAAAAAAAAAA" // of a zero Rand
	cont := func(s string) []byte { return pgwire.AppendAuthenticationSASLContinue(nil, s)[pgwire.HeaderBytes:] }
	fin := func(s string) []byte { return pgwire.AppendAuthenticationSASLFinal(nil, s)[pgwire.HeaderBytes:] }
	ok := pgwire.AppendAuthenticationOk(nil)[pgwire.HeaderBytes:]
	sasl := pgwire.AppendAuthenticationSASL(nil, pgwire.MechanismSCRAM)[pgwire.HeaderBytes:]
	clear := pgwire.AppendAuthenticationCleartext(nil)[pgwire.HeaderBytes:]
	md5 := pgwire.AppendAuthenticationMD5(nil, [4]byte{1})[pgwire.HeaderBytes:]
	kind := func(t byte) []byte { return []byte{0, 0, 0, t} }
	good := cont("r=" + nonce + "x,s=c2FsdA==,i=10")
	tests := []struct {
		name string
		msgs [][]byte
		want error
	}{
		{"trust", [][]byte{ok}, nil},
		{"cleartext", [][]byte{clear, ok}, nil},
		{"md5", [][]byte{md5, ok}, nil},
		{"ok in the middle of scram", [][]byte{sasl, ok}, ErrProtocol},
		{"ok before server-final", [][]byte{sasl, good, ok}, ErrProtocol},
		{"cleartext after scram began", [][]byte{sasl, clear}, ErrProtocol},
		{"md5 after cleartext", [][]byte{clear, md5}, ErrProtocol},
		{"scram after cleartext", [][]byte{clear, sasl}, ErrProtocol},
		{"scram twice", [][]byte{sasl, sasl}, ErrProtocol},
		{"ok twice", [][]byte{ok, ok}, ErrProtocol},
		{"continue first", [][]byte{good}, ErrProtocol},
		{"final first", [][]byte{fin("v=AAAA")}, ErrProtocol},
		{"final before continue", [][]byte{sasl, fin("v=AAAA")}, ErrProtocol},
		{"continue twice", [][]byte{sasl, good, good}, ErrProtocol},
		{"wrong signature", [][]byte{sasl, good, fin("v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")}, ErrServerNotVerified},
		{"short signature", [][]byte{sasl, good, fin("v=AAAA")}, ErrServerNotVerified},
		{"server error", [][]byte{sasl, good, fin("e=other-error")}, ErrProtocol},
		{"final is nonsense", [][]byte{sasl, good, fin("hello")}, ErrProtocol},
		{"final with more", [][]byte{sasl, good, fin("v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=,x=y")}, ErrProtocol},
		{"no continue data", [][]byte{sasl, cont("")}, ErrProtocol},
		{"mandatory extension", [][]byte{sasl, cont("m=x,r=" + nonce + "x,s=c2FsdA==,i=10")}, ErrProtocol},
		{"our nonce only", [][]byte{sasl, cont("r=" + nonce + ",s=c2FsdA==,i=10")}, ErrProtocol},
		{"another nonce", [][]byte{sasl, cont("r=B" + nonce + ",s=c2FsdA==,i=10")}, ErrProtocol},
		{"long nonce", [][]byte{sasl, cont("r=" + nonce + strings.Repeat("x", 500) + ",s=c2FsdA==,i=10")}, ErrProtocol},
		{"unprintable nonce", [][]byte{sasl, cont("r=" + nonce + "\x01,s=c2FsdA==,i=10")}, ErrProtocol},
		{"no salt", [][]byte{sasl, cont("r=" + nonce + "x,s=,i=10")}, ErrProtocol},
		{"long salt", [][]byte{sasl, cont("r=" + nonce + "x,s=" + strings.Repeat("AAAA", 300) + ",i=10")}, ErrProtocol},
		{"salt is no base64", [][]byte{sasl, cont("r=" + nonce + "x,s=!,i=10")}, ErrProtocol},
		{"no iterations", [][]byte{sasl, cont("r=" + nonce + "x,s=c2FsdA==")}, ErrProtocol},
		{"zero iterations", [][]byte{sasl, cont("r=" + nonce + "x,s=c2FsdA==,i=0")}, ErrProtocol},
		{"negative iterations", [][]byte{sasl, cont("r=" + nonce + "x,s=c2FsdA==,i=-5")}, ErrProtocol},
		{"iterations are no number", [][]byte{sasl, cont("r=" + nonce + "x,s=c2FsdA==,i=1e3")}, ErrProtocol},
		{"too many iterations", [][]byte{sasl, cont("r=" + nonce + "x,s=c2FsdA==,i=100001")}, ErrTooExpensive},
		{"iterations beyond 64 bits", [][]byte{sasl, cont("r=" + nonce + "x,s=c2FsdA==,i=99999999999999999999")}, ErrTooExpensive},
		{"attributes after the iterations", [][]byte{sasl, cont("r=" + nonce + "x,s=c2FsdA==,i=10,x=y")}, ErrProtocol},
		{"other mechanisms only", [][]byte{pgwire.AppendAuthenticationSASL(nil, pgwire.MechanismSCRAMPlus, "OAUTHBEARER")[5:]}, ErrMethodUnknown},
		{"gss", [][]byte{kind(7)}, ErrMethodUnknown},
		{"sspi", [][]byte{kind(9)}, ErrMethodUnknown},
		{"kerberos", [][]byte{kind(2)}, ErrMethodUnknown},
		{"future method", [][]byte{kind(77)}, ErrMethodUnknown},
		{"cut message", [][]byte{{0, 0}}, ErrProtocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := NewClient("ann", NewClientCredential("secret"), &ClientOptions{Rand: zeroes{}})
			var err error
			var done bool
			for i, m := range tt.msgs {
				var out []byte
				out, done, err = c.Step(nil, m)
				if err != nil && (i != len(tt.msgs)-1 || len(out) != 0) {
					t.Fatalf("message %d: %v with output %q", i, err, out)
				}
			}
			if !errors.Is(err, tt.want) || done != (tt.want == nil) {
				t.Fatalf("got %v, done %v, want %v", err, done, tt.want)
			}
			if err == nil {
				return
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q shows the password", err)
			}
			if _, _, again := c.Step(nil, ok); !errors.Is(again, ErrProtocol) {
				t.Errorf("after the error: got %v, want ErrProtocol", again)
			}
		})
	}
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestClientOptions(t *testing.T) {
	t.Parallel()
	clear := pgwire.AppendAuthenticationCleartext(nil)[pgwire.HeaderBytes:]
	md5 := pgwire.AppendAuthenticationMD5(nil, [4]byte{1})[pgwire.HeaderBytes:]
	sasl := pgwire.AppendAuthenticationSASL(nil, pgwire.MechanismSCRAM)[pgwire.HeaderBytes:]
	ok := pgwire.AppendAuthenticationOk(nil)[pgwire.HeaderBytes:]
	strict, only := &ClientOptions{NoCleartext: true, NoMD5: true}, &ClientOptions{SCRAMOnly: true}
	for _, tt := range []struct {
		name string
		cred *ClientCredential
		opts *ClientOptions
		msg  []byte
		want error
	}{
		{"cleartext refused", NewClientCredential("x"), strict, clear, ErrMethodRefused},
		{"md5 refused", NewClientCredential("x"), strict, md5, ErrMethodRefused},
		{"scram allowed", NewClientCredential("x"), strict, sasl, nil},
		{"trust refused", NewClientCredential("x"), only, ok, ErrServerNotVerified},
		{"trust allowed", NewClientCredential("x"), strict, ok, nil},
		{"scram only, cleartext", NewClientCredential("x"), only, clear, ErrMethodRefused},
		{"scram only, md5", NewClientCredential("x"), only, md5, ErrMethodRefused},
		{"scram only, scram", NewClientCredential("x"), only, sasl, nil},
		{"no credential for cleartext", nil, nil, clear, ErrNoPassword},
		{"no credential for md5", nil, nil, md5, ErrNoPassword},
		{"no credential for scram", nil, nil, sasl, ErrNoPassword},
		{"empty password", NewClientCredential(""), nil, sasl, ErrNoPassword},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, _, err := NewClient("ann", tt.cred, tt.opts).Step(nil, tt.msg); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	v := MakeVerifier("secret", nil, 5000)
	_, _, err := login(t, NewServer(MethodSCRAM, "ann", NewCredential(v), nil), NewClient("ann", NewClientCredential("secret"), &ClientOptions{MaxIterations: 4999}))
	if !errors.Is(err, ErrTooExpensive) {
		t.Errorf("got %v, want ErrTooExpensive", err)
	}
}

func TestDerivedKeysAreComputedOnce(t *testing.T) {
	t.Parallel()
	credential, client := NewCredential(PlainPassword("secret")), NewClientCredential("secret")
	credential.Warm("ann", nil)
	known := credential.scram.known.Load()
	var last *derived
	for i := range 3 {
		res, _, err := login(t, NewServer(MethodSCRAM, "ann", credential, nil), NewClient("ann", client, nil))
		if err != nil || res.Err != nil {
			t.Fatal(res.Err, err)
		}
		if credential.scram.known.Load() != known {
			t.Error("the server's keys were computed again")
		}
		if i > 0 && client.last.Load() != last {
			t.Error("the client's keys were computed again")
		}
		last = client.last.Load()
	}
	(*Credential)(nil).Warm("ann", nil)
}

// TestHeavy: who asks whether a step may take long learns nothing of who exists, once the credentials are warm.
func TestHeavy(t *testing.T) {
	t.Parallel()
	warm, cold := NewCredential(PlainPassword("secret")), NewCredential(PlainPassword("secret"))
	warm.Warm("ann", nil)
	for _, tt := range []struct {
		name       string
		method     Method
		credential *Credential
		want       []bool // of the steps
	}{
		{"warm", MethodSCRAM, warm, []bool{false, false}},
		{"unknown", MethodSCRAM, nil, []bool{false, false}},
		{"first login", MethodSCRAM, cold, []bool{false, true}},
		{"stored verifier", MethodSCRAM, NewCredential(MakeVerifier("secret", nil, 0)), []bool{false, false}},
		{"only MD5", MethodSCRAM, NewCredential(ParsePassword("md5" + strings.Repeat("0", 32))), []bool{false, false}},
		{"cleartext", MethodPlain, warm, []bool{true}},
		{"cleartext of nobody", MethodPlain, nil, []bool{true}},
		{"MD5", MethodMD5, warm, []bool{false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, client := NewServer(tt.method, "ann", tt.credential, nil), NewClient("ann", NewClientCredential("secret"), nil)
			out, res := server.Start(nil)
			for _, want := range tt.want {
				if got := server.Heavy(); got != want || res.Done {
					t.Errorf("heavy: got %v, want %v", got, want)
				}
				_, bodies := frames(t, out)
				answer, _, err := client.Step(nil, bodies[0])
				if err != nil {
					t.Fatal(err)
				}
				_, answers := frames(t, answer)
				out, res = server.Step(nil, answers[0])
			}
			if !res.Done {
				t.Error("it is not over")
			}
		})
	}
}

func FuzzServer(f *testing.F) {
	f.Add(uint8(MethodSCRAM), []byte("SCRAM-SHA-256\x00\x00\x00\x00\x0bn,,n=,r=abc"), []byte("c=biws,r=abc,p=AAAA"))
	f.Add(uint8(MethodSCRAM), []byte("SCRAM-SHA-256\x00\xff\xff\xff\xff"), []byte("n,,n=,r=abc"))
	f.Add(uint8(MethodMD5), []byte("md5abc\x00"), []byte{})
	f.Add(uint8(MethodPlain), []byte("secret\x00"), []byte{})
	credentials := []*Credential{nil, NewCredential(MakeVerifier("pencil", []byte("salt"), 1)), NewCredential(PlainPassword("pencil"))}
	opts := &ServerOptions{Rand: zeroes{}, MockSecret: []byte("x"), Iterations: 1}
	f.Fuzz(func(t *testing.T, method uint8, first, second []byte) {
		if method < uint8(MethodSCRAM) || method > uint8(MethodPlain) {
			return
		}
		for _, c := range credentials {
			s := NewServer(Method(method), "ann", c, opts)
			_, res := s.Start(nil)
			for _, in := range [][]byte{first, second, second} {
				if res.Done {
					break
				}
				var out []byte
				out, res = s.Step(nil, in)
				frames(t, out)
				if res.Done && (res.Err == nil) != (res.Reason == ReasonNone) {
					t.Fatalf("got %v with reason %v", res.Err, res.Reason)
				}
				if res.Done && res.Err == nil && (c == nil || !strings.Contains(string(in), "pencil")) && Method(method) != MethodSCRAM {
					if Method(method) == MethodPlain {
						t.Fatalf("logged in with %q", in)
					}
				}
			}
		}
	})
}

func FuzzClient(f *testing.F) {
	f.Add(pgwire.AppendAuthenticationSASL(nil, pgwire.MechanismSCRAM)[5:], pgwire.AppendAuthenticationSASLContinue(nil, "r=AAAAAAAAAAAAAAAAAAAAAAAAx,s=c2FsdA==,i=10")[5:],
		pgwire.AppendAuthenticationSASLFinal(nil, "v=AAAA")[5:])
	f.Add(pgwire.AppendAuthenticationMD5(nil, [4]byte{1})[5:], pgwire.AppendAuthenticationOk(nil)[5:], []byte{})
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		client := NewClient("ann", NewClientCredential("secret"), &ClientOptions{MaxIterations: 50, Rand: zeroes{}})
		scram := false
		for _, m := range [][]byte{a, b, c} {
			out, done, err := client.Step(nil, m)
			frames(t, out)
			if err != nil {
				break
			}
			scram = scram || strings.HasPrefix(string(m), "\x00\x00\x00\x0a")
			if done && scram { // three messages cannot hold a whole SCRAM exchange with its Ok
				t.Fatal("server passed without proof")
			}
			if done {
				break
			}
		}
	})
}
