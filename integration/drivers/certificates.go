package main

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/pgkennel/pgkennel/internal/pki"
)

// certificates are what servers and pgkennel show, in memory and as files.
type certificates struct {
	cert, key                              []byte
	certFile, keyFile, rootFile, otherFile string
}

// newCertificates makes an authority, a certificate of it for localhost, and another authority that signed nothing.
func newCertificates(dir string) (*certificates, error) {
	const life = 24 * time.Hour // as long as any run takes
	now := time.Now()
	cert, key, err := pki.NewAuthority("drivers", now, life)
	if err != nil {
		return nil, err
	}
	other, _, err := pki.NewAuthority("drivers", now, life)
	if err != nil {
		return nil, err
	}
	root, err := pki.Open(cert, key)
	if err != nil {
		return nil, err
	}
	t := pki.Template("localhost", now, life)
	t.DNSNames, t.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	c := &certificates{
		certFile: filepath.Join(dir, "server.crt"), keyFile: filepath.Join(dir, "server.key"),
		rootFile: filepath.Join(dir, "root.crt"), otherFile: filepath.Join(dir, "other.crt"),
	}
	if c.cert, c.key, err = root.Sign(t); err != nil {
		return nil, err
	}
	return c, errors.Join(
		os.WriteFile(c.certFile, c.cert, 0o644), os.WriteFile(c.keyFile, c.key, 0o600),
		os.WriteFile(c.rootFile, cert, 0o644), os.WriteFile(c.otherFile, other, 0o644),
	)
}
