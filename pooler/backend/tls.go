package backend

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// TLSMode is how connections to servers are protected: PgDog's tls_verify.
type TLSMode uint8

// The modes. The zero value is TLSDisabled.
const (
	TLSDisabled   TLSMode = iota // never TLS
	TLSPrefer                    // TLS if the server offers it, whatever its certificate: no protection against impostors
	TLSVerifyCA                  // TLS, and the certificate must come from the CA
	TLSVerifyFull                // TLS, and the certificate must come from the CA and be the host's
)

var tlsModeNames = [...]string{TLSDisabled: "disabled", TLSPrefer: "prefer", TLSVerifyCA: "verify_ca", TLSVerifyFull: "verify_full"}

// ParseTLSMode reads a mode's name in the configuration.
func ParseTLSMode(s string) (TLSMode, error) {
	for m, name := range tlsModeNames {
		if s == name {
			return TLSMode(m), nil
		}
	}
	return 0, fmt.Errorf("unknown tls mode %q", s)
}

// String is the mode's name in the configuration.
func (m TLSMode) String() string {
	if int(m) < len(tlsModeNames) {
		return tlsModeNames[m]
	}
	return "unknown"
}

// TLSOptions protect connections to servers. The zero value means no TLS; ClientTLS makes the others.
type TLSOptions struct {
	Mode TLSMode

	base *tls.Config
	name string // that the server's certificate has to have; empty = the host's
}

// ClientTLS reads the files for connections to servers: the CA that signs their certificates (empty = the system's), and the
// certificate and key we show them (both empty = none). Errors name the file.
func ClientTLS(mode TLSMode, caFile, certFile, keyFile string) (TLSOptions, error) {
	if mode == TLSDisabled {
		return TLSOptions{}, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if caFile != "" {
		if c.RootCAs, err = loadCA(caFile); err != nil {
			return TLSOptions{}, err
		}
	}
	if certFile != "" || keyFile != "" {
		cert, err := loadPair(certFile, keyFile)
		if err != nil {
			return TLSOptions{}, err
		}
		c.Certificates = []tls.Certificate{*cert}
	}
	switch mode {
	case TLSPrefer:
		c.InsecureSkipVerify = true // what the mode means
	case TLSVerifyCA:
		// The chain is verified below; package tls can only do that together with the name.
		c.InsecureSkipVerify = true // VerifyConnection replaces it
		c.VerifyConnection = verifyChain(c.RootCAs)
	case TLSVerifyFull:
	case TLSDisabled:
	default:
		return TLSOptions{}, fmt.Errorf("unknown tls mode %d", mode)
	}
	return TLSOptions{Mode: mode, base: c}, nil
}

// AuthorityTLS is for a server that must show a certificate of an authority, in PEM, for its host.
func AuthorityTLS(authority string) (TLSOptions, error) {
	o := TLSOptions{Mode: TLSVerifyFull, base: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}}
	if !o.base.RootCAs.AppendCertsFromPEM([]byte(authority)) {
		return o, errors.New("the certificate of the authority can't be read")
	}
	return o, nil
}

// Peer has the server show a certificate for a name, wherever it is, and shows it one of ours if it wants to see that.
func (o TLSOptions) Peer(name string, show func() (*tls.Certificate, error)) TLSOptions {
	o.name, o.base = name, o.base.Clone()
	o.base.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return show() }
	return o
}

// config is the configuration for one host.
func (o TLSOptions) config(host string) *tls.Config {
	if o.base == nil { // a Mode set by hand: only the strictest reading is safe
		return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	}
	c := o.base.Clone()
	c.ServerName = cmp.Or(o.name, host)
	return c
}

// verifyChain checks that the server's certificate leads to one of the roots, whatever its name.
func verifyChain(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("server sent no certificate")
		}
		intermediates := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			intermediates.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates})
		return err
	}
}

// ServerTLSFiles are the files for connections from clients.
type ServerTLSFiles struct {
	Certificate string
	Key         string
	// ClientCA signs clients' certificates; empty = they are not asked for one. With it a client may show one, which must then be good.
	ClientCA string
	// RequireClientCertificate refuses clients without a certificate.
	RequireClientCertificate bool
}

// ServerTLS is the TLS configuration for connections from clients. Its files can be read again while it is in use.
type ServerTLS struct {
	files   ServerTLSFiles
	current atomic.Pointer[tls.Config]
}

// NewServerTLS reads the files. Errors name the file.
func NewServerTLS(files ServerTLSFiles) (*ServerTLS, error) {
	if files.RequireClientCertificate && files.ClientCA == "" {
		return nil, errors.New("client certificates are required, but no CA is configured to check them")
	}
	s := &ServerTLS{files: files}
	if err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Reload reads the files again, for handshakes that begin later. An error leaves everything as it is.
func (s *ServerTLS) Reload() error {
	cert, err := loadPair(s.files.Certificate, s.files.Key)
	if err != nil {
		return err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert}}
	if s.files.ClientCA != "" {
		if c.ClientCAs, err = loadCA(s.files.ClientCA); err != nil {
			return err
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
		if s.files.RequireClientCertificate {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	s.current.Store(c)
	return nil
}

// Config is for tls.Server. It stays valid across reloads.
func (s *ServerTLS) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return s.current.Load(), nil
		},
	}
}

// ClientIdentity is the common name of the certificate a client proved to own; ok is false if it showed none. The connection must come
// from a ServerTLS with a client CA.
func ClientIdentity(s tls.ConnectionState) (commonName string, ok bool) {
	if len(s.VerifiedChains) == 0 {
		return "", false
	}
	return s.VerifiedChains[0][0].Subject.CommonName, true
}

func loadCA(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("tls ca: %w", err) // os names the file
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls ca %s: no certificate in PEM form", file)
	}
	return pool, nil
}

func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	if certFile == "" || keyFile == "" {
		return nil, errors.New("tls certificate and key must both be given")
	}
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("tls certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("tls key: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("tls certificate %s with key %s: %w", certFile, keyFile, err)
	}
	return &cert, nil
}
