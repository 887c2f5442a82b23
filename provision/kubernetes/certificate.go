package kubernetes

import (
	"context"
	"crypto/x509"
	"net"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pgkennel/pgkennel/internal/pki"
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

// authority reads the namespace's, or makes it: of two who do so at once, both get the first one's.
func (d *Driver) authority(ctx context.Context) (*pki.Authority, error) {
	for {
		u, err := d.get(ctx, secrets, authoritySecret)
		if err != nil {
			return nil, err
		}
		if u != nil {
			a, err := pki.Open(data(u, certField), data(u, keyField))
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
	return pki.NewAuthority("pgkennel", time.Now(), lifetime)
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
	if a.PEM != in.Endpoint.CA {
		return provision.Errorf(provision.KindFailed, "instance %s can't have a certificate: its authority is not in the secret %s of namespace %s any more",
			in.ID, authoritySecret, d.o.Namespace).WithHint("bring that secret back from a backup")
	}
	t := pki.Template(nameOf(in.ID), time.Now(), lifetime)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	cert, key, err := a.Sign(t)
	if err != nil {
		return err
	}
	s := d.object("v1", "Secret", name, in.ID, object{
		"type": "kubernetes.io/tls", "data": object{certField: encode([]byte(a.PEM)), "tls.crt": encode(cert), "tls.key": encode(key)},
	})
	reloaded(s)
	return d.apply(ctx, secrets, s, manager, false)
}

// signed reports whether a server's certificate is an authority's, and will do.
func signed(u *unstructured.Unstructured, authority string, hosts []string) bool {
	by, err := pki.Parse([]byte(authority))
	if err != nil {
		return false
	}
	c, err := pki.Parse(data(u, "tls.crt"))
	if err != nil || c.CheckSignatureFrom(by) != nil || time.Until(c.NotAfter) < renewal || string(data(u, certField)) != authority {
		return false
	}
	return !slices.ContainsFunc(hosts, func(h string) bool { return c.VerifyHostname(h) != nil })
}
