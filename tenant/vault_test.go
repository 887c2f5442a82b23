package tenant

import (
	"strings"
	"testing"
)

func secretOf(t *testing.T, s string) *Secret {
	t.Helper()
	secret, err := NewSecret([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestVault(t *testing.T) {
	t.Parallel()
	v := NewVault(secretOf(t, "a key of sixteen"))
	const word = "open sesame"
	c := v.Seal("t1", "admin", word)
	if strings.Contains(string(c), word) || c == v.Seal("t1", "admin", word) {
		t.Errorf("got %s, want another each time, and nothing to be seen", c)
	}
	if got, err := v.Open("t1", "admin", c); err != nil || got != word {
		t.Errorf("got %q, %v, want what was sealed", got, err)
	}
	if got, err := v.Open("t1", "admin", v.Seal("t1", "admin", "")); err != nil || got != "" {
		t.Errorf("got %q, %v, want an empty secret", got, err)
	}
	refused := func(what string, v *Vault, id, field string, c Ciphertext) {
		t.Helper()
		if got, err := v.Open(id, field, c); err == nil || got != "" || strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %q, %v, want an error that shows nothing", what, got, err)
		}
	}
	refused("another tenant's", v, "t2", "admin", c)
	refused("another field's", v, "t1", "login", c)
	refused("another key's", NewVault(secretOf(t, "another key of sixteen")), "t1", "admin", c)
	refused("nothing", v, "t1", "admin", "")
	refused("plain text", v, "t1", "admin", word)
	for i := range c {
		for _, bad := range []string{string(c[:i]), string(c[:i]) + string(c[i]^1) + string(c[i+1:])} {
			refused("damaged", v, "t1", "admin", Ciphertext(bad))
		}
	}
}

// TestVaultKeyChange opens what the key before sealed, and tells that it has to be sealed again.
func TestVaultKeyChange(t *testing.T) {
	t.Parallel()
	first, second, third := secretOf(t, "the first key of all"), secretOf(t, "the second key of all"), secretOf(t, "the third key of all")
	old := NewVault(first).Seal("t", "f", "word")
	v := NewVault(second, third, first)
	if got, err := v.Open("t", "f", old); err != nil || got != "word" {
		t.Errorf("got %q, %v, want what the first key sealed", got, err)
	}
	if !v.Stale(old) || v.Stale(v.Seal("t", "f", "word")) || v.Stale("") {
		t.Error("stale is what another key than today's sealed, and nothing else")
	}
	if _, err := NewVault(second).Open("t", "f", old); err == nil {
		t.Error("a key that is forgotten opens secrets")
	}
}

func TestNewPassword(t *testing.T) {
	t.Parallel()
	a, b := NewPassword(), NewPassword()
	if a == b || len(a) < 20 || strings.ContainsAny(a, "'\"\\ :@/") {
		t.Errorf("got %q and %q, want two that need no quoting", a, b)
	}
}

// FuzzVaultOpen opens what anybody may have written into the directory.
func FuzzVaultOpen(f *testing.F) {
	secret, err := NewSecret([]byte("a key of sixteen"))
	if err != nil {
		f.Fatal(err)
	}
	v := NewVault(secret)
	f.Add(string(v.Seal("t", "f", "word")))
	f.Add(secret.ID() + ".")
	f.Add(secret.ID() + ".AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := v.Open("t", "f", Ciphertext(s)); err == nil && got != "word" {
			t.Fatalf("%q was opened: %q", s, got)
		}
	})
}
