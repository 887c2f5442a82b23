package process

import (
	"time"

	"golang.org/x/sys/unix"
)

// Who wakes up while another computes waits for the end of that one's time slice, or for a tick of the scheduler behind it, some milliseconds in all; from Linux 6.12
// on not if its own slice is the shorter one (sched_setattr(2)). So the processes of an instance that uses much CPU, or reads and writes much, have a longer one for as long: its
// neighbours, who use little, pgkennel and its clients go first, and so do the kernel's threads that the disk's answers go through. Its share of the time stays the same.
const longSlice = 10 * time.Millisecond

// setSlices gives processes the long slice, or takes it away. It reports whether any has to be looked at again: those that are forked meanwhile have what their
// parent had. Where Linux has no such slices, all is as without them.
func setSlices(pids []int, long bool) (again bool) {
	for _, pid := range pids {
		attr, err := unix.SchedGetAttr(pid, 0)
		if err != nil || attr.Policy != unix.SCHED_NORMAL || (attr.Runtime == uint64(longSlice)) == long {
			continue // it has ended, or somebody chose another policy for it, or it is as it should be
		}
		if attr.Runtime = 0; long { // 0 is the system's
			attr.Runtime = uint64(longSlice)
		}
		again = unix.SchedSetAttr(pid, attr, 0) == nil || again
	}
	return again
}
