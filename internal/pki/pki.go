// Package pki makes certificate authorities and certificates by them: ECDSA on P-256, in PEM, keys as PKCS #8. Whom they are for, how long they last, and where they are kept is their users' matter.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"time"
)

// Since is when all certificates begin to be good: a clock may be wrong, and be set.
var Since = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Authority signs certificates. It is immutable.
type Authority struct {
	PEM  string // its certificate
	Cert *x509.Certificate

	key *ecdsa.PrivateKey
}

// NewAuthority makes a certificate that signs itself, and its key.
func NewAuthority(name string, now time.Time, life time.Duration) (cert, key []byte, err error) {
	t := Template(name, now, life)
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero, t.KeyUsage = true, true, true, x509.KeyUsageCertSign
	return sign(t, nil)
}

// Open makes ready what NewAuthority made.
func Open(cert, key []byte) (*Authority, error) {
	c, err := Parse(cert)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(key)
	if block == nil {
		return nil, errors.New("there is no key")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the key can't be read") // what is wrong with it may tell of it
	}
	private, ok := k.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(c.PublicKey) {
		return nil, errors.New("the key is not that of the certificate")
	}
	return &Authority{string(cert), c, private}, nil
}

// Template is a certificate to be signed, good until its life is over, from now on or from Since if now is before that.
func Template(name string, now time.Time, life time.Duration) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // it does not fail
	}
	if now.Before(Since) {
		now = Since
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: Since, NotAfter: now.Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

// Sign makes a certificate and its key.
func (a *Authority) Sign(t *x509.Certificate) (cert, key []byte, err error) { return sign(t, a) }

// sign makes a certificate and its key; by is nil for one that signs itself.
func sign(t *x509.Certificate, by *Authority) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	parent, signer := t, private
	if by != nil {
		parent, signer = by.Cert, by.key
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

// Parse reads the first certificate of a text in PEM.
func Parse(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("there is no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}
