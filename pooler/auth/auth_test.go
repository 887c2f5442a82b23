package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// mustParse is ParseVerifier for texts that are right.
func mustParse(t testing.TB, s string) *Verifier {
	t.Helper()
	v, err := ParseVerifier(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// md5Of is what PostgreSQL stores for the password under md5.
func md5Of(user, password string) string {
	h := md5Hex(password, user)
	return "md5" + string(h[:])
}

// frames cuts out into bodies and checks that there is nothing else.
func frames(t testing.TB, out []byte) (types string, bodies [][]byte) {
	t.Helper()
	for len(out) > 0 {
		typ, total, ok := pgwire.Header(out)
		if !ok || total < 0 || total > len(out) {
			t.Fatalf("got %q, want whole messages", out)
		}
		types += string(typ)
		bodies = append(bodies, out[pgwire.HeaderBytes:total])
		out = out[total:]
	}
	return types, bodies
}

// login runs our client against our server, and records the sizes of the server's messages.
func login(t testing.TB, s *Server, c *Client) (Result, []int, error) {
	t.Helper()
	var sizes []int
	out, res := s.Start(nil)
	for {
		sizes = append(sizes, len(out))
		_, bodies := frames(t, out)
		var answer []byte
		for _, b := range bodies {
			var err error
			if answer, _, err = c.Step(answer, b); err != nil {
				return res, sizes, err
			}
		}
		if res.Done {
			break
		}
		types, answers := frames(t, answer)
		if types != "p" {
			t.Fatalf("got client messages %q, want one p", types)
		}
		out, res = s.Step(nil, answers[0])
	}
	if refusal := res.Err; refusal != nil {
		return res, append(sizes, len(pgwire.AppendErrorResponse(nil, refusal))), nil
	}
	_, bodies := frames(t, pgwire.AppendAuthenticationOk(nil))
	_, done, err := c.Step(nil, bodies[0])
	if err == nil && !done {
		t.Error("client is not done after AuthenticationOk")
	}
	return res, sizes, err
}

func TestEveryMethodWithEveryVerifier(t *testing.T) {
	t.Parallel()
	const user, password = "ann", "sécret"
	salt := []byte("0123456789abcdef")
	plain := PlainPassword(password)
	scram := MakeVerifier(password, salt, 4096)
	hash := mustParse(t, md5Of(user, password))
	otherScram := MakeVerifier("old", []byte("another salt...."), 5000)
	tests := []struct {
		method    Method
		verifiers []*Verifier
		matched   *Verifier // nil = refused
		serverHas string    // what ServerLogin must hold
	}{
		{MethodSCRAM, []*Verifier{plain}, plain, "password"},
		{MethodSCRAM, []*Verifier{scram}, scram, "scram keys"},
		{MethodSCRAM, []*Verifier{hash}, nil, ""},
		{MethodSCRAM, nil, nil, ""},
		{MethodSCRAM, []*Verifier{PlainPassword("x"), plain}, plain, "password"},
		{MethodSCRAM, []*Verifier{otherScram, plain}, plain, "password"},
		{MethodSCRAM, []*Verifier{plain, otherScram}, plain, "password"},
		{MethodSCRAM, []*Verifier{otherScram, scram}, nil, ""}, // the first one's salt decides
		{MethodSCRAM, []*Verifier{MakeVerifier("y", salt, 4096), scram}, scram, "scram keys"},
		{MethodSCRAM, []*Verifier{MakeVerifier("y", salt, 4097), scram}, nil, ""},
		{MethodSCRAM, []*Verifier{hash, scram}, scram, "scram keys"},
		{MethodMD5, []*Verifier{plain}, plain, "password"},
		{MethodMD5, []*Verifier{hash}, hash, "no password"},
		{MethodMD5, []*Verifier{scram}, scram, "scram keys"}, // goes through SCRAM, as in PostgreSQL
		{MethodMD5, []*Verifier{PlainPassword("x"), scram, hash}, hash, "no password"},
		{MethodMD5, []*Verifier{PlainPassword("x"), scram}, nil, ""},
		{MethodPlain, []*Verifier{plain}, plain, "password"},
		{MethodPlain, []*Verifier{scram}, scram, "password"},
		{MethodPlain, []*Verifier{hash}, hash, "password"},
		{MethodPlain, []*Verifier{otherScram, PlainPassword("x"), scram}, scram, "password"},
		{MethodPlain, []*Verifier{otherScram}, nil, ""},
		{MethodPlain, nil, nil, ""},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.method, tt.verifiers), func(t *testing.T) {
			t.Parallel()
			credential := NewCredential(tt.verifiers...)
			for range 2 { // the second login finds warm caches
				s := NewServer(tt.method, user, credential, nil)
				res, _, err := login(t, s, NewClient(user, NewClientCredential(password), nil))
				if err != nil {
					t.Fatal(err)
				}
				if tt.matched == nil {
					if res.Err == nil || res.Err.Code != "28P01" {
						t.Errorf("got %v, want a refusal", res.Err)
					}
					continue
				}
				if res.Err != nil || res.Verifier != tt.matched || res.ServerLogin.String() != tt.serverHas {
					t.Errorf("got %v (%v), matched %v, server login %v, want %v and %q", res.Err, res.Reason, res.Verifier, res.ServerLogin, tt.matched, tt.serverHas)
				}
				s = NewServer(tt.method, user, credential, nil)
				res, _, err = login(t, s, NewClient(user, NewClientCredential(password+"!"), nil))
				if err != nil || res.Err == nil || res.Reason != ReasonWrongPassword || !res.Err.IsFatal() || res.ServerLogin != nil ||
					res.Err.Error() != `28P01: password authentication failed for user "ann"` {
					t.Errorf("wrong password: got %v, %v, %v", res.Err, res.Reason, err)
				}
			}
		})
	}
}

