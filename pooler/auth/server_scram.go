package auth

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// scramServer is the state of a SCRAM exchange with a client (RFC 5802, RFC 7677).
type scramServer struct {
	state       scramServerState
	cbindFlag   byte // 'n' or 'y'
	nonce       string
	clientFirst string // client-first-message-bare
	serverFirst string
	challenge   challenge
}

type scramServerState uint8

const (
	awaitMechanism   scramServerState = iota // exits: awaitClientFirst, awaitClientFinal, end
	awaitClientFirst                         // the client sent no initial response; exits: awaitClientFinal, end
	awaitClientFinal                         // exits: end
)

func (s *Server) stepSCRAM(dst, body []byte) ([]byte, Result) {
	if len(body) > maxSASLBytes {
		return dst, s.fail(ReasonProtocol, pgwire.Fatalf(pgwire.CodeProtocolViolation, "invalid message length"))
	}
	message := body
	switch s.scram.state {
	case awaitMechanism:
		mechanism, data, err := pgwire.DecodeSASLInitialResponse(body)
		if err != nil {
			return dst, s.fail(ReasonProtocol, asFatal(err))
		}
		if string(mechanism) != pgwire.MechanismSCRAM {
			return dst, s.fail(ReasonUnsupported, pgwire.Fatalf(pgwire.CodeProtocolViolation,
				"client selected an invalid SASL authentication mechanism"))
		}
		if data == nil { // no initial response: an empty challenge asks for it
			s.scram.state = awaitClientFirst
			return pgwire.AppendAuthenticationSASLContinue(dst, ""), Result{}
		}
		message = data
	case awaitClientFirst, awaitClientFinal:
	}
	if fault := wellFormed(message); fault != nil {
		return dst, s.fail(ReasonProtocol, fault)
	}
	if s.scram.state == awaitClientFinal {
		return s.clientFinal(dst, string(message))
	}
	return s.clientFirst(dst, string(message))
}

// wellFormed is what PostgreSQL checks of every SCRAM message.
func wellFormed(message []byte) *pgwire.Error {
	if len(message) == 0 {
		return malformed("The message is empty.")
	}
	if bytes.IndexByte(message, 0) >= 0 {
		return malformed("Message length does not match input length.")
	}
	return nil
}

func malformed(detail string) *pgwire.Error {
	return pgwire.Fatalf(pgwire.CodeProtocolViolation, "malformed SCRAM message").WithDetail("%s", detail)
}

func (s *Server) clientFirst(dst []byte, message string) ([]byte, Result) {
	clientNonce, fault := s.readClientFirst(message)
	if fault != nil {
		reason := ReasonProtocol
		if fault.Code == pgwire.CodeFeatureNotSupported {
			reason = ReasonUnsupported
		}
		return dst, s.fail(reason, fault)
	}
	raw := make([]byte, nonceBytes)
	s.opts.random(raw)
	sc := &s.scram
	sc.nonce = clientNonce + base64.StdEncoding.EncodeToString(raw)
	sc.challenge = s.opts.challenge(cmp.Or(s.mock, s.user), s.credential)
	sc.serverFirst = fmt.Sprintf("r=%s,s=%s,i=%d", sc.nonce, base64.StdEncoding.EncodeToString(sc.challenge.salt), sc.challenge.iter)
	sc.state = awaitClientFinal
	return pgwire.AppendAuthenticationSASLContinue(dst, sc.serverFirst), Result{}
}

// readClientFirst reads client-first-message and returns the client's nonce. The user name in it is ignored, as in PostgreSQL: the one
// in the startup packet counts.
func (s *Server) readClientFirst(m string) (nonce string, err *pgwire.Error) {
	switch m[0] {
	case 'n', 'y': // y: the client could bind the channel but thinks we cannot, which is true
		s.scram.cbindFlag = m[0]
	case 'p':
		return "", malformed("The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.")
	default:
		return "", malformed("Unexpected channel-binding flag \"" + charAt(m, 0) + "\".")
	}
	switch {
	case len(m) < 2 || m[1] != ',':
		return "", malformed("Comma expected, but found character \"" + charAt(m, 1) + "\".")
	case len(m) > 2 && m[2] == 'a':
		return "", pgwire.Fatalf(pgwire.CodeFeatureNotSupported, "client uses authorization identity, but it is not supported")
	case len(m) < 3 || m[2] != ',':
		return "", malformed("Unexpected attribute \"" + charAt(m, 2) + "\" in client-first-message.")
	case len(m) > 3 && m[3] == 'm':
		return "", pgwire.Fatalf(pgwire.CodeFeatureNotSupported, "client requires an unsupported SCRAM extension")
	}
	s.scram.clientFirst = m[3:]
	a := attributes(m[3:])
	if _, fault := a.expect('n'); fault != "" {
		return "", malformed(fault)
	}
	nonce, fault := a.expect('r')
	if fault != "" {
		return "", malformed(fault)
	}
	if !printableText(nonce) {
		return "", pgwire.Fatalf(pgwire.CodeProtocolViolation, "non-printable characters in SCRAM nonce")
	}
	for a != "" { // optional extensions
		if _, _, fault := a.next(); fault != "" {
			return "", malformed(fault)
		}
	}
	return nonce, nil
}

