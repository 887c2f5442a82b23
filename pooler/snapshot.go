package pooler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// Reload reads the configuration anew and puts it in force. After an error nothing has changed.
func (p *Pooler) Reload() error {
	p.orders.Lock()
	defer p.orders.Unlock()
	if p.opts.Load == nil {
		return fmt.Errorf("there is no configuration file to read")
	}
	cfg, warnings, err := p.opts.Load()
	if err != nil {
		p.metrics.ReloadsFailed.Inc()
		return err
	}
	for _, w := range warnings {
		p.log.Warn("configuration", "problem", w.String())
	}
	old := p.state.Load().cfg
	if p.follower != nil {
		err = p.follower.conflicts(cfg)
	}
	commit := func() {}
	if err == nil && p.opts.Prepare != nil {
		commit, err = p.opts.Prepare(cfg)
	}
	if err == nil {
		err = p.apply(cfg)
	}
	if err != nil {
		p.metrics.ReloadsFailed.Inc()
		return err
	}
	commit()
	if p.opts.Level != nil {
		p.opts.Level.Set(cfg.Log.Level)
	}
	changes := config.Diff(old, cfg)
	for _, c := range changes {
		if c.Restart {
			p.log.Warn("change needs a restart", "what", c.What)
		} else {
			p.log.Info("configuration changed", "what", c.What, "old", c.Old, "new", c.New)
		}
	}
	p.metrics.ReloadsOK.Inc()
	p.log.Info("configuration reloaded", "changes", len(changes))
	p.evict()
	return nil
}

// apply puts a configuration in force: clusters are made, changed and dropped, and then logins see the new state, all at once.
func (p *Pooler) apply(cfg *config.Config) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	type change struct {
		u         *unit
		cfg       *config.Cluster
		options   cluster.Options
		overrides map[overrideKey]override
	}
	door, err := p.door(cfg)
	if err != nil {
		return err
	}
	if p.follower != nil {
		p.follower.follow(cfg)
	}
	var changes []change
	units := make(map[string]*unit, len(cfg.Clusters))
	for _, c := range cfg.Clusters {
		if u := p.mu.units[c.Name]; u != nil {
			// What can be wrong with it is found out before anything changes.
			if o, err := RouterOptions(c); err != nil {
				return err
			} else if _, err := router.New(o); err != nil {
				return err
			}
			options, overrides, err := u.options(cfg, c)
			if err != nil {
				return err
			}
			changes = append(changes, change{u, c, options, overrides})
			units[c.Name] = u
			continue
		}
		u, err := p.newUnit(cfg, c)
		if err != nil {
			return err
		}
		if p.mu.paused[allDatabases] || p.mu.paused[c.Name] {
			p.mu.paused[c.Name] = true
			u.cl.Pause()
		}
		units[c.Name] = u
	}
	for _, c := range changes {
		c.u.sealer.take(cfg, c.cfg.Name)
		if err := c.u.cl.Reload(c.options); err != nil {
			return err
		}
		if err := c.u.route(c.cfg, c.u.currentSchema()); err != nil {
			return err
		}
		c.u.setConfig(cfg, c.overrides)
		c.u.countShards(len(c.cfg.Shards))
		c.u.ears.moved(c.u.cl)
	}
	for name, u := range units {
		if p.mu.units[name] == nil && p.mu.run != nil {
			p.mu.run(u)
		}
	}
	gone := make([]*unit, 0)
	for name, u := range p.mu.units {
		if units[name] == nil {
			gone = append(gone, u)
		}
	}
	p.mu.units = units
	p.mu.epoch++
	p.mu.loaded = time.Now()
	p.metrics.SetConfig(p.mu.epoch, p.mu.loaded)
	p.publishLocked(cfg)
	p.open(door)
	p.shared.Probes.Forget()
	p.shared.Descriptions.Forget()
	for _, u := range gone {
		go u.close() // it ends when its last client has gone
	}
	if p.follower != nil {
		p.follower.configured(cfg)
	}
	return nil
}