func TestTrustNeedsAUser(t *testing.T) {
	t.Parallel()
	res, sizes, err := login(t, NewServer(MethodTrust, "ann", NewCredential(), nil), NewClient("ann", nil, nil))
	if err != nil || res.Err != nil || sizes[0] != 0 {
		t.Errorf("got %v, %v, want none", res.Err, err)
	}
	_, res = NewServer(MethodTrust, "ann", nil, nil).Start(nil)
	if !res.Done || res.Err == nil || res.Reason != ReasonUnknownUser {
		t.Errorf("unknown user: got %+v, want a refusal", res)
	}
}

func TestUnknownUsersLookLikeKnownOnes(t *testing.T) {
	t.Parallel()
	opts := &ServerOptions{MockSecret: []byte("shared by all poolers"), Iterations: 4096}
	for _, method := range []Method{MethodSCRAM, MethodMD5, MethodPlain} {
		t.Run(method.String(), func(t *testing.T) {
			t.Parallel()
			sizes := func(c *Credential, reason Reason) []int {
				t.Helper()
				res, sizes, err := login(t, NewServer(method, "ann", c, opts), NewClient("ann", NewClientCredential("guess"), nil))
				if err != nil || res.Reason != reason {
					t.Fatalf("got %v, %v, want %v", res.Reason, err, reason)
				}
				return sizes
			}
			known := sizes(NewCredential(PlainPassword("secret")), ReasonWrongPassword)
			unknown := sizes(nil, ReasonUnknownUser)
			if fmt.Sprint(known) != fmt.Sprint(unknown) {
				t.Errorf("got messages of %v bytes, want %v", unknown, known)
			}
			if method == MethodSCRAM {
				hashed := sizes(NewCredential(MakeVerifier("secret", nil, 0)), ReasonWrongPassword)
				useless := sizes(NewCredential(mustParse(t, md5Of("ann", "secret"))), ReasonNoVerifier)
				if fmt.Sprint(known) != fmt.Sprint(hashed) || fmt.Sprint(known) != fmt.Sprint(useless) {
					t.Errorf("got messages of %v and %v bytes, want %v", hashed, useless, known)
				}
			}
		})
	}
}

