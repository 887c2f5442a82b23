package pki

import (
	"crypto/x509"
	"testing"
	"time"
)

func authority(t *testing.T, now time.Time) (cert, key []byte) {
	t.Helper()
	cert, key, err := NewAuthority("root", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// An authority is opened with its own key only, and its certificates lead to it and to no other.
func TestAuthority(t *testing.T) {
	t.Parallel()
	now := Since.Add(24 * time.Hour)
	cert, key := authority(t, now)
	other, otherKey := authority(t, now)
	a, err := Open(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][2][]byte{
		"another's key": {cert, otherKey}, "no key": {cert, nil}, "no certificate": {nil, key}, "a key that is none": {cert, cert}, "a key for a certificate": {key, key},
	} {
		if _, err := Open(bad[0], bad[1]); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	leaf := Template("leaf", now, time.Hour)
	leaf.DNSNames = []string{"leaf"}
	made, _, err := a.Sign(leaf)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(made)
	if err != nil {
		t.Fatal(err)
	}
	for good, root := range map[bool][]byte{true: cert, false: other} {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(root)
		if _, err := c.Verify(x509.VerifyOptions{DNSName: "leaf", Roots: roots, CurrentTime: now}); (err == nil) != good {
			t.Errorf("by its own authority %v: %v", good, err)
		}
	}
}

// A certificate is good from the same day on, and for the whole of its life, whatever the clock said when it was made.
func TestTemplate(t *testing.T) {
	t.Parallel()
	late := Since.Add(1000 * time.Hour)
	for now, from := range map[time.Time]time.Time{late: late, time.Unix(0, 0): Since} {
		if c := Template("x", now, time.Hour); !c.NotBefore.Equal(Since) || !c.NotAfter.Equal(from.Add(time.Hour)) {
			t.Errorf("made at %v: good from %v to %v", now, c.NotBefore, c.NotAfter)
		}
	}
}
