package backend

// visits are the tenants whose schemas a connection was used for, by their hashes: one in thirty is taken for another that was there before.
type visits struct {
	bits  []uint64
	count int
}

// bitsPerVisit makes it so.
const bitsPerVisit = 16

// Visit notes that the connection is used for a tenant's schema. With the last that it may be used for it is tainted. Not all connections have
// the same limit, but up to a quarter less, so that those that began together don't all end at once.
func (c *Conn) Visit(tenant uint64, limit int) {
	v := &c.visits
	if v.bits == nil {
		v.bits = make([]uint64, (bitsPerVisit*limit+63)/64)
	}
	i := tenant % uint64(64*len(v.bits))
	if v.bits[i/64]&(1<<(i%64)) != 0 {
		return
	}
	v.bits[i/64] |= 1 << (i % 64)
	v.count++
	if v.count >= limit-int(c.PID)%(limit/4+1) {
		c.Taint(TaintSchemas)
	}
}