// serverFirst is the server's answer to a client-first-message, without the nonce.
func serverFirst(t *testing.T, user string, c *Credential, opts *ServerOptions) string {
	t.Helper()
	s := NewServer(MethodSCRAM, user, c, opts)
	s.Start(nil)
	out, res := s.Step(nil, pgwire.AppendSASLInitialResponse(nil, pgwire.MechanismSCRAM, "n,,n=,r=abc")[5:])
	if res.Done {
		t.Fatalf("got %+v", res)
	}
	_, rest, _ := strings.Cut(string(out), ",")
	return rest
}

func TestSaltsTellNothingAboutUsers(t *testing.T) {
	t.Parallel()
	opts := &ServerOptions{MockSecret: []byte("secret"), Iterations: 5000}
	unknown := serverFirst(t, "ann", nil, opts)
	if again := serverFirst(t, "ann", nil, opts); again != unknown {
		t.Errorf("got %q, want the same %q for the same user", again, unknown)
	}
	if known := serverFirst(t, "ann", NewCredential(PlainPassword("x")), opts); known != unknown {
		t.Errorf("got %q for a known user, want %q", known, unknown)
	}
	if other := serverFirst(t, "bob", nil, opts); other == unknown {
		t.Error("got one salt for two users")
	}
	if other := serverFirst(t, "ann", nil, &ServerOptions{MockSecret: []byte("other"), Iterations: 5000}); other == unknown {
		t.Error("got one salt for two secrets")
	}
	if !strings.HasSuffix(unknown, ",i=5000") {
		t.Errorf("got %q, want the configured iterations", unknown)
	}
	if a, b := serverFirst(t, "ann", nil, nil), serverFirst(t, "ann", nil, &ServerOptions{}); a != b {
		t.Errorf("got %q and %q, want one default secret per process", a, b)
	}
}

func TestKeysFromAProofLogInToTheServerThatHoldsTheVerifier(t *testing.T) {
	t.Parallel()
	v := MakeVerifier("secret", nil, 0)
	res, _, err := login(t, NewServer(MethodSCRAM, "ann", NewCredential(v), nil), NewClient("ann", NewClientCredential("secret"), nil))
	if err != nil || res.Err != nil {
		t.Fatal(res.Err, err)
	}
	again, _, err := login(t, NewServer(MethodSCRAM, "ann", NewCredential(v), nil), NewClient("ann", res.ServerLogin, nil))
	if err != nil || again.Err != nil {
		t.Errorf("got %v, %v, want a login by keys", again.Err, err)
	}
	other := NewCredential(MakeVerifier("secret", nil, 0))
	_, _, err = login(t, NewServer(MethodSCRAM, "ann", other, nil), NewClient("ann", res.ServerLogin, nil))
	if !errors.Is(err, ErrVerifierMismatch) {
		t.Errorf("got %v, want ErrVerifierMismatch", err)
	}
	for _, m := range []Method{MethodMD5, MethodPlain} {
		_, _, err = login(t, NewServer(m, "ann", NewCredential(PlainPassword("secret")), nil), NewClient("ann", res.ServerLogin, nil))
		if !errors.Is(err, ErrKeysOnly) {
			t.Errorf("%v: got %v, want ErrKeysOnly", m, err)
		}
	}
}

func TestNewKeyCredentialChecksTheKey(t *testing.T) {
	t.Parallel()
	v := MakeVerifier("secret", nil, 0)
	k, err := deriveKeys("secret", v.salt, v.iter)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKeyCredential(k.client[:], v); err != nil {
		t.Errorf("got %v, want none", err)
	}
	wrong := k.client
	wrong[0] ^= 1
	for _, bad := range [][]byte{nil, k.client[:31], wrong[:]} {
		if _, err := NewKeyCredential(bad, v); err == nil {
			t.Error("got none, want an error")
		}
	}
	if _, err := NewKeyCredential(k.client[:], PlainPassword("secret")); err == nil {
		t.Error("got none for a plain password, want an error")
	}
}

