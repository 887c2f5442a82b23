package kennel

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store"
)

// told says when somebody has asked for a tenant.
type told struct {
	tenant.Directory
	asked chan struct{}
	once  sync.Once
}

func (d *told) Get(ctx context.Context, id string) (*tenant.Record, error) {
	r, err := d.Directory.Get(ctx, id)
	d.once.Do(func() { close(d.asked) })
	return r, err
}

// Whoever was told that a tenant is made, or gone, finds it so at the pooler beside, which hears of it a moment later.
func TestOrdersWaitForThePoolerBeside(t *testing.T) {
	t.Parallel()
	file, err := store.OpenFile(t.Context(), store.FileOptions{Path: filepath.Join(t.TempDir(), "directory")})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r := &tenant.Record{ID: tenant.NewID(), Name: "acme", Isolation: tenant.Instance, Phase: tenant.Ready, Driver: "process", Host: "here", Created: time.Now()}
	if _, err := file.Put(t.Context(), r, tenant.Entry{}); err != nil {
		t.Fatal(err)
	}
	dir := &told{Directory: file, asked: make(chan struct{})}
	k := &Kennel{Directory: dir, Mirror: store.NewMirror(file, store.MirrorOptions{})}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		<-dir.asked // the order is carried out, and the pooler does not know
		ended <- k.Mirror.Run(ctx)
	}()
	if err := k.heard(t.Context(), r.ID); err != nil || k.Mirror.ByID(r.ID) == nil {
		t.Errorf("got %v, and the pooler knows %v", err, k.Mirror.ByID(r.ID))
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// Nobody follows the directory any more: the order does not wait for ever.
	over, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if err := k.heard(over, "nobody"); err != nil {
		t.Errorf("a tenant that is gone, and unknown: %v", err)
	}
	r.Name, r.Revision = "other", k.Mirror.ByID(r.ID).Revision
	if _, err := file.Put(t.Context(), r, tenant.Entry{}); err != nil {
		t.Fatal(err)
	}
	if err := k.heard(over, r.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}
