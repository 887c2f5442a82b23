package tenant

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pki"
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
	if s.Trusted != a[0].Cert {
		t.Error("it trusts another")
	}
	for what, bad := range map[string]Authority{
		"another's key": {Cert: a[0].Cert, Key: a[1].Key}, "no key": {Cert: a[0].Cert, Key: v.Seal("one", AuthorityField, "key")}, "no certificate": {Cert: "cert", Key: a[0].Key},
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
	v, now := NewVault(key), pki.Since.Add(2*certificateLife)
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
	if err != nil || early.Leaf.NotBefore != pki.Since || early.Leaf.NotAfter != pki.Since.Add(certificateLife) {
		t.Errorf("made in 1970: %v to %v, %v", early.Leaf.NotBefore, early.Leaf.NotAfter, err)
	}
}

// Another authority is trusted for long before it signs, and the one before until its end: who knows the record of any step knows who has that of the next.
func TestAuthorityRenew(t *testing.T) {
	t.Parallel()
	key, err := NewSecret([]byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	v, made := NewVault(key), pki.Since.Add(24*time.Hour)
	first, err := NewAuthority(v, "one", made)
	if err != nil {
		t.Fatal(err)
	}
	renew := func(a Authority, after time.Duration) Authority {
		t.Helper()
		next, err := a.Renew(v, "one", made.Add(after))
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	const day, time1 = 24 * time.Hour, authorityLife - authorityRenewal
	if renew(first, time1) != first {
		t.Error("it is renewed too soon")
	}
	second := renew(first, time1+day)
	if second.Cert != first.Cert || second.Key != first.Key || second.Next == "" || renew(second, time1+announced) != second {
		t.Fatal("the next one is not announced, or signs at once")
	}
	third := renew(second, time1+day+announced)
	if third != (Authority{Cert: second.Next, Key: second.NextKey, Former: first.Cert}) || renew(third, authorityLife) != third {
		t.Fatal("the next one does not sign, or the former is forgotten too soon")
	}
	last := renew(third, authorityLife+day)
	if last != (Authority{Cert: third.Cert, Key: third.Key}) {
		t.Error("the former is not forgotten")
	}
	steps := []Authority{first, second, third, last}
	for i, a := range steps {
		s, err := a.Open(v, "one")
		if err != nil {
			t.Fatal(err)
		}
		badge, err := s.Client(made)
		if err != nil {
			t.Fatal(err)
		}
		for j := max(i-1, 0); j < min(i+2, len(steps)); j++ {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM([]byte(steps[j].Trusted()))
			_, err := badge.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: made})
			if err != nil {
				t.Errorf("step %d is not known at step %d: %v", i, j, err)
			}
		}
	}
	// An instance that was down for years gets another one at once.
	if late := renew(first, authorityLife+day); late.Cert == first.Cert || late.Next != "" || late.Former != "" {
		t.Errorf("one that has ended is %+v", late)
	}
	if late := renew(first, authorityLife-day); late.Cert == first.Cert || late.Former != first.Cert {
		t.Errorf("one that ends tomorrow is %+v", late)
	}
	if _, err := (Authority{Cert: "none"}).Renew(v, "one", made); err == nil {
		t.Error("what is none was renewed")
	}
}
