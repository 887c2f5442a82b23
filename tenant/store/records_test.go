package store

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pgkennel/pgkennel/tenant"
)

// claimant is another tenant that wants one claim of r's, and none of its others.
func claimant(t *testing.T, r *tenant.Record, claim string) *tenant.Record {
	t.Helper()
	other := newRecord("other")
	switch kind, _, _ := strings.Cut(claim, "/"); kind {
	case "name":
		other.Name = r.Name
	case "key":
		other.Cluster, other.Key = r.Cluster, r.Key
	case "schema":
		other.Cluster, other.Shard, other.Schema = r.Cluster, r.Shard, r.Schema
	case "role":
		other.Cluster, other.Role = r.Cluster, r.Role
	case "port", "uid":
		other.Host = strings.Split(claim, "/")[1]
		other.Facts = map[string]string{kind: strings.Split(claim, "/")[2]}
	default:
		t.Fatalf("no idea who else could have %s", claim)
	}
	return other
}

// heldClaims reads the claims that a store holds.
func heldClaims(t *testing.T, d tenant.Directory) map[string]string {
	t.Helper()
	held := make(map[string]string)
	var err error
	switch s := d.(type) {
	case *fileStore:
		err = s.view(t.Context(), func(tx *bbolt.Tx) error {
			return tx.Bucket(claimsBucket).ForEach(func(k, v []byte) error { held[string(k)] = string(v); return nil })
		})
	case *etcdStore:
		_, err = s.scan(t.Context(), "claims/", 0, func(claim string, kv *mvccpb.KeyValue) { held[claim] = string(kv.Value) })
	default:
		err = errors.New("no such store")
	}
	if err != nil {
		t.Fatal(err)
	}
	return held
}
