package config

import (
	"slices"
	"strconv"
	"strings"
)

// The prefixes of environment variables that set keys of [general], the later one winning.
var envPrefixes = []string{"PGDOG_", "PGKENNEL_"}

// applyEnvironment lets PGDOG_<KEY> and PGKENNEL_<KEY> override the keys of [general].
func applyEnvironment(t *table, environ []string, r *report) {
	for _, prefix := range envPrefixes {
		for _, kv := range environ {
			name, text, ok := strings.Cut(kv, "=")
			if !ok || !strings.HasPrefix(name, prefix) {
				continue
			}
			at := place{env: name}
			k := envKey(strings.TrimPrefix(name, prefix))
			switch {
			case k == nil:
				unknownEnv(strings.TrimPrefix(name, prefix), at, r)
				continue
			case text == "":
				continue // as if it were not set, like PgDog
			case strings.HasPrefix(text, "tcp://") || strings.HasPrefix(text, "udp://"):
				r.warn(at, "set enableServiceLinks: false, or name the service differently",
					"%s was set by Kubernetes for a service of that name and is ignored", name)
				continue
			}
			v := k.fromEnv(name, text, at, r)
			if old, ok := t.vals[k.name]; ok && old.at.doc != nil && prefix == "PGDOG_" && !old.bad && !v.bad && !old.same(v) {
				r.warn(at, "", "%s overrides %s of %s; PgDog itself would let the file win", name, k.name, old.at)
			}
			t.vals[k.name] = v
			warnNotYet(v, r)
		}
	}
}

func envKey(name string) *key {
	for _, k := range generalSection.keys {
		if name == strings.ToUpper(k.name) || k.env != "" && name == k.env || k.alias != "" && name == strings.ToUpper(k.alias) {
			return k
		}
	}
	return nil
}

// unknownEnv warns of a variable that is nearly a key. Others are none of our business.
func unknownEnv(name string, at place, r *report) {
	if near := nearest(strings.ToLower(name), generalSection.names()); near != "" && distance(strings.ToLower(name), near) <= 2 {
		prefix := strings.TrimSuffix(at.env, name)
		r.warn(at, "did you mean "+prefix+strings.ToUpper(near)+"?", "%s is not a key of [general] and is ignored", at.env)
	}
}

// fromEnv reads the text of a variable as PgDog does: truth values are spelled freely.
func (k *key) fromEnv(name, text string, at place, r *report) value {
	var x any = text
	switch k.kind {
	case kBool:
		switch strings.ToLower(text) {
		case "true", "1", "yes", "on":
			x = true
		case "false", "0", "no", "off":
			x = false
		}
	case kInt, kPort, kMillis:
		if n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64); err == nil {
			x = int64(min(n, 1<<63-1))
		} else if n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil {
			x = n
		}
	case kFloat:
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			x = f
		}
	case kText, kSecret, kPath, kEnum, kTexts, kSecrets, kKey, kRules, kAny:
	}
	inner := &report{}
	v := k.check(x, at, nil, inner)
	for _, f := range inner.errs {
		f.what = name + ": " + f.what
		f.hint = strings.TrimPrefix(f.hint, "write it without quotes")
		r.errs = append(r.errs, f)
	}
	r.warns = append(r.warns, inner.warns...)
	v.at = at
	return v
}

// same says whether two values of a key mean the same.
func (v value) same(w value) bool {
	return v.i == w.i && v.s == w.s && v.b == w.b && v.f == w.f && slices.Equal(v.list, w.list)
}
