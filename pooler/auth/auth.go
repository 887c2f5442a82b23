// Package auth is password authentication as PostgreSQL does it, both sides: SCRAM-SHA-256, MD5, cleartext and trust. Server is the
// exchange with a client, Client the one with a server. Both are pure: a message in, a message out; they own no socket and
// no clock, and start no goroutine.
//
// An exchange belongs to one goroutine. Verifier, Credential and ClientCredential are immutable but for caches inside, and may be
// shared by all.
//
// Cost: PBKDF2 with PostgreSQL's usual 4096 iterations takes about a millisecond of CPU, more iterations take more. Calls that
// may do so are marked "heavy" and belong off the loop. Everything else takes microseconds.
//
// Secrets: no error, no String method and no formatting verb shows a password, a key or a hash. Comparisons of secrets take
// constant time.
package auth

import (
	"fmt"
	"io"
)

// Method is how clients must prove who they are.
type Method uint8

// The methods, named in the configuration "scram", "md5", "plain" and "trust".
const (
	MethodSCRAM Method = iota + 1 // SCRAM-SHA-256
	MethodMD5                     // MD5 where a verifier allows it, else SCRAM-SHA-256, as in PostgreSQL
	MethodPlain                   // the password itself; for TLS connections only. Against a SCRAM verifier it is slower than for an unknown user
	MethodTrust                   // no proof
)

// ParseMethod reads a method's name: PgDog's, or PostgreSQL's where it differs.
func ParseMethod(s string) (Method, error) {
	switch s {
	case "scram", "scram-sha-256":
		return MethodSCRAM, nil
	case "md5":
		return MethodMD5, nil
	case "plain", "password":
		return MethodPlain, nil
	case "trust":
		return MethodTrust, nil
	default:
		return 0, fmt.Errorf("unknown authentication method %q", s)
	}
}

// String is the method's name in the configuration.
func (m Method) String() string {
	switch m {
	case MethodSCRAM:
		return "scram"
	case MethodMD5:
		return "md5"
	case MethodPlain:
		return "plain"
	case MethodTrust:
		return "trust"
	default:
		return "unknown"
	}
}

// DefaultIterations is PostgreSQL's default for scram_iterations.
const DefaultIterations = 4096

// redacted prints a fixed text for every verb, so that a secret cannot slip into a log.
type redacted string

func (r redacted) format(f fmt.State) { _, _ = io.WriteString(f, string(r)) }
