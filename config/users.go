package config

import (
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
)

// buildUsers reads [[users]], one User for each database that an entry names.
func (b *builder) buildUsers() {
	b.cfg.userNamed = map[userKey]*User{}
	for _, t := range b.tables(b.users, usersSection) {
		b.checkPasswords(t)
		databases := b.userDatabases(t)
		if t.badKey("name") {
			continue
		}
		name := t.text("name")
		for _, db := range databases {
			k := userKey{name, db}
			if prev := b.cfg.userNamed[k]; prev != nil {
				b.r.fail(t.at(), "make one entry of them", "user %q of database %q is there twice; the first is %s", name, db, prev.t.at())
				continue
			}
			u := &User{
				Name: name, Database: db, PasswordHash: t.secret("password_hash"), Tenant: t.text("tenant"), TenantSwitch: t.bool("tenant_switch"),
				MaySetRole: t.bool("may_set_role"), Replication: t.bool("replication_mode"), Pos: t.at().pos(), t: t,
			}
			if u.Replication && u.Tenant != "" {
				b.r.fail(t.placeOf("replication_mode"), "leave it to a user that is no tenant's", "%s is a tenant's, and a replication connection sees everything on its server", userLabel(t))
			}
			if p := t.secret("password"); p != "" {
				u.Passwords = append(u.Passwords, p)
			}
			for _, p := range t.value("passwords").list {
				u.Passwords = append(u.Passwords, Secret(p))
			}
			cl := b.clusters[db]
			u.PoolerMode, u.Pin = PoolerMode(b.userText(t, cl, "pooler_mode")), Pin(b.userText(t, cl, "pin"))
			b.cfg.userNamed[k] = u
			b.cfg.Users = append(b.cfg.Users, u)
			if cl != nil {
				b.checkPools(u, cl)
			}
		}
	}
}

// userDatabases returns the databases that an entry names, each once.
func (b *builder) userDatabases(t *table) []string {
	var named []string
	for _, key := range []string{"database", "databases", "all_databases"} {
		if t.has(key) && (key != "all_databases" || t.bool(key)) {
			named = append(named, key)
		}
	}
	switch {
	case len(named) > 1:
		b.r.fail(t.placeOf(named[1]), "keep one of them", "a user has either database, or databases, or all_databases; this one has %s", strings.Join(named, " and "))
		return nil
	case len(named) == 0:
		if !t.broken {
			b.r.fail(t.at(), `add database = "...", databases = ["..."] or all_databases = true`, "%s has no database", userLabel(t))
		}
		return nil
	case t.badKey(named[0]):
		return nil
	}
	switch named[0] {
	case "all_databases":
		out := make([]string, 0, len(b.cfg.Clusters))
		for _, cl := range b.cfg.Clusters {
			out = append(out, cl.Name)
		}
		return out
	case "database":
		db := t.text("database")
		if b.noCluster(db, t.placeOf("database"), userLabel(t)) {
			return nil
		}
		return []string{db}
	}
	var out []string
	seen := map[string]bool{}
	v := t.value("databases")
	if len(v.list) == 0 {
		b.r.fail(v.at, "name at least one, or write all_databases = true", "databases of %s is empty", userLabel(t))
	}
	for i, db := range v.list {
		at := t.elemPlace("databases", i)
		switch {
		case seen[db]:
			b.r.fail(at, "remove one of them", "databases lists %q twice", db)
		case !b.noCluster(db, at, userLabel(t)):
			out = append(out, db)
		}
		seen[db] = true
	}
	return out
}

// userLabel names an entry of [[users]] for a message.
func userLabel(t *table) string {
	if name := t.text("name"); name != "" {
		return "user " + strconv.Quote(name)
	}
	return "a user"
}

// elemPlace is where element i of an array stands.
func (t *table) elemPlace(name string, i int) place {
	if n := t.node.child(name); n != nil && i < len(n.elems) {
		return t.doc.at(n.elems[i].off)
	}
	return t.placeOf(name)
}

// userText resolves a key: the user's, the database's, the general one.
func (b *builder) userText(t *table, cl *Cluster, key string) string {
	if v := t.value(key); v.set && v.s != "" {
		return v.s
	}
	if cl != nil && len(cl.Shards) > 0 && len(cl.Shards[0]) > 0 {
		return b.cfg.databaseText(cl, key)
	}
	return b.cfg.general.text(key)
}

// databaseText resolves a key for who is no user of the configuration: the database's, the general one.
func (c *Config) databaseText(cl *Cluster, key string) string {
	if v := cl.Shards[0][0].t.value(key); v.set && v.s != "" {
		return v.s
	}
	return c.general.text(key)
}

// TenantMode is how long clients keep a connection who log in to a cluster as tenants, TenantPin what becomes of those who leave something on it.
func (c *Config) TenantMode(cl *Cluster) PoolerMode {
	return PoolerMode(c.databaseText(cl, "pooler_mode"))
}

