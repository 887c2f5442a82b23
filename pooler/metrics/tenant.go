package metrics

// AllTenants is the label of what all tenants of a cluster did together. That only grows, as a sum of those without a label of their own would not.
const AllTenants = "*"

// TenantState is what one tenant, or all together, tell at a scrape.
type TenantState struct {
	Cluster, Tenant               string
	Clients, Waiting              int
	Transactions, Queries, Errors uint64
	Received, Sent                uint64 // bytes, the clients' side
}

// Add adds o's numbers.
func (t *TenantState) Add(o *TenantState) {
	t.Clients += o.Clients
	t.Waiting += o.Waiting
	t.Transactions += o.Transactions
	t.Queries += o.Queries
	t.Errors += o.Errors
	t.Received += o.Received
	t.Sent += o.Sent
}

// SetTenants sets what a scrape asks for the tenants that have a label of their own: few, for each is a series of every family.
func (m *Metrics) SetTenants(read func() []TenantState) { m.tenants.Store(&read) }

// collectTenants leaves out whose label was there before: a tenant may be called by any key, which clients name, AllTenants as well, and of two series
// with one label Prometheus refuses the whole scrape.
func collectTenants(out sink, d *descs, list []TenantState) {
	seen := make(map[[2]string]bool, len(list))
	for i := range list {
		at := [2]string{clean(list[i].Cluster), clean(list[i].Tenant)}
		if !seen[at] {
			seen[at] = true
			list[i].collect(out, d, at[:])
		}
	}
}

func (t *TenantState) collect(out sink, d *descs, l []string) {
	out.gauge(d.tenantClients, float64(t.Clients), l...)
	out.gauge(d.tenantWaiting, float64(t.Waiting), l...)
	out.counter(d.tenantTransactions, t.Transactions, l...)
	out.counter(d.tenantQueries, t.Queries, l...)
	out.counter(d.tenantErrors, t.Errors, l...)
	out.counter(d.tenantReceived, t.Received, l...)
	out.counter(d.tenantSent, t.Sent, l...)
}
