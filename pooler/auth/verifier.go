package auth

import (
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // a method of PostgreSQL's
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
)

// Verifier is one secret a client may prove to know: a password, or what PostgreSQL stores of one (rolpassword). It is immutable, safe
// for concurrent use, and prints as its kind only.
type Verifier struct {
	kind verifierKind
	*secret

	// seen is a keyed hash of the last cleartext password that matched a SCRAM verifier, so that the next login with it is not heavy.
	seen atomic.Pointer[key]
}

// secret is apart from Verifier because fmt follows one pointer, but not two, when a Verifier sits in an unexported field.
type secret struct {
	plain string    // kindPlain
	md5   [32]byte  // kindMD5: hex of md5(password || user)
	salt  []byte    // kindSCRAM
	iter  int       // kindSCRAM
	keys  scramKeys // kindSCRAM; client is zero
	// login logs in to servers with the password, and remembers the keys it computed for them; kindPlain.
	login *ClientCredential
}

type verifierKind uint8

const (
	kindPlain verifierKind = iota + 1
	kindMD5
	kindSCRAM
)

// PlainPassword is a verifier that holds the password itself. It serves every method.
func PlainPassword(password string) *Verifier {
	return &Verifier{kind: kindPlain, secret: &secret{plain: password, login: NewClientCredential(password)}}
}

// MakeVerifier makes the SCRAM verifier PostgreSQL would store for the password. It is heavy. A nil salt stands for a random one of 16
// bytes, iterations of 0 for DefaultIterations. It panics where Go is held to FIPS 140 and the salt is shorter than 16 bytes.
func MakeVerifier(password string, salt []byte, iterations int) *Verifier {
	if salt == nil {
		salt = make([]byte, saltBytes)
		rand.Read(salt) // never fails
	}
	if iterations <= 0 {
		iterations = DefaultIterations
	}
	keys, err := deriveKeys(password, salt, iterations)
	if err != nil {
		panic("auth: " + err.Error())
	}
	keys.client = key{}
	return &Verifier{kind: kindSCRAM, secret: &secret{salt: salt, iter: iterations, keys: keys}}
}

// errVerifier does not quote the text: it is a secret.
var errVerifier = errors.New("not a password hash: want SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key> or md5 with 32 hex digits")

// ParseVerifier reads what PostgreSQL stores in rolpassword: a SCRAM-SHA-256 verifier or an MD5 hash. Its error does not quote s.
func ParseVerifier(s string) (*Verifier, error) {
	if isMD5(s) {
		v := &Verifier{kind: kindMD5, secret: &secret{}}
		copy(v.md5[:], s[3:])
		return v, nil
	}
	rest, ok := strings.CutPrefix(s, "SCRAM-SHA-256$")
	if !ok {
		return nil, errVerifier
	}
	head, keys, ok := strings.Cut(rest, "$")
	if !ok {
		return nil, errVerifier
	}
	iterText, saltText, ok1 := strings.Cut(head, ":")
	storedText, serverText, ok2 := strings.Cut(keys, ":")
	iter, err := strconv.ParseInt(iterText, 10, 32)
	if !ok1 || !ok2 || err != nil || iter < 1 {
		return nil, errVerifier
	}
	v := &Verifier{kind: kindSCRAM, secret: &secret{iter: int(iter)}}
	v.salt, err = base64.StdEncoding.Strict().DecodeString(saltText)
	if err != nil || len(v.salt) == 0 || !decodeKey(&v.keys.stored, storedText) || !decodeKey(&v.keys.server, serverText) {
		return nil, errVerifier
	}
	return v, nil
}

// ParsePassword reads a password field the way PostgreSQL reads ALTER ROLE ... PASSWORD: a text in the form of a stored hash is that
// hash, every other text is the password itself.
func ParsePassword(s string) *Verifier {
	if v, err := ParseVerifier(s); err == nil {
		return v
	}
	return PlainPassword(s)
}

// isMD5 is PostgreSQL's test: the prefix and 32 lower-case hex digits.
func isMD5(s string) bool {
	return len(s) == 35 && s[:3] == "md5" && strings.Trim(s[3:], "0123456789abcdef") == ""
}

func decodeKey(k *key, s string) bool {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil && copy(k[:], b) == keyBytes && len(b) == keyBytes
}

