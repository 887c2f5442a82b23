package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := Options{
		ConfigFile: write(t, dir, "pgdog.toml", "[[databases]]\nname = 'p'\nhost = 'h'\n"),
		UsersFile:  write(t, dir, "users.toml", "[[users]]\nname = 'u'\ndatabase = 'p'\npassword = 'x'\n"),
		Environ:    []string{"PGDOG_PORT=7000"}, ConfigGiven: true, UsersGiven: true,
	}
	c, warnings, err := Load(o)
	if err != nil || len(warnings) > 0 || c.Listen.Port != 7000 || len(c.Users) != 1 || c.Users[0].Pos.File != o.UsersFile {
		t.Errorf("got %+v, %s, %v", c, warnings, err)
	}
}

func TestMissingFileMeansDefaultsUnlessItWasAskedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := Options{ConfigFile: filepath.Join(dir, "pgdog.toml"), UsersFile: filepath.Join(dir, "users.toml")}
	c, warnings, err := Load(o)
	if err != nil || c.Listen.Port != 6432 {
		t.Errorf("got %+v, %v, want defaults", c, err)
	}
	if want := o.ConfigFile + ": the file does not exist, defaults are used\n" + o.UsersFile + ": the file does not exist, defaults are used"; warnings.String() != want {
		t.Errorf("got warnings %s, want %s", warnings, want)
	}
	o.ConfigGiven, o.UsersGiven = true, true
	_, _, err = Load(o)
	if want := o.ConfigFile + ": the file does not exist\n" + o.UsersFile + ": the file does not exist"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
	// A file that is missing does not make the links to it wrong as well.
	o.UsersFile = write(t, dir, "users.toml", "[[users]]\nname = 'u'\ndatabase = 'p'\npassword = 'x'\n")
	_, _, err = Load(o)
	if want := o.ConfigFile + ": the file does not exist"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
	// A directory in its place is a mistake in any case.
	_, _, err = Load(Options{ConfigFile: dir, UsersFile: filepath.Join(dir, "none.toml")})
	if err == nil || !strings.HasPrefix(err.Error(), dir+": the file can't be read: ") {
		t.Errorf("got error %v, want that the file can't be read", err)
	}
}

// keyPair makes a certificate and its key, PEM.
func keyPair(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	var c, p bytes.Buffer
	if err := errors.Join(pem.Encode(&c, &pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.Encode(&p, &pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})); err != nil {
		t.Fatal(err)
	}
	return c.String(), p.String()
}

func TestTLSFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := keyPair(t)
	_, otherKey := keyPair(t)
	certFile, keyFile, otherFile := write(t, dir, "cert.pem", cert), write(t, dir, "key.pem", key), write(t, dir, "other.pem", otherKey)
	junk := write(t, dir, "junk.pem", "no certificate")
	load := func(general string) error {
		_, _, err := Load(Options{ConfigFile: write(t, dir, "pgdog.toml", "[general]\n"+general), UsersFile: write(t, dir, "users.toml", "")})
		return err
	}
	if err := load("tls_certificate = '" + certFile + "'\ntls_private_key = '" + keyFile + "'\ntls_client_ca_certificate = '" + certFile + "'\n"); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	for _, c := range []struct{ general, want string }{
		{"tls_certificate = '" + certFile + "'\ntls_private_key = '" + otherFile + "'\n", "pgdog.toml:2:1: tls_certificate and tls_private_key can't be used: "},
		{"tls_certificate = '" + junk + "'\ntls_private_key = '" + keyFile + "'\n", "pgdog.toml:2:1: tls_certificate and tls_private_key can't be used: "},
		{"tls_verify = 'verify_ca'\ntls_server_ca_certificate = '" + junk + "'\n", "pgdog.toml:3:1: there is no certificate in tls_server_ca_certificate "},
		{"tls_server_certificate = '/does/not/exist'\ntls_server_private_key = '" + keyFile + "'\n", "pgdog.toml:2:1: tls_server_certificate \"/does/not/exist\" can't be read: no such file or directory"},
	} {
		if err := load(c.general); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %s", c.general, err, c.want)
		}
	}
}