func TestParseVerifier(t *testing.T) {
	t.Parallel()
	v := MakeVerifier("secret", []byte("salt"), 10)
	text, ok := v.Encode()
	if !ok || !strings.HasPrefix(text, "SCRAM-SHA-256$10:c2FsdA==$") {
		t.Fatalf("got %q", text)
	}
	if again, _ := mustParse(t, text).Encode(); again != text {
		t.Errorf("got %q, want %q", again, text)
	}
	hash := "md5" + strings.Repeat("0a", 16)
	if again, _ := mustParse(t, hash).Encode(); again != hash {
		t.Errorf("got %q, want %q", again, hash)
	}
	b64 := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, bad := range []string{
		"", "secret", "md5", hash + "0", strings.ToUpper(hash), "md5" + strings.Repeat("0A", 16), "SCRAM-SHA-256$",
		"SCRAM-SHA-256$10:c2FsdA==", "SCRAM-SHA-256$10:c2FsdA==$" + b64, "SCRAM-SHA-256$0:c2FsdA==$" + b64 + ":" + b64,
		"SCRAM-SHA-256$-1:c2FsdA==$" + b64 + ":" + b64, "SCRAM-SHA-256$x:c2FsdA==$" + b64 + ":" + b64,
		"SCRAM-SHA-256$99999999999:c2FsdA==$" + b64 + ":" + b64, "SCRAM-SHA-256$10:$" + b64 + ":" + b64,
		"SCRAM-SHA-256$10:!!$" + b64 + ":" + b64, "SCRAM-SHA-256$10:c2FsdA==$" + b64 + "AAAA:" + b64,
		"SCRAM-SHA-256$10:c2FsdA==$" + b64 + ":" + b64[:20], "SCRAM-SHA-1$10:c2FsdA==$" + b64 + ":" + b64,
	} {
		if _, err := ParseVerifier(bad); err == nil {
			t.Errorf("%q: got none, want an error", bad)
		} else if len(bad) > 14 && strings.Contains(err.Error(), bad) {
			t.Errorf("error %q quotes the secret", err)
		}
		if p, ok := ParsePassword(bad).Plain(); !ok || p != bad {
			t.Errorf("%q: not taken for a password", bad)
		}
	}
	if !ParsePassword(text).IsSCRAM() {
		t.Error("ParsePassword does not see a SCRAM verifier")
	}
}

func TestNothingPrintsSecrets(t *testing.T) {
	t.Parallel()
	const secret = "Tr0ub4dor&3"
	v := MakeVerifier(secret, nil, 0)
	k, err := deriveKeys(secret, v.salt, v.iter)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := NewKeyCredential(k.client[:], v)
	if err != nil {
		t.Fatal(err)
	}
	encoded, _ := v.Encode()
	_, stored, _ := strings.Cut(encoded, "$")
	type holder struct {
		V *Verifier
		C *Credential
		L *ClientCredential
		v *Verifier
	}
	things := []any{
		PlainPassword(secret), v, mustParse(t, md5Of("ann", secret)), NewCredential(v, PlainPassword(secret)), NewClientCredential(secret), keys,
		holder{PlainPassword(secret), NewCredential(PlainPassword(secret)), NewClientCredential(secret), PlainPassword(secret)},
		Result{Verifier: v, ServerLogin: NewClientCredential(secret)},
		(*Credential)(nil), (*ClientCredential)(nil),
	}
	hash := md5Of("ann", secret)[3:]
	for _, x := range things {
		var texts []string
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			texts = append(texts, fmt.Sprintf(verb, x))
		}
		if j, err := json.Marshal(x); err == nil {
			texts = append(texts, string(j))
		}
		for _, text := range texts {
			for _, s := range []string{secret, hash, stored, fmt.Sprintf("%x", secret), fmt.Sprint(k.client)} {
				if strings.Contains(text, s) {
					t.Errorf("%T prints %q", x, text)
				}
			}
		}
	}
}

