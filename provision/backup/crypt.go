package backup

import (
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"filippo.io/age"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// What is kept is gzip in age (age-encryption.org), with a passphrase for each file that is derived from the key, the tenant, the backup and the file's
// name. So a file opens in its own place only, and is authenticated: who does not have the key can make none. The passphrase has 256 bits, and there is
// nothing to gain from making it slow to try.
const workFactor = 1

// keys are the key that seals, and before it those of earlier times, which open too.
type keys []*tenant.Secret

// keyFor is the key that a manifest was made with.
func (k keys) byID(id string) *tenant.Secret {
	for _, s := range k {
		if s.ID() == id {
			return s
		}
	}
	return nil
}

func passphrase(s *tenant.Secret, path []string) string { return s.BackupKey(path...) }

// mac authenticates a text of a place.
func mac(s *tenant.Secret, text []byte, path ...string) string {
	h := hmac.New(sha256.New, []byte(s.BackupKey(append([]string{"mac"}, path...)...)))
	h.Write(text)
	return hex.EncodeToString(h.Sum(nil))
}

// sealer encrypts and compresses one file. Counts are good after Close.
type sealer struct {
	zip    *gzip.Writer
	enc    io.WriteCloser
	stored counter
	packed int64 // compressed
	plain  int64
	closed bool
	failed error // to write
	into   io.Closer
}

// counter passes on, counts and hashes.
type counter struct {
	w   io.Writer
	n   int64
	sum hash.Hash
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.sum.Write(p[:n])
	return n, err
}

func (k keys) seal(into io.WriteCloser, path ...string) (*sealer, error) {
	r, err := age.NewScryptRecipient(passphrase(k[0], path))
	if err != nil {
		return nil, err
	}
	r.SetWorkFactor(workFactor)
	s := &sealer{stored: counter{w: into, sum: sha256.New()}, into: into}
	if s.enc, err = age.Encrypt(&s.stored, r); err != nil {
		return nil, err
	}
	s.zip, err = gzip.NewWriterLevel(&packing{s}, gzip.BestSpeed)
	return s, err
}

// packing counts what was compressed.
type packing struct{ s *sealer }

func (p *packing) Write(b []byte) (int, error) {
	n, err := p.s.enc.Write(b)
	p.s.packed += int64(n)
	if err != nil {
		p.s.failed = err
	}
	return n, err
}

func (s *sealer) Write(p []byte) (int, error) {
	n, err := s.zip.Write(p)
	s.plain += int64(n)
	return n, err
}

func (s *sealer) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.zip.Close()
	if err == nil {
		err = s.enc.Close()
	}
	return errors.Join(err, s.into.Close())
}

// sum is the SHA-256 of what is stored.
func (s *sealer) sum() string { return hex.EncodeToString(s.stored.sum.Sum(nil)) }

// opener reads what a sealer wrote. It gives io.EOF only where all that was written was read, and nothing but that.
type opener struct {
	zip    *gzip.Reader
	stored *tee
	from   io.Closer
	want   string // SHA-256 of what is stored; empty = unknown
	where  string
	packed bool // give it compressed
	enc    io.Reader
}

// tee counts and hashes what is read.
type tee struct {
	r   io.Reader
	n   int64
	sum hash.Hash
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.n += int64(n)
	t.sum.Write(p[:n])
	return n, err
}

// damaged is a stored file that is not what was written.
func damaged(where, format string, args ...any) *provision.Error {
	return provision.Errorf(provision.KindFailed, "%s is damaged or was changed: %s", where, fmt.Sprintf(format, args...))
}

// errKey is a file that was sealed with another key, or for another place.
var errKey = errors.New("it does not open with the key: the key is another one, or the file belongs to another backup or tenant")

// open opens a file; want is the SHA-256 that it has to have, if known. It closes from in any case.
func (k keys) open(from io.ReadCloser, want string, path ...string) (*opener, error) {
	return k.opener(from, want, false, path)
}

// openPacked is open, but leaves it compressed.
func (k keys) openPacked(from io.ReadCloser, want string, path ...string) (*opener, error) {
	return k.opener(from, want, true, path)
}

func (k keys) opener(from io.ReadCloser, want string, packed bool, path []string) (*opener, error) {
	where := strings.Join(path, "/")
	o := &opener{stored: &tee{r: from, sum: sha256.New()}, from: from, want: want, where: where, packed: packed}
	var ids []age.Identity
	for _, s := range k {
		id, err := age.NewScryptIdentity(passphrase(s, path))
		if err != nil {
			return nil, errors.Join(err, from.Close())
		}
		id.SetMaxWorkFactor(workFactor)
		ids = append(ids, id)
	}
	r, err := age.Decrypt(o.stored, ids...)
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		err = errKey
	}
	if err == nil {
		o.enc = r
		if !packed {
			o.zip, err = gzip.NewReader(r)
		}
	}
	if err != nil {
		return nil, errors.Join(damaged(where, "%v", err), from.Close())
	}
	return o, nil
}

func (o *opener) Read(p []byte) (int, error) {
	var n int
	var err error
	if o.packed {
		n, err = o.enc.Read(p)
	} else {
		n, err = o.zip.Read(p)
	}
	if err == nil {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return n, damaged(o.where, "%v", err)
	}
	return n, o.end()
}

// end reads what is behind the last byte, and compares the sum.
func (o *opener) end() error {
	if _, err := io.Copy(io.Discard, o.enc); err != nil {
		return damaged(o.where, "%v", err)
	}
	if _, err := io.Copy(io.Discard, o.stored); err != nil {
		return damaged(o.where, "%v", err)
	}
	if got := hex.EncodeToString(o.stored.sum.Sum(nil)); o.want != "" && got != o.want {
		return damaged(o.where, "its SHA-256 is %s, and was %s", got, o.want)
	}
	return io.EOF
}

func (o *opener) Close() error { return o.from.Close() }
