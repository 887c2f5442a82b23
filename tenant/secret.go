package tenant

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
)

// Secret is a key from which the tenants' own secrets are derived, so that none of them has to be kept.
type Secret struct {
	id  string
	key []byte
}

// minSecret is how long a secret has to be, in bytes.
const minSecret = 16

// NewSecret makes a Secret of a file's contents; white space at its end does not count.
func NewSecret(b []byte) (*Secret, error) {
	n := len(b)
	for n > 0 && (b[n-1] == '\n' || b[n-1] == '\r' || b[n-1] == ' ' || b[n-1] == '\t') {
		n--
	}
	if n < minSecret {
		return nil, errors.New("a secret has to have 16 bytes at least; openssl rand -hex 32 makes one")
	}
	s := &Secret{key: append([]byte(nil), b[:n]...)}
	s.id = hex.EncodeToString(s.derive("id")[:4])
	return s, nil
}

// ID tells secrets apart without showing anything of them.
func (s *Secret) ID() string { return s.id }

// derive is HMAC-SHA-256 over the parts, each with its length in front.
func (s *Secret) derive(parts ...string) []byte {
	h := hmac.New(sha256.New, s.key)
	for _, p := range parts {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(p))) //nolint:gosec // names
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}

// RolePassword is the password of a tenant's role in a cluster.
func (s *Secret) RolePassword(cluster, role string) string {
	return base64.RawURLEncoding.EncodeToString(s.derive("role password", cluster, role))
}

// SealKey is the key of seals in a cluster. The database knows it, too.
func (s *Secret) SealKey(cluster string) []byte { return s.derive("seal", cluster) }

// Seal is the signature that says that pgkennel gave the tenant with the key to a server process: its pid, and when it began, in
// microseconds since 1970. The id in front says by which key of the database it is checked, so that keys can be changed while others are in use.
func Seal(id string, sealKey []byte, key string, pid uint32, start int64) string {
	h := hmac.New(sha256.New, sealKey)
	h.Write([]byte(strconv.FormatUint(uint64(pid), 10) + " " + strconv.FormatInt(start, 10) + " " + key))
	return id + "." + hex.EncodeToString(h.Sum(nil))
}
