package process_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/provision/process"
)

// victim is the environment variable that has this program make an instance and be killed at it, see crash_test.go.
const victim = "PGKENNEL_TEST_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victim); dir != "" {
		makeInstance(dir)
		return
	}
	if err := os.Setenv("PGKENNEL_DIRECTORY_KEY", "not for instances"); err != nil {
		panic(err)
	}
	m.Run()
}

var root = os.Geteuid() == 0

// options are those of a test: over a data directory of its own.
func options(t testing.TB) process.Options {
	t.Helper()
	return process.Options{DataDir: drivertest.Dir(t, pgtest.Root()), NoSync: true}
}

func openWith(t testing.TB, o process.Options) provision.Driver {
	t.Helper()
	d, err := process.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func open(t testing.TB) provision.Driver {
	t.Helper()
	return openWith(t, options(t))
}

func kit(t testing.TB) drivertest.Kit {
	t.Helper()
	return drivertest.Kit{TB: t, Driver: open(t)}
}

func TestDriver(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, open, drivertest.Caps{CPU: root, Memory: root, Data: root, Disk: root, IO: root, Superuser: root, Replicas: true, Kill: true, Archive: true})
}

// makeInstance makes one, and says on its output before each step what it is about to do.
func makeInstance(dir string) {
	var in provision.Instance
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		panic(err)
	}
	d, err := process.New(process.Options{DataDir: dir, NoSync: true})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"volume", func() error { return d.Volume(ctx, &in) }},
		{"init", func() error { return d.Init(ctx, &in) }},
		{"configure", func() error { _, err := d.Configure(ctx, &in); return err }},
		{"start", func() error { return d.Start(ctx, &in) }},
		{"stop", func() error { return d.Stop(ctx, &in) }},
		{"destroy", func() error { return d.Destroy(ctx, &in) }},
		{"end", func() error { return nil }},
	} {
		fmt.Fprintln(os.Stderr, step.name)
		if err := step.do(); err != nil {
			panic(err)
		}
	}
}
