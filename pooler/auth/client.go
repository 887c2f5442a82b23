package auth

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Why a Client gave up. Errors from Client.Step wrap one of these.
var (
	// ErrNoPassword: the server asks for a password and there is none.
	ErrNoPassword = errors.New("server asks for a password and none is configured")
	// ErrKeysOnly: the server asks for the password itself, or for MD5, and only SCRAM keys are known.
	ErrKeysOnly = errors.New("server does not use SCRAM, and there are only SCRAM keys to log in with")
	// ErrVerifierMismatch: the server holds another SCRAM verifier than the one the keys belong to.
	ErrVerifierMismatch = errors.New("server holds another SCRAM verifier than the one the keys belong to")
	// ErrMethodRefused: the server asks for a method that the options rule out.
	ErrMethodRefused = errors.New("server asks for an authentication method that is not allowed here")
	// ErrMethodUnknown: the server asks for a method we do not have.
	ErrMethodUnknown = errors.New("server asks for an authentication method that is not supported")
	// ErrTooExpensive: the server asks for more work than the options allow.
	ErrTooExpensive = errors.New("server asks for too many SCRAM iterations")
	// ErrServerNotVerified: the server cannot prove that it knows the password's verifier. It may be an impostor.
	ErrServerNotVerified = errors.New("server did not prove that it knows the SCRAM verifier")
	// ErrProtocol: the server broke the exchange.
	ErrProtocol = errors.New("server broke the authentication protocol")
)

// Limits on what a server may send in a SCRAM exchange.
const (
	maxServerNonce       = 512
	maxServerSalt        = 1024
	defaultMaxIterations = 100_000
)

// ClientCredential is what we log in to servers with: a password, or the SCRAM keys of one verifier. It is safe for concurrent use and
// prints no secret. A nil *ClientCredential serves servers that ask for nothing.
type ClientCredential struct {
	*clientSecret

	// last is what the password became for the salt and count that a server sent last, after that server proved itself.
	last atomic.Pointer[derived]
}

// clientSecret is apart for the same reason as secret.
type clientSecret struct {
	password string
	// verifier is set if there are keys instead of a password, and clientKey belongs to it.
	verifier  *Verifier
	clientKey key
}

type derived struct {
	salt []byte
	iter int
	keys scramKeys
}

// NewClientCredential returns a credential that knows the password. An empty password counts as none, as in libpq.
func NewClientCredential(password string) *ClientCredential {
	return &ClientCredential{clientSecret: &clientSecret{password: password}}
}

// errBadKey does not quote the key.
var errBadKey = errors.New("client key does not belong to the SCRAM verifier")

// NewKeyCredential returns a credential that logs in, without a password, to servers which hold exactly this SCRAM verifier.
func NewKeyCredential(clientKey []byte, verifier *Verifier) (*ClientCredential, error) {
	if !verifier.IsSCRAM() || len(clientKey) != keyBytes {
		return nil, errBadKey
	}
	k := key(clientKey)
	if stored := storedKey(&k); !equalKeys(&stored, &verifier.keys.stored) {
		return nil, errBadKey
	}
	return newKeyCredential(k, verifier), nil
}

func newKeyCredential(clientKey key, verifier *Verifier) *ClientCredential {
	return &ClientCredential{clientSecret: &clientSecret{clientKey: clientKey, verifier: verifier}}
}

// String says what kind of credential it is.
func (c *ClientCredential) String() string {
	switch {
	case c == nil || (c.verifier == nil && c.password == ""):
		return "no password"
	case c.verifier != nil:
		return "scram keys"
	default:
		return "password"
	}
}

// Format prints String for every verb.
func (c *ClientCredential) Format(f fmt.State, _ rune) { redacted(c.String()).format(f) }

