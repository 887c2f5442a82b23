package tenant

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
)

// Ciphertext is a secret as the directory keeps it: encrypted, by a Vault. It may be logged, and is not.
type Ciphertext string

// Vault encrypts the secrets of a directory (AES-256-GCM; the key comes from a Secret). It is safe for concurrent use.
type Vault struct {
	id   string
	aead cipher.AEAD
	mock []byte
	// before are the vaults of earlier keys: what those sealed can still be opened.
	before []*Vault
}

// NewVault makes a Vault of a key, and of those that were in use before it.
func NewVault(key *Secret, before ...*Secret) *Vault {
	v := newVault(key)
	for _, s := range before {
		v.before = append(v.before, newVault(s))
	}
	return v
}

func newVault(s *Secret) *Vault {
	block, err := aes.NewCipher(s.derive("vault"))
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has the right block size
	}
	return &Vault{id: s.ID(), aead: aead, mock: s.derive("mock salts")}
}

// Mock is the secret that salts are derived from for logins that there are not: the same on all poolers of a directory, and after a restart, as those are that
// there are.
func (v *Vault) Mock() []byte { return v.mock }

// errOpen is a secret that none of the keys opens.
var errOpen = errors.New("a secret of the directory can't be opened: it was sealed with another key, or changed")

// Seal encrypts a secret for one field of one tenant: it can be opened as that only.
func (v *Vault) Seal(id, field, secret string) Ciphertext {
	nonce := make([]byte, v.aead.NonceSize(), v.aead.NonceSize()+len(secret)+v.aead.Overhead())
	rand.Read(nonce) // it does not fail
	b := v.aead.Seal(nonce, nonce, []byte(secret), []byte(id+"/"+field))
	return Ciphertext(v.id + "." + base64.RawStdEncoding.EncodeToString(b))
}

// Open decrypts what Seal made.
func (v *Vault) Open(id, field string, s Ciphertext) (string, error) {
	for _, x := range append([]*Vault{v}, v.before...) {
		if len(s) <= len(x.id) || string(s[:len(x.id)]) != x.id || s[len(x.id)] != '.' {
			continue
		}
		b, err := base64.RawStdEncoding.DecodeString(string(s[len(x.id)+1:]))
		if err != nil || len(b) < x.aead.NonceSize() {
			return "", errOpen
		}
		b, err = x.aead.Open(nil, b[:x.aead.NonceSize()], b[x.aead.NonceSize():], []byte(id+"/"+field))
		if err != nil {
			return "", errOpen
		}
		return string(b), nil
	}
	return "", errOpen
}

// Stale reports whether s was sealed with an earlier key than today's.
func (v *Vault) Stale(s Ciphertext) bool {
	return s != "" && (len(s) <= len(v.id) || string(s[:len(v.id)]) != v.id)
}

// NewPassword returns a password of 128 random bits, in letters and digits.
func NewPassword() string {
	var b [16]byte
	rand.Read(b[:]) // it does not fail
	return ids.EncodeToString(b[:])
}
