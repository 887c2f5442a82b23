package kubernetes

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pgkennel/pgkennel/provision"
)

const (
	authoritySecret = "pgkennel-ca"
	certField       = "ca.crt"
	keyField        = "ca.key"

	lifetime = 20 * 365 * 24 * time.Hour
	// renewal is how long before its end a server's certificate is made anew.
	renewal = 2 * 365 * 24 * time.Hour
)

// authority signs the certificates of a namespace's servers.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

// authority reads the namespace's, or makes it: of two who do so at once, both get the first one's.
func (d *Driver) authority(ctx context.Context) (*authority, error) {
	for {
		u, err := d.get(ctx, secrets, authoritySecret)
		if err != nil {
			return nil, err
		}
		if u != nil {
			a, err := parseAuthority(data(u, certField), data(u, keyField))
			if err != nil {
				return nil, provision.Errorf(provision.KindFailed, "the secret %s of namespace %s can't be used: %v", authoritySecret, d.o.Namespace, err)
			}
			return a, nil
		}
		cert, key, err := newAuthority()
		if err != nil {
			return nil, err
		}
		made := d.object("v1", "Secret", authoritySecret, "", object{"type": "Opaque", "data": object{certField: encode(cert), keyField: encode(key)}})
		_, err = d.of(secrets).Create(ctx, made, metav1.CreateOptions{FieldManager: manager})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, d.explain(ctx, "make the secret "+authoritySecret, err)
		}
	}
}

func newAuthority() (cert, key []byte, err error) {
	t := template("pgkennel")
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	return sign(t, nil)
}

func parseAuthority(cert, key []byte) (*authority, error) {
	c, err := parseCert(cert)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(key)
	if block == nil {
		return nil, errors.New("it has no key")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("its key can't be read")
	}
	private, ok := k.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(c.PublicKey) {
		return nil, errors.New("its key is not that of its certificate")
	}
	return &authority{c, private, string(cert)}, nil
}

func parseCert(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it has no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// since is when all certificates begin to be good. That of the clock may be wrong, and be set.
var since = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // it does not fail
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: since, NotAfter: later(time.Now(), since).Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

// sign makes a key and its certificate, by an authority or by itself.
func sign(t *x509.Certificate, by *authority) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	parent, signer := t, k
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &k.PublicKey, signer)
	if err != nil {
		return nil, nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), nil
}

// hosts are the names by which somebody may reach an instance or its replica.
func (d *Driver) hosts(id string) []string {
	var list []string
	for _, kind := range []string{"-rw", "-ro", "-r"} {
		s := nameOf(id) + kind
		list = append(list, d.o.Address(s, d.o.Namespace), s+"."+d.o.Namespace+".svc", s+"."+d.o.Namespace, s)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// certificate sees to it that the server's certificate is there, and good for years. It is of the authority that poolers were told, or none.
func (d *Driver) certificate(ctx context.Context, in *provision.Instance) error {
	name, hosts := serverSecret(in.ID), d.hosts(in.ID)
	u, err := d.get(ctx, secrets, name)
	if err != nil || u != nil && signed(u, in.Endpoint.CA, hosts) {
		return err
	}
	a, err := d.authority(ctx)
	if err != nil {
		return err
	}
	if a.pem != in.Endpoint.CA {
		return provision.Errorf(provision.KindFailed, "instance %s can't have a certificate: its authority is not in the secret %s of namespace %s any more",
			in.ID, authoritySecret, d.o.Namespace).WithHint("bring that secret back from a backup")
	}
	t := template(nameOf(in.ID))
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	cert, key, err := sign(t, a)
	if err != nil {
		return err
	}
	s := d.object("v1", "Secret", name, in.ID, object{
		"type": "kubernetes.io/tls", "data": object{certField: encode([]byte(a.pem)), "tls.crt": encode(cert), "tls.key": encode(key)},
	})
	reloaded(s)
	return d.apply(ctx, secrets, s, manager, false)
}

// signed reports whether a server's certificate is an authority's, and will do.
func signed(u *unstructured.Unstructured, authority string, hosts []string) bool {
	by, err := parseCert([]byte(authority))
	if err != nil {
		return false
	}
	c, err := parseCert(data(u, "tls.crt"))
	if err != nil || c.CheckSignatureFrom(by) != nil || time.Until(c.NotAfter) < renewal || string(data(u, certField)) != authority {
		return false
	}
	return !slices.ContainsFunc(hosts, func(h string) bool { return c.VerifyHostname(h) != nil })
}
