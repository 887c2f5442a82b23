package tenant

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"sync"
	"time"
)

// Authority signs the certificates by which a tenant's instances, and pgkennels of other hosts, know each other. Each tenant has its own: a certificate of another
// tenant's, which that one's superuser can read, is of no use here.
type Authority struct {
	Cert string     `json:"cert,omitempty"` // PEM
	Key  Ciphertext `json:"key,omitempty"`  // PKCS #8 in PEM, bound by AuthorityField
}

// AuthorityField binds Authority.Key in the Vault.
const AuthorityField = "authority"

// ServerName is the name in the certificate of an instance, by its ID: it stays when the instance's address or port changes, or the tenant's name.
func ServerName(id string) string { return id + ".pgkennel" }

const (
	authorityLife = 20 * 365 * 24 * time.Hour
	// authorityRenewal and certificateRenewal are how long before its end something is made anew.
	authorityRenewal   = 2 * 365 * 24 * time.Hour
	certificateLife    = 365 * 24 * time.Hour
	certificateRenewal = certificateLife / 2
)

// certified is when all certificates begin to be good: a clock may be wrong, and be set.
var certified = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Signer is an opened Authority. It is immutable.
type Signer struct {
	Cert string // the authority's, PEM

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a tenant's authority.
func NewAuthority(v *Vault, id string, now time.Time) (Authority, error) {
	t := certificate("pgkennel "+id, now.Add(authorityLife))
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero, t.KeyUsage = true, true, true, x509.KeyUsageCertSign
	cert, key, err := sign(t, nil)
	if err != nil {
		return Authority{}, err
	}
	return Authority{string(cert), v.Seal(id, AuthorityField, string(key))}, nil
}

// Open makes ready what a tenant's authority signs with.
func (a Authority) Open(v *Vault, id string) (*Signer, error) {
	text, err := v.Open(id, AuthorityField, a.Key)
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate([]byte(a.Cert))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("the tenant's authority has no key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the key of the tenant's authority is not that of its certificate")
	}
	return &Signer{a.Cert, cert, private}, nil
}

// Ending reports whether it is time for another authority.
func (s *Signer) Ending(now time.Time) bool { return s.cert.NotAfter.Sub(now) < authorityRenewal }

// Server makes the certificate of an instance and its key, one behind the other in PEM.
func (s *Signer) Server(id string, now time.Time) ([]byte, error) {
	t := certificate(ServerName(id), now.Add(certificateLife))
	t.DNSNames, t.ExtKeyUsage = []string{ServerName(id)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	cert, key, err := sign(t, s)
	return slices.Concat(cert, key), err
}

// Client makes the certificate that a pgkennel shows to the tenant's instances.
func (s *Signer) Client(now time.Time) (*tls.Certificate, error) {
	t := certificate("pgkennel", now.Add(certificateLife))
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	cert, key, err := sign(t, s)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	return &pair, err
}

// ServerGood reports whether what Server made is an instance's, and its end not near.
func ServerGood(made []byte, id string, now time.Time) bool {
	c, err := parseCertificate(made)
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

func certificate(name string, until time.Time) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // it does not fail
	}
	if least := certified.Add(certificateLife); until.Before(least) {
		until = least
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: certified, NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

// sign makes a certificate and its key; by is nil for one that signs itself.
func sign(t *x509.Certificate, by *Signer) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	parent, signer := t, private
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &private.PublicKey, signer)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("there is no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}
