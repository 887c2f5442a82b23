package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strings"
)

const (
	keyBytes   = sha256.Size
	saltBytes  = 16 // of the salts we make, as PostgreSQL
	nonceBytes = 18 // before base64, as PostgreSQL
)

// key is one SHA-256 value: ClientKey, StoredKey, ServerKey, a signature.
type key [keyBytes]byte

func equalKeys(a, b *key) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }

// scramKeys is what a password becomes with a salt and an iteration count (RFC 5802, section 3).
type scramKeys struct {
	client key
	stored key
	server key
}

// deriveKeys is heavy. It fails only where Go is held to FIPS 140, for short salts.
func deriveKeys(password string, salt []byte, iterations int) (k scramKeys, err error) {
	salted, err := pbkdf2.Key(sha256.New, saslprep(password), salt, iterations, keyBytes)
	if err != nil {
		return scramKeys{}, err
	}
	k.client = hmacKey(salted, "Client Key")
	k.stored = storedKey(&k.client)
	k.server = hmacKey(salted, "Server Key")
	return k, nil
}

func hmacKey(secret []byte, message string) (k key) {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(message))
	h.Sum(k[:0])
	return k
}

func storedKey(client *key) key { return sha256.Sum256(client[:]) }

func (k *key) xor(other *key) (out key) {
	subtle.XORBytes(out[:], k[:], other[:])
	return out
}

// attributes is what is left to read of a SCRAM message: comma-separated "letter=value". A fault is PostgreSQL's detail for "malformed
// SCRAM message", "" = none; it quotes no more of the message than one character.
type attributes string

// expect reads the next attribute, which must be this one.
func (a *attributes) expect(letter byte) (value, fault string) {
	if found := charAt(string(*a), 0); found != "'"+string(letter)+"'" {
		return "", fmt.Sprintf("Expected attribute \"%c\" but found \"%s\".", letter, found)
	}
	_, value, fault = a.next()
	return value, fault
}

// next reads whatever attribute comes next.
func (a *attributes) next() (letter byte, value, fault string) {
	s := string(*a)
	if s == "" {
		return 0, "", "Attribute expected, but found end of string."
	}
	letter = s[0]
	if (letter < 'A' || letter > 'Z') && (letter < 'a' || letter > 'z') {
		return 0, "", fmt.Sprintf("Attribute expected, but found invalid character \"%s\".", charAt(s, 0))
	}
	if len(s) < 2 || s[1] != '=' {
		return 0, "", fmt.Sprintf("Expected character \"=\" for attribute \"%c\".", letter)
	}
	value, rest, _ := strings.Cut(s[2:], ",")
	*a = attributes(rest)
	return letter, value, ""
}

// charAt is the character at i as PostgreSQL quotes it in these errors; the end of the message counts as a zero byte.
func charAt(s string, i int) string {
	var c byte
	if i < len(s) {
		c = s[i]
	}
	if c >= 0x21 && c <= 0x7e {
		return "'" + string(rune(c)) + "'"
	}
	return fmt.Sprintf("0x%02x", c)
}

// printableText reports whether s consists of the characters RFC 5802 allows in a nonce. As in PostgreSQL it may be empty.
func printableText(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e || s[i] == ',' {
			return false
		}
	}
	return true
}
