package metrics

import "time"

// Directory is what the directory of tenants tells at a scrape, and its look-ups.
type Directory struct {
	Current bool          // what is known is what there is
	Age     time.Duration // since when that is not certain; 0 = it is
	Tenants int
	// Instances are tenants with one of their own that are at work here, Waking those of them that are being woken.
	Instances, Waking int
	Woken, NotWoken   uint64
	// Of this host's instances, where this process is its runner.
	Ended, OOMKills, Crashes uint64
	Down                     int
}

// SetDirectory sets what a scrape asks for the directory; without it there is none.
func (m *Metrics) SetDirectory(read func() Directory) { m.directory.Store(&read) }

func (x *Directory) collect(out sink, d *descs) {
	current := 0.0
	if x.Current {
		current = 1
	}
	out.gauge(d.directoryCurrent, current)
	out.gauge(d.directoryAge, x.Age.Seconds())
	out.gauge(d.directoryTenants, float64(x.Tenants))
	out.gauge(d.directoryInstances, float64(x.Instances))
	out.gauge(d.tenantsWaking, float64(x.Waking))
	out.counter(d.wakes, x.Woken, "ok")
	out.counter(d.wakes, x.NotWoken, "failed")
	out.counter(d.instanceEnds, x.Ended)
	out.counter(d.instanceOOMKills, x.OOMKills)
	out.counter(d.instanceCrashes, x.Crashes)
	out.gauge(d.instancesDown, float64(x.Down))
}
