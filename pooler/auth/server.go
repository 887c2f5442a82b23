package auth

import (
	"crypto/rand"
	"io"
	"sync"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// MaxResponseBytes is the longest body of a client's message during authentication, whatever the method; PostgreSQL's limits are 64 KB
// for passwords and 1 KB for SASL: see Server.MaxResponse.
const MaxResponseBytes = 65535

const maxSASLBytes = 1024

// ServerOptions are what all exchanges of a process have in common. The zero value, and nil, mean the defaults. The options must not be
// copied or changed after first use.
type ServerOptions struct {
	// MockSecret derives the salts of unknown users and of plain passwords. Poolers that run side by side should share one, so
	// that a user's salt is the same on all of them. Empty = random per process.
	MockSecret []byte
	// Iterations is the SCRAM iteration count for users without a SCRAM verifier, known or not; 0 = DefaultIterations.
	Iterations int
	// Rand gives nonces and MD5 salts; nil = crypto/rand. Only tests set it.
	Rand io.Reader
}

var processMockSecret = sync.OnceValue(func() []byte {
	secret := make([]byte, keyBytes)
	rand.Read(secret) // never fails
	return secret
})

func (o *ServerOptions) secret() []byte {
	if o == nil || len(o.MockSecret) == 0 {
		return processMockSecret()
	}
	return o.MockSecret
}

func (o *ServerOptions) random(b []byte) {
	r := rand.Reader
	if o != nil && o.Rand != nil {
		r = o.Rand
	}
	if _, err := io.ReadFull(r, b); err != nil {
		panic("auth: no randomness: " + err.Error()) // crypto/rand never fails
	}
}

// challenge is the salt and the iteration count a SCRAM exchange is about.
type challenge struct {
	salt []byte
	iter int
}

// challenge picks salt and count: the first SCRAM verifier's if there is one, else derived from the user's name.
func (o *ServerOptions) challenge(user string, c *Credential) challenge {
	if v := c.firstSCRAM(); v != nil {
		return challenge{salt: v.salt, iter: v.iter}
	}
	ch := challenge{salt: mockSalt(o.secret(), user), iter: DefaultIterations}
	if o != nil && o.Iterations > 0 {
		ch.iter = o.Iterations
	}
	return ch
}

// Reason says why a login failed, for logs and counters. Clients do not learn it.
type Reason uint8

// The reasons. Wrong passwords and unknown users are guesses, which a throttle should count; the rest are mistakes.
const (
	ReasonNone          Reason = iota
	ReasonUnknownUser          // there is no credential
	ReasonNoVerifier           // the user's verifiers do not serve the method
	ReasonWrongPassword        // the proof does not match
	ReasonEmptyPassword        // the client sent none
	ReasonProtocol             // the client broke the exchange
	ReasonUnsupported          // the client wants something we do not offer
	reasonCount
)

var reasonNames = [reasonCount]string{
	ReasonNone: "none", ReasonUnknownUser: "unknown_user", ReasonNoVerifier: "no_verifier", ReasonWrongPassword: "wrong_password",
	ReasonEmptyPassword: "empty_password", ReasonProtocol: "protocol", ReasonUnsupported: "unsupported",
}

// String is the reason as logs and metrics name it.
func (r Reason) String() string {
	if r < reasonCount {
		return reasonNames[r]
	}
	return "unknown"
}

// Result is how an exchange stands after a step. While Done is false the client's next message is due.
type Result struct {
	Done bool
	// Err is what to send to a client that was refused, FATAL, in PostgreSQL's words; nil = the client is who it says.
	Err *pgwire.Error
	// Reason is why, for our own eyes.
	Reason Reason

	// Verifier is the configured verifier that matched; nil under trust.
	Verifier *Verifier
	// ServerLogin logs in to servers that hold what the client proved to know: the ClientKey recovered from a SCRAM proof against a
	// SCRAM verifier, or the password where it is known. It is nil where the exchange gave neither (MD5 hashes, trust).
	ServerLogin *ClientCredential
}

// Server is the exchange with one client.
//
//	out, res := s.Start(nil)           // send out
//	for !res.Done {                    // read one message of type 'p'
//		out, res = s.Step(nil, body)   // send out
//	}
//	// res.Err == nil: send AuthenticationOk; else send the error and close
//
// A client whose user does not exist (nil credential), or whose verifiers do not serve the method, is put through the same exchange
// as any other, with a salt that stays the same for its name, and fails at the end; the messages have the same sizes.
type Server struct {
	method     Method // MethodMD5 has become MethodSCRAM for a user whose verifiers are all SCRAM
	user       string
	mock       string // what a made-up salt is of; empty = user
	credential *Credential
	opts       *ServerOptions

	started bool
	done    bool
	md5Salt [4]byte
	scram   scramServer
}

// NewServer returns the exchange for a client that wants to be user. credential nil = there is no such user.
func NewServer(method Method, user string, credential *Credential, opts *ServerOptions) *Server {
	if method == MethodMD5 && credential.hasSCRAM() && !credential.hasMD5() {
		method = MethodSCRAM
	}
	return &Server{method: method, user: user, credential: credential, opts: opts}
}

// MockSalt has the salt be made of another name than the user's where there is no verifier to have it from.
func (s *Server) MockSalt(name string) { s.mock = name }

// Start appends the first message to dst. Under trust there is none, and the exchange is done at once.
func (s *Server) Start(dst []byte) ([]byte, Result) {
	if s.started {
		panic("auth: Start called twice")
	}
	s.started = true
	switch s.method {
	case MethodSCRAM:
		return pgwire.AppendAuthenticationSASL(dst, pgwire.MechanismSCRAM), Result{}
	case MethodMD5:
		s.opts.random(s.md5Salt[:])
		return pgwire.AppendAuthenticationMD5(dst, s.md5Salt), Result{}
	case MethodPlain:
		return pgwire.AppendAuthenticationCleartext(dst), Result{}
	case MethodTrust:
		if s.credential == nil {
			return dst, s.fail(ReasonUnknownUser, s.Denied())
		}
		return dst, s.finish(Result{})
	default:
		panic("auth: unknown method")
	}
}

// Heavy reports whether the next Step may be. For users that do not exist it says what it says for those whose login is not their first.
func (s *Server) Heavy() bool {
	switch s.method {
	case MethodPlain:
		return true
	case MethodSCRAM:
		return s.scram.state == awaitClientFinal && s.credential.hasPlain() && s.credential.known(s.scram.challenge) == nil
	case MethodMD5, MethodTrust:
	}
	return false
}

// MaxResponse is the longest body that the client's next message may have.
func (s *Server) MaxResponse() int {
	if s.method == MethodSCRAM {
		return maxSASLBytes
	}
	return MaxResponseBytes
}

// Step takes the body of the client's next message, which must be of type 'p' (see ErrExpectedPassword) and no longer than
// MaxResponse, and appends the answer to dst, if there is one. It keeps nothing of body. It is heavy for SCRAM with plain
// passwords the first time (see Credential.Warm), and for cleartext passwords against SCRAM verifiers.
func (s *Server) Step(dst, body []byte) ([]byte, Result) {
	if !s.started || s.done {
		panic("auth: Step before Start or after the end")
	}
	if s.method == MethodSCRAM {
		return s.stepSCRAM(dst, body)
	}
	password, err := pgwire.DecodePassword(body)
	if err != nil {
		return dst, s.fail(ReasonProtocol, asFatal(err))
	}
	if len(password) == 0 {
		return dst, s.fail(ReasonEmptyPassword, pgwire.Fatalf(pgwire.CodeInvalidPassword, "empty password returned by client"))
	}
	matched := s.matchPassword(password)
	switch {
	case s.credential == nil:
		return dst, s.fail(ReasonUnknownUser, s.Denied())
	case matched == nil:
		return dst, s.fail(ReasonWrongPassword, s.Denied())
	}
	res := Result{Verifier: matched, ServerLogin: matched.login}
	if s.method == MethodPlain && res.ServerLogin == nil {
		res.ServerLogin = NewClientCredential(string(password))
	}
	return dst, s.finish(res)
}

// nobody stands in for the verifier of a user that does not exist.
var nobody = []*Verifier{PlainPassword("")}

// matchPassword finds the verifier that the answer to an MD5 challenge, or the cleartext password, is right for.
func (s *Server) matchPassword(answer []byte) (matched *Verifier) {
	list := nobody
	if s.credential != nil {
		list = s.credential.verifiers
	}
	if s.method == MethodMD5 {
		for _, v := range list {
			if v.checkMD5(s.user, s.md5Salt, answer) && matched == nil {
				matched = v
			}
		}
		return matched
	}
	password := string(answer)
	for _, v := range list {
		if v.recalls(password) {
			return v
		}
	}
	for _, v := range list {
		if v.checkPlain(s.user, password) {
			return v
		}
	}
	return nil
}

func (s *Server) finish(r Result) Result {
	s.done = true
	r.Done = true
	return r
}

func (s *Server) fail(reason Reason, err *pgwire.Error) Result {
	return s.finish(Result{Reason: reason, Err: err})
}

// Denied is the one answer to all who do not know the password, or are nobody.
func (s *Server) Denied() *pgwire.Error {
	return pgwire.Fatalf(pgwire.CodeInvalidPassword, "password authentication failed for user \"%s\"", quotable(s.user))
}

// ErrExpectedPassword is PostgreSQL's answer to a client that sends another message while its password is awaited.
func ErrExpectedPassword(typ byte) *pgwire.Error {
	return pgwire.Fatalf(pgwire.CodeProtocolViolation, "expected password response, got message type %d", typ)
}