func TestMethodNames(t *testing.T) {
	t.Parallel()
	for _, m := range []Method{MethodSCRAM, MethodMD5, MethodPlain, MethodTrust} {
		if got, err := ParseMethod(m.String()); err != nil || got != m {
			t.Errorf("got %v, %v, want %v", got, err, m)
		}
	}
	if _, err := ParseMethod("ldap"); err == nil {
		t.Error("got none, want an error")
	}
	for r := range reasonCount {
		if r.String() == "" || r.String() == "unknown" {
			t.Errorf("reason %d has no name", r)
		}
	}
}

// serve lets a driver log in through s over conn and answers its first query's absence with a ReadyForQuery.
func serve(conn net.Conn, s *Server) error {
	defer conn.Close()
	be := pgproto3.NewBackend(conn, conn)
	if _, err := be.ReceiveStartupMessage(); err != nil {
		return err
	}
	out, res := s.Start(nil)
	for {
		if _, err := conn.Write(out); err != nil {
			return err
		}
		if res.Done {
			break
		}
		head := make([]byte, pgwire.HeaderBytes)
		if _, err := io.ReadFull(conn, head); err != nil {
			return err
		}
		_, total, _ := pgwire.Header(head)
		body := make([]byte, total-len(head))
		if _, err := io.ReadFull(conn, body); err != nil {
			return err
		}
		out, res = s.Step(nil, body)
	}
	if res.Err != nil {
		_, err := conn.Write(pgwire.AppendErrorResponse(nil, res.Err))
		return err
	}
	_, err := conn.Write(pgwire.AppendReadyForQuery(pgwire.AppendAuthenticationOk(nil), pgwire.TxIdle))
	return err
}

func TestPgxLogsInThroughUs(t *testing.T) {
	t.Parallel()
	connect := func(s *Server, password string) error {
		near, far := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- serve(far, s) }()
		config, err := pgconn.ParseConfig("host=pipe user=ann sslmode=disable password=" + password)
		if err != nil {
			return err
		}
		config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return near, nil }
		config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
		_, err = pgconn.ConnectConfig(t.Context(), config)
		near.Close()
		return errors.Join(err, <-served)
	}
	for _, method := range []Method{MethodSCRAM, MethodMD5, MethodPlain, MethodTrust} {
		for _, v := range []*Verifier{PlainPassword("secret"), MakeVerifier("secret", nil, 0)} {
			if err := connect(NewServer(method, "ann", NewCredential(v), nil), "secret"); err != nil {
				t.Errorf("%v, %v: %v", method, v, err)
			}
			if method == MethodTrust {
				continue
			}
			err := connect(NewServer(method, "ann", NewCredential(v), nil), "wrong")
			if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "28P01" {
				t.Errorf("%v, %v: got %v, want 28P01", method, v, err)
			}
		}
	}
}

func TestServerKeepsNothingOfTheBodies(t *testing.T) {
	t.Parallel()
	s := NewServer(MethodSCRAM, "ann", NewCredential(PlainPassword("secret")), nil)
	c := NewClient("ann", NewClientCredential("secret"), nil)
	out, res := s.Start(nil)
	for !res.Done {
		_, bodies := frames(t, out)
		server := bytes.Clone(bodies[0])
		answer, _, err := c.Step(nil, server)
		if err != nil {
			t.Fatal(err)
		}
		clear(server)
		client := bytes.Clone(answer[pgwire.HeaderBytes:])
		out, res = s.Step(nil, client)
		clear(client)
	}
	if res.Err != nil {
		t.Errorf("got %v, want none", res.Err)
	}
}
