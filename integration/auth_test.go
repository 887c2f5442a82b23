package integration

import (
	"context"
	"database/sql"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// logins are ways to log in; each returns what went wrong.
var logins = map[string]func(t *testing.T, s *stand, user, password string) string{
	"raw": func(t *testing.T, s *stand, user, password string) string {
		c := pgtest.Dial(t, s.addr)
		defer c.Close()
		if err := c.Login(pgtest.Login{User: user, Database: cluster, Password: password}); err != nil {
			return err.Error()
		}
		return ""
	},
	"psql": func(t *testing.T, s *stand, user, password string) string {
		out, err := pgtest.Command(t, "psql", "-X", "-w", "-d", pgtest.DSN(s.addr, cluster, user, password), "-c", "SELECT 1").CombinedOutput()
		if err != nil {
			return string(out)
		}
		return ""
	},
	"pgx": func(t *testing.T, s *stand, user, password string) string {
		c, err := pgx.Connect(t.Context(), pgtest.DSN(s.addr, cluster, user, password))
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(c.Close(t.Context()))[len("<nil>"):]
	},
	"pq": func(t *testing.T, s *stand, user, password string) string {
		db, err := sql.Open("postgres", pgtest.DSN(s.addr, cluster, user, password))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.PingContext(t.Context()); err != nil {
			return err.Error()
		}
		return ""
	},
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	const users = `
[[users]]
name = "app"
database = "saas"
password = "secret of the application"

[[users]]
name = "rotating"
database = "saas"
passwords = ["old one", "new one"]
server_user = "app"
server_password = "secret of the application"

[[users]]
name = "gast-ü"
database = "saas"
password = "pässword \" ' \\ 密"
server_user = "app"
`
	for _, method := range []string{"scram", "md5", "plain", "trust"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			s := start(t, spec{general: fmt.Sprintf("auth_type = %q", method), users: users})
			for name, login := range logins {
				for _, x := range []struct {
					user, password string
					good           bool
				}{
					{user, password, true},
					{user, "the wrong one", false},
					{"rotating", "old one", true},
					{"rotating", "new one", true},
					{"rotating", "next one", false},
					{"gast-ü", `pässword " ' \ 密`, true},
					{"nobody", password, false},
				} {
					why := login(t, s, x.user, x.password)
					switch {
					case x.good && why != "":
						t.Errorf("%s: %s with its password: %s", name, x.user, why)
					case !x.good && method == "trust" && x.user != "nobody":
						if why != "" {
							t.Errorf("%s: trusted, and refused: %s", name, why)
						}
					case !x.good && why == "":
						t.Errorf("%s: %s got in with %q", name, x.user, x.password)
					case !x.good && !strings.Contains(why, `password authentication failed for user "`+x.user+`"`):
						t.Errorf("%s: %s: %s", name, x.user, why)
					}
				}
			}
			if log := s.log.String(); strings.Contains(log, password) || strings.Contains(log, "old one") || strings.Contains(log, "the wrong one") {
				t.Error("the log has passwords")
			}
		})
	}
}

// With nothing but a SCRAM verifier in the configuration, the client's own proof logs in to servers that hold the same one.
func TestAuthenticationByVerifier(t *testing.T) {
	t.Parallel()
	instances := pgtest.SharedSet(t, 2)
	name := instances[0].CreateUser(t, "known to the client only", "scram-sha-256")
	verifier := instances[0].Query(t, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = '"+name+"'")[0]
	// The second server holds the same verifier, as a dump of roles would bring it there.
	instances[1].Exec(t, "postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'; GRANT pg_read_all_data, pg_write_all_data TO %s", name, verifier, name))
	t.Cleanup(func() { instances[1].Exec(t, "postgres", "DROP ROLE "+name) })
	for i, rest := range []string{"", twoRanges} {
		t.Run(fmt.Sprint(i+1, " shards"), func(t *testing.T) {
			s := start(t, spec{
				shards: i + 1, schema: ordersSchema, rest: rest,
				users: fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword_hash = %q\n", name, cluster, verifier),
			})
			begun := time.Now()
			for _, login := range logins {
				if why := login(t, s, name, "known to the client only"); why != "" {
					t.Error(why)
				}
				if why := login(t, s, name, "guessed"); !strings.Contains(why, "password authentication failed") {
					t.Errorf("a wrong password: %q", why)
				}
			}
			if took := time.Since(begun); took > 4*time.Second {
				t.Errorf("eight logins took %v", took)
			}
			c := pgtest.Connect(t, s.addr, pgtest.Login{User: name, Database: cluster, Password: "known to the client only"})
			for _, tenant := range []string{"7", "1007"} {
				protocols[0].play(t, c, "INSERT INTO orders VALUES ("+tenant+", 1, 'x')", "INSERT 0 1; I", "SELECT current_user", name+"; SELECT 1; I")
			}
			if strings.Contains(s.log.String(), verifier) {
				t.Error("the log has the verifier")
			}
		})
	}
}

