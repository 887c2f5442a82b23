package process

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// certify gives an instance that listens for other hosts its certificate, and says whether that, or whose certificates it takes, is another than before.
func (d *Driver) certify(p *place, in *provision.Instance) (changed bool, err error) {
	if in.Endpoint.Remote == "" {
		return false, nil
	}
	if in.Authority == nil {
		return false, provision.Errorf(provision.KindFailed, "instance %s has no authority for its certificate", in.ID)
	}
	if certified(p, in) {
		return false, nil
	}
	made, err := in.Authority.Server(in.ID, time.Now())
	if err != nil {
		return false, err
	}
	if err := d.put(p, p.certificate, string(made)); err != nil {
		return false, err
	}
	return true, d.put(p, p.authority, in.Authority.Trusted) // the last one, by which certified knows whose the other is
}

// decertify takes the certificate of an instance away that does not listen for other hosts any more.
func decertify(p *place, in *provision.Instance) error {
	if in.Endpoint.Remote != "" {
		return nil
	}
	return errors.Join(os.RemoveAll(p.authority), os.RemoveAll(p.certificate))
}

// certified reports whether an instance has a certificate of its tenant's authority that is good for long enough.
func certified(p *place, in *provision.Instance) bool {
	authority, err1 := os.ReadFile(p.authority)
	made, err2 := os.ReadFile(p.certificate)
	return err1 == nil && err2 == nil && string(authority) == in.Authority.Trusted && tenant.ServerGood(made, in.ID, time.Now())
}

// unreachable is why an instance can't listen where it should; empty = it can, as far as is known, or should not.
func (d *Driver) unreachable(in *provision.Instance, listening map[int]bool) string {
	remote := in.Endpoint.Remote
	if remote == "" && d.o.NoTCP {
		return ""
	}
	if listening[in.Endpoint.Port] {
		return fmt.Sprintf("another program listens on its port %d", in.Endpoint.Port)
	}
	if ip, err := netip.ParseAddr(remote); remote != "" && (err != nil || !hostHas(ip)) {
		return fmt.Sprintf("this host has no address %s", remote)
	}
	return ""
}

// hostHas reports whether an address is this host's.
func hostHas(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true // PostgreSQL says more
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == ip.Unmap() {
			return true
		}
	}
	return false
}
