package auth

import (
	"strings"
	"testing"
)

// FuzzParseVerifier feeds what servers and users.toml say that a password's hash is: what is taken stands for the same when it is written and read again, and
// what is not is quoted nowhere.
func FuzzParseVerifier(f *testing.F) {
	hash, _ := MakeVerifier("secret", []byte("0123456789abcdef"), 4096).Encode()
	for _, seed := range []string{
		hash, "md5" + strings.Repeat("0a", 16), "md5" + strings.Repeat("G", 32), "SCRAM-SHA-256$1:YQ==$:", "SCRAM-SHA-256$2147483648:YQ==$a:b", "SCRAM-SHA-256$-1:$:",
		"SCRAM-SHA-256$", hash + "\n", strings.Replace(hash, "=", "", 1), "", "secret",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVerifier(s)
		if err != nil {
			if len(s) > 20 && strings.Contains(err.Error(), s) {
				t.Errorf("%q is quoted", s)
			}
			if p := ParsePassword(s); !p.Matches("ann", s) {
				t.Errorf("the password %q is none", s)
			}
			return
		}
		text, ok := v.Encode()
		again, err := ParseVerifier(text)
		if !ok || err != nil {
			t.Fatalf("%q was taken and is written %q: %v", s, text, err)
		}
		if second, _ := again.Encode(); second != text {
			t.Errorf("%q is written %q, and then %q", s, text, second)
		}
	})
}
