package tenant

import (
	"testing"
	"time"
)

// An authority is opened as its tenant's only, and with its own key only.
func TestAuthorityOpen(t *testing.T) {
	t.Parallel()
	key, err := NewSecret([]byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	v, now := NewVault(key), time.Now()
	var a [2]Authority
	for i := range a {
		if a[i], err = NewAuthority(v, "one", now); err != nil {
			t.Fatal(err)
		}
	}
	s, err := a[0].Open(v, "one")
	if err != nil {
		t.Fatal(err)
	}
	if s.Ending(now) || !s.Ending(now.Add(authorityLife-authorityRenewal+time.Hour)) {
		t.Error("it does not end in time")
	}
	for what, bad := range map[string]Authority{
		"another's key": {a[0].Cert, a[1].Key}, "no key": {a[0].Cert, v.Seal("one", AuthorityField, "key")}, "no certificate": {"cert", a[0].Key},
	} {
		if _, err := bad.Open(v, "one"); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := a[0].Open(v, "two"); err == nil {
		t.Error("it was opened as another tenant's")
	}
}

// Certificates are made anew when half of their time is over, and are good whatever the clock said when they were made.
func TestCertificates(t *testing.T) {
	t.Parallel()
	key, err := NewSecret([]byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	v, now := NewVault(key), certified.Add(2*certificateLife)
	a, err := NewAuthority(v, "one", now)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Open(v, "one")
	if err != nil {
		t.Fatal(err)
	}
	made, err := s.Server("one", now)
	if err != nil {
		t.Fatal(err)
	}
	const most = certificateLife - certificateRenewal
	for want, good := range map[bool]bool{
		true: ServerGood(made, "one", now.Add(most)), false: ServerGood(made, "one", now.Add(most+time.Second)) || ServerGood(made, "two", now) || ServerGood(nil, "one", now),
	} {
		if good != want {
			t.Errorf("got %v, want %v", good, want)
		}
	}
	b := &Badge{By: s}
	first, err := b.Show(now)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.Show(now.Add(most)); err != nil || again != first {
		t.Errorf("it was made anew too soon: %v", err)
	}
	if next, err := b.Show(now.Add(most + time.Second)); err != nil || next == first {
		t.Errorf("it was not made anew: %v", err)
	}
	early, err := b.By.Client(time.Unix(0, 0))
	if err != nil || early.Leaf.NotBefore != certified || early.Leaf.NotAfter != certified.Add(certificateLife) {
		t.Errorf("made in 1970: %v to %v, %v", early.Leaf.NotBefore, early.Leaf.NotAfter, err)
	}
}