// TenantPin is Pin for them.
func (c *Config) TenantPin(cl *Cluster) Pin { return Pin(c.databaseText(cl, "pin")) }

// checkPasswords reports users that could never log in, and verifiers that are none.
func (b *builder) checkPasswords(t *table) {
	who, g := userLabel(t), b.cfg.general
	hash := t.text("password_hash")
	if hash != "" && hash != redacted && !t.badKey("password_hash") {
		if msg := checkVerifier(hash); msg != "" {
			b.r.fail(t.placeOf("password_hash"), "take it from rolpassword of PostgreSQL's pg_authid", "password_hash of %s is no verifier: %s", who, msg)
			return
		}
	}
	if p := t.text("password"); strings.HasPrefix(p, "SCRAM-SHA-256$") {
		b.r.warn(t.placeOf("password"), "if it is one, use the key password_hash", "password of %s looks like a verifier, but is taken for the password itself", who)
	}
	for i, p := range t.value("passwords").list {
		if p == "" {
			b.r.fail(t.elemPlace("passwords", i), "", "a password of %s is empty", who)
		}
	}
	auth := g.text("auth_type")
	if auth == "trust" || g.badKey("auth_type") || t.broken || t.badKey("password") || t.badKey("passwords") || t.badKey("password_hash") {
		return
	}
	plain := t.text("password") != "" || len(t.value("passwords").list) > 0
	switch {
	case !plain && hash == "":
		b.r.fail(t.at(), "add password or password_hash, or set auth_type", "%s has no password and could never log in with auth_type = %q", who, auth)
	case !plain && auth == "scram" && strings.HasPrefix(hash, "md5"):
		b.r.fail(t.placeOf("password_hash"), `use a SCRAM-SHA-256$... verifier, or auth_type = "md5"`, "%s has an md5 hash only and could never log in with auth_type = \"scram\"", who)
	case !plain && strings.HasPrefix(hash, "SCRAM") && auth == "md5":
		b.r.warn(t.placeOf("password_hash"), "", "%s has a SCRAM verifier, so it logs in by SCRAM though auth_type = \"md5\"", who)
	}
	if hash != "" && !plain && !t.has("server_password") && t.int("min_pool_size") > 0 {
		b.r.warn(t.placeOf("min_pool_size"), "add server_password", "without a password nothing can be opened for %s before its first login, min_pool_size holds from then on", who)
	}
}

// checkVerifier says what is wrong with a verifier, without showing any of it.
func checkVerifier(s string) string {
	if rest, ok := strings.CutPrefix(s, "md5"); ok {
		if b, err := hex.DecodeString(rest); err != nil || len(b) != 16 {
			return "md5 is followed by 32 hexadecimal digits"
		}
		return ""
	}
	rest, ok := strings.CutPrefix(s, "SCRAM-SHA-256$")
	if !ok {
		return "it begins neither with SCRAM-SHA-256$ nor with md5"
	}
	salted, keys, ok := strings.Cut(rest, "$")
	iterations, salt, ok2 := strings.Cut(salted, ":")
	stored, server, ok3 := strings.Cut(keys, ":")
	if !ok || !ok2 || !ok3 {
		return "its form is SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"
	}
	if n, err := strconv.Atoi(iterations); err != nil || n < 1 {
		return "its number of iterations is not a number"
	}
	if b, err := base64.StdEncoding.DecodeString(salt); err != nil || len(b) == 0 {
		return "its salt is not base64"
	}
	for _, k := range []string{stored, server} {
		if b, err := base64.StdEncoding.DecodeString(k); err != nil || len(b) != 32 {
			return "its keys are not 32 bytes in base64"
		}
	}
	return ""
}

// checkPools reports sizes of pools that contradict each other once users, databases and [general] are put together.
func (b *builder) checkPools(u *User, cl *Cluster) {
	seen := map[[4]int64]bool{}
	for _, shard := range cl.Shards {
		for _, e := range shard {
			_, src := b.cfg.pool(u, e)
			id := [4]int64{src.minSize.i, src.maxSize.i, src.lifetime.i, src.jitter.i}
			if seen[id] {
				continue
			}
			seen[id] = true
			who := " for user " + strconv.Quote(u.Name) + " on database " + strconv.Quote(cl.Name)
			b.inOrder(src.minSize, src.maxSize, who)
			b.inOrder(src.jitter, src.lifetime, who)
		}
	}
}

// inOrder reports a value that must not be larger than another one, at whichever of them is written, once.
func (b *builder) inOrder(small, large value, who string) {
	pair := [2]place{small.at, large.at}
	if small.i <= large.i || small.bad || large.bad || b.reported[pair] {
		return
	}
	b.reported[pair] = true
	at, other := small.at, large.at
	if !small.set {
		at, other = large.at, small.at
	}
	unit := ""
	if small.key.kind == kMillis {
		unit = " ms"
	}
	b.r.fail(at, "", "%s = %d%s is more than %s = %d%s%s; the other is %s", small.key.name, small.i, unit, large.key.name, large.i, unit, who, other)
}
