package provision_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgkennel/pgkennel/provision"
)

// Whoever makes tenants at the same time, some of one name, each is made once, and no two have a port in common.
func TestManyCreates(t *testing.T) {
	t.Parallel()
	const names, times = 4, 5
	b := newBed(t, nil)
	var wg sync.WaitGroup
	var made, joined, taken atomic.Int32
	for i := range names * times {
		wg.Go(func() {
			o := provision.Order{Verb: provision.VerbCreate, Tenant: fmt.Sprintf("t%d", i%names)}
			if i/names == times-1 {
				o.Settings = map[string]string{"work_mem": "2MB"} // another tenant of that name
			}
			res, err := b.order(o)
			var e *provision.Error
			switch {
			case err == nil && res.Changed:
				made.Add(1)
			case err == nil:
				joined.Add(1)
			case errors.As(err, &e) && (e.Kind == provision.KindTaken || e.Kind == provision.KindBusy):
				taken.Add(1)
			default:
				t.Errorf("create: %s", told(err))
			}
		})
	}
	wg.Wait()
	list, err := b.dir.List(context.Background())
	if err != nil || len(list) != names {
		t.Fatalf("got %d tenants, %v; want %d", len(list), err, names)
	}
	ports := map[int]bool{}
	for _, r := range list {
		if ports[r.Endpoint.Port] {
			t.Errorf("port %d is two tenants'", r.Endpoint.Port)
		}
		ports[r.Endpoint.Port] = true
		b.mustSQL(r.Name, r.Name, "SELECT 1")
	}
	if taken.Load() == 0 || made.Load() < names {
		t.Errorf("got %d made, %d there already, %d taken", made.Load(), joined.Load(), taken.Load())
	}
}
