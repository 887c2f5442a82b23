// Package tenanttest makes records for tests.
package tenanttest

import (
	"net/netip"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// Full is a record with something in every field.
func Full(name string) *tenant.Record {
	at := time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC)
	return &tenant.Record{
		ID: tenant.NewID(), Name: name, Key: "42/x", Isolation: tenant.Schema, Mode: tenant.Strict, Phase: tenant.Failed, Reason: "it \"failed\"\n",
		Access:  tenant.Access{Enabled: true, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}, ReadOnly: true},
		Cluster: "main", Shard: -1, Schema: "t_x", Role: "t_x_role",
		Driver: "process", Host: "h1", Facts: map[string]string{tenant.PortFact: "15001", tenant.UIDFact: "7001", "dir": "/x"},
		Endpoint: tenant.Endpoint{Host: "/run/x", Port: 15001}, Version: "15", Admin: "k.abc",
		Limits: tenant.Limits{CPU: 500, Memory: 1 << 40, Disk: 1, IO: 2, Connections: 9}, Settings: map[string]string{"work_mem": "4MB"}, Extensions: []string{"citext"},
		Origin: tenant.Origin{Template: "a.sql", Hash: "00"}, SuspendAfter: time.Hour,
		Logins: []tenant.Login{
			{Name: name, Role: "t_x", Verifier: "SCRAM-SHA-256$1", Secret: "k.s"},
			{Name: "bi", Role: "t_x_1", Verifier: "SCRAM-SHA-256$2", Secret: "k.t", ReadOnly: true, Connections: 2},
		},
		Replicas: []tenant.Replica{{
			ID: "r1", Driver: "process", Host: "h2", Facts: map[string]string{tenant.PortFact: "15001"}, Endpoint: tenant.Endpoint{Host: "h2", Port: 15001},
		}},
		Backups: tenant.Backups{Archive: true, Every: time.Hour, Keep: 3},
		Operation: &tenant.Operation{
			ID: "o1", Verb: "create", By: "me", Args: map[string]string{"a": "b"}, Runner: "r", Done: []string{"plan"}, Now: "init", From: tenant.Ready,
			Started: at, Attempts: 2,
		},
		Created: at, Updated: at, Forget: at,
	}
}
