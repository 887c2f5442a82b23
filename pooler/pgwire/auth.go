package pgwire

import (
	"encoding/binary"
	"fmt"
)

// AuthType is the kind of an Authentication message.
type AuthType uint32

// The kinds PostgreSQL has.
const (
	AuthOk           AuthType = 0
	AuthKerberosV5   AuthType = 2
	AuthCleartext    AuthType = 3
	AuthMD5          AuthType = 5
	AuthGSS          AuthType = 7
	AuthGSSContinue  AuthType = 8
	AuthSSPI         AuthType = 9
	AuthSASL         AuthType = 10
	AuthSASLContinue AuthType = 11
	AuthSASLFinal    AuthType = 12
)

// String names the kind.
func (t AuthType) String() string {
	switch t {
	case AuthOk:
		return "ok"
	case AuthKerberosV5:
		return "kerberos v5"
	case AuthCleartext:
		return "cleartext password"
	case AuthMD5:
		return "md5 password"
	case AuthGSS:
		return "gss"
	case AuthGSSContinue:
		return "gss continue"
	case AuthSSPI:
		return "sspi"
	case AuthSASL:
		return "sasl"
	case AuthSASLContinue:
		return "sasl continue"
	case AuthSASLFinal:
		return "sasl final"
	default:
		return fmt.Sprintf("unknown authentication %d", uint32(t))
	}
}

// MechanismSCRAM is the name of SCRAM-SHA-256 without channel binding, MechanismSCRAMPlus of the one with it.
const (
	MechanismSCRAM     = "SCRAM-SHA-256"
	MechanismSCRAMPlus = "SCRAM-SHA-256-PLUS"
)

// Authentication is a decoded Authentication message.
type Authentication struct {
	Type       AuthType
	Salt       [4]byte  // AuthMD5
	Mechanisms []string // AuthSASL
	Data       []byte   // AuthSASLContinue, AuthSASLFinal, AuthGSSContinue, and the whole rest of unknown kinds: a view
}

// DecodeAuthentication decodes the body of an Authentication message. Kinds nobody knows are not an error here.
func DecodeAuthentication(body []byte) (Authentication, error) {
	r := reader{b: body}
	a := Authentication{Type: AuthType(r.uint32())}
	switch a.Type {
	case AuthOk, AuthKerberosV5, AuthCleartext, AuthGSS, AuthSSPI:
	case AuthMD5:
		copy(a.Salt[:], r.bytes(4))
	case AuthSASL:
		for {
			name := r.cstring()
			if len(name) == 0 {
				break
			}
			a.Mechanisms = append(a.Mechanisms, string(name))
		}
	case AuthGSSContinue, AuthSASLContinue, AuthSASLFinal:
		a.Data = r.rest()
	default:
		a.Data = r.rest()
	}
	if err := r.end(); err != nil {
		return Authentication{}, err
	}
	return a, nil
}

func appendAuth(dst []byte, t AuthType) (out []byte, start int) {
	dst, start = begin(dst, MsgAuthentication)
	return binary.BigEndian.AppendUint32(dst, uint32(t)), start
}

// AppendAuthenticationOk appends an AuthenticationOk.
func AppendAuthenticationOk(dst []byte) []byte {
	dst, start := appendAuth(dst, AuthOk)
	return end(dst, start)
}

// AppendAuthenticationCleartext appends an AuthenticationCleartextPassword.
func AppendAuthenticationCleartext(dst []byte) []byte {
	dst, start := appendAuth(dst, AuthCleartext)
	return end(dst, start)
}

// AppendAuthenticationMD5 appends an AuthenticationMD5Password.
func AppendAuthenticationMD5(dst []byte, salt [4]byte) []byte {
	dst, start := appendAuth(dst, AuthMD5)
	return end(append(dst, salt[:]...), start)
}

// AppendAuthenticationSASL appends an AuthenticationSASL that offers the mechanisms. Empty names are left out: they would end
// the list.
func AppendAuthenticationSASL(dst []byte, mechanisms ...string) []byte {
	dst, start := appendAuth(dst, AuthSASL)
	for _, m := range mechanisms {
		if m != "" && m[0] != 0 {
			dst = appendString(dst, m)
		}
	}
	return end(append(dst, 0), start)
}

// AppendAuthenticationSASLContinue appends an AuthenticationSASLContinue.
func AppendAuthenticationSASLContinue[T Text](dst []byte, data T) []byte {
	dst, start := appendAuth(dst, AuthSASLContinue)
	return end(append(dst, data...), start)
}

// AppendAuthenticationSASLFinal appends an AuthenticationSASLFinal.
func AppendAuthenticationSASLFinal[T Text](dst []byte, data T) []byte {
	dst, start := appendAuth(dst, AuthSASLFinal)
	return end(append(dst, data...), start)
}

// AppendPassword appends a PasswordMessage: a cleartext password or an MD5 response.
func AppendPassword[T Text](dst []byte, password T) []byte {
	dst, start := begin(dst, MsgPassword)
	return end(appendString(dst, password), start)
}

// AppendSASLInitialResponse appends a SASLInitialResponse.
func AppendSASLInitialResponse[T Text](dst []byte, mechanism string, data T) []byte {
	dst, start := begin(dst, MsgPassword)
	dst = appendString(dst, mechanism)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(data))) //nolint:gosec // see end
	return end(append(dst, data...), start)
}

// AppendSASLResponse appends a SASLResponse.
func AppendSASLResponse[T Text](dst []byte, data T) []byte {
	dst, start := begin(dst, MsgPassword)
	return end(append(dst, data...), start)
}

// DecodePassword decodes the body of a PasswordMessage; the password is a view into it.
func DecodePassword(body []byte) ([]byte, error) {
	r := reader{b: body}
	p := r.cstring()
	if r.end() != nil {
		return nil, Fatalf(CodeProtocolViolation, "invalid password packet size")
	}
	return p, nil
}

// DecodeSASLInitialResponse decodes the body of a SASLInitialResponse. data is nil when the client sent no initial response, which
// is not the same as an empty one.
func DecodeSASLInitialResponse(body []byte) (mechanism, data []byte, err error) {
	r := reader{b: body}
	mechanism = r.cstring()
	if n := int32(r.uint32()); n != -1 { //nolint:gosec // signed on purpose
		data = r.bytes(int(n))
	}
	if err := r.end(); err != nil {
		return nil, nil, err
	}
	return mechanism, data, nil
}
