package config

import "log/slog"

// redacted is what a secret looks like wherever it is printed.
const redacted = "***"

// Secret is a text that is never printed: however it is formatted, logged or marshalled, it comes out as "***".
type Secret string

// Reveal returns the text itself.
func (s Secret) Reveal() string { return string(s) }

// String returns "***", or nothing for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString returns "***" in quotes, for %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// LogValue returns "***", for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns "***", for encoders of JSON, TOML and the like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