// publishLocked makes the snapshot that logins see.
func (p *Pooler) publishLocked(cfg *config.Config) {
	s := &snapshot{
		cfg: cfg, epoch: p.mu.epoch, accounts: make(map[accountKey]*session.Account, len(cfg.Users)+1), anywhere: map[string]*session.Account{}, units: maps.Clone(p.mu.units),
		disabled: maps.Clone(p.mu.disabled), tenants: make(map[string]*tenants),
	}
	if cfg.Tenancy != nil {
		for name, u := range p.mu.units {
			s.tenants[name] = newTenants(u, cfg)
		}
	}
	first := map[string]*config.User{}
	for _, user := range cfg.Users {
		u := p.mu.units[user.Database]
		if u == nil {
			continue
		}
		credential := auth.NewCredential(verifiers(user)...)
		credential.Warm(user.Name, p.shared.Auth)
		endpoint := u.firstEndpoint(cfg, user.Database)
		settings := cfg.Pool(user, endpoint)
		s.accounts[accountKey{user.Name, user.Database}] = &session.Account{
			User: user.Name, Database: user.Database, Credential: credential, Cluster: u,
			ServerUser:   settings.User,
			Session:      user.PoolerMode == config.ModeSession,
			Statements:   cfg.Prepared.Enabled && user.PoolerMode != config.ModeSession,
			QueryTimeout: int64(cfg.Clients.QueryTimeout), IdleTimeout: int64(cfg.Clients.IdleTimeout),
			IdleTransactionTimeout: int64(cfg.Clients.IdleInTransactionTimeout), CancelTimeout: int64(cfg.Timeouts.Rollback),
			Pin: pinning(user.Pin), PinTimeout: int64(cfg.Clients.PinTimeout),
			Login:   &login{u: u, user: user.Name, login: u.login(cfg, user), keyed: settings.Password == "" && user.PasswordHash != "", replications: max(1, settings.MaxSize)},
			Metrics: u.meters.of(u, user.Name),
			Switch:  user.TenantSwitch, MaySetRole: user.MaySetRole, Replicates: user.Replication,
		}
		switch was := first[user.Name]; {
		case was == nil:
			first[user.Name], s.anywhere[user.Name] = user, s.accounts[accountKey{user.Name, user.Database}]
		case was.PasswordHash != user.PasswordHash || !slices.Equal(was.Passwords, user.Passwords):
			s.anywhere[user.Name] = nil
		}
		if s.tenants[u.name()] != nil {
			s.accounts[accountKey{user.Name, user.Database}].Tenants = todays{u}
		}
	}
	if a := cfg.Admin; a.Password != "" {
		credential := auth.NewCredential(auth.PlainPassword(a.Password.Reveal()))
		credential.Warm(a.User, p.shared.Auth)
		s.accounts[accountKey{a.User, a.Name}] = &session.Account{
			User: a.User, Database: a.Name, Credential: credential, Console: consoleDoor{p},
		}
	}
	for key, a := range s.accounts {
		proved := s.secrets(key)
		a.Admit = func() (*session.Account, tenant.Refusal, *pgwire.Error) { return p.admit(key, proved) }
	}
	for name, t := range s.tenants { // complete: sessions see them from here on
		t.lender = lender(cfg, name, s.accounts)
		t.u.tenants.Store(t)
	}
	p.state.Store(s)
}

// secrets are what the passwords of an account are checked against.
func (s *snapshot) secrets(key accountKey) []config.Secret {
	if a := s.accounts[key]; a.Console != nil {
		return []config.Secret{s.cfg.Admin.Password}
	}
	user := s.cfg.User(key.user, key.database)
	return append(slices.Clone(user.Passwords), user.PasswordHash)
}

// admit is Admit for who has proved a password, maybe of yesterday's configuration: nobody logs in by what is gone, and the others are today's.
func (p *Pooler) admit(key accountKey, proved []config.Secret) (*session.Account, tenant.Refusal, *pgwire.Error) {
	now := p.state.Load()
	a := now.accounts[key]
	if a == nil || now.disabled[key.database] || !slices.Equal(now.secrets(key), proved) {
		return nil, tenant.UnknownUser, nil
	}
	return a, tenant.Welcome, nil
}

// pinning is what the configuration says of clients that leave something on their connection.
func pinning(p config.Pin) session.Pinning {
	switch p {
	case config.PinWarn:
		return session.PinWarn
	case config.PinDeny:
		return session.PinDeny
	case config.PinAllow:
	}
	return session.PinAllow
}

