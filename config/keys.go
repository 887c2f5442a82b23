package config

import (
	"strconv"
	"strings"
)

// kind is the type of a key's value.
type kind uint8

const (
	kText kind = iota
	kSecret
	kPath   // a file or directory
	kBool   //
	kInt    // a number or a size
	kPort   // 1 to 65535
	kMillis // a duration in milliseconds
	kFloat
	kEnum    // one of key.legal
	kTexts   // an array of texts
	kSecrets // an array of secrets
	kKey     // a tenant's key: a number or a text
	kRules   // the entries of a mapping, which are read apart
	kAny     // never looked at
)

// String names the kind as the table of keys in the documentation has it.
func (k kind) String() string {
	return [...]string{"text", "secret", "path", "true or false", "number", "port", "milliseconds", "fraction", "one of", "texts", "secrets", "number or text", "list of tables", "anything"}[k]
}

// key is a key that a section may have. The whole of them, with their defaults, is the table in keys_*.go; checking,
// the printed configuration, the example files and the documentation all come from it.
type key struct {
	name  string
	kind  kind
	def   string   // the default as TOML has it, texts without quotes; "" = none
	legal []string // kEnum: what can be set
	// refused is what PgDog knows besides, and pgkennel can't do.
	refused []string

	required bool
	wanted   bool   // required, but for some cases
	notYet   bool   // PgDog has it, pgkennel does not obey it yet
	ours     bool   // PgDog does not have it
	restart  bool   // a running pgkennel takes a change only after a restart
	alias    string // another name of the same key
	env      string // another name of its environment variable, behind PGDOG_

	min, max int64 // of numbers and durations; max 0 = none
	doc      string
	group    string // heading of the keys from here on
	example  string // a value for the example file, as TOML has it, where there is no default
}

// section is a section of one of the files.
type section struct {
	name   string
	list   bool // written [[name]], any number of times
	users  bool // stands in users.toml
	both   bool // stands in either file
	notYet bool // nothing in it is obeyed yet
	any    bool // its keys are not known
	doc    string
	keys   []*key

	byName map[string]*key
}

func newSection(s section) *section {
	s.byName = make(map[string]*key, len(s.keys)+1)
	for _, k := range s.keys {
		s.byName[k.name] = k
		if k.alias != "" {
			s.byName[k.alias] = k
		}
	}
	return &s
}

// header is the section's header line.
func (s *section) header() string {
	if s.list {
		return "[[" + s.name + "]]"
	}
	return "[" + s.name + "]"
}

func (s *section) names() []string {
	out := make([]string, len(s.keys))
	for i, k := range s.keys {
		out[i] = k.name
	}
	return out
}

// sections are all sections of both files, in the order of the documentation.
var sections = []*section{
	generalSection, adminSection, tcpSection, peersSection, directorySection, provisionSection, kubernetesSection, multiTenantSection, databasesSection, shardedTablesSection,
	shardedMappingsSection, omnishardedSection, shardedSchemasSection, tenantsSection, usersSection,
	mirroringSection, rewriteSection, memorySection, replicaLagSection, replicationSection,
	pluginsSection, queryParsersSection, manualQueriesSection, otelSection, vaultSection, controlSection,
}

// sectionNamed finds a section of a file; nil if it has none of that name.
func sectionNamed(name string, users bool) *section {
	for _, s := range sections {
		if s.name == name && (s.users == users || s.both) {
			return s
		}
	}
	return nil
}

// sectionNames lists the sections of a file.
func sectionNames(users bool) []string {
	var out []string
	for _, s := range sections {
		if s.users == users || s.both {
			out = append(out, s.name)
		}
	}
	return out
}

// secretKey says whether a value of a key of this name must not be echoed, in whatever section.
func secretKey(name string) bool {
	for _, s := range []string{"password", "secret", "api_key", "token", "headers"} {
		if strings.Contains(strings.ToLower(name), s) {
			return true
		}
	}
	return false
}

// defaultValue is the value of a key that is not set.
func (k *key) defaultValue() value {
	v := value{key: k}
	if k.def == "" {
		return v
	}
	switch k.kind {
	case kBool:
		v.b = k.def == "true"
	case kInt, kPort, kMillis:
		v.i, _ = strconv.ParseInt(k.def, 10, 64)
	case kFloat:
		v.f, _ = strconv.ParseFloat(k.def, 64)
	case kText, kSecret, kPath, kEnum, kKey:
		v.s = k.def
	case kTexts, kSecrets, kRules, kAny:
	}
	return v
}
