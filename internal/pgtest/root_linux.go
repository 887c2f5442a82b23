package pgtest

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// enough is what tests that run beside each other may fill, and as much again for everything else, in bytes.
const enough = 8 << 30

// plenty reports whether dir is in memory, there is room in it, and memory to fill it.
func plenty(dir string) bool {
	var fsys unix.Statfs_t
	if unix.Statfs(dir, &fsys) != nil || unix.Access(dir, unix.W_OK) != nil {
		return false
	}
	return fsys.Type == unix.TMPFS_MAGIC && fsys.Bavail*uint64(fsys.Bsize) >= enough && available() >= enough
}

// available is the memory that programs can have without swapping, in bytes; 0 if the system does not say.
func available() uint64 {
	host, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(host)) {
		var kib uint64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}