func verifiers(user *config.User) []*auth.Verifier {
	var list []*auth.Verifier
	for _, s := range user.Passwords {
		list = append(list, auth.PlainPassword(s.Reveal()))
	}
	if user.PasswordHash != "" {
		if v, err := auth.ParseVerifier(user.PasswordHash.Reveal()); err == nil { // the configuration was checked
			list = append(list, v)
		}
	}
	return list
}

// evict closes clients whose user, database or tenant is gone, when they are idle.
func (p *Pooler) evict() {
	now := p.state.Load()
	for _, c := range p.driver.Clients() {
		var a *session.Account
		var places []*session.Place
		var replicates *backend.Conn
		c.Inspect(func(s *session.Session, _ net.Conn) {
			a, places = s.Account(), s.Places()
			if s.Replicates() {
				replicates = s.Backend()
			}
		})
		if u := unitOf(a); a == nil || u != nil && u.in != nil {
			continue
		}
		detail := ""
		switch has := now.accounts[accountKey{a.User, a.Database}]; {
		case a.Itself && now.tenants[a.Database] == nil:
			detail = "The database is no longer configured, or has no tenants."
		case a.Itself: // below
			if !same(now.tenants[a.Database], a.Place) {
				detail = "The tenant is no longer what it was."
			}
		case has == nil:
			detail = "The user or the database is no longer configured."
		case replicates != nil && !has.Replicates:
			detail = "The user may no longer replicate."
		case replicates != nil && moved(replicates):
			detail = "The shard is on another server."
		case (has.Tenants == nil) != (a.Tenants == nil):
			detail = "The configuration of tenants has changed."
		case slices.ContainsFunc(places, func(x *session.Place) bool { return !same(now.tenants[a.Database], x) }):
			detail = "The tenant is no longer what it was."
		}
		if detail != "" {
			c.Kill(pgwire.Fatalf(pgwire.CodeAdminShutdown, "terminating connection due to administrator command").WithDetail("%s", detail), session.CloseKilled)
		}
	}
}

func (u *unit) currentSchema() *topology.Schema {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.schema
}

func (u *unit) setConfig(conf *config.Config, overrides map[overrideKey]override) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conf, u.overrides = conf, overrides
}

func (u *unit) firstEndpoint(conf *config.Config, database string) *config.Endpoint {
	return conf.Cluster(database).Shards[0][0]
}

// login makes the login of an account, equal to the one its cluster has.
func (u *unit) login(conf *config.Config, user *config.User) *cluster.Login {
	cfg := conf.Cluster(user.Database)
	endpoints := make(map[endpointKey]*config.Endpoint)
	for _, list := range cfg.Shards {
		for _, e := range list {
			endpoints[endpointKey{backend.Address{Host: e.Host, Port: e.Port}, e.DatabaseName}] = e
		}
	}
	return newLogin(conf, cfg, user, endpoints, make(map[overrideKey]override), u.sharedGuard(conf, cfg))
}

// close ends a cluster that the configuration no longer has.
func (u *unit) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // nobody waits for it
	defer cancel()
	if err := u.cl.Close(ctx); err != nil {
		u.p.log.Warn("cluster close", "cluster", u.name(), "error", err)
	}
	u.ears.retire()
	u.mu.Lock()
	stop := u.cancel
	u.mu.Unlock()
	if stop != nil {
		stop()
	}
	u.metrics.Close()
	for _, s := range *u.shards.Load() {
		s.Close()
	}
}

// fingerprint tells secrets apart without showing them.
func fingerprint(secret string) string {
	sum := sha256.Sum256([]byte("pgkennel login\x00" + secret))
	return hex.EncodeToString(sum[:8])
}

// tlsKey says what TLS to servers is made of, the files' contents included.
func tlsKey(conf *config.Config) string {
	parts := []string{string(conf.TLS.Verify)}
	for _, f := range []string{conf.TLS.ServerCA, conf.TLS.ServerCertificate, conf.TLS.ServerPrivateKey} {
		if f == "" {
			parts = append(parts, "")
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			parts = append(parts, err.Error())
			continue
		}
		parts = append(parts, fingerprint(string(b)))
	}
	return strings.Join(parts, "/")
}

func tcpOptions(c config.TCP) backend.TCPOptions {
	return backend.TCPOptions{
		KeepAlive: c.KeepAlive, Idle: c.Time, Interval: c.Interval, Probes: c.Retries, UserTimeout: c.UserTimeout,
		CongestionControl: c.CongestionControl,
	}
}
