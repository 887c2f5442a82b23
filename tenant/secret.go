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
		return nil, errors.New("a secret has to have 16 bytes at least")
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

// BackupKey is the key of one file of the backups, named by the words of its path.
func (s *Secret) BackupKey(path ...string) string {
	return base64.RawURLEncoding.EncodeToString(s.derive(append([]string{"backup"}, path...)...))
}

// SealSetting is the parameter of a server connection that holds the seal.
const SealSetting = "pgkennel.seal"

// Sealer signs which tenant a server connection works for, so that the database can tell it from what a client says. It is safe for concurrent use.
type Sealer struct {
	id           string
	inner, outer [sha256.BlockSize]byte // the key, as HMAC has it in front of what it hashes (RFC 2104)
}

// Sealer returns what makes seals for a cluster.
func (s *Secret) Sealer(cluster string) *Sealer {
	x := &Sealer{}
	key := s.derive("seal", cluster)
	copy(x.inner[:], key)
	x.outer = x.inner
	for i := range x.inner {
		x.inner[i] ^= 0x36
		x.outer[i] ^= 0x5c
	}
	x.id = hex.EncodeToString(s.derive("seal id", cluster)[:8])
	return x
}

// ID tells the keys of seals apart: it is in front of the seal, and the database finds by it what to check that with. So keys can be changed while
// connections have seals of the old one.
func (s *Sealer) ID() string { return s.id }

// Pads are what the database needs to check seals. They are as secret as the key.
func (s *Sealer) Pads() (inner, outer []byte) { return s.inner[:], s.outer[:] }

// AppendSeal appends the seal that gives a tenant's key to one server process: its pid, and when it began, in microseconds since 1970. So it is worth
// nothing on another connection, and for another tenant.
func (s *Sealer) AppendSeal(dst []byte, key string, pid uint32, start int64) []byte {
	var room [256]byte
	text := append(room[:0], s.inner[:]...)
	text = strconv.AppendUint(text, uint64(pid), 10)
	text = append(text, ' ')
	text = strconv.AppendInt(text, start, 10)
	text = append(append(text, ' '), key...)
	sum := sha256.Sum256(text)
	sum = sha256.Sum256(append(append(room[:0], s.outer[:]...), sum[:]...))
	dst = append(append(dst, s.id...), '.')
	return hex.AppendEncode(dst, sum[:])
}