// A hash as md5 keeps it, with servers that ask for md5.
func TestAuthenticationByMD5Hash(t *testing.T) {
	t.Parallel()
	i := pgtest.Shared(t)
	name := i.CreateUser(t, "old fashioned", "md5")
	hash := i.Query(t, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = '"+name+"'")[0]
	s := start(t, spec{
		general: `auth_type = "md5"`, schema: ordersSchema,
		users: fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword_hash = %q\nserver_password = \"old fashioned\"\n", name, cluster, hash),
	})
	for which, login := range logins {
		if why := login(t, s, name, "old fashioned"); why != "" {
			t.Errorf("%s: %s", which, why)
		}
		if why := login(t, s, name, "new fashioned"); !strings.Contains(why, "password authentication failed") {
			t.Errorf("%s: a wrong password: %q", which, why)
		}
	}
}

// Servers may ask for any method; what pgkennel knows serves each.
func TestAuthenticationToServers(t *testing.T) {
	t.Parallel()
	i := pgtest.Shared(t)
	for _, method := range []string{"scram-sha-256", "md5", "password", "trust"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			name := i.CreateUser(t, "of the server", method)
			s := start(t, spec{users: fmt.Sprintf(
				"[[users]]\nname = %q\ndatabase = %q\npassword = %q\nserver_user = %q\nserver_password = \"of the server\"\n", user, cluster, password, name)})
			protocols[0].play(t, s.connect(t), "SELECT current_user", name+"; SELECT 1; I")
		})
	}
	t.Run("wrong password", func(t *testing.T) {
		t.Parallel()
		name := i.CreateUser(t, "of the server", "scram-sha-256")
		s := start(t, spec{general: "checkout_timeout = 500", users: fmt.Sprintf(
			"[[users]]\nname = %q\ndatabase = %q\npassword = %q\nserver_user = %q\nserver_password = \"not that one\"\n", user, cluster, password, name)})
		err := pgtest.Dial(t, s.addr).Login(s.login())
		if err == nil || !strings.Contains(err.Error(), "FATAL 08006") || strings.Contains(err.Error(), name) {
			t.Errorf("got %v", err)
		}
		if !strings.Contains(s.log.String(), "password authentication failed") {
			t.Error("the log does not say why")
		}
	})
}

// Nobody learns from a refused login whether it was the user, the database or the password: neither from the messages nor
// from the time.
func TestAuthenticationTellsNothing(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"scram", "md5", "plain"} {
		t.Run(method, func(t *testing.T) {
			s := start(t, spec{general: fmt.Sprintf("auth_type = %q", method)})
			attempts := map[string]pgtest.Login{
				"wrong password":   {User: user, Database: cluster, Password: "wrong"},
				"unknown database": {User: user, Database: "nowhere", Password: "wrong"},
				"unknown user":     {User: "apq", Database: cluster, Password: password},
				"neither":          {User: "apq", Database: "nowhere", Password: password},
			}
			heard, fastest := map[string]string{}, map[string]time.Duration{}
			for range 12 {
				for name, l := range attempts {
					begun := time.Now()
					c := pgtest.Dial(t, s.addr)
					kinds := transcript(c, l)
					took := time.Since(begun)
					c.Close()
					if fastest[name] == 0 || took < fastest[name] {
						fastest[name] = took
					}
					heard[name] = strings.ReplaceAll(kinds, `"apq"`, `"app"`)
				}
			}
			for name := range attempts {
				if heard[name] != heard["wrong password"] {
					t.Errorf("%s:\n%s\nwrong password:\n%s", name, heard[name], heard["wrong password"])
				}
				if f := float64(fastest[name]) / float64(fastest["wrong password"]); f < 0.4 || f > 2.5 {
					t.Errorf("%s takes %v, a wrong password %v", name, fastest[name], fastest["wrong password"])
				}
			}
		})
	}
}

// Who has proved who it is hears that there is no such database, as tools do that would create it then. What others have is not there, either.
func TestUnknownDatabases(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"scram", "md5", "plain", "trust"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			s := start(t, spec{general: fmt.Sprintf("auth_type = %q", method), rest: `
[[databases]]
name = "second"
host = "127.0.0.1"
[[databases]]
name = "third"
host = "127.0.0.1"
`, users: fmt.Sprintf(`
[[users]]
name = "one"
databases = [%[1]q, "second"]
password = "same"
[[users]]
name = "two"
database = %[1]q
password = "same"
[[users]]
name = "two"
database = "second"
password = "other"
[[users]]
name = "all"
all_databases = true
password = "same"
`, cluster)})
			const unknown, refused = `3D000: database "%s" does not exist`, "28P01: password authentication failed"
			for _, x := range []struct{ user, database, password, want string }{
				{"one", "nowhere", "same", unknown},
				{"one", "third", "same", unknown},
				{"one", "odd \"näme", "same", unknown},
				{"all", "nowhere", "same", unknown},
				{"two", "nowhere", "same", refused},
				{"two", "third", "other", refused},
				{"one", "nowhere", "wrong", map[bool]string{false: refused, true: unknown}[method == "trust"]},
				{"nobody", "nowhere", "same", refused},
			} {
				if strings.Contains(x.want, "%s") {
					x.want = fmt.Sprintf(x.want, x.database)
				}
				err := pgtest.Dial(t, s.addr).Login(pgtest.Login{User: x.user, Database: x.database, Password: x.password})
				if err == nil || !strings.Contains(err.Error(), x.want) {
					t.Errorf("%s, %s, %s: got %v, want %s", x.user, x.database, x.password, err, x.want)
				}
			}
		})
	}
}

