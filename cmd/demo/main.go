// The demo runs real PostgreSQL instances with sample tenants and pgkennel in front of them. `make demo` builds and
// starts it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/pgkennel/pgkennel/internal/demo"
)

func main() {
	oneShot := flag.Bool("oneshot", false, "end after the samples, with exit code 1 if one went wrong")
	program := flag.String("pgkennel", beside("pgkennel"), "the pgkennel program")
	port := flag.Int("port", 6432, "first port to try for pgkennel")
	flag.Parse()

	// A signal stops in order, and a second one does not cut that short: tenants' instances outlive whoever started them, and have to be removed.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demo.Run(ctx, demo.Options{Program: *program, OneShot: *oneShot, Out: os.Stdout, Port: *port})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// beside is the path of a program in this program's folder.
func beside(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}
