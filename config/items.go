package config

// Item is a key of a section that is there once, for consoles.
type Item struct {
	Key            string // such as general.port
	Value, Default string // texts without quotes; empty = not set; secrets are "***"
	Restart        bool   // a running pgkennel keeps the old value until it is started anew
}

// Items returns the keys that are obeyed, as they are in force, in the order of the documentation.
func (c *Config) Items() []Item {
	var out []Item
	for _, t := range []*table{c.general, c.admin, c.tcp, c.directory, c.provision, c.kubernetes, c.tenant} {
		for _, k := range t.sec.keys {
			if !k.notYet {
				out = append(out, Item{
					Key: t.sec.name + "." + k.name, Value: t.value(k.name).plain(), Default: k.defaultValue().plain(), Restart: k.restart,
				})
			}
		}
	}
	return out
}

// plain prints a value without quotes; what is not set is empty.
func (v value) plain() string {
	switch {
	case !v.set && v.key.def == "":
		return ""
	case v.key.kind == kText, v.key.kind == kPath, v.key.kind == kEnum, v.key.kind == kKey:
		return v.s
	case v.key.kind == kSecret:
		return Secret(v.s).String()
	}
	return v.toml()
}

// PoolSize is the pool_size of the user's own; 0 = it has none, and those of the databases count.
func (u *User) PoolSize() int { return u.t.int("pool_size") }