// transcript logs in and lists the messages that came, with all fields of the error.
func transcript(c *pgtest.Client, l pgtest.Login) string {
	err := c.Login(l)
	refused, ok := err.(*pgtest.ServerError) //nolint:errorlint // it comes bare
	if !ok {
		return fmt.Sprint(err)
	}
	e := *refused.ErrorResponse
	_, rest := c.Next()
	return fmt.Sprintf("%+v, then %v", e, rest)
}

// An unknown user's salt is the same each time, and another's is another.
func TestAuthenticationOfUnknownUsersIsStable(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	challenge := func(name string) string {
		c := pgtest.Dial(t, s.addr)
		defer c.Close()
		c.Startup(pgtest.Login{User: name, Database: cluster})
		if got := pgtest.Format(c.Receive()); !strings.HasPrefix(got, "AuthenticationSASL") {
			t.Fatalf("got %s", got)
		}
		c.Send(&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("n,,n=,r=0123456789abcdefghij")})
		m, ok := c.Receive().(*pgproto3.AuthenticationSASLContinue)
		if !ok {
			t.Fatalf("got %T", m)
		}
		fields := strings.Split(string(m.Data), ",")
		return strings.Join(slices.DeleteFunc(fields, func(f string) bool { return strings.HasPrefix(f, "r=") }), ",")
	}
	first, again, other, real := challenge("ghost"), challenge("ghost"), challenge("spirit"), challenge(user)
	if first != again {
		t.Errorf("a ghost's salt changes: %s, %s", first, again)
	}
	if first == other {
		t.Error("ghosts share a salt")
	}
	if a, b := strings.Split(first, ",i=")[1], strings.Split(real, ",i=")[1]; a != b {
		t.Errorf("%s iterations for a ghost, %s for a user", a, b)
	}
}

// Broken exchanges end the connection, and only that.
func TestAuthenticationBroken(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	for name, send := range map[string][]pgproto3.FrontendMessage{
		"Query instead":         {&pgproto3.Query{String: "SELECT 1"}},
		"unknown mechanism":     {&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-512", Data: []byte("n,,n=,r=abc")}},
		"channel binding":       {&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("p=tls-unique,,n=,r=abc")}},
		"no nonce":              {&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("n,,n=")}},
		"nothing":               {&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256"}},
		"final without a proof": {&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("n,,n=,r=abcdefgh")}, &pgproto3.SASLResponse{Data: []byte("c=biws,r=abcdefgh")}},
		"huge":                  {&pgproto3.PasswordMessage{Password: strings.Repeat("x", 1<<20)}},
	} {
		c := pgtest.Dial(t, s.addr)
		c.Startup(s.login())
		c.Receive()
		c.Send(send...)
		answer := c.ExpectClosed()
		if e := pgtest.Failure(answer); e == nil || e.Severity != "FATAL" {
			t.Errorf("%s: %s", name, pgtest.Format(answer...))
		}
	}
	protocols[0].play(t, s.connect(t), "SELECT 1", "1; SELECT 1; I")
}

// The admin database has its own user and password, and no other gets in.
func TestAuthenticationOfOperators(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	if rows := s.console(t, "SHOW VERSION"); len(rows) != 1 {
		t.Errorf("SHOW VERSION: %v", rows)
	}
	for _, x := range []struct {
		login pgtest.Login
		want  string
	}{
		{pgtest.Login{User: "admin", Database: "admin", Password: "wrong"}, "28P01"},
		{pgtest.Login{User: user, Database: "admin", Password: password}, "3D000"},
		{pgtest.Login{User: "admin", Database: cluster, Password: adminPassword}, "28P01"},
	} {
		if err := pgtest.Dial(t, s.addr).Login(x.login); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s at %s: got %v, want %s", x.login.User, x.login.Database, err, x.want)
		}
	}
}

// passwordFile is how people really use psql.
func TestAuthenticationByPasswordPrompt(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	host, port, _ := strings.Cut(s.addr, ":")
	cmd := exec.CommandContext(ctx, "psql", "-X", "-A", "-t", "-h", host, "-p", port, "-U", user, "-d", cluster, "-c", "SELECT 'in'")
	cmd.Env = append(cmd.Environ(), "PGPASSWORD="+password)
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "in" {
		t.Errorf("psql: %v\n%s", err, out)
	}
}
