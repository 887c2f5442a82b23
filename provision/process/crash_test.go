package process_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/tenant"
)

// Whoever makes an instance is killed at each of its steps, at the begin of it or in the middle. The next one makes it whole, or takes it away.
func TestKilledMakers(t *testing.T) {
	t.Parallel()
	for step, ways := range map[string][]string{
		"volume": {"go on"}, "init": {"go on", "destroy"}, "configure": {"destroy"}, "start": {"go on", "destroy"}, "stop": {"go on"}, "destroy": {"destroy"},
	} {
		for _, then := range ways {
			t.Run(step+", "+then, func(t *testing.T) {
				t.Parallel()
				k := kit(t)
				in := k.Instance()
				if root {
					in.Limits.Disk = 128 << 20
				}
				k.Do("plan", func(ctx context.Context) error { return k.Plan(ctx, in, nil) })
				killAt(t, options(t).DataDir, in, step)
				if then == "go on" {
					k.Up(in)
					if got := k.SQL(in, "SELECT 1"); got != "1" {
						t.Errorf("SELECT 1 is %s", got)
					}
				}
				k.Twice("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
				k.Nothing()
			})
		}
	}
}

// killAt has another process make an instance, and kills it a little after the begin of a step.
func killAt(t *testing.T, dir string, in *provision.Instance, step string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	order, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), victim+"="+dir)
	cmd.Stdin = bytes.NewReader(order)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reached := false
	for lines := bufio.NewScanner(out); !reached && lines.Scan(); {
		reached = lines.Text() == step
	}
	wait := map[string]int{"init": 400, "start": 60, "volume": 40}[step]
	time.Sleep(time.Duration(rand.IntN(wait+10)) * time.Millisecond) // any moment will do
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if !reached {
		t.Fatalf("it ended before the step %s", step)
	}
}

// Twenty at once have ports and users of their own, though none knows of the others.
func TestTwentyAtOnce(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.PortMin = pgtest.FreePorts(t, 40)
	o.PortMax = o.PortMin + 39 // few enough to meet
	if root {
		o.UIDMin, o.UIDMax = 310000, 310029
	}
	k := drivertest.Kit{TB: t, Driver: openWith(t, o)}
	var instances []*provision.Instance
	for range 20 {
		instances = append(instances, k.Instance())
	}
	var wg sync.WaitGroup
	failed := make(chan error, len(instances))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	make1 := func(in *provision.Instance, whole bool) error {
		if err := k.Plan(ctx, in, nil); err != nil {
			return fmt.Errorf("plan: %w", err)
		}
		if err := k.Volume(ctx, in); err != nil {
			return fmt.Errorf("volume: %w", err)
		}
		if _, err := k.Configure(ctx, in); err != nil {
			return fmt.Errorf("configure: %w", err)
		}
		if !whole {
			return nil
		}
		if err := k.Init(ctx, in); err != nil {
			return fmt.Errorf("init: %w", err)
		}
		return k.Start(ctx, in)
	}
	for i, in := range instances {
		wg.Go(func() { failed <- make1(in, i%3 == 0) })
	}
	wg.Wait()
	seen := map[string]string{}
	for range instances {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	for i, in := range instances {
		for _, fact := range []string{tenant.PortFact, tenant.UIDFact} {
			value, is := in.Facts[fact]
			if !is && fact == tenant.UIDFact && !root {
				continue // all are this process's own
			}
			if other := seen[fact+value]; other != "" || value == "" {
				t.Errorf("%s and %s have the same %s, %q", other, in.ID, fact, value)
			}
			seen[fact+value] = in.ID
		}
		if i%3 != 0 {
			continue // it has its place; to start them all would only take longer
		}
		if got := k.SQL(in, "SHOW cluster_name"); got != "t_"+in.ID {
			t.Errorf("at the place of %s is %s", in.ID, got)
		}
	}
	for _, in := range instances {
		wg.Go(func() { failed <- k.Destroy(ctx, in) })
	}
	wg.Wait()
	for range instances {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	k.Nothing()
}
