package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
)

// checkTLS reports keys about TLS that lack another one.
func (b *builder) checkTLS() {
	g, r := b.cfg.general, b.r
	pair := func(cert, key string) {
		if g.text(cert) != "" && g.text(key) == "" && !g.badKey(key) {
			r.fail(g.placeOf(cert), "add "+key, "%s is set without %s", cert, key)
		}
		if g.text(key) != "" && g.text(cert) == "" && !g.badKey(cert) {
			r.fail(g.placeOf(key), "add "+cert, "%s is set without %s", key, cert)
		}
	}
	pair("tls_certificate", "tls_private_key")
	pair("tls_server_certificate", "tls_server_private_key")
	if g.text("tls_certificate") == "" && !g.has("tls_private_key") && !g.badKey("tls_certificate") {
		if g.bool("tls_client_required") {
			r.fail(g.placeOf("tls_client_required"), "add tls_certificate and tls_private_key", "tls_client_required = true without a certificate would refuse every client")
		}
		if g.text("tls_client_ca_certificate") != "" {
			r.fail(g.placeOf("tls_client_ca_certificate"), "add tls_certificate and tls_private_key", "clients' certificates can't be checked without TLS to clients")
		}
	}
	if v := g.text("tls_verify"); (v == "verify_ca" || v == "verify_full") && g.text("tls_server_ca_certificate") == "" && !g.badKey("tls_server_ca_certificate") {
		r.fail(g.placeOf("tls_verify"), "add tls_server_ca_certificate, the file of the authorities to trust", "tls_verify = %q has no authority to check servers against", v)
	}
}

// checkTLSFiles reports files of certificates and keys that are not there or not what they should be.
func (b *builder) checkTLSFiles(readFile func(string) ([]byte, error)) {
	b.keyPair("tls_certificate", "tls_private_key", readFile)
	b.keyPair("tls_server_certificate", "tls_server_private_key", readFile)
	for _, name := range []string{"tls_client_ca_certificate", "tls_server_ca_certificate"} {
		if pem := b.pemFile(name, readFile); pem != nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
			b.r.fail(b.cfg.general.placeOf(name), "it must be a PEM file of certificates", "there is no certificate in %s %q", name, b.cfg.general.text(name))
		}
	}
}

func (b *builder) keyPair(cert, key string, readFile func(string) ([]byte, error)) {
	c, k := b.pemFile(cert, readFile), b.pemFile(key, readFile)
	if c == nil || k == nil {
		return
	}
	if _, err := tls.X509KeyPair(c, k); err != nil {
		b.r.fail(b.cfg.general.placeOf(cert), "both must be PEM files, of one pair", "%s and %s can't be used: %s", cert, key, lowerFirst(err.Error()))
	}
}

// pemFile reads the file that a key names; nil if there is none or it can't be read, which is reported.
func (b *builder) pemFile(name string, readFile func(string) ([]byte, error)) []byte {
	g := b.cfg.general
	path := g.text(name)
	if path == "" {
		return nil
	}
	data, err := readFile(path)
	if err == nil {
		return data
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	b.r.fail(g.placeOf(name), "", "%s %q can't be read: %s", name, path, err)
	return nil
}
