package tenant

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/internal/pki"
)

// Authority signs the certificates by which a tenant's instances, and pgkennels of other hosts, know each other. Each tenant has its own: a certificate of another
// tenant's, which that one's superuser can read, is of no use here.
//
// An authority ends, and another one is in its place before, step by step: who has not heard of a step yet, be it a server or a pgkennel, and who has, know each
// other all the same.
type Authority struct {
	Cert string     `json:"cert,omitempty"` // PEM
	Key  Ciphertext `json:"key,omitempty"`  // PKCS #8 in PEM, bound by AuthorityField
	// Next is to sign later, and is trusted already.
	Next    string     `json:"next,omitempty"`
	NextKey Ciphertext `json:"next_key,omitempty"`
	// Former has signed before, and is trusted until it ends.
	Former string `json:"former,omitempty"`
}

// AuthorityField binds Authority.Key and NextKey in the Vault.
const AuthorityField = "authority"

// ServerName is the name in the certificate of an instance, by its ID: it stays when the instance's address or port changes, or the tenant's name.
func ServerName(id string) string { return id + ".pgkennel" }

const (
	authorityLife = 20 * 365 * 24 * time.Hour
	// authorityRenewal and certificateRenewal are how long before its end something is made anew.
	authorityRenewal   = 2 * 365 * 24 * time.Hour
	certificateLife    = 365 * 24 * time.Hour
	certificateRenewal = certificateLife / 2
	// announced is for how long another authority is trusted before it signs, so that all pgkennels have heard of it.
	announced = 30 * 24 * time.Hour
)

// Signer is an opened Authority. It is immutable.
type Signer struct {
	Trusted string // whose certificates are believed, the authority's first, PEM

	by *pki.Authority
}

// NewAuthority makes a tenant's authority.
func NewAuthority(v *Vault, id string, now time.Time) (Authority, error) {
	cert, key, err := pki.NewAuthority("pgkennel "+id, now, authorityLife)
	if err != nil {
		return Authority{}, err
	}
	return Authority{Cert: string(cert), Key: v.Seal(id, AuthorityField, string(key))}, nil
}

// Trusted are the certificates of all whose certificates are to be believed, the authority's own first, in PEM.
func (a Authority) Trusted() string { return a.Cert + a.Next + a.Former }

// Renew returns what an authority has to be by now: the same, or the next step to another one.
func (a Authority) Renew(v *Vault, id string, now time.Time) (Authority, error) {
	cert, err := pki.Parse([]byte(a.Cert))
	if err != nil {
		return a, fmt.Errorf("the tenant's authority: %w", err)
	}
	left := cert.NotAfter.Sub(now)
	if left < authorityRenewal && a.Next == "" {
		next, err := NewAuthority(v, id, now)
		if err != nil {
			return a, err
		}
		a.Next, a.NextKey = next.Cert, next.Key
	}
	if a.Next != "" {
		next, err := pki.Parse([]byte(a.Next))
		if err != nil {
			return a, fmt.Errorf("the tenant's next authority: %w", err)
		}
		if made := next.NotAfter.Add(-authorityLife); left < announced || now.Sub(made) >= announced {
			a = Authority{Cert: a.Next, Key: a.NextKey, Former: a.Cert}
		}
	}
	if a.Former != "" {
		if former, err := pki.Parse([]byte(a.Former)); err != nil || now.After(former.NotAfter) {
			a.Former = ""
		}
	}
	return a, nil
}

// Open makes ready what a tenant's authority signs with.
func (a Authority) Open(v *Vault, id string) (*Signer, error) {
	key, err := v.Open(id, AuthorityField, a.Key)
	if err != nil {
		return nil, err
	}
	by, err := pki.Open([]byte(a.Cert), []byte(key))
	if err != nil {
		return nil, fmt.Errorf("the tenant's authority: %w", err)
	}
	return &Signer{a.Trusted(), by}, nil
}

// Server makes the certificate of an instance and its key, one behind the other in PEM.
func (s *Signer) Server(id string, now time.Time) ([]byte, error) {
	t := pki.Template(ServerName(id), now, certificateLife)
	t.DNSNames, t.ExtKeyUsage = []string{ServerName(id)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	cert, key, err := s.by.Sign(t)
	return slices.Concat(cert, key), err
}

// Client makes the certificate that a pgkennel shows to the tenant's instances.
func (s *Signer) Client(now time.Time) (*tls.Certificate, error) {
	t := pki.Template("pgkennel", now, certificateLife)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	cert, key, err := s.by.Sign(t)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	return &pair, err
}

// ServerGood reports whether what Server made is an instance's, and its end not near.
func ServerGood(made []byte, id string, now time.Time) bool {
	c, err := pki.Parse(made)
	return err == nil && c.NotAfter.Sub(now) >= certificateRenewal && c.VerifyHostname(ServerName(id)) == nil
}

// Badge is the certificate that this pgkennel shows to a tenant's instances. It is safe for concurrent use.
type Badge struct {
	By *Signer

	mu   sync.Mutex
	made *tls.Certificate
}

// Show returns it, made anew long before its end.
func (b *Badge) Show(now time.Time) (*tls.Certificate, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.made != nil && b.made.Leaf.NotAfter.Sub(now) >= certificateRenewal {
		return b.made, nil
	}
	made, err := b.By.Client(now)
	if err == nil {
		b.made = made
	}
	return made, err
}
