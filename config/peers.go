package config

import (
	"fmt"
)

// Peer is another pooler behind the same address of a load balancer.
type Peer struct {
	ID   int
	Host string
	Port int
}

// buildPeers reads [[peers]].
func (b *builder) buildPeers() {
	c := b.cfg
	c.PeerID = c.general.int("peer_id")
	c.peers = b.tables(b.config, peersSection)
	first := make(map[int]*table)
	for _, t := range c.peers {
		if t.badKey("id") || t.badKey("host") || t.badKey("port") {
			continue
		}
		p := Peer{ID: t.int("id"), Host: t.text("host"), Port: t.int("port")}
		if was := first[p.ID]; was != nil {
			b.r.fail(t.placeOf("id"), "give each pooler an id of its own", "peer %d is there twice; the first is %s", p.ID, was.at())
			continue
		}
		first[p.ID] = t
		if p.ID != c.PeerID { // the same list may stand in the files of all
			c.Peers = append(c.Peers, p)
		}
	}
	if len(c.peers) > 0 && c.PeerID == 0 && !c.general.badKey("peer_id") {
		b.r.fail(c.peers[0].at(), "add peer_id to [general]", "there are peers, but which of them this one is, is not said")
	}
}

func diffPeers(old, new *Config) []Change {
	var out []Change
	named := func(c *Config) map[int]*table {
		m := make(map[int]*table, len(c.peers))
		for _, t := range c.peers {
			m[t.int("id")] = t
		}
		return m
	}
	was, is := named(old), named(new)
	for _, t := range old.peers {
		id := t.int("id")
		switch now := is[id]; {
		case now == nil:
			out = append(out, Change{What: fmt.Sprintf("peer %d", id), New: "removed"})
		case !t.same(now):
			out = append(out, Change{What: fmt.Sprintf("peer %d", id), New: "changed"})
		}
	}
	for _, t := range new.peers {
		if id := t.int("id"); was[id] == nil {
			out = append(out, Change{What: fmt.Sprintf("peer %d", id), New: "added"})
		}
	}
	return out
}
