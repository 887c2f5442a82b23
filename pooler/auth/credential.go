package auth

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Credential is everything a user may prove to know: one verifier, or several while passwords are being rotated. It is safe for
// concurrent use and prints no secret. A nil *Credential stands for a user that does not exist.
type Credential struct {
	verifiers []*Verifier

	scram struct { // what a SCRAM exchange compares with; computed at the first need
		sync.Mutex // held by who computes
		known      atomic.Pointer[candidates]
	}
}

// candidates are the verifiers that a proof made with the salt may match.
type candidates struct {
	challenge
	list []candidate
}

// candidate is a verifier's keys for the salt that was sent.
type candidate struct {
	verifier *Verifier // a SCRAM one, also where the configuration has a plain password
	source   *Verifier // the configured one
}

// NewCredential returns the credential that accepts any of the verifiers. Without any, every login fails.
func NewCredential(verifiers ...*Verifier) *Credential {
	return &Credential{verifiers: slices.Clone(verifiers)}
}

// Verifiers are the verifiers in the order given.
func (c *Credential) Verifiers() []*Verifier {
	if c == nil {
		return nil
	}
	return slices.Clone(c.verifiers)
}

// Format prints how many verifiers there are, for every verb.
func (c *Credential) Format(f fmt.State, _ rune) {
	if c == nil {
		redacted("no credential").format(f)
		return
	}
	redacted(fmt.Sprintf("credential with %d verifiers", len(c.verifiers))).format(f)
}

// MarshalText keeps the secrets out of JSON and of structured logs.
func (c *Credential) MarshalText() ([]byte, error) { return fmt.Append(nil, c), nil }

// Warm does the heavy work of SCRAM logins with plain passwords now, so that the first login does not have to, and an observer of
// its time cannot tell that the user exists. It is heavy once per (credential, options); later calls are cheap.
func (c *Credential) Warm(user string, opts *ServerOptions) {
	if c != nil {
		c.candidates(opts.challenge(user, c))
	}
}

// hasMD5 reports whether any verifier can answer an MD5 challenge.
func (c *Credential) hasMD5() bool {
	return c != nil && slices.ContainsFunc(c.verifiers, func(v *Verifier) bool { return v.kind != kindSCRAM })
}

// hasSCRAM reports whether any verifier can take part in a SCRAM exchange.
func (c *Credential) hasSCRAM() bool {
	return c != nil && slices.ContainsFunc(c.verifiers, func(v *Verifier) bool { return v.kind != kindMD5 })
}

// firstSCRAM is the verifier that decides the salt, nil if there is none.
func (c *Credential) firstSCRAM() *Verifier {
	if c == nil {
		return nil
	}
	for _, v := range c.verifiers {
		if v.kind == kindSCRAM {
			return v
		}
	}
	return nil
}

// candidates are the verifiers that a proof made with the salt may match: SCRAM verifiers of exactly that salt and count, and plain
// passwords. It is heavy the first time if there are plain passwords; the lock makes a burst of logins wait for one computation
// instead of each doing its own.
func (c *Credential) candidates(ch challenge) []candidate {
	if known := c.known(ch); known != nil {
		return known.list
	}
	c.scram.Lock()
	defer c.scram.Unlock()
	if known := c.known(ch); known != nil {
		return known.list
	}
	var list []candidate
	for _, v := range c.verifiers {
		switch v.kind {
		case kindSCRAM:
			if v.iter == ch.iter && slices.Equal(v.salt, ch.salt) {
				list = append(list, candidate{verifier: v, source: v})
			}
		case kindPlain:
			list = append(list, candidate{verifier: MakeVerifier(v.plain, ch.salt, ch.iter), source: v})
		case kindMD5: // holds nothing SCRAM could use
		}
	}
	c.scram.known.Store(&candidates{ch, list})
	return list
}

// known are the candidates for the challenge, nil if they were not computed yet.
func (c *Credential) known(ch challenge) *candidates {
	if known := c.scram.known.Load(); known != nil && known.iter == ch.iter && slices.Equal(known.salt, ch.salt) {
		return known
	}
	return nil
}

// hasPlain reports whether any verifier holds the password itself.
func (c *Credential) hasPlain() bool {
	return c != nil && slices.ContainsFunc(c.verifiers, func(v *Verifier) bool { return v.kind == kindPlain })
}
