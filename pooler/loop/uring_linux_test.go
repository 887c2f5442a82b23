package loop

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

// testPollers starts one thread, which has a ring for tests of TestRing; for those of TestMoved there are several, which hand sockets over at random.
func testPollers(t *testing.T, buffer int) (*pollers, error) {
	t.Helper()
	switch name := t.Name(); {
	case strings.HasPrefix(name, "TestRing/"):
		return newRingPollers(1, buffer)
	case strings.HasPrefix(name, "TestMoved/"):
		ps := threads(t, strings.HasPrefix(name, "TestMoved/uring/"), 3, buffer)
		shuffle(t, ps)
		return ps, nil
	}
	return newPollers(1, buffer)
}

// needsRing skips a test where the kernel is too old for io_uring, or does not let us have it; any other error is the test's.
func needsRing(t *testing.T, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, errOldKernel), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EPERM):
		t.Skip("no io_uring here: ", err)
	default:
		t.Fatal(err)
	}
}

// TestRing has the tests of pollers run on one with a ring.
func TestRing(t *testing.T) {
	t.Parallel()
	_, err := newRingPollers(0, 0)
	needsRing(t, err)
	for name, f := range ofPollers {
		t.Run(name, f)
	}
}

// ofPollers are tests of threads, whichever.
var ofPollers = map[string]func(*testing.T){
	"HalfClosed":                       TestHalfClosed,
	"PollersEnd":                       TestPollersEnd,
	"WhoDoesNotReadIsNotRead":          TestWhoDoesNotReadIsNotRead,
	"SlowServerHoldsItsClient":         TestSlowServerHoldsItsClient,
	"SlowClientLetsGo":                 TestSlowClientLetsGo,
	"LateSettleTimer":                  TestLateSettleTimer,
	"WhoWaitsForRoomHearsOfTheEnd":     TestWhoWaitsForRoomHearsOfTheEnd,
	"TerminateCompletesNothing":        TestTerminateCompletesNothing,
	"DeadBackendIsDroppedAfterTheStep": TestDeadBackendIsDroppedAfterTheStep,
	"BugsEndOneConnection":             TestBugsEndOneConnection,
}

func TestReleasesWithRings(t *testing.T) {
	t.Parallel()
	for release, want := range map[string]bool{
		"6.18.44-fc": true, "6.12.0": true, "7.0-rc1": true, "6.11.9": false, "6.1.0-44-amd64": false, "5.15.0": false, "": false, "x.y": false,
	} {
		if uringRelease(release) != want {
			t.Errorf("%q: want %v", release, want)
		}
	}
}