// MarshalText keeps the secret out of JSON and of structured logs.
func (c *ClientCredential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// keys are what to prove and to expect for the salt and count. It is heavy for a password unless a server sent the same ones last time.
func (c *ClientCredential) keys(salt []byte, iter int) (*derived, error) {
	if v := c.verifier; v != nil {
		if v.iter != iter || !slices.Equal(v.salt, salt) {
			return nil, ErrVerifierMismatch
		}
		return &derived{salt: salt, iter: iter, keys: scramKeys{client: c.clientKey, stored: v.keys.stored, server: v.keys.server}}, nil
	}
	if d := c.last.Load(); d != nil && d.iter == iter && slices.Equal(d.salt, salt) {
		return d, nil
	}
	k, err := deriveKeys(c.password, salt, iter)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return &derived{salt: salt, iter: iter, keys: k}, nil
}

// ClientOptions bound what a server may ask of us. The zero value, and nil, mean the defaults.
type ClientOptions struct {
	// MaxIterations is the largest SCRAM iteration count we compute; 0 = 100,000. A malicious server could burn our CPU with more.
	MaxIterations int
	// NoCleartext refuses to send the password itself, NoMD5 its MD5 hash.
	NoCleartext bool
	NoMD5       bool
	// SCRAMOnly accepts nothing but a SCRAM exchange to its end, in which the server proves that it knows the password's verifier: whoever lets us in
	// without one may be an impostor.
	SCRAMOnly bool
	// Rand gives the nonce; nil = crypto/rand. Only tests set it.
	Rand io.Reader
}

// Client is the exchange with one server. Every Authentication message goes to Step until it says done. A server that asks for
// nothing (AuthenticationOk at once) is accepted, unless SCRAMOnly; one that starts SCRAM must finish it.
type Client struct {
	user       string
	credential *ClientCredential
	opts       ClientOptions

	state       clientState
	nonce       string
	clientFirst string // client-first-message-bare
	authMessage string
	derived     *derived
}

type clientState uint8

const (
	clientStart    clientState = iota // nothing asked yet; exits: all
	clientAnswered                    // the password went out; exits: done
	clientFirst                       // client-first-message went out; exits: clientFinal
	clientFinal                       // the proof went out; exits: clientVerified
	clientVerified                    // the server proved itself; exits: done
	clientDone
	clientFailed
)

// NewClient returns the exchange that logs user in. credential nil = we know no password.
func NewClient(user string, credential *ClientCredential, opts *ClientOptions) *Client {
	c := &Client{user: user, credential: credential}
	if opts != nil {
		c.opts = *opts
	}
	if c.opts.MaxIterations <= 0 {
		c.opts.MaxIterations = defaultMaxIterations
	}
	return c
}

// Step takes the body of an Authentication message and appends the answer to dst, if one is due. done = the server said
// AuthenticationOk. It keeps nothing of body. It is heavy for the second message of SCRAM with a password, unless the credential
// was used with the same verifier before. After an error the exchange is over.
func (c *Client) Step(dst, body []byte) (out []byte, done bool, err error) {
	out, err = c.step(dst, body)
	if err != nil {
		c.state = clientFailed
		return dst, false, err
	}
	return out, c.state == clientDone, nil
}

func (c *Client) step(dst, body []byte) ([]byte, error) {
	a, err := pgwire.DecodeAuthentication(body)
	if err != nil {
		return dst, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	switch {
	case a.Type == pgwire.AuthOk && c.opts.SCRAMOnly && c.state == clientStart:
		return dst, fmt.Errorf("%w: it asks for no password", ErrServerNotVerified)
	case a.Type == pgwire.AuthOk && (c.state == clientStart || c.state == clientAnswered || c.state == clientVerified):
		c.state = clientDone
		return dst, nil
	case a.Type == pgwire.AuthSASLContinue && c.state == clientFirst:
		return c.serverFirst(dst, string(a.Data))
	case a.Type == pgwire.AuthSASLFinal && c.state == clientFinal:
		return dst, c.serverFinal(string(a.Data))
	case c.state == clientStart:
		return c.begin(dst, &a)
	default:
		return dst, fmt.Errorf("%w: unexpected %v", ErrProtocol, a.Type)
	}
}

// begin answers the server's first request.
func (c *Client) begin(dst []byte, a *pgwire.Authentication) ([]byte, error) {
	switch a.Type {
	case pgwire.AuthCleartext:
		if err := c.password(c.opts.NoCleartext || c.opts.SCRAMOnly, a.Type); err != nil {
			return dst, err
		}
		c.state = clientAnswered
		return pgwire.AppendPassword(dst, c.credential.password), nil
	case pgwire.AuthMD5:
		if err := c.password(c.opts.NoMD5 || c.opts.SCRAMOnly, a.Type); err != nil {
			return dst, err
		}
		c.state = clientAnswered
		return pgwire.AppendPassword(dst, md5Answer(md5Hex(c.credential.password, c.user), a.Salt)), nil
	case pgwire.AuthSASL:
		return c.beginSCRAM(dst, a.Mechanisms)
	case pgwire.AuthSASLContinue, pgwire.AuthSASLFinal, pgwire.AuthGSSContinue, pgwire.AuthOk:
		return dst, fmt.Errorf("%w: unexpected %v", ErrProtocol, a.Type)
	case pgwire.AuthKerberosV5, pgwire.AuthGSS, pgwire.AuthSSPI:
		return dst, fmt.Errorf("%w: %v", ErrMethodUnknown, a.Type)
	default:
		return dst, fmt.Errorf("%w: %v", ErrMethodUnknown, a.Type)
	}
}

// password reports whether the password may be used for a method that needs it.
func (c *Client) password(refused bool, t pgwire.AuthType) error {
	switch {
	case refused:
		return fmt.Errorf("%w: %v", ErrMethodRefused, t)
	case c.credential != nil && c.credential.verifier != nil:
		return fmt.Errorf("%w: %v", ErrKeysOnly, t)
	case c.credential == nil || c.credential.password == "":
		return ErrNoPassword
	default:
		return nil
	}
}

func (c *Client) beginSCRAM(dst []byte, mechanisms []string) ([]byte, error) {
	if !slices.Contains(mechanisms, pgwire.MechanismSCRAM) {
		return dst, fmt.Errorf("%w: sasl without %s", ErrMethodUnknown, pgwire.MechanismSCRAM)
	}
	if c.credential == nil || (c.credential.verifier == nil && c.credential.password == "") {
		return dst, ErrNoPassword
	}
	r := c.opts.Rand
	if r == nil {
		r = rand.Reader
	}
	raw := make([]byte, nonceBytes)
	if _, err := io.ReadFull(r, raw); err != nil {
		return dst, fmt.Errorf("nonce: %w", err)
	}
	c.nonce = base64.StdEncoding.EncodeToString(raw)
	// The user's name is left empty as in libpq; the server takes the startup packet's.
	c.clientFirst = "n=,r=" + c.nonce
	c.state = clientFirst
	return pgwire.AppendSASLInitialResponse(dst, pgwire.MechanismSCRAM, "n,,"+c.clientFirst), nil
}

// serverFirst answers server-first-message with the proof.
func (c *Client) serverFirst(dst []byte, message string) ([]byte, error) {
	nonce, salt, iter, err := c.readServerFirst(message)
	if err != nil {
		return dst, err
	}
	if c.derived, err = c.credential.keys(salt, iter); err != nil {
		return dst, err
	}
	withoutProof := "c=biws,r=" + nonce
	c.authMessage = c.clientFirst + "," + message + "," + withoutProof
	k := &c.derived.keys
	signature := hmacKey(k.stored[:], c.authMessage)
	proof := k.client.xor(&signature)
	c.state = clientFinal
	return pgwire.AppendSASLResponse(dst, withoutProof+",p="+base64.StdEncoding.EncodeToString(proof[:])), nil
}

func (c *Client) readServerFirst(message string) (nonce string, salt []byte, iter int, err error) {
	bad := func(what string) (string, []byte, int, error) {
		return "", nil, 0, fmt.Errorf("%w: %s in server-first-message", ErrProtocol, what)
	}
	a := attributes(message)
	nonce, fault := a.expect('r')
	if fault != "" || !printableText(nonce) || len(nonce) > maxServerNonce || len(nonce) == len(c.nonce) || !strings.HasPrefix(nonce, c.nonce) {
		return bad("bad nonce")
	}
	saltText, fault := a.expect('s')
	if fault != "" || len(saltText) > maxServerSalt {
		return bad("bad salt")
	}
	salt, err = base64.StdEncoding.Strict().DecodeString(saltText)
	if err != nil || len(salt) == 0 {
		return bad("bad salt")
	}
	iterText, fault := a.expect('i')
	if fault != "" {
		return bad("bad iteration count")
	}
	n, err := strconv.ParseInt(iterText, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) || n > int64(c.opts.MaxIterations):
		return "", nil, 0, fmt.Errorf("%w: more than %d", ErrTooExpensive, c.opts.MaxIterations)
	case err != nil || n < 1:
		return bad("bad iteration count")
	case a != "":
		return bad("unknown attribute")
	}
	return nonce, salt, int(n), nil
}

// serverFinal checks that the server knows the verifier, too.
func (c *Client) serverFinal(message string) error {
	a := attributes(message)
	letter, value, fault := a.next()
	switch {
	case fault == "" && letter == 'e':
		// The text is one of RFC 5802's words; anything else is not repeated.
		if len(value) > 64 || !printableText(value) {
			value = "unknown-error"
		}
		return fmt.Errorf("%w: server reports %s", ErrProtocol, value)
	case fault != "" || letter != 'v' || a != "":
		return fmt.Errorf("%w: bad server-final-message", ErrProtocol)
	}
	var signature key
	want := hmacKey(c.derived.keys.server[:], c.authMessage)
	if !decodeKey(&signature, value) || !equalKeys(&signature, &want) {
		return ErrServerNotVerified
	}
	if c.credential.verifier == nil {
		c.credential.last.Store(c.derived)
	}
	c.state = clientVerified
	return nil
}