func (s *Server) clientFinal(dst []byte, message string) ([]byte, Result) {
	proof, withoutProof, fault := s.readClientFinal(message)
	if fault != nil {
		return dst, s.fail(ReasonProtocol, fault)
	}
	authMessage := s.scram.clientFirst + "," + s.scram.serverFirst + "," + withoutProof
	matched, clientKey := s.match(&proof, authMessage)
	if matched == nil {
		reason := ReasonWrongPassword
		switch {
		case s.credential == nil:
			reason = ReasonUnknownUser
		case !s.credential.hasSCRAM():
			reason = ReasonNoVerifier
		}
		return dst, s.fail(reason, s.Denied())
	}
	signature := hmacKey(matched.verifier.keys.server[:], authMessage)
	dst = pgwire.AppendAuthenticationSASLFinal(dst, "v="+base64.StdEncoding.EncodeToString(signature[:]))
	res := Result{Verifier: matched.source, ServerLogin: matched.source.login}
	if res.ServerLogin == nil {
		res.ServerLogin = newKeyCredential(clientKey, matched.verifier)
	}
	return dst, s.finish(res)
}

// readClientFinal reads client-final-message.
func (s *Server) readClientFinal(m string) (proof key, withoutProof string, err *pgwire.Error) {
	a := attributes(m)
	binding, fault := a.expect('c')
	if fault != "" {
		return proof, "", malformed(fault)
	}
	// The base64 of what the client said about channel binding: "n,," or "y,,".
	if binding != map[byte]string{'n': "biws", 'y': "eSws"}[s.scram.cbindFlag] {
		return proof, "", pgwire.Fatalf(pgwire.CodeProtocolViolation, "unexpected SCRAM channel-binding attribute in client-final-message")
	}
	nonce, fault := a.expect('r')
	if fault != "" {
		return proof, "", malformed(fault)
	}
	for {
		end := len(m) - len(a) - 1 // at the comma
		letter, value, fault := a.next()
		if fault != "" {
			return proof, "", malformed(fault)
		}
		if letter != 'p' {
			continue
		}
		if !decodeKey(&proof, value) {
			return proof, "", malformed("Malformed proof in client-final-message.")
		}
		withoutProof = m[:end]
		break
	}
	if a != "" {
		return proof, "", malformed("Garbage found at the end of client-final-message.")
	}
	if nonce != s.scram.nonce {
		return proof, "", pgwire.Fatalf(pgwire.CodeProtocolViolation, "invalid SCRAM response").WithDetail("Nonce does not match.")
	}
	return proof, withoutProof, nil
}

// match finds the verifier the proof is for, and the ClientKey it reveals. All candidates are tried whichever matches, and for users
// without any a made-up one is, so that the time tells little.
func (s *Server) match(proof *key, authMessage string) (*candidate, key) {
	var list []candidate
	if s.credential != nil {
		list = s.credential.candidates(s.scram.challenge)
	}
	var found *candidate
	var clientKey key
	for i := range list {
		stored := &list[i].verifier.keys.stored
		if k, ok := proves(proof, stored, authMessage); ok && found == nil {
			found, clientKey = &list[i], k
		}
	}
	if len(list) == 0 {
		proves(proof, &key{}, authMessage)
	}
	return found, clientKey
}

// proves recovers the ClientKey from a proof and reports whether it belongs to the StoredKey.
func proves(proof, stored *key, authMessage string) (clientKey key, ok bool) {
	signature := hmacKey(stored[:], authMessage)
	clientKey = proof.xor(&signature)
	hash := storedKey(&clientKey)
	return clientKey, equalKeys(&hash, stored)
}

// asFatal turns a decoder's error into what ends a login.
func asFatal(err error) *pgwire.Error {
	if e, ok := errors.AsType[*pgwire.Error](err); ok {
		return e.WithSeverity(pgwire.SeverityFatal)
	}
	return pgwire.Fatalf(pgwire.CodeProtocolViolation, "invalid message format")
}

// quotable cuts a user name to what PostgreSQL would have kept of it.
func quotable(user string) string {
	if len(user) > 63 {
		user = strings.ToValidUTF8(user[:63], "")
	}
	return user
}