// Encode writes a hash in the form ParseVerifier reads and PostgreSQL stores. The result is as good as the password for some
// purposes: keep it out of logs. ok is false for a plain password, which has no such form until MakeVerifier gives it a salt.
func (v *Verifier) Encode() (s string, ok bool) {
	switch v.kind {
	case kindMD5:
		return "md5" + string(v.md5[:]), true
	case kindSCRAM:
		b64 := base64.StdEncoding.EncodeToString
		return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", v.iter, b64(v.salt), b64(v.keys.stored[:]), b64(v.keys.server[:])), true
	case kindPlain:
		return "", false
	default:
		panic("auth: unknown verifier kind")
	}
}

// Plain is the password, if the verifier holds it.
func (v *Verifier) Plain() (password string, ok bool) { return v.plain, v.kind == kindPlain }

// IsSCRAM reports whether the verifier is a SCRAM hash.
func (v *Verifier) IsSCRAM() bool { return v.kind == kindSCRAM }

// String names the kind and nothing else.
func (v *Verifier) String() string {
	switch v.kind {
	case kindPlain:
		return "plain password"
	case kindMD5:
		return "md5 hash"
	case kindSCRAM:
		return "scram verifier"
	default:
		return "no verifier"
	}
}

// Format prints String for every verb.
func (v *Verifier) Format(f fmt.State, _ rune) { redacted(v.String()).format(f) }

// MarshalText keeps the secret out of JSON and of structured logs.
func (v *Verifier) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Matches reports whether a user's password is what the verifier was made of. It is heavy.
func (v *Verifier) Matches(user, password string) bool { return v.checkPlain(user, password) }

// checkMD5 reports whether answer is the right response to an MD5 challenge.
func (v *Verifier) checkMD5(user string, salt [4]byte, answer []byte) bool {
	var inner [32]byte
	switch v.kind {
	case kindPlain:
		inner = md5Hex(v.plain, user)
	case kindMD5:
		inner = v.md5
	case kindSCRAM:
		return false
	}
	want := md5Answer(inner, salt)
	return subtle.ConstantTimeCompare(want, answer) == 1
}

// md5Hex is the inner hash of the MD5 method, which PostgreSQL stores.
func md5Hex(password, user string) (out [32]byte) {
	sum := md5.Sum([]byte(password + user)) //nolint:gosec // the protocol's choice
	hex.Encode(out[:], sum[:])
	return out
}

// md5Answer is the response to an MD5 challenge.
func md5Answer(inner [32]byte, salt [4]byte) []byte {
	sum := md5.Sum(append(inner[:], salt[:]...)) //nolint:gosec // the protocol's choice
	return hex.AppendEncode([]byte("md5"), sum[:])
}

// processKey keys the hashes that live in memory only.
var processKey = func() (k key) {
	rand.Read(k[:]) // never fails
	return k
}()

// checkPlain reports whether the client's cleartext password is the right one. It is heavy for SCRAM verifiers.
func (v *Verifier) checkPlain(user, password string) bool {
	switch v.kind {
	case kindPlain:
		// Hashing first hides the length of the password.
		a, b := hmacKey(processKey[:], v.plain), hmacKey(processKey[:], password)
		return equalKeys(&a, &b)
	case kindMD5:
		got := md5Hex(password, user)
		return subtle.ConstantTimeCompare(v.md5[:], got[:]) == 1
	case kindSCRAM:
		k, err := deriveKeys(password, v.salt, v.iter)
		if err != nil || !equalKeys(&k.server, &v.keys.server) {
			return false
		}
		hash := hmacKey(processKey[:], password)
		v.seen.Store(&hash)
		return true
	default:
		return false
	}
}

// recalls reports whether the password is the one that matched a SCRAM verifier last. It is never heavy.
func (v *Verifier) recalls(password string) bool {
	seen := v.seen.Load()
	if seen == nil {
		return false
	}
	hash := hmacKey(processKey[:], password)
	return equalKeys(seen, &hash)
}

// mockSalt is the salt of users that do not exist, and of plain passwords: the same derivation for both, so that the salt tells
// nothing about which it is.
func mockSalt(secret []byte, user string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("pgkennel scram salt\x00" + user))
	return h.Sum(nil)[:saltBytes]
}
